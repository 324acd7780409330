# We write qed, others read. Sourced by run.sh.

{ head -c 5000000 /dev/zero; head -c 6000000 /dev/urandom; head -c 2000000 content.raw; } >backwards.raw
truncate -s "$(stat -c %s content.raw)" backwards.raw

while read -r options; do
	name="our qed $options"
	rm -f ./o.qed ./t.qed
	try "$name: convert" "$imgtool" convert -f raw -O qed -o "$options" content.raw o.qed || continue
	qemu-img convert -f raw -O qed -o "$options" content.raw t.qed
	for program in qemu-img qemu-img-11; do
		have $program || continue
		try "$name: $program compare" "$program" compare -q -f qed -F raw o.qed content.raw
		try "$name: $program check" "$program" check -q -f qed o.qed
	done
	same_info "$name" qed o.qed t.qed
	same_map "$name" qed o.qed
	same_check "$name" qed o.qed
	case $options in *M*) ;; *) vbox_reads "$name" o.qed ;; esac	# larger tables than it has memory for
	try "$name: no larger than theirs" test "$(stat -c %s o.qed)" -le "$(stat -c %s t.qed)"
	what="$name, written over by us"
	cp o.qed over.qed
	try "$what" "$imgtool" convert -n -f raw -O qed backwards.raw over.qed
	is_content "$what" qed over.qed backwards.raw
	sound "$what" qed over.qed
	case $options in *M*) ;; *) vbox_reads "$what" over.qed backwards.raw ;; esac
	for file in o.qed t.qed; do	# changed by them, then by us
		scribble qed $file
		reads "$name, ${file%.qed} changed by qemu-io" qed $file
		what="$name, ${file%.qed} written over by us"
		try "$what" "$imgtool" convert -n -f raw -O qed backwards.raw $file
		is_content "$what" qed $file backwards.raw
		sound "$what" qed $file
	done
	what="$name, much given up"
	try "$what" "$imgtool" io -f qed -d unmap -c 'write -q -z -u 1M 5M' -c 'discard -q 8M 3M' -c 'write -q -P 3 4M 64k' o.qed
	reads "$what" qed o.qed
	sound "$what" qed o.qed
done <<END
cluster_size=64k
cluster_size=4k,table_size=2
cluster_size=16k,table_size=16
cluster_size=2M,table_size=2
END

# Sizes, up and down.
for size in 0 512 1M 5G 64T; do
	rm -f ./o.qed ./t.qed
	name="our empty qed of $size"
	try "$name: create" "$imgtool" create -q -f qed -o table_size=16 o.qed $size || continue
	qemu-img create -q -f qed -o table_size=16 t.qed $size
	try "$name: the same bytes" cmp o.qed t.qed
	same_info "$name" qed o.qed
	sound "$name" qed o.qed
done
"$imgtool" io -f qed -c 'write -q -P 5 63T 70000' -c 'write -q -P 6 0 512' o.qed
qemu-io -f qed -c 'read -P 5 63T 70000' -c 'read -P 6 0 512' o.qed >said 2>&1
try "a disk of 64T: qemu-io reads it" sh -c 'grep -q "^read 512/512" said && ! grep -q -i fail said'
sound "a disk of 64T, written to" qed o.qed
rm -f ./o.qed
"$imgtool" convert -f raw -O qed content.raw o.qed
for size in 20M 3G 40G 16M 200G; do
	name="our qed resized to $size"
	try "$name" "$imgtool" resize -q --shrink -f qed o.qed $size || break
	sound "$name" qed o.qed
	try "$name: qemu-img has that size" sh -c 'test "$(qemu-img info -f qed --output=json o.qed | jq ".\"virtual-size\"")" = '"$(numfmt --from=iec $size)"
	qemu-img compare -f qed -F raw o.qed content.raw >said
	try "$name: qemu-img reads the same" grep -q 'identical' said
done

# Chains of ours, whose raw base is not probed.
"$imgtool" create -q -f qed -b content.raw -F raw lower.qed
"$imgtool" io -f qed lower.qed -c 'write -q -P 5 1000 3M' -c 'write -q -z 5M 2M' -c 'write -q -P 6 15M 512' >/dev/null
"$imgtool" create -q -f qed -o cluster_size=4k -b lower.qed -F qed upper.qed 20M
"$imgtool" io -f qed upper.qed -c 'write -q -P 7 60000 1000' -c 'discard -q 6M 1M' -c 'write -q -P 8 8M 3M' >/dev/null
for image in lower upper; do
	name="our chain of qed, $image"
	reads "$name" qed $image.qed
	same_info "$name" qed $image.qed
	same_map "$name" qed $image.qed
	sound "$name" qed $image.qed
done
"$imgtool" convert -f qed -O raw upper.qed chain.raw
try "our chain of qed, rebased" "$imgtool" rebase -q -f qed -b content.raw -B raw upper.qed
is_content "our chain of qed, rebased" qed upper.qed chain.raw
try "our chain of qed, rebased: raw is stored" sh -c \
	'test "$(qemu-img info -f qed --output=json upper.qed | jq -r ".\"backing-filename-format\"")" = raw'
try "our chain of qed, on nothing" "$imgtool" rebase -q -f qed -b '' upper.qed
is_content "our chain of qed, on nothing" qed upper.qed chain.raw
sound "our chain of qed, on nothing" qed upper.qed
rm -f chain.raw backwards.raw

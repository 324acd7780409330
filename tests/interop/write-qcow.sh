# We write qcow, others read. Sourced by run.sh.

{ head -c 5000000 /dev/zero; head -c 6000000 /dev/urandom; head -c 2000000 content.raw; } >backwards.raw
truncate -s "$(stat -c %s content.raw)" backwards.raw

# libqcow NAME FILE: it knows the image.
libqcow() {
	have qcowinfo || return
	try "$1: qcowinfo" sh -c "qcowinfo '$2' >qcow.txt && grep -q 'Format version.*: 1' qcow.txt"
	rm -f qcow.txt
}
have qcowinfo || skip "our qcow in libqcow: no qcowinfo"

for packed in "" -c; do
	name="our qcow $packed"
	rm -f ./o.qcow ./t.qcow
	try "$name: convert" "$imgtool" convert $packed -f raw -O qcow content.raw o.qcow || continue
	qemu-img convert $packed -f raw -O qcow content.raw t.qcow
	for program in qemu-img qemu-img-11; do
		have $program || continue
		try "$name: $program compare" "$program" compare -q -f qcow -F raw o.qcow content.raw
	done
	try "$name: check" "$imgtool" check -q -f qcow o.qcow
	same_info "$name" qcow o.qcow
	libqcow "$name" o.qcow
	mounts "$name" qcowmount o.qcow qcow1
	[ -n "$packed" ] || { same_map "$name" qcow o.qcow && seven "$name" o.qcow && vbox_reads "$name" o.qcow; }
	try "$name: no larger than theirs" test "$(stat -c %s o.qcow)" -le "$(stat -c %s t.qcow)"
	scribble qcow o.qcow
	reads "$name, changed by qemu-io" qcow o.qcow
	what="$name, written over by us"
	try "$what" "$imgtool" convert -n $packed -f raw -O qcow backwards.raw o.qcow
	is_content "$what" qcow o.qcow backwards.raw
	try "$what: check" "$imgtool" check -q -f qcow o.qcow
	what="$name, much given up"
	try "$what" "$imgtool" io -f qcow -d unmap -c 'write -q -z -u 1M 5M' -c 'discard -q 8M 3M' -c 'write -q -P 3 4M 64k' o.qcow
	reads "$what" qcow o.qcow
	try "$what: check" "$imgtool" check -q -f qcow o.qcow
done

# Sizes, up and down: the L1 table moves.
for size in 512 1M 5G 3T; do
	rm -f ./o.qcow ./t.qcow
	name="our empty qcow of $size"
	try "$name: create" "$imgtool" create -q -f qcow o.qcow $size || continue
	qemu-img create -q -f qcow t.qcow $size
	try "$name: the same bytes" cmp o.qcow t.qcow
	same_info "$name" qcow o.qcow
done
for packed in "" -c; do
	"$imgtool" convert $packed -f raw -O qcow content.raw o.qcow
	for size in 20M 3G 40G 16M 200G 32M; do
		name="our qcow $packed resized to $size"
		try "$name" "$imgtool" resize -q --shrink -f qcow o.qcow $size || break
		try "$name: check" "$imgtool" check -q -f qcow o.qcow
		try "$name: qemu-img has that size" sh -c 'test "$(qemu-img info -f qcow --output=json o.qcow | jq ".\"virtual-size\"")" = '"$(numfmt --from=iec $size)"
		qemu-img compare -f qcow -F raw o.qcow content.raw >said
		try "$name: qemu-img reads the same" grep -q 'identical' said
	done
done

# Chains of ours, with names that need more and more room.
"$imgtool" create -q -f qcow -b content.raw -F raw lower.qcow
"$imgtool" io -f qcow lower.qcow -c 'write -q -P 5 1000 3M' -c 'write -q -z 5M 2M' -c 'write -q -P 6 15M 512' >/dev/null
"$imgtool" create -q -f qcow -b lower.qcow -F qcow upper.qcow 20M
"$imgtool" io -f qcow upper.qcow -c 'write -q -P 7 60000 1000' -c 'discard -q 6M 1M' -c 'write -q -P 8 8M 3M' >/dev/null
for image in lower upper; do
	name="our chain of qcow, $image"
	reads "$name" qcow $image.qcow
	same_info "$name" qcow $image.qcow
	same_map "$name" qcow $image.qcow
	try "$name: check" "$imgtool" check -q -f qcow $image.qcow
done
"$imgtool" convert -f qcow -O raw upper.qcow chain.raw
long=$(printf 'n%.0s' $(seq 200)).raw
cp content.raw "$long"
for base in "$long" content.raw ""; do
	name="our chain of qcow, rebased to '$(echo "$base" | head -c 10)'"
	# shellcheck disable=SC2086 # nothing or an option
	try "$name" "$imgtool" rebase -q -f qcow -b "$base" ${base:+-B raw} upper.qcow
	is_content "$name" qcow upper.qcow chain.raw
	try "$name: check" "$imgtool" check -q -f qcow upper.qcow
done

# Encrypted by us.
secret="secret,id=s,data=short"
options=driver=qcow,encrypt.key-secret=s,file.filename=e.qcow
name="our encrypted qcow"
try "$name" "$imgtool" convert --object "$secret" -f raw -O qcow -o encrypt.format=aes,encrypt.key-secret=s content.raw e.qcow
qemu-img convert --object "$secret" --image-opts "$options" -O raw e.raw
try "$name: qemu-img reads the same" cmp e.raw content.raw
try "$name: written to" "$imgtool" io --object "$secret" --image-opts "$options" -c 'write -q -P 9 1000 3M' -c 'write -q -z 5M 700000' \
	-c 'discard -q 6M 1M' -c 'write -q -P 4 7000001 3'
qemu-img convert --object "$secret" --image-opts "$options" -O raw e.raw
"$imgtool" convert --object "$secret" --image-opts "$options" -O raw ours.raw
try "$name, written to: qemu-img reads the same" cmp e.raw ours.raw
try "$name: check without the password" "$imgtool" check -q -f qcow e.qcow
rm -f chain.raw backwards.raw e.raw ours.raw "$long"

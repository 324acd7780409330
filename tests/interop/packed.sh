# We write compressed qcow2, others read; and it takes no more room than what qemu-img writes of the
# same. Sourced by run.sh.

# Three kinds of input, each with a last cluster that is not whole.
cat /usr/include/*.h /usr/include/linux/*.h 2>/dev/null | head -c 1500672 >text.raw
head -c 1500672 /dev/urandom >noise.raw
truncate -s 1500672 text.raw zero.raw

# The bytes of a file with its last cluster whole: ours are, for readers such as 7-Zip.
whole() {	# FILE CLUSTER
	echo $((($(stat -c %s "$1") + $2 - 1) / $2 * $2))
}

# no_larger NAME CLUSTER PERMILLE: o.qcow2 takes at most so much of what t.qcow2 takes.
no_larger() {
	ours=$(whole o.qcow2 "$2") theirs=$(whole t.qcow2 "$2")
	try "$1: no larger than theirs ($ours, theirs $theirs)" test $((ours * 1000)) -le $((theirs * $3))
}

for type in zlib zstd; do
	for cluster in 512 4096 65536 2097152; do
		permille=1000
		[ $type = zlib ] || permille=1010
		[ $cluster != 512 ] || permille=1010	# a few refcount blocks are made ahead
		options=cluster_size=$cluster,compression_type=$type
		for kind in zero noise text; do
			name="our packed qcow2, $type, cluster $cluster, $kind"
			rm -f o.qcow2 t.qcow2
			try "$name: convert" "$imgtool" convert -c -f raw -O qcow2 -o $options $kind.raw o.qcow2 || continue
			qemu-img convert -c -f raw -O qcow2 -o $options $kind.raw t.qcow2
			is_content "$name" qcow2 o.qcow2 $kind.raw
			try "$name: imgtool compare" "$imgtool" compare -q -f qcow2 -F raw o.qcow2 $kind.raw
			sound "$name" qcow2 o.qcow2
			no_larger "$name" $cluster $permille
			[ $type = zstd ] || seven "$name" o.qcow2 $kind.raw
		done
		# They go on in what we packed, and we in what they packed.
		name="our packed qcow2, $type, cluster $cluster, changed by qemu-io"
		qemu-io -f qcow2 -c 'write -q -P 1 0 4k' -c 'write -q -P 2 100000 300000' -c 'discard -q 512k 512k' \
			-c 'write -q -P 3 1500000 672' o.qcow2 >/dev/null
		sound "$name" qcow2 o.qcow2
		reads "$name" qcow2 o.qcow2
		name="their packed qcow2, $type, cluster $cluster, packed again by us"
		try "$name" "$imgtool" convert -n -c -f raw -O qcow2 noise.raw t.qcow2
		is_content "$name" qcow2 t.qcow2 noise.raw
		sound "$name" qcow2 t.qcow2
	done
done

# Levels: each is read, and the harder the smaller.
for levels in zlib:1,6,12 zstd:1,9,22; do
	type=${levels%:*} before=
	for level in $(echo "${levels#*:}" | tr , ' '); do
		name="our packed qcow2, $type, level $level"
		rm -f o.qcow2
		try "$name: convert" "$imgtool" convert -c -f raw -O qcow2 \
			-o cluster_size=4k,compression_type="$type",compression_level="$level" text.raw o.qcow2 || continue
		is_content "$name" qcow2 o.qcow2 text.raw
		sound "$name" qcow2 o.qcow2
		size=$(stat -c %s o.qcow2)
		[ -z "$before" ] || try "$name: smaller ($size, before $before)" test "$size" -lt "$before"
		before=$size
	done
	refuse "our packed qcow2, $type, level $((level + 1))" "$imgtool" convert -c -f raw -O qcow2 \
		-o compression_type="$type",compression_level=$((level + 1)) text.raw o.qcow2
done

# A source that ends inside a cluster of the target, which is longer: the rest stays.
head -c 1000448 noise.raw >short.raw
cat short.raw >over.raw && tail -c +1000449 text.raw >>over.raw
for options in compat=1.1 cluster_size=2M,compression_type=zstd; do
	name="their packed qcow2, $options, its first part packed again by us"
	rm -f t.qcow2
	qemu-img convert -c -f raw -O qcow2 -o $options text.raw t.qcow2
	try "$name" "$imgtool" convert -n -c -f raw -O qcow2 short.raw t.qcow2
	is_content "$name" qcow2 t.qcow2 over.raw
	sound "$name" qcow2 t.qcow2
done

# Over a base: packed is only what lies above it.
for type in zlib zstd; do
	name="our packed qcow2, $type, over a packed one of theirs"
	rm -f base.qcow2 above.qcow2 o.qcow2
	qemu-img convert -c -f raw -O qcow2 -o compression_type=$type text.raw base.qcow2
	qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 above.qcow2
	qemu-io -f qcow2 -c 'write -q -P 1 100000 90000' -c 'write -q -P 2 1500000 672' above.qcow2 >/dev/null
	try "$name: convert" "$imgtool" convert -c -f qcow2 -O qcow2 -B base.qcow2 -F qcow2 \
		-o compression_type=$type above.qcow2 o.qcow2
	qemu-img convert -f qcow2 -O raw above.qcow2 over.raw
	is_content "$name" qcow2 o.qcow2 over.raw
	sound "$name" qcow2 o.qcow2
	try "$name: only what is above" test "$(stat -c %s o.qcow2)" -le $((65536 * 7))
	qemu-io -f qcow2 -c 'write -q -P 3 3000 5000' -c 'write -q -P 4 1100000 5000' \
		-c 'write -q -z 200k 70k' o.qcow2 >/dev/null
	sound "$name, changed by qemu-io" qcow2 o.qcow2
	reads "$name, changed by qemu-io" qcow2 o.qcow2
done
rm -f text.raw noise.raw zero.raw over.raw

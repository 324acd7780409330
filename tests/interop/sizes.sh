# Disks of odd, tiny and huge sizes that we write, read by others. Sourced by run.sh.

# sized_vmdk NAME RAW SUBFORMAT
sized_vmdk() {
	rm -f ./o.vmdk ./o-*.vmdk
	try "$1: convert" "$imgtool" convert -f raw -O vmdk -o subformat="$3" "$2" o.vmdk || return
	try "$1: imgtool compare" "$imgtool" compare -q -f vmdk -F raw o.vmdk "$2"
	[ -s "$2" ] || return	# qemu-img and libvmdk take no empty sparse disks
	is_content "$1" vmdk o.vmdk "$2"
	# Of a stream 7-Zip goes by the header, which counts whole grains.
	cp --sparse=always padded.raw whole.raw
	[ "$3" != streamOptimized ] || truncate -s %65536 whole.raw
	seven "$1" o.vmdk whole.raw
	rm -f whole.raw
	case $3 in *Sparse|stream*) sound "$1" vmdk o.vmdk ;; esac
	# libvmdk goes by the file name in the descriptor, which is a constant in streams.
	case $3 in
	streamOptimized)
		mv o.vmdk generated-stream.vmdk
		mounts "$1" vmdkmount generated-stream.vmdk vmdk1 padded.raw ;;
	*) mounts "$1" vmdkmount o.vmdk vmdk1 padded.raw ;;
	esac
	if [ "$3" = streamOptimized ] && have vmdk-convert; then
		rm -f open.raw
		try "$1: vmdk-convert" timeout 60 vmdk-convert generated-stream.vmdk open.raw
		try "$1: vmdk-convert: the same" "$imgtool" compare -q -f raw -F raw open.raw "$2"
		rm -f open.raw
	fi
}

# sized_qcow2 NAME RAW OPTIONS [-c]
sized_qcow2() {
	rm -f o.qcow2
	# shellcheck disable=SC2086 # nothing or an option
	try "$1: convert" "$imgtool" convert -f raw -O qcow2 $4 -o "$3" "$2" o.qcow2 || return
	try "$1: imgtool compare" "$imgtool" compare -q -f qcow2 -F raw o.qcow2 "$2"
	is_content "$1" qcow2 o.qcow2 "$2"
	sound "$1" qcow2 o.qcow2
	case $3 in extended*) return ;; esac	# 7-Zip does not know it, libqcow neither
	[ ! -s "$2" ] || seven "$1" o.qcow2 padded.raw
	[ ! -s "$2" ] || mounts "$1" qcowmount o.qcow2 qcow1 padded.raw
}

# Sector, grain and cluster, and what one grain table spans; the last are no multiples of a sector.
for size in 0 512 65024 65536 66048 33553920 33554944 1 65535; do
	{ head -c 3000 content.raw; yes odd | head -c 60000; } | head -c $size >odd.raw
	truncate -s $size odd.raw
	[ $size -lt 5000 ] || tail -c 5000 content.raw | dd of=odd.raw bs=1 seek=$((size - 5000)) conv=notrunc status=none
	cp --sparse=always odd.raw padded.raw
	truncate -s $(((size + 511) / 512 * 512)) padded.raw
	for subformat in monolithicSparse monolithicFlat twoGbMaxExtentSparse twoGbMaxExtentFlat streamOptimized; do
		sized_vmdk "our vmdk $subformat of $size bytes" odd.raw $subformat
	done
	sized_qcow2 "our qcow2 of $size bytes" odd.raw compat=1.1
	sized_qcow2 "our qcow2 -c of $size bytes" odd.raw cluster_size=4k -c
	sized_qcow2 "our qcow2 -c, extended L2, of $size bytes" odd.raw extended_l2=on,compression_type=zstd -c
done
rm -f odd.raw padded.raw

# Extents of 2 GiB: data at both sides of where one ends and the next begins.
qemu-img create -q -f qcow2 split.qcow2 5G
qemu-io -f qcow2 -c 'write -q -P 1 0 64k' -c 'write -q -P 2 2147450880 64k' -c 'write -q -P 3 4294967296 512' \
	-c 'write -q -P 4 5368643584 65536' split.qcow2 >/dev/null
for subformat in twoGbMaxExtentSparse twoGbMaxExtentFlat; do
	rm -f ./o.vmdk ./o-*.vmdk
	name="our vmdk $subformat of 5 GiB"
	try "$name: convert" "$imgtool" convert -f qcow2 -O vmdk -o subformat=$subformat split.qcow2 o.vmdk || continue
	try "$name: three extents" test "$(find . -name 'o-*.vmdk' | wc -l)" -eq 3
	try "$name: qemu-img compare" qemu-img compare -q -f qcow2 -F vmdk split.qcow2 o.vmdk
	try "$name: imgtool compare" "$imgtool" compare -q -f qcow2 -F vmdk split.qcow2 o.vmdk
	qemu-io -f vmdk -c 'write -q -P 5 2147479552 8k' -c 'write -q -P 6 4294963200 8k' o.vmdk >/dev/null
	qemu-io -f qcow2 -c 'write -q -P 5 2147479552 8k' -c 'write -q -P 6 4294963200 8k' split.qcow2 >/dev/null
	try "$name: changed by qemu-io" "$imgtool" compare -q -f qcow2 -F vmdk split.qcow2 o.vmdk
done
rm -f split.qcow2

# Data at the start, in the middle and at the end of a huge disk. qemu-img compare would take minutes.
for size in 2 62; do
	bytes=$((size << 40)) middle=$((size << 39)) last=$(((size << 40) - 4096))
	rm -f huge.qcow2
	qemu-img create -q -f qcow2 -o cluster_size=2M huge.qcow2 ${size}T
	qemu-io -f qcow2 -c 'write -q -P 1 512 70000' -c "write -q -P 2 $((middle - 1000)) 2000" \
		-c "write -q -P 3 $last 4096" huge.qcow2 >/dev/null
	while read -r format flags options; do
		name="our $format $flags $options of $size TiB"
		rm -f ./o.*
		# shellcheck disable=SC2086 # nothing or an option
		try "$name: convert" timeout 60 "$imgtool" convert -f qcow2 -O "$format" ${flags#none} \
			${options:+-o $options} huge.qcow2 o.$format || continue
		# The 62 TiB sparse one has 8 GB of grain tables, which takes half a minute to look through.
		case $size$options in
		62*monolithicSparse) ;;
		*) try "$name: imgtool compare" timeout 60 "$imgtool" compare -q -f qcow2 -F "$format" huge.qcow2 o.$format ;;
		esac
		try "$name: its size" test "$(qemu-img info --output=json -f "$format" o.$format | jq '."virtual-size"')" = $bytes
		qemu-io -r -f "$format" -c 'read -P 0 0 512' -c 'read -P 1 512 70000' -c 'read -P 0 70512 1M' \
			-c "read -P 0 $((middle - 66536)) 65536" -c "read -P 2 $((middle - 1000)) 2000" \
			-c "read -P 0 $((last - 8192)) 8192" -c "read -P 3 $last 4096" o.$format >huge.log 2>&1
		try "$name: qemu-io" sh -c 'test $(grep -c "^read " huge.log) = 7 && ! grep -i -e fail -e verif huge.log'
		[ $size != 2 ] || sound "$name" "$format" o.$format
	done <<-END
		qcow2 none cluster_size=2M
		qcow2 -c compat=1.1
		vmdk none subformat=monolithicSparse
		vmdk none subformat=streamOptimized
	END
done
rm -f huge.qcow2 huge.log

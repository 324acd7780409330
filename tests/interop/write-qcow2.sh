# We write qcow2, others read. Sourced by run.sh.

while read -r options; do
	for compress in "" -c; do
		case $compress$options in
		-c*preallocation*|-c*lazy*|-c*refcount*|-c*0.10,*512) continue ;;
		esac
		name="our qcow2 $options $compress"
		rm -f o.qcow2 t.qcow2
		# shellcheck disable=SC2086 # nothing or an option
		try "$name: convert" "$imgtool" convert -f raw -O qcow2 $compress -o "$options" content.raw o.qcow2 || continue
		is_content "$name" qcow2 o.qcow2
		sound "$name" qcow2 o.qcow2
		same_check "$name" qcow2 o.qcow2
		# shellcheck disable=SC2086
		qemu-img convert -f raw -O qcow2 $compress -o "$options" content.raw t.qcow2
		same_info "$name" qcow2 o.qcow2 t.qcow2
		same_map "$name" qcow2 o.qcow2
		# They go on where we stopped, and we read that.
		scribble qcow2 o.qcow2
		sound "$name, changed by qemu-io" qcow2 o.qcow2
		reads "$name, changed by qemu-io" qcow2 o.qcow2
		case $options in
		compat*|cluster_size=64k|cluster_size=4k)
			"$imgtool" convert -f raw -O qcow2 $compress -o "$options" content.raw o.qcow2
			seven "$name" o.qcow2
			! have qcowinfo || try "$name: qcowinfo" qcowinfo o.qcow2 ;;
		esac
	done
done <<END
compat=0.10
compat=0.10,cluster_size=512
compat=1.1
cluster_size=512
cluster_size=4k
cluster_size=16k
cluster_size=256k
cluster_size=2M
compression_type=zstd
compression_type=zstd,cluster_size=2M
extended_l2=on
extended_l2=on,cluster_size=16k
extended_l2=on,cluster_size=2M,compression_type=zstd
refcount_bits=1
refcount_bits=2,cluster_size=512
refcount_bits=4
refcount_bits=8
refcount_bits=32
refcount_bits=64
lazy_refcounts=on
preallocation=metadata
preallocation=falloc
preallocation=full
END

# Empty images of all sizes.
for size in 0 512 1M 100M 64G 16T; do
	for options in compat=1.1 compat=0.10 cluster_size=2M extended_l2=on; do
		rm -f o.qcow2 t.qcow2
		name="our empty qcow2 $options of $size"
		try "$name: create" "$imgtool" create -q -f qcow2 -o "$options" o.qcow2 $size || continue
		qemu-img create -q -f qcow2 -o "$options" t.qcow2 $size
		sound "$name" qcow2 o.qcow2
		same_info "$name" qcow2 o.qcow2 t.qcow2
	done
done

# Overlays that we make and they fill, over bases that they make and we fill.
qemu-img convert -f raw -O vmdk content.raw base.vmdk
qemu-img convert -f raw -O qcow2 content.raw base.qcow2
for base in content.raw base.vmdk base.qcow2 "$work/base.qcow2"; do
	for options in compat=1.1 extended_l2=on compat=0.10; do
		name="our qcow2 $options over $(basename "$base")"
		rm -f o.qcow2 t.qcow2
		try "$name: create" "$imgtool" create -q -f qcow2 -o "$options" -b "$base" -F "${base##*.}" o.qcow2 || continue
		qemu-img create -q -f qcow2 -o "$options" -b "$base" -F "${base##*.}" t.qcow2
		same_info "$name" qcow2 o.qcow2 t.qcow2
		is_content "$name" qcow2 o.qcow2
		scribble qcow2 o.qcow2
		sound "$name, changed by qemu-io" qcow2 o.qcow2
		reads "$name, changed by qemu-io" qcow2 o.qcow2
		rm -f p.qcow2
		try "$name: convert onto the same base" "$imgtool" convert -f qcow2 -O qcow2 -B "$base" -F "${base##*.}" o.qcow2 p.qcow2 &&
			try "$name: the same then" qemu-img compare -q o.qcow2 p.qcow2
	done
done

# Data files, and images that they made and we convert into.
for raw in off on; do
	rm -f o.qcow2 o.bin
	name="our qcow2, data_file_raw=$raw"
	try "$name: create" "$imgtool" create -q -f qcow2 -o "data_file=o.bin,data_file_raw=$raw" o.qcow2 15732224 || continue
	try "$name: convert into it" "$imgtool" convert -n -f raw -O qcow2 content.raw o.qcow2
	is_content "$name" qcow2 o.qcow2
	sound "$name" qcow2 o.qcow2
	scribble qcow2 o.qcow2
	reads "$name, changed by qemu-io" qcow2 o.qcow2
	[ $raw = off ] || try "$name: the data file is the disk" qemu-img compare -q -f raw -F qcow2 o.bin o.qcow2
done
for options in compat=0.10 extended_l2=on cluster_size=512 refcount_bits=1 lazy_refcounts=on preallocation=metadata; do
	rm -f t.qcow2
	qemu-img create -q -f qcow2 -o $options t.qcow2 15732224
	name="their qcow2 $options, filled by us"
	try "$name" "$imgtool" convert -n -f raw -O qcow2 content.raw t.qcow2 || continue
	is_content "$name" qcow2 t.qcow2
	sound "$name" qcow2 t.qcow2
done

# Over a snapshot of theirs: it keeps what it had.
rm -f t.qcow2
qemu-img convert -f raw -O qcow2 content.raw t.qcow2
qemu-img snapshot -c keep t.qcow2
head -c 15732224 /dev/urandom >other.raw
try "their qcow2 with a snapshot, filled by us" "$imgtool" convert -n -f raw -O qcow2 other.raw t.qcow2
is_content "their qcow2 with a snapshot, filled by us" qcow2 t.qcow2 other.raw
sound "their qcow2 with a snapshot, filled by us" qcow2 t.qcow2
qemu-img convert -l keep -f qcow2 -O raw t.qcow2 kept.raw
try "their snapshot after we wrote" cmp kept.raw content.raw
rm -f other.raw kept.raw

# Sizes that change.
for options in compat=1.1 compat=0.10 extended_l2=on cluster_size=512; do
	rm -f o.qcow2
	name="our qcow2 $options, resized"
	"$imgtool" convert -f raw -O qcow2 -o $options content.raw o.qcow2
	try "$name to 3 GiB" "$imgtool" resize -q -f qcow2 o.qcow2 3G
	sound "$name to 3 GiB" qcow2 o.qcow2
	cp --sparse=always content.raw grown.raw && truncate -s 3G grown.raw
	is_content "$name to 3 GiB" qcow2 o.qcow2 grown.raw
	try "$name to 5 MiB" "$imgtool" resize -q -f qcow2 --shrink o.qcow2 5M
	sound "$name to 5 MiB" qcow2 o.qcow2
	truncate -s 5M grown.raw
	is_content "$name to 5 MiB" qcow2 o.qcow2 grown.raw
done
rm -f grown.raw

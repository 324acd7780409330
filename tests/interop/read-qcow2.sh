# qemu-img and qemu-io write qcow2, we read. Sourced by run.sh.

while read -r options; do
	for compress in "" -c; do
		case $compress$options in
		-c*preallocation*|-c*lazy*|-c*refcount*|-c*0.10,*512) continue ;;
		esac
		name="qcow2 $options $compress"
		rm -f a.qcow2
		# shellcheck disable=SC2086 # nothing or an option
		qemu-img convert -f raw -O qcow2 $compress -o "$options" content.raw a.qcow2 ||
			{ fail "$name: qemu-img cannot make it"; continue; }
		try "$name: compare" "$imgtool" compare -f qcow2 -F raw a.qcow2 content.raw
		same_map "$name" qcow2 a.qcow2
		same_info "$name" qcow2 a.qcow2
		same_check "$name" qcow2 a.qcow2
		scribble qcow2 a.qcow2
		reads "$name, changed" qcow2 a.qcow2
		same_map "$name, changed" qcow2 a.qcow2
		same_check "$name, changed" qcow2 a.qcow2
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

# Backing files: by relative and absolute name; shorter and longer than the overlay; raw, qcow2,
# vmdk; over an overlay that has holes and zeroes of its own.
cp --sparse=always content.raw short.raw && truncate -s 6M short.raw
cp --sparse=always content.raw long.raw && truncate -s 40M long.raw
qemu-img convert -f raw -O vmdk content.raw base.vmdk
qemu-img convert -f raw -O qcow2 -c content.raw base.qcow2
for base in short.raw long.raw content.raw base.vmdk base.qcow2 "$work/base.qcow2"; do
	for options in compat=1.1 extended_l2=on compat=0.10 cluster_size=4k; do
		name="qcow2 $options over $(basename "$base")"
		[ "$base" = "${base#/}" ] || name="$name, absolute"
		rm -f top.qcow2
		qemu-img create -q -f qcow2 -o "$options" -b "$base" -F "${base##*.}" top.qcow2 15732224
		reads "$name, empty" qcow2 top.qcow2
		scribble qcow2 top.qcow2
		reads "$name" qcow2 top.qcow2
		same_map "$name" qcow2 top.qcow2
		same_info "$name" qcow2 top.qcow2
	done
done
qemu-img create -q -f qcow2 -b top.qcow2 -F qcow2 top3.qcow2 20M
scribble qcow2 top3.qcow2
reads "qcow2, a chain of three" qcow2 top3.qcow2
same_map "qcow2, a chain of three" qcow2 top3.qcow2

# A backing file elsewhere is opened only when that is wanted.
mkdir -p elsewhere && cp base.qcow2 elsewhere/
qemu-img create -q -f qcow2 -b elsewhere/base.qcow2 -F qcow2 below.qcow2
reads "qcow2 over a file in a folder below" qcow2 below.qcow2
mkdir -p inner && (cd inner && qemu-img create -q -f qcow2 -b ../base.qcow2 -F qcow2 above.qcow2)
refuse "qcow2 over a file in the folder above" "$imgtool" convert -f qcow2 -O raw inner/above.qcow2 ours.raw
try "qcow2 over a file above, allowed" "$imgtool" compare --references any -f qcow2 -F raw inner/above.qcow2 content.raw
try "qcow2 over a file above, as qemu-img" "$build/qemu-img" compare -f qcow2 -F raw inner/above.qcow2 content.raw

# Data files.
for raw in off on; do
	rm -f d.qcow2 d.bin
	qemu-img create -q -f qcow2 -o "data_file=d.bin,data_file_raw=$raw" d.qcow2 15732224
	qemu-img convert -n -f raw -O qcow2 content.raw d.qcow2
	reads "qcow2, data_file_raw=$raw" qcow2 d.qcow2
	scribble qcow2 d.qcow2
	reads "qcow2, data_file_raw=$raw, changed" qcow2 d.qcow2
	same_map "qcow2, data_file_raw=$raw, changed" qcow2 d.qcow2
	same_info "qcow2, data_file_raw=$raw, changed" qcow2 d.qcow2
	same_check "qcow2, data_file_raw=$raw, changed" qcow2 d.qcow2
done

# Snapshots and bitmaps: what they share must not confuse us.
for options in compat=0.10 compat=1.1 extended_l2=on cluster_size=512; do
	rm -f s.qcow2
	qemu-img convert -f raw -O qcow2 -o "$options" content.raw s.qcow2
	qemu-img snapshot -c one s.qcow2
	scribble qcow2 s.qcow2
	qemu-img snapshot -c "two words" s.qcow2
	qemu-io -f qcow2 -c 'write -q -P 9 3M 1M' s.qcow2 >/dev/null
	reads "qcow2 $options with snapshots" qcow2 s.qcow2
	same_map "qcow2 $options with snapshots" qcow2 s.qcow2
	same_check "qcow2 $options with snapshots" qcow2 s.qcow2
	[ "$options" = compat=0.10 ] || {
		qemu-img bitmap --add -g 65536 s.qcow2 b0
		qemu-img bitmap --add --disable s.qcow2 "b one"
		same_check "qcow2 $options with bitmaps" qcow2 s.qcow2
	}
	same_info "qcow2 $options with snapshots" qcow2 s.qcow2
	qemu-img snapshot -d one s.qcow2
	same_check "qcow2 $options, a snapshot deleted" qcow2 s.qcow2
done

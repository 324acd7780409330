# The same requests by qemu-io and by us, by turns on the same image, on images that they made and on
# ours: the disk is what the same requests make of a raw file. Sourced by run.sh.

disk_bytes=4194816	# bytes

# requests SEED COUNT UNIT [-c]: random ones; -c: some compressed, of a unit each, which qemu-io can
# do only where nothing is yet.
requests() {
	awk -v seed="$1" -v count="$2" -v unit="$3" -v packed="${4:+1}" -v disk=$disk_bytes '
	function below(n) { return int(rand() * n) }
	BEGIN {
		srand(seed)
		for (i = 0; i < count; i++) {
			what = below(20)
			length_ = what % 2 ? 1 + below(3000) : 512 * (1 + below(300))
			if (what == 0)
				length_ = 512 * (1 + below(2000))
			off = what % 2 ? below(disk - length_) : 512 * below((disk - length_) / 512)
			if (packed && what >= 14) {
				off = unit * below(int(disk / unit))
				print "write -q -c -P " 1 + below(255) " " off " " unit
			} else if (what >= 18)
				print "write -q -z -u " off " " length_
			else if (what >= 16)
				print "write -q -z " off " " length_
			else if (what == 15)
				print "flush"
			else
				print "write -q -P " 1 + below(255) " " off " " length_
		}
	}'
}

head -c $disk_bytes content.raw >start.raw

# scripted NAME FORMAT UNIT [-c]: o.$2 holds start.raw or is over it.
scripted() {
	cp start.raw model.raw
	for turn in 1 2 3 4; do
		requests $((seed * 10 + turn)) 25 "$3" $4 >requests
		sed 's/-c //' requests >plain
		qemu-io -t unsafe -f raw model.raw <plain >/dev/null 2>&1
		case $turn in
		1) "$imgtool" io -t writeback -f "$2" "o.$2" <requests >script.out 2>&1 ;;
		4) "$imgtool" io -f "$2" "o.$2" <requests >script.out 2>&1 ;;
		*) qemu-io -t writeback -f "$2" "o.$2" <plain >script.out 2>&1 ;;
		esac
		try "$1, seed $seed, turn $turn: done" test $? -eq 0 || head -n 3 script.out
		try "$1, turn $turn: no complaints" sh -c '! grep -i -e error -e fail script.out'
		try "$1, turn $turn: imgtool compare" "$imgtool" compare -q -f "$2" -F raw "o.$2" model.raw
		is_content "$1, turn $turn" "$2" "o.$2" model.raw
	done
	"$imgtool" check -q -f "$2" "o.$2" >/dev/null 2>&1
	[ $? -eq 63 ] || sound "$1" "$2" "o.$2"
}

while read -r format unit packed options; do
	for maker in qemu-img "$imgtool"; do
		rm -f ./o.* ./o-*.vmdk
		name="by turns: $format $options of $(basename "$maker")"
		"$maker" convert -f raw -O "$format" -o "$options" start.raw o."$format"
		scripted "$name" "$format" "$unit" ${packed#no}
	done
done <<END
qcow2 65536 -c compat=1.1
qcow2 4096 -c compat=0.10,cluster_size=4k
qcow2 512 -c cluster_size=512
qcow2 16384 -c cluster_size=16k,extended_l2=on
qcow2 2097152 -c cluster_size=2M,compression_type=zstd
qcow2 4096 no cluster_size=4k,lazy_refcounts=on
vmdk 65536 no subformat=monolithicSparse
vmdk 65536 no zeroed_grain=on
vmdk 65536 no subformat=twoGbMaxExtentSparse
vmdk 65536 no subformat=monolithicFlat
vmdk 65536 no subformat=twoGbMaxExtentFlat
END

# Over a base, which is packed.
for maker in qemu-img "$imgtool"; do
	rm -f ./o.* ./low.*
	qemu-img convert -c -f raw -O qcow2 start.raw low.qcow2
	"$maker" create -q -f qcow2 -o cluster_size=4k -b low.qcow2 -F qcow2 o.qcow2
	scripted "by turns: qcow2 over a packed one, of $(basename "$maker")" qcow2 4096 -c
	"$maker" convert -f raw -O vmdk -o subformat=streamOptimized start.raw low.vmdk
	"$maker" create -q -f vmdk -b low.vmdk -F vmdk o.vmdk
	scripted "by turns: vmdk over a stream, of $(basename "$maker")" vmdk 65536
done
rm -f start.raw model.raw requests plain script.out

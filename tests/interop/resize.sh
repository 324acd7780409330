# The room that a disk leaves when it is made smaller: as little as qemu-img's. Sourced by run.sh.

# shrunk CLUSTER NEW-SIZE TOOL: shrink a copy of image.qcow2; prints the clusters of its length, the
# 8 KiB that it occupies, and the same of a data file (bytes).
shrunk() {
	rm -f t.qcow2 data.raw
	cp --sparse=always image.qcow2 t.qcow2
	[ ! -f kept.raw ] || cp --sparse=always kept.raw data.raw
	"$3" resize -q --shrink -f qcow2 t.qcow2 "$2" >/dev/null || return
	echo $((($(stat -c %s t.qcow2) + $1 - 1) / $1)) $(($(stat -c %b t.qcow2) / 16))
	[ ! -f data.raw ] || echo "$(stat -c %s data.raw) $(($(stat -c %b data.raw) / 16))"
}

# no_more THEIRS OURS: lists of numbers, of which none of ours is larger.
no_more() {
	echo "qemu-img: $1, here: $2"
	for number in $2; do
		[ "$number" -le "${1%% *}" ] || return
		set -- "${1#* }"
	done
}

# shrinks NAME CLUSTER SIZE NEW-SIZE OPTIONS [QEMU-IO-COMMAND...]
shrinks() {
	name="shrink $1" cluster=$2 size=$3 to=$4 options=$5
	shift 5
	rm -f image.qcow2 data.raw kept.raw
	qemu-img create -q -f qcow2 -o "cluster_size=$cluster,$options" image.qcow2 "$size" || {
		skip "$name: qemu-img does not make it"
		return
	}
	for command; do
		case $command in
		snapshot) qemu-img snapshot -c one image.qcow2 ;;
		*) qemu-io -f qcow2 -c "$command" image.qcow2 >/dev/null ;;
		esac
	done
	[ ! -f data.raw ] || cp --sparse=always data.raw kept.raw
	theirs=$(shrunk "$cluster" "$to" qemu-img)
	qemu-img convert -f qcow2 -O raw t.qcow2 theirs.raw
	ours=$(shrunk "$cluster" "$to" "$imgtool")
	# shellcheck disable=SC2086 # one line of each is wanted
	try "$name: no more room than qemu-img leaves" no_more "$(echo $theirs)" "$(echo $ours)"
	try "$name: qemu-img compare" qemu-img compare -q -f qcow2 -F raw t.qcow2 theirs.raw
	sound "$name" qcow2 t.qcow2
}

mib=1048576
for cluster in 512 4096 65536 $mib 2097152; do
	shrinks "$cluster" $cluster $((15 * mib)) $((5 * mib + 512)) compat=1.1 "write -P 1 0 15M"
	shrinks "$cluster, version 2" $cluster $((15 * mib)) $((5 * mib)) compat=0.10 "write -P 1 0 15M"
	shrinks "$cluster, to one sector" $cluster $((9 * mib)) 512 preallocation=falloc "write -P 1 4M 2M"
	shrinks "$cluster, a snapshot" $cluster $((9 * mib)) $mib compat=1.1 "write -P 1 0 3M" snapshot \
		"write -P 2 2M 5M"
	shrinks "$cluster, refcounts of 64 bits" $cluster $((9 * mib)) $((mib + 4096)) refcount_bits=64 \
		"write -P 1 0 9M"
	shrinks "$cluster, refcounts of 1 bit" $cluster $((9 * mib)) $((mib + 4096)) refcount_bits=1 \
		"write -P 1 8M 1M" "write -P 1 0 2M"
	shrinks "$cluster, a data file" $cluster $((9 * mib)) $((2 * mib)) data_file=data.raw "write -P 1 0 9M"
	shrinks "$cluster, a raw data file" $cluster $((9 * mib)) $((2 * mib)) \
		data_file=data.raw,data_file_raw=on "write -P 1 0 9M"
done
shrinks "65536, extended L2" 65536 $((15 * mib)) $((5 * mib + 512)) extended_l2=on "write -P 1 0 15M"
shrinks "65536, compressed" 65536 $mib 131072 compat=1.1 "write -c -P 1 0 64k" "write -c -P 2 64k 64k" \
	"write -c -P 3 512k 64k" "write -c -P 4 640k 64k" "write -P 5 768k 64k"
rm -f image.qcow2 t.qcow2 theirs.raw data.raw kept.raw

# Preallocated, a VHDX has all blocks of its new part, and the file as much room; falloc and full, also in the
# file system.
for how in metadata falloc full; do
	for options in block_size=1M subformat=fixed,block_size=1M; do
		name="grow vhdx $options, preallocation=$how"
		rm -f ./o.vhdx
		qemu-img convert -f raw -O vhdx -o $options content.raw o.vhdx && cp --sparse=always content.raw grown.raw
		truncate -s 40M grown.raw
		try "$name" "$imgtool" resize -q -f vhdx --preallocation=$how o.vhdx 40M
		is_content "$name" vhdx o.vhdx grown.raw
		sound "$name" vhdx o.vhdx
		allocated=$(($(stat -c %b o.vhdx) / 2048))
		[ $how != metadata ] || allocated=24
		try "$name: $allocated MiB" test $allocated -ge 24
		"$imgtool" map -f vhdx --output=json o.vhdx >said
		try "$name: all is present" jq -e 'all(.[]; .present and .depth == 0) and (.[-1] | .start + .length == 41943040)' said
	done
	name="grow a vhdx child, preallocation=$how"
	rm -f ./o.vhdx ./t.vhdx
	qemu-img convert -f raw -O vhdx -o block_size=1M content.raw t.vhdx
	"$imgtool" create -q -f vhdx -b t.vhdx -F vhdx o.vhdx
	try "$name" "$imgtool" resize -q -f vhdx --preallocation=$how o.vhdx 40M
	"$imgtool" convert -f vhdx -O raw o.vhdx ours.raw
	try "$name: the same" cmp ours.raw grown.raw
	try "$name: no larger than that" test "$(stat -c %s o.vhdx)" -le $((36 * mib))
done
rm -f grown.raw ours.raw said
# vmdk_resized NAME MAKER OPTIONS SIZE...: written to and resized to each SIZE in turn: all read the same, as a plain
# file that goes the same way.
vmdk_resized() {
	name="resize vmdk $1" maker=$2 options=$3 size=$4
	shift 4
	rm -f d.vmdk d-*.vmdk d.raw
	"$maker" create -q -f vmdk -o "$options" d.vmdk "$size" && truncate -s "$size" d.raw || {
		fail "$name: cannot be made"
		return
	}
	for new; do
		for at in 0 $((size / 2048 * 512)) $((size - 1024)); do
			command="write -q -P $((at / 512 % 250 + 1)) $at 1k"
			qemu-io -f vmdk -c "$command" d.vmdk && qemu-io -f raw -c "$command" d.raw
		done >/dev/null
		try "$name: $size to $new" "$imgtool" resize -q -f vmdk --shrink d.vmdk "$new" || return
		truncate -s "$new" d.raw && size=$new
		try "$name: at $new: qemu-img compare" qemu-img compare -q -f vmdk -F raw d.vmdk d.raw
		try "$name: at $new: compare" "$imgtool" compare -q -f vmdk -F raw d.vmdk d.raw
		try "$name: at $new: check" "$imgtool" check -q -f vmdk d.vmdk
		! have 7z || [ "$new" -gt $((64 * mib)) ] || seven "$name: at $new" d.vmdk d.raw
	done
}
for maker in "$imgtool" qemu-img; do
	for options in subformat=monolithicSparse zeroed_grain=on subformat=twoGbMaxExtentSparse \
		subformat=monolithicFlat subformat=twoGbMaxExtentFlat; do
		vmdk_resized "$options of $(basename "$maker")" "$maker" $options $((5 * mib)) $((5 * mib + 512)) \
			$((40 * mib)) $((3 * mib + 1024)) $((4 * mib)) $((1700 * mib)) $((33 * mib))
	done
	# A directory that moves, and one that does not.
	vmdk_resized "far, of $(basename "$maker")" "$maker" subformat=monolithicSparse $((5 * mib)) \
		$((9000 * mib)) $((13000 * mib)) $((4096 * mib)) $((2 * mib)) $((20000 * mib))
done
# What is cut off gives its room back, tables and grains alike, also in front of what stays.
vmdk_room() {	# NAME MIB: the file takes at most so much
	try "resize vmdk, $1: $(du -k d.vmdk | cut -f 1) KiB, expected at most $2 MiB" test "$(du -k d.vmdk | cut -f 1)" -le $(($2 * 1024))
	try "resize vmdk, $1: check" "$imgtool" check -q -f vmdk d.vmdk
	try "resize vmdk, $1: what stays" qemu-io -f vmdk -c "read -P 5 0 4M" -c "read -P 6 900M 1M" d.vmdk
	! grep -q 'verification failed' "$work/.out" || fail "resize vmdk, $1: what stays reads otherwise"
}
for far in 30T 2000G; do
	rm -f d.vmdk
	"$imgtool" create -q -f vmdk d.vmdk $far
	"$imgtool" io -f vmdk -c "write -q -P 7 1500M 40M" -c "write -q -P 8 1900G 8M" -c "write -q -P 5 0 4M" -c "write -q -P 6 900M 1M" d.vmdk
	try "resize vmdk, from $far" "$imgtool" resize -q -f vmdk --shrink d.vmdk 1G
	vmdk_room "from $far" 7
	try "resize vmdk, from $far: its room is used again" "$imgtool" io -f vmdk -c "write -q -P 9 100M 40M" d.vmdk
	vmdk_room "from $far, written to" 48
	try "resize vmdk, from $far, and back" "$imgtool" resize -q -f vmdk d.vmdk 2000G
	vmdk_room "from $far, and back" 49
	try "resize vmdk, from $far, and back: zeroes" "$imgtool" io -f vmdk -c "read -P 0 1G 2G" -c "read -P 0 1900G 16M" \
		-c "read -P 9 100M 40M" d.vmdk
done
# A child of a longer parent: what it covers anew is zeroes.
rm -f d.vmdk
qemu-img create -q -f vmdk lower.vmdk 8M && qemu-io -f vmdk -c "write -q -P 7 0 8M" lower.vmdk >/dev/null
"$imgtool" create -q -f vmdk -b lower.vmdk -F vmdk d.vmdk 2M
truncate -s 2M d.raw && qemu-io -f raw -c "write -q -P 7 0 2M" d.raw >/dev/null && truncate -s 9M d.raw
try "resize vmdk over a longer one" "$imgtool" resize -q -f vmdk d.vmdk 9M
try "resize vmdk over a longer one: qemu-img compare" qemu-img compare -q -f vmdk -F raw d.vmdk d.raw
refuse "resize vmdk: a stream" "$imgtool" resize -q -f vmdk "$top/tests/data/vmdk/good-ext4-stream.vmdk" 1G
rm -f d.vmdk d-*.vmdk d.raw lower.vmdk

#!/bin/sh
# Random requests on every kind of writable image, by io_uring and by threads, against a flat copy;
# at the end qemu-img has the last word.
#
#   SECONDS_EACH=0.3	how long each run goes on (a phase is a fourth of it)
#   SEED=N		what it does: see lib.sh
#   IO="uring threads"	by which ways (make race: threads alone, looking for data races)
#   tests/random/run.sh [WORD]	only variants with WORD in their name
scratch=disk	# holes, O_DIRECT and zeroing as a disk's file system has them
. "$(dirname "$0")/../lib.sh"

have qemu-img && have qemu-io || { skip "no qemu-img and qemu-io to make images with"; finish; }
seconds=${SECONDS_EACH:-0.3}
only=$1
cd "$work" || exit 1
program=$build/tests/random/random

# Some data, some holes; 6 MiB and a bit.
size=6294016
{ head -c 2000000 /dev/urandom; head -c 1000000 /dev/zero; yes pattern | head -c 1500000; } >base.raw
truncate -s $size base.raw
truncate -s $size zero.raw
head -c 3000000 base.raw >short.raw && truncate -s 3000320 short.raw

# variant NAME KEYS MAKE...: MAKE makes image.$format from base.raw or empty.
variant() {
	name=$1 keys=$2
	shift 2
	case $name in *"$only"*) ;; *) return ;; esac
	for io in ${IO:-uring threads}; do
		rm -f image* data.bin child.qcow2 outer*
		"$@" >make.log 2>&1 || { fail "$name: cannot be made: $*: $(head -n 1 make.log)"; return; }
		image=$(echo image.*) format=${image##*.}
		# What qemu-img cannot read was made on base.raw, or is empty.
		case $name in
		*child*) cp base.raw model.raw ;;
		*4096*|*ours*) cp zero.raw model.raw ;;
		*) qemu-img convert -f "$format" -O raw "$image" model.raw ;;
		esac
		truncate -s "$("$imgtool" info -f "$format" --output=json "$image" |
			sed -n 's/^    "virtual-size": \([0-9]*\).*/\1/p')" model.raw
		case $keys in
		*child=*)
			qemu-img create -q -f qcow2 -o "${child_options:-compat=1.1}" child.qcow2 "$(stat -c %s model.raw)" ;;
		esac
		# shellcheck disable=SC2086 # words are wanted
		try "$name, $io, seed $seed" timeout 120 "$program" "$image" model.raw format="$format" io=$io \
			seconds="$seconds" seed="$seed" $keys || continue
		[ -z "$VERBOSE" ] || cat .out
		case $name in
		*child*|*4096*|*ours*)
			try "$name, $io: compare" "$imgtool" compare -f "$format" -F raw "$image" model.raw
			continue ;;
		esac
		[ "$format" = raw ] || [ "$format" = vpc ] || [ "$format" = qcow ] ||
			try "$name, $io: qemu-img check" qemu-img check -q -f "$format" "$image"
		try "$name, $io: qemu-img compare" qemu-img compare -f "$format" -F raw "$image" model.raw
		case $name in
		*snapshot*)
			qemu-img convert -f "$format" -l snap -O raw "$image" snap.raw
			try "$name, $io: the snapshot is as it was" cmp snap.raw base.raw ;;
		esac
		cmp -s base.raw base.kept || fail "$name, $io: the base was changed"
	done
}

# inside NAME KEYS FORMAT AS: an image of FORMAT from base.raw in another place than a file of its own, as
# the description AS says; what is around it must stay as it is.
inside() {
	name=$1 keys=$2 format=$3 as=$4
	shift 4
	case $name in *"$only"*) ;; *) return ;; esac
	for io in ${IO:-uring threads}; do
		rm -f image* outer*
		"$@" >make.log 2>&1 || { fail "$name: cannot be made: $*: $(head -n 1 make.log)"; return; }
		cp base.raw model.raw
		# shellcheck disable=SC2086 # words are wanted
		try "$name, $io, seed $seed" timeout 120 "$program" "json:$as" model.raw format= io=$io \
			seconds="$seconds" seed="$seed" $keys || continue
		try "$name, $io: qemu-img compare" qemu-img compare "json:$as" \
			'json:{"driver":"raw","file":{"driver":"file","filename":"model.raw"}}'
		[ "$format" = raw ] || [ "$format" = vpc ] || try "$name, $io: qemu-img check" qemu-img check -q "json:$as"
		[ ! -e outer.kept ] || try "$name, $io: what is around it" outside
	done
}
# encrypted NAME KEYS FORMAT MAKE...: MAKE makes image.FORMAT, encrypted with the passphrase pw, and model.raw, what is in it.
encrypted() {
	name=$1 keys=$2 format=$3
	shift 3
	case $name in *"$only"*) ;; *) return ;; esac
	for io in ${IO:-uring threads}; do
		rm -f image* data.bin
		"$@" >make.log 2>&1 || { fail "$name: cannot be made: $*: $(head -n 1 make.log)"; return; }
		# shellcheck disable=SC2086 # words are wanted
		try "$name, $io, seed $seed" timeout 120 "$program" "image.$format" model.raw format="$format" io=$io \
			secret=pw seconds="$seconds" seed="$seed" $keys || continue
		[ -z "$VERBOSE" ] || cat .out
		key=encrypt.key-secret
		[ "$format" != luks ] || key=key-secret
		judge="qemu-img compare"
		case $name in *"version 2"*) judge="$imgtool compare" ;; esac # which QEMU has not
		# shellcheck disable=SC2086
		try "$name, $io: compared" $judge --object secret,id=s,data=pw --image-opts \
			"driver=$format,file.filename=image.$format,$key=s" driver=raw,file.filename=model.raw
		[ "$format" != qcow2 ] ||
			try "$name, $io: imgtool check, without a passphrase" "$imgtool" check -q -f qcow2 image.qcow2
		cmp -s base.raw base.kept || fail "$name, $io: the base was changed"
	done
}
cp base.raw base.kept

empty() { qemu-img create -q -f qcow2 -o "$1" image.qcow2 $size; }
filled() { qemu-img convert -f raw -O qcow2 -o "$1" base.raw image.qcow2; }
compressed() { qemu-img convert -c -f raw -O qcow2 -o "$1" base.raw image.qcow2; }
over() { qemu-img create -q -f qcow2 -o "$1" -b "$2" -F "$3" image.qcow2 $size; }
over_chain() {
	qemu-img convert -f raw -O qcow2 -c base.raw lowest.qcow2 &&
		qemu-img create -q -f qcow2 -b lowest.qcow2 -F qcow2 middle.qcow2 &&
		qemu-io -f qcow2 -c 'write -q -P 5 1M 300k' -c 'write -q -z 3M 500k' middle.qcow2 &&
		over "$1" middle.qcow2 qcow2
}
snapshots() {
	filled "$1" && qemu-img snapshot -c snap image.qcow2 &&
		qemu-io -f qcow2 -c 'write -q -P 7 500k 1M' image.qcow2 && qemu-img snapshot -c two image.qcow2
}
data_file() { qemu-img create -q -f qcow2 -o "data_file=data.bin,$1" image.qcow2 $size; }
plain() { cp base.raw image.raw; }
vmdk_empty() { "$imgtool" create -q -f vmdk -o "$1" image.vmdk $size; }
vmdk_bare() {	# its grain table, and the copy, are missing in the directories (sectors 21 and 36)
	vmdk_empty "$1" && for sector in 21 36; do
		dd if=/dev/zero of=image.vmdk bs=1 count=4 seek=$((sector * 512)) conv=notrunc status=none
	done
}
vmdk_theirs() { qemu-img convert -f raw -O vmdk -o "$1" base.raw image.vmdk; }
vmdk_over() {
	qemu-img convert -f raw -O vmdk base.raw lower.vmdk &&
		"$imgtool" create -q -f vmdk -o "$1" -b lower.vmdk -F vmdk image.vmdk $size
}

vhdx_empty() { "$imgtool" create -q -f vhdx -o "$1" image.vhdx $size; }
vhdx_theirs() { qemu-img convert -f raw -O vhdx -o "$1" base.raw image.vhdx; }
vhdx_over() {	# OPTIONS, OPTIONS of the parent
	rm -f lower.vhdx && "$imgtool" convert -f raw -O vhdx -o "$2" base.raw lower.vhdx &&
		"$imgtool" create -q -f vhdx -o "$1" -b lower.vhdx -F vhdx image.vhdx
}
vdi_empty() { "$imgtool" create -q -f vdi -o "$1" image.vdi $size; }
vdi_theirs() { qemu-img convert -f raw -O vdi -o "$1" base.raw image.vdi; }
vdi_over() {	# OPTIONS, OPTIONS of the parent
	rm -f lower.vdi && "$imgtool" convert -f raw -O vdi -o "$2" base.raw lower.vdi &&
		"$imgtool" create -q -f vdi -o "$1" -b lower.vdi -F vdi image.vdi
}
qed_empty() { "$imgtool" create -q -f qed -o "$1" image.qed $size; }
qed_theirs() { qemu-img convert -f raw -O qed -o "$1" base.raw image.qed; }
qed_over() { qemu-img create -q -f qed -o "$1" -b "$2" -F "$3" image.qed $size; }
qed_over_chain() {
	rm -f lower.qed middle.qcow2 && qemu-img convert -f raw -O qed -o cluster_size=4k base.raw lower.qed &&
		qemu-img create -q -f qcow2 -b lower.qed -F qed middle.qcow2 &&
		qemu-io -f qcow2 -c 'write -q -P 5 1M 300k' -c 'write -q -z 3M 500k' middle.qcow2 &&
		qed_over "$1" middle.qcow2 qcow2
}
qcow_empty() { "$imgtool" create -q -f qcow image.qcow $size; }
qcow_packed() { "$imgtool" convert -c -f raw -O qcow base.raw image.qcow; }
qcow_theirs() { qemu-img convert -f raw -O qcow base.raw image.qcow; }
qcow_over() { qemu-img create -q -f qcow -b "$1" -F "$2" image.qcow $size; }
qcow_over_chain() {
	rm -f lower.qcow middle.qed && "$imgtool" convert -c -f raw -O qcow base.raw lower.qcow &&
		qemu-img create -q -f qed -o cluster_size=4k -b lower.qcow -F qcow middle.qed &&
		qemu-io -f qed -c 'write -q -P 5 1M 300k' -c 'write -q -z 3M 500k' middle.qed &&
		qcow_over middle.qed qed
}
vdi_over_chain() {
	rm -f lower.vdi middle.vdi && qemu-img convert -f raw -O vdi base.raw lower.vdi &&
		"$imgtool" create -q -f vdi -b lower.vdi -F vdi middle.vdi &&
		"$imgtool" create -q -f vdi -o "$1" -b middle.vdi -F vdi image.vdi
}
# VirtualBox's places: the map and the data at whole MiB; with extra bytes in front of each block.
vdi_extra() {
	"$imgtool" create -q -f vdi -o "$1" image.vdi $size &&
		printf '\001\002\000\000' | dd of=image.vdi bs=1 seek=380 conv=notrunc status=none
}
vdi_version0() { vdi_of_version0 "$1" image.vdi $size; }
vhdx_4096() { "$imgtool" create -q -f vhdx -o "logical_sector_size=4096,$1" image.vhdx 6295552; }
vhdx_4096_over() {
	rm -f lower.vhdx && "$imgtool" create -q -f vhdx -o logical_sector_size=4096 lower.vhdx 6295552 &&
		"$imgtool" convert -n -f raw -O vhdx base.raw lower.vhdx &&
		"$imgtool" create -q -f vhdx -o "$1" -b lower.vhdx -F vhdx image.vhdx
}
parallels_theirs() { qemu-img convert -f raw -O parallels -o "$1" base.raw image.parallels; }
parallels_ours() { "$imgtool" create -q -f parallels -o "$1" image.parallels $size; }
parallels_old() {
	virtualbox_parallels image.parallels $size
	[ -z "$1" ] || "$imgtool" convert -n -f raw -O parallels base.raw image.parallels
}
parallels_folder() {	# a snapshot with the base's content, one without any, and the top one
	guids="aaaaaaaa-0000-0000-0000-000000000001 aaaaaaaa-0000-0000-0000-000000000002 5fbaabe3-6958-40ff-92a7-860e329aab41"
	rm -f ./image-?-*.hds
	for guid in $guids; do
		"$imgtool" create -q -f parallels -o "$1" image-0-$guid.hds 512k &&
			"$imgtool" create -q -f parallels -o "$1" image-1-$guid.hds $((size - 524288)) || return
	done
	parallels_descriptor "${guids%% *}" >image.parallels &&
		"$imgtool" convert -n -f raw -O parallels base.raw image.parallels &&
		parallels_descriptor $guids >image.parallels
}
parallels_split() {	# the present state alone
	rm -f ./image-?-*.hds
	guid=5fbaabe3-6958-40ff-92a7-860e329aab41
	parallels_descriptor $guid >image.parallels &&
		"$imgtool" create -q -f parallels -o "$1" image-0-$guid.hds 512k &&
		"$imgtool" create -q -f parallels -o "$1" image-1-$guid.hds $((size - 524288)) &&
		"$imgtool" convert -n -f raw -O parallels base.raw image.parallels
}
vhdx_over_chain() {
	rm -f lower.vhdx middle.vhdx && qemu-img convert -f raw -O vhdx base.raw lower.vhdx &&
		"$imgtool" create -q -f vhdx -b lower.vhdx -F vhdx middle.vhdx &&
		"$imgtool" create -q -f vhdx -o "$1" -b middle.vhdx -F vhdx image.vhdx
}

vpc_empty() { "$imgtool" create -q -f vpc -o "force_size=on,$1" image.vpc $size; }
vpc_theirs() { qemu-img convert -f raw -O vpc -o "force_size=on,$1" base.raw image.vpc; }
vpc_over() {	# OPTIONS, OPTIONS of the parent
	rm -f lower.vpc && "$imgtool" convert -f raw -O vpc -o "force_size=on,$2" base.raw lower.vpc &&
		"$imgtool" create -q -f vpc -o "$1" -b lower.vpc -F vpc image.vpc
}
vpc_over_chain() {
	rm -f lower.vpc middle.vpc && qemu-img convert -f raw -O vpc -o force_size=on base.raw lower.vpc &&
		"$imgtool" create -q -f vpc -b lower.vpc -F vpc middle.vpc &&
		"$imgtool" create -q -f vpc -o "$1" -b middle.vpc -F vpc image.vpc
}

# Extents of 2 MiB and a bit each, the last one shorter: the parts of a disk, made one by one.
vmdk_part() {	# NUMBER BYTES SUBFORMAT: prints its line
	qemu-img convert -f raw -O vmdk -o "subformat=$3" part.raw "part$1.vmdk" || return
	case $3 in
	*Flat) mv "part$1-f001.vmdk" "image-$1.bin" && echo "RW $(($2 / 512)) FLAT \"image-$1.bin\" 0" ;;
	*) mv "part$1-s001.vmdk" "image-$1.bin" && echo "RW $(($2 / 512)) SPARSE \"image-$1.bin\"" ;;
	esac
}
vmdk_parts() {	# SUBFORMAT...: of each extent
	number=0 at=0 step=2162688
	{
		printf '# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="twoGbMaxExtentSparse"\n'
		for subformat; do
			[ $((size - at)) -ge $step ] || step=$((size - at))
			dd if=base.raw of=part.raw bs=512 skip=$((at / 512)) count=$((step / 512)) status=none
			vmdk_part $number $step "$subformat" || return
			number=$((number + 1)) at=$((at + step))
		done
		printf 'ddb.adapterType = "ide"\n'
	} >image.vmdk
}
vmdk_several() { vmdk_parts twoGbMaxExtentSparse twoGbMaxExtentSparse twoGbMaxExtentSparse; }
vmdk_mixed() { vmdk_parts twoGbMaxExtentFlat twoGbMaxExtentSparse twoGbMaxExtentFlat; }
vmdk_over_stream() {
	"$imgtool" convert -f raw -O vmdk -o subformat=streamOptimized base.raw lower.vmdk &&
		"$imgtool" create -q -f vmdk -o "$1" -b lower.vmdk -F vmdk image.vmdk
}
vmdk_over_several() {
	vmdk_several && mv image.vmdk lower.vmdk && for i in 0 1 2; do mv image-$i.bin lower-$i.bin; done &&
		sed -i s/image-/lower-/ lower.vmdk && "$imgtool" create -q -f vmdk -o "$1" -b lower.vmdk -F vmdk image.vmdk
}
over_packed() {
	qemu-img convert -f raw -O qcow2 -c base.raw lowest.qcow2 && over "$1" lowest.qcow2 qcow2
}
packed_snapshots() {
	compressed "$1" && qemu-img snapshot -c snap image.qcow2 &&
		qemu-io -f qcow2 -c 'write -q -P 7 500k 1M' image.qcow2
}

variant "raw" "" plain
variant "qcow2 v2" "" empty compat=0.10
variant "qcow2 v3" "" empty compat=1.1
variant "qcow2 v3 filled" "" filled compat=1.1
variant "qcow2 512" "" empty cluster_size=512
variant "qcow2 512 filled, refcount 1" "" filled cluster_size=512,refcount_bits=1
variant "qcow2 4k, refcount 8" "" empty cluster_size=4k,refcount_bits=8
variant "qcow2 2M" "" empty cluster_size=2M
variant "qcow2 refcount 1" "" empty refcount_bits=1
variant "qcow2 refcount 64" "" filled refcount_bits=64
variant "qcow2 lazy refcounts" "" empty lazy_refcounts=on
variant "qcow2 metadata preallocated" "" empty preallocation=metadata
variant "qcow2 extended L2" "" empty extended_l2=on
variant "qcow2 extended L2 filled, 16k" "" filled extended_l2=on,cluster_size=16k
variant "qcow2 extended L2, 2M" "" empty extended_l2=on,cluster_size=2M
variant "qcow2 over raw" "" over compat=1.1 base.raw raw
variant "qcow2 v2 over raw" "" over compat=0.10 base.raw raw
variant "qcow2 over a shorter raw" "" over compat=1.1 short.raw raw
variant "qcow2 512 over raw" "" over cluster_size=512 base.raw raw
variant "qcow2 extended L2 over raw" "" over extended_l2=on base.raw raw
variant "qcow2 over a chain" "" over_chain compat=1.1
variant "qcow2 extended L2 over a chain" "" over_chain extended_l2=on
variant "qcow2 with snapshots" "" snapshots compat=1.1
variant "qcow2 v2 with snapshots, 4k" "" snapshots compat=0.10,cluster_size=4k
variant "qcow2 extended L2 with snapshots" "" snapshots extended_l2=on
variant "qcow2 data file" "" data_file data_file_raw=off
variant "qcow2 raw data file" "" data_file data_file_raw=on
variant "qcow2 zlib" "compress=1" compressed compat=1.1
variant "qcow2 zlib 512, v2" "compress=1" compressed cluster_size=512,compat=0.10
variant "qcow2 zstd, 2M" "compress=1" compressed compression_type=zstd,cluster_size=2M
variant "qcow2 zlib extended L2" "compress=1" compressed extended_l2=on
variant "qcow2 overlapping requests" "overlap=1" filled compat=1.1
variant "qcow2 4k overlapping requests, over raw" "overlap=1" over cluster_size=4k base.raw raw
variant "qcow2 extended L2 overlapping requests" "overlap=1" filled extended_l2=on
variant "vmdk" "" vmdk_empty subformat=monolithicSparse
variant "vmdk filled by qemu-img" "" vmdk_theirs subformat=monolithicSparse
variant "vmdk zeroed grains" "" vmdk_empty zeroed_grain=on
variant "vmdk flat" "" vmdk_empty subformat=monolithicFlat
variant "vmdk split" "" vmdk_empty subformat=twoGbMaxExtentSparse
variant "vmdk split flat" "" vmdk_theirs subformat=twoGbMaxExtentFlat
variant "vmdk over vmdk" "" vmdk_over subformat=monolithicSparse
variant "vmdk zeroed grains over vmdk" "" vmdk_over zeroed_grain=on
variant "vmdk overlapping requests" "overlap=1" vmdk_theirs subformat=monolithicSparse
variant "vmdk, resized meanwhile" "resize=1" vmdk_empty subformat=monolithicSparse
variant "vmdk flat, resized meanwhile" "resize=1" vmdk_empty subformat=monolithicFlat
variant "vmdk zeroed grains over vmdk, resized meanwhile" "resize=1" vmdk_over zeroed_grain=on
variant "vmdk, unmapping" "flags=512" vmdk_theirs subformat=monolithicSparse
variant "vmdk, O_DIRECT if possible" "flags=128" vmdk_theirs subformat=monolithicSparse
variant "raw overlapping requests" "overlap=1" plain
variant "qcow2, written through, one queue" "threads=1 flags=1024" empty compat=1.1
variant "qcow2, unmapping" "flags=512" filled cluster_size=4k
variant "qcow2, O_DIRECT if possible" "flags=128" filled compat=1.1
variant "qcow2 4k, packed over a packed base" "compress=1" over_packed cluster_size=4k
variant "qcow2 packed over a chain" "compress=1" over_chain compat=1.1
variant "qcow2 packed extended L2 over a chain, 16k" "compress=1" over_chain extended_l2=on,cluster_size=16k
variant "qcow2 4k packed with snapshots" "compress=1" packed_snapshots cluster_size=4k
variant "qcow2 4k packed with snapshots, refcount 8" "compress=1" packed_snapshots cluster_size=4k,refcount_bits=8
variant "qcow2 512 packed, refcount 1, unmapping" "compress=1 flags=512" compressed cluster_size=512,refcount_bits=1
variant "qcow2 512 packed, unmapping" "compress=1 flags=512 threads=4" compressed cluster_size=512
variant "qcow2 packed, lazy refcounts" "compress=1" compressed lazy_refcounts=on
variant "qcow2 4k packed, overlapping requests" "compress=1 overlap=1" compressed cluster_size=4k
variant "qcow2 zstd packed, O_DIRECT if possible" "compress=1 flags=128" compressed compression_type=zstd
variant "qcow2, checked and resized meanwhile" "resize=1 check=1" filled compat=1.1
variant "qcow2 512, checked and resized meanwhile" "resize=1 check=1" filled cluster_size=512
variant "qcow2 over a chain, resized meanwhile" "resize=1" over_chain compat=1.1
variant "qcow2 4k packed, checked meanwhile, unmapping" "compress=1 check=1 flags=512" compressed cluster_size=4k
variant "raw, resized meanwhile" "resize=1" plain
variant "qcow2 over raw, its chain changed meanwhile" "chain=1" over compat=1.1 base.raw raw
variant "qcow2 over a chain, which is changed meanwhile" "chain=1 check=1" over_chain compat=1.1
variant "qcow2 4k packed over a packed base, which is changed meanwhile" "compress=1 chain=1" over_packed cluster_size=4k
variant "qcow2 over a shorter raw, changed and resized meanwhile" "resize=1 chain=1" over compat=1.1 short.raw raw
variant "qcow2 over a chain, changed meanwhile, O_DIRECT if possible" "chain=1 flags=128" over_chain cluster_size=4k
variant "vmdk over vmdk, its chain changed meanwhile" "chain=1" vmdk_over subformat=monolithicSparse
variant "vmdk over a stream, its chain changed meanwhile" "chain=1" vmdk_over_stream subformat=monolithicSparse
variant "vmdk without grain tables" "" vmdk_bare subformat=monolithicSparse
variant "vmdk, checked meanwhile" "check=1" vmdk_theirs subformat=monolithicSparse
variant "raw, unmapping" "flags=512" plain
variant "qcow2 raw data file, unmapping" "flags=512" data_file data_file_raw=on
variant "vmdk split flat, unmapping" "flags=512" vmdk_theirs subformat=twoGbMaxExtentFlat
variant "vmdk several extents" "" vmdk_several
variant "vmdk several flat and sparse extents" "overlap=1" vmdk_mixed
variant "vmdk over a stream" "" vmdk_over_stream subformat=monolithicSparse
variant "vmdk over several extents, overlapping requests" "overlap=1" vmdk_over_several zeroed_grain=on
variant "vhdx" "" vhdx_empty block_size=1M
variant "vhdx, not present" "overlap=1" vhdx_empty block_size=2M,block_state_zero=off
variant "vhdx filled by qemu-img" "" vhdx_theirs block_size=1M
variant "vhdx fixed" "" vhdx_theirs subformat=fixed,block_size=1M
variant "vhdx 8M, unmapping" "flags=512" vhdx_theirs block_size=8M
variant "vhdx, unmapping, O_DIRECT if possible" "flags=640" vhdx_theirs block_size=1M
variant "vhdx, written through" "threads=1 flags=1024" vhdx_theirs block_size=1M
variant "vhdx, checked and resized meanwhile" "resize=1 check=1" vhdx_theirs block_size=1M
variant "vhdx of sectors of 4096" "" vhdx_4096 block_size=1M
variant "vhdx child of sectors of 4096" "overlap=1" vhdx_4096_over block_size=1M
variant "vhdx child, checked and resized meanwhile" "resize=1 check=1" vhdx_over block_size=1M block_size=1M
variant "vhdx child" "" vhdx_over block_size=1M block_size=1M
variant "vhdx child, overlapping requests" "overlap=1" vhdx_over block_size=2M block_size=1M
variant "vhdx child, unmapping" "flags=512" vhdx_over block_size=1M subformat=fixed
variant "vhdx child of a child" "" vhdx_over_chain block_size=1M
variant "vpc" "" vpc_empty subformat=dynamic
variant "vpc, blocks of 64k" "overlap=1" vpc_empty block_size=64k
variant "vpc filled by qemu-img" "" vpc_theirs subformat=dynamic
variant "vpc fixed" "" vpc_theirs subformat=fixed
variant "vpc, blocks of 64k, unmapping" "flags=512" vpc_empty block_size=64k
variant "vpc by qemu-img, unmapping, O_DIRECT if possible" "flags=640" vpc_theirs subformat=dynamic
variant "vpc child" "" vpc_over block_size=2M subformat=dynamic
variant "vpc child, blocks of 64k, overlapping requests" "overlap=1" vpc_over block_size=64k subformat=fixed
variant "vpc child of a child" "" vpc_over_chain block_size=64k
variant "vpc child of a child, its chain changed meanwhile" "chain=1" vpc_over_chain block_size=64k
variant "vpc, checked and resized meanwhile" "resize=1 check=1" vpc_empty block_size=4k
variant "vpc by qemu-img, resized meanwhile, unmapping" "resize=1 flags=512" vpc_theirs subformat=dynamic
variant "vpc fixed, resized meanwhile" "resize=1" vpc_theirs subformat=fixed
variant "vpc child, checked and resized meanwhile" "resize=1 check=1" vpc_over block_size=64k block_size=64k
variant "vpc child, blocks of 64k, unmapping" "flags=512" vpc_over block_size=64k block_size=4k

# Encrypted: sectors are rewritten as a whole, whoever changes what of them.
empty_encrypted() {	# OPTIONS: by qemu-img, which cannot measure its time on a busy machine now and then
	cp zero.raw model.raw
	for _ in 1 2 3 4 5 6 7 8; do
		! qemu-img create -q -f qcow2 --object secret,id=s,data=pw -o "encrypt.key-secret=s,$1" image.qcow2 $size || return 0
	done
	return 1
}
filled_encrypted() {
	cp base.raw model.raw
	"$imgtool" convert --object secret,id=s,data=pw -f raw -O qcow2 -o "encrypt.key-secret=s,$1" base.raw image.qcow2
}
encrypted_over() {
	cp base.raw model.raw
	"$imgtool" create -q --object secret,id=s,data=pw -f qcow2 -b base.raw -F raw -o "encrypt.key-secret=s,$1" image.qcow2 $size
}
luks=encrypt.format=luks,encrypt.iter-time=10
encrypted "qcow2, encrypted by AES" "" qcow2 empty_encrypted encrypt.format=aes
encrypted "qcow2 v2 512, encrypted by AES, unmapping" "flags=512" qcow2 filled_encrypted encrypt.format=aes,cluster_size=512,compat=0.10
encrypted "qcow2 over raw, encrypted by AES, overlapping requests" "overlap=1" qcow2 encrypted_over encrypt.format=aes
encrypted "qcow2, encrypted by LUKS" "" qcow2 empty_encrypted $luks
encrypted "qcow2 4k, encrypted by LUKS, four queues" "threads=4" qcow2 filled_encrypted $luks,cluster_size=4k
encrypted "qcow2 2M, encrypted by LUKS, unmapping" "flags=512 threads=4" qcow2 filled_encrypted $luks,cluster_size=2M
encrypted "qcow2 extended L2 over raw, encrypted by LUKS" "overlap=1" qcow2 encrypted_over $luks,extended_l2=on,cluster_size=16k
encrypted "qcow2 data file, encrypted by LUKS, unmapping" "flags=512 references=any" qcow2 filled_encrypted $luks,data_file=data.bin
encrypted "qcow2 v2, CBC and ESSIV, O_DIRECT if possible" "flags=640" qcow2 filled_encrypted \
	$luks,compat=0.10,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256
encrypted "qcow2 preallocated, encrypted by LUKS, resized meanwhile" "resize=1 check=1" qcow2 filled_encrypted \
	$luks,preallocation=metadata
luks_disk() {
	cp base.raw model.raw
	"$imgtool" convert --object secret,id=s,data=pw -f raw -O luks -o "key-secret=s,iter-time=10${1:+,$1}" base.raw image.luks
}
luks2_disk() {	# SECTOR
	cp base.raw model.raw
	truncate -s $((16777216 + (size + 4095) / 4096 * 4096)) image.luks model.raw
	truncate -s $(((size + 4095) / 4096 * 4096)) model.raw
	printf pw | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --sector-size "$1" --key-file - image.luks &&
		"$imgtool" convert -n --object secret,id=s,data=pw --image-opts --target-image-opts driver=raw,file.filename=model.raw \
			driver=luks,key-secret=s,file.filename=image.luks
}
encrypted "luks" "" luks luks_disk
encrypted "luks, four queues, overlapping requests" "threads=4 overlap=1" luks luks_disk cipher-mode=cbc,ivgen-alg=essiv
encrypted "luks, Serpent, O_DIRECT if possible" "flags=640" luks luks_disk cipher-alg=serpent-256
encrypted "luks, resized meanwhile" "resize=1 check=1" luks luks_disk
if have cryptsetup; then
	encrypted "luks version 2, sectors of 512, overlapping requests" "overlap=1" luks luks2_disk 512
	encrypted "luks version 2, sectors of 4096, four queues, overlapping requests" "threads=4 overlap=1" luks luks2_disk 4096
fi
encrypted "qcow2 4k, encrypted by AES, resized meanwhile" "resize=1 check=1" qcow2 filled_encrypted encrypt.format=aes,cluster_size=4k

# Several queues read from above while its parent is written to, grows, and is given another size.
variant "qcow2 read from above" "child=child.qcow2" filled compat=1.1
variant "qcow2 512 read from above, unmapping" "child=child.qcow2 flags=512 threads=4" filled cluster_size=512
variant "qcow2 read from above, resized meanwhile" "child=child.qcow2 resize=1 check=1" filled cluster_size=4k
variant "qcow2 packed, read from above" "child=child.qcow2 compress=1" compressed cluster_size=4k
variant "qcow2 over a chain, read from above" "child=child.qcow2 threads=4" over_chain extended_l2=on,cluster_size=16k
variant "vmdk without grain tables, read from above" "child=child.qcow2" vmdk_bare subformat=monolithicSparse
variant "vmdk several extents, read from above" "child=child.qcow2" vmdk_several
variant "raw, read from above, resized meanwhile" "child=child.qcow2 resize=1" plain
child_options=extended_l2=on,cluster_size=2M
variant "qcow2 4k read from above of 2M, unmapping" "child=child.qcow2 flags=512" filled cluster_size=4k
child_options=

# The same of the other formats: what a child has looked up is of a parent that changes.
variant "vhdx read from above, resized meanwhile, unmapping" "child=child.qcow2 resize=1 flags=512 threads=4" \
	vhdx_theirs block_size=1M
variant "vhdx child read from above" "child=child.qcow2 threads=4" vhdx_over block_size=1M block_size=2M
variant "vpc read from above, resized meanwhile, unmapping" "child=child.qcow2 resize=1 flags=512 threads=4" \
	vpc_theirs subformat=dynamic
variant "vpc child read from above" "child=child.qcow2 threads=4" vpc_over block_size=64k block_size=4k
variant "vdi read from above, resized meanwhile, unmapping" "child=child.qcow2 resize=1 flags=512 threads=4" \
	vdi_theirs static=off
variant "vdi child read from above" "child=child.qcow2 threads=4" vdi_over block_size=64k block_size=4k
variant "parallels read from above, resized meanwhile, unmapping" "child=child.qcow2 resize=1 flags=512 threads=4" \
	parallels_theirs cluster_size=64k

# Their chains change under requests that make them grow.
variant "vhdx child of a child, its chain changed meanwhile" "chain=1 check=1 threads=4" vhdx_over_chain block_size=1M
variant "vdi child of a child, its chain changed meanwhile" "chain=1 check=1 flags=512" vdi_over_chain block_size=4k
over_format() {	# OPTIONS FORMAT FORMAT_OPTIONS
	qemu-img convert -f raw -O "$2" -o "$3" base.raw "lower.$2" && over "$1" "lower.$2" "$2"
}
variant "qcow2 over vhdx, changed and resized meanwhile" "chain=1 resize=1" over_format compat=1.1 vhdx block_size=1M
variant "qcow2 over vpc, changed and resized meanwhile" "chain=1 resize=1" over_format cluster_size=4k vpc force_size=on
variant "qcow2 over vdi, changed and resized meanwhile" "chain=1 resize=1" over_format compat=1.1 vdi static=off
variant "qcow2 over parallels, changed and resized meanwhile" "chain=1 resize=1" \
	over_format extended_l2=on parallels cluster_size=32256

# Another handle reads, force-shared, what nobody writes to; and snapshots, which nobody can write to.
variant "raw, read beside" "beside=image.raw" plain
variant "qcow2 512, read beside" "beside=image.qcow2" filled cluster_size=512
variant "qcow2 4k packed, read beside, unmapping" "beside=image.qcow2 compress=1 flags=512" compressed cluster_size=4k
variant "qcow2 extended L2 over a chain, read beside" "beside=image.qcow2" over_chain extended_l2=on,cluster_size=16k
variant "vmdk zeroed grains over vmdk, read beside" "beside=image.vmdk" vmdk_over zeroed_grain=on
variant "vhdx, read beside, unmapping" "beside=image.vhdx flags=512" vhdx_theirs block_size=1M
variant "vhdx child, read beside" "beside=image.vhdx" vhdx_over block_size=1M block_size=1M
variant "vpc, read beside, unmapping" "beside=image.vpc flags=512" vpc_theirs subformat=dynamic
variant "vpc child, read beside" "beside=image.vpc" vpc_over block_size=64k block_size=64k
variant "vdi, read beside, unmapping" "beside=image.vdi flags=512" vdi_theirs static=off
variant "vdi child, read beside" "beside=image.vdi" vdi_over block_size=4k block_size=64k
variant "parallels, read beside, unmapping" "beside=image.parallels flags=512" parallels_theirs cluster_size=4k
variant "parallels folder of child snapshots, read beside" "beside=image.parallels" parallels_folder cluster_size=4k
snap='beside=json:{"driver":"qcow2","file.filename":"image.qcow2","snapshot.name":"snap"} beside_model=base.raw'
variant "qcow2 with snapshots, one read beside" "$snap" snapshots compat=1.1
variant "qcow2 v2 512 with snapshots, one read beside, unmapping" "flags=512 $snap" \
	snapshots compat=0.10,cluster_size=512
variant "qcow2 extended L2 with snapshots, one read beside" "overlap=1 $snap" snapshots extended_l2=on,cluster_size=16k
variant "qcow2 4k packed with snapshots, one read beside" "compress=1 $snap" packed_snapshots cluster_size=4k
variant "parallels folder of child snapshots, one read beside" 'beside_model=base.raw beside=json:{"driver":"parallels","file.filename":"image.parallels","snapshot.id":"{aaaaaaaa-0000-0000-0000-000000000001}"}' \
	parallels_folder cluster_size=4k

# Resizes beside everything else that changes structures.
variant "vdi, checked and resized meanwhile, unmapping" "resize=1 check=1 flags=512 threads=4" vdi_theirs static=off
variant "vdi child, checked and resized meanwhile" "resize=1 check=1 flags=512" vdi_over block_size=64k block_size=4k
variant "parallels, checked and resized meanwhile, unmapping" "resize=1 check=1 flags=512 threads=4" \
	parallels_theirs cluster_size=4k
variant "vpc, checked and resized meanwhile, unmapping" "resize=1 check=1 flags=512 threads=4" vpc_theirs subformat=dynamic
variant "vhdx, checked and resized meanwhile, unmapping" "resize=1 check=1 flags=512 threads=4" vhdx_theirs block_size=1M
variant "qcow2 512, refcount 64, resized meanwhile, unmapping" "resize=1 check=1 flags=512" filled cluster_size=512,refcount_bits=64
variant "qcow2 packed extended L2, resized meanwhile" "resize=1 compress=1" compressed extended_l2=on,cluster_size=16k
variant "qcow2 raw data file, resized meanwhile" "resize=1" data_file data_file_raw=on
variant "qcow2 lazy refcounts, resized meanwhile, O_DIRECT if possible" "resize=1 flags=128" filled lazy_refcounts=on

# Discards and zeroes below a unit, given back.
variant "qcow2 2M, unmapping" "flags=512 threads=4" filled cluster_size=2M
variant "qcow2 2M over raw, unmapping" "flags=512" over cluster_size=2M base.raw raw
variant "qcow2 extended L2 2M over raw, unmapping" "flags=512" over extended_l2=on,cluster_size=2M base.raw raw
variant "vmdk zeroed grains, unmapping, four queues" "flags=512 threads=4" vmdk_empty zeroed_grain=on

# Sizes that end within a sector's neighbourhood, a cluster, an L2 table.
odd() { truncate -s "$1" part.raw && dd if=base.raw of=part.raw bs=512 count=$(($1 / 512)) conv=notrunc status=none &&
	qemu-img convert -f raw -O "$2" -o "$3" part.raw "image.$2"; }
variant "qcow2 of 512 bytes" "" odd 512 qcow2 compat=1.1
variant "qcow2 512 of an L2 table and a sector" "" odd 33280 qcow2 cluster_size=512
variant "qcow2 extended L2, not of whole subclusters" "" odd 1050112 qcow2 extended_l2=on
variant "qcow2 2M, not of whole clusters, unmapping" "flags=512" odd 2098688 qcow2 cluster_size=2M
variant "vmdk not of whole grains" "" odd 1050112 vmdk subformat=monolithicSparse

# Chains of mixed formats.
mixed_chain() {	# LOWEST: raw, or a VMDK stream
	case $1 in
	raw) cp short.raw lowest.raw && low=lowest.raw ;;
	*)
		"$imgtool" convert -f raw -O vmdk -o subformat=streamOptimized base.raw lowest.vmdk &&
			"$imgtool" create -q -f vmdk -b lowest.vmdk -F vmdk low.vmdk && low=low.vmdk ;;
	esac
	qemu-img create -q -f qcow2 -o cluster_size=4k -b $low -F ${low##*.} middle.qcow2 $size &&
		qemu-io -f qcow2 -c 'write -q -P 5 1M 300k' -c 'write -q -z 3M 500k' middle.qcow2 &&
		over "$2" middle.qcow2 qcow2
}
variant "qcow2 over qcow2 over a shorter raw" "" mixed_chain raw compat=1.1
variant "qcow2 over qcow2 over vmdk over a stream" "" mixed_chain vmdk extended_l2=on,cluster_size=16k
variant "qcow2 over qcow2 over vmdk over a stream, overlapping" "overlap=1 flags=512" mixed_chain vmdk cluster_size=512

# Windows of a file, an image inside an image.
window() {	# FORMAT OPTIONS: 20 MiB of room from 1 MiB on, noise around
	head -c 23000064 /dev/urandom >outer.raw && cp outer.raw outer.kept &&
		qemu-img convert -f raw -O "$1" -o "$2" base.raw part.raw &&
		dd if=part.raw of=outer.raw bs=1M seek=1 conv=notrunc status=none
}
outside() { cmp -n 1048576 outer.raw outer.kept && cmp -i 22020096 outer.raw outer.kept; }
nested() {	# FORMAT OPTIONS: in a qcow2 image
	qemu-img convert -f raw -O "$1" -o "$2" base.raw part.raw &&
		qemu-img create -q -f qcow2 -o cluster_size=4k outer.qcow2 64M &&
		qemu-img convert -n -f raw -O qcow2 part.raw outer.qcow2
}
part='{"driver":"raw","offset":1048576,"size":20971520,"file":{"driver":"file","filename":"outer.raw"}}'
windowed='{"driver":"raw","offset":1048576,"size":'$size',"file":{"driver":"file","filename":"outer.raw"}}'
within='{"driver":"qcow2","file":{"driver":"file","filename":"outer.qcow2"}}'
inside "raw in a window" "" raw "$windowed" window raw preallocation=off
inside "raw in a window, unmapping, overlapping" "flags=512 overlap=1" raw "$windowed" window raw preallocation=off
inside "qcow2 in a window" "" qcow2 "{\"driver\":\"qcow2\",\"file\":$part}" window qcow2 cluster_size=4k
inside "qcow2 in a window, O_DIRECT if possible, unmapping" "flags=640" qcow2 "{\"driver\":\"qcow2\",\"file\":$part}" \
	window qcow2 compat=1.1
inside "qcow2 in a qcow2" "" qcow2 "{\"driver\":\"qcow2\",\"file\":$within}" nested qcow2 compat=1.1
inside "qcow2 512 in a qcow2, unmapping" "flags=512" qcow2 "{\"driver\":\"qcow2\",\"file\":$within}" \
	nested qcow2 cluster_size=512
variant "qed" "" qed_empty cluster_size=64k
variant "qed filled by qemu-img" "overlap=1" qed_theirs cluster_size=64k
variant "qed 4k, unmapping" "flags=512 threads=4" qed_theirs cluster_size=4k,table_size=2
variant "qed, unmapping, O_DIRECT if possible" "flags=640" qed_theirs cluster_size=64k
variant "qed, written through" "threads=1 flags=1024" qed_theirs cluster_size=16k,table_size=2
variant "qed large tables" "flags=512" qed_empty cluster_size=256k,table_size=16
variant "qed, ours: tables of a cluster, resized meanwhile" "flags=512 resize=1" qed_empty cluster_size=4k,table_size=1
variant "qed, resized and checked meanwhile, unmapping" "resize=1 check=1 flags=512" qed_theirs cluster_size=4k,table_size=2
variant "qed over raw, unmapping" "flags=512 threads=4" qed_over cluster_size=4k base.raw raw
variant "qed over shorter raw, resized meanwhile" "resize=1" qed_over cluster_size=64k short.raw raw
variant "qed over a chain, overlapping requests" "overlap=1" qed_over_chain cluster_size=4k
variant "qed over a chain, its chain changed meanwhile" "chain=1 check=1 flags=512" qed_over_chain cluster_size=16k
variant "qed read from above, resized meanwhile, unmapping" "child=child.qcow2 resize=1 flags=512 threads=4" \
	qed_theirs cluster_size=4k
variant "qed, read beside, unmapping" "beside=image.qed flags=512" qed_theirs cluster_size=4k
variant "qcow2 over qed, changed and resized meanwhile" "chain=1 resize=1" over_format cluster_size=4k qed table_size=2
variant "qcow" "" qcow_empty
variant "qcow filled by qemu-img" "overlap=1" qcow_theirs
variant "qcow, unmapping" "flags=512 threads=4" qcow_theirs
variant "qcow, unmapping, O_DIRECT if possible" "flags=640" qcow_theirs
variant "qcow packed" "compress=1" qcow_packed
variant "qcow packed, resized and checked meanwhile, unmapping" "resize=1 check=1 compress=1 flags=512" qcow_packed
variant "qcow, written through" "threads=1 flags=1024" qcow_theirs
variant "qcow over raw, unmapping" "flags=512 threads=4" qcow_over base.raw raw
variant "qcow over shorter raw, resized meanwhile" "resize=1" qcow_over short.raw raw
variant "qcow over a chain, overlapping requests" "overlap=1" qcow_over_chain
variant "qcow over a chain, packed, its chain changed meanwhile" "chain=1 check=1 compress=1" qcow_over_chain
variant "qcow read from above, resized meanwhile, unmapping" "child=child.qcow2 resize=1 flags=512 threads=4" qcow_theirs
variant "qcow packed, read beside" "beside=image.qcow compress=1" qcow_packed
variant "vdi" "" vdi_empty static=off
variant "vdi filled by qemu-img" "overlap=1" vdi_theirs static=off
variant "vdi static" "" vdi_theirs static=on
variant "vdi, unmapping" "flags=512" vdi_theirs static=off
variant "vdi, unmapping, O_DIRECT if possible" "flags=640" vdi_theirs static=off
variant "vdi, written through" "threads=1 flags=1024" vdi_theirs static=off
variant "vdi, resized meanwhile" "resize=1" vdi_theirs static=off
variant "vdi, ours: blocks of 64 KiB, unmapping" "flags=512" vdi_empty block_size=64k
variant "vdi, ours: blocks of 1536 bytes, unmapping, resized meanwhile" "flags=512 resize=1" vdi_empty block_size=1536
variant "vdi, ours: blocks with extra bytes" "flags=512" vdi_extra block_size=64k
variant "vdi, ours: version 0" "flags=512 overlap=1" vdi_version0 block_size=64k
variant "vdi, ours: version 0, resized meanwhile" "resize=1" vdi_version0 block_size=4k
variant "vdi child" "" vdi_over static=off static=off
variant "vdi child, resized meanwhile" "resize=1 flags=512" vdi_over block_size=4k block_size=64k
variant "vdi child, overlapping requests" "overlap=1" vdi_over block_size=64k static=on
variant "vdi child of a child, unmapping" "flags=512" vdi_over_chain block_size=128k
variant "parallels" "" parallels_ours cluster_size=64k
variant "parallels filled by qemu-img" "overlap=1" parallels_theirs cluster_size=64k
variant "parallels of sectors" "" parallels_theirs cluster_size=512
variant "parallels of 63 sectors" "overlap=1" parallels_ours cluster_size=32256
variant "parallels of the old kind" "" parallels_old
variant "parallels of the old kind, filled" "overlap=1" parallels_old filled
variant "parallels of the old kind, unmapping" "flags=512" parallels_old filled
variant "parallels folder of child snapshots" "overlap=1" parallels_folder cluster_size=4k
variant "parallels folder of child snapshots, unmapping" "flags=512" parallels_folder cluster_size=64k
variant "parallels folder without children, resized meanwhile" "resize=1" parallels_split cluster_size=4k
variant "parallels folder without children, resized meanwhile, unmapping" "resize=1 flags=512" parallels_split cluster_size=64k
variant "parallels, unmapping, O_DIRECT if possible" "flags=640" parallels_theirs cluster_size=64k
variant "parallels, written through" "threads=1 flags=1024" parallels_theirs cluster_size=64k
variant "parallels, resized meanwhile" "resize=1" parallels_theirs cluster_size=64k
variant "parallels of 63 sectors, resized meanwhile" "resize=1" parallels_ours cluster_size=32256
variant "parallels of sectors, resized meanwhile" "resize=1" parallels_ours cluster_size=512
variant "parallels of the old kind, resized meanwhile" "resize=1" parallels_old filled
finish

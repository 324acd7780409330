#!/bin/sh
# Power cuts in the real tool: strace records what its commands do to an image, and each state that
# a cut could have left of that is judged as in the crash suite (crash.c, steps=). The disk before and
# after each command is what qemu-img reads from it. io_uring is denied, so that every change is a
# call that is seen.
#
#   SEED=N	of the subsets: see lib.sh
#   SAMPLES=N	subsets of unsynced writes for each cut besides the full one (default: 8)
#   QEMU=N	each Nth state is judged by qemu-img too (default: 4)
#   tests/crash-recorded/run.sh [WORD]	only what has WORD in its name
. "$(dirname "$0")/../lib.sh"

have qemu-img && have qemu-io || { skip "no qemu-img and qemu-io to judge with"; finish; }
strace -o /dev/null true 2>/dev/null || { skip "strace cannot trace here"; finish; }
only=$1
cd "$work" || exit 1

pattern() { yes "$1" | head -c "$2"; }
for i in 1 2 3 4 5 6 7 8; do
	pattern "base-$i" 65536
	head -c 65536 /dev/zero
done >base.raw
mkdir judge && ln -s ../base.raw judge/

# begin NAME FILES MAKE...: an image, the first of FILES, is made; what follows changes it. What qemu-img
# does not read (differencing disks) leaves a model.raw of the disk, which is changed alike.
begin() {
	name=$1 files=$2 steps=0 made=
	shift 2
	case $name in *"$only"*) ;; *) return ;; esac
	rm -rf image.* image-* data.raw model.raw before steps
	mkdir before steps
	"$@" >make.log 2>&1 || { fail "$name: cannot be made: $(head -n 1 make.log)"; return; }
	image=${files%% *} format=${files%% *}
	format=${format##*.}
	# shellcheck disable=SC2086 # words are wanted
	cp $files before/ && see && made=1
}
see() {
	[ ! -f model.raw ] || { cp model.raw steps/$steps.raw; return; }
	qemu-img convert -f "$format" -O raw "$image" steps/$steps.raw >see.log 2>&1
}

# step COMMAND ARG...: imgtool does something.
step() {
	[ -n "$made" ] || return
	steps=$((steps + 1))
	strace -f -y -xx -s 100000000 -o steps/$steps.log -e inject=io_uring_setup:error=ENOSYS \
		-e trace=io_uring_setup,io_submit,write,writev,pwrite64,pwritev,pwritev2,fallocate,ftruncate,truncate,fdatasync,fsync,sync_file_range,copy_file_range,sendfile,splice,link,linkat,rename,renameat,renameat2,unlink,unlinkat \
		"$imgtool" "$@" >steps/said 2>&1
	code=$?
	# A check that repaired may say so by its exit code.
	[ $code -eq 0 ] || [ "$1" = check ] || { fail "$name: imgtool $* (exit $code): $(cat steps/said)"; made=; return; }
	see || { fail "$name: after imgtool $*: $(head -n 1 see.log)"; made=; }
}

# cut [KEY=VALUE...]: every state is judged. verdict: refuse, where some must be wrong.
cut() {
	[ -n "$made" ] || return
	with=
	for file in ${files#"$image"}; do
		with="$with with=$file"
	done
	# The logs name the files where they were changed; crash reads them there.
	for file in $files; do
		cp "before/$file" "$file"
	done
	# shellcheck disable=SC2086 # words are wanted
	${verdict:-try} "$name, seed $seed" timeout 3600 "$build/tests/crash/crash" "$work/$image" "$format" seed="$seed" \
		steps=steps samples="${SAMPLES:-8}" qemu="${QEMU:-4}" judge="$work/judge" $with "$@" || return
	[ -z "$VERBOSE" ] || tail -n 1 .out
}

empty() { qemu-img create -q -f qcow2 -o "$1" image.qcow2 1M; }
filled() { qemu-img convert -f raw -O qcow2 -o "$1" base.raw image.qcow2; }
over() { qemu-img create -q -f qcow2 -o "$1" -b base.raw -F raw image.qcow2 "$2"; }
dirty() {
	filled "$1" && qemu-io -f qcow2 -c "write -P 7 64k 100k" -c "write -P 8 500k 40k" -c flush -c abort image.qcow2
	[ -f image.qcow2 ]
}
# The low half of an offset in the image.
entry() { od -A n -t u4 --endian=big -j "$1" -N 4 image.qcow2 | tr -d ' '; }
# Two L2 entries are lost, and what they named is leaked.
leaked() {
	filled "$1" && table=$(entry 44) && table=$(entry $((table + 4))) &&
		dd if=/dev/zero of=image.qcow2 bs=1 seek="$table" count=16 conv=notrunc status=none
}
vmdk() { "$imgtool" convert -f raw -O vmdk -o "subformat=$1" base.raw image.vmdk; }
vhdx() { qemu-img convert -f raw -O vhdx -o "block_size=1M,$1" base.raw image.vhdx; }

# chain BASE OPTIONS SIZE: image.qcow2 has some of its own over image-base.BASE, and image-other.raw is another.
chain() {
	qemu-img convert -f raw -O "$1" base.raw "image-base.$1" && pattern other 700000 >image-other.raw &&
		qemu-img create -q -f qcow2 -o "$2" -b "image-base.$1" -F "$1" image.qcow2 "$3" &&
		qemu-io -f qcow2 -c "write -P 70 0 12k" -c "write -P 71 100k 3k" -c "write -z 256k 96k" \
			-c "write -P 72 480k 13k" image.qcow2
}
vmdk_chain() {
	qemu-img convert -f raw -O vmdk base.raw image-base.vmdk &&
		qemu-img create -q -f vmdk -b image-base.vmdk -F vmdk image.vmdk &&
		qemu-io -f vmdk -c "write -P 73 0 70k" -c "write -P 74 500k 3k" image.vmdk
}

# over_vpc OPTIONS: image.vpc has some of its own over image-base.vpc; image-other.vpc is another one. over_vhdx: alike.
over_vpc() { differencing vpc force_size=on "force_size=on,$1" "$1"; }
deep_vhdx() {
	over_vhdx "$1" && mv image.vhdx image-middle.vhdx &&
		"$imgtool" create -q -f vhdx -o "$1" -b image-middle.vhdx -F vhdx image.vhdx &&
		for program in "$imgtool io -f vhdx image.vhdx" "qemu-io -f raw model.raw"; do
			# shellcheck disable=SC2086 # words are wanted
			set -- $program && "$@" -c "write -q -P 76 4k 12k" -c "write -q -z 480k 4k" -c "write -q -P 77 600k 5k" || return
		done
}
over_vhdx() { differencing vhdx block_size=1M block_size=2M "$1"; }
differencing() {
	"$imgtool" convert -f raw -O "$1" -o "$2" base.raw "image-base.$1" && pattern other 1048576 >other.raw &&
		"$imgtool" convert -f raw -O "$1" -o "$3" other.raw "image-other.$1" &&
		"$imgtool" create -q -f "$1" -o "$4" -b "image-base.$1" -F "$1" "image.$1" && cp base.raw model.raw &&
		fill "$imgtool" io -f "$1" "image.$1" && fill qemu-io -f raw model.raw
}
fill() {
	"$@" -c "write -q -P 70 0 12k" -c "write -q -P 71 100k 3k" -c "write -q -z 256k 96k" -c "write -q -P 72 480k 13k"
}
# Both the image and the model: then it is as qemu-io has it.
both() {
	[ -n "$made" ] || return
	[ ! -f model.raw ] || qemu-io -f raw "$@" model.raw >/dev/null || { fail "$name: qemu-io $*"; made=; return; }
	step io -f "$format" "$@" "$image"
}

grow_writes() {
	step io -f "$format" -c "write -P 17 0 12k" -c "write -P 18 100k 3k" -c "write -P 19 700k 130k" "$image"
	step io -f "$format" -c "write -P 20 1k 1k" -c flush -c "write -P 21 300k 64k" -c "write -z 128k 20k" "$image"
}
reuse() {
	step io -f "$format" -d unmap -c "write -P 33 0 256k" -c "write -P 34 600k 100k" "$image"
	step io -f "$format" -d unmap -c "discard 0 192k" -c flush -c "write -P 35 256k 128k" -c "discard 600k 100k" "$image"
	step io -f "$format" -d unmap -c "write -z -u 256k 64k" -c "write -P 36 0 64k" -c "write -P 37 900k 64k" "$image"
}
resizes() {
	step resize -f "$format" --shrink "$image" 300K
	step resize -f "$format" "$image" 2M
	step io -f "$format" -c "write -P 50 1500k 100k" "$image"
}

blind() { [ -z "$made" ] || sed -i 's/fdatasync(\|fsync(/sync_file_range(/' steps/*.log; }

for options in cluster_size=4k cluster_size=512 compat=1.1 compat=0.10 extended_l2=on,cluster_size=16k; do
	begin "qcow2 $options, growing" image.qcow2 empty $options; grow_writes; cut
	begin "qcow2 $options, freed and used again" image.qcow2 filled $options; reuse; cut
	begin "qcow2 $options, over a base" image.qcow2 over $options 1M; grow_writes; cut
	begin "qcow2 $options, resized" image.qcow2 filled $options; resizes; cut
	begin "qcow2 $options, resized over a base" image.qcow2 over $options 493K
	step io -f qcow2 -c "write -P 40 400k 60k" image.qcow2; resizes; cut
	# By itself a copy syncs nothing (-t unsafe).
	begin "qcow2 $options, copied into" image.qcow2 filled $options
	[ -z "$made" ] || { pattern copy 1048576 >source.raw; step convert -n -t writeback -f raw -O qcow2 source.raw image.qcow2; }; cut
done
# A tool that never syncs would be found out.
verdict=refuse
begin "qcow2 without syncs" image.qcow2 filled cluster_size=4k; reuse; blind; cut
begin "vmdk without syncs" image.vmdk vmdk monolithicSparse; reuse; blind; cut
verdict=

begin "qcow2, packed" image.qcow2 empty cluster_size=4k
step io -f qcow2 -c "write -c -P 60 0 64k" -c "write -c -P 61 256k 4k" image.qcow2
step io -f qcow2 -c "write -P 62 4k 6k" -c "write -c -P 63 512k 32k" image.qcow2
cut
begin "qcow2, leaks repaired" image.qcow2 leaked cluster_size=4k; step check -r leaks image.qcow2; cut
begin "qcow2, refcounts repaired" image.qcow2 dirty lazy_refcounts=on,cluster_size=4k; step check -r all image.qcow2; cut lazy=1

for options in cluster_size=4k compat=1.1 cluster_size=4k,data_file_raw=on; do
	begin "qcow2 $options, data file, growing" "image.qcow2 data.raw" empty "$options,data_file=data.raw"; grow_writes; cut
	begin "qcow2 $options, data file, freed and used again" "image.qcow2 data.raw" empty "$options,data_file=data.raw"; reuse; cut
	begin "qcow2 $options, data file, resized" "image.qcow2 data.raw" empty "$options,data_file=data.raw"; grow_writes; resizes; cut
done

for options in cluster_size=4k compat=0.10 extended_l2=on,cluster_size=16k; do
	for base in raw qcow2; do
		for size in 1M 1200K 900K; do
			what="qcow2 $options, $size over $base" files="image.qcow2 image-base.$base image-other.raw"
			begin "$what, committed" "$files" chain $base $options $size; step commit -f qcow2 -q image.qcow2; cut
			begin "$what, another backing file" "$files" chain $base $options $size
			step rebase -f qcow2 -b image-other.raw -B raw image.qcow2; cut
		done
	done
	begin "$what, committed and dropped" "$files" chain $base $options $size; step commit -f qcow2 -d -q image.qcow2; cut
	begin "$what, no backing file" "$files" chain $base $options $size; step rebase -f qcow2 -b "" image.qcow2; cut
	begin "$what, backing files in turn" "$files" chain $base $options $size
	step rebase -f qcow2 -b image-other.raw -B raw image.qcow2
	step io -f qcow2 -c "write -P 75 200k 30k" image.qcow2
	step commit -f qcow2 -q image.qcow2
	step rebase -f qcow2 -b image-base.$base -B $base image.qcow2; cut
done

begin "vmdk, growing" image.vmdk vmdk monolithicSparse; grow_writes; cut
begin "vmdk, freed and used again" image.vmdk vmdk monolithicSparse; reuse; cut
begin "vmdk split, growing" "image.vmdk image-s001.vmdk" vmdk twoGbMaxExtentSparse; grow_writes; cut
begin "vmdk split, freed and used again" "image.vmdk image-s001.vmdk" vmdk twoGbMaxExtentSparse; reuse; cut
begin "vmdk flat, growing" "image.vmdk image-flat.vmdk" vmdk monolithicFlat; grow_writes; cut
begin "vmdk, committed" "image.vmdk image-base.vmdk" vmdk_chain; step commit -f vmdk -q image.vmdk; cut qemu=0
begin "vmdk, resized" image.vmdk vmdk monolithicSparse; grow_writes; resizes; cut
begin "vhdx, growing" image.vhdx vhdx log_size=1M; grow_writes; cut log=1
begin "vhdx, freed and used again" image.vhdx vhdx log_size=2M; reuse; cut log=1
begin "vhdx, resized" image.vhdx vhdx log_size=1M; grow_writes; resizes; cut log=1
begin "vhdx fixed, resized" image.vhdx vhdx subformat=fixed; grow_writes; resizes; cut log=1
vpc() { qemu-img convert -f raw -O vpc -o "force_size=on,$1" base.raw image.vpc; }
begin "vpc, growing" image.vpc vpc subformat=dynamic; grow_writes; cut
begin "vpc, freed and used again" image.vpc vpc subformat=dynamic; reuse; cut
begin "vpc, resized" image.vpc vpc subformat=dynamic; grow_writes; resizes; cut
begin "vpc fixed, resized" image.vpc vpc subformat=fixed; grow_writes; resizes; cut
# qemu-img takes a count of blocks that is ahead of their entries for an error.
vdi() { qemu-img convert -f raw -O vdi base.raw image.vdi; }
begin "vdi, growing" image.vdi vdi; grow_writes; cut qemu=0
begin "vdi, freed and used again" image.vdi vdi; reuse; cut qemu=0
begin "vdi, resized" image.vdi vdi; grow_writes; resizes; cut qemu=0
for kind in "vpc block_size=64k" "vpc block_size=4k" "vpc block_size=2M" "vhdx block_size=1M" "vhdx block_size=2M"; do
	f=${kind% *} options=${kind#* }
	them="image.$f image-base.$f image-other.$f"
	begin "$kind, over a base" "$them" over_$f $options
	both -c "write -P 17 0 12k" -c "write -P 18 100k 3k" -c "write -P 19 700k 130k"
	both -c "write -P 20 1k 1k" -c flush -c "write -P 21 300k 64k" -c "write -z 128k 20k"; cut qemu=0
	begin "$kind, committed" "$them" over_$f $options; step commit -f $f -q image.$f; cut qemu=0
	begin "$kind, another parent" "$them" over_$f $options
	step rebase -f $f -b image-other.$f -B $f image.$f; cut qemu=0
	begin "$kind, parents in turn" "$them" over_$f $options
	step rebase -f $f -b image-other.$f -B $f image.$f; both -c "write -P 75 200k 30k"
	step commit -f $f -q image.$f; step rebase -f $f -b image-base.$f -B $f image.$f; cut qemu=0
	begin "$kind, no parent" "$them" over_$f $options; step rebase -f $f -b "" image.$f; cut qemu=0
	[ $f = vhdx ] || continue
	begin "$kind, three deep, committed" "$them image-middle.vhdx" deep_vhdx $options
	step commit -f vhdx -q -b image-base.vhdx image.vhdx; cut qemu=0
	begin "$kind, three deep, committed in turn" "$them image-middle.vhdx" deep_vhdx $options
	step commit -f vhdx -q image-middle.vhdx; step commit -f vhdx -q image.vhdx; cut qemu=0
done
# What the snapshots of a Parallels folder have; the image is its DiskDescriptor.xml.
folder_chain() {	# OLDEST MIDDLE TOP
	size=1048576
	for guid; do
		"$imgtool" create -q -f parallels -o cluster_size=4k image-0-$guid.hds 512k &&
			"$imgtool" create -q -f parallels -o cluster_size=4k image-1-$guid.hds 512k || return
	done
	parallels_descriptor "$1" >image.parallels && "$imgtool" convert -n -f raw -O parallels base.raw image.parallels &&
		parallels_descriptor "$1" "$2" >image.parallels && cp base.raw model.raw || return
	for program in "$imgtool io -f parallels image.parallels" "qemu-io -f raw model.raw"; do
		# shellcheck disable=SC2086 # words are wanted
		fill $program || return
	done
	parallels_descriptor "$@" >image.parallels || return
	for program in "$imgtool io -f parallels image.parallels" "qemu-io -f raw model.raw"; do
		# shellcheck disable=SC2086 # words are wanted
		$program -c "write -q -P 76 4k 12k" -c "write -q -z 480k 4k" -c "write -q -P 77 500k 50k" || return
	done
}
guids="aaaaaaaa-0000-0000-0000-000000000001 aaaaaaaa-0000-0000-0000-000000000002 5fbaabe3-6958-40ff-92a7-860e329aab41"
them=image.parallels
for guid in $guids; do
	them="$them image-0-$guid.hds image-1-$guid.hds"
done
begin "parallels folder, committed" "$them" folder_chain $guids
step commit -f parallels -q image.parallels; cut qemu=0
begin "parallels folder, committed to the oldest" "$them" folder_chain $guids
step commit -f parallels -q -b "${guids%% *}" image.parallels; cut qemu=0
begin "parallels folder, committed and written to" "$them" folder_chain $guids
step commit -f parallels -q image.parallels; both -c "write -P 78 200k 70k" -c "write -z 4k 20k"
step commit -f parallels -q image.parallels; cut qemu=0
# A descriptor is replaced as a whole, under its name.
begin "vmdk split, resized" "image.vmdk image-s001.vmdk" vmdk twoGbMaxExtentSparse; grow_writes; resizes; cut
begin "vmdk flat, resized" "image.vmdk image-flat.vmdk" vmdk monolithicFlat; grow_writes; resizes; cut
folder_resize() {	# SIZE
	[ -n "$made" ] || return
	truncate -s "$1" model.raw; step resize -f parallels --shrink image.parallels "$1"
}
them="image.parallels image-0-${guids##* }.hds image-1-${guids##* }.hds"
folder_of_one() {
	size=1048576
	for storage in 0 1; do
		"$imgtool" create -q -f parallels -o cluster_size=4k "image-$storage-$1.hds" 512k || return
	done
	parallels_descriptor "$1" >image.parallels && "$imgtool" convert -n -f raw -O parallels base.raw image.parallels &&
		cp base.raw model.raw
}
begin "parallels folder, resized" "$them" folder_of_one "${guids##* }"
folder_resize 700K; folder_resize 2M; both -c "write -P 50 1500k 100k"; cut qemu=0
verdict=refuse
begin "parallels folder, resized without syncs" "$them" folder_of_one "${guids##* }"; folder_resize 2M; blind; cut qemu=0
verdict=
begin "raw, resized" image.raw cp base.raw image.raw; grow_writes; resizes; cut
finish

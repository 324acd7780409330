#!/bin/sh
# A failing disk under every kind of work: see fault.c; then under the tool: tool.sh. Runs the sanitized build where there is one.
. "$(dirname "$0")/../lib.sh"

have qemu-img || { skip "no qemu-img to make images with"; finish; }
program=$build/tests/fault/fault
[ ! -x build-asan/tests/fault/fault ] || program=$top/build-asan/tests/fault/fault
export ASAN_OPTIONS=detect_leaks=1 UBSAN_OPTIONS=print_stacktrace=1
cd "$work" || exit 1

# tests/fault/run.sh chain [WORD]: only that part.
[ -z "$1" ] || [ "$1" = chain ] || { echo "usage: $0 [chain [WORD]]"; exit 2; }
. "$top/tests/fault/chain.sh"
[ -z "$1" ] || finish

i=10
while [ $i -lt 42 ]; do
	case $i in
	1[5-9]|2[7-9]) head -c 32768 /dev/zero ;;
	*) yes "base-$i" | head -c 32768 ;;
	esac
	i=$((i + 1))
done >base.raw
for options in compat=1.1 cluster_size=512 extended_l2=on,cluster_size=16k compat=0.10,cluster_size=4k; do
	qemu-img convert -f raw -O qcow2 -o $options base.raw "filled-$options.qcow2"
	qemu-img create -q -f qcow2 -o $options "empty-$options.qcow2" 1M
	cp "filled-$options.qcow2" "snapshot-$options.qcow2"
	qemu-img snapshot -c one "snapshot-$options.qcow2"
done
qemu-img convert -c -f raw -O qcow2 base.raw zlib.qcow2
qemu-img convert -f raw -O vmdk base.raw sparse.vmdk
qemu-img convert -f raw -O vmdk -o subformat=streamOptimized base.raw stream.vmdk

qemu-img create -q -f vmdk -o zeroed_grain=on empty.vmdk 1M
qemu-img create -q -f vmdk -b sparse.vmdk -F vmdk child.vmdk
for options in block_size=1M subformat=fixed,block_size=1M; do
	qemu-img convert -f raw -O vhdx -o $options base.raw "filled-$options.vhdx"
done
"$imgtool" create -q -f vhdx -b filled-block_size=1M.vhdx -F vhdx -o block_size=1M child.vhdx
for options in subformat=dynamic subformat=fixed; do
	qemu-img convert -f raw -O vpc -o force_size=on,$options base.raw "filled-$options.vpc"
done
"$imgtool" create -q -f vpc -b filled-subformat=dynamic.vpc -F vpc -o block_size=64k child.vpc
qemu-img convert -f raw -O vdi base.raw theirs.vdi
"$imgtool" convert -f raw -O vdi -o block_size=4k base.raw small.vdi
"$imgtool" create -q -f vdi -o block_size=64k empty.vdi 1M
"$imgtool" create -q -f vdi -b theirs.vdi -F vdi child.vdi
"$imgtool" convert -f raw -O vdi -o static=on base.raw static.vdi
for format in bochs cloop dmg asif; do
	# shellcheck disable=SC2046 # one or none
	python3 "$top/tests/support/make-image.py" $format base.raw made.$format \
		$(case $format in dmg) echo kinds=zlib,plain,zero chunk=65536 parts=2 ;; asif) echo chunk=65536 max=1073741824 ;; esac)
done
for options in cluster_size=64k cluster_size=4k,table_size=2; do
	qemu-img convert -f raw -O qed -o $options base.raw "filled-$options.qed"
done
"$imgtool" create -q -f qed -o cluster_size=256k,table_size=16 empty.qed 1M
"$imgtool" create -q -f qed -b filled-cluster_size=64k.qed -F qed child.qed
qemu-img convert -f raw -O qcow base.raw filled.qcow
"$imgtool" convert -c -f raw -O qcow base.raw packed.qcow
"$imgtool" create -q -f qcow -b packed.qcow -F qcow child.qcow
virtualbox_parallels old.parallels 1048576
"$imgtool" convert -n -f raw -O parallels base.raw old.parallels
for options in cluster_size=4k cluster_size=32256; do
	qemu-img convert -f raw -O parallels -o $options base.raw "filled-$options.parallels"
done
head -c 3000320 /dev/urandom >random.raw

run() {
	what="$1 $(basename "$2")${4:+ $4}${5:+ $5}"
	try "$what" timeout 600 "$program" "$@" cases="${CASES:-25}" || return
	[ -z "$VERBOSE" ] || cat .out
}
for image in filled-*.qcow2 zlib.qcow2; do
	run open "$image" qcow2
done
run open sparse.vmdk vmdk
run open stream.vmdk vmdk
run open child.vhdx vhdx
run open child.vpc vpc
for image in theirs small child; do
	run open $image.vdi vdi
done
for format in bochs cloop dmg asif; do
	run open made.$format $format
done
for image in empty-*.qcow2 filled-*.qcow2 snapshot-*.qcow2 zlib.qcow2; do
	run write "$image" qcow2 seed=$seed
done
for image in empty-*.qcow2 snapshot-cluster_size=512.qcow2 zlib.qcow2; do
	run write "$image" qcow2 seed=$seed compress=1
done
run write base.raw raw
run write sparse.vmdk vmdk seed=$seed
run write empty.vmdk vmdk seed=$seed
run write child.vmdk vmdk seed=$seed
run resize sparse.vmdk vmdk
run resize empty.vmdk vmdk
for image in filled-*.vhdx child.vhdx; do
	run write "$image" vhdx seed=$seed
	run resize "$image" vhdx
done
for image in filled-*.vpc child.vpc; do
	run write "$image" vpc seed=$seed
	run resize "$image" vpc
done
for image in theirs small empty child static; do
	run write $image.vdi vdi seed=$seed
done
for image in theirs small child static; do
	run resize $image.vdi vdi
done
for image in filled-*.qed empty.qed child.qed; do
	run open "$image" qed
	run write "$image" qed seed=$seed
	run resize "$image" qed
done
for image in filled packed child; do
	run open $image.qcow qcow
	run write $image.qcow qcow seed=$seed
	run write $image.qcow qcow seed=$seed compress=1
	run resize $image.qcow qcow
done
for image in filled-*.parallels old.parallels; do
	run open "$image" parallels
	run write "$image" parallels seed=$seed
	run resize "$image" parallels
done
for image in filled-*.qcow2; do
	run resize "$image" qcow2
done
for target in qcow2 qcow2-c raw vmdk vhdx vpc vdi qed qcow qcow-c parallels; do
	run copy filled-compat=1.1.qcow2 qcow2 to=$target
	run copy stream.vmdk vmdk to=$target
done
run copy zlib.qcow2 qcow2 to=qcow2 options=cluster_size=512
for options in static=on block_size=4k; do
	run copy filled-cluster_size=32256.parallels parallels to=vdi options=$options
done
for options in cluster_size=512 cluster_size=32256; do
	run copy small.vdi vdi to=parallels options=$options
done
for options in cluster_size=512 compression_type=zstd extended_l2=on; do
	run copy filled-compat=1.1.qcow2 qcow2 to=qcow2-c options=$options
done
run stream filled-compat=1.1.qcow2 qcow2
run stream zlib.qcow2 qcow2
run stream stream.vmdk vmdk
run stream random.raw raw
for options in compat=1.1 compat=0.10 cluster_size=512 extended_l2=on preallocation=metadata; do
	run create new qcow2 options=$options
done
run create new vhdx options=block_size=1M
run create new vpc options=subformat=dynamic
run create new vpc options=subformat=fixed
for options in static=off static=on block_size=4k preallocation=full; do
	run create new vdi options=$options
done
run create new qcow
for options in cluster_size=64k cluster_size=4k,table_size=2; do
	run create new qed options=$options
done
for options in cluster_size=64k cluster_size=32256 preallocation=full; do
	run create new parallels options=$options
done
for subformat in monolithicSparse streamOptimized; do
	run create new vmdk options=subformat=$subformat
done

# Encrypted ones.
for kind in aes luks; do
	options=encrypt.format=$kind,encrypt.key-secret=s,cluster_size=4k
	[ $kind = aes ] || options=$options,encrypt.iter-time=1
	"$imgtool" convert --object secret,id=s,data=pw -f raw -O qcow2 -o $options base.raw "filled-$kind.qcow2"
	run open "filled-$kind.qcow2" qcow2 secret=pw
	run write "filled-$kind.qcow2" qcow2 secret=pw seed=$seed
	run resize "filled-$kind.qcow2" qcow2 secret=pw
	options=$(echo $options | sed 's/encrypt.key-secret=s,//')
	run create new qcow2 secret=pw options=$options
	run copy filled-compat=1.1.qcow2 qcow2 to=qcow2 secret=pw options=$options
	run copy "filled-$kind.qcow2" qcow2 to=qcow2 secret=pw
done

"$imgtool" convert --object secret,id=s,data=pw -f raw -O luks -o key-secret=s,iter-time=1 base.raw filled.luks
run open filled.luks luks secret=pw
run write filled.luks luks secret=pw seed=$seed
run resize filled.luks luks secret=pw
run create new luks secret=pw options=iter-time=1

# Something to repair: leaked clusters, refcounts too low.
cp filled-cluster_size=512.qcow2 leak.qcow2
qemu-io -f qcow2 -c 'write -q -P 3 0 128k' -c abort leak.qcow2 >/dev/null 2>&1
qemu-img create -q -f qcow2 -o lazy_refcounts=on lazy.qcow2 1M
sh -c 'qemu-io -f qcow2 -c "write -q -P 3 0 256k" -c abort lazy.qcow2' >/dev/null 2>&1
for image in leak.qcow2 lazy.qcow2; do
	run repair $image qcow2
done
# In use, and two clusters in one place.
cp filled-cluster_size=4k.parallels shared.parallels
printf Ynot | dd of=shared.parallels bs=1 seek=44 conv=notrunc status=none
dd if=filled-cluster_size=4k.parallels of=shared.parallels bs=4 skip=16 seek=17 count=1 conv=notrunc status=none
run repair shared.parallels parallels
# The same: 256 entries from 512 on, the count is two too low, one block has nobody.
cp small.vdi shared.vdi
dd if=small.vdi of=shared.vdi bs=4 skip=130 seek=131 count=1 conv=notrunc status=none
printf '\376\000' | dd of=shared.vdi bs=1 seek=388 conv=notrunc status=none
run repair shared.vdi vdi
# The mark, and two clusters in one place: the first L2 table follows on the L1 table.
"$imgtool" convert -f raw -O qed -o cluster_size=4k,table_size=2 base.raw shared.qed
printf '\002' | dd of=shared.qed bs=1 seek=16 conv=notrunc status=none
dd if=shared.qed of=shared.qed bs=8 skip=1537 seek=1538 count=1 conv=notrunc status=none
"$imgtool" check -q -f qed shared.qed
[ $? = 2 ] || fail "shared.qed is to have two clusters in one place"
run repair shared.qed qed

. "$top/tests/fault/tool.sh"
finish

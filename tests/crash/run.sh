#!/bin/sh
# Power cuts on every kind of image: see crash.c.
#
#   FULL=1	every subset of writes where they are few, many subsets where not (make crash-full)
#   SEED=N, SEEDS=N	first seed (see lib.sh) and how many (default: 1; FULL: 4)
#   QEMU=N	each Nth state is judged by qemu-img too (default: 40; FULL: 1)
#   tests/crash/run.sh [WORD]	only variants with WORD in their name
. "$(dirname "$0")/../lib.sh"

have qemu-img && have qemu-io || { skip "no qemu-img and qemu-io to make images with"; finish; }
only=$1
seeds=${SEEDS:-${FULL:+4}}
qemu=${QEMU:-${FULL:+1}}
cd "$work" || exit 1

# Each sector is one pattern of 8 bytes: crash.c tells sectors apart by that.
i=10
while [ $i -lt 42 ]; do
	case $i in
	1[5-9]|2[7-9]) head -c 32768 /dev/zero ;;
	*) yes "base-$i" | head -c 32768 ;;
	esac
	i=$((i + 1))
done >base.raw
truncate -s 1114624 base.raw
size=$(stat -c %s base.raw)

# What images are based on, for states that qemu-img opens.
mkdir judge && ln -s ../base.raw ../lower.qcow2 ../lower.vmdk ../lower.vhdx ../lower.vpc ../lower.qed ../lower.qcow judge/

variant() {
	name=$1 keys=$2
	shift 2
	case $name in *"$only"*) ;; *) return ;; esac
	n=${seeds:-1}
	while [ "$n" -gt 0 ]; do
		n=$((n - 1))
		rm -f image.* image-* data.raw
		"$@" >make.log 2>&1 || { fail "$name: cannot be made: $(head -n 1 make.log)"; return; }
		image=$(echo image.*)
		with=
		for file in data.raw image-*; do
			[ ! -f "$file" ] || with="$with with=$file"
		done
		# shellcheck disable=SC2086 # words are wanted
		try "$name, seed $((seed + n))" timeout 3600 "$build/tests/crash/crash" "$image" "${image##*.}" \
			seed=$((seed + n)) qemu=${qemu:-40} judge="$work/judge" $with \
			${FULL:+full=1 count=120} $keys || continue
		[ -z "$VERBOSE$FULL" ] || cat .out
	done
}
empty() { qemu-img create -q -f qcow2 -o "$1" image.qcow2 $size; }
filled() { qemu-img convert -f raw -O qcow2 -o "$1" base.raw image.qcow2; }
compressed() { qemu-img convert -c -f raw -O qcow2 -o "$1" base.raw image.qcow2; }
# Encrypted: the passphrase is pw.
encrypted() { "$imgtool" convert --object secret,id=s,data=pw -f raw -O qcow2 -o "encrypt.key-secret=s,$1" base.raw image.qcow2; }
luks() { "$imgtool" convert --object secret,id=s,data=pw -f raw -O luks -o key-secret=s,iter-time=1 base.raw image.luks; }
encrypted_over() {
	"$imgtool" create -q --object secret,id=s,data=pw -f qcow2 -o "encrypt.key-secret=s,$1" -b base.raw -F raw image.qcow2 $size
}
over() { qemu-img create -q -f qcow2 -o "$1" -b base.raw -F raw image.qcow2 $size; }
snapshots() {
	filled "$1" && qemu-img snapshot -c one image.qcow2 &&
		yes "after-1" | head -c 200704 >after && qemu-io -f qcow2 -c "write -q -s after 64k 200704" image.qcow2
}
packed_snapshots() {
	compressed "$1" && qemu-img snapshot -c one image.qcow2 &&
		yes "after-1" | head -c 200704 >after && qemu-io -f qcow2 -c "write -q -s after 64k 200704" image.qcow2
}
over_packed() {
	qemu-img convert -c -f raw -O qcow2 base.raw lower.qcow2 &&
		qemu-img create -q -f qcow2 -o "$1" -b lower.qcow2 -F qcow2 image.qcow2 $size
}
# A disk that had data to its end before it was made smaller.
shrunk() {
	qemu-img create -q -f qcow2 -o "$1" image.qcow2 2M &&
		yes "early-1" | head -c 2097152 >before && qemu-io -f qcow2 -c "write -q -s before 0 2M" image.qcow2 &&
		qemu-img resize -q -f qcow2 --shrink image.qcow2 "$2"
}
# An overlay that ends before its base does, inside a cluster.
over_part() { qemu-img create -q -f qcow2 -o "$1" -b base.raw -F raw image.qcow2 "$2"; }
vmdk_split() { "$imgtool" convert -f raw -O vmdk -o "subformat=$1" base.raw image.vmdk; }
# As a datastore has it: a flat extent of the type VMFS, without an offset.
vmdk_vmfs() {
	vmdk_split monolithicFlat && sed -i -e 's/ FLAT \(".*"\) 0$/ VMFS \1/' -e 's/monolithicFlat/vmfs/' image.vmdk &&
		grep -q ' VMFS "image-flat.vmdk"' image.vmdk
}
plain() { cp base.raw image.raw; }
vmdk_empty() { "$imgtool" create -q -f vmdk -o "$1" image.vmdk $size; }
vmdk_filled() { "$imgtool" convert -f raw -O vmdk -o "$1" base.raw image.vmdk; }
vmdk_theirs() { qemu-img convert -f raw -O vmdk -o "$1" base.raw image.vmdk; }
vmdk_extent() {
	"$imgtool" convert -f raw -O vmdk -o "subformat=$1" base.raw split.vmdk && mv split-s001.vmdk image.vmdk
}
vmdk_over() {
	qemu-img convert -f raw -O vmdk base.raw lower.vmdk &&
		"$imgtool" create -q -f vmdk -o "$1" -b lower.vmdk -F vmdk image.vmdk
}
vmdk_over_stream() {
	"$imgtool" convert -f raw -O vmdk -o subformat=streamOptimized base.raw lower.vmdk &&
		"$imgtool" create -q -f vmdk -o "$1" -b lower.vmdk -F vmdk image.vmdk
}
vpc_empty() { "$imgtool" create -q -f vpc -o "force_size=on,$1" image.vpc $size; }
vpc_filled() { "$imgtool" convert -f raw -O vpc -o "force_size=on,$1" base.raw image.vpc; }
vpc_theirs() { qemu-img convert -f raw -O vpc -o "force_size=on,$1" base.raw image.vpc; }
vpc_over() {
	"$imgtool" convert -f raw -O vpc -o force_size=on base.raw lower.vpc &&
		"$imgtool" create -q -f vpc -o "$1" -b lower.vpc -F vpc image.vpc
}
vhdx_empty() { "$imgtool" create -q -f vhdx -o "block_size=1M,$1" image.vhdx $size; }
vhdx_theirs() { qemu-img convert -f raw -O vhdx -o "block_size=1M,$1" base.raw image.vhdx; }
parallels_theirs() { qemu-img convert -f raw -O parallels -o "$1" base.raw image.parallels; }
parallels_ours() { "$imgtool" create -q -f parallels -o "$1" image.parallels $size; }
parallels_old() {
	virtualbox_parallels image.parallels $size
	"$imgtool" convert -n -f raw -O parallels base.raw image.parallels
}
parallels_folder() {
	guid=5fbaabe3-6958-40ff-92a7-860e329aab41
	parallels_descriptor $guid >image.parallels
	"$imgtool" create -q -f parallels -o "$1" image-0-$guid.hds 512k &&
		"$imgtool" create -q -f parallels -o "$1" image-1-$guid.hds $((size - 524288)) &&
		"$imgtool" convert -n -f raw -O parallels base.raw image.parallels
}
vhdx_over() {
	"$imgtool" convert -f raw -O vhdx -o block_size=1M base.raw lower.vhdx &&
		"$imgtool" create -q -f vhdx -o "block_size=1M,$1" -b lower.vhdx -F vhdx image.vhdx
}
# The grain table is missing in both directories (sectors 21 and 36): it has to be made.
vmdk_bare() {
	vmdk_empty "$1" && for sector in 21 36; do
		dd if=/dev/zero of=image.vmdk bs=1 count=4 seek=$((sector * 512)) conv=notrunc status=none
	done
}
vdi_empty() { "$imgtool" create -q -f vdi -o "$1" image.vdi $size; }
vdi_filled() { "$imgtool" convert -f raw -O vdi -o "$1" base.raw image.vdi; }
vdi_theirs() { qemu-img convert -f raw -O vdi -o "$1" base.raw image.vdi; }
vdi_over() {
	qemu-img convert -f raw -O vdi base.raw lower.vdi &&
		"$imgtool" create -q -f vdi -o "$1" -b lower.vdi -F vdi image.vdi
}
qed_empty() { "$imgtool" create -q -f qed -o "$1" image.qed $size; }
qed_filled() { "$imgtool" convert -f raw -O qed -o "$1" base.raw image.qed; }
qed_theirs() { qemu-img convert -f raw -O qed -o "$1" base.raw image.qed; }
qed_over() { qemu-img create -q -f qed -o "$1" -b base.raw -F raw image.qed $size; }
qed_over_qed() {
	qemu-img convert -f raw -O qed base.raw lower.qed && qemu-img create -q -f qed -o "$1" -b lower.qed -F qed image.qed
}
qcow_empty() { "$imgtool" create -q -f qcow image.qcow $size; }
qcow_filled() { "$imgtool" convert -f raw -O qcow base.raw image.qcow; }
qcow_packed() { "$imgtool" convert -c -f raw -O qcow base.raw image.qcow; }
qcow_theirs() { qemu-img convert -f raw -O qcow base.raw image.qcow; }
qcow_over() { qemu-img create -q -f qcow -b "$1" -F "$2" image.qcow $size; }
# The name has clusters of its own, behind all others, and moves when some of these are given up.
qcow_renamed() {
	qcow_over base.raw raw && qemu-io -f qcow -c "write -q -s base.raw 0 $size" image.qcow &&
		"$imgtool" rebase -q -u -f qcow -b "$(printf './%.0s' $(seq 500))base.raw" -F raw image.qcow
}
qcow_over_qcow() {
	"$imgtool" convert -c -f raw -O qcow base.raw lower.qcow && qcow_over lower.qcow qcow
}
# 23 entries: the data begins at a whole sector.
vdi_version0() { vdi_of_version0 "$1" image.vdi $size; }

variant "raw" "" plain
variant "luks" "secret=pw" luks
variant "qcow2 v3, 4k" "" empty cluster_size=4k
variant "qcow2 v3, 512" "" empty cluster_size=512
variant "qcow2 v3, 64k" "" empty compat=1.1
variant "qcow2 v2, 512, filled" "" filled compat=0.10,cluster_size=512
variant "qcow2 v3, 4k, filled, refcount 1" "" filled cluster_size=4k,refcount_bits=1
variant "qcow2 v3, 512, refcount 64" "" empty cluster_size=512,refcount_bits=64
variant "qcow2 extended L2, 16k" "" empty extended_l2=on,cluster_size=16k
variant "qcow2 extended L2, 16k, filled" "" filled extended_l2=on,cluster_size=16k
variant "qcow2 4k over raw" "" over cluster_size=4k
variant "qcow2 extended L2 over raw" "" over extended_l2=on,cluster_size=16k
variant "qcow2 4k compressed" "" compressed cluster_size=4k
variant "qcow2 64k compressed zstd" "" compressed compression_type=zstd
variant "qcow2 4k with a snapshot" "" snapshots cluster_size=4k
variant "qcow2 512 with a snapshot" "" snapshots cluster_size=512
variant "qcow2 extended L2 with a snapshot" "" snapshots extended_l2=on,cluster_size=16k
variant "qcow2 4k lazy refcounts" "lazy=1" empty lazy_refcounts=on,cluster_size=4k
variant "qcow2 512 lazy refcounts, filled" "lazy=1" filled lazy_refcounts=on,cluster_size=512
variant "qcow2 4k, encrypted by AES" "secret=pw" encrypted encrypt.format=aes,cluster_size=4k
variant "qcow2 v2 512 over raw, encrypted by AES" "secret=pw" encrypted_over encrypt.format=aes,cluster_size=512,compat=0.10
variant "qcow2 4k, encrypted by LUKS" "secret=pw" encrypted encrypt.format=luks,encrypt.iter-time=1,cluster_size=4k
variant "qcow2 extended L2 over raw, encrypted by LUKS" "secret=pw" \
	encrypted_over encrypt.format=luks,encrypt.iter-time=1,extended_l2=on,cluster_size=16k
variant "vmdk" "" vmdk_empty subformat=monolithicSparse
variant "vmdk filled" "" vmdk_filled subformat=monolithicSparse
variant "vmdk zeroed grains" "" vmdk_filled zeroed_grain=on
variant "vmdk without tables" "" vmdk_bare subformat=monolithicSparse
variant "vmdk by qemu-img" "" vmdk_theirs subformat=monolithicSparse
variant "qcow2 4k, packed writes" "compress=1" empty cluster_size=4k
variant "qcow2 512, packed writes" "compress=1" empty cluster_size=512
variant "qcow2 64k zstd, packed writes" "compress=1" empty compression_type=zstd
variant "qcow2 v2 4k, packed writes over packed" "compress=1" compressed compat=0.10,cluster_size=4k
variant "qcow2 4k refcount 1, packed writes" "compress=1" filled cluster_size=4k,refcount_bits=1
variant "qcow2 4k refcount 2, packed writes" "compress=1" compressed cluster_size=4k,refcount_bits=2
variant "qcow2 extended L2, packed writes" "compress=1" filled extended_l2=on,cluster_size=16k
variant "qcow2 4k, packed writes with a snapshot" "compress=1" packed_snapshots cluster_size=4k
variant "qcow2 4k, packed writes over a packed base" "compress=1" over_packed cluster_size=4k
variant "qcow2 4k lazy refcounts, packed writes" "compress=1 lazy=1" filled lazy_refcounts=on,cluster_size=4k
variant "vmdk extent of a split one" "qemu=0" vmdk_extent twoGbMaxExtentSparse
variant "vmdk over vmdk" "" vmdk_over subformat=monolithicSparse
variant "vmdk zeroed grains over vmdk" "" vmdk_over zeroed_grain=on
variant "vmdk over a stream" "" vmdk_over_stream subformat=monolithicSparse
variant "vhdx" "log=1" vhdx_empty log_size=1M
variant "vhdx, not present" "log=1" vhdx_empty block_state_zero=off
variant "vhdx by qemu-img" "log=1" vhdx_theirs log_size=1M
variant "vhdx fixed" "log=1" vhdx_theirs subformat=fixed
variant "vhdx over vhdx" "qemu=0" vhdx_over log_size=1M
variant "vpc" "" vpc_empty block_size=64k
variant "vpc, filled" "" vpc_filled block_size=64k
variant "vpc, blocks of 4k, filled" "" vpc_filled block_size=4k
variant "vpc by qemu-img" "" vpc_theirs subformat=dynamic
variant "vpc fixed" "" vpc_theirs subformat=fixed
variant "vpc over vpc" "qemu=0" vpc_over block_size=64k
variant "vpc over vpc, blocks of 2M" "qemu=0" vpc_over block_size=2M
variant "parallels" "" parallels_ours cluster_size=64k
variant "parallels by qemu-img" "" parallels_theirs cluster_size=64k
variant "parallels of 63 sectors" "" parallels_ours cluster_size=32256
variant "parallels of the old kind" "" parallels_old
variant "parallels of sectors" "" parallels_theirs cluster_size=512

# qemu-img takes a count that is ahead, which a power cut may leave, for an error.
variant "vdi 4k" "qemu=0" vdi_empty block_size=4k
variant "vdi 64k, filled" "qemu=0" vdi_filled block_size=64k
variant "vdi 4k, static" "qemu=0" vdi_filled block_size=4k,static=on
variant "vdi by qemu-img" "qemu=0" vdi_theirs static=off
variant "vdi child" "qemu=0" vdi_over block_size=4k
variant "vdi version 0" "qemu=0" vdi_version0 block_size=48640
variant "vdi version 0, between sectors" "shift=492 qemu=0" vdi_version0 block_size=64k
variant "vdi version 0, between sectors, churn" "shift=184 churn=1 count=120 qemu=0" vdi_version0 block_size=16k

variant "qed" "" qed_empty cluster_size=64k
variant "qed 4k, tables of a cluster, not for QEMU" "qemu=0" qed_empty cluster_size=4k,table_size=1
variant "qed 4k, filled" "" qed_filled cluster_size=4k
variant "qed by qemu-img" "" qed_theirs cluster_size=4k,table_size=2
variant "qed large tables" "" qed_empty cluster_size=256k,table_size=16
variant "qed over raw" "" qed_over cluster_size=4k,table_size=2
variant "qed over qed" "" qed_over_qed cluster_size=64k

# qemu-img checks none.
variant "qcow" "" qcow_empty
variant "qcow, filled" "" qcow_filled
variant "qcow by qemu-img" "" qcow_theirs
variant "qcow, packed writes" "compress=1" qcow_empty
variant "qcow, packed writes over packed" "compress=1" qcow_packed
variant "qcow over raw" "" qcow_over base.raw raw
variant "qcow over raw, packed writes" "compress=1" qcow_over base.raw raw
variant "qcow over qcow" "" qcow_over_qcow

# Images of several files.
variant "parallels folder" "qemu=0" parallels_folder cluster_size=4k
variant "qcow2 4k, data file" "" empty cluster_size=4k,data_file=data.raw
variant "qcow2 64k, data file" "churn=1" filled data_file=data.raw
variant "qcow2 4k, raw data file" "churn=1" empty cluster_size=4k,data_file=data.raw,data_file_raw=on
variant "qcow2 extended L2, data file" "" empty extended_l2=on,cluster_size=16k,data_file=data.raw
variant "vmdk split" "" vmdk_split twoGbMaxExtentSparse
variant "vmdk flat" "" vmdk_split monolithicFlat
variant "vmdk flat, split" "" vmdk_split twoGbMaxExtentFlat

# Writable and read-only in turn.
variant "qcow2 4k, roles in turn" "roles=1" empty cluster_size=4k
variant "qcow2 64k with a snapshot, roles in turn" "roles=1 compress=1" packed_snapshots compat=1.1
variant "qcow2 extended L2, roles in turn" "roles=1 churn=1" filled extended_l2=on,cluster_size=16k
variant "qcow2 4k lazy refcounts, roles in turn" "roles=1 lazy=1" filled lazy_refcounts=on,cluster_size=4k
variant "qcow2 4k, data file, roles in turn" "roles=1" empty cluster_size=4k,data_file=data.raw
variant "vmdk, roles in turn" "roles=1 churn=1" vmdk_filled zeroed_grain=on
variant "vdi, roles in turn" "roles=1 churn=1 qemu=0" vdi_filled block_size=4k
variant "qed, roles in turn" "roles=1 churn=1" qed_filled cluster_size=4k,table_size=2
variant "qed over raw, roles in turn" "roles=1" qed_over cluster_size=4k
variant "qcow, roles in turn" "roles=1 churn=1 compress=1" qcow_packed
variant "vpc, roles in turn" "roles=1 churn=1" vpc_filled block_size=64k
variant "vpc over vpc, roles in turn" "qemu=0 roles=1" vpc_over block_size=64k
variant "vhdx, roles in turn" "log=1 roles=1" vhdx_theirs log_size=1M
variant "vhdx over vhdx, roles in turn" "qemu=0 roles=1" vhdx_over log_size=1M
variant "vmdk split, roles in turn" "roles=1" vmdk_split twoGbMaxExtentSparse

# Much that is freed and used again; little memory for tables.
variant "qcow2 4k, churn" "churn=1 compress=1 count=120" empty cluster_size=4k
variant "qcow2 512, churn, tiny cache" "churn=1 compress=1 cache=16384 count=120" empty cluster_size=512
variant "qcow2 v2 4k, churn" "churn=1 count=120" filled compat=0.10,cluster_size=4k
variant "qcow2 extended L2, churn, tiny cache" "churn=1 cache=16384 count=120" filled extended_l2=on,cluster_size=16k
variant "qcow2 4k, churn with a snapshot" "churn=1 compress=1 count=120" packed_snapshots cluster_size=4k
variant "qcow2 4k over raw, churn" "churn=1 count=120" over cluster_size=4k
variant "vdi, churn, tiny cache" "churn=1 cache=16384 count=120 qemu=0" vdi_empty block_size=512
variant "vdi child, churn" "churn=1 count=120 qemu=0" vdi_over block_size=4k
variant "qed, churn, tiny cache" "churn=1 cache=16384 count=120" qed_filled cluster_size=4k,table_size=2
variant "qed over qed, churn" "churn=1 count=120" qed_over_qed cluster_size=4k,table_size=2
variant "qcow, churn, tiny cache" "churn=1 compress=1 cache=16384 count=120" qcow_packed
variant "qcow over qcow, churn" "churn=1 count=120" qcow_over_qcow
variant "qcow over raw with a long name, churn" "churn=1 compress=1 count=120" qcow_renamed
variant "vmdk, churn, tiny cache" "churn=1 cache=16384 count=120" vmdk_filled zeroed_grain=on
variant "vpc, churn, tiny cache" "churn=1 cache=16384 count=120" vpc_theirs subformat=dynamic
variant "vpc, blocks of 4k, churn" "churn=1 count=120" vpc_filled block_size=4k
variant "vpc over vpc, churn" "qemu=0 churn=1 count=120" vpc_over block_size=64k
variant "vhdx, churn, tiny cache" "log=1 churn=1 cache=16384 count=120" vhdx_theirs log_size=1M
variant "vhdx over vhdx, churn" "qemu=0 churn=1 count=120" vhdx_over log_size=2M,block_size=2M

# A sync fails; what is said to be durable after it must be.
for sync in 1 2 3 5 8 13; do
	variant "qcow2 4k, sync $sync fails" "fail=$sync count=30" empty cluster_size=4k
	variant "qcow2 4k, data file, sync $sync fails" "fail=$sync count=30" empty cluster_size=4k,data_file=data.raw
	variant "vhdx, sync $sync fails" "log=1 fail=$sync count=30" vhdx_empty log_size=1M
	variant "vpc, sync $sync fails" "fail=$sync count=30" vpc_filled block_size=64k
	variant "vpc over vpc, sync $sync fails" "qemu=0 fail=$sync count=30" vpc_over block_size=4k
	variant "vhdx over vhdx, sync $sync fails" "qemu=0 fail=$sync count=30" vhdx_over log_size=1M
	variant "qed, sync $sync fails" "fail=$sync count=30" qed_filled cluster_size=4k,table_size=2
	variant "qcow, sync $sync fails" "fail=$sync count=30" qcow_filled
	variant "vmdk split, sync $sync fails" "fail=$sync count=30" vmdk_split twoGbMaxExtentSparse
done

# Changing the size: the old disk, or the new one with zeroes where it grew.
variant "resize qcow2 4k" "resize=2097152 resize=524288 resize=1048576" filled cluster_size=4k
variant "resize qcow2 512, odd" "resize=99840 resize=700416 resize=33280" filled cluster_size=512
variant "resize qcow2 64k, odd" "resize=300032 resize=330240 resize=2097152" filled compat=1.1
variant "resize qcow2 v2" "resize=300032 resize=2097152" filled compat=0.10
variant "resize qcow2 extended L2" "resize=300032 resize=2097152" filled extended_l2=on,cluster_size=16k
variant "resize qcow2 compressed" "resize=300032 resize=2097152" compressed compat=1.1
variant "resize qcow2 with a snapshot" "resize=300032 resize=2097152" snapshots cluster_size=4k
variant "resize qcow2 4k, preallocated" "resize=300032 resize=1048576 how=1" filled cluster_size=4k
variant "resize qcow2 16k, reserved" "resize=300032 resize=1048576 how=2" filled cluster_size=16k,extended_l2=on
variant "resize qcow2 that was larger" "resize=2097152" shrunk compat=1.1 300032
variant "resize qcow2 4k that was larger, tiny cache" "resize=2097152 cache=16384" shrunk cluster_size=4k 1009664
variant "resize an odd overlay" "resize=2097152" over_part compat=1.1 493k
variant "resize an odd overlay within a cluster" "resize=510976" over_part compat=1.1 493k
variant "resize an odd overlay, v2" "resize=2097152" over_part compat=0.10 493k
variant "resize an odd overlay, extended L2" "resize=2097152" over_part extended_l2=on 493k
variant "resize an odd overlay, preallocated" "resize=2097152 how=1" over_part compat=1.1 493k
variant "resize an odd overlay, shrunk first" "resize=99840 resize=2097152" over_part cluster_size=4k 493k
variant "resize data file" "resize=300032 resize=2097152" filled data_file=data.raw
variant "resize data file, preallocated" "resize=300032 resize=2097152 how=1" filled data_file=data.raw
variant "resize raw data file" "resize=300032 resize=2097152" empty cluster_size=4k,data_file=data.raw,data_file_raw=on
variant "resize vhdx" "log=1 resize=300032 resize=2097152 resize=5242880" vhdx_theirs log_size=1M
variant "resize vhdx, fixed" "log=1 resize=3145728 resize=1048576" vhdx_theirs subformat=fixed
variant "resize parallels" "resize=300032 resize=2097152 resize=5242880" parallels_theirs cluster_size=4k
variant "resize parallels of sectors" "resize=2097152 resize=300032" parallels_ours cluster_size=512
variant "resize parallels of the old kind" "resize=300032 resize=2097152 resize=9243136" parallels_old
variant "resize vhdx over vhdx" "qemu=0 resize=300032 resize=2097152" vhdx_over log_size=1M
variant "resize vdi" "resize=2097152 resize=524288 resize=1048576 qemu=0" vdi_filled block_size=64k
variant "resize vdi, whose map moves" "resize=8388608 resize=300032 resize=16777216 qemu=0" vdi_filled block_size=4k
variant "resize vdi 512, whose map moves" "resize=2097152 resize=33280 resize=4194304 qemu=0" vdi_filled block_size=512
variant "resize vdi static" "resize=8388608 resize=300032 resize=2097152 qemu=0" vdi_filled block_size=4k,static=on
variant "resize vdi child" "resize=300032 resize=8388608 qemu=0" vdi_over block_size=4k
variant "resize vdi version 0" "resize=2097152 resize=300032 qemu=0" vdi_version0 block_size=48640
variant "resize vdi version 0, between sectors" "shift=492 resize=2097152 resize=300032 qemu=0" \
	vdi_version0 block_size=64k
variant "resize qed" "resize=2097152 resize=524288 resize=1048576" qed_filled cluster_size=64k
variant "resize qed 4k" "resize=99840 resize=5242880 resize=300032" qed_filled cluster_size=4k,table_size=2
variant "resize qed over raw" "resize=300032 resize=2097152" qed_over cluster_size=4k,table_size=2
variant "resize qcow" "resize=2097152 resize=524288 resize=1048576" qcow_filled
variant "resize qcow, whose L1 table moves" "resize=1153433600 resize=300032 resize=5242880" qcow_packed
variant "resize qcow over raw with a long name" "resize=300032 resize=524288" qcow_renamed
variant "resize qcow over raw, whose L1 table moves" "resize=300032 resize=301989888" qcow_over base.raw raw
variant "resize vpc" "resize=300032 resize=2097152 resize=5242880" vpc_filled block_size=64k
variant "resize vpc, blocks of 4k" "resize=300032 resize=5242880" vpc_filled block_size=4k
variant "resize vpc by qemu-img" "resize=300032 resize=6291456" vpc_theirs subformat=dynamic
variant "resize vpc, fixed" "resize=3145728 resize=300032 resize=300544 resize=1048576" vpc_theirs subformat=fixed
variant "resize vpc, fixed, preallocated" "resize=2097152 resize=1048576 how=3" vpc_theirs subformat=fixed
variant "resize vpc, fixed, reserved" "resize=1115136 resize=1150976 how=2" vpc_filled subformat=fixed
variant "resize vpc over vpc" "qemu=0 resize=300032 resize=2097152" vpc_over block_size=64k
variant "resize vhdx, reserved" "log=1 resize=300032 resize=3145728 how=2" vhdx_theirs log_size=1M
variant "resize vhdx over vhdx, preallocated" "qemu=0 resize=300032 resize=3145728 how=3" vhdx_over log_size=1M
variant "resize vhdx over vhdx, tiny cache" "qemu=0 cache=16384 resize=2097152 resize=99840 resize=3145728" vhdx_over log_size=1M
variant "resize vmdk" "resize=300032 resize=2097152 resize=1048576" vmdk_filled subformat=monolithicSparse
variant "resize vmdk, more tables" "resize=40000512 resize=300032" vmdk_filled zeroed_grain=on
variant "resize vmdk over vmdk" "resize=300032 resize=2097152" vmdk_over subformat=monolithicSparse
variant "resize vmdk split" "resize=300032 resize=2097152 resize=41943040 resize=524288" vmdk_split twoGbMaxExtentSparse
variant "resize vmdk flat" "resize=300032 resize=2097152 resize=524288" vmdk_split monolithicFlat
variant "resize vmdk flat, preallocated" "resize=300032 resize=1048576 how=3" vmdk_split monolithicFlat
variant "resize vmdk flat, split" "resize=2097152 resize=300032 resize=1048576" vmdk_split twoGbMaxExtentFlat
variant "resize vmdk on VMFS" "qemu=0 resize=300032 resize=2097152 resize=524288" vmdk_vmfs
variant "resize raw" "resize=300032 resize=2097152" plain
finish

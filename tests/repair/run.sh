#!/bin/sh
# Damage to every table of small images, bit by bit and at random: see repair.c.
#
#   FULL=1	every bit, and more of it shown to qemu-img (make repair-full; half an hour)
#   SEED=N	of what is tried of it: see lib.sh
#   QEMU="qemu-img ..."	the programs that have to agree
#   tests/repair/run.sh [WORD]	only images with WORD in their name
. "$(dirname "$0")/../lib.sh"

have qemu-img && have qemu-io || { skip "no qemu-img and qemu-io to make images with"; finish; }
only=$1
qemu=${QEMU:-qemu-img}
cd "$work" || exit 1
yes 'some content' | head -c 60000 >c.raw
truncate -s 70144 c.raw # no multiple of most clusters
cp c.raw base.raw

# damage IMAGE STEP COUNT: each STEP'th bit, and COUNT times random bytes.
damage() {
	ask=60
	[ -z "$FULL" ] || { set -- "$1" 1 2000; ask=25; }
	# shellcheck disable=SC2086 # several programs
	try "$1: bits" "$build/tests/repair/repair" "$1" bits "$2" "$seed" $ask $qemu
	# shellcheck disable=SC2086
	try "$1: bytes" "$build/tests/repair/repair" "$1" bytes "$3" "$seed" $ask $qemu
	# shellcheck disable=SC2086
	try "$1: tables" "$build/tests/repair/repair" "$1" tables "$3" "$seed" $ask $qemu
}

# entries IMAGE COUNT: COUNT times entries of the table of units.
entries() {
	count=$2
	[ -z "$FULL" ] || count=5000
	# shellcheck disable=SC2086 # several programs
	try "$1: entries" "$build/tests/repair/repair" "$1" entries "$count" "$seed" 20 $qemu
}

# image NAME STEP OPTIONS...: convert's, made by this tool.
image() {
	name=$1 step=$2
	case $name in *"$only"*) ;; *) return ;; esac
	shift 2
	try "$name: made" "$imgtool" convert -f raw -O qcow2 "$@" c.raw "$name.qcow2" && damage "$name.qcow2" "$step" 60
}

# edited NAME STEP OPTIONS...: create's, made by qemu-img and written to by the commands on standard input.
edited() {
	name=$1 step=$2
	case $name in *"$only"*) ;; *) return ;; esac
	shift 2
	try "$name: made" qemu-img create -q -f qcow2 "$@" || return
	grep . >commands
	try "$name: written" sh -c "qemu-io -f qcow2 $name.qcow2 <commands"
	case $name in *snapshots*)
		qemu-img snapshot -c one "$name.qcow2"
		qemu-io -f qcow2 -c 'write -P 5 0 10k' -c 'write -z 20k 8k' "$name.qcow2" >/dev/null
		qemu-img snapshot -c two "$name.qcow2"
		qemu-io -f qcow2 -c 'write -P 6 4k 4k' "$name.qcow2" >/dev/null ;;
	*bitmaps*)
		qemu-img bitmap --add -g 4k "$name.qcow2" b
		qemu-io -f qcow2 -c 'write -P 5 0 10k' "$name.qcow2" >/dev/null ;;
	esac
	damage "$name.qcow2" "$step" 60
}

image small-clusters 61 -o cluster_size=512
image small-packed 61 -c -o cluster_size=512
image narrow-counts 61 -o cluster_size=512,refcount_bits=1
image wide-counts 97 -o cluster_size=512,refcount_bits=64
image version-2 23 -c -o cluster_size=4k,compat=0.10
image default 13
image zstd 13 -c -o compression_type=zstd
image extended 17 -o extended_l2=on,cluster_size=16k
edited subclusters 17 -o extended_l2=on,cluster_size=16k subclusters.qcow2 70144 <<'END'
write -P 4 3k 2k
write -P 5 20k 30k
write -z 24k 2k
END
edited zeroes 17 -o cluster_size=4k,preallocation=metadata zeroes.qcow2 70144 <<'END'
write -P 6 4k 4k
write -z 8k 12k
END
edited overlay 17 -o cluster_size=4k -b base.raw -F raw overlay.qcow2 <<'END'
write -P 6 4k 4k
write -z 20k 4k
write -P 7 30k 3k
END
edited data-file 17 -o cluster_size=4k,data_file=data-file.raw data-file.qcow2 70144 <<'END'
write -P 6 4k 4k
write -z 20k 4k
write -P 3 64k 4k
END
edited snapshots 41 -o cluster_size=4k snapshots.qcow2 70144 <<'END'
write -P 1 0 60k
END
edited bitmaps 17 -o cluster_size=4k bitmaps.qcow2 70144 <<'END'
write -P 1 0 60k
END

# made NAME STEP COUNT COMMAND...: NAME, of another format, is made by imgtool (or COMMAND is another one's).
made() {
	name=$1 step=$2 count=$3
	case $name in *"$only"*) ;; *) return ;; esac
	shift 3
	case $1 in
	convert | create) try "$name: made" "$imgtool" "$@" || return ;;
	*) try "$name: made" "$@" || return ;;
	esac
	case $name in child*)
		try "$name: written" "$imgtool" io -f "${name##*.}" "$name" -c 'write -q -P 5 10k 90k' -c 'write -q -P 6 1M 5k' ||
			return ;;
	esac
	damage "$name" "$step" "$count"
	case $name in fixed*) return ;; esac
	entries "$name" 60
}
yes 'some content' | head -c 600000 >d.raw && truncate -s 3145728 d.raw
seq 999999 | head -c 1000000 >e.raw && truncate -s 2000896 e.raw && seq 100000 | head -c 100000 >>e.raw && truncate -s 3000320 e.raw
"$imgtool" convert -f raw -O vpc -o force_size=on d.raw base.vpc
qemu-img convert -f raw -O vhdx -o block_size=1M d.raw base.vhdx
qemu-img convert -f raw -O vdi e.raw base.vdi
made dynamic.vpc 31 60 convert -f raw -O vpc -o force_size=on,block_size=64k e.raw dynamic.vpc
made fixed.vpc 31 20 convert -f raw -O vpc -o force_size=on,subformat=fixed d.raw fixed.vpc
made child.vpc 31 60 create -f vpc -o block_size=64k -b base.vpc -F vpc child.vpc
made dynamic.vhdx 211 15 convert -f raw -O vhdx -o block_size=1M e.raw dynamic.vhdx
made child.vhdx 211 15 create -f vhdx -o block_size=1M -b base.vhdx -F vhdx child.vhdx

made dynamic.vdi 13 60 convert -f raw -O vdi e.raw dynamic.vdi
made static.vdi 37 30 convert -f raw -O vdi -o static=on e.raw static.vdi
# QEMU takes neither blocks of these sizes nor children.
all=$qemu qemu=
for name in sectors small version-0 child; do
	case $name in
	sectors) set -- convert -f raw -O vdi -o block_size=1536 e.raw sectors.vdi ;;
	small) set -- convert -f raw -O vdi -o block_size=64k e.raw small.vdi ;;
	version-0) set -- eval 'vdi_of_version0 block_size=4k version-0.vdi 3000320 &&
		"$imgtool" io -f vdi version-0.vdi -c "write -q -s e.raw 0 3000320"' ;;
	*) set -- create -f vdi -o block_size=16k -b base.vdi -F vdi child.vdi ;;
	esac
	made $name.vdi 197 60 "$@"
done
qemu=$all

made plain.qed 13 60 convert -f raw -O qed e.raw plain.qed
made small.qed 61 60 convert -f raw -O qed -o cluster_size=4k,table_size=2 e.raw small.qed
head -c 2000000 e.raw >f.raw && truncate -s 2M f.raw	# what one L2 table has
made plain.qcow 61 60 convert -f raw -O qcow f.raw plain.qcow
made plain.parallels 13 60 convert -f raw -O parallels -o cluster_size=64k e.raw plain.parallels
made odd.parallels 31 60 convert -f raw -O parallels -o cluster_size=32256 e.raw odd.parallels
made sectors.parallels 997 40 convert -f raw -O parallels -o cluster_size=512 e.raw sectors.parallels
made old.parallels 31 60 eval 'virtualbox_parallels old.parallels 3000320 &&
	"$imgtool" convert -n -f raw -O parallels e.raw old.parallels'
finish

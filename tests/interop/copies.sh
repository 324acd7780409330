# Copies of what only chains, odd sizes and used targets have: sources and targets made at random by
# qemu-img and qemu-io, the copy compared with what qemu-img makes of the source. Sourced by run.sh.
#
#   COPIES=150	how many
#   SEED=N	which: see lib.sh

copies=${COPIES:-150}

# random N: $r is 0 .. N-1. pick WORD...: $r is one of them.
random_state=$seed
random() {
	random_state=$(((random_state * 6364136223846793005 + 1442695040888963407) & 0x7fffffffffffffff))
	r=$((random_state / 4294967296 % $1))
}
pick() { random $# && shift "$r" && r=$1; }

pick_size() {	# 512 bytes to 3 MiB, with and without a relation to clusters
	pick 1 64 512 600 1024 4096 6000 && size=$r
	random 64
	size=$(((size + r) * 512))
}

# Changes of every length: parts of sectors' multiples, of clusters, of everything.
scribble_at_random() {	# FILE BYTES COUNT
	for _ in $(seq "$3"); do
		random $(($2 / 512)) && at=$((r * 512))
		pick 512 1536 4096 8192 60000 65536 131072 1048576 4194304 && len=$((r / 512 * 512))
		[ $((at + len)) -le "$2" ] || len=$(($2 - at))
		pick "write -q -P 0x31" "write -q -P 0x32" "write -q -P 0" "write -q -z" "write -q -zu" "write -q -s noise.bin" "discard -q"
		case $r in *noise*) [ $len -gt 0 ] && [ $len -le 1048576 ] || continue ;; esac
		[ $len -gt 0 ] && echo "$r $at $len"
	done | qemu-io -f qcow2 "$1" >/dev/null
}

qcow2_options() {
	pick cluster_size=512 cluster_size=4k cluster_size=64k cluster_size=128k cluster_size=2M extended_l2=on \
		extended_l2=on,cluster_size=16k extended_l2=on,cluster_size=2M compat=0.10 compat=1.1
	options=$r
}

# A chain of $depth images: level1 is its base, $upper the last; $described says how it was made.
make_chain() {	# PREFIX
	random 4 && depth=$((r + 1)) described=
	for level in $(seq $depth); do
		pick_size && qcow2_options
		upper=$1$level.qcow2 options=$options
		if [ "$level" = 1 ]; then
			qemu-img create -q -f qcow2 -o "$options" "$upper" $size
		else
			qemu-img create -q -f qcow2 -o "$options" -b "$1$((level - 1)).qcow2" -F qcow2 "$upper" $size
		fi
		random 8 && scribble_at_random "$upper" $size "$r"
		described="$described $size/$options"
	done
}

# The compressed layout needs no refcounts that are odd; all else is as for a plain copy.
copy_options() {
	qcow2_options
	how=
	random 2 && [ "$r" = 0 ] || how="$how -c"
	case $options in *0.10*) ;; *) random 4 && [ "$r" != 0 ] || options=$options,compression_type=zstd ;; esac
	pick "" "" -W "-m 1" "-m 16 -W" "-r 1G" && how="$how $r"
	pick "" "" "" "-S 0" "-S 512" "-S 64k" "-S 1M" && how="$how $r"
}

flatten() { qemu-img convert -f qcow2 -O raw "$1" "$2"; }

# same_chain NAME IMAGE RAW BYTES: it reads as RAW does, its first BYTES; and has sound tables.
same_chain() {
	flatten "$2" got.raw
	try "$1: same disk" cmp -n "$4" "$3" got.raw &&
		try "$1: sound" qemu-img check -q -f qcow2 "$2"
}

# Without a base; on the parent; on something further down; on a copy of the parent elsewhere; on
# something else altogether.
copy_of_chain() {
	make_chain s && copy_options
	flatten $upper want.raw
	length=$(stat -c %s want.raw)
	if [ $depth = 1 ]; then
		pick none stranger
	else
		pick none parent parent deeper copied stranger
	fi
	case $r in
	none) base= ;;
	parent) base="-B ./s$((depth - 1)).qcow2 -F qcow2" ;;
	deeper) random $((depth - 1)) && base="-B s$((r + 1)).qcow2 -F qcow2" ;;
	copied) flatten s$((depth - 1)).qcow2 copied.raw && base="-B copied.raw -F raw" ;;
	stranger)
		pick_size && qemu-img create -q -f qcow2 stranger.qcow2 $size && scribble_at_random stranger.qcow2 $size 6
		base="-B stranger.qcow2 -F qcow2" ;;
	esac
	name="copy $number:$described; convert$how -o $options $base"
	# shellcheck disable=SC2086 # words are wanted
	try "$name" "$imgtool" convert -f qcow2 -O qcow2 $how -o "$options" $base $upper out.qcow2 &&
		same_chain "$name" out.qcow2 want.raw "$length"
}

# Into a target that was made before: with something in it, a backing file, a snapshot, larger.
copy_into_used() {
	make_chain s && copy_options
	flatten $upper want.raw
	length=$(stat -c %s want.raw)
	random 3 && used=$((length + r * 40000 / 512 * 512)) backing= base=
	qcow2_options
	if [ $depth -gt 1 ]; then
		pick "" s$((depth - 1)).qcow2 s1.qcow2 && backing=$r
	fi
	qemu-img create -q -f qcow2 -o "$options" ${backing:+-b "$backing" -F qcow2} out.qcow2 $used
	random 6 && scribble_at_random out.qcow2 $used "$r"
	[ -z "$backing" ] || pick "" "-B $backing -F qcow2" && base=$r
	[ -n "$backing" ] || pick "" "" --target-is-zero && base=$r
	case $base in --target*) [ $used -gt 0 ] && qemu-io -f qcow2 -c "write -q -z 0 $used" out.qcow2 ;; esac
	pick "" snapshot && snapshot=$r
	flatten out.qcow2 before.raw
	[ -z "$snapshot" ] || qemu-img snapshot -c snap out.qcow2
	name="copy $number:$described; convert -n$how $base into $used/$options over '$backing' ($snapshot)"
	# shellcheck disable=SC2086
	try "$name" "$imgtool" convert -n -f qcow2 -O qcow2 $how $base $upper out.qcow2 || return
	same_chain "$name" out.qcow2 want.raw "$length"
	[ $used = "$length" ] ||
		try "$name: what is behind it stays" cmp -i "$length" before.raw got.raw
	[ -z "$snapshot" ] || {
		qemu-img convert -l snap -f qcow2 -O raw out.qcow2 got.raw
		try "$name: the snapshot stays" cmp before.raw got.raw
	}
}

# Several sources, which join where they like.
copy_of_several() {
	copy_options
	sources= described=
	rm -f want.raw
	random 4
	for part in $(seq $((r + 2))); do
		pick_size && made=$options && qcow2_options
		qemu-img create -q -f qcow2 -o "$options" part$part.qcow2 $size
		random 6 && scribble_at_random part$part.qcow2 $size "$r"
		flatten part$part.qcow2 part.raw && cat part.raw >>want.raw
		sources="$sources part$part.qcow2" described="$described $size/$options" options=$made
	done
	name="copy $number:$described; convert$how -o $options of all"
	# shellcheck disable=SC2086
	try "$name" "$imgtool" convert -f qcow2 -O qcow2 $how -o "$options" $sources out.qcow2 &&
		same_chain "$name" out.qcow2 want.raw "$(stat -c %s want.raw)"
	# shellcheck disable=SC2086
	try "$name, to a stream" "$imgtool" convert -f qcow2 -O vmdk -o subformat=streamOptimized $sources out.vmdk && {
		qemu-img convert -f vmdk -O raw out.vmdk got.raw
		try "$name, to a stream: same disk" cmp -n "$(stat -c %s want.raw)" want.raw got.raw
	}
}

head -c 1048576 /dev/urandom >noise.bin
for number in $(seq "$copies"); do
	mkdir -p copies && cd copies && cp ../noise.bin . || exit 1
	pick copy_of_chain copy_of_chain copy_of_chain copy_into_used copy_into_used copy_of_several
	$r
	cd "$work" && [ "$failed" = 0 ] && rm -rf copies
	[ "$failed" = 0 ] || break	# what failed stays to be looked at, if the folder is kept
done

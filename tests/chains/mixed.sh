# Chains three levels deep, of formats and sizes that differ from level to level (smaller, larger, of no whole
# units), against a plain file to which the same bytes are written: read whole, by random requests, then committed,
# rebased or converted with random cache modes and a rate. Sourced by run.sh.
#
#	MIXED=N	chains (12; FULL=1: 200)

cd "$disk" || exit 1	# for O_DIRECT
mkdir mixed && cd mixed || exit 1
modes="writeback writethrough unsafe try-none"
truncate -s 1M direct.raw
! "$imgtool" convert -T none -t none -f raw -O raw direct.raw copied.raw 2>/dev/null ||
	modes="$modes none directsync"
rm -f direct.raw copied.raw

# What can be made on a base of this format; other formats more often.
kinds_above() {
	case $1 in
	vmdk) pick qcow2 qed qcow vdi vpc vdi vpc vmdk ;;
	vhdx) pick qcow2 qed qcow vdi vpc vdi vpc vhdx ;;
	vdi) pick qcow2 qed qcow vpc vpc vdi ;;
	vpc) pick qcow2 qed qcow vdi vdi vpc ;;
	*) pick qcow2 qed qcow ;;
	esac
}

# above FORMAT PARENT_FORMAT: can it be?
can_be_above() {
	case $1 in
	qcow2 | qed | qcow) return 0 ;;
	vdi | vpc) case $2 in vdi | vpc | vmdk | vhdx) return 0 ;; esac ;;
	vmdk | vhdx) [ "$1" = "$2" ] && return 0 ;;
	esac
	return 1
}

options_of_mixed() {
	case $1 in
	qcow2 | vmdk) options_of "$1" ;;
	vpc) pick force_size=on force_size=on,block_size=64k force_size=on,block_size=4k ;;
	vhdx) pick block_size=1M block_size=2M ;;
	vdi) pick static=off block_size=4k block_size=1536 block_size=64k ;;
	qed) pick table_size=4 cluster_size=4k,table_size=2 cluster_size=256k,table_size=16 ;;
	parallels) pick cluster_size=4k cluster_size=64k cluster_size=32256 ;;
	raw | qcow) picked= ;;
	esac
}

# fill_mixed IMAGE FORMAT: writes and zeroes of any length at any place, the same in model.raw.
fill_mixed() {
	local i off len code script=() n=$((RANDOM % 5 + 2))
	for ((i = 0; i < n; i++)); do
		len=$((RANDOM * 12 + RANDOM % 512 + 1))
		((len <= size)) || len=$size
		off=$(((RANDOM * 32768 + RANDOM) % (size - len + 1)))
		((RANDOM % 2)) || { off=$((off / 512 * 512)) len=$(((len + 511) / 512 * 512)); }
		if ((RANDOM % 4 == 0)); then
			script+=(-c "write -q -z $off $len")
			head -c $len /dev/zero >piece
		else
			code=$((RANDOM % 26 + 97))
			script+=(-c "write -q -P $code $off $len")
			yes "$(printf "\\$(printf %o $code)")" | tr -d '\n' | head -c $len >piece
		fi
		dd if=piece of=model.raw bs=64k seek=$off oflag=seek_bytes conv=notrunc status=none
	done
	"$imgtool" io -f "$2" "${script[@]}" "$1"
}

# level NAME FORMAT [BACKING FORMAT]
level() {
	options_of_mixed "$2"
	made="$made $1($2 $picked $size)"
	case $picked in *block_size=4k | *block_size=1536 | *block_size=64k) [ "$2" != vdi ] || readable= ;; esac
	truncate -s $size model.raw
	# shellcheck disable=SC2086 # words are wanted
	"$imgtool" create -q -f "$2" ${picked:+-o $picked} ${3:+-b $3 -F $4} "$1" $size && fill_mixed "$1" "$2" &&
		cp model.raw "$1.raw"
}

mixed_chain() {
	local i above
	pick raw vmdk vhdx vdi vpc qed qcow parallels vmdk vhdx
	format=$picked made= formats=() readable=yes
	rm -f model.raw
	pick_size
	level m.0 $format || return
	for i in 1 2 3; do
		formats[i - 1]=$format
		kinds_above $format
		above=$picked
		# A VHDX child has the size of its parent.
		[ $above = vhdx ] || ((RANDOM % 3 == 0)) || pick_size
		level m.$i $above m.$((i - 1)) $format || return
		case $above in vdi | vpc | vhdx) readable= ;; esac
		format=$above
	done
	formats[3]=$format
}

# holds WHAT FILE FORMAT MODEL: nothing else, and it is sound.
holds() {
	try "$1: $2" sh -c '"$1" convert -f "$2" -O raw "$3" now.raw && cmp now.raw "$4"' - "$imgtool" "$3" "$2" "$4"
	[ "$3" = raw ] || try "$1: $2 is sound" "$imgtool" check -q -f "$3" "$2"
	rm -f now.raw
}

pick_modes() {
	# shellcheck disable=SC2086 # words are wanted
	{ pick $modes && to_mode=$picked && pick $modes && from_mode=$picked; }
	rate=
	((RANDOM % 2)) || rate="-r 60M"
}

mixed_convert() {
	pick raw qcow2 "qcow2 -c" vmdk "vmdk -o subformat=streamOptimized" vpc vhdx vdi qed qcow "qcow -c" parallels
	local target=$picked
	title="$title; convert -t $to_mode -T $from_mode $rate -O $target"
	# shellcheck disable=SC2086 # words are wanted
	try "$title" "$imgtool" convert -t $to_mode -T $from_mode $rate -f $format -O $target m.3 out.img || return
	mkdir again	# some formats tell the name
	# shellcheck disable=SC2086 # words are wanted
	try "$title: plainly" "$imgtool" convert -f $format -O $target m.3 again/out.img || return
	try "$title: the same bytes" cmp out.img again/out.img
	try "$title: as qemu-img reads it" qemu-img compare -q -f ${target%% *} -F raw out.img model.raw
	rm -rf out.img again
}

mixed_commit() {
	local to=2 how=
	pick "" "" -d "-b m.1" "-b m.0"
	how=$picked
	case $how in -b*) to=${how#-b m.} ;; esac
	title="$title; commit -t $to_mode $rate $how"
	# shellcheck disable=SC2086 # words are wanted
	try "$title" "$imgtool" commit -q -t $to_mode $rate $how -f $format m.3 || return
	# What is behind the end of the top stays.
	cp m.$to.raw below.raw && dd if=model.raw of=below.raw bs=64k conv=notrunc status=none
	holds "$title" m.$to ${formats[to]} below.raw
	holds "$title" m.3 $format model.raw
}

mixed_rebase() {
	local to=$((RANDOM % 2)) compress=
	can_be_above $format ${formats[to]} || { mixed_commit; return; }
	case $format in qcow | qcow2) ((RANDOM % 2)) || compress=-c ;; esac
	title="$title; rebase -t $to_mode -T $from_mode $compress -b m.$to"
	try "$title" "$imgtool" rebase -q -t $to_mode -T $from_mode $compress -f $format -b m.$to -B ${formats[to]} m.3 || return
	holds "$title" m.3 $format model.raw
	holds "$title" m.2 ${formats[2]} m.2.raw
}

mixed=${MIXED:-${FULL:+200}}
for ((n = 0; n < ${mixed:-12}; n++)); do
	rm -rf ./*
	mixed_chain || { fail "a chain of mixed formats cannot be made:$made"; continue; }
	title="$n:$made"
	holds "$title" m.3 $format model.raw
	pick uring threads
	how="io=$picked"
	pick "" flags=512 flags=128 threads=1
	how="$how $picked"
	# shellcheck disable=SC2086 # words are wanted
	try "$title: requests $how" timeout 60 "$build/tests/random/random" m.3 model.raw format=$format seconds=0.12 \
		seed=$((seed + n)) $how || continue
	holds "$title: after requests" m.3 $format model.raw
	[ -z "$readable" ] || try "$title: qemu-img reads the same" qemu-img compare -q -f $format -F raw m.3 model.raw
	for i in 0 1 2; do
		holds "$title: after requests" m.$i ${formats[i]} m.$i.raw
	done
	pick_modes
	case $((n % 3)) in
	0) mixed_commit ;;
	1) mixed_rebase ;;
	*) mixed_convert ;;
	esac
done
cd "$work" && rm -rf "$disk/mixed"

# commit and rebase while a call to the kernel fails, or the tool is killed or interrupted at it, or there is no more
# room: what the images of the chain hold is still to be had, and the same command then brings it to its end.
# Sourced by run.sh; "run.sh chain vhdx" runs what has that word in its formats.

mkdir chain && cd chain || exit 1
preload=$build/tests/fault/preload.so

# piece FILE FROM LENGTH WORD: sectors of a plain disk.
piece() { yes "$4" | head -c $(($3 * 512)) | dd of="$1" bs=512 seek="$2" conv=notrunc status=none; }
gap() { dd if=/dev/zero of="$1" bs=512 seek="$2" count="$3" conv=notrunc status=none; }

# Write the sectors that piece wrote, from the plain disk, into an image.
fill_from() {	# PLAIN FORMAT IMAGE FROM LENGTH...
	plain=$1 fmt=$2 img=$3
	shift 3
	while [ $# -gt 0 ]; do
		dd if="$plain" of=part bs=512 skip="$1" count="$2" status=none
		"$imgtool" io -f "$fmt" -c "write -q -s part $(($1 * 512)) $(($2 * 512))" "$img" >/dev/null || return
		shift 2
	done
}

# make FORMAT ARGS...: an image with small units.
make() {
	case $1 in
	vpc) options="-o force_size=on,block_size=64k" ;;
	vhdx) options="-o block_size=1M" ;;
	qed) options="-o cluster_size=4k,table_size=2" ;;
	*) options= ;;
	esac
	# shellcheck disable=SC2086 # words are wanted
	"$imgtool" create -q $options -f "$@"
}

# make_chain TOP_FORMAT MIDDLE_FORMAT BASE_FORMAT: base, middle, top, other, and what they hold.
make_chain() {
	rm -rf ./*
	truncate -s 2M base.raw && piece base.raw 0 1500 base && piece base.raw 3000 700 base
	cp base.raw middle.raw && piece middle.raw 1000 1000 middle && piece middle.raw 3999 90 middle
	cp middle.raw top.raw && piece top.raw 900 300 top && piece top.raw 2100 130 top && gap top.raw 300 400
	truncate -s 2M other.raw && piece other.raw 500 2500 other
	make "$3" base.img 2M && fill_from base.raw "$3" base.img 0 1500 3000 700 &&
		make "$2" -b base.img -F "$3" middle.img &&
		fill_from middle.raw "$2" middle.img 1000 1000 3999 90 &&
		make "$1" -b middle.img -F "$2" top.img &&
		fill_from top.raw "$1" top.img 900 300 2100 130 300 400 &&
		make "$3" other.img 2M && fill_from other.raw "$3" other.img 500 2500
}

holds() {	# IMAGE FORMAT PLAIN
	"$imgtool" convert -f "$2" -O raw "$1" now.raw 2>why && cmp now.raw "$3" >why 2>&1
}

# A child may refuse its parent, which was changed when all ended: then its link is repaired.
relink() {	# IMAGE FORMAT PARENT FORMAT
	"$imgtool" info -f "$2" --backing-chain "$1" >/dev/null 2>&1 && return
	relinked=$((relinked + 1))
	"$imgtool" rebase -u -f "$2" -b "$3" -B "$4" "$1"
}
relink_all() {
	relink middle.img "$middle_format" base.img "$base_format"
	relink top.img "$top_format" middle.img "$middle_format"
}

# sound FORMAT IMAGE: but for leaks.
sound() {
	[ "$1" != raw ] || return 0
	"$imgtool" check -q -f "$1" "$2" || [ $? -eq 3 ]
}

# The chain after commit, or what is left when it did not come to its end. $1: what failed.
judge_commit() {
	relink_all
	try "$1: the top" holds top.img "$top_format" top.raw || return
	# shellcheck disable=SC2086 # words are wanted
	try "$1: once more" "$imgtool" commit -q -f "$top_format" $how top.img || return
	try "$1: committed: the top" holds top.img "$top_format" top.raw || return
	case $how in
	*base.img)
		try "$1: committed: the base" holds base.img "$base_format" top.raw
		try "$1: committed: the base is sound" sound "$base_format" base.img
		;;
	*)
		try "$1: committed: the middle" holds middle.img "$middle_format" top.raw
		try "$1: committed: the middle is sound" sound "$middle_format" middle.img
		try "$1: committed: the base" holds base.img "$base_format" base.raw
		;;
	esac
}

judge_rebase() {
	relink_all
	try "$1: the top" holds top.img "$top_format" top.raw || return
	# shellcheck disable=SC2086 # words are wanted
	try "$1: once more" "$imgtool" rebase -f "$top_format" $how top.img || return
	try "$1: rebased: the top" holds top.img "$top_format" top.raw
	try "$1: rebased: the middle" holds middle.img "$middle_format" middle.raw
	try "$1: rebased: the top is sound" sound "$top_format" top.img
}

restore() { rm -rf top.img middle.img base.img other.img d.hdd && cp -rp kept/* .; }

with_fault() {	# CALLS AT HOW: the command; sets $code
	# shellcheck disable=SC2086 # words are wanted
	FAULT_CALLS=$1 FAULT_AT=$2 FAULT_HOW=$3 FAULT_TOTAL=$work/total timeout 60 env LD_PRELOAD="$preload" \
		"$imgtool" $words >"$work/out" 2>"$work/err"
	code=$?
}

# each_call CALLS HOW NAME: the command with each of its calls failing in turn, or CASES of them (4).
each_call() {
	restore
	rm -f "$work/total"
	with_fault "$1" "" 0
	[ $code -eq 0 ] && total=$(cat "$work/total") ||
		{ fail "$title: without a fault: exit $code: $(cat "$work/err")"; return; }
	# Names are changed by few.
	[ "$total" -gt 0 ] || [ "$1" = n ] || fail "$title: $3: not one call is counted"
	step=$((total / ${CASES:-4} + 1))
	at=$((seed % step))
	while [ $at -lt "$total" ]; do
		restore
		with_fault "$1" $at "$2"
		name="$title: $3 at call $at of $total"
		case $2 in
		kill) [ $code -eq 137 ] || fail "$name: exit $code" ;;
		int) [ $code -eq 130 ] || [ $code -eq 0 ] || fail "$name: exit $code" ;;
		term) [ $code -eq 143 ] || [ $code -eq 0 ] || fail "$name: exit $code" ;;
		*)
			if [ $code -eq 0 ]; then
				[ ! -s "$work/err" ] || fail "$name: exit 0, and $(cat "$work/err")"
			else
				[ $code -eq 1 ] || fail "$name: exit $code"
				grep -q "^imgtool: ..*" "$work/err" || fail "$name: not a word"
			fi
			;;
		esac
		relinked=0
		$judge "$name"
		# Only who is killed cannot say so.
		[ "$2" = kill ] || [ "$relinked" -eq 0 ] || grep -q "rebase -u" "$work/err" ||
			fail "$name: $relinked links are broken: $(cat "$work/err")"
		# A child takes its parent at each moment: it has stored both of its stamps, or that any will do.
		[ "$2" != kill ] || [ "$relinked" -eq 0 ] || fail "$name: $relinked links are broken"
		at=$((at + step))
	done
}

run_command() {	# COMMAND HOW
	how=$2
	words="$1 -f $top_format $2 top.img"
	fail_in_turn judge_"$1" "$1 $2 of $top_format over $middle_format over $base_format"
}

fail_in_turn() {	# JUDGE TITLE: $words in all ways
	judge=$1 title=$2
	each_call r 5 "reading fails"
	each_call w 5 "writing fails"
	each_call w 28 "no room"
	each_call s 5 "a flush fails"
	each_call n 5 "a name fails"
	each_call rws kill "killed"
	each_call rws int "interrupted"
	each_call w term "terminated"
}

while read -r top_format middle_format base_format; do
	case "$top_format $middle_format" in *"$2"*) ;; *) continue ;; esac
	make_chain "$top_format" "$middle_format" "$base_format" || { fail "a chain of $top_format"; continue; }
	mkdir kept && cp -p ./*.img kept/
	try "$top_format over $middle_format: as it was made" holds top.img "$top_format" top.raw || continue
	run_command commit ""
	run_command commit "-b base.img"
	run_command rebase "-b other.img -B $base_format"
done <<-END
	qcow2 qcow2 raw
	vmdk vmdk vmdk
	vpc vpc vpc
	vhdx vhdx vhdx
	vdi vdi vdi
	qcow2 vhdx vhdx
	qcow2 vpc vpc
	qcow2 vmdk vmdk
	vdi vpc vdi
	qed qed qed
	qcow qed qcow
	qcow2 qed raw
	qcow2 qcow2 parallels
END
# Folders of Parallels: their snapshots are the chain.
make_folder() {
	rm -rf ./*
	size=2097152 guid=5fbaabe3-6958-40ff-92a7-860e329aab41
	truncate -s 2M base.raw && piece base.raw 0 1500 base && piece base.raw 3000 700 base
	cp base.raw top.raw && piece top.raw 900 300 top && piece top.raw 2100 130 top && gap top.raw 300 400
	mkdir d.hdd kept && parallels_descriptor $guid >d.hdd/DiskDescriptor.xml &&
		"$imgtool" create -q -f parallels -o cluster_size=4k d.hdd/image-0-$guid.hds 512k &&
		"$imgtool" create -q -f parallels -o cluster_size=4k d.hdd/image-1-$guid.hds 1536k &&
		fill_from base.raw parallels d.hdd 0 1500 3000 700
}
make_snapshot() {
	"$imgtool" create -q -f parallels -b d.hdd -F parallels d.hdd &&
		fill_from top.raw parallels d.hdd 900 300 2100 130 300 400
}
# But for marks and leaks of who did not come to an end, which a repair of a copy takes away.
folder_sound() {
	rm -rf copy.hdd && cp -rp d.hdd copy.hdd && "$imgtool" check -q -r all -f parallels copy.hdd || return
	# Only who is killed leaves files behind that nobody names.
	[ $code -ne 1 ] || [ "$(ls d.hdd)" = "$(ls kept/d.hdd)" ] || grep -q "$(ls d.hdd | tail -n 1)" d.hdd/DiskDescriptor.xml
}
below_holds() {
	id=$(grep -o "ParentGUID>{[^}]*" d.hdd/DiskDescriptor.xml | tail -n 1)
	"$imgtool" convert -l "${id#*{}" -f parallels -O raw d.hdd now.raw 2>why && cmp now.raw "$1" >why 2>&1
}
judge_folder() {
	try "$1: the top" holds d.hdd parallels top.raw || return
	try "$1: sound" folder_sound
	# shellcheck disable=SC2086 # words are wanted
	try "$1: once more" "$imgtool" $words || return
	try "$1: done: the top" holds d.hdd parallels top.raw
	try "$1: done: sound" "$imgtool" check -q -f parallels d.hdd
	case $words in
	commit*) try "$1: done: the snapshot below" below_holds top.raw ;;
	esac
}
# The disk is as large as before or as it is to be, and what both have is the same.
judge_folder_resize() {
	try "$1: sound" folder_sound
	"$imgtool" convert -f parallels -O raw d.hdd now.raw 2>why || { fail "$1: cannot be read: $(cat why)"; return; }
	now=$(stat -c %s now.raw)
	[ "$now" -eq 2097152 ] || [ "$now" -eq "$target" ] || { fail "$1: $now bytes"; return; }
	cp base.raw want.raw && truncate -s "$now" want.raw
	try "$1: as it was" cmp now.raw want.raw
	# shellcheck disable=SC2086 # words are wanted
	try "$1: once more" "$imgtool" $words || return
	cp base.raw want.raw && truncate -s "$target" want.raw
	try "$1: done" holds d.hdd parallels want.raw
	try "$1: done: sound" "$imgtool" check -q -f parallels d.hdd
}
case parallels in *"$2"*)
	top_format=parallels
	make_folder && make_snapshot && cp -rp d.hdd kept/ || fail "a folder"
	words="commit -q -f parallels d.hdd"
	fail_in_turn judge_folder "commit of a folder"
	words="create -q -f parallels -b d.hdd -F parallels d.hdd"
	fail_in_turn judge_folder "a snapshot of a folder"
	make_folder && cp -rp d.hdd kept/ || fail "a folder"
	for target in 5242880 1048576; do
		words="resize -q --shrink -f parallels d.hdd $target"
		fail_in_turn judge_folder_resize "resize of a folder to $target"
	done
	;;
esac
cd ..

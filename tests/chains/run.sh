#!/bin/bash
# Random chains of images, committed and rebased by imgtool, judged by qemu-img: what the top reads as
# stays, and after a commit the base reads the same.
#
#   SEED=N	see lib.sh
#   COUNT=N	chains (default: 60)
. "$(dirname "$0")/../lib.sh"

have qemu-img && have qemu-io || { skip "no qemu-img and qemu-io"; finish; }
RANDOM=$seed
cd "$work" || exit 1

pick() { eval "picked=\${$((RANDOM % $# + 1))}"; }

# A size in sectors, and the same for all in a third of the chains.
pick_size() { size=$(((RANDOM % 6000 + 200) * 512)); }

# fill FILE FORMAT: a few writes and zeroes that straddle whatever units there are.
fill() {
	local i n=$((RANDOM % 6 + 1)) off len script=()
	for ((i = 0; i < n; i++)); do
		off=$(((RANDOM * 32768 + RANDOM) % (size / 512) * 512))
		len=$(((RANDOM % 700 + 1) * 512))
		((off + len > size)) && len=$((size - off))
		pick write write write zero
		if [ $picked = zero ]; then
			script+=(-c "write -q -z $off $len")
		else
			script+=(-c "write -q -P $((RANDOM % 250 + 1)) $off $len")
		fi
	done
	qemu-io -f "$2" "${script[@]}" "$1" >/dev/null
}

options_of() {
	case $1 in
	qcow2)
		pick cluster_size=512 cluster_size=4k cluster_size=64k extended_l2=on,cluster_size=16k \
			compat=0.10,cluster_size=4k cluster_size=2M
		;;
	vmdk) pick subformat=monolithicSparse zeroed_grain=on subformat=monolithicSparse ;;
	raw) picked= ;;
	esac
}

# make NAME FORMAT [BACKING FORMAT]: an image of $size, and something in it.
make() {
	options_of "$2"
	made="$made $1($2 $picked $size)"
	# shellcheck disable=SC2086 # words are wanted
	"$imgtool" create -q -f "$2" ${picked:+-o $picked} ${3:+-b $3 -F $4} "$1" $size && fill "$1" "$2"
}

# A chain of images $1.0 (the base), $1.1, ...; the last is $upper, of format $kind, $levels of them.
make_chain() {
	local i format
	pick raw raw qcow2 vmdk
	format=$picked
	[ $((RANDOM % 3)) -eq 0 ] || pick_size
	make "$1.0" $format || return 1
	levels=$((RANDOM % ${2:-4} + 1))
	for ((i = 1; i <= levels; i++)); do
		kind=qcow2
		[ $format != vmdk ] || pick vmdk vmdk qcow2
		[ $format != vmdk ] || kind=$picked
		[ $((RANDOM % 2)) -eq 0 ] || pick_size
		make "$1.$i" $kind "$1.$((i - 1))" $format || return 1
		formats[i - 1]=$format
		format=$kind
	done
	upper=$1.$levels
}

# is NAME FILE FORMAT: FILE is a sound image and holds what is in flat.
is() {
	try "$1: qemu-img finds the same disk" qemu-img compare -f raw -F "$3" flat "$2" || return
	qemu-img check -f "$3" "$2" >check 2>&1 || grep -q "not support checks" check ||
		{ fail "$1: $2 is not sound"; head -n 5 check; }
	case $3 in qcow2 | vmdk) try "$1: a sound image" "$imgtool" check -q -f "$3" "$2" ;; esac
}

bytes_of() { qemu-img info -f "$2" --output=json "$1" | sed -n 's/^    "virtual-size": \([0-9]*\).*/\1/p'; }
flat_of() { rm -f flat; qemu-img convert -f "$2" -O raw "$1" flat; }

commit_one() {
	local to=$((levels - 1)) drop=
	pick now drop base
	case $picked in
	drop) drop=-d ;;
	base) to=$((RANDOM % levels)) && drop="-b c.$to" ;;
	esac
	what="$what commit $drop"
	# shellcheck disable=SC2086 # words are wanted
	try "$what" "$imgtool" commit -q -f $kind $drop "$upper" || return
	is "$what: the top" "$upper" $kind
	# The base goes on behind what is committed, if it is longer.
	qemu-img convert -f "${formats[to]}" -O raw "c.$to" below && truncate -s "$(stat -c %s flat)" below
	try "$what: the base holds it" cmp below flat
	try "$what: the base is sound" "$imgtool" info -f "${formats[to]}" "c.$to"
	if [ -z "$drop" ]; then
		qemu-img map -f $kind --output=json "$upper" | grep -q '"depth": 0, "present": true' &&
			fail "$what: something is left in the top"
	fi
}

rebase_one() {
	local backing format compress= old=$kind onto=$upper
	if [ "$kind" = qcow2 ]; then
		pick none other within
	else
		pick other within	# of its own format alone
	fi
	case $picked in
	none) backing= format= ;;
	within)
		local to=$((RANDOM % levels))
		backing=c.$to format=${formats[to]}
		[ $format = vmdk ] || [ $kind = qcow2 ] || return
		;;
	other)
		local kept=("${formats[@]}")
		if [ $kind = vmdk ]; then
			pick_size && make n.0 vmdk && backing=n.0 format=vmdk
		else
			make_chain n 2 && backing=$upper format=$kind
		fi
		formats=("${kept[@]}")
		;;
	esac
	upper=$onto kind=$old
	[ $kind != qcow2 ] || [ $((RANDOM % 3)) -ne 0 ] || compress=-c
	what="$what;$made; rebase $compress -b '$backing'"
	# shellcheck disable=SC2086 # words are wanted
	try "$what" "$imgtool" rebase -q -f $kind $compress -b "$backing" ${format:+-F $format} "$upper" || return
	is "$what" "$upper" $kind
	try "$what: its name" sh -c '"$1" info -U "$2" | grep -q "^backing file: $3\b" || [ -z "$3" ]' - \
		"$imgtool" "$upper" "$backing"
}

for ((n = 0; n < ${COUNT:-60}; n++)); do
	rm -f c.* n.* flat below
	made='' formats=()
	pick_size
	make_chain c || { fail "a chain cannot be made:$made"; continue; }
	flat_of "$upper" $kind
	what="$n:$made:"
	if ((n % 2)); then rebase_one; else commit_one; fi
done

# Children that qemu-img does not read: the same bytes are written to a file.
put() { yes "$1" | tr -d '\n' | head -c $(($3 * 512)) | dd of=model.raw bs=512 seek="$2" conv=notrunc status=none; }
wipe() { dd if=/dev/zero of=model.raw bs=512 seek="$1" count="$2" conv=notrunc status=none; }
same_as_model() { "$imgtool" convert -f "$1" -O raw "$2" ours.raw && cmp ours.raw model.raw; }
for kind in "vhdx -o block_size=1M" "vpc -o force_size=on" "vpc -o force_size=on,block_size=64k" vdi "vdi -o block_size=4k"; do
	format=${kind%% *}
	rm -f model.raw ./*."$format"
	truncate -s 8M model.raw
	# shellcheck disable=SC2086 # words are wanted
	{
		"$imgtool" create -q -f $kind base.$format 8M && "$imgtool" create -q -f $kind other.$format 8M
		"$imgtool" io -f $format -c "write -P 65 0 2M" -c "write -P 66 5M 3k" base.$format
		"$imgtool" io -f $format -c "write -P 67 1536k 3M" other.$format
		"$imgtool" create -q -f $format -b base.$format -F $format middle.$format
		"$imgtool" io -f $format -c "write -P 68 1025k 70k" -c "write -z 4k 3k" middle.$format
		"$imgtool" create -q -f $format -b middle.$format -F $format top.$format
		"$imgtool" io -f $format -c "write -P 69 1000k 1000k" -c "write -z 1100k 5k" -c "write -P 70 7M 512" top.$format
	} >/dev/null
	put A 0 4096 && put B 10240 6 && put D 2050 140 && wipe 8 6
	put E 2000 2000 && wipe 2200 10 && put F 14336 1
	try "$kind: as it was written" same_as_model $format top.$format
	try "$kind: rebased" "$imgtool" rebase -f $format -b other.$format -B $format top.$format
	try "$kind: rebased: the same" same_as_model $format top.$format
	try "$kind: rebased: sound" "$imgtool" check -q -f $format top.$format
	try "$kind: rebased back" "$imgtool" rebase -f $format -b middle.$format -B $format top.$format
	try "$kind: rebased back: the same" same_as_model $format top.$format
	try "$kind: committed" "$imgtool" commit -q -f $format top.$format
	try "$kind: committed: the same" same_as_model $format top.$format
	try "$kind: committed: the middle one" same_as_model $format middle.$format
	try "$kind: committed twice" "$imgtool" commit -q -f $format middle.$format
	try "$kind: committed twice: the same" same_as_model $format top.$format
	for image in base middle top; do
		try "$kind: committed twice: $image is sound" "$imgtool" check -q -f $format $image.$format
	done
	[ "$kind" = "vdi -o block_size=4k" ] || try "$kind: committed twice: qemu-img reads the base" \
		qemu-img compare -q -f $format -F raw base.$format model.raw

	cp model.raw base.raw

	# Without a parent, with one again, over the same bytes.
	"$imgtool" io -f $format -c "write -P 71 3000k 3k" -c "write -z 6M 5k" -c "write -P 72 6500k 700k" top.$format >/dev/null
	put G 6000 6 && wipe 12288 10 && put H 13000 1400
	try "$kind: no parent" "$imgtool" rebase -f $format -b "" top.$format
	try "$kind: no parent: the same" same_as_model $format top.$format
	try "$kind: no parent: sound" "$imgtool" check -q -f $format top.$format
	try "$kind: no parent: as qemu-img reads it" qemu-img compare -q -f $format -F raw top.$format model.raw
	for options in "" -u; do
		# shellcheck disable=SC2086 # nothing or an option
		try "$kind: $options a parent again" "$imgtool" rebase $options -f $format -b base.$format -B $format top.$format
		try "$kind: $options a parent again: sound" "$imgtool" check -q -f $format top.$format
		[ -n "$options" ] || try "$kind: a parent again: the same" same_as_model $format top.$format
	done
	"$imgtool" io -f $format -c "write -P 73 100k 3k" top.$format >/dev/null && put I 200 6
	try "$kind: a parent again, written to" sh -c '"$1" io -f $2 -c "read -P 73 100k 3k" top.$2' - "$imgtool" $format
	# One that never had any shows it where it has nothing.
	"$imgtool" create -q -f $kind plain.$format 8M
	[ $format != vhdx ] || "$imgtool" create -q -f $kind,block_state_zero=off plain.$format 8M
	"$imgtool" io -f $format -c "write -P 74 5M 1k" plain.$format >/dev/null
	try "$kind: a first parent" "$imgtool" rebase -u -f $format -b base.$format -B $format plain.$format
	cp base.raw model.raw && dd if=/dev/zero bs=512 seek=10240 count=2 of=model.raw conv=notrunc status=none
	try "$kind: a first parent: sound" "$imgtool" check -q -f $format plain.$format
	"$imgtool" convert -f $format -O raw plain.$format ours.raw
	try "$kind: a first parent: shows" sh -c 'cmp -n 5242880 ours.raw model.raw && cmp -i 7340032 ours.raw model.raw'
done
. "$top/tests/chains/mixed.sh"
. "$top/tests/chains/modes.sh"

# Snapshots of Parallels folders: made, written to and committed at random, and the bytes written to a file alike.
folder_write() {
	local off=$((RANDOM % (size / 512))) len=$((RANDOM % 300 + 1)) byte=$((RANDOM % 250 + 1))
	((off + len > size / 512)) && len=$((size / 512 - off))
	pick write write zero
	what="$what $picked $off+$len"
	[ $picked = write ] && set -- "write -q -P $byte" || set -- "write -q -z"
	"$imgtool" io -f parallels -c "$1 $((off * 512)) $((len * 512))" c.hdd >/dev/null &&
		qemu-io -f raw -c "$1 $((off * 512)) $((len * 512))" model.raw >/dev/null
}
states() { grep -o "<Shot>" c.hdd/DiskDescriptor.xml | wc -l; }
same_as_folder() { "$imgtool" convert -f parallels -O raw c.hdd ours.raw && cmp ours.raw model.raw; }
for ((n = 0; n < ${COUNT:-60} / 4; n++)); do
	rm -rf c.hdd model.raw && mkdir c.hdd && pick_size && truncate -s $size model.raw
	pick 512 4k 64k 32256 1M
	what="$n: a folder of $size, cluster_size=$picked:"
	"$imgtool" create -q -f parallels -o cluster_size=$picked c.hdd $size || { fail "$what made"; continue; }
	for ((i = 0; i < 12; i++)); do
		pick write write write snapshot commit deep resize
		case $picked in
		write) folder_write || { fail "$what"; continue 2; } ;;
		snapshot)
			pick 4k 64k 512 ""
			what="$what snapshot $picked"
			# shellcheck disable=SC2086 # words are wanted
			try "$what" "$imgtool" create -q -f parallels ${picked:+-o cluster_size=$picked} -b c.hdd -F parallels c.hdd
			;;
		commit | deep)
			base=
			[ "$(states)" -gt 1 ] || continue
			[ $picked = commit ] || base=$("$imgtool" info --output=json c.hdd |
				sed -n 's/^ *"id": "\([^"]*\)".*/\1/p' | head -n 1)
			what="$what commit $base"
			try "$what" "$imgtool" commit -q -f parallels ${base:+-b $base} c.hdd
			;;
		resize)
			[ "$(states)" -eq 1 ] || continue
			pick_size
			what="$what resize $size"
			try "$what" "$imgtool" resize -q --shrink -f parallels c.hdd $size && truncate -s $size model.raw
			;;
		esac
		try "$what: the same" same_as_folder || continue 2
	done
	try "$what: sound" "$imgtool" check -q -f parallels c.hdd
	# Its oldest file is a disk of its own, which all that was committed is in.
	[ "$(states)" -eq 1 ] || base=$("$imgtool" info --output=json c.hdd | sed -n 's/^ *"id": "\([^"]*\)".*/\1/p' | head -n 1)
	[ "$(states)" -eq 1 ] || try "$what: all committed" "$imgtool" commit -q -f parallels -b "$base" c.hdd
	for file in c.hdd/*5fbaabe3*.hds; do
		try "$what: as qemu-img reads the oldest" qemu-img compare -q -f parallels -F raw "$file" model.raw
	done
done
finish

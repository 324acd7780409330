# Every ordered pair of formats that are written: the target has the guest's bytes, and the size that its format
# makes of the source's, as qemu-img reads it. Sourced by run.sh.
#
#	SEED=N	of the disk's size and where it has what, and of which third of the pairs is tried: see lib.sh
#	ALL=1	all pairs; COUNT=N disks (1)

# NAME FORMAT RULE OPTIONS, RULE: what becomes of the size: same, chs (the next geometry), mib, grain (qemu-img
# goes by the header of a stream, which counts whole grains).
cat >kinds <<'END'
raw raw same
qcow2 qcow2 same
qcow2-packed qcow2 same -c
qcow2-512 qcow2 same -o cluster_size=512
vmdk vmdk same
vmdk-flat vmdk same -o subformat=monolithicFlat
vmdk-split vmdk same -o subformat=twoGbMaxExtentSparse
vmdk-split-flat vmdk same -o subformat=twoGbMaxExtentFlat
vmdk-stream vmdk grain -o subformat=streamOptimized
vpc vpc chs
vpc-exact vpc same -o force_size=on
vpc-fixed vpc chs -o subformat=fixed
vpc-azure vpc mib -o azure=on
vpc-64k vpc same -o force_size=on,block_size=64k
vhdx vhdx same
vhdx-1m vhdx same -o block_size=1M,block_state_zero=off
vhdx-fixed vhdx same -o subformat=fixed,block_size=1M
vdi vdi same
vdi-static vdi same -o static=on
qcow qcow same
qcow-packed qcow same -c
qed qed same
qed-4k qed same -o cluster_size=4k,table_size=2
parallels parallels same
END
while read -r name format rule options; do
	"$imgtool" create -f "$format" -o help >/dev/null 2>&1 && echo "$name $format $rule $options"
done <kinds >known

# size_after RULE SIZE: of the target.
size_after() {
	case $1 in
	mib) echo $((($2 + 1048575) / 1048576 * 1048576)) ;;
	grain) echo $((($2 + 65535) / 65536 * 65536)) ;;
	chs)
		qemu-img create -q -f vpc geometry.vpc "$2" &&
			qemu-img info -f vpc --output=json geometry.vpc | jq '."virtual-size"' ;;
	*) echo "$2" ;;
	esac
}

pair() {	# FROM FORMAT SIZE TO FORMAT RULE [OPTIONS...]
	from=$1 source=$2 size=$3 to=$4 target=$5 rule=$6
	shift 6
	rm -rf out && mkdir out
	what="$from of $size bytes to $to, seed $seed"
	"$imgtool" convert -f "$source" -O "$target" "$@" "in/$from.img" out/o.img >said 2>&1 ||
		{ fail "$what: $(cat said)"; return; }
	qemu-img compare -q -f "$target" -F raw out/o.img disk.raw >said 2>&1 || { fail "$what: other bytes: $(cat said)"; return; }
	after=$(size_after "$rule" "$size")
	found=$(qemu-img info -f "$target" --output=json out/o.img | jq '."virtual-size"')
	[ "$found" = "$after" ] || { fail "$what: size: found $found, expected $after"; return; }
	pass "$what"
}

number=0
[ -n "$ALL" ] || echo "pairs: seed $seed: every third, from $((seed % 3)) on, of $(wc -l <known) kinds with each other"
for turn in $(seq "${COUNT:-1}"); do
	# shellcheck disable=SC2046 # words are wanted
	set -- $(awk -v seed=$((seed + turn)) 'BEGIN { srand(seed); print 300 + int(rand() * 6000), int(rand() * 99), int(rand() * 99) }')
	sectors=$1
	{
		head -c $(($2 * 5120)) content.raw
		head -c $(($3 * 7168)) /dev/zero
		tail -c 900000 content.raw
	} >disk.raw
	truncate -s $((sectors * 512)) disk.raw
	rm -rf in && mkdir in
	while read -r name format rule options; do
		# Made by qemu-img, where it can.
		# shellcheck disable=SC2086 # words are wanted
		qemu-img convert -f raw -O "$format" $options disk.raw "in/$name.img" 2>/dev/null ||
			"$imgtool" convert -q -f raw -O "$format" $options disk.raw "in/$name.img" >said 2>&1 ||
			fail "$name: cannot be made: $(cat said)"
	done <known
	while read -r name format rule options; do
		size=$(qemu-img info -f "$format" --output=json "in/$name.img" | jq '."virtual-size"')
		# shellcheck disable=SC2086 # words are wanted
		while read -r other target becomes options; do
			number=$((number + 1))
			[ -n "$ALL" ] || [ $((number % 3)) -eq $((seed % 3)) ] || continue
			pair "$name" "$format" "$size" "$other" "$target" "$becomes" $options </dev/null
		done <known
	done <known
done
rm -rf in out kinds known said geometry.vpc disk.raw

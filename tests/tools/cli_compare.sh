#!/bin/bash
# Black-box comparison of command lines: each is given to qemu-img and to imgtool under the name
# qemu-img, in two copies of the same folder; standard output, the exit code, what is said on
# standard error, and the images that come out must agree.
#
# From the environment: QEMU_IMG, QEMU_IO (default: from the PATH), IMGTOOL (default: imgtool in
# BUILD, default build), DISK, a folder on a disk (default: /tmp). VERBOSE=1 also prints the standard
# error of both where they may differ.
#
# Prints "ok NAME" and "not ok NAME" lines; the last is "N passed, N failed", with ", N skipped" where
# the installed qemu-img is too old to know an option.
set -u
export LC_ALL=C TZ=UTC

top=$(cd "$(dirname "$0")/../.." && pwd)
build=${BUILD:-build}
case $build in /*) ;; *) build=$top/$build ;; esac
imgtool=${IMGTOOL:-$build/imgtool}
theirs=$(command -v "${QEMU_IMG:-qemu-img}")
qemu_io=$(command -v "${QEMU_IO:-qemu-io}")
verbose=${VERBOSE:-}

if [ -z "$theirs" ] || [ -z "$qemu_io" ]; then
	echo "skipped: qemu-img and qemu-io are not installed"
	echo "0 passed, 0 failed, 1 skipped"
	exit 0
fi
if [ ! -x "$imgtool" ]; then
	echo "not ok $imgtool is not built"
	echo "0 passed, 1 failed"
	exit 1
fi

# From this release on command lines are read as they are today; before, other words were used for
# what is wrong with them, and a few options had no long or no new name.
major=$("$theirs" --version | sed -n '1s/^qemu-img version \([0-9]*\).*/\1/p')
new=$((major >= 11))

work=$(mktemp -d "${TMPDIR:-/tmp}/cli-compare.XXXXXX") || exit 1
disk_work=$(mktemp -d "${DISK:-/tmp}/cli-compare.XXXXXX") || exit 1
fixture=$work/fixture
trap 'chmod -R u+rwX "$work" "$disk_work"; rm -rf "$work" "$disk_work"' EXIT
trap 'exit 130' INT TERM
mkdir "$work/bin" "$fixture"
ln -s "$(realpath "$imgtool")" "$work/bin/qemu-img"
ours=$work/bin/qemu-img

passed=0 failed=0 skipped=0

# ---- Images to work on ----

# Beyond the first plane, no character, a surrogate, too long a form, cut off, beyond Unicode.
odd_names=($'four\xf0\x9f\x98\x80' $'not\xef\xbf\xbe' $'half\xed\xa0\x80' $'long\xc0\xaf' $'cut\xe2\x82'
	$'end\xf0\x9f' $'far\xf4\x90\x80\x80' $'ctl\x01\x1b\x7f' $'old\xfc\x84\x80\x80\x80\x80' $'lone\x80\xff')

make_fixture() (
	set -e
	cd "$fixture"
	mkdir folder
	"$theirs" create -q -f raw plain.raw 10M
	"$qemu_io" -f raw -c 'write -q -P 1 1M 192k' -c 'write -q -P 2 5M 64k' plain.raw
	cp plain.raw same.raw
	"$theirs" create -q -f raw empty.raw 10M
	"$theirs" create -q -f raw longer.raw 11M
	"$theirs" create -q -f raw tail.raw 11M
	"$qemu_io" -f raw -c 'write -q -P 3 10M 64k' tail.raw
	printf 'x' >tiny.raw
	: >nothing.raw
	"$theirs" convert -f raw -O qcow2 plain.raw base.qcow2
	"$theirs" create -q -f qcow2 -b base.qcow2 -F qcow2 top.qcow2 2>/dev/null
	"$qemu_io" -c 'write -q -P 4 1088k 64k' -c 'write -q -z 3M 64k' top.qcow2
	"$theirs" create -q -f qcow2 -b top.qcow2 -F qcow2 third.qcow2 12M
	"$qemu_io" -c 'write -q -P 5 11M 64k' third.qcow2
	"$theirs" convert -c -O qcow2 top.qcow2 packed.qcow2
	"$theirs" convert -O qcow2 -o compat=0.10 top.qcow2 old.qcow2
	"$theirs" create -q -f qcow2 fresh.qcow2 10M
	"$theirs" create -q -f qcow2 -o cluster_size=4k,lazy_refcounts=on small.qcow2 10M
	cp base.qcow2 folder/base.qcow2
	(cd folder && "$theirs" create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2)
	"$theirs" create -q -u -f qcow2 -b gone.qcow2 -F qcow2 orphan.qcow2 1M
	cp base.qcow2 snapshots.qcow2
	"$theirs" snapshot -c first snapshots.qcow2
	"$theirs" snapshot -c 'a long name for a snapshot' snapshots.qcow2
	# Three states of a disk.
	cp base.qcow2 states.qcow2
	"$theirs" snapshot -c first states.qcow2
	"$qemu_io" -c 'write -q -P 7 1M 1M' -c 'write -q -z 5M 64k' states.qcow2
	"$theirs" snapshot -c again states.qcow2
	"$qemu_io" -c 'write -q -P 8 1M 256k' states.qcow2
	cp base.qcow2 $'odd "name"\t\xc3\xa9\xff.qcow2'
	for name in "${odd_names[@]}"; do
		cp tiny.raw "$name"
	done
	"$theirs" create -q -f vmdk sparse.vmdk 10M
	"$qemu_io" -f vmdk -c 'write -q -P 6 1M 64k' sparse.vmdk
	"$theirs" convert -O vmdk -o subformat=streamOptimized plain.raw stream.vmdk
	"$theirs" convert -O vmdk -o subformat=monolithicFlat plain.raw flat.vmdk
	# One L2 table, at 256k, of which entry 16 is the first with data.
	for name in unpackable badentry badtable; do
		"$theirs" convert -c -O qcow2 plain.raw $name.qcow2
	done
	cluster=$((0x$(od -An -v -tx1 -j $((0x40000 + 16 * 8 + 3)) -N 5 unpackable.qcow2 | tr -d " ")))
	head -c 32 /dev/zero | tr '\0' '\377' | dd of=unpackable.qcow2 bs=1 seek=$cluster conv=notrunc status=none
	printf '\200\0\0\0\0\1\2\0' | dd of=badentry.qcow2 bs=1 seek=$((0x40000 + 17 * 8)) conv=notrunc status=none
	printf '\200\0\0\0\0\4\2\0' | dd of=badtable.qcow2 bs=1 seek=$((0x30000)) conv=notrunc status=none
	# A cluster that nothing refers to, and one that is used though it counts as free.
	"$theirs" create -q -f qcow2 leak.qcow2 10M
	"$qemu_io" -c 'write -q 0 192k' leak.qcow2
	cp leak.qcow2 damaged.qcow2
	refcounts=$((0x20000))
	printf '\0\0\0\0\0\0\0\0' | dd of=leak.qcow2 bs=1 seek=$((0x40000 + 8)) conv=notrunc status=none
	printf '\0\0' | dd of=damaged.qcow2 bs=1 seek=$((refcounts + 10)) conv=notrunc status=none
	truncate -s 1000 short.qcow2
	printf 'QFI\373\0\0\0\003' | dd of=short.qcow2 conv=notrunc status=none
)

# What the folders hold, and when each file was last changed.
contents() { find "$fixture" "$work/theirs" "$work/ours" -printf '%p %i %s %T@ %C@\n'; }

# Two fresh copies, so that what one command line did does not help the next; the same ones where it did
# nothing.
contents=
reset() {
	[ -z "$contents" ] || [ "$contents" != "$(contents)" ] || return
	rm -rf "$work/theirs" "$work/ours"
	cp -a --sparse=always "$fixture" "$work/theirs"
	cp -a --sparse=always "$fixture" "$work/ours"
	contents=$(contents)
}

# ---- Comparing ----

# Somebody else has $held open for writing in both folders, if it is set.
held=
hold_images() {
	local side

	mkfifo "$work/hold"
	for side in theirs ours; do
		(cd "$work/$side" && exec "$qemu_io" -f qcow2 "$held" <"$work/hold" >/dev/null 2>&1) &
	done
	exec 9>"$work/hold"
	sleep 0.3	# until they have it open
}

let_go() {
	exec 9>&-
	wait
	rm "$work/hold"
}

# run ARGS...: both programs; t.* and o.* are what they said.
run() {
	reset
	[ -z "$held" ] || hold_images
	(cd "$work/theirs" && exec timeout 60 "$theirs" "$@" </dev/null) >"$work/t.out" 2>"$work/t.err"
	t_code=$?
	(cd "$work/ours" && exec timeout 60 "$ours" "$@" </dev/null) >"$work/o.out" 2>"$work/o.err"
	o_code=$?
	[ -z "$held" ] || let_go
	# The other program may run under another name.
	sed -i "s|^$(basename "$theirs")\([: ]\)|qemu-img\1|" "$work/t.err"
}

why=
differ() {
	why="$why
    $1"
}

codes() {
	[ "$t_code" = "$o_code" ] || differ "exit code $o_code, theirs $t_code"
	if [ -s "$work/t.err" ] && [ ! -s "$work/o.err" ]; then
		differ "silent; theirs: $(head -n 2 "$work/t.err")"
	elif [ ! -s "$work/t.err" ] && [ -s "$work/o.err" ]; then
		differ "unexpected: $(head -n 2 "$work/o.err")"
	fi
}

outputs() {
	# Release 8 brought this member of map's lines.
	if grep -q '^\[{ "start"' "$work/t.out" && ! grep -q '"compressed"' "$work/t.out"; then
		sed -i -E 's/, "compressed": (true|false)//' "$work/o.out"
	fi
	cmp -s "$work/t.out" "$work/o.out" ||
		differ "standard output, theirs and ours: $(diff "$work/t.out" "$work/o.out" | head -n 12)"
}

errors() {
	[ "$new" = 0 ] || cmp -s "$work/t.err" "$work/o.err" ||
		differ "standard error, theirs and ours: $(diff "$work/t.err" "$work/o.err" | head -n 8)"
}

verdict() {
	if [ -z "$why" ]; then
		passed=$((passed + 1))
		echo "ok $*"
	else
		failed=$((failed + 1))
		echo "not ok $*$why"
	fi
	[ -z "$verbose" ] || [ -z "$(cat "$work/t.err" "$work/o.err")" ] ||
		sed 's/^/    | /' "$work/t.err" "$work/o.err"
	why=
}

# Every word the same.
same() {
	run "$@"
	codes
	outputs
	errors
	verdict "$@"
}

# Standard error may use other words.
alike() {
	run "$@"
	codes
	outputs
	verdict "$@"
}

# Only success or failure, and whether something was said.
code() {
	run "$@"
	codes
	verdict "$@"
}

# info as people read it. Before release 8 the node below was not told about.
human() {
	run "$@"
	codes
	if grep -q "^Child node" "$work/t.out" || [ ! -s "$work/t.out" ]; then
		outputs
	else
		awk '/^Child node/ { skip = 1; next } /^[^ ]|^$/ { skip = 0 } !skip' "$work/o.out" >"$work/o.cut"
		mv "$work/o.cut" "$work/o.out"
		outputs
	fi
	verdict "$@"
}

# A JSON document: the same members, whatever their order; and laid out the same.
json() {
	local side cut='.'

	run "$@"
	codes
	grep -q '"children"' "$work/t.out" || cut='walk(if type == "object" then del(.children) else . end)'
	for side in t o; do
		jq -S "$cut" <"$work/$side.out" >"$work/$side.json" 2>"$work/$side.bad" ||
			differ "$side: no JSON: $(cat "$work/$side.bad")"
	done
	cmp -s "$work/t.json" "$work/o.json" ||
		differ "theirs and ours: $(diff "$work/t.json" "$work/o.json" | head -n 12)"
	if grep -q '"children"' "$work/t.out"; then
		cmp -s <(sed 's/,$//' "$work/t.out" | sort) <(sed 's/,$//' "$work/o.out" | sort) ||
			differ "laid out otherwise"
	fi
	verdict "$@"
}

# disk FORMAT FILE ARGS...: what FILE holds afterwards is the same disk, and it is sound.
disk() {
	local format=$1 file=$2 checked

	shift 2
	run "$@"
	codes
	timeout 60 "$theirs" compare -f "$format" -F "$format" "$work/theirs/$file" "$work/ours/$file" \
		>"$work/compared" 2>&1 || differ "$file: $(head -n 2 "$work/compared")"
	grep -q 'size mismatch' "$work/compared" && differ "$file: another size"
	"$theirs" check -q -f "$format" "$work/ours/$file" >/dev/null 2>"$work/check.bad"
	checked=$?
	[ $checked = 0 ] || [ $checked = 63 ] || differ "$file is damaged: $(head -n 2 "$work/check.bad")"
	verdict "$@"
}

# on_disk VERB ...: where it depends on the file system what comes out.
on_disk() {
	local work=$disk_work contents=

	"$@"
}

# For options that old releases do not know.
since11() {
	if [ "$new" = 1 ]; then
		"$@"
	else
		skipped=$((skipped + 1))
	fi
}

# if_made FORMAT ...: for formats that this build only reads.
if_made() {
	local format=$1

	shift
	if "$ours" create -f "$format" -o help >/dev/null 2>&1; then
		"$@"
	else
		skipped=$((skipped + 1))
	fi
}

# What imgtool alone must do: a name, then a command that fails if it does not.
own() {
	local name=$1

	shift
	reset
	(cd "$work/ours" && timeout 60 "$@") >"$work/o.out" 2>&1 || differ "$(tail -n 5 "$work/o.out")"
	: >"$work/t.err"
	: >"$work/o.err"
	verdict "$name"
}

make_fixture || { echo "not ok images to work on"; echo "0 passed, 1 failed"; exit 1; }

for part in "$top"/tests/tools/cli_*"${1:-}"*.part; do
	# shellcheck source=/dev/null
	. "$part"
done

summary="$passed passed, $failed failed"
[ "$skipped" = 0 ] || summary="$summary, $skipped skipped"
echo "$summary"
[ "$failed" = 0 ]

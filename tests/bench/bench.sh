#!/bin/sh
# Side by side with the installed qemu-img: real time, processor time and peak memory of common
# jobs, warm cache, medians of paired runs (ours, theirs, ours, theirs ...). A ratio under 1 means
# that imgtool is ahead. The record goes to $BUILD/bench.json.
#
#   make bench                     all jobs
#   make bench RUNS=9 JOBS='info map'
#
# The content is an ext4 root of at least 1 GiB of this machine's own files, kept in BENCH_DIR (by
# default bench/ in the build folder) for the next time.
. "$(dirname "$0")/../lib.sh"

RUNS=${RUNS:-5}
JOBS=${JOBS:-raw-qcow2 qcow2-raw vmdk-qcow2 zlib-raw stream-qcow2 raw-zlib info map memory-1G memory-1T}
THEIRS=${THEIRS:-qemu-img}
dir=${BENCH_DIR:-$build/bench}
mkdir -p "$dir" || exit 1
have "$THEIRS" || { echo "bench: no $THEIRS to compare with" >&2; exit 1; }

# ---- What is worked on; made by qemu-img, so that both read what neither wrote for itself ----

make_root() {
	[ -s "$dir/root.raw" ] && return
	echo "making an ext4 root of real files in $dir ..." >&2
	mkdir -p "$dir/tree"
	# Files in the order of the file tree until 1.1 GiB are reached.
	find /usr/lib /usr/share /usr/bin -xdev -type f -size -32768k -printf '%s %p\n' 2>/dev/null |
		LC_ALL=C sort -k2 |
		awk '{ sum += $1; $1 = ""; print substr($0, 2) } sum > 1181116006 { exit }' >"$dir/list"
	tar -C / -cf - -T "$dir/list" 2>/dev/null | tar -C "$dir/tree" -xf - || exit 1
	mke2fs -q -t ext4 -d "$dir/tree" "$dir/root.tmp" 3G >/dev/null || exit 1
	rm -rf "$dir/tree" "$dir/list"
	# Holes where nothing was written, as any disk image on a file system has them.
	fallocate -d "$dir/root.tmp" 2>/dev/null
	mv "$dir/root.tmp" "$dir/root.raw"
}

make_from_root() {
	make_root
	[ -s "$dir/$1" ] && return
	out=$1
	shift
	"$THEIRS" convert "$@" "$dir/root.raw" "$dir/tmp" && mv "$dir/tmp" "$dir/$out"
}

# 256 MiB of data, spread over SIZE.
make_spread() {
	[ -s "$dir/spread-$1.qcow2" ] && return
	"$THEIRS" create -q -f qcow2 "$dir/tmp" "$1" || exit 1
	i=0
	while [ $i -lt 64 ]; do
		echo "write -q -P $((i + 1)) $(($2 / 64 * i)) 4M"
		i=$((i + 1))
	done | qemu-io -f qcow2 "$dir/tmp" >/dev/null || exit 1
	mv "$dir/tmp" "$dir/spread-$1.qcow2"
}

# ---- Measuring ----

# median FILE COLUMN
median() {
	awk -v c="$2" '{ print $c }' "$1" | sort -n | awk '{ v[NR] = $1 } END {
		print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'
}

# timed FILE COMMAND...: a line "seconds cpu-seconds peak-KiB".
timed() {
	into=$1
	shift
	rm -f "$dir/out"
	if ! /usr/bin/time -f '%e %U %S %M' -o "$work/t" "$@" >/dev/null 2>"$work/err"; then
		echo "bench: failed: $*" >&2
		cat "$work/err" >&2
		return 1
	fi
	tail -n 1 "$work/t" | awk '{ print $1, $2 + $3, $4 }' >>"$into"
}

again='n=$1; shift; while [ $n -gt 0 ]; do "$@" || exit; n=$((n - 1)); done'

# pairs NAME REPEAT ARGS...: REPEAT is how many times one run calls the program (for what is over
# too soon to be timed).
pairs() {
	name=$1 repeat=$2
	shift 2
	rm -f "$work/ours" "$work/theirs"
	run=0
	while [ $run -le "$RUNS" ]; do
		for who in ours theirs; do
			[ $who = ours ] && program=$imgtool || program=$THEIRS
			into=$work/$who
			[ $run -gt 0 ] || into=/dev/null	# the first pair warms the cache
			if [ "$repeat" -gt 1 ]; then
				timed "$into" sh -c "$again" sh "$repeat" "$program" "$@"
			else
				timed "$into" "$program" "$@"
			fi || return 1
		done
		run=$((run + 1))
	done
	rm -f "$dir/out"
	o=$(median "$work/ours" 1) t=$(median "$work/theirs" 1)
	oc=$(median "$work/ours" 2) tc=$(median "$work/theirs" 2)
	om=$(median "$work/ours" 3) tm=$(median "$work/theirs" 3)
	awk -v n="$name" -v o="$o" -v t="$t" -v oc="$oc" -v tc="$tc" -v om="$om" -v tm="$tm" -v r="$repeat" '
	function ratio(a, b) { return b > 0 ? sprintf("%.2f", a / b) : "-" }
	BEGIN {
		printf "%-14s %9.2f %9.2f %6s   %9.2f %9.2f %6s   %8.1f %8.1f %6s\n", n, o, t,
			ratio(o, t), oc, tc, ratio(oc, tc), om / 1024, tm / 1024, ratio(om, tm)
	}'
	printf '%s    { "job": "%s", "calls": %s, "ours": { "seconds": %s, "cpu-seconds": %s, "peak-kib": %s }, "theirs": { "seconds": %s, "cpu-seconds": %s, "peak-kib": %s } }' \
		"$comma" "$name" "$repeat" "$o" "$oc" "$om" "$t" "$tc" "$tm" >>"$work/json"
	comma=',
'
}

# ---- The jobs ----

comma=
: >"$work/json"
echo "imgtool $("$imgtool" --version | head -n 1 | sed 's/.*version //'), $("$THEIRS" --version | head -n 1); medians of $RUNS pairs"
echo "                 seconds                        cpu seconds                    peak MiB"
echo "job                 ours    theirs  ratio        ours    theirs  ratio       ours   theirs  ratio"
for job in $JOBS; do
	case $job in
	raw-qcow2)
		make_root
		pairs $job 1 convert -f raw -O qcow2 "$dir/root.raw" "$dir/out" ;;
	qcow2-raw)
		make_from_root root.qcow2 -f raw -O qcow2
		pairs $job 1 convert -f qcow2 -O raw "$dir/root.qcow2" "$dir/out" ;;
	vmdk-qcow2)
		make_from_root root.vmdk -f raw -O vmdk
		pairs $job 1 convert -f vmdk -O qcow2 "$dir/root.vmdk" "$dir/out" ;;
	zlib-raw)
		make_from_root zlib.qcow2 -f raw -O qcow2 -c
		pairs $job 1 convert -f qcow2 -O raw "$dir/zlib.qcow2" "$dir/out" ;;
	stream-qcow2)
		make_from_root stream.vmdk -f raw -O vmdk -o subformat=streamOptimized
		pairs $job 1 convert -f vmdk -O qcow2 "$dir/stream.vmdk" "$dir/out" ;;
	raw-zlib)
		make_root
		pairs $job 1 convert -f raw -O qcow2 -c "$dir/root.raw" "$dir/out" ;;
	info)
		make_from_root root.qcow2 -f raw -O qcow2
		pairs $job 100 info "$dir/root.qcow2" ;;
	map)
		make_from_root root.qcow2 -f raw -O qcow2
		pairs $job 20 map --output=json "$dir/root.qcow2" ;;
	memory-1G)
		make_spread 1G 1073741824
		pairs $job 1 convert -f qcow2 -O qcow2 "$dir/spread-1G.qcow2" "$dir/out" ;;
	memory-1T)
		make_spread 1T 1099511627776
		pairs $job 1 convert -f qcow2 -O qcow2 "$dir/spread-1T.qcow2" "$dir/out" ;;
	*)
		echo "bench: no job '$job'" >&2
		exit 1 ;;
	esac || bad=1
done

{
	printf '{\n  "version": "%s",\n  "theirs": "%s",\n' "$("$imgtool" --version | head -n 1)" \
		"$("$THEIRS" --version | head -n 1)"
	printf '  "kernel": "%s",\n  "processors": %s,\n  "runs": %s,\n  "jobs": [\n' "$(uname -r)" "$(nproc)" "$RUNS"
	cat "$work/json"
	printf '\n  ]\n}\n'
} >"$build/bench.json"
echo "recorded in ${build#"$top"/}/bench.json"
exit ${bad:-0}

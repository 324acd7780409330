#!/bin/sh
# Side by side with the installed qemu-img: time, processor time, peak memory and size of what comes
# out, medians of paired runs (ours, theirs, ours, theirs ...), warm cache. "faster" is their time
# divided by ours. The record goes to $BUILD/bench.json; spec/speed.md says how to read it.
#
#   make bench                     all jobs
#   make bench RUNS=9 JOBS='info map'
#
# The content is an ext4 root of at least 1 GiB of this machine's own files, and 1 GiB of random
# bytes, kept in BENCH_DIR (by default bench/ in the build folder) for the next time.
. "$(dirname "$0")/../lib.sh"

RUNS=${RUNS:-5}
SLOW_RUNS=${SLOW_RUNS:-3}	# of what takes qemu-img half a minute
THEIRS=${THEIRS:-qemu-img}
CONVERSIONS='raw-qcow2 qcow2-raw vmdk-qcow2 zlib-raw stream-qcow2 raw-vhdx vhdx-raw raw-vpc vpc-raw raw-vdi vdi-raw dmg-raw dmg-bzip2-raw dmg-lzfse-raw raw-zlib raw-zstd raw-stream raw-luks luks-raw raw-luksdisk luksdisk-raw'
REQUESTS='read-cached read-direct read-raw-cached read-raw-direct write-growing write-spread vhdx-growing vhdx-child vhdx-child-spread vpc-child vpc-child-spread copy-on-write'
MEMORY='memory-1G memory-1T memory-64T'
SPARSE='vhdx-create-64T vhdx-convert-64T'
NBD='nbd-raw nbd-qcow2 raw-nbd nbd-raw-nbdcopy raw-nbd-nbdcopy nbd-read'
JOBS=${JOBS:-$CONVERSIONS $REQUESTS $NBD info map $MEMORY $SPARSE}
dir=${BENCH_DIR:-$build/bench}
mkdir -p "$dir" || exit 1
dir=$(cd "$dir" && pwd)
have "$THEIRS" || { echo "bench: no $THEIRS to compare with" >&2; exit 1; }

# ---- What is worked on; made by qemu-img, so that both read what neither wrote for itself ----

# The names of real files, in the order of the file tree, until 1.1 GiB are reached.
list_files() {
	find /usr/lib /usr/share /usr/bin -xdev -type f -size -32768k -printf '%s %p\n' 2>/dev/null |
		LC_ALL=C sort -k2 |
		awk '{ sum += $1; $1 = ""; print substr($0, 2) } sum > 1181116006 { exit }' >"$dir/list"
}

make_root() {
	[ -s "$dir/root.raw" ] && return
	echo "making an ext4 root of real files in $dir ..." >&2
	mkdir -p "$dir/tree"
	list_files
	tar -C / -cf - -T "$dir/list" 2>/dev/null | tar -C "$dir/tree" -xf - || exit 1
	mke2fs -q -t ext4 -d "$dir/tree" "$dir/root.tmp" 3G >/dev/null || exit 1
	rm -rf "$dir/tree" "$dir/list"
	# Holes where nothing was written, as any disk image on a file system has them.
	fallocate -d "$dir/root.tmp" 2>/dev/null
	mv "$dir/root.tmp" "$dir/root.raw"
}

# made NAME ARGS...: "$dir/NAME", converted.
made() {
	[ -s "$dir/$1" ] && return
	out=$1
	shift
	"$THEIRS" convert "$@" "$dir/tmp" && mv "$dir/tmp" "$dir/$out" || exit 1
}

from_root() {
	name=$1
	shift
	make_root
	made "$name" "$@" "$dir/root.raw"
}

# 1 GiB without a hole: of random bytes, and of real files.
make_random() {
	[ -s "$dir/random.raw" ] || { head -c 1073741824 /dev/urandom >"$dir/tmp" && mv "$dir/tmp" "$dir/random.raw"; }
	made random.qcow2 -f raw -O qcow2 "$dir/random.raw"
}

make_packed() {
	[ -s "$dir/packed.qcow2" ] && return
	list_files
	tar -C / -cf - -T "$dir/list" 2>/dev/null | head -c 1073741824 >"$dir/packed.raw"
	made packed.qcow2 -f raw -O qcow2 -c "$dir/packed.raw"
	rm -f "$dir/packed.raw" "$dir/list"
}

# make_dmg KIND: 256 MiB of real files as a Mac's disk image with chunks of 1 MiB, which qemu-img cannot make.
make_dmg() {
	[ -s "$dir/files-$1.dmg" ] && return
	list_files
	tar -C / -cf - -T "$dir/list" 2>/dev/null | head -c 268435456 >"$dir/files.raw"
	python3 "$top/tests/support/make-image.py" dmg "$dir/files.raw" "$dir/tmp" kinds="$1" \
		packer="$build/tests/interop/lzfse" && mv "$dir/tmp" "$dir/files-$1.dmg" || exit 1
	rm -f "$dir/files.raw" "$dir/list"
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

# timed FILE COMMAND...: a line "seconds cpu-seconds peak-KiB bytes". What says itself how long it
# took (bench) is believed: starting is not what it measures.
timed() {
	into=$1
	shift
	rm -f "$dir/out"
	begin=$(date +%s.%N)
	if ! /usr/bin/time -f '%U %S %M' -o "$work/t" "$@" >"$work/said" 2>"$work/err"; then
		echo "bench: failed: $*" >&2
		cat "$work/err" >&2
		return 1
	fi
	end=$(date +%s.%N)
	own=$(sed -n 's/^Run completed in \([0-9.]*\) seconds.*/\1/p' "$work/said")
	bytes=0
	[ ! -e "$dir/out" ] || bytes=$(stat -c '%b' "$dir/out")
	tail -n 1 "$work/t" | awk -v own="$own" -v b="$bytes" -v begin="$begin" -v end="$end" \
		'{ print (own != "" ? own : end - begin), $1 + $2, $3, b * 512 }' >>"$into"
}

again='n=$1; shift; while [ $n -gt 0 ]; do "$@" || exit; n=$((n - 1)); done'

# pairs NAME GOAL RUNS REPEAT ARGS...: REPEAT is how many times one run calls the program (for what
# is over too soon to be timed). before: a command that is run before each.
before=:
rival=$THEIRS	# what "theirs" is
pairs() {
	name=$1 goal=$2 runs=$3 repeat=$4
	shift 4
	rm -f "$work/ours" "$work/theirs"
	run=0
	while [ $run -le "$runs" ]; do
		for who in ours theirs; do
			[ $who = ours ] && program=$imgtool || program=$rival
			into=$work/$who
			[ $run -gt 0 ] || into=/dev/null	# the first pair warms the cache
			$before || return 1
			if [ "$repeat" -gt 1 ]; then
				timed "$into" sh -c "$again" sh "$repeat" "$program" "$@"
			else
				timed "$into" "$program" "$@"
			fi || return 1
		done
		run=$((run + 1))
	done
	rm -f "$dir/out"
	for who in ours theirs; do
		for column in 1 2 3 4; do
			eval "${who}_$column=\$(median \"$work/$who\" $column)"
		done
	done
	awk -v name="$name" -v goal="$goal" -v calls="$repeat" -v runs="$runs" -v json="$work/json" \
		-v comma="$comma" \
		-v o1="$ours_1" -v o2="$ours_2" -v o3="$ours_3" -v o4="$ours_4" \
		-v t1="$theirs_1" -v t2="$theirs_2" -v t3="$theirs_3" -v t4="$theirs_4" '
	function ratio(a, b) { return b > 0 ? sprintf("%.2f", a / b) : "-" }
	function who(s, c, m, b) {
		return sprintf("{ \"seconds\": %s, \"cpu-seconds\": %s, \"peak-kib\": %s, \"bytes\": %d }", s, c, m, b)
	}
	BEGIN {
		printf "%-16s %8.3f %8.3f %6s %5s   %7.2f %7.2f   %7.1f %7.1f   %5s\n", name, o1, t1,
			ratio(t1, o1), goal, o2, t2, o3 / 1024, t3 / 1024, ratio(o4, t4)
		printf "%s    { \"job\": \"%s\", \"runs\": %s, \"calls\": %s, \"faster\": %s, \"goal\": %s,\n      \"ours\": %s,\n      \"theirs\": %s }",
			comma, name, runs, calls, (o1 > 0 ? t1 / o1 : "null"), (goal == "-" ? "null" : goal),
			who(o1, o2, o3, o4), who(t1, t2, t3, t4) >>json
	}'
	comma=',
'
}

# requests NAME GOAL FILE ARGS...: 4 KiB each, 32 at once, by io_uring. The step is a prime number of
# pages: it leads all over the disk and never twice to the same place soon, in both programs alike.
requests() {
	name=$1 goal=$2 image=$3
	shift 3
	pairs "$name" "$goal" "$RUNS" 1 bench -i io_uring -d 32 -s 4096 "$@" "$image"
}
anywhere=167776256
new_disk() { "$THEIRS" create -q -f qcow2 "$dir/new" 16G; }
new_vhdx() { "$THEIRS" create -q -f vhdx -o block_size=1M "$dir/new" 16G; }
# A child of a full disk (ours) and a plain disk (theirs), both written to by imgtool.
new_other() {	# FORMAT [OPTIONS]
	rm -f "$dir/new"
	if [ "$who" = ours ]; then
		"$imgtool" create -q -f "$1" ${2:+-o "$2"} -b "$dir/random.$1" -F "$1" "$dir/new"
	else
		"$imgtool" create -q -f "$1" ${2:+-o "$2"} "$dir/new" 1G
	fi
}
new_vhdx_child() { new_other vhdx block_size=2M; }
new_vpc_child() { new_other vpc; }
new_child() { "$THEIRS" create -q -f qcow2 -b "$dir/packed.qcow2" -F qcow2 "$dir/new"; }

# serve FILE: as an NBD export, $export, by nbdkit.
server=
trap 'end_server; rm -rf "$work" "$disk"' EXIT
export="nbd+unix:///?socket=$work/nbd"
serve() {
	have nbdkit || { echo "bench: no nbdkit" >&2; return 1; }
	nbdkit -f -U "$work/nbd" file "$1" & server=$!
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		[ ! -S "$work/nbd" ] || break
		sleep 0.1
	done
}
end_server() {
	[ -z "$server" ] || { kill "$server"; wait "$server"; } 2>/dev/null
	server=
	rm -f "$work/nbd"
}
# libnbd's own copier, called as a conversion.
nbdcopy_rival() {
	have nbdcopy || { echo "bench: no nbdcopy" >&2; return 1; }
	# shellcheck disable=SC2016
	printf '%s\n' '#!/bin/sh' 'while [ $# -gt 2 ]; do shift; done' 'exec nbdcopy "$1" "$2"' >"$work/nbdcopy"
	chmod +x "$work/nbdcopy"
	rival=$work/nbdcopy
}
blank() { rm -f "$dir/new" && truncate -s 3G "$dir/new"; }

# ---- The jobs ----

comma=
: >"$work/json"
echo "imgtool $("$imgtool" --version | head -n 1 | sed 's/.*version //'), $("$THEIRS" --version | head -n 1); medians of $RUNS pairs ($SLOW_RUNS of the slow ones)"
echo "                      seconds                         cpu seconds        peak MiB       size"
echo "job                  ours   theirs faster  goal      ours  theirs      ours  theirs    ratio"
for job in $JOBS; do
	before=: rival=$THEIRS
	case $job in
	raw-qcow2)
		make_root
		pairs $job 1.25 "$RUNS" 1 convert -f raw -O qcow2 "$dir/root.raw" "$dir/out" ;;
	qcow2-raw)
		from_root root.qcow2 -f raw -O qcow2
		pairs $job 1.25 "$RUNS" 1 convert -f qcow2 -O raw "$dir/root.qcow2" "$dir/out" ;;
	vmdk-qcow2)
		from_root root.vmdk -f raw -O vmdk
		pairs $job 2.5 "$RUNS" 1 convert -f vmdk -O qcow2 "$dir/root.vmdk" "$dir/out" ;;
	zlib-raw)
		from_root zlib.qcow2 -f raw -O qcow2 -c
		pairs $job 2.2 "$RUNS" 1 convert -f qcow2 -O raw "$dir/zlib.qcow2" "$dir/out" ;;
	stream-qcow2)
		from_root stream.vmdk -f raw -O vmdk -o subformat=streamOptimized
		pairs $job 2.5 "$RUNS" 1 convert -f vmdk -O qcow2 "$dir/stream.vmdk" "$dir/out" ;;
	raw-vhdx | raw-vpc | raw-vdi)
		make_root
		pairs $job 1.3 "$RUNS" 1 convert -f raw -O "${job#raw-}" "$dir/root.raw" "$dir/out" ;;
	vhdx-raw | vpc-raw | vdi-raw)
		format=${job%-raw}
		from_root root.$format -f raw -O $format
		pairs $job 1.3 "$RUNS" 1 convert -f $format -O raw "$dir/root.$format" "$dir/out" ;;
	dmg-raw | dmg-bzip2-raw | dmg-lzfse-raw)
		kind=${job#dmg-} kind=${kind%raw} kind=${kind%-}
		kind=${kind:-zlib}
		make_dmg $kind
		if qemu-io -r -f dmg -c 'read -q 0 512' "$dir/files-$kind.dmg" >/dev/null 2>&1; then
			pairs $job 3 "$RUNS" 1 convert -f dmg -O raw "$dir/files-$kind.dmg" "$dir/out"
		else
			echo "$job: $THEIRS is without $kind (qemu-block-extra)"
		fi ;;
	raw-zlib)
		make_root
		pairs $job 8 "$SLOW_RUNS" 1 convert -f raw -O qcow2 -c "$dir/root.raw" "$dir/out" ;;
	raw-zstd)
		make_root
		pairs $job 2 "$SLOW_RUNS" 1 convert -f raw -O qcow2 -c -o compression_type=zstd \
			"$dir/root.raw" "$dir/out" ;;
	raw-stream)
		make_root
		pairs $job 8 "$SLOW_RUNS" 1 convert -f raw -O vmdk -o subformat=streamOptimized \
			"$dir/root.raw" "$dir/out" ;;
	raw-luks)	# a slot that is quickly tried: the disk is what takes the time
		make_root
		pairs $job 3 "$RUNS" 1 convert --object secret,id=s,data=passphrase -f raw -O qcow2 \
			-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100 "$dir/root.raw" "$dir/out" ;;
	luks-raw)
		from_root root-luks.qcow2 --object secret,id=s,data=passphrase -f raw -O qcow2 \
			-o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=100
		pairs $job 2 "$RUNS" 1 convert --object secret,id=s,data=passphrase --image-opts -O raw \
			driver=qcow2,encrypt.key-secret=s,file.filename="$dir/root-luks.qcow2" "$dir/out" ;;
	raw-luksdisk)
		make_root
		pairs $job 3 "$RUNS" 1 convert --object secret,id=s,data=passphrase -f raw -O luks \
			-o key-secret=s,iter-time=100 "$dir/root.raw" "$dir/out" ;;
	luksdisk-raw)
		from_root root.luks --object secret,id=s,data=passphrase -f raw -O luks -o key-secret=s,iter-time=100
		pairs $job 2 "$RUNS" 1 convert --object secret,id=s,data=passphrase --image-opts -O raw \
			driver=luks,key-secret=s,file.filename="$dir/root.luks" "$dir/out" ;;
	read-cached)
		make_random
		requests $job 1.3 "$dir/random.qcow2" -f qcow2 -c 1000000 -S $anywhere ;;
	read-direct)
		make_random
		requests $job 1.3 "$dir/random.qcow2" -f qcow2 -c 150000 -S $anywhere -t none ;;
	read-raw-cached)
		make_random
		requests $job - "$dir/random.raw" -f raw -c 1000000 -S $anywhere ;;
	read-raw-direct)
		make_random
		requests $job - "$dir/random.raw" -f raw -c 150000 -S $anywhere -t none ;;
	write-growing)	# one after the other: 16 in each new cluster
		before=new_disk
		requests $job 2 "$dir/new" -f qcow2 -c 60000 -w -t none ;;
	write-spread)	# each in a cluster of its own
		before=new_disk
		requests $job 2 "$dir/new" -f qcow2 -c 8000 -S 1052672 -w -t none ;;
	vhdx-growing)	# the same: each in a block of its own
		before=new_vhdx
		requests $job 5 "$dir/new" -f vhdx -c 2000 -S 1052672 -w -t none ;;
	vhdx-child | vpc-child | vhdx-child-spread | vpc-child-spread)	# 0.77 is 1.3 times as long as without a parent
		format=${job%%-*} count=60000 spread=
		case $job in *-spread) count=8000 spread="-S $anywhere" ;; esac
		make_random
		made random.$format -f raw -O $format "$dir/random.raw"
		before=new_${format}_child rival=$imgtool
		# shellcheck disable=SC2086 # words are wanted
		requests $job 0.77 "$dir/new" -f $format -c $count $spread -w -t none ;;
	copy-on-write)
		make_packed
		before=new_child
		requests $job 2 "$dir/new" -f qcow2 -c 8000 -S $anywhere -w ;;
	nbd-raw | nbd-raw-nbdcopy)
		make_root
		[ $job = nbd-raw ] || nbdcopy_rival &&
			serve "$dir/root.raw" && pairs $job 0.83 "$RUNS" 1 convert -f raw -O raw "$export" "$dir/out" ;;
	nbd-qcow2)
		make_root
		serve "$dir/root.raw" && pairs $job 0.83 "$RUNS" 1 convert -f raw -O qcow2 "$export" "$dir/out" ;;
	raw-nbd | raw-nbd-nbdcopy)
		make_root
		blank
		[ $job = raw-nbd ] || nbdcopy_rival &&
			serve "$dir/new" && pairs $job 0.83 "$RUNS" 1 convert -n -f raw -O raw "$dir/root.raw" "$export" ;;
	nbd-read)
		make_random
		serve "$dir/random.raw" && requests $job 0.83 "$export" -f raw -c 100000 -S $anywhere ;;
	info)
		from_root root.qcow2 -f raw -O qcow2
		pairs $job 2 "$RUNS" 100 info "$dir/root.qcow2" ;;
	map)
		from_root root.qcow2 -f raw -O qcow2
		pairs $job 2 "$RUNS" 20 map --output=json "$dir/root.qcow2" ;;
	memory-1G)
		make_spread 1G 1073741824
		pairs $job - 1 1 convert -f qcow2 -O qcow2 "$dir/spread-1G.qcow2" "$dir/out" ;;
	memory-1T)
		make_spread 1T 1099511627776
		pairs $job - 1 1 convert -f qcow2 -O qcow2 "$dir/spread-1T.qcow2" "$dir/out" ;;
	memory-64T)
		make_spread 64T 70368744177664
		pairs $job - 1 1 convert -f qcow2 -O qcow2 "$dir/spread-64T.qcow2" "$dir/out" ;;
	vhdx-create-64T)	# in less than a second; qemu-img needs as long as it does for 1 TiB times 64
		pairs $job - 1 1 create -f vhdx "$dir/out" 64T ;;
	vhdx-convert-64T)
		make_spread 64T 70368744177664
		pairs $job - 1 1 convert -f qcow2 -O vhdx "$dir/spread-64T.qcow2" "$dir/out" ;;
	*)
		echo "bench: no job '$job'" >&2
		exit 1 ;;
	esac || bad=1
	end_server
	rm -f "$dir/new"
done

{
	printf '{\n  "version": "%s",\n  "theirs": "%s",\n' "$("$imgtool" --version | head -n 1)" \
		"$("$THEIRS" --version | head -n 1)"
	printf '  "kernel": "%s",\n  "processors": %s,\n  "jobs": [\n' "$(uname -r)" "$(nproc)"
	cat "$work/json"
	printf '\n  ]\n}\n'
} >"$build/bench.json"
echo "recorded in ${build#"$top"/}/bench.json"
exit ${bad:-0}

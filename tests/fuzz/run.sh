#!/bin/sh
# Each fuzz target for a while, from the seeds in fuzz/seeds/TARGET and small images made here.
#
#   FUZZ_SECONDS=8	for each target (make fuzz-long: half an hour)
#   tests/fuzz/run.sh [TARGET]
# What a target finds is kept in build-fuzz/found/.
. "$(dirname "$0")/../lib.sh"

only=$1
fuzzers=$top/build-fuzz/fuzz
mkdir -p build-fuzz/found build-fuzz/corpus

# Small images of many kinds; kept, so that what one run learnt is the next one's beginning.
images=$top/build-fuzz/corpus/image_fuzz
if [ ! -d "$images" ] && have qemu-img; then
	mkdir -p "$images"
	yes "some words " | head -c 20480 >"$work/content.raw"
	truncate -s 131072 "$work/content.raw"
	n=0
	for options in compat=0.10 cluster_size=512 cluster_size=512,refcount_bits=1 cluster_size=4k,lazy_refcounts=on \
			extended_l2=on,cluster_size=16k cluster_size=512,compression_type=zstd cluster_size=4k,preallocation=metadata; do
		for compress in "" -c; do
			case $compress$options in -c*prealloc*|-c*lazy*) continue ;; esac
			n=$((n + 1))
			# shellcheck disable=SC2086 # nothing or an option
			qemu-img convert $compress -f raw -O qcow2 -o "$options" "$work/content.raw" "$images/q$n" || :
		done
	done
	qemu-img snapshot -c s "$images/q2"
	qemu-img bitmap --add "$images/q2" b 2>/dev/null
	(cd "$images" && qemu-img create -q -u -f qcow2 -o cluster_size=512 -b base.raw -F raw over 64k)
	for options in subformat=monolithicSparse subformat=streamOptimized subformat=monolithicFlat; do
		n=$((n + 1))
		qemu-img convert -f raw -O vmdk -o $options "$work/content.raw" "$images/v$n" || :
	done
	find "$images" -size +256k -delete
	# The same for write_fuzz, behind a list of requests: see there.
	mkdir -p build-fuzz/corpus/write_fuzz
	for image in "$images"/[qv]*; do
		case $image in */v*) format='\001' ;; *) format='\000' ;; esac
		{
			# shellcheck disable=SC2059 # octal
			printf "$format"'\006\000\003\001\000\002\000\020\000\003\000\060\000\004\040\100\000\005\100\000\000\001\020\370\000'
			cat "$image"
		} >"build-fuzz/corpus/write_fuzz/$(basename "$image")"
	done
fi

for target in "$fuzzers"/*_fuzz; do
	[ -x "$target" ] || { skip "no fuzz targets are built"; break; }
	name=$(basename "$target")
	case $name in *"$only"*) ;; *) continue ;; esac
	mkdir -p "build-fuzz/corpus/$name"
	seeds=fuzz/seeds/$name
	[ -d "$seeds" ] || seeds=
	# shellcheck disable=SC2086 # nothing or a folder
	if (ulimit -c 0; "$target" -max_total_time="${FUZZ_SECONDS:-8}" -timeout=10 -rss_limit_mb=1024 \
		-malloc_limit_mb=256 -max_len=262144 -print_final_stats=1 -artifact_prefix=build-fuzz/found/$name- \
		"build-fuzz/corpus/$name" $seeds) >"$work/out" 2>&1; then
		pass "$name"
		echo "$name: $(sed -n 's/^stat::number_of_executed_units: *//p' "$work/out") runs, $(
			sed -n 's/.*cov: \([0-9]*\).*/\1/p' "$work/out" | tail -n 1) edges"
	else
		fail "$name"
		grep -v '^#' "$work/out" | tail -n 60
	fi
done
finish

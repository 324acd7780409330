#!/bin/sh
# Makes the ext4 file system inside the good-ext4-* images: the same bytes each time.
# usage: make-ext4.sh OUTPUT (8 MiB, raw)
set -e
out=$1
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
mkdir "$tree/letters"
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do
	{
		echo "Letter $i"
		for k in $(seq $((i * 12))); do
			echo "Line $k of letter $i: the quick brown fox of page $((k * i)) jumps."
		done
	} >"$tree/letters/letter-$i.txt"
done
printf 'A small file system inside a virtual disk.\n' >"$tree/README.txt"
seq 20000 >"$tree/numbers.txt"
find "$tree" -exec touch -h -d @1600000000 {} +
export E2FSPROGS_FAKE_TIME=1600000000
uuid=6f1d5c1e-0000-4000-8000-000000000001
rm -f "$out"
mke2fs -q -t ext4 -b 1024 -U $uuid -E hash_seed=$uuid,root_owner=0:0,nodiscard -L sample \
	-O ^metadata_csum,^has_journal -d "$tree" "$out" 8M
# mke2fs copies the times of change and access, which cannot be chosen.
for ino in 2 $(seq 11 26); do
	echo "sif <$ino> ctime @1600000000"
	echo "sif <$ino> atime @1600000000"
	echo "sif <$ino> mtime @1600000000"
	echo "sif <$ino> ctime_extra 0"
	echo "sif <$ino> atime_extra 0"
	echo "sif <$ino> mtime_extra 0"
done | debugfs -w -f - "$out" >/dev/null 2>&1

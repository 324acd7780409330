#!/bin/sh
# make.sh: make the fixtures of this folder anew, by qemu-img and qemu-io (Debian 12's 7.2 made those
# that are here), and MANIFEST.tsv with them. Nothing in the test suites runs this.
#
# Each image is NAME.zst; those it leads to are kept with it. MANIFEST.tsv has for each: name, guest
# bytes, sha256 of the guest's content as qemu-img reads it, and what qemu-img check says (sound,
# leaks, corruptions).
set -e
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
rm -f "$here"/*.zst
printf '# name\tbytes\tsha256 of the content\tqemu-img check\n' >"$here/MANIFEST.tsv"

# keep NAME [FILE...]: done with NAME.qcow2; FILEs are what it leads to.
keep() {
	name=$1
	shift
	# a dirty mark is not to be cleared by reading
	qemu-img convert -f qcow2 -O raw "$name.qcow2" out.raw
	qemu-img check -q "$name.qcow2" >/dev/null 2>&1 && sound=0 || sound=$?
	case $sound in 0) sound=sound ;; 3) sound=leaks ;; *) sound=corruptions ;; esac
	printf '%s\t%s\t%s\t%s\n' "$name" "$(stat -c %s out.raw)" "$(sha256sum <out.raw | cut -c 1-64)" \
		$sound >>"$here/MANIFEST.tsv"
	for f in "$name.qcow2" "$@"; do
		zstd -q -19 --no-check -f "$f" -o "$here/$f.zst"
	done
}
# some NAME OPTIONS [SIZE]: with data in pieces, zeroes, and what was discarded.
some() {
	qemu-img create -q -f qcow2 -o "$2" "$1.qcow2" "${3:-1M}"
	qemu-io -f qcow2 -c 'write -q -P 17 0 3k' -c 'write -q -P 34 100k 65k' -c 'write -q -z 110k 20k' \
		-c 'write -q -P 51 200k 512' -c 'write -q -P 68 300k 40k' -c 'discard -q 304k 16k' \
		"$1.qcow2"
}
# packed NAME OPTIONS: compressed clusters, and some of them written over.
packed() {
	{ seq 1 20000; head -c 200000 /dev/zero; seq 20000 30000; } | head -c 330k >text.raw
	qemu-img convert -c -f raw -O qcow2 -o "$2" text.raw "$1.qcow2"
	qemu-io -f qcow2 -c 'write -q -P 85 20k 700' -c 'write -q -P 86 250k 30k' "$1.qcow2"
}

some v2 compat=0.10
some v2-512 compat=0.10,cluster_size=512
some v3 compat=1.1
some c512 cluster_size=512
some c4k cluster_size=4k
some c2M cluster_size=2M 7M
some odd-size compat=1.1 350208
for bits in 1 2 4 8 32 64; do
	some rc$bits refcount_bits=$bits,cluster_size=512
done
some extended-l2 extended_l2=on
some extended-l2-16k extended_l2=on,cluster_size=16k
some extended-l2-2M extended_l2=on,cluster_size=2M 7M
for name in v2 v2-512 v3 c512 c4k c2M odd-size rc1 rc2 rc4 rc8 rc32 rc64 extended-l2 extended-l2-16k \
	extended-l2-2M; do
	keep $name
done

packed zlib compat=1.1
packed zlib-v2-512 compat=0.10,cluster_size=512
packed zlib-2M cluster_size=2M
packed zstd compression_type=zstd
packed zstd-extended-l2-16k compression_type=zstd,extended_l2=on,cluster_size=16k
packed zlib-rc1 refcount_bits=1,cluster_size=4k
for name in zlib zlib-v2-512 zlib-2M zstd zstd-extended-l2-16k zlib-rc1; do
	keep $name
done

{ seq 1 9000; head -c 30000 /dev/zero; } | head -c 70144 >base.raw
qemu-img create -q -f qcow2 -b base.raw -F raw over-raw.qcow2 256k
qemu-io -f qcow2 -c 'write -q -P 1 5k 1k' -c 'write -q -z 30k 9k' over-raw.qcow2
keep over-raw base.raw
some below cluster_size=4k 512k
qemu-img create -q -f qcow2 -o extended_l2=on -b below.qcow2 -F qcow2 over-qcow2.qcow2
qemu-io -f qcow2 -c 'write -q -P 2 101k 1k' -c 'write -q -z 200k 2k' over-qcow2.qcow2
keep below
keep over-qcow2

some snapshots cluster_size=4k
qemu-img snapshot -c one snapshots.qcow2
qemu-io -f qcow2 -c 'write -q -P 3 50k 80k' snapshots.qcow2
qemu-img snapshot -c 'two words' snapshots.qcow2
qemu-io -f qcow2 -c 'write -q -P 4 0 9k' snapshots.qcow2
keep snapshots
some bitmaps compat=1.1
qemu-img bitmap --add bitmaps.qcow2 first
qemu-img bitmap --add -g 4k bitmaps.qcow2 second
qemu-img bitmap --disable bitmaps.qcow2 second
keep bitmaps

qemu-img create -q -f qcow2 -o data_file=data-file.bin data-file.qcow2 1M
qemu-io -f qcow2 -c 'write -q -P 5 64k 100k' -c 'write -q -z 70k 1k' data-file.qcow2
keep data-file data-file.bin
qemu-img create -q -f qcow2 -o data_file=data-file-raw.bin,data_file_raw=on data-file-raw.qcow2 1M
qemu-io -f qcow2 -c 'write -q -P 6 64k 100k' data-file-raw.qcow2
keep data-file-raw data-file-raw.bin

# Dirty: the refcounts of what was written were not, when it was killed.
qemu-img create -q -f qcow2 -o lazy_refcounts=on,cluster_size=4k dirty.qcow2 256k
sh -c 'qemu-io -f qcow2 -c "write -q -P 7 0 50k" -c flush -c abort dirty.qcow2' >/dev/null 2>&1 || true
keep dirty
# Marked as corrupt by hand (bit 1 of the incompatible features); nothing else is wrong.
some corrupt-mark cluster_size=4k
printf '\002' | dd of=corrupt-mark.qcow2 bs=1 seek=79 conv=notrunc status=none
keep corrupt-mark
# Leaked, by hand: one cluster more at the end, counted and not used.
some leaks cluster_size=4k
number() { dd if=leaks.qcow2 bs=1 skip=$1 count=8 status=none | od -An -tx1 | tr -d ' \n'; }
block=$(number $((0x$(number 48))))
last=$((($(stat -c %s leaks.qcow2) + 4095) / 4096))
truncate -s $(((last + 1) * 4096)) leaks.qcow2
printf '\000\001' | dd of=leaks.qcow2 bs=1 seek=$((0x$block + last * 2)) conv=notrunc status=none
keep leaks

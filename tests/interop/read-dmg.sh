# Disk images of Macs, made from the format's description: we read what qemu-img and 7-Zip read, and what was put in; their
# checksums are right. Sourced by run.sh.

make_image() { python3 "$top/tests/support/make-image.py" "$@"; }
truncate -s $((3 * 1048576 + 512 * 37)) small.raw
dd if=content.raw of=small.raw bs=64k skip=50 seek=3 count=18 conv=notrunc status=none

# Who can read it: content of 15 MiB, or less for what Python packs slowly. Streams of our own LZFSE packer 7-Zip takes up to
# 96 KiB of text, for a reason not known; Apple's of any length both read.
while read -r others source options; do
	name="dmg $options"
	# shellcheck disable=SC2086 # words are wanted
	try "$name: made" make_image dmg $source.raw a.dmg $options || continue
	try "$name: compare" "$imgtool" compare -f dmg -F raw a.dmg $source.raw
	try "$name: probed" "$imgtool" compare a.dmg $source.raw
	try "$name: check" "$imgtool" check -q -f dmg a.dmg
	rm -f ours.raw
	try "$name: convert" "$imgtool" convert -f dmg -O raw a.dmg ours.raw
	try "$name: same content" cmp ours.raw $source.raw
	rm -f ours.raw
	case $others in
	*q*)
		reads "$name" dmg a.dmg
		same_info "$name" dmg a.dmg ;;
	esac
	case $others in *7*) seven "$name" a.dmg $source.raw ;; esac
	rm -f a.dmg
done <<END
q7 content kinds=zlib
q7 content kinds=plain
q content kinds=zlib,plain,zero,ignore chunk=262144 parts=3
q7 content kinds=zlib,zero chunk=512000
q7 content kinds=ignore,zlib chunk=2097152 start=1000
q content kinds=zlib behind=1
q content kinds=zlib,zero behind=200
- content kinds=zlib,zero behind=511
q content kinds=zlib,plain fork=resource
q content kinds=zlib crc=no
7 content kinds=bzip2,zero
7 content kinds=xz,zlib,bzip2 chunk=65536
- content kinds=zlib,plain trailer=front
- content kinds=zlib fork=resource trailer=front parts=2
7 small kinds=adc,zero chunk=262144
7 small kinds=lzvn,ignore chunk=131072
- content kinds=lzfse,zero packer=$build/tests/interop/lzfse
7 content kinds=lzfse chunk=65536 packer=$build/tests/interop/lzfse
- small kinds=lzfse chunk=1536 packer=$build/tests/interop/lzfse
- small kinds=adc,lzvn,bzip2,xz,zlib,plain,zero,ignore chunk=7168 parts=4
END

# What is not all there is said, and not read as zeroes.
make_image dmg content.raw a.dmg kinds=zlib parts=2 gap=3
try "dmg with sectors that no chunk has" sh -c "! '$imgtool' convert -f dmg -O raw a.dmg ours.raw 2>err && grep -q 'no chunk has sectors' err"
try "dmg with sectors that no chunk has: check" sh -c "'$imgtool' check -f dmg a.dmg >out 2>&1; test \$? -eq 2 && grep -q 'no chunk has' out"
try "dmg with sectors that no chunk has: salvage" "$imgtool" convert --salvage -q -f dmg -O raw a.dmg ours.raw
make_image dmg content.raw a.dmg segments=3
try "one segment of several" sh -c "! '$imgtool' info a.dmg 2>err && grep -q 'segment 1 of 3' err"
make_image dmg content.raw a.dmg kinds=zlib
for offset in 3000 1000000 -1; do
	cp a.dmg b.dmg
	[ $offset -ge 0 ] || offset=$(($(stat -c %s a.dmg) * 2 / 3))
	printf '\377\000\377' | dd of=b.dmg bs=1 seek=$offset conv=notrunc status=none
	try "damaged at $offset: check" sh -c "'$imgtool' check -f dmg b.dmg >out 2>&1; test \$? -eq 2 && grep -q ERROR out"
done

# A chunk as large as they may be is unpacked once, in bounded memory.
truncate -s 128M large.raw
dd if=content.raw of=large.raw bs=1M seek=60 conv=notrunc status=none
make_image dmg large.raw a.dmg chunk=67108864
try "chunks of 64 MiB: convert" /usr/bin/time -q -f '%e %M' -o spent timeout 60 "$imgtool" convert -f dmg -O raw a.dmg ours.raw
try "chunks of 64 MiB: same content" cmp ours.raw large.raw
try "chunks of 64 MiB: time and memory" awk '{ print; exit !($1 < 20 && $2 < 320000) }' spent
rm -f a.dmg b.dmg ours.raw large.raw small.raw

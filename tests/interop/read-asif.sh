# Apple sparse images made from what is known of the format: no other program here reads them. Sourced by run.sh.

make_image() { python3 "$top/tests/support/make-image.py" "$@"; }

# Chunks with holes, chunks without, empty ones.
cp content.raw holes.raw
truncate -s 20M holes.raw
dd if=content.raw of=holes.raw bs=4096 seek=4000 count=700 conv=notrunc status=none
for hole in 100 101 400 1000 1500; do
	dd if=/dev/zero of=holes.raw bs=4096 seek=$hole count=1 conv=notrunc status=none
done
while read -r options; do
	name="asif $options"
	# shellcheck disable=SC2086 # words are wanted
	try "$name: made" make_image asif holes.raw a.asif $options || continue
	try "$name: compare" "$imgtool" compare -f asif -F raw a.asif holes.raw
	try "$name: probed" "$imgtool" compare a.asif holes.raw
	try "$name: check" "$imgtool" check -q -f asif a.asif
	try "$name: convert" "$imgtool" convert -f asif -O raw a.asif ours.raw
	try "$name: same content" cmp ours.raw holes.raw
	try "$name: info" sh -c "'$imgtool' info a.asif | grep -q 00010203-0405-0607-0809-0a0b0c0d0e0f"
	rm -f a.asif ours.raw
done <<END
first=0
first=1 max=20971520
chunk=65536 max=1073741824
chunk=524288 block=4096
chunk=262144 block=4096 max=1073741824
chunk=4194304 first=1
END
rm -f holes.raw

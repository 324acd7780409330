# Bochs images made from the format's description: we read what qemu-img reads. Sourced by run.sh.

make_image() { python3 "$top/tests/support/make-image.py" "$@"; }

while read -r options; do
	name="bochs $options"
	# shellcheck disable=SC2086 # words are wanted
	try "$name: made" make_image bochs content.raw a.bochs $options || continue
	try "$name: compare" "$imgtool" compare -f bochs -F raw a.bochs content.raw
	try "$name: probed" "$imgtool" compare a.bochs content.raw
	reads "$name" bochs a.bochs
	same_info "$name" bochs a.bochs
	try "$name: check" "$imgtool" check -q -f bochs a.bochs
	rm -f a.bochs
done <<END
version=2 extent=4096 bitmap=1
version=1 extent=512 order=down
version=1 extent=65536 entries=5000
version=2 extent=2097152 order=down header=4096
version=2 extent=8388608
version=2 extent=131072 bitmap=4096
END

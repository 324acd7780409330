# cloop images made from the format's description: we read what qemu-img reads, and version 4, which it does not
# know. Sourced by run.sh.

make_image() { python3 "$top/tests/support/make-image.py" "$@"; }

while read -r block options; do
	name="cloop block=$block $options"
	# shellcheck disable=SC2086 # words are wanted
	try "$name: made" make_image cloop content.raw a.cloop block="$block" $options || continue
	# of whole blocks
	cp content.raw padded.raw
	truncate -s %"$block" padded.raw
	try "$name: probed" "$imgtool" compare a.cloop padded.raw
	try "$name: convert" "$imgtool" convert -f cloop -O raw a.cloop ours.raw
	try "$name: same content" cmp ours.raw padded.raw
	try "$name: check" "$imgtool" check -q -f cloop a.cloop
	case $options in
	'')
		reads "$name" cloop a.cloop
		same_info "$name" cloop a.cloop ;;
	esac
	rm -f a.cloop padded.raw ours.raw
done <<END
512
4096
65536
98304
1048576
2097664
65536 version=4
512 version=4 place=end
131072 version=4 place=end kinds=zlib,plain,xz
40960 version=4 kinds=plain,xz,zlib
4194304 version=4 kinds=xz
END

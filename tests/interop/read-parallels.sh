# qemu-img and qemu-io write Parallels images, and VirtualBox's kind, we read. Sourced by run.sh.

parallels_read() {	# NAME FILE
	reads "$1" parallels "$2"
	same_info "$1" parallels "$2"
	same_map "$1" parallels "$2"
	try "$1: check" "$imgtool" check -q -f parallels "$2"
}

for options in cluster_size=1M cluster_size=64k cluster_size=32256 cluster_size=4k cluster_size=512; do
	name="parallels $options"
	rm -f ./a.parallels
	qemu-img convert -f raw -O parallels -o "$options" content.raw a.parallels ||
		{ fail "$name: qemu-img cannot make it"; continue; }
	parallels_read "$name" a.parallels
	scribble parallels a.parallels
	parallels_read "$name, changed" a.parallels
	# not closed, and longer than it need be
	printf Ynot | dd of=a.parallels bs=1 seek=44 conv=notrunc status=none
	truncate -s +1M a.parallels
	same_check "$name, not closed" parallels a.parallels
	reads "$name, not closed" parallels a.parallels
	try "$name, not closed: repair" "$imgtool" check -q -r all -f parallels a.parallels
	same_check "$name, repaired" parallels a.parallels
	try "$name, repaired: qemu-img check" qemu-img check -q -f parallels a.parallels
done

name="parallels of VirtualBox's kind"
virtualbox_parallels a.parallels "$(stat -c %s content.raw)"
parallels_read "$name, empty" a.parallels
qemu-img convert -n -f raw -O parallels content.raw a.parallels
parallels_read "$name" a.parallels
scribble parallels a.parallels
parallels_read "$name, changed" a.parallels
rm -f a.parallels

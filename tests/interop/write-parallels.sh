# We write Parallels images, others read. Sourced by run.sh.

truncate -s "$(stat -c %s content.raw)" backwards.parallels.raw
head -c 6000000 /dev/urandom | dd of=backwards.parallels.raw bs=5000000 seek=1 conv=notrunc iflag=fullblock status=none

# Both readers find nothing wrong with FILE, which holds RAW.
parallels_sound() {	# NAME FILE [RAW]
	try "$1: check" "$imgtool" check -q -f parallels "$2"
	try "$1: qemu-img check" qemu-img check -q -f parallels "$2"
	is_content "$1" parallels "$2" "${3:-content.raw}"
}

# What we and they have made of the same options, changed by them, then by us.
parallels_changed() {	# NAME FILE
	scribble parallels "$2"
	reads "$1 changed by qemu-io" parallels "$2"
	try "$1 written over by us" "$imgtool" convert -n -f raw -O parallels backwards.parallels.raw "$2"
	parallels_sound "$1 written over by us" "$2" backwards.parallels.raw
	try "$1 larger" "$imgtool" resize -q -f parallels "$2" +3M
	qemu-img resize -q -f raw backwards.parallels.raw +3M
	parallels_sound "$1 larger" "$2" backwards.parallels.raw
	try "$1 smaller" "$imgtool" resize -q --shrink -f parallels "$2" -3M
	qemu-img resize -q -f raw --shrink backwards.parallels.raw -3M
	parallels_sound "$1 smaller" "$2" backwards.parallels.raw
}

while read -r options; do
	name="our parallels $options"
	rm -f ./o.parallels ./t.parallels
	try "$name: convert" "$imgtool" convert -f raw -O parallels ${options:+-o "$options"} content.raw o.parallels ||
		continue
	parallels_sound "$name" o.parallels
	case $options in
	*preallocation*) ;;
	*)
		qemu-img convert -f raw -O parallels ${options:+-o "$options"} content.raw t.parallels
		same_info "$name" parallels o.parallels t.parallels
		try "$name: compare" "$imgtool" compare -f parallels -F parallels o.parallels t.parallels
		parallels_changed "$name, theirs," t.parallels ;;
	esac
	parallels_changed "$name, ours," o.parallels
done <<END

cluster_size=64k
cluster_size=32256
cluster_size=512
preallocation=falloc
preallocation=full,cluster_size=64k
END

name="parallels of VirtualBox's kind, written by us"
virtualbox_parallels o.parallels "$(stat -c %s content.raw)"
try "$name: convert" "$imgtool" convert -n -f raw -O parallels content.raw o.parallels
parallels_sound "$name" o.parallels
vbox_reads "$name" o.parallels content.raw
parallels_changed "$name," o.parallels
vbox_reads "$name, resized" o.parallels backwards.parallels.raw
# The file in a folder is one that they read.
name="a folder of parallels"
mkdir o.hdd
try "$name: convert" "$imgtool" convert -f raw -O parallels -o cluster_size=64k content.raw o.hdd
try "$name: check" "$imgtool" check -q -f parallels o.hdd
parallels_sound "$name" 'o.hdd/o.hdd.0.{5fbaabe3-6958-40ff-92a7-860e329aab41}.hds'
scribble parallels 'o.hdd/o.hdd.0.{5fbaabe3-6958-40ff-92a7-860e329aab41}.hds'
try "$name, changed by qemu-io: compare" "$imgtool" compare -f parallels -F parallels o.hdd \
	'o.hdd/o.hdd.0.{5fbaabe3-6958-40ff-92a7-860e329aab41}.hds'
rm -rf o.hdd
rm -f o.parallels t.parallels backwards.parallels.raw

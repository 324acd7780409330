# We write vpc, others read. Sourced by run.sh.

truncate -s "$(stat -c %s content.raw)" backwards.vpc.raw
head -c 6000000 /dev/urandom | dd of=backwards.vpc.raw bs=5000000 seek=1 conv=notrunc iflag=fullblock status=none

# vbox_reads_vpc NAME FILE: VirtualBox reads what we do. Each time it is shown it anew, as the first disk that it sees.
vbox_reads_vpc() {
	have VBoxManage || return
	rm -f ./*.shown.* && vbox_forget
	shown=$((shown + 1))
	cp "$2" $shown.shown.vhd
	try "$1: VBoxManage" vbox clonemedium disk "$work/$shown.shown.vhd" "$work/$shown.shown.raw" --format RAW &&
		try "$1: VBoxManage: the same content" "$imgtool" compare -q -f vpc -F raw "$2" $shown.shown.raw
	rm -f ./*.shown.*
}
shown=0

while read -r options; do
	name="our vpc $options"
	rm -f ./o.vpc ./t.vpc
	try "$name: convert" "$imgtool" convert -f raw -O vpc -o "$options" content.raw o.vpc || continue
	try "$name: check" "$imgtool" check -q -f vpc o.vpc
	is_content "$name" vpc o.vpc
	case $options in
	*azure* | *fixed*) vhdi "$name" o.vpc Fixed ;;
	*) vhdi "$name" o.vpc Dynamic ;;
	esac
	case $options in
	*azure* | *block_size*) ;;
	*)
		qemu-img convert -f raw -O vpc -o "$options" content.raw t.vpc
		same_info "$name" vpc o.vpc t.vpc
		try "$name: compare" "$imgtool" compare -f vpc -F vpc o.vpc t.vpc ;;
	esac
	case $options in	# of other blocks than 2 MiB it knows nothing
	*block_size*) ;;
	*) vbox_reads_vpc "$name" o.vpc ;;
	esac
	case $options in	# it knows fixed ones by the name of their file, others by their start
	*fixed,force_size*) cp o.vpc o.vhd && seven "$name" o.vhd && rm o.vhd ;;
	*force_size*) seven "$name" o.vpc ;;
	esac
	for file in o.vpc t.vpc; do	# changed by them, then by us
		[ -f $file ] || continue
		scribble vpc $file
		reads "$name, ${file%.vpc} changed by qemu-io" vpc $file
		what="$name, ${file%.vpc} written over by us"
		try "$what" "$imgtool" convert -n -f raw -O vpc backwards.vpc.raw $file
		is_content "$what" vpc $file backwards.vpc.raw
		try "$what: check" "$imgtool" check -q -f vpc $file
	done
done <<END
subformat=dynamic
subformat=dynamic,force_size=on
force_size=on,block_size=64k
subformat=fixed
subformat=fixed,force_size=on
azure=on
END

# Chains, which qemu-img takes for disks of their own: 7-Zip follows them.
"$imgtool" convert -f raw -O vpc -o force_size=on content.raw base.vhd
"$imgtool" create -q -f vpc -b base.vhd -F vpc middle.vhd
"$imgtool" io -f vpc middle.vhd -c 'write -q -P 5 1000 70000' -c 'write -q -z 3M 64k' -c 'write -q -P 6 14M 512'
"$imgtool" create -q -f vpc -b middle.vhd -F vpc top.vhd
"$imgtool" io -f vpc top.vhd -c 'write -q -P 7 60000 1000' -c 'discard -q 14M 512' -c 'write -q -P 8 5M 5M'
"$imgtool" convert -f vpc -O raw top.vhd chain.raw
seven "our vpc, a chain" top.vhd chain.raw
for image in base.vhd middle.vhd top.vhd; do
	try "our vpc, a chain: check $image" "$imgtool" check -q -f vpc $image
done

# In VirtualBox, too, which finds a parent that it remembers, and goes on with our chain.
if have VBoxManage; then
	name="our vpc, a chain in VirtualBox"
	vbox_forget
	for image in base middle top; do
		try "$name: $image" vbox modifymedium disk "$work/$image.vhd" --description "$image"
	done
	try "$name: merged" vbox clonemedium disk "$work/top.vhd" "$work/merged.vhd" --format VHD
	try "$name: merged: the same content" "$imgtool" compare -q -f vpc -F raw merged.vhd chain.raw
	try "$name: a child by it" vbox createmedium disk --filename "$work/child.vhd" --diffparent "$work/top.vhd" --format VHD
	try "$name: a child by it: the same content" "$imgtool" compare -q -f vpc -F raw child.vhd chain.raw
	try "$name: a child by it: check" "$imgtool" check -q -f vpc child.vhd
	# A copy has a unique id of its own: both are registered.
	"$imgtool" convert -f vpc -O vpc -o force_size=on merged.vhd copy.vhd
	try "$name: a copy" vbox showmediuminfo disk "$work/copy.vhd"
	rm -f merged.vhd child.vhd copy.vhd
fi

# libvhdi takes eight sectors at a time for a child's or its parent's.
for image in middle top; do
	"$imgtool" create -q -f vpc -b $([ $image = top ] && echo middle || echo base).vhd -F vpc $image.vhd
	"$imgtool" io -f vpc $image.vhd -c "write -q -P ${#image} $((${#image} * 4))k 4k" -c 'write -q -P 5 512k 1M' \
		-c "write -q -z 3M ${#image}M" -c "write -q -P ${#image} 14M 1M"
done
"$imgtool" convert -f vpc -O raw top.vhd chain.raw
vhdi "our vpc, a chain" top.vhd Differential chain.raw
rm -f base.vhd middle.vhd top.vhd chain.raw backwards.vpc.raw

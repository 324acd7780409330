# qemu-img, qemu-io and VBoxManage write vpc, we read. Sourced by run.sh.

while read -r options; do
	name="vpc $options"
	rm -f ./a.vpc
	qemu-img convert -f raw -O vpc -o "$options" content.raw a.vpc ||
		{ fail "$name: qemu-img cannot make it"; continue; }
	reads "$name" vpc a.vpc
	same_info "$name" vpc a.vpc
	try "$name: check" "$imgtool" check -q -f vpc a.vpc
	scribble vpc a.vpc
	reads "$name, changed" vpc a.vpc
	try "$name, changed: check" "$imgtool" check -q -f vpc a.vpc
done <<END
subformat=dynamic
subformat=dynamic,force_size=on
subformat=fixed
subformat=fixed,force_size=on
END

# Chains by VirtualBox, which has one registry of all images that it was ever shown.
if have VBoxManage; then
	vbox_forget
	for variant in Standard Fixed; do
		name="vpc by VirtualBox, $variant"
		rm -f v.vhd
		try "$name: made" vbox convertfromraw content.raw v.vhd --format VHD --variant $variant || continue
		try "$name: compare" "$imgtool" compare -q -f vpc -F raw v.vhd content.raw
		try "$name: check" "$imgtool" check -q -f vpc v.vhd
	done
	"$imgtool" convert -f raw -O vpc -o force_size=on content.raw v.vhd
	name="vpc chain by VirtualBox"
	try "$name: the first child" vbox createmedium disk --filename "$work/w.vhd" --diffparent "$work/v.vhd" --format VHD
	"$imgtool" io -f vpc w.vhd -c 'write -q -P 5 1000 3M' -c 'write -q -z 5M 2M' -c 'write -q -P 6 15M 512' >/dev/null
	try "$name: the second child" vbox createmedium disk --filename "$work/x.vhd" --diffparent "$work/w.vhd" --format VHD
	"$imgtool" io -f vpc x.vhd -c 'write -q -P 7 60000 1000' -c 'discard -q 6M 1M' -c 'write -q -P 8 8M 3M' >/dev/null
	try "$name: convert" "$imgtool" convert -f vpc -O raw x.vhd chain.raw
	try "$name: VirtualBox merges it" vbox clonemedium disk "$work/x.vhd" "$work/y.vhd" --format VHD
	try "$name: the same content" "$imgtool" compare -q -f vpc -F raw y.vhd chain.raw
	seven "$name" y.vhd chain.raw	# qemu-img takes blocks as a whole, which VirtualBox does not clear
	for image in v w x y; do
		try "$name: check $image" "$imgtool" check -q -f vpc $image.vhd
	done
	try "$name: committed" "$imgtool" commit -q -f vpc x.vhd
	try "$name: committed: the same content" "$imgtool" compare -q -f vpc -F raw w.vhd chain.raw
	try "$name: and once more" "$imgtool" commit -q -f vpc w.vhd
	try "$name: and once more: as qemu-img reads it" qemu-img compare -q -f vpc -F raw v.vhd chain.raw
	rm -f chain.raw ./?.vhd
fi

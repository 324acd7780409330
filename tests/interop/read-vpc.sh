# qemu-img and qemu-io write vpc, we read. Sourced by run.sh.

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

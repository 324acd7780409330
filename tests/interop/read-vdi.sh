# qemu-img, qemu-io and VBoxManage write vdi, we read. Sourced by run.sh.

while read -r options; do
	for program in qemu-img qemu-img-11; do
		have $program || continue
		name="vdi $options by $program"
		rm -f ./a.vdi
		$program convert -f raw -O vdi -o "$options" content.raw a.vdi ||
			{ fail "$name: it cannot make it"; continue; }
		try "$name: compare" "$imgtool" compare -f vdi -F raw a.vdi content.raw
		reads "$name" vdi a.vdi
		same_info "$name" vdi a.vdi
		same_map "$name" vdi a.vdi
		sound "$name" vdi a.vdi
		scribble vdi a.vdi
		reads "$name, changed" vdi a.vdi
		same_info "$name, changed" vdi a.vdi
		sound "$name, changed" vdi a.vdi
	done
done <<END
static=off
static=on
END

# Chains by VirtualBox, which has one registry of all images that it was ever shown.
if have VBoxManage; then
	vbox_forget
	for variant in Standard Fixed; do
		name="vdi by VirtualBox, $variant"
		rm -f v.vdi
		try "$name: made" vbox convertfromraw content.raw v.vdi --format VDI --variant $variant || continue
		try "$name: compare" "$imgtool" compare -f vdi -F raw v.vdi content.raw
		sound "$name" vdi v.vdi
		seven "$name" v.vdi
	done
	name="chain by VirtualBox"
	try "$name: the first child" vbox createmedium disk --filename "$work/w.vdi" --diffparent "$work/v.vdi"
	"$imgtool" io -f vdi w.vdi -c 'write -q -P 5 1000 3M' -c 'write -q -z 5M 2M' -c 'write -q -P 6 15M 512' >/dev/null
	try "$name: the second child" vbox createmedium disk --filename "$work/x.vdi" --diffparent "$work/w.vdi"
	"$imgtool" io -f vdi x.vdi -c 'write -q -P 7 60000 1000' -c 'discard -q 6M 1M' -c 'write -q -P 8 8M 3M' >/dev/null
	try "$name: convert" "$imgtool" convert -f vdi -O raw x.vdi chain.raw
	try "$name: VirtualBox merges it" vbox clonemedium disk "$work/x.vdi" "$work/y.vdi" --format VDI
	try "$name: the same content" "$imgtool" compare -f vdi -F raw y.vdi chain.raw
	try "$name: qemu-img compare" qemu-img compare -q -f vdi -F raw y.vdi chain.raw
	for image in v w x y; do
		try "$name: check $image" "$imgtool" check -q -f vdi $image.vdi
	done
	try "$name: committed" "$imgtool" commit -q -f vdi x.vdi
	try "$name: committed: the same content" "$imgtool" compare -f vdi -F raw w.vdi chain.raw
	rm -f chain.raw
fi

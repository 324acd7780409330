# qemu-img and qemu-io write vhdx, we read. Sourced by run.sh.

while read -r options; do
	name="vhdx $options"
	rm -f ./a.vhdx
	qemu-img convert -f raw -O vhdx -o "$options" content.raw a.vhdx ||
		{ fail "$name: qemu-img cannot make it"; continue; }
	try "$name: compare" "$imgtool" compare -f vhdx -F raw a.vhdx content.raw
	reads "$name" vhdx a.vhdx
	same_info "$name" vhdx a.vhdx
	sound "$name" vhdx a.vhdx
	scribble vhdx a.vhdx
	reads "$name, changed" vhdx a.vhdx
	sound "$name, changed" vhdx a.vhdx
done <<END
block_size=0
block_size=1M
block_size=4M,block_state_zero=off
block_size=256M
log_size=4M
subformat=fixed
subformat=fixed,block_size=2M
END

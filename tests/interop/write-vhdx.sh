# We write vhdx, others read. Sourced by run.sh.

{ head -c 5000000 /dev/zero; head -c 6000000 /dev/urandom; head -c 2000000 content.raw; } >backwards.raw
truncate -s "$(stat -c %s content.raw)" backwards.raw

cp --sparse=always content.raw padded.raw
truncate -s 16M padded.raw

while read -r options; do
	name="our vhdx $options"
	rm -f ./o.vhdx ./t.vhdx
	try "$name: convert" "$imgtool" convert -f raw -O vhdx -o "$options" content.raw o.vhdx || continue
	is_content "$name" vhdx o.vhdx
	case $options in
	*fixed*) vhdi "$name" o.vhdx Fixed ;;
	*) vhdi "$name" o.vhdx Dynamic ;;
	esac
	qemu-img convert -f raw -O vhdx -o "$options" content.raw t.vhdx
	same_info "$name" vhdx o.vhdx t.vhdx
	# 7-Zip takes disks of whole MiB only.
	"$imgtool" convert -f raw -O vhdx -o "$options" padded.raw s.vhdx
	seven "$name" s.vhdx padded.raw
	vbox_reads "$name" o.vhdx content.raw
	try "$name: compare" "$imgtool" compare -f vhdx -F vhdx o.vhdx t.vhdx
	sound "$name" vhdx o.vhdx
	try "$name: no larger than theirs" test "$(stat -c %s o.vhdx)" -le "$(stat -c %s t.vhdx)"
	scribble vhdx o.vhdx
	reads "$name, changed by qemu-io" vhdx o.vhdx
	# And we go on where they stopped, on ours and on theirs.
	scribble vhdx t.vhdx
	for file in o.vhdx t.vhdx; do
		what="$name, ${file%.vhdx} written over by us"
		try "$what" "$imgtool" convert -n -f raw -O vhdx backwards.raw $file
		is_content "$what" vhdx $file backwards.raw
		sound "$what" vhdx $file
	done
done <<END
block_size=0
block_size=1M
block_size=4M,block_state_zero=off
block_size=256M
log_size=4M
subformat=fixed,block_size=2M
END

# What qemu-img cannot read: 7-Zip can.
try "our vhdx of sectors of 4096: create" "$imgtool" create -q -f vhdx -o logical_sector_size=4096 o.vhdx 16M
try "our vhdx of sectors of 4096: convert" "$imgtool" convert -n -f raw -O vhdx content.raw o.vhdx
seven "our vhdx of sectors of 4096" o.vhdx padded.raw

# Chains: libvhdi follows them, by the absolute path; it takes eight sectors at a time for a child's or its parent's.
"$imgtool" convert -f raw -O vhdx -o block_size=1M padded.raw base.vhdx
for image in middle top; do
	"$imgtool" create -q -f vhdx -o block_size=1M -F vhdx \
		-b "$work/$([ $image = top ] && echo middle || echo base).vhdx" $image.vhdx
	"$imgtool" io -f vhdx $image.vhdx -c "write -q -P ${#image} $((${#image} * 4))k 4k" \
		-c 'write -q -P 5 512k 1M' -c "write -q -P ${#image} 14M 1M"
	try "our vhdx, a chain: check $image" "$imgtool" check -q -f vhdx $image.vhdx
done
"$imgtool" convert -f vhdx -O raw top.vhdx chain.raw
vhdi "our vhdx, a chain" top.vhdx Differential chain.raw
rm -f base.vhdx middle.vhdx top.vhdx chain.raw

for size in 512 1M 5G 3T 64T; do
	rm -f ./o.vhdx ./t.vhdx
	name="our empty vhdx of $size"
	try "$name: create" "$imgtool" create -q -f vhdx o.vhdx $size || continue
	qemu-img create -q -f vhdx t.vhdx $size
	same_info "$name" vhdx o.vhdx t.vhdx
	sound "$name" vhdx o.vhdx
	try "$name: convert" "$imgtool" convert -f vhdx -O qcow2 o.vhdx t.qcow2
	try "$name: convert back" "$imgtool" convert -f qcow2 -O vhdx t.qcow2 o.vhdx
	same_info "$name, converted" vhdx o.vhdx t.vhdx
done

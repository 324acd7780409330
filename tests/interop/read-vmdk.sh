# qemu-img and qemu-io write vmdk, we read. Sourced by run.sh.

while read -r options; do
	name="vmdk $options"
	rm -f ./a*.vmdk
	qemu-img convert -f raw -O vmdk -o "$options" content.raw a.vmdk ||
		{ fail "$name: qemu-img cannot make it"; continue; }
	try "$name: compare" "$imgtool" compare -f vmdk -F raw a.vmdk content.raw
	reads "$name" vmdk a.vmdk
	same_info "$name" vmdk a.vmdk
	case $options in
	*streamOptimized*) continue ;;		# qemu-io cannot change those
	*Flat*) ;;
	*) same_check "$name" vmdk a.vmdk ;;
	esac
	same_map "$name" vmdk a.vmdk
	scribble vmdk a.vmdk
	reads "$name, changed" vmdk a.vmdk
	same_map "$name, changed" vmdk a.vmdk
done <<END
subformat=monolithicSparse
subformat=monolithicSparse,adapter_type=buslogic
subformat=monolithicSparse,adapter_type=lsilogic,hwversion=11
subformat=monolithicSparse,adapter_type=legacyESX
subformat=monolithicSparse,compat6=on
subformat=monolithicSparse,zeroed_grain=on
subformat=monolithicSparse,toolsversion=10304
subformat=monolithicFlat
subformat=monolithicFlat,adapter_type=lsilogic
subformat=twoGbMaxExtentSparse
subformat=twoGbMaxExtentSparse,zeroed_grain=on
subformat=twoGbMaxExtentFlat
subformat=streamOptimized
subformat=streamOptimized,adapter_type=lsilogic
END

# Several extents, and sizes that end within a grain, a grain table, a grain directory.
for subformat in twoGbMaxExtentSparse twoGbMaxExtentFlat; do
	rm -f ./b*.vmdk
	qemu-img create -q -f vmdk -o subformat=$subformat b.vmdk 5G
	qemu-io -f vmdk -c 'write -q -P 1 0 64k' -c 'write -q -P 2 2147450880 64k' -c 'write -q -P 3 5368643584 64k' b.vmdk >/dev/null
	try "vmdk $subformat of 5 GiB: map" "$imgtool" map -f vmdk b.vmdk
	same_map "vmdk $subformat of 5 GiB" vmdk b.vmdk
	same_info "vmdk $subformat of 5 GiB" vmdk b.vmdk
done
for size in 512 65536 66048 33554432 33554944 34603520; do
	rm -f b.vmdk
	qemu-img create -q -f vmdk b.vmdk $size
	qemu-io -f vmdk -c "write -q -P 7 $((size - 512)) 512" b.vmdk >/dev/null
	reads "vmdk of $size bytes" vmdk b.vmdk
	same_map "vmdk of $size bytes" vmdk b.vmdk
done

# A chain by parentFileNameHint.
qemu-img convert -f raw -O vmdk content.raw base.vmdk
qemu-img create -q -f vmdk -b base.vmdk -F vmdk child.vmdk
reads "vmdk over vmdk, empty" vmdk child.vmdk
scribble vmdk child.vmdk
reads "vmdk over vmdk" vmdk child.vmdk
same_map "vmdk over vmdk" vmdk child.vmdk
same_info "vmdk over vmdk" vmdk child.vmdk
qemu-img create -q -f vmdk -b child.vmdk -F vmdk grandchild.vmdk
reads "vmdk, a chain of three" vmdk grandchild.vmdk

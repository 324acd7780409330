# We write vmdk, others read. Sourced by run.sh.

while read -r options; do
	name="our vmdk $options"
	rm -f ./o.vmdk ./o-*.vmdk ./t.vmdk ./t-*.vmdk
	try "$name: convert" "$imgtool" convert -f raw -O vmdk -o "$options" content.raw o.vmdk || continue
	is_content "$name" vmdk o.vmdk
	qemu-img convert -f raw -O vmdk -o "$options" content.raw t.vmdk
	same_info "$name" vmdk o.vmdk t.vmdk
	seven "$name" o.vmdk
	! have vmdkinfo || try "$name: vmdkinfo" vmdkinfo o.vmdk
	try "$name: compare" "$imgtool" compare -f vmdk -F vmdk o.vmdk t.vmdk
	case $options in
	*streamOptimized*)
		try "$name: no larger than theirs" \
			test "$(stat -c %s o.vmdk)" -le "$(stat -c %s t.vmdk)"
		continue
		;;
	*Flat*) ;;
	*) sound "$name" vmdk o.vmdk ;;
	esac
	scribble vmdk o.vmdk
	reads "$name, changed by qemu-io" vmdk o.vmdk
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

for subformat in monolithicSparse twoGbMaxExtentSparse twoGbMaxExtentFlat monolithicFlat; do
	for size in 512 1M 5G; do
		rm -f ./o.vmdk ./o-*.vmdk ./t.vmdk ./t-*.vmdk
		name="our empty vmdk $subformat of $size"
		try "$name: create" "$imgtool" create -q -f vmdk -o subformat=$subformat o.vmdk $size || continue
		qemu-img create -q -f vmdk -o subformat=$subformat t.vmdk $size
		same_info "$name" vmdk o.vmdk t.vmdk
		try "$name: qemu-img compare" qemu-img compare -q -f vmdk -F vmdk o.vmdk t.vmdk
	done
done

qemu-img convert -f raw -O vmdk content.raw base.vmdk
try "our vmdk over theirs: create" "$imgtool" create -q -f vmdk -b base.vmdk -F vmdk o.vmdk && {
	is_content "our vmdk over theirs" vmdk o.vmdk
	scribble vmdk o.vmdk
	reads "our vmdk over theirs, changed by qemu-io" vmdk o.vmdk
}

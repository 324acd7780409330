# We write vmdk, others read. Sourced by run.sh.

# The same size, other content: data where zeroes were, and zeroes where data was.
tac -s '
' content.raw 2>/dev/null | head -c 4000000 >backwards.raw
{ head -c 5000000 /dev/zero; head -c 4000000 /dev/urandom; } >>backwards.raw
truncate -s "$(stat -c %s content.raw)" backwards.raw

while read -r options; do
	name="our vmdk $options"
	rm -f ./o.vmdk ./o-*.vmdk ./t.vmdk ./t-*.vmdk
	try "$name: convert" "$imgtool" convert -f raw -O vmdk -o "$options" content.raw o.vmdk || continue
	is_content "$name" vmdk o.vmdk
	qemu-img convert -f raw -O vmdk -o "$options" content.raw t.vmdk
	same_info "$name" vmdk o.vmdk t.vmdk
	case $options in
	*streamOptimized*)	# of these 7-Zip goes by the header, which counts whole grains
		cp --sparse=always content.raw whole.raw
		truncate -s %65536 whole.raw
		seven "$name" o.vmdk whole.raw
		rm -f whole.raw ;;
	*) seven "$name" o.vmdk ;;
	esac
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
	mounts "$name" vmdkmount o.vmdk vmdk1
	scribble vmdk o.vmdk
	reads "$name, changed by qemu-io" vmdk o.vmdk
	# And we go on where they stopped, on ours and on theirs.
	scribble vmdk t.vmdk
	for file in o.vmdk t.vmdk; do
		what="$name, ${file%.vmdk} written over by us"
		try "$what" "$imgtool" convert -n -f raw -O vmdk backwards.raw $file
		is_content "$what" vmdk $file backwards.raw
		seven "$what" $file backwards.raw
		case $options in *Flat*) ;; *) sound "$what" vmdk $file ;; esac
	done
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

# Children that we make, over parents of every kind, theirs and ours; and the other way round.
for subformat in monolithicSparse twoGbMaxExtentSparse monolithicFlat twoGbMaxExtentFlat streamOptimized; do
	for maker in qemu-img "$imgtool"; do
		rm -f ./base*.vmdk ./o.vmdk ./t.vmdk
		"$maker" convert -f raw -O vmdk -o subformat=$subformat content.raw base.vmdk
		name="our vmdk over a $subformat of $(basename "$maker")"
		try "$name: create" "$imgtool" create -q -f vmdk -b base.vmdk -F vmdk o.vmdk || continue
		qemu-img create -q -f vmdk -b base.vmdk -F vmdk t.vmdk
		# qemu-img takes the size of ours from the header, which counts whole grains.
		case $subformat$maker in streamOptimized*imgtool) ;; *) same_info "$name" vmdk o.vmdk t.vmdk ;; esac
		is_content "$name" vmdk o.vmdk
		for child in o.vmdk t.vmdk; do
			what="$name, ${child%.vmdk} changed by qemu-io"
			scribble vmdk $child
			sound "$what" vmdk $child
			reads "$what" vmdk $child
			what="$name, ${child%.vmdk} written over by us"
			try "$what" "$imgtool" convert -n -f raw -O vmdk backwards.raw $child
			is_content "$what" vmdk $child backwards.raw
			sound "$what" vmdk $child
		done
		is_content "$name: it is as it was" vmdk base.vmdk
	done
done

# Converted onto a parent: only what lies above it. A chain of three.
rm -f ./base*.vmdk ./o.vmdk
"$imgtool" convert -f raw -O vmdk content.raw base.vmdk
"$imgtool" create -q -f vmdk -b base.vmdk -F vmdk middle.vmdk
scribble vmdk middle.vmdk
name="our vmdk, converted onto a parent"
for options in "" zeroed_grain=on; do
	rm -f o.vmdk
	try "$name $options" "$imgtool" convert -f vmdk -O vmdk ${options:+-o $options} -B base.vmdk -F vmdk middle.vmdk o.vmdk
	try "$name $options: the same" qemu-img compare -q -f vmdk -F vmdk middle.vmdk o.vmdk
	try "$name $options: small" test "$(stat -c %s o.vmdk)" -lt 4000000
	sound "$name $options" vmdk o.vmdk
done
"$imgtool" create -q -f vmdk -b middle.vmdk -F vmdk o.vmdk
try "our vmdk, a chain of three" qemu-img compare -q -f vmdk -F vmdk middle.vmdk o.vmdk
scribble vmdk o.vmdk
reads "our vmdk, a chain of three, changed by qemu-io" vmdk o.vmdk
rm -f backwards.raw

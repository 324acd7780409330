# We write vdi, others read. Sourced by run.sh.

{ head -c 5000000 /dev/zero; head -c 6000000 /dev/urandom; head -c 2000000 content.raw; } >backwards.raw
truncate -s "$(stat -c %s content.raw)" backwards.raw


while read -r options; do
	name="our vdi $options"
	rm -f ./o.vdi ./t.vdi
	try "$name: convert" "$imgtool" convert -f raw -O vdi -o "$options" content.raw o.vdi || continue
	qemu-img convert -f raw -O vdi -o "$options" content.raw t.vdi
	for program in qemu-img qemu-img-11; do
		have $program || continue
		try "$name: $program compare" "$program" compare -q -f vdi -F raw o.vdi content.raw
		try "$name: $program check" "$program" check -q -f vdi o.vdi
	done
	try "$name: check" "$imgtool" check -q -f vdi o.vdi
	same_info "$name" vdi o.vdi t.vdi
	same_map "$name" vdi o.vdi
	seven "$name" o.vdi
	vbox_reads "$name" o.vdi
	# The data begins at a whole 4 KiB.
	try "$name: no larger than theirs" test "$(stat -c %s o.vdi)" -le $(($(stat -c %s t.vdi) + 4096))
	for file in o.vdi t.vdi; do	# changed by them, then by us
		scribble vdi $file
		reads "$name, ${file%.vdi} changed by qemu-io" vdi $file
		what="$name, ${file%.vdi} written over by us"
		try "$what" "$imgtool" convert -n -f raw -O vdi backwards.raw $file
		is_content "$what" vdi $file backwards.raw
		sound "$what" vdi $file
		vbox_reads "$what" $file backwards.raw
	done
done <<END
static=off
static=on
END
for preallocation in metadata falloc full; do	# theirs has none
	try "our vdi, preallocation=$preallocation: convert" \
		"$imgtool" convert -f raw -O vdi -o preallocation=$preallocation content.raw o.vdi
	is_content "our vdi, preallocation=$preallocation" vdi o.vdi
	sound "our vdi, preallocation=$preallocation" vdi o.vdi
	vbox_reads "our vdi, preallocation=$preallocation" o.vdi
done

# Blocks that qemu-img does not take, and VirtualBox not under 1 MiB.
for block_size in 4k 64k 2M 4M; do
	try "our vdi, blocks of $block_size: convert" \
		"$imgtool" convert -f raw -O vdi -o block_size=$block_size content.raw o.vdi
	case $block_size in *M) vbox_reads "our vdi, blocks of $block_size" o.vdi ;; esac
	try "our vdi, blocks of $block_size: check" "$imgtool" check -q -f vdi o.vdi
done

# Sizes, up and down; the map moves on the way.
for size in 512 1M 5G 3T 100T; do
	rm -f ./o.vdi ./t.vdi
	name="our empty vdi of $size"
	try "$name: create" "$imgtool" create -q -f vdi o.vdi $size || continue
	qemu-img create -q -f vdi t.vdi $size
	same_info "$name" vdi o.vdi t.vdi
	sound "$name" vdi o.vdi
done
rm -f ./o.vdi ./t.vdi
"$imgtool" convert -f raw -O vdi content.raw o.vdi
for size in 20M 3G 40G 16M 200G; do
	name="our vdi resized to $size"
	try "$name" "$imgtool" resize -q --shrink -f vdi o.vdi $size || break
	sound "$name" vdi o.vdi
	try "$name: qemu-img has that size" sh -c 'test "$(qemu-img info -f vdi --output=json o.vdi | jq ".\"virtual-size\"")" = '"$(numfmt --from=iec $size)"
	qemu-img compare -f vdi -F raw o.vdi content.raw >said
	try "$name: qemu-img reads the same" grep -q 'identical' said
	if have VBoxManage; then
		vbox_forget
		try "$name: VBoxManage" vbox showmediuminfo disk "$work/o.vdi"
	fi
done

# A chain of ours in VirtualBox, which finds a parent that it was shown; and it goes on with it.
if have VBoxManage; then
	rm -f ./*.vdi && vbox_forget
	name="our chain in VirtualBox"
	"$imgtool" convert -f raw -O vdi content.raw lower.vdi
	"$imgtool" create -q -f vdi -b lower.vdi -F vdi middle.vdi
	"$imgtool" io -f vdi middle.vdi -c 'write -q -P 5 1000 3M' -c 'write -q -z 5M 2M' -c 'write -q -P 6 15M 512' >/dev/null
	"$imgtool" create -q -f vdi -b middle.vdi -F vdi top.vdi
	"$imgtool" io -f vdi top.vdi -c 'write -q -P 7 60000 1000' -c 'discard -q 6M 1M' -c 'write -q -P 8 8M 3M' >/dev/null
	try "$name: convert" "$imgtool" convert -f vdi -O raw top.vdi chain.raw
	for image in lower middle top; do
		# What it only shows it does not remember.
		try "$name: $image" vbox modifymedium disk "$work/$image.vdi" --description "$image"
	done
	try "$name: merged" vbox clonemedium disk "$work/top.vdi" "$work/merged.vdi" --format VDI
	try "$name: merged: the same content" "$imgtool" compare -f vdi -F raw merged.vdi chain.raw
	try "$name: a child by it" vbox createmedium disk --filename "$work/child.vdi" --diffparent "$work/top.vdi"
	try "$name: a child by it: the same content" "$imgtool" compare -f vdi -F raw child.vdi chain.raw
	# A copy has UUIDs of its own: both are registered.
	"$imgtool" convert -f vdi -O vdi merged.vdi copy.vdi
	try "$name: a copy" vbox showmediuminfo disk "$work/copy.vdi"
	cp merged.vdi twin.vdi
	refuse "$name: a copy of the file" vbox showmediuminfo disk "$work/twin.vdi"
	rm -f chain.raw
fi
rm -f backwards.raw

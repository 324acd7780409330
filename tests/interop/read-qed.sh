# qemu-img, qemu-io and VBoxManage write qed, we read. Sourced by run.sh.

while read -r options; do
	for program in qemu-img qemu-img-11; do
		have $program || continue
		name="qed $options by $program"
		rm -f ./a.qed
		$program convert -f raw -O qed -o "$options" content.raw a.qed ||
			{ fail "$name: it cannot make it"; continue; }
		try "$name: compare" "$imgtool" compare -f qed -F raw a.qed content.raw
		reads "$name" qed a.qed
		same_info "$name" qed a.qed
		same_map "$name" qed a.qed
		same_check "$name" qed a.qed
		scribble qed a.qed
		reads "$name, changed" qed a.qed
		same_info "$name, changed" qed a.qed
		same_map "$name, changed" qed a.qed
		same_check "$name, changed" qed a.qed
	done
done <<END
cluster_size=64k
cluster_size=4k,table_size=2
cluster_size=1M,table_size=16
cluster_size=2M,table_size=2
END

# A chain: over raw, which is never probed, and over that.
qemu-img create -q -f qed -b content.raw -F raw b.qed 17M
scribble qed b.qed
qemu-img create -q -f qed -o cluster_size=4k -b b.qed -F qed c.qed
qemu-io -f qed -c 'write -q -P 9 3M 70000' -c 'write -q -z 64k 1M' -c 'write -q -P 4 16M 5k' c.qed
for image in b c; do
	name="chain of qed by qemu-img, $image"
	reads "$name" qed $image.qed
	same_info "$name" qed $image.qed
	same_map "$name" qed $image.qed
	same_check "$name" qed $image.qed
done

# Killed while it writes: the mark stays. A reader lets it be, a writer checks and clears it.
qemu-img create -q -f qed k.qed 64M
sh -c 'qemu-io -f qed -c "write -q -P 3 0 256k" -c abort k.qed' >/dev/null 2>&1
name="a mark left by qemu-io"
# qemu-img info calls it clean all the same.
try "$name: said" sh -c '"$1" info -f qed --output=json k.qed | jq -e ".\"dirty-flag\""' - "$imgtool"
cp k.qed kept.qed
reads "$name" qed k.qed
try "$name: a reader changes nothing" cmp k.qed kept.qed
try "$name: a write" "$imgtool" io -f qed -c 'write -q -P 4 1M 64k' k.qed
sound "$name, written to" qed k.qed
same_info "$name, written to" qed k.qed
try "$name: a repair" "$imgtool" check -q -r all -f qed kept.qed
same_info "$name, repaired" qed kept.qed

if have VBoxManage; then
	vbox_forget
	name="qed by VirtualBox"
	rm -f v.qed
	try "$name: made" vbox convertfromraw content.raw v.qed --format QED && {
		try "$name: compare" "$imgtool" compare -f qed -F raw v.qed content.raw
		same_map "$name" qed v.qed
		same_check "$name" qed v.qed
		try "$name: written to" "$imgtool" io -f qed -c 'write -q -P 7 1M 3M' v.qed
		reads "$name, written to" qed v.qed
		sound "$name, written to" qed v.qed
	}
fi
rm -f kept.qed

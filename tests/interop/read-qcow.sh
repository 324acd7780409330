# qemu-img, qemu-io and VBoxManage write qcow, we read. Sourced by run.sh.

# Of whole clusters: of others qemu-img packs but the whole ones, and says nothing.
cp content.raw whole.raw && truncate -s 16M whole.raw
for program in qemu-img qemu-img-11; do
	have $program || continue
	for packed in "" -c; do
		name="qcow $packed by $program"
		rm -f ./a.qcow
		# Packed it is made, and called a failure.
		$program convert $packed -f raw -O qcow whole.raw a.qcow || [ -n "$packed" ] ||
			{ fail "$name: it cannot make it"; continue; }
		try "$name: compare" "$imgtool" compare -f qcow -F raw a.qcow whole.raw
		reads "$name" qcow a.qcow
		same_info "$name" qcow a.qcow
		[ -n "$packed" ] || same_map "$name" qcow a.qcow
		try "$name: check" "$imgtool" check -q -f qcow a.qcow
		scribble qcow a.qcow
		reads "$name, changed" qcow a.qcow
		same_info "$name, changed" qcow a.qcow
		try "$name, changed: check" sh -c '"$1" check -q -f qcow a.qcow || [ $? = 3 ]' - "$imgtool"
	done
done

# A chain, in sectors, over raw and over that.
qemu-img create -q -f qcow -b content.raw -F raw b.qcow 17M
scribble qcow b.qcow
qemu-img create -q -f qcow -b b.qcow -F qcow c.qcow
qemu-io -f qcow -c 'write -q -P 9 3M 70000' -c 'write -q -z 64k 1M' -c 'write -q -P 4 16M 5k' c.qcow
for image in b c; do
	name="chain of qcow by qemu-img, $image"
	same_info "$name" qcow $image.qcow
	# what is not stored is found out
	reads "$name" qcow $image.qcow
	same_map "$name" qcow $image.qcow
	try "$name: check" "$imgtool" check -q -f qcow $image.qcow
done

# Encrypted by it.
secret="secret,id=s,data=sixteen or more of them"
options=driver=qcow,encrypt.key-secret=s,file.filename=e.qcow
qemu-img create -q --object "$secret" -f qcow -o encrypt.format=aes,encrypt.key-secret=s e.qcow 17M
qemu-io --object "$secret" --image-opts "$options" -c 'write -q -P 7 1000 3M' -c 'write -q -P 8 16M 512'
name="encrypted qcow by qemu-img"
qemu-img convert --object "$secret" --image-opts "$options" -O raw e.raw
try "$name: compare" "$imgtool" convert --object "$secret" --image-opts "$options" -O raw ours.raw
try "$name: the same content" cmp ours.raw e.raw
same_info "$name" qcow e.qcow
try "$name: check without the password" "$imgtool" check -q -f qcow e.qcow
rm -f e.raw ours.raw

if have VBoxManage; then
	vbox_forget
	name="qcow by VirtualBox"
	rm -f v.qcow
	try "$name: made" vbox convertfromraw content.raw v.qcow --format QCOW && {
		try "$name: compare" "$imgtool" compare -f qcow -F raw v.qcow content.raw
		same_map "$name" qcow v.qcow
		try "$name: written to" "$imgtool" io -f qcow -c 'write -q -P 7 1M 3M' v.qcow
		reads "$name, written to" qcow v.qcow
		try "$name: check" "$imgtool" check -q -f qcow v.qcow
	}
fi
rm -f whole.raw

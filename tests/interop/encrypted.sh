# Encrypted images, both ways: made, written and read by qemu-img and qemu-io and by us. Sourced by run.sh.

printf 'open sesame' >word
printf 'open barley' >other
secret='--object secret,id=s,file=word'

# What does not go by chance or by the machine's speed.
luks_facts='."format-specific".data.encrypt | [.format, ."cipher-alg", ."cipher-mode", ."ivgen-alg", ."ivgen-hash-alg",
	."hash-alg", ."payload-offset", [.slots[]? | [.active, ."key-offset", .stripes]]]'

encrypted_pair() {	# OPTIONS
	options=$1
	at=driver=qcow2,encrypt.key-secret=s,file.filename
	name="qcow2 $options"
	size=$(stat -c %s content.raw)
	rm -f a.qcow2 o.qcow2 a.data o.data
	# shellcheck disable=SC2086
	retried qemu-img create -q -f qcow2 $secret -o "encrypt.key-secret=s,$(echo "$options" | sed 's/data_file=/&a./')" \
		a.qcow2 "$size" >make.log 2>&1 || { fail "$name: qemu-img cannot make it: $(head -n 1 make.log)"; return; }
	# shellcheck disable=SC2086
	qemu-img convert -n $secret --image-opts --target-image-opts driver=raw,file.filename=content.raw "$at=a.qcow2"
	# shellcheck disable=SC2086
	try "$name: compare" "$imgtool" compare $secret --image-opts "$at=a.qcow2" driver=raw,file.filename=content.raw
	scribble_as "$at=a.qcow2"
	same_disk "$name, changed" "$at=a.qcow2"
	try "$name, changed: check without a passphrase" "$imgtool" check -q -f qcow2 a.qcow2
	# shellcheck disable=SC2086
	try "our $name: convert" "$imgtool" convert $secret -f raw -O qcow2 \
		-o "encrypt.key-secret=s,$(echo "$options" | sed 's/data_file=/&o./')" content.raw o.qcow2 || return
	# shellcheck disable=SC2086
	try "our $name: qemu-img compare" qemu-img compare -q $secret --image-opts "$at=o.qcow2" driver=raw,file.filename=content.raw
	# shellcheck disable=SC2086
	try "our $name: qemu-img check" qemu-img check -q $secret --image-opts "$at=o.qcow2"
	for program in "$imgtool" qemu-img; do
		for file in a.qcow2 o.qcow2; do
			"$program" info --output=json $file | jq -c "$luks_facts"
		done
	done | sort | uniq -c >facts
	[ "$(wc -l <facts)" = 1 ] && pass "$name: info" || fail "$name: info: $(cat facts)"
	scribble_as "$at=o.qcow2"
	same_disk "our $name, changed by qemu-io" "$at=o.qcow2"
	for file in a o; do
		"$imgtool" io $secret --image-opts "$at=$file.qcow2" -c 'write -q -P 9 100 70000' -c 'write -q -z 3M 700k' \
			-c 'write -q -P 8 15732000 99' -c 'discard -q 5M 1M' >make.log 2>&1
		same_disk "$name, $file changed by imgtool" "$at=$file.qcow2"
		# shellcheck disable=SC2086
		try "$name, $file changed by imgtool: qemu-img check" qemu-img check -q $secret --image-opts "$at=$file.qcow2"
	done
}

luks=encrypt.format=luks,encrypt.iter-time=10
while read -r options; do
	encrypted_pair "$options"
done <<END
encrypt.format=aes
encrypt.format=aes,compat=0.10,cluster_size=512
encrypt.format=aes,extended_l2=on
$luks
$luks,cluster_size=512
$luks,cluster_size=2M
$luks,compat=0.10
$luks,extended_l2=on,cluster_size=16k
$luks,data_file=data
$luks,refcount_bits=1,lazy_refcounts=on
$luks,encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha1
$luks,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain,encrypt.hash-alg=sha512
$luks,encrypt.cipher-alg=serpent-256,encrypt.cipher-mode=xts
$luks,encrypt.cipher-alg=twofish-256,encrypt.cipher-mode=xts,encrypt.hash-alg=ripemd160
$luks,encrypt.cipher-alg=cast5-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain64
END

# Room that is there before anything is written: zeroes, for both.
for options in encrypt.format=aes,preallocation=metadata $luks,preallocation=full $luks,extended_l2=on,preallocation=metadata; do
	rm -f o.qcow2 && truncate -s 3M zeroes.raw
	# shellcheck disable=SC2086
	try "our $options: create" "$imgtool" create -q $secret -f qcow2 -o "encrypt.key-secret=s,$options" o.qcow2 3M
	# shellcheck disable=SC2086
	try "our $options: qemu-img compare" qemu-img compare -q $secret --image-opts \
		driver=qcow2,encrypt.key-secret=s,file.filename=o.qcow2 driver=raw,file.filename=zeroes.raw
done

# Secrets: encrypted by another one; with a NUL in it; wrong ones say so by the same words.
head -c 32 /dev/urandom >key
iv=$(head -c 16 /dev/urandom | base64)
openssl enc -aes-256-cbc -K "$(od -An -vtx1 key | tr -d ' \n')" -iv "$(echo "$iv" | base64 -d | od -An -vtx1 | tr -d ' \n')" \
	-in word -a -A -out word.enc
wrapped="--object secret,id=k,file=key --object secret,id=s,file=word.enc,format=base64,keyid=k,iv=$iv"
rm -f o.qcow2
# shellcheck disable=SC2086
try "a secret that is encrypted" "$imgtool" convert $wrapped -f raw -O qcow2 -o encrypt.key-secret=s,$luks content.raw o.qcow2
# shellcheck disable=SC2086
try "a secret that is encrypted: qemu-img compare" qemu-img compare -q $wrapped --image-opts \
	driver=qcow2,encrypt.key-secret=s,file.filename=o.qcow2 driver=raw,file.filename=content.raw
for key in other none; do
	# shellcheck disable=SC2086
	for program in "$imgtool" qemu-img; do
		"$program" convert --object secret,id=s,file=other --image-opts -O raw \
			driver=qcow2,encrypt.key-secret=$([ $key = none ] && echo none || echo s),file.filename=o.qcow2 x.raw 2>&1
		echo "exit $?"
	done | sed "s/.*\(Invalid password\)/\1/; s/.*\(No secret with\)/\1/" | sort | uniq -c >said
	[ "$(wc -l <said)" = 2 ] && ! grep -q sesame said && pass "refused alike: $key" || fail "refused alike: $key: $(cat said)"
done

# Chains: each level by its own secret, above and below plain ones.
rm -f b.qcow2 t.qcow2 p.qcow2
two='--object secret,id=s,file=word --object secret,id=o,file=other'
# shellcheck disable=SC2086
"$imgtool" convert $two -f raw -O qcow2 -o encrypt.key-secret=o,$luks content.raw b.qcow2
for program in "$imgtool" qemu-img; do
	for above in plain aes luks; do
		rm -f t.qcow2
		case $above in
		plain) options= key= ;;
		aes) options="-o encrypt.format=aes,encrypt.key-secret=s" key=,encrypt.key-secret=s ;;
		luks) options="-o $luks,encrypt.key-secret=s" key=,encrypt.key-secret=s ;;
		esac
		# shellcheck disable=SC2086
		retried "$program" create -q $two -f qcow2 $options -b b.qcow2 -F qcow2 t.qcow2
		tree="driver=qcow2,file.filename=t.qcow2$key,backing.encrypt.key-secret=o"
		# shellcheck disable=SC2086
		qemu-io $two --image-opts "$tree" -c 'write -q -P 3 100 5000' -c 'write -q -P 4 4M 512' >/dev/null
		# shellcheck disable=SC2086
		"$imgtool" io $two --image-opts "$tree" -c 'write -q -P 5 70001 3' -c 'write -q -P 6 9M 100000' >/dev/null
		# shellcheck disable=SC2086
		qemu-img convert $two --image-opts -O raw "$tree" theirs.raw
		# shellcheck disable=SC2086
		try "$above child of $(basename $program) over LUKS" "$imgtool" compare $two --image-opts "$tree" \
			driver=raw,file.filename=theirs.raw
		# shellcheck disable=SC2086
		try "$above child of $(basename $program) over LUKS: commit" "$imgtool" commit -q $two --image-opts "$tree"
		# shellcheck disable=SC2086
		try "$above child of $(basename $program) over LUKS: what was committed" qemu-img compare -q $two --image-opts \
			driver=qcow2,file.filename=b.qcow2,encrypt.key-secret=o driver=raw,file.filename=theirs.raw
		# shellcheck disable=SC2086
		"$imgtool" io $two --image-opts "$tree" -c 'write -q -P 7 2M 70000' >/dev/null
		# shellcheck disable=SC2086
		"$imgtool" convert $two --image-opts -O raw "$tree" ours.raw
		# shellcheck disable=SC2086
		try "$above child of $(basename $program) over LUKS: rebase to nothing" "$imgtool" rebase -q $two --image-opts -b '' "$tree"
		# shellcheck disable=SC2086
		try "$above child of $(basename $program) over LUKS: what was rebased" qemu-img compare -q $two --image-opts \
			"driver=qcow2,file.filename=t.qcow2$key" driver=raw,file.filename=ours.raw
	done
done

# Snapshots inside, and growing.
rm -f o.qcow2
# shellcheck disable=SC2086
"$imgtool" convert $secret -f raw -O qcow2 -o encrypt.key-secret=s,$luks content.raw o.qcow2
# shellcheck disable=SC2086
qemu-img snapshot $secret -c one --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=o.qcow2
scribble_as driver=qcow2,encrypt.key-secret=s,file.filename=o.qcow2
# shellcheck disable=SC2086
try "a snapshot of an encrypted image" "$imgtool" compare $secret --image-opts \
	driver=qcow2,encrypt.key-secret=s,file.filename=o.qcow2,snapshot.name=one driver=raw,file.filename=content.raw
for size in +70144b +3M; do
	# shellcheck disable=SC2086
	try "resize $size" "$imgtool" resize -q $secret --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=o.qcow2 $size
	same_disk "resized $size" driver=qcow2,encrypt.key-secret=s,file.filename=o.qcow2
done
# shellcheck disable=SC2086
try "resize to less" "$imgtool" resize -q $secret --shrink --image-opts driver=qcow2,encrypt.key-secret=s,file.filename=o.qcow2 7000064
same_disk "resized to less" driver=qcow2,encrypt.key-secret=s,file.filename=o.qcow2

# Key slots: what one changes the other opens; the disk stays as it is.
printf 'a third' >third
three='--object secret,id=s,file=word --object secret,id=o,file=other --object secret,id=t,file=third'
at=driver=qcow2,file.filename=o.qcow2,encrypt.key-secret
rm -f o.qcow2
# shellcheck disable=SC2086
"$imgtool" convert $three -f raw -O qcow2 -o encrypt.key-secret=s,$luks content.raw o.qcow2
opens() {	# NAME SECRETS: those alone, by both
	for id in s o t; do
		for program in "$imgtool" qemu-img; do
			# shellcheck disable=SC2086
			"$program" compare -q $three --image-opts "$at=$id" driver=raw,file.filename=content.raw >/dev/null 2>&1 && echo "$id"
		done
	done | uniq -c | awk '{ printf "%s%s ", $2, $1 }' >opened
	[ "$(cat opened)" = "$2" ] && pass "$1" || fail "$1: opened by $(cat opened)"
}
opens "key slots: the first" "s2 "
# shellcheck disable=SC2086
try "key slots: ours adds" "$imgtool" amend $three --image-opts \
	-o encrypt.state=active,encrypt.new-secret=o,encrypt.iter-time=10 "$at=s"
opens "key slots: ours added" "s2 o2 "
# shellcheck disable=SC2086
retried qemu-img amend $three --image-opts -o encrypt.state=active,encrypt.new-secret=t,encrypt.iter-time=10,encrypt.keyslot=7 "$at=o"
opens "key slots: theirs added" "s2 o2 t2 "
# shellcheck disable=SC2086
try "key slots: ours erases" "$imgtool" amend $three --image-opts -o encrypt.state=inactive,encrypt.old-secret=s "$at=t"
opens "key slots: ours erased" "o2 t2 "
# shellcheck disable=SC2086
qemu-img amend $three --image-opts -o encrypt.state=inactive,encrypt.keyslot=1 "$at=t"
opens "key slots: theirs erased" "t2 "
# shellcheck disable=SC2086
refuse "key slots: the last one" "$imgtool" amend $three --image-opts -o encrypt.state=inactive,encrypt.old-secret=t "$at=t"
opens "key slots: the last one is there" "t2 "
# shellcheck disable=SC2086
try "key slots: qemu-img check" qemu-img check -q $three --image-opts "$at=t"

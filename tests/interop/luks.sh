# LUKS disks, both ways: with qemu-img and qemu-io, and with cryptsetup (without device mapper: it makes headers, opens
# key slots, and encrypts files by itself). Sourced by run.sh.

printf 'open sesame' >word
printf 'open barley' >other
secret='--object secret,id=s,file=word'
two="$secret --object secret,id=o,file=other"
luks=driver=luks,key-secret=s,file.filename
size=$(stat -c %s content.raw)

# shellcheck disable=SC2086 # words are wanted
luks_same() {	# NAME TREE [RAW]: we read what was put in
	try "$1: compare" "$imgtool" compare $secret --image-opts "$2" driver=raw,file.filename="${3:-content.raw}"
}
# shellcheck disable=SC2086
theirs_same() {	# NAME TREE [RAW]
	try "$1: qemu-img compare" qemu-img compare -q $secret --image-opts "$2" driver=raw,file.filename="${3:-content.raw}"
}
opens() {	# NAME WORD ARGUMENT...: cryptsetup takes the passphrase
	name=$1 key=$2
	shift 2
	try "$name: cryptsetup takes the passphrase" timeout 60 cryptsetup open --test-passphrase --key-file "$key" "$@"
}
refuses() {
	name=$1 key=$2
	shift 2
	timeout 60 cryptsetup open --test-passphrase --key-file "$key" "$@" >/dev/null 2>&1
	case $? in 0 | 124) fail "$name: cryptsetup takes it" ;; *) pass "$name: cryptsetup refuses it" ;; esac
}

luks_pair() {	# OPTIONS
	name="luks $1"
	rm -f a.luks o.luks
	# shellcheck disable=SC2086
	retried qemu-img create -q -f luks $secret -o "key-secret=s,iter-time=10${1:+,$1}" a.luks "$size" >make.log 2>&1 ||
		{ fail "$name: qemu-img cannot make it: $(head -n 1 make.log)"; return; }
	# shellcheck disable=SC2086
	qemu-img convert -n $secret --image-opts --target-image-opts driver=raw,file.filename=content.raw $luks=a.luks
	luks_same "$name" $luks=a.luks
	# shellcheck disable=SC2086
	try "our $name: convert" "$imgtool" convert $secret -f raw -O luks -o "key-secret=s,iter-time=10${1:+,$1}" content.raw o.luks || return
	theirs_same "our $name" $luks=o.luks
	try "our $name: as long" [ "$(stat -c %s a.luks)" = "$(stat -c %s o.luks)" ]
	for program in "$imgtool" qemu-img; do
		for file in a o; do
			"$program" info --output=json $file.luks | jq -c '[."virtual-size", .encrypted] +
				(."format-specific".data | [."cipher-alg", ."cipher-mode", ."ivgen-alg", ."ivgen-hash-alg", ."hash-alg",
				."payload-offset", [.slots[] | [.active, ."key-offset", .stripes]]])'
		done
	done | sort | uniq -c >facts
	[ "$(wc -l <facts)" = 1 ] && pass "$name: info" || fail "$name: info: $(cat facts)"
	for file in a o; do
		scribble_as $luks=$file.luks
		same_disk "$name, $file changed by qemu-io" $luks=$file.luks
		"$imgtool" io $secret --image-opts $luks=$file.luks -c 'write -q -P 9 100 70000' -c 'write -q -z 3M 700k' \
			-c 'write -q -P 8 15732000 99' -c 'discard -q 5M 1M' >make.log 2>&1
		same_disk "$name, $file changed by imgtool" $luks=$file.luks
	done
}
while read -r options; do
	luks_pair "$options"
done <<END

cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1
cipher-alg=aes-192,hash-alg=sha512
cipher-mode=cbc,ivgen-alg=plain,hash-alg=ripemd160
cipher-mode=ctr
cipher-mode=ecb,hash-alg=md5
cipher-alg=serpent-256,ivgen-alg=plain
cipher-alg=serpent-128,cipher-mode=cbc,ivgen-alg=essiv
cipher-alg=twofish-192
cipher-alg=twofish-256,cipher-mode=cbc,hash-alg=sha384
cipher-alg=cast5-128,cipher-mode=cbc,hash-alg=sha224
ivgen-alg=essiv,ivgen-hash-alg=sha256
END

# Sizes.
# shellcheck disable=SC2086
{
	"$imgtool" convert $secret -f raw -O luks -o key-secret=s,iter-time=10 content.raw o.luks
	cp content.raw model.raw
	for to in +70144b +3M; do
		try "luks: resize $to" "$imgtool" resize -q $secret --image-opts $luks=o.luks $to
		"$imgtool" resize -q -f raw model.raw $to
		theirs_same "luks: resize $to" $luks=o.luks model.raw
	done
	try "luks: resize to less" "$imgtool" resize -q --shrink $secret --image-opts $luks=o.luks 7000064
	truncate -s 7000064 model.raw
	theirs_same "luks: resize to less" $luks=o.luks model.raw
	for options in preallocation=falloc preallocation=full; do
		rm -f o.luks
		try "luks, $options" "$imgtool" create -q $secret -f luks -o key-secret=s,iter-time=10,$options o.luks 3M
		try "luks, $options: room" [ "$(stat -c %b o.luks)" -ge 10000 ]
	done
}

# Passphrases: the same words for what cannot be.
for key in other none; do
	for program in "$imgtool" qemu-img; do
		"$program" convert --object secret,id=s,file=other --image-opts -O raw \
			driver=luks,key-secret=$([ $key = none ] && echo none || echo s),file.filename=a.luks x.raw 2>&1
		echo "exit $?"
	done | sed "s/.*\(Invalid password\)/\1/; s/.*\(No secret with\)/\1/" | sort | uniq -c >said
	[ "$(wc -l <said)" = 2 ] && ! grep -q -e sesame -e barley said && pass "luks refused alike: $key" ||
		fail "luks refused alike: $key: $(cat said)"
done

# ---- Key slots ----

rm -f a.luks # of a cipher that cryptsetup has without the kernel
# shellcheck disable=SC2086
"$imgtool" create -q $secret -f luks -o key-secret=s,iter-time=10 a.luks 1M
amend_luks() {	# PROGRAM OPTIONS
	# shellcheck disable=SC2086
	retried "$1" amend $two --image-opts $luks=a.luks -o "$2"
}
for program in "$imgtool" qemu-img; do
	try "amend by $(basename $program): a slot is added" amend_luks "$program" state=active,new-secret=o,iter-time=10
	for reader in "$imgtool" qemu-img; do
		try "amend by $(basename $program): $(basename $reader) opens it" "$reader" convert --object secret,id=s,file=other \
			--image-opts -O raw $luks=a.luks x.raw
	done
	have cryptsetup && opens "amend by $(basename $program)" other a.luks
	other_program=$([ "$program" = qemu-img ] && echo "$imgtool" || echo qemu-img)
	try "amend by $(basename $other_program): it is erased" amend_luks "$other_program" state=inactive,old-secret=o
	have cryptsetup && refuses "an erased slot" other a.luks && opens "the slot that is left" word a.luks
done
for options in state=active state=active,new-secret=o,keyslot=0 state=active,new-secret=o,keyslot=8 state=inactive \
	state=inactive,old-secret=s state=inactive,keyslot=0 state=inactive,keyslot=3 state=inactive,old-secret=o \
	state=inactive,keyslot=0,old-secret=o state=inactive,keyslot=0,new-secret=o state=inactive,keyslot=0,iter-time=9 \
	state=active,old-secret=s,new-secret=o new-secret=o foo=bar; do
	for program in "$imgtool" qemu-img; do
		amend_luks "$program" "$options" 2>&1
		echo "exit $?"
	done | sed 's/^[a-z-]*: //; s/^a\.luks: //; s/ $//' | grep -v -e '^Did you mean' | sort | uniq -c >said
	[ "$(wc -l <said)" = 2 ] && grep -q 'exit 1' said && pass "amend refuses alike: $options" ||
		fail "amend refuses alike: $options: $(cat said)"
done
# shellcheck disable=SC2086
try "amend --force: the last slot is erased" "$imgtool" amend --force $two --image-opts $luks=a.luks -o state=inactive,keyslot=0
have cryptsetup && refuses "the last slot erased" word a.luks

have cryptsetup || { skip "no cryptsetup"; return; }

# ---- cryptsetup ----

truncate -s $((size / 4096 * 4096 + 32 * 1048576)) r.img
while read -r arguments; do
	name="cryptsetup $arguments"
	rm -f a.luks && cp --sparse=always r.img a.luks
	# shellcheck disable=SC2086
	timeout 60 cryptsetup luksFormat -q --key-file word $arguments a.luks 2>make.log ||
		{ skip "$name: cannot be made: $(tail -n 1 make.log)"; continue; }
	# shellcheck disable=SC2086
	try "$name: write" "$imgtool" convert -n $secret --image-opts --target-image-opts driver=raw,file.filename=content.raw $luks=a.luks
	# shellcheck disable=SC2086
	"$imgtool" convert $secret --image-opts -O raw $luks=a.luks ours.raw
	try "$name: read" cmp -n "$size" ours.raw content.raw
	opens "$name" word a.luks
	try "$name: check" "$imgtool" check -q -f luks a.luks
	case $arguments in
	*luks1*) # shellcheck disable=SC2086
		qemu-img convert -q $secret --image-opts -O raw $luks=a.luks theirs.raw
		try "$name: qemu-img reads the same" cmp -n "$size" theirs.raw content.raw ;;
	esac
done <<END
--type luks1 --pbkdf-force-iterations 1000
--type luks1 --pbkdf-force-iterations 1000 --cipher aes-cbc-essiv:sha256 --key-size 256 --hash sha512
--type luks1 --pbkdf-force-iterations 1000 --cipher aes-cbc-plain64 --key-size 128
--type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --sector-size 512
--type luks2 --pbkdf argon2i --pbkdf-memory 32768 --pbkdf-force-iterations 4 --sector-size 512 --hash sha512
--type luks2 --pbkdf argon2id --pbkdf-memory 32768 --pbkdf-force-iterations 4 --sector-size 4096
--type luks2 --pbkdf argon2id --pbkdf-memory 32768 --pbkdf-force-iterations 4 --pbkdf-parallel 1 --key-size 256
END

# What it encrypts we read: the numbers of sectors, with both sizes.
for sector in 512 4096; do
	cp content.raw a.img && truncate -s 16M a.img && cp a.img model.raw
	rm -f a.header
	timeout 120 cryptsetup reencrypt --encrypt -q --type luks2 --header a.header --sector-size $sector --pbkdf pbkdf2 \
		--pbkdf-force-iterations 1000 --key-file word a.img >make.log 2>&1 ||
		{ skip "cryptsetup cannot encrypt a file here: $(tail -n 1 make.log)"; continue; }
	try "encrypted by cryptsetup, sectors of $sector" sh -c '! cmp -s a.img model.raw'
	luks_same "encrypted by cryptsetup, sectors of $sector" $luks=a.img,header.filename=a.header model.raw
	"$imgtool" io $secret --image-opts $luks=a.img,header.filename=a.header -c 'write -q -P 7 100001 5000' -c 'write -q -z 2M 999' >make.log
	"$imgtool" io -f raw model.raw -c 'write -q -P 7 100001 5000' -c 'write -q -z 2M 999' >make.log
	timeout 120 cryptsetup reencrypt --decrypt -q --header a.header --key-file word a.img >make.log 2>&1 &&
		try "and decrypted again, sectors of $sector, with what was written" cmp a.img model.raw
done

# Nothing that is given back holds the passphrase or the volume's key.
rm -f a.luks k.luks
# shellcheck disable=SC2086
"$imgtool" create -q $secret -f luks -o key-secret=s,iter-time=10 a.luks 1M
cp a.luks k.luks
timeout 60 cryptsetup luksDump -q --dump-volume-key --key-file word a.luks >dump
volume_key=$(sed -n '/MK dump:/,$p' dump | sed 's/MK dump://' | tr -d ' \t\n')
half=$(echo "$volume_key" | cut -c 65-)
FREED_SECRETS=$(od -An -vtx1 word | tr -d ' \n'):$(od -An -vtx1 other | tr -d ' \n'):$volume_key:$half
leaves_nothing() {	# NAME COMMAND...
	name=$1
	shift
	try "no secret in freed memory: $name" env FREED_SECRETS="$FREED_SECRETS" LD_PRELOAD="$build/tests/crypto/freed.so" "$@"
}
if [ ${#volume_key} = 128 ]; then
	# shellcheck disable=SC2086
	{
		leaves_nothing create "$imgtool" create -q $secret -f luks -o key-secret=s,iter-time=10 b.luks 1M
		leaves_nothing "create qcow2" "$imgtool" create -q $secret -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 b.qcow2 1M
		leaves_nothing convert "$imgtool" convert $secret --image-opts -O raw $luks=a.luks x.raw
		leaves_nothing write "$imgtool" io $secret --image-opts $luks=a.luks -c 'write -q -P 1 5 70000'
		leaves_nothing amend "$imgtool" amend $two --image-opts $luks=a.luks -o state=active,new-secret=o,iter-time=10
		leaves_nothing "erasing a slot" "$imgtool" amend $two --image-opts $luks=a.luks -o state=inactive,old-secret=o
	}
	FREED_SECRETS=$(printf a.luks | od -An -vtx1 | tr -d ' \n') LD_PRELOAD="$build/tests/crypto/freed.so" \
		"$imgtool" info a.luks >x 2>&1 && fail "what looks for secrets does not find a file's name" ||
		pass "what looks for secrets finds a file's name"
else
	skip "no secret in freed memory: cryptsetup tells no volume key"
fi

# Detached headers.
rm -f o.header && truncate -s "$size" o.img
# shellcheck disable=SC2086
try "detached header: create" "$imgtool" create -q $secret -f luks -o key-secret=s,iter-time=10,detached-header=on o.header 0
# shellcheck disable=SC2086
try "detached header: convert" "$imgtool" convert -n $secret --image-opts --target-image-opts driver=raw,file.filename=content.raw \
	$luks=o.img,header.filename=o.header
opens "detached header" word --header o.header o.img
luks_same "detached header" $luks=o.img,header.filename=o.header
# shellcheck disable=SC2086
"$imgtool" convert $secret --image-opts -O raw $luks=o.header x.raw 2>said && fail "detached header: opened alone" ||
	try "detached header: refused alone" grep -q 'header.filename=' said
for type in luks1 luks2; do
	rm -f a.header && cp content.raw a.img
	timeout 60 cryptsetup luksFormat -q --type $type --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --header a.header --key-file word \
		a.img 2>make.log || { skip "cryptsetup makes no header: $(tail -n 1 make.log)"; continue; }
	# shellcheck disable=SC2086
	try "$type, cryptsetup's header" "$imgtool" convert -n $secret --image-opts --target-image-opts driver=raw,file.filename=content.raw \
		$luks=a.img,header.filename=a.header
	luks_same "$type, cryptsetup's header" $luks=a.img,header.filename=a.header
done

# What is refused by name.
while read -r words; do
	arguments=${words%%|*} said=${words#*|}
	rm -f a.luks && cp --sparse=always r.img a.luks
	# shellcheck disable=SC2086
	timeout 60 cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file word $arguments a.luks \
		2>make.log || { skip "refused: $arguments: cannot be made"; continue; }
	# shellcheck disable=SC2086
	"$imgtool" convert $secret --image-opts -O raw $luks=a.luks x.raw 2>said
	try "refused by name: $arguments" grep -q "$said" said
done <<END
--cipher aes-cbc-essiv:sha256 --key-size 256|encryption aes-cbc-essiv:sha256 is not supported
END
rm -f ./*.img ./*.header ./*.luks

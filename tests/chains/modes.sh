# What README says of VirtualBox's disk modes, of writing to a parent, and of the identifiers of copies. Sourced by run.sh.

mkdir modes && cd modes || exit 1
disk() { "$imgtool" io -f "$2" -c "$3" "$1" >/dev/null; }
shows() { "$imgtool" io -f "$2" -c "$3" "$1" 2>&1 | grep -q 'Pattern verification failed' && return 1 || return 0; }
for format in vdi vmdk vhdx vpc; do
	rm -rf ./*
	mkdir away && truncate -s 8M other.raw
	"$imgtool" create -q -f $format golden.$format 8M && disk golden.$format $format "write -P 1 0 1M"
	cp golden.$format away/kept

	# immutable: what the guest writes goes to a child, which is made anew before each start
	try "$format: immutable" "$imgtool" create -q -f $format -b golden.$format -F $format today.$format
	disk today.$format $format "write -P 2 0 64k"
	try "$format: immutable: made anew" "$imgtool" create -q -f $format -b golden.$format -F $format today.$format
	try "$format: immutable: as it was" shows today.$format $format "read -P 1 0 1M"

	# multi-attach: a child for each machine
	for vm in 1 2; do
		try "$format: multi-attach" "$imgtool" create -q -f $format -b golden.$format -F $format vm$vm.$format
		disk vm$vm.$format $format "write -P 1$vm 64k 64k"
	done
	for vm in 1 2; do
		try "$format: multi-attach: machine $vm" shows vm$vm.$format $format "read -P 1$vm 64k 64k"
	done
	try "$format: the golden image is not touched" cmp away/kept golden.$format

	# another image in its place: a warning, whoever asks
	ln -sf "$imgtool" qemu-img
	for command in "create -f $format golden.$format 9M" "convert -f raw -O $format other.raw golden.$format" \
		"convert -f raw -O raw other.raw golden.$format"; do
		for tool in "$imgtool" ./qemu-img; do
			try "$format: replaced: $tool $command" sh -c '"$1" $2 2>&1 | grep -q "warning: .* is based on .golden"' - "$tool" "$command"
			cp away/kept golden.$format
		done
		try "$format: replaced: $command: -q" sh -c '"$1" $2 -q 2>&1 | wc -c | grep -qx 0' - "$imgtool" "$command"
		cp away/kept golden.$format
	done
	try "$format: replaced: one without children" sh -c '! "$1" create -f $2 vm1.$2 9M 2>&1 | grep -q "based on"' - "$imgtool" $format
	try "$format: multi-attach: made anew" "$imgtool" create -q -f $format -b golden.$format -F $format vm1.$format
	disk vm1.$format $format "write -P 11 64k 64k"

	# the golden image is not to be written to
	case $format in
	vpc) try "$format: a warning" sh -c '"$1" resize -q "$2" 9M 2>&1 | grep -q "warning: .*today"' - "$imgtool" golden.$format ;;
	*)
		refuse "$format: io" "$imgtool" io -f $format -c "read 0 1k" -c "write 0 1k" -c "discard 0 1k" golden.$format
		try "$format: io: says how" grep -q -e --force "$work/.err"
		try "$format: io: nothing was written" cmp away/kept golden.$format
		try "$format: io: who reads is not bothered" sh -c '"$1" io -f $2 -c "read -q 0 1k" golden.$2 2>said && [ ! -s said ]' - "$imgtool" $format
		ln -sf "$imgtool" qemu-io
		try "$format: as qemu-io" sh -c './qemu-io -f $1 -c "write 0 1k" golden.$1 2>&1 | grep -q "warning: .*rebase -u"' - $format
		cp away/kept golden.$format
		try "$format: io: forced" "$imgtool" io -f $format --force -c "write 0 1k" golden.$format
		cp away/kept golden.$format
		for words in "resize -q golden.$format 9M" "bench -q -w -c 1 -f $format golden.$format" \
			"convert -q -n -f raw -O $format other.raw golden.$format" \
			"commit -q -f $format vm1.$format"; do
			# shellcheck disable=SC2086 # words are wanted
			refuse "$format: $words" "$imgtool" $words
			try "$format: $words: says how" grep -q -e --force "$work/.err"
			try "$format: $words: nothing was written" cmp away/kept golden.$format
		done
		# to qemu-img's callers it is a warning
		ln -sf "$imgtool" qemu-img
		try "$format: as qemu-img" sh -c './qemu-img resize -q "$1" 9M 2>&1 | grep -q "warning: .*rebase -u"' - golden.$format
		cp away/kept golden.$format
		try "$format: forced" "$imgtool" commit -q --force -f $format vm1.$format
		try "$format: forced: what was committed" shows golden.$format $format "read -P 11 64k 64k"
		refuse "$format: forced: the other one" "$imgtool" info --backing-chain vm2.$format
		try "$format: forced: its link" "$imgtool" rebase -u -f $format -b golden.$format -B $format vm2.$format
		try "$format: forced: linked" shows vm2.$format $format "read -P 12 64k 64k"
		;;
	esac

	# write-through: not in a snapshot, which is a child of the other disks only; shareable: of its full size
	case $format in
	vdi) fixed=static=on ;;
	vmdk) fixed=subformat=monolithicFlat ;;
	*) fixed=subformat=fixed ;;
	esac
	try "$format: shareable" "$imgtool" create -q -f $format -o $fixed shared.$format 8M

	# copies
	"$imgtool" convert -O $format -f $format golden.$format copy.$format
	"$imgtool" convert -O $format -f $format copy.$format again.$format
	case $format in
	vhdx) ;;
	*)
		uuid=01234567-89ab-4cde-8f01-23456789abcd
		try "$format: copied with a UUID" "$imgtool" convert -O $format -f $format -o uuid=$uuid golden.$format named.$format
		refuse "$format: no UUID" "$imgtool" create -q -f $format -o uuid=nonsense nonsense.$format 1M
		rm -f ./child.*
		try "$format: a child of it" "$imgtool" create -q -f $format -b named.$format -F $format child.$format
		;;
	esac
	for image in golden copy again named; do
		[ -f $image.$format ] || continue
		case $format in
		vdi) od -A n -t x1 -j 392 -N 16 $image.vdi ;;
		vpc) tail -c 512 $image.vpc | od -A n -t x1 -j 68 -N 16 ;;
		vhdx) od -A n -t x1 -j 65568 -N 16 $image.vhdx ;;
		vmdk) grep -a '^ddb.uuid.image' $image.vmdk ;;
		esac
	done >uuids
	try "$format: copies have UUIDs of their own: $(tr '\n' ' ' <uuids)" test "$(sort -u uuids | wc -l)" = "$(wc -l <uuids)"
	[ $format != vmdk ] || try "vmdk: the UUID that was asked for" grep -q 01234567-89ab-4cde-8f01-23456789abcd uuids
done

# Among what else a folder may have: a child is found, nothing is waited for.
rm -rf ./*
"$imgtool" create -q -f vdi golden.vdi 8M && "$imgtool" create -q -f vdi -b golden.vdi -F vdi ./y:1.vdi
mkfifo a-pipe && ln -s /dev/zero a-device && ln -s nowhere a-link && mkdir a-folder
i=0
while [ $i -lt 100 ]; do
	i=$((i + 1))
	echo plain >b-$i.raw
	truncate -s 1M c-$i.raw
done
refuse "a child among other files" timeout 20 "$imgtool" resize -q golden.vdi 9M
try "a child among other files: it is named" grep -q 'y:1.vdi' "$work/.err"

# Identifiers that are kept: a copy takes its source's place, also below the source's children.
ids() {	# IMAGE FORMAT: those by which a disk, and a state of it, are known
	case $2 in
	vdi) od -A n -t x1 -j 392 -N 32 "$1" ;;
	vpc) tail -c 512 "$1" | od -A n -t x1 -j 68 -N 16 ;;
	vmdk) grep -a -e '^CID=' -e '^ddb.uuid.image' -e '^ddb.uuid.modification' "$1" ;;
	esac
}
for format in vdi vmdk vhdx vpc; do
	rm -rf ./*
	mkdir copy
	"$imgtool" create -q -f $format golden.$format 8M && disk golden.$format $format "write -P 1 0 1M"
	"$imgtool" create -q -f $format -b golden.$format -F $format copy/child.$format 8M 2>/dev/null ||
		{ cp golden.$format copy/ && "$imgtool" create -q -f $format -b golden.$format -F $format copy/child.$format; }
	rm -f copy/golden.$format
	try "$format: identifiers are kept" "$imgtool" convert --keep-ids -f $format -O $format golden.$format copy/golden.$format
	[ $format = vhdx ] || try "$format: the same identifiers" test "$(ids golden.$format $format)" = "$(ids copy/golden.$format $format)"
	try "$format: the source's child takes the copy" shows copy/child.$format $format "read -P 1 0 1M"
	try "$format: one of them is given otherwise" "$imgtool" convert --keep-ids -o uuid=01234567-89ab-4cde-8f01-23456789abcd -f $format -O $format golden.$format given.$format
	for other in vdi vmdk vhdx vpc; do
		try "$format to $other and back: identifiers are kept" "$imgtool" convert --keep-ids -f $format -O $other golden.$format over.$other
		try "$format to $other and back: identifiers are kept" "$imgtool" convert --keep-ids -f $other -O $format over.$other back.$format
		case $format in
		vmdk) try "$format to $other and back: the UUID" test "$(ids golden.vmdk vmdk | grep image)" = "$(ids back.vmdk vmdk | grep image)" ;;
		vpc) try "$format to $other and back: the UUID" test "$(ids golden.vpc vpc)" = "$(ids back.vpc vpc)" ;;
		vdi) try "$format to $other and back: the UUID" test "$(ids golden.vdi vdi | head -n 1)" = "$(ids back.vdi vdi | head -n 1)" ;;
		esac
		rm -f over.* back.*
	done
	for other in raw qcow2 parallels; do
		refuse "$format to $other: no identifiers" "$imgtool" convert --keep-ids -f $format -O $other golden.$format none.$other
		try "$format to $other: no identifiers: nothing is made" test ! -e none.$other
		"$imgtool" convert -f $format -O $other golden.$format other.$other
		refuse "$other to $format: no identifiers" "$imgtool" convert --keep-ids -f $other -O $format other.$other none.$format
		try "$other to $format: no identifiers: nothing is made" test ! -e none.$format
	done
	refuse "$format: identifiers of two" "$imgtool" convert --keep-ids -f $format -O $format golden.$format golden.$format two.$format
	refuse "$format: identifiers of one that is there" "$imgtool" convert -n --keep-ids -f $format -O $format golden.$format given.$format
	# a child is not its parent
	[ $format = vhdx ] || refuse "$format: a child with its parent's UUID" "$imgtool" create -q -f $format \
		-o uuid=01234567-89AB-4cde-8f01-23456789abcd -b given.$format -F $format twin.$format
	[ $format = vhdx ] || try "$format: a child with its parent's UUID: says so" grep -q "expected another one than the backing" "$work/.err"
	try "$format: a child of another UUID" "$imgtool" create -q -f $format \
		-o uuid=01234567-89ab-4cde-8f01-23456789abce -b given.$format -F $format sibling.$format
done
cd ..

# Command lines: the same answers, word for word where programs read them. Sourced by run.sh.

ours=$build/qemu-img	# under this name it answers as qemu-img does

# same_words NAME ARGS...: standard output and exit status are qemu-img's.
same_words() {
	what=$1
	shift
	qemu-img "$@" >theirs.out 2>theirs.err </dev/null
	theirs=$?
	"$ours" "$@" >ours.out 2>ours.err </dev/null
	got=$?
	if [ $got -ne $theirs ]; then
		fail "$what: exit $got, theirs $theirs: $*: $(head -n 1 ours.err)"
	else
		try "$what" diff theirs.out ours.out
	fi
}

rm -f ./*.qcow2
qemu-img convert -f raw -O qcow2 content.raw a.qcow2
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 top.qcow2
cp a.qcow2 same.qcow2
cp a.qcow2 other.qcow2 && qemu-io -c 'write -q -P 1 8M 4k' other.qcow2 >/dev/null
for options in "" extended_l2=on,cluster_size=128k compat=0.10 refcount_bits=1 preallocation=metadata; do
	# shellcheck disable=SC2086
	same_words "create $options" create -f qcow2 ${options:+-o $options} new.qcow2 100M
done
same_words "create over" create -f qcow2 -b a.qcow2 -F qcow2 new.qcow2
same_words "create raw" create -f raw new.raw 1000000
same_words "create without a size" create -f qcow2 new.qcow2
same_words "create an unknown format" create -f nofmt new.img 1M
same_words "create with an unknown option" create -f qcow2 -o foo=bar new.qcow2 1M
same_words "create with a bad size" create -f qcow2 new.qcow2 1kb
same_words "create without the backing file" create -f qcow2 -b nope.qcow2 -F qcow2 new.qcow2
same_words "compare, alike" compare a.qcow2 same.qcow2
same_words "compare, not alike" compare a.qcow2 other.qcow2
same_words "compare, not there" compare a.qcow2 nope.qcow2
same_words "compare over backing" compare a.qcow2 top.qcow2
same_words "check" check a.qcow2
same_words "check raw" check -f raw content.raw
same_words "map" map a.qcow2
same_words "map of a chain" map top.qcow2
same_words "info of what is not there" info nope.qcow2
same_words "info in the wrong format" info -f qcow2 content.raw
same_words "resize" resize a.qcow2 +1M
same_words "resize down, unasked" resize a.qcow2 1M
same_words "convert nothing" convert -O raw nope.qcow2 new.raw
same_words "convert to itself" convert -O qcow2
same_words "no command" 
same_words "unknown command" nonsense
try "progress ends at 100" sh -c '"$1" convert -p -O raw same.qcow2 new.raw | tr "\r" "\n" | tail -n 2 |
	grep -qx "    (100.00/100%)"' sh "$ours"

# Locks: while qemu-io has it open for writing, nobody else writes.
mkfifo hold
qemu-io -f qcow2 a.qcow2 <hold >/dev/null 2>&1 &
holder=$!
exec 9>hold
sleep 0.5
refuse "resize of an image in use" "$imgtool" resize -f qcow2 a.qcow2 +1M
refuse "info of an image in use" "$imgtool" info -f qcow2 a.qcow2
try "info of an image in use, shared" "$imgtool" info -U -f qcow2 a.qcow2
exec 9>&-
wait $holder
try "resize once it is free" "$imgtool" resize -q -f qcow2 a.qcow2 +1M

#!/bin/bash
# imgtool and NBD servers: nbdkit, qemu-nbd and a newer qemu-nbd if there is one (QEMU_NBD), what names
# say, servers that are killed, hang, lie and fail, TLS. What is read and written is compared by qemu-img
# and cmp.
. "$(dirname "$0")/../lib.sh"

qemu_img=${QEMU_IMG:-qemu-img}
for need in nbdkit qemu-nbd "$qemu_img" qemu-io openssl; do
	if ! have "$need"; then
		skip "no $need"
		finish
		exit
	fi
done
if ! ldconfig -p | grep -q 'libnbd\.so\.0'; then
	skip "no libnbd"
	finish
	exit
fi

pids=
trap 'end_all; rm -rf "$work" "$disk"' EXIT
end_all() {
	# shellcheck disable=SC2086 # numbers
	{ kill -9 $pids; wait; } 2>/dev/null
	pids=
}
cd "$work" || exit 1
sock=$work/s
uri="nbd+unix:///?socket=$sock"
server=

# serve COMMAND...: a server at the socket, in the background.
serve() {
	stop
	rm -f "$sock"
	"$@" </dev/null >server.log 2>&1 &
	server=$!
	pids="$pids $server"
	for _ in $(seq 300); do
		[ ! -S "$sock" ] || break
		sleep 0.02
	done
	sleep 0.05
}
kit() { serve nbdkit -f -U "$sock" "$@"; }
stop() {
	[ -z "$server" ] || kill -9 "$server" 2>/dev/null
	[ -z "$server" ] || wait "$server" 2>/dev/null
	server=
}

tool() { timeout 60 "$imgtool" "$@"; }
same() { tool compare -q "$1" "$2" && "$qemu_img" compare -q -f raw -F "${3:-raw}" "$1" "$2"; }

# An error with these words, soon, and no file of this name is left.
fails() {
	local words=$1 file=$2 rc
	shift 2
	"$@" >out 2>err </dev/null
	rc=$?
	[ $rc -ne 0 ] && [ $rc -lt 124 ] || { echo "exit $rc"; cat err; return 1; }
	grep -q -- "$words" err || { cat err; return 1; }
	[ -z "$file" ] || [ -z "$(ls -d "$file"* 2>/dev/null)" ] || { ls; return 1; }
}

"$qemu_img" create -q -f qcow2 a.qcow2 20M
qemu-io -c 'write -q -P 1 0 3M' -c 'write -q -P 2 10M 1M' -c 'write -q -P 3 19M 1M' a.qcow2
"$qemu_img" convert -O raw a.qcow2 a.raw
head -c 24M /dev/urandom >full.raw

# ---- Names ----

nbdkit_port=$((20000 + $$ % 9000))
nbdkit -f -i 127.0.0.1 -p $nbdkit_port -e x file a.raw </dev/null >/dev/null 2>&1 &
pids="$pids $!"
kit file a.raw
sleep 0.3
for name in "$uri" "nbd+unix:///x?socket=$sock" "nbd:unix:$sock" "nbd:unix:$sock:exportname=x" \
	"nbd://127.0.0.1:$nbdkit_port" "nbd://localhost:$nbdkit_port/x" "nbd:127.0.0.1:$nbdkit_port" \
	"nbd:localhost:$nbdkit_port:exportname=x" \
	"json:{\"driver\":\"raw\",\"file\":{\"driver\":\"nbd\",\"path\":\"$sock\"}}" \
	"json:{\"driver\":\"nbd\",\"server\":{\"type\":\"unix\",\"path\":\"$sock\"},\"export\":\"x\"}" \
	"json:{\"driver\":\"nbd\",\"server.type\":\"inet\",\"server.host\":\"127.0.0.1\",\"server.port\":\"$nbdkit_port\"}"; do
	rm -f t.*
	try "from $name" tool convert -f raw -O qcow2 "$name" t.qcow2 && try "the same" same a.raw t.qcow2 qcow2
done
for opts in "driver=raw,file.driver=nbd,file.server.type=unix,file.server.path=$sock" \
	"driver=nbd,host=127.0.0.1,port=$nbdkit_port" "file.driver=nbd,file.path=$sock,file.export=x"; do
	rm -f t.*
	try "from $opts" tool convert --image-opts -O raw "$opts" t.raw && try "the same" cmp a.raw t.raw
done

# What is not known of an export is not said.
try "info" sh -c "'$imgtool' info --output=json -f raw '$uri' | jq -e '.\"virtual-size\" == 20971520 and .\"actual-size\" == null and
	(.children[0].info | .format == \"nbd\" and .\"actual-size\" == null and .\"format-specific\" == null)'"

# Characters that mean something elsewhere.
odd='a b/%+?&=#ü'
escaped='a%20b/%25%2B%3F%26%3D%23%C3%BC'
kit --filter=exportname file a.raw exportname="$odd" exportname-strict=true
for name in "nbd+unix:///$escaped?socket=$sock" "nbd:unix:$sock:exportname=$odd" \
	"json:{\"driver\":\"nbd\",\"path\":\"$sock\",\"export\":\"$odd\"}"; do
	try "an export's name with odd characters" tool compare -q -f raw -F raw "$name" a.raw
done
try "no such export" fails "'wrong'" '' tool info "nbd+unix:///wrong?socket=$sock"

# ---- To and from servers of all kinds ----

# gap: seconds between clients, for a server that may not have seen yet that the last one has gone.
pause() { sleep "${gap:-0}"; }
step() { pause; try "$@"; }
to_and_from() {
	local what=$1
	step "$what: convert to it" tool convert -n -f qcow2 -O raw a.qcow2 "$uri"
	step "$what: what is there" "$qemu_img" compare -q -f raw -F qcow2 "$uri" a.qcow2
	step "$what: compare" tool compare -q -f raw -F qcow2 "$uri" a.qcow2
	rm -f t.qcow2 t.raw
	step "$what: convert from it" tool convert -f raw -O qcow2 "$uri" t.qcow2
	step "$what: what came" "$qemu_img" compare -q a.qcow2 t.qcow2
	step "$what: write over what is there" tool convert -n -f raw -O raw full20.raw "$uri"
	step "$what: convert from a full one" tool convert -f raw -O raw "$uri" t.raw
	step "$what: all of it" cmp t.raw full20.raw
	pause
	"$imgtool" map --output=json -f raw "$uri" >ours.json
	pause
	"$qemu_img" map --output=json -f raw "$uri" >theirs.json
	step "$what: map covers it" jq -e '(map(.length)|add) == 20971520' ours.json
	# what is said to be zeroes is said by qemu-img too
	step "$what: map" sh -c 'for f in ours theirs; do jq -c "map(select(.zero))|map([.start,.length])" $f.json >$f.txt; done; diff ours.txt theirs.txt'
	# single requests against a plain file
	cp full20.raw model.raw
	set -- -c 'write -P 7 1234567 7777' -c 'write -z 4000001 333333' -c 'discard 8M 1M' -c 'write -P 9 20971519 1' \
		-c 'write -P 8 0 1' -c 'writev -P 5 5000000 512 1024 77' -c flush
	step "$what: single requests" tool io -f raw "$@" "$uri"
	qemu-io -f raw "$@" model.raw >/dev/null
	# a discard may leave anything there: give both the same
	pause
	tool io -f raw -c 'write -P 4 8M 1M' "$uri" >/dev/null && tool io -f raw -c 'write -P 4 8M 1M' model.raw >/dev/null
	step "$what: single requests did that" "$qemu_img" compare -q -f raw -F raw "$uri" model.raw
}
head -c 20M full.raw >full20.raw

newer=${QEMU_NBD:-}
kit memory 20M
to_and_from "nbdkit memory"
truncate -s 20M d.raw
kit file d.raw
to_and_from "nbdkit file"
kit --no-sr --filter=nozero --filter=noextents memory 20M
to_and_from "a server that knows little"
kit --filter=blocksize-policy memory 20M blocksize-minimum=4096 blocksize-preferred=64k \
	blocksize-maximum=1M blocksize-error-policy=error
to_and_from "a server of 4 KiB blocks"
for q in qemu-nbd $newer; do
	rm -f d.raw
	truncate -s 20M d.raw
	serve "$q" -f raw -k "$sock" -t d.raw
	to_and_from "$(basename "$q")"
	serve "$q" -f raw -k "$sock" -t -e 8 --discard=unmap d.raw
	to_and_from "$(basename "$q"), 8 clients"
	rm -f d.qcow2
	"$qemu_img" create -q -f qcow2 d.qcow2 20M
	serve "$q" -f qcow2 -k "$sock" -t --discard=unmap d.qcow2
	to_and_from "$(basename "$q"), a qcow2"
	stop
	try "$(basename "$q"): its qcow2 is in order" "$qemu_img" check -q d.qcow2
done

# ---- Servers of few connections ----

# It says that there may be several, and closes what is one too many, or lets that wait without an answer.
kit --filter=limit memory 20M limit=1
gap=0.3
to_and_from "a server of one connection"
gap=
for q in qemu-nbd $newer; do
	for clients in 2 3; do
		serve "$q" -r -f raw -k "$sock" -t -e $clients full20.raw
		rm -f t.raw
		try "$(basename "$q"), read-only, $clients clients" timeout 20 "$imgtool" convert -f raw -O raw "$uri" t.raw
		try "$(basename "$q"), read-only, $clients clients: all of it" cmp t.raw full20.raw
	done
done

# ---- A qcow2 whose bytes are served ----

for q in qemu-nbd "nbdkit file"; do
	rm -f e.qcow2
	"$qemu_img" create -q -f qcow2 e.qcow2 20M
	truncate -s 24M e.qcow2
	case $q in qemu-nbd) serve qemu-nbd -f raw -k "$sock" -t e.qcow2 ;; *) kit file e.qcow2 ;; esac
	try "$q: a qcow2 in an export is known" sh -c "'$imgtool' info --output=json '$uri' | jq -e '.format == \"qcow2\" and .\"virtual-size\" == 20971520'"
	try "$q: written into" tool convert -n -O qcow2 a.raw "$uri"
	cp a.raw model.raw
	qemu-io -f raw -c 'write -q -P 7 1234567 7777' -c 'write -q -z 4M 1M' -c 'write -q -P 9 15M 64k' \
		-c 'write -q -z 10M 512k' -c 'write -q -P 6 10M 100' model.raw
	try "$q: requests" tool io -f qcow2 -c 'write -P 7 1234567 7777' -c 'write -z 4M 1M' -c 'write -P 9 15M 64k' \
		-c 'discard 10M 512k' -c 'write -P 6 10M 100' -c flush "$uri"
	try "$q: compare" tool compare -q -F raw "$uri" model.raw
	try "$q: check" tool check -q "$uri"
	stop
	try "$q: qemu-img finds it in order" "$qemu_img" check -q e.qcow2
	try "$q: and what it holds" "$qemu_img" compare -q e.qcow2 model.raw
done

# ---- Sizes ----

for size in 0 1 511 513 1000 1049089; do
	head -c $size full.raw >odd.raw
	kit file odd.raw
	rm -f t.raw t2.raw
	"$qemu_img" convert -f raw -O raw odd.raw t2.raw
	try "an export of $size bytes" tool convert -f raw -O raw "$uri" t.raw && try "what came" cmp t.raw t2.raw
	try "into one of $size bytes" fails 'too small' '' tool convert -O raw a.raw "$uri"
done
kit eval get_size='echo 9223372036854775807' pread='head -c $3 /dev/zero'
try "a size that no disk has" fails 'above the largest of a disk' t9 tool convert -f raw "$uri" t9
kit eval get_size='echo 8000000000000000000' pread='head -c $3 /dev/zero' can_extents='exit 0' extents='echo $4 $3 hole,zero'
try "a size far above its data" tool info -f raw "$uri"

# ---- Read-only, and nobody ----

kit -r file a.raw
for target in "$uri" "nbd:unix:$sock"; do
	try "a read-only export is no target" fails 'read-only' '' tool convert -O raw a.raw "$target"
done
try "nor with -n" fails 'read-only' '' tool convert -n -O raw a.raw "$uri"
try "nor for io" fails 'read-only' '' tool io -f raw -c 'write 0 512' "$uri"
try "but a source" tool compare -q -f raw -F raw "$uri" a.raw
stop
rm -f "$sock"
try "no server" fails "$sock" t9 tool convert -f raw "$uri" -O qcow2 t9

# ---- Servers that are killed, hang, and fail in the middle ----

# A server is killed a second after this began, which takes longer than that.
killed() {
	local words=$1 file=$2
	shift 2
	(
		sleep 1
		kill -9 "$server"
	) &
	fails "$words" "$file" "$@"
}
for format in raw qcow2 vmdk; do
	kit --filter=rate file full.raw rate=50M
	try "the source's server is killed, to $format" killed "$sock" t9 tool convert -f raw -O $format "$uri" t9
	echo old >t8
	cp t8 t8.kept
	kit --filter=rate file full.raw rate=50M
	try "the same over a file" killed "$sock" '' tool convert -f raw -O $format "$uri" t8
	try "which is an image no more, or what it was" sh -c "cmp -s t8 t8.kept || head -c 21 t8 | grep -q '^Unfinished disk image'"
done
kit --filter=rate memory 24M rate=50M
try "the target's server is killed" killed "$sock" '' tool convert -n -f raw -O raw full.raw "$uri"
kit --filter=rate file full.raw rate=50M
try "killed under a compare" killed "$sock" '' tool compare -f raw -F raw "$uri" full.raw
cp e.qcow2 f.qcow2
kit --filter=rate file f.qcow2 rate=30M
try "killed under a qcow2 that is written" killed "$sock" '' tool convert -n -f raw -O qcow2 full20.raw "$uri"
try "which is no worse than leaking" sh -c "'$qemu_img' check -q f.qcow2; [ \$? = 0 ] || [ \$? = 3 ] || { '$qemu_img' check f.qcow2; [ \$? = 3 ]; }"

nbd_opts="driver=raw,file.driver=nbd,file.path=$sock,file.timeout=2,file.reconnect-delay=0"
kit --filter=delay file a.raw rdelay=40
try "a source that hangs" fails 'timed out' t9 tool convert --image-opts "$nbd_opts" -O raw t9
kit --filter=delay memory 20M wdelay=40
try "a target that hangs" fails 'timed out' '' tool convert -n --target-image-opts -f raw a.raw "$nbd_opts"
kit --filter=delay file a.raw delay-open=40
try "one that hangs when it is opened" fails 'did not answer within 2 s' t9 tool convert --image-opts "$nbd_opts,file.open-timeout=2" -O raw t9
kit --filter=error file a.raw error=EIO error-pread-rate=100%
try "a source with errors" fails "$sock.*Input/output error" t9 tool convert -f raw -O raw "$uri" t9
rm -f t.raw
try "may be salvaged" tool convert --salvage -q -f raw -O raw "$uri" t.raw
kit --filter=error memory 20M error=ENOSPC error-pwrite-rate=100% error-zero-rate=100%
try "a target that is full" fails "$sock.*No space left" '' tool convert -n -f raw -O raw a.raw "$uri"
kit --filter=error memory 20M error=EIO error-zero-rate=100%
try "a target that cannot zero" fails "$sock.*Input/output error" '' tool io -f raw -c 'write -z 0 1M' "$uri"
kit eval get_size='echo 10M' pread='head -c 100 /dev/zero'
try "short answers" fails "$sock.*Input/output error" t9 tool convert -f raw "$uri" -O raw t9
kit eval get_size='echo 10M' pread='exit 1' can_extents='exit 0' extents='echo "EIO no" >&2; exit 1'
try "no answer about holes" fails "$sock.*" t9 tool convert -f raw "$uri" -O raw t9
kit eval get_size='echo 10M' pread='echo "EPERM no" >&2; exit 1'
try "not permitted" fails "$sock.*Operation not permitted" t9 tool convert -f raw "$uri" -O raw t9
stop

# Answers nothing, or what is not NBD.
for words in '' 'HTTP/1.0 400 no\r\n\r\n' 'NBDMAGICIHAVEOPT\0\0'; do
	serve python3 -c '
import socket, sys, time
s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(9); keep = []
while True:
    c = s.accept()[0]; keep.append(c); c.sendall(sys.argv[2].encode().decode("unicode_escape").encode("latin1"))
    if sys.argv[2].startswith("HTTP"): c.close()
' "$sock" "$words"
	try "a server that is none: '$words'" fails "$sock" t9 tool convert --image-opts "$nbd_opts,file.open-timeout=2" -O raw t9
done
stop

# ---- Servers that break the protocol ----

# A server says what cannot be of a disk of 1 MiB of "x": that is refused, or what it has is read.
read_or_refused() {
	if timeout 30 "$imgtool" convert -f raw -O raw "$uri" lied 2>err; then
		test "$(tr -d x <lied | wc -c) $(wc -c <lied)" = "0 1048576" && rm lied
	else
		grep -q "$sock" err && [ ! -e lied ]
	fi
}
if have python3; then
	for mode in short nothing cut; do
		serve python3 "$top/tests/nbd/liar.py" "$sock" $mode
		try "answers to reads: $mode" fails "$sock" lied tool convert -f raw -O raw "$uri" lied
	done
	for mode in size:9223372036854775500 size:9223372036854775807 size:18446744073709551615 least:3000 least:131072 least:0 most:100 \
		most:0; do
		serve python3 "$top/tests/nbd/liar.py" "$sock" $mode
		try "what is said of the disk: $mode" read_or_refused
	done
	serve python3 "$top/tests/nbd/liar.py" "$sock" bytes
	try "holes byte by byte" timeout 30 "$imgtool" convert -f raw -O raw "$uri" lied
	try "what came" sh -c 'test "$(tr -d x <lied | wc -c) $(wc -c <lied)" = "0 1048576"'
	rm -f lied
else
	skip "no python3 for servers that break the protocol"
fi

# ---- TLS ----

mkdir -m 700 tls psk
(
	cd tls || exit
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3 -subj '/CN=test' \
		-keyout ca-key.pem -out ca-cert.pem
	for who in server client; do
		openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$who" -keyout $who-key.pem -out $who.csr
		openssl x509 -req -in $who.csr -CA ca-cert.pem -CAkey ca-key.pem -CAcreateserial -days 3 \
			-extfile <(echo 'subjectAltName=DNS:localhost,IP:127.0.0.1') -out $who-cert.pem
	done
) >/dev/null 2>&1
mkdir -m 700 other
cp tls/client-* other
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 3 -subj '/CN=other' \
	-keyout other/ca-key.pem -out other/ca-cert.pem >/dev/null 2>&1
echo "alice:$(openssl rand -hex 32)" >psk/keys.psk
port=$((nbdkit_port + 1))
nbdkit -f -i 127.0.0.1 -p $port --tls=require --tls-certificates=tls memory 20M </dev/null >/dev/null 2>&1 &
pids="$pids $!"
nbdkit -f -i 127.0.0.1 -p $((port + 1)) --tls=require --tls-psk=psk/keys.psk memory 20M </dev/null >/dev/null 2>&1 &
pids="$pids $!"
sleep 0.7
x509="nbds://localhost:$port/?tls-certificates=$work/tls"
psk="nbds://alice@localhost:$((port + 1))/?tls-psk-file=$work/psk/keys.psk"
creds="--object tls-creds-x509,id=t,endpoint=client,dir=$work/tls"
for name in "$x509" "$psk"; do
	try "TLS: convert to it" tool convert -n -f raw -O raw a.raw "$name"
	rm -f t.raw
	try "TLS: convert from it" tool convert -f raw -O raw "$name" t.raw && try "TLS: the same" cmp a.raw t.raw
done
# shellcheck disable=SC2086 # words
try "TLS: by an object" tool compare -q $creds --image-opts \
	"driver=raw,file.driver=nbd,file.host=localhost,file.port=$port,file.tls-creds=t" driver=raw,file.filename=a.raw
try "TLS: keys by an object" tool compare -q --object "tls-creds-psk,id=t,endpoint=client,dir=$work/psk,username=alice" \
	--image-opts "driver=raw,file.driver=nbd,file.host=localhost,file.port=$((port + 1)),file.tls-creds=t" \
	driver=raw,file.filename=a.raw
try "TLS: without" fails "localhost:$port" t9 tool convert -f raw "nbd://localhost:$port" -O raw t9
try "TLS: another authority" fails "localhost:$port" t9 tool convert -f raw "nbds://localhost:$port/?tls-certificates=$work/other" -O raw t9
try "TLS: another user" fails "localhost" t9 tool convert -f raw "nbds://bob@localhost:$((port + 1))/?tls-psk-file=$work/psk/keys.psk" -O raw t9
kit memory 20M
try "TLS: a server that has none" fails "$sock" t9 tool convert -f raw "nbds+unix:///?socket=$sock&tls-certificates=$work/tls" -O raw t9
stop
end_all
finish

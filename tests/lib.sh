# Sourced by tests/SUITE/run.sh from the top of the tree: counting, and a folder to work in.
#
# $suite	its name
# $work		a fresh folder, gone at the end; in memory where there is room, programs can be run there and
#		the suite does not say scratch=disk before: waiting for a disk took most of the time
# $disk		one that is on a disk in any case
# $build	the folder that was built, absolute; $imgtool: the tool in it
# $corpus	real images, or empty: see tests/corpus/run.sh
# $seed		of what is random: SEED=N, or the commit's time: a commit's tests do the same each time
#		(today's date, without git)

suite=$(basename "$(cd "$(dirname "$0")" && pwd)")
top=$(cd "$(dirname "$0")/../.." && pwd)
cd "$top" || exit 1
build=$top/${BUILD:-build}
case ${BUILD:-build} in /*) build=$BUILD ;; esac
imgtool=$build/imgtool

corpus=${IMG_CORPUS:-$top/../shared/corpus}
[ -f "$corpus/MANIFEST.tsv" ] || corpus=

seed=${SEED:-$(git log -1 --format=%ct 2>/dev/null)}
seed=${seed:-$(date +%Y%m%d)}

disk=$(mktemp -d "${TMPDIR:-/tmp}/libimg-$suite.XXXXXX") || exit 1
work=$disk
trap 'rm -rf "$work" "$disk"' EXIT
trap 'exit 130' INT TERM
room=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print $4 }')
if [ "$scratch" != disk ] && [ -z "$TMPDIR" ] && [ "${room:-0}" -gt 4000000 ] &&
	memory=$(mktemp -d "/dev/shm/libimg-$suite.XXXXXX" 2>/dev/null); then
	if cp /bin/true "$memory/" && "$memory/true" 2>/dev/null; then
		work=$memory
		rm "$work/true"
	else
		rm -rf "$memory"
	fi
fi
export TMPDIR="$work"
readonly top build imgtool work disk

passed=0 failed=0 skipped=0

pass() { passed=$((passed + 1)); [ -z "$VERBOSE" ] || echo "ok    $*"; }
fail() { failed=$((failed + 1)); echo "FAIL  $*"; }
skip() { skipped=$((skipped + 1)); echo "skip  $*"; }

have() { command -v "$1" >/dev/null; }

# try NAME COMMAND...: one check; its output is shown when it fails.
try() {
	what=$1
	shift
	if "$@" >"$work/.out" 2>&1 </dev/null; then
		pass "$what"
	else
		fail "$what (exit $?): $*"
		sed 's/^/      /' "$work/.out" | head -n 20
		return 1
	fi
}

# refuse NAME COMMAND...: it must end with an error exit and a message, without a crash.
refuse() {
	what=$1
	shift
	"$@" >"$work/.out" 2>"$work/.err" </dev/null
	code=$?
	if [ $code -eq 0 ]; then
		fail "$what: not refused: $*"
	elif [ $code -ge 124 ]; then
		fail "$what: ended by exit $code: $*"
	elif [ ! -s "$work/.err" ]; then
		fail "$what: refused without a word: $*"
	else
		pass "$what"
	fi
}

# virtualbox_parallels FILE BYTES: an empty Parallels image as VirtualBox makes it: clusters of 63 sectors
# right behind the BAT, which counts sectors.
virtualbox_parallels() {
	entries=$((($2 / 512 + 62) / 63))
	{
		printf WithoutFreeSpace
		for word in 2 16 100 63 $entries $(($2 / 512)) 0 0 0 0 0 0; do
			# shellcheck disable=SC2059 # it is made here
			printf "$(printf '\\%03o' $((word & 255)) $((word >> 8 & 255)) $((word >> 16 & 255)) $((word >> 24 & 255)))"
		done
	} >"$1"
	truncate -s $(((64 + 4 * entries + 511) / 512 * 512)) "$1"
}

# vdi_of_version0 OPTIONS FILE BYTES: an empty VDI with a header of version 0: the map at 420, the data right behind it.
vdi_of_version0() {
	"$imgtool" create -q -f vdi -o "$1" "$2.new" "$3" && blocks=$(od -A n -t u4 --endian=little -j 384 -N 4 "$2.new") &&
		for part in "0 68" "" "76 264" "348 16" "368 12" "384 56" "512 $((4 * blocks))"; do
			if [ "$part" ]; then
				tail -c +$((${part% *} + 1)) "$2.new" | head -c "${part#* }"
			else
				printf '\0\0\0\0'
			fi
		done >"$2"
	rm -f "$2.new"
	[ "$(stat -c %s "$2")" -eq $((420 + 4 * blocks)) ]
}

# parallels_descriptor GUID...: a DiskDescriptor.xml for a disk of $size bytes in two storages, the second from
# sector 1024 on: image-0-GUID.hds, image-1-GUID.hds. The first GUID is the oldest snapshot, the last one on top.
parallels_descriptor() {
	echo '<Parallels_disk_image Version="1.0">'
	echo "<Disk_Parameters><Disk_size>$((size / 512))</Disk_size></Disk_Parameters><StorageData>"
	for part in 0 1; do
		case $part in 0) ends="0 1024" ;; *) ends="1024 $((size / 512))" ;; esac
		echo "<Storage><Start>${ends% *}</Start><End>${ends#* }</End>"
		for guid; do
			echo "<Image><GUID>{$guid}</GUID><Type>Compressed</Type><File>image-$part-$guid.hds</File></Image>"
		done
		echo "</Storage>"
	done
	parent=00000000-0000-0000-0000-000000000000 shots=
	for guid; do
		shots="$shots<Shot><GUID>{$guid}</GUID><ParentGUID>{$parent}</ParentGUID></Shot>"
		parent=$guid
	done
	echo "</StorageData><Snapshots><TopGUID>{$parent}</TopGUID>$shots</Snapshots></Parallels_disk_image>"
}

# criterion SECONDS BINARY ARGS...: a unit test. One that is killed leaves its library's socket.
criterion() {
	limit=$1
	shift
	timeout "$limit" sh -c 'echo $$ >"$0"; exec "$@"' "$work/.pid" "$@"
	set -- $?
	rm -f "/tmp/criterion_$(cat "$work/.pid").sock"
	return "$1"
}

finish() {
	[ "$failed" -eq 0 ] || echo "$suite: SEED=$seed chooses the same again"
	echo "$suite: $passed passed, $failed failed, $skipped skipped"
	[ "$failed" -eq 0 ]
	exit
}

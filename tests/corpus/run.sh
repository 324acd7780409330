#!/bin/sh
# Real and hostile images with known content: every row of MANIFEST.tsv whose format is built in
# must read as the row says, by the library (hash) and by `imgtool convert`, or be refused as it
# says, quickly, in little memory, and without touching what an image names outside of its folder.
#
#   IMG_CORPUS=DIR	where MANIFEST.tsv is (default: ../shared/corpus beside the checkout)
#   tests/corpus/run.sh [WORD]	only rows whose file has WORD in its name
. "$(dirname "$0")/../lib.sh"

only=$1
formats="raw qcow2 vmdk vhdx vpc vdi qed qcow parallels bochs cloop dmg asif luks auto"
seconds=2 mebibytes=128		# for what must be refused and what is bent to exhaust us

if [ -z "$corpus" ]; then
	skip "no corpus: set IMG_CORPUS to the folder of its MANIFEST.tsv"
	finish
fi

# Rows that need what is not built yet. They must be refused with a sentence that has the word.
not_yet() {
	case $1:$2 in
	*'"-l"'*) echo skip ;;				# views of internal snapshots
	esac
}

# The probing of a row goes wrong by intent.
probe_unlike() {
	case $1 in
	hostile/*) return 0 ;;
	esac
	return 1
}

unpack() {	# FILE ENTRY: sets $image
	rm -rf "$work/row" && mkdir "$work/row" || exit 1
	name=$(basename "$1" .xz)
	case $1 in
	*.tar.xz) tar -C "$work/row" -S -xJf "$corpus/$1" && image=$work/row/$2 ;;
	*) image=$work/row/$name; xz -dc "$corpus/$1" | dd of="$image" bs=1M conv=sparse iflag=fullblock status=none ;;
	esac
}

# limited COMMAND...: output in $work/out and $work/err; sets $code, $took (seconds), $peak (MiB).
limited() {
	(ulimit -v 1048576; exec timeout -s KILL 30 /usr/bin/time -q -f '%e %M' -o "$work/time" "$@") \
		>"$work/out" 2>"$work/err" </dev/null
	code=$?
	took=$(tail -n 1 "$work/time" | cut -d' ' -f1) peak=$(tail -n 1 "$work/time" | cut -d' ' -f2)
	peak=$((${peak:-0} / 1024))
}
within() { awk -v t="${took:-99}" -v m="$peak" -v s=$seconds -v b=$mebibytes 'BEGIN { exit !(t <= s && m <= b) }'; }

# Nothing that the row calls outside was opened, and none of its content came out.
outside_untouched() {	# PATH FORMAT-ARGS...
	outside=$1
	shift
	if [ -s "$outside" ] && grep -qF -- "$(head -n 1 "$outside")" "$work/out" "$work/err" "$work/raw" 2>/dev/null; then
		echo "content of $outside came out"
		return 1
	fi
	have strace || return 0
	for command in "info" "convert -O raw" "check" "map"; do
		# shellcheck disable=SC2086 # words are wanted
		set -- $command "$@"
		case $command in convert*) last=$work/raw2 ;; *) last= ;; esac
		strace -f -qq -o "$work/trace" -e trace=open,openat,openat2,creat,connect \
			timeout 30 "$imgtool" "$@" ${last:+"$last"} >"$work/out2" 2>&1 </dev/null
		n=$(echo "$command" | wc -w)
		shift "$n"
		if grep -F -- "$outside" "$work/trace" | grep -qv '= -1 E' ||
		   grep -q 'connect(.*AF_INET' "$work/trace"; then
			echo "imgtool $command opened: $(grep -F -- "$outside" "$work/trace" | head -n 1)"
			return 1
		fi
		rm -f "$work/raw2"
	done
}

check_verdict() {	# FEATURES, FORMAT
	want=$(echo "$1" | sed -n 's/.*check: exit=\([0-9]*\), corruptions=\([0-9]*\), leaks=\([0-9]*\).*/\1 \2 \3/p')
	"$imgtool" check -f "$2" --output=json "$image" >"$work/out" 2>"$work/err" </dev/null
	got=$?
	# shellcheck disable=SC2086 # three numbers
	set -- $want
	leaks=$(jq -r '.leaks // 0' "$work/out" 2>/dev/null)
	corruptions=$(jq -r '.corruptions // 0' "$work/out" 2>/dev/null)
	if [ "$got" != "$1" ]; then
		echo "check: exit $got, expected $1 (corruptions $corruptions, leaks $leaks, expected $2 and $3)"
		return 1
	elif [ "$1" = 3 ] && [ "$leaks" != "$3" ]; then
		echo "check: $leaks leaks, expected $3"
		return 1
	fi
}

# One row; prints why it failed, or one word: read, refused, not-yet.
row() {
	file=$1 format=$2 size=$3 hash=$4 features=$5 entry=$6 args=$7
	case $args in
	-) given=$format ;;
	*'"-f"'*) given=$(echo "$args" | jq -r '.[index("-f") + 1]') ;;
	*) given=$format ;;
	esac
	[ "$given" != auto ] || given=-
	if [ "$given" = - ]; then set --; else set -- -f "$given"; fi

	# Encrypted: the whole command line stands there, for the file {file}.
	passphrase=
	case $args in
	*secret,id=*)
		object=$(echo "$args" | jq -r '.[index("--object") + 1]') passphrase=${object#*,data=}
		described=$(echo "$args" | jq -r '.[index("--image-opts") + 1]' | sed "s|{file}|$image|")
		set -- --object "$object" --image-opts "$described" ;;
	*) set -- "$@" "$image" ;;
	esac

	# What no file system holds as a raw file goes to another format.
	case $features:$hash in *huge*:sparse4k:* | *huge*:-) to=qcow2 ;; *) to=raw ;; esac
	word=$(not_yet "$file" "$args")
	case $args in
	*'"-l"'*)
		limited "$imgtool" convert -l x -O raw "$@" "$work/raw" ;;
	*)
		limited "$imgtool" convert -O $to "$@" "$work/raw" ;;
	esac
	if [ -n "$word" ]; then
		[ $code -eq 1 ] && [ -s "$work/err" ] || { echo "not refused: exit $code"; return 1; }
		why="not yet: $(head -n 1 "$work/err")"
		return
	fi
	if [ $code -ne 0 ] && [ $code -ne 1 ]; then
		echo "imgtool convert ended by exit $code: $(tail -n 1 "$work/err")"
		return 1
	fi
	if [ $code -eq 1 ] && ! [ -s "$work/err" ]; then
		echo "refused without a word"
		return 1
	fi

	case $features in
	*must-fail:*)
		[ $code -eq 1 ] || { echo "not refused"; return 1; }
		within || { echo "took $took s, $peak MiB"; return 1; }
		why="refused: $(head -n 1 "$work/err")" ;;
	*either:*)
		within || { echo "took $took s, $peak MiB"; return 1; }
		why="refused: $(head -n 1 "$work/err")"
		[ $code -eq 1 ] || why="read in $took s, $peak MiB" ;;
	*)
		[ $code -eq 0 ] || { echo "refused: $(head -n 1 "$work/err")"; return 1; }
		why="read in $took s, $peak MiB" ;;
	esac
	case $features in
	*under\ 512\ MiB*|*huge*) [ "$peak" -le $mebibytes ] || { echo "took $peak MiB"; return 1; } ;;
	esac

	if [ $code -eq 0 ] && [ "$hash" != - ]; then
		case $hash in sparse4k:*) kind=sparse4k ;; *) kind=sha256 ;; esac
		got_hash=$("$build/tests/corpus/hash" "$given" "$image" $kind "$passphrase" 2>&1)
		if [ "$got_hash" != "$size ${hash#sparse4k:}" ]; then
			echo "by the library: $got_hash, expected $size $hash"
			return 1
		fi
		if [ $kind = sha256 ]; then
			got_hash=$(sha256sum <"$work/raw" | cut -d' ' -f1)
		else
			got_hash=$("$build/tests/corpus/hash" $to "$work/raw" $kind 2>&1)
			got_hash=${got_hash#* }
		fi
		if [ "$got_hash" != "${hash#sparse4k:}" ]; then
			echo "converted: $got_hash, expected $hash"
			return 1
		fi
		# What it says of itself, and by probing.
		if ! probe_unlike "$file"; then
			said=$("$imgtool" info --output=json "$image" | jq -r '.format + " " + (."virtual-size" | tostring)')
			[ "$said" = "$format $size" ] || { echo "info: '$said', expected '$format $size'"; return 1; }
		fi
	fi
	case $features in
	*outside=*)
		outside_untouched "$(echo "$features" | sed 's/.*outside=\([^;]*\).*/\1/')" "$@" || return 1 ;;
	esac
	case $features in
	*check:*) check_verdict "$features" "$given" || return 1 ;;
	esac
}

tab=$(printf '\t')
rows=0 not_yet_rows=0
while IFS=$tab read -r file format _ size hash features _ entry args _; do
	case " $formats " in *" $format "*) ;; *) continue ;; esac
	case $file in *"$only"*) ;; *) continue ;; esac
	rows=$((rows + 1))
	unpack "$file" "$entry" || { fail "$file: cannot be unpacked"; continue; }
	rm -f "$work/raw"
	why=
	if row "$file" "$format" "$size" "$hash" "$features" "$entry" "$args" >"$work/said"; then
		case $why in
		not\ yet:*) not_yet_rows=$((not_yet_rows + 1)) ;;
		esac
		pass "$file: $why"
	else
		fail "$file ($features): $(cat "$work/said")"
	fi
done <"$corpus/MANIFEST.tsv"
echo "$rows rows, of which $not_yet_rows need what is not built yet and were refused in words"
finish

#!/bin/sh
# Situations that people met with images and tools, as scripts: IMG=imgtool bash SCRIPT; exit code 0:
# right, 77: cannot be tried here, else wrong, with a last line that says what. From the environment:
# IMG_CASES, the folder with images/, vmdk/ and crash/ (default: ../shared/cases beside the checkout).
. "$(dirname "$0")/../lib.sh"

cases=${IMG_CASES:-$top/../shared/cases}
if [ ! -d "$cases" ]; then
	skip "no cases: set IMG_CASES"
	finish
fi

export IMG="$imgtool" IMGTOOL="$imgtool" PATH="$build:$PATH" work
# Two at a time for each processor: many wait rather than work.
# shellcheck disable=SC2016 # the inner shell expands
find "$cases/images" "$cases/vmdk" "$cases/crash" -name '*.sh' | sort |
	xargs -P "$((2 * $(nproc)))" -I SCRIPT sh -c '
		result=$work/$(basename "$(dirname "$0")")-$(basename "$0" .sh)
		timeout 150 bash "$0" >"$result.out" 2>&1 </dev/null
		echo $? >"$result.code"' SCRIPT

for result in "$work"/*.code; do
	[ -f "$result" ] || continue
	what=$(basename "$result" .code)
	said=$(grep -v ': line [0-9]*: .*Killed' "${result%.code}.out" | tail -n 1)
	case $(cat "$result") in
	0) pass "$what" ;;
	77) skip "$what: $said" ;;
	124) fail "$what: did not end within 150 s" ;;
	*) fail "$what: $said" ;;
	esac
done
finish

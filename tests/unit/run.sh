#!/bin/sh
# Every criterion binary. One line for each; the output of those that fail.
. "$(dirname "$0")/../lib.sh"
suite=${SUITE:-$suite}

chmod 711 "$disk" "$work"	# another user's process comes by

for test in $(find "$build/tests" -name '*_test' -type f -perm -u+x | sort); do
	name=${test#"$build"/}
	# What is below the formats is about files as a disk has them.
	case $name in */storage/*) TMPDIR=$disk ;; *) TMPDIR=$work ;; esac
	criterion 300 "$test" --color=never --verbose -j2 >"$work/out" 2>&1
	code=$?
	counts=$(sed -n 's/.*Synthesis: Tested: \([0-9]*\) | Passing: \([0-9]*\) | Failing: \([0-9]*\) | Crashing: \([0-9]*\).*/\1 \2/p' "$work/out")
	tested=${counts% *} good=${counts#* }
	if [ -z "$counts" ]; then
		tested=1 good=0
	elif [ $code -ne 0 ] && [ "$tested" = "$good" ]; then
		tested=$((tested + 1))	# it ended badly, whatever it counted
	fi
	sed -n 's/^\[SKIP\] //p' "$work/out" >"$work/skips"
	while read -r line; do
		skip "$line"
	done <"$work/skips"
	passed=$((passed + good)) failed=$((failed + tested - good))
	echo "$name: $good of $tested"
	[ $code -eq 0 ] || sed 's/^/    /' "$work/out" | tail -n 60
done
finish

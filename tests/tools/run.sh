#!/bin/sh
# The tool against qemu-img, command line by command line.
#
#	tests/tools/run.sh [WORD]	only parts with WORD in their name
. "$(dirname "$0")/../lib.sh"

IMGTOOL=$imgtool DISK=$disk "$top/tests/tools/cli_compare.sh" "$1" >"$work/all"
grep -v '^ok ' "$work/all" | sed '$d'
# shellcheck disable=SC2046 # numbers
set -- $(tail -n 1 "$work/all" | tr -dc '0-9 ')
passed=${1:-0} failed=${2:-1} skipped=${3:-0}
finish

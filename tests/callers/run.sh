#!/bin/sh
# Command lines as real programs give them to qemu-img, read the way they read the answers, with
# imgtool under that name; prepared and judged by a genuine qemu-img 11. From the environment:
# IMG_CALLERS, the folder of the harness (default: ../shared/callers beside the checkout),
# CALLERS_GENUINE, that qemu-img (default: qemu-img-11, qemu-img, or the one that the harness knows).
# What needs a command or a format that there is not counts as skipped, and so do measure for another target than raw and
# luks, and amend of anything but key slots, which are refused (README, Limits).
. "$(dirname "$0")/../lib.sh"

harness=${IMG_CALLERS:-$top/../shared/callers}/callers
if [ ! -f "$harness" ]; then
	skip "no harness: set IMG_CALLERS"
	finish
fi
if [ "$(id -u)" != 0 ] || ! have python3 || ! have jq; then
	skip "the harness wants root, python3 and jq"
	finish
fi

major() { "$1" --version 2>/dev/null | sed -n '1s/^qemu-img version \([0-9]*\).*/\1/p'; }
genuine=
for candidate in ${CALLERS_GENUINE:-qemu-img-11 qemu-img \
	$(sed -n "s/.*exists('\([^']*qemu-img[^']*\)').*/\1/p" "$harness")}; do
	[ "$(major "$candidate")" -ge 11 ] 2>/dev/null && genuine=$(command -v "$candidate") && break
done
if [ -z "$genuine" ]; then
	skip "no genuine qemu-img 11: set CALLERS_GENUINE"
	finish
fi

chmod 755 "$work" # some cases run as other users
timeout 170 "$harness" --prog "$build/qemu-img" --genuine "$genuine" --jobs "$(nproc)" \
	--tmp "$work" --cache "$work/fixtures" --json "$work/json" >"$work/log" 2>&1
if [ ! -s "$work/json" ]; then
	fail "the harness ended without a result: $(tail -n 3 "$work/log")"
	finish
fi
# "pass ID", "skip ID: why", "fail ID: why"; a case that cannot be set up here is skipped.
jq -r 'def is_partial: (.id == "vnb-amend-data-file") or (.reason | test("does not support size measurement"));
	.results[] | if .verdict == "pass" then "pass" elif .kind == "fault" and (is_partial | not) then "fail" else "skip" end
	+ " " + .id + ": " + (.reason | gsub("\n"; " | "))' <"$work/json" >"$work/verdicts"
while read -r verdict what; do
	"$verdict" "$what"
done <"$work/verdicts"
finish

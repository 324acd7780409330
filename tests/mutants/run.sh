#!/bin/sh
# Would the suites notice? Small faults are put into the product, one at a time, and what is named
# beside each must fail with it. (Long; not part of `make test`: `make mutants`.)
#
#   tests/mutants/run.sh [WORD]	only faults with WORD in LIST/NAME
#
# Each *.faults here is a list. All that is named with a fault must fail:
#
#	fault NAME: what goes wrong
#	in FILE [FUNCTION]
#	< text that is replaced, wherever its words follow each other in that function
#	> text that takes its place
#	test BINARY [PATTERN]	a unit test below tests/ and which of its tests (all)
#	suite NAME [ARGUMENT]	or a suite, for what only a whole suite can see
#
# A fault that does not apply any more, or does not build, is a failure, as is one that nothing
# notices; so is a test that does not pass without it.
scratch=disk	# a unit test may need one
. "$(dirname "$0")/../lib.sh"

only=$1
here=$top/tests/mutants
tree=$work/tree
jobs=$(nproc)

# Another copy of the tree, with what is built in it: each fault rebuilds one file.
mkdir "$tree"
(cd "$top" && tar -cf - --exclude=./.git --exclude='./build*' .) | tar -xf - -C "$tree"
cp -a "$build" "$tree/build"
cd "$tree" || exit 1

list_faults() { sed -n "s/^fault \([^:]*\):.*/\1/p" "$1"; }

# checks LIST NAME: the lines of a fault that say what must fail.
checks() { awk -v name="$2:" '/^fault / { here = $2 == name } here && /^(test|suite) /' "$1"; }

# programs SUITE: what it runs that is built of the product.
programs() {
	echo build/imgtool build/qemu-img build/qemu-io
	[ ! -f "tests/$1/$1.c" ] || echo "build/tests/$1/$1"
}

# check KIND WHAT [PATTERN]: does it pass?
check() {
	case $1 in
	test)
		make -s -j"$jobs" "build/tests/$2" >"$work/make" 2>&1 || return 2
		criterion 120 "build/tests/$2" --color=never --verbose -j2 ${3:+--filter "$3"} >"$work/out" 2>&1 || return 1
		grep -q 'Tested: [1-9]' "$work/out" || { echo "no such test: $2 $3" >"$work/make"; return 3; }
		;;
	suite)
		# shellcheck disable=SC2046 # words
		make -s -j"$jobs" $(programs "$2") >"$work/make" 2>&1 || return 2
		env -u TMPDIR BUILD=build timeout 900 "tests/$2/run.sh" ${3:+"$3"} >"$work/out" 2>&1 || return 1
		tail -n 1 "$work/out" | grep -q ': [1-9][0-9]* passed' || { echo "nothing ran: $2 $3" >"$work/make"; return 3; }
		;;
	esac
}

# Each test and suite must pass in a tree without a fault.
sound() {
	for list in "$here"/*.faults; do
		for name in $(list_faults "$list"); do
			case ${list##*/}/$name in *"$only"*) checks "$list" "$name" ;; esac
		done
	done | sort -u >"$work/all"
	while read -r kind what pattern; do
		check "$kind" "$what" "$pattern" </dev/null || {
			fail "$kind $what $pattern: does not pass without a fault"
			tail -n 20 "$work/make" "$work/out" | sed 's/^/      /'
		}
	done <"$work/all"
}

# noticed LIST NAME: one fault. What is wrong is left in $verdict.
noticed() {
	checks "$1" "$2" >"$work/checks"
	[ -s "$work/checks" ] || { verdict="nothing is named that should fail"; return 1; }
	file=$(perl "$here/apply.pl" "$1" "$2" 2>"$work/apply") || { verdict=$(cat "$work/apply"); return 1; }
	verdict=
	while read -r kind what pattern; do
		check "$kind" "$what" "$pattern" </dev/null
		case $? in
		0) verdict="not noticed by $kind $what $pattern" ;;
		2) verdict="does not build: $(grep -m 1 -e error -e "\*\*\*" "$work/make")" ;;
		3) verdict=$(cat "$work/make") ;;
		esac
		[ -z "$verdict" ] || break
	done <"$work/checks"
	# Newer than the object that was made of the fault.
	cp "$top/$file" "$file" && touch "$file"
	[ -z "$verdict" ]
}

sound
for list in "$here"/*.faults; do
	for name in $(list_faults "$list"); do
		case ${list##*/}/$name in *"$only"*) ;; *) continue ;; esac
		if noticed "$list" "$name"; then
			pass "$name"
		else
			fail "$name: $verdict"
		fi
	done
done
finish

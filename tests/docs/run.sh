#!/bin/bash
# --help, the manual pages, the shells' completion, and what the parser takes: the same options
# everywhere. Pages are without warnings; completion does what it should in a real bash. What needs a
# shell or a formatter that there is not counts as skipped.
. "$(dirname "$0")/../lib.sh"
export LC_ALL=C

share=$build/share
man1=$share/man/man1
bash_script=$share/bash-completion/completions/imgtool
zsh_script=$share/zsh/site-functions/_imgtool
fish_script=$share/fish/vendor_completions.d/imgtool.fish

commands=$("$imgtool" --help | sed -n '/^Commands/,/^Supported/s/^  \([a-z]*\) .*/\1/p')
try "there are commands" test -n "$commands"

# ---- What each says there is: one option to a line ----

# page SECTION...: "-f --format=" from the tags in those sections of standard input.
page() {
	awk -v sections="$*" '
		/^\.SH / { on = index(sections, substr($0, 5)) }
		tag { if (on && /^\\fB\\-/) print; tag = 0 }
		/^\.TP/ { tag = 1 }' | sed 's/\\f.//g; s/\\-/-/g; s/, / /'
}
# Names alone, without arguments.
names() { grep -oE '(^| )--?[a-zA-Z][a-z0-9-]*' | tr -d ' ' | sort; }

helped() { "$imgtool" $1 --help | grep -E '^  (-|    --)' | sed -E 's/^ *((-[a-zA-Z],? *)?(--[a-z-]+)?).*/\1/' | tr -d , | names; }
paged() { page OPTIONS <"$man1/imgtool${1:+-$1}.1" | names; }
# What is taken without being offered.
paged_apart() { page OTHER SPELLINGS REFUSED OPTIONS <"$man1/imgtool${1:+-$1}.1" | names; }

# complete_at WORD...: what bash is offered for the last word, as it cuts the line.
complete_at() {
	bash -c '. "$1"; shift; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _imgtool; printf "%s\n" "${COMPREPLY[@]}"' \
		- "$bash_script" "$@"
}
in_bash() { complete_at imgtool $1 - | sort; }
in_fish() { fish -c "source '$fish_script'; complete -C 'imgtool $1 -'" | cut -f 1 | names; }
# zsh's own reading of the script, up to what it would hand to _arguments.
in_zsh() {
	zsh -f -c 'command=$2
		_describe() { : }
		_arguments() {
			if [[ $1 == -C ]]; then
				[[ -z $command ]] || { state=argument words=($command); return 1 }
			fi
			print -rl -- "$@"
		}
		. "$1"' - "$zsh_script" "$1" | sed -nE 's/^(\*|\([^)]*\))?(--?[a-zA-Z][a-z-]*)[+=[].*/\2/p' | sort
}

# What the parser takes, found by asking it: a letter is refused or not, the beginning of a name is
# refused, is ambiguous between names, or says its whole name when it gets or lacks an argument.
ask() { "$imgtool" "$@" </dev/null 2>&1 >/dev/null | head -n 1; }
names_from() {
	local command=$1 begin=$2 answer next

	answer=$(ask $command "--$begin")
	case $answer in
	*"unrecognized option"*) return ;;
	*ambiguous*) answer=$(grep -oE "'--[a-z-]+'" <<<"${answer#*possibilities}" | tr -d "'") ;;
	*"requires an argument"*) answer=$(sed "s/.*option '\(--[a-z-]*\)'.*/\1/" <<<"$answer") ;;
	*) answer=$(ask $command "--$begin=x" | sed -n "s/.*option '\(--[a-z-]*\)' doesn't allow.*/\1/p") ;;
	esac
	printf '%s\n' "$answer"
	# One that is itself what was asked for hides those that begin with it.
	if [ "$answer" = "--$begin" ]; then
		for next in {a..z} -; do
			names_from "$command" "$begin$next"
		done
	fi
}
parsed() {
	local command=$1 letter answer

	for letter in {a..z} {A..Z}; do
		answer=$(ask $command "-$letter")
		[[ $answer == *"invalid option"* ]] || printf '%s\n' "-$letter"
	done
	for letter in {a..z}; do
		names_from "$command" "$letter"
	done | sort -u
}

for command in '' $commands; do
	helped "$command" >"$work/help"
	try "$command: --help and the manual page" diff "$work/help" <(paged "$command")
	try "$command: --help and bash" diff "$work/help" <(in_bash "$command")
	if have zsh; then
		try "$command: --help and zsh" diff "$work/help" <(in_zsh "$command")
	else
		skip "$command: zsh is not installed"
	fi
	if have fish; then
		try "$command: --help and fish" diff "$work/help" <(in_fish "$command")
	else
		skip "$command: fish is not installed"
	fi
	try "$command: --help and the parser" diff <(sort -u "$work/help" <(paged_apart "$command")) \
		<(parsed "$command" | sort -u)
done

# An option takes an argument if the help shows one.
for command in '' $commands; do
	"$imgtool" $command --help | grep -oE '^  (-.,? *|    )(--[a-z-]+)?[^ ]*( [^ ]+)?' | while read -r line; do
		name=$(grep -oE -- '--[a-z-]+' <<<"$line" | head -n 1)
		[ -n "$name" ] || continue
		case $line in
		*"[="*) wanted="" ;;
		*"$name "[A-Z]* | *"$name human|json" | *"$name leaks|all" | *"$name threads|native|io_uring") wanted="requires an argument" ;;
		*) wanted="doesn't allow an argument" ;;
		esac
		case $wanted in
		requires*) answer=$(ask $command "$name") ;;
		doesn*) answer=$(ask $command "$name=x") ;;
		*) continue ;;
		esac
		[[ $answer == *"option '$name' $wanted"* ]] || echo "$command $name: $wanted: $answer"
	done
done >"$work/arity"
try "arguments are where the help shows them" diff /dev/null "$work/arity"

# Every option is explained.
for page in "$man1"/*.1; do
	awk -v page="$page" '/^\.TP/ { at = NR } at && NR == at + 2 && /^(\.|$)/ { print page ": " NR }' "$page"
done >"$work/unexplained"
try "every option is explained" diff /dev/null "$work/unexplained"
try "a page for each command" test "$(ls "$man1" | wc -l)" = "$(($(wc -w <<<"$commands") + 1))"

# ---- Pages ----

for page in "$man1"/*.1; do
	for formatter in 'mandoc -T lint' 'groff -man -ww -z -T utf8' 'man --warnings -l'; do
		name="$(basename "$page"): ${formatter%% *}"
		if ! have ${formatter%% *}; then
			skip "$name is not installed"
			continue
		fi
		$formatter "$page" 2>&1 >"$work/shown" | cat >"$work/warnings"
		[[ $formatter != mandoc* ]] || cat "$work/shown" >>"$work/warnings"
		try "$name has nothing against it" diff /dev/null "$work/warnings"
	done
done

# ---- bash ----

# completes "WORD|WORD..." EXPECTED: the words of the answer.
completes() {
	local line=$1
	shift
	IFS='|' read -ra cut <<<"$line|x"
	unset 'cut[-1]'
	try "bash: $line" diff <(printf '%s\n' "$@" | sort) <(cd "$work/files" && complete_at "${cut[@]}" | sort)
}
mkdir -p "$work/files/folder"
touch "$work/files/disk.qcow2" "$work/files/disk two.raw"
formats=$("$imgtool" --help | sed -n '/^Supported image/,/^Supported protocols/s/^  *//p' | tr '\n' ' ')
try "bash: it reads the script" bash -n "$bash_script"
try "bash: the function is bound to imgtool" bash -c ". '$bash_script'; complete -p imgtool | grep -qx 'complete -F _imgtool imgtool'"
# shellcheck disable=SC2086 # words are wanted
completes 'imgtool|' $commands
completes 'imgtool|comp' compare
completes 'imgtool|--v' --version
completes 'imgtool|nonsense' ''
completes 'imgtool|info|--fo' --format --force-share
completes 'imgtool|info|disk' disk.qcow2 'disk two.raw'
completes 'imgtool|info|fol' folder
# shellcheck disable=SC2086
completes 'imgtool|info|-f|' $formats
completes 'imgtool|info|-f|qc' qcow qcow2
completes 'imgtool|info|--format|=|qc' qcow qcow2
completes 'imgtool|info|--format=qc' --format=qcow --format=qcow2
completes 'imgtool|info|--output|=' human json
completes 'imgtool|info|--output|=|json|disk.' disk.qcow2
completes 'imgtool|info|-f|raw|--output|j' json
completes 'imgtool|info|--image-opts|--lim' --limits
completes 'imgtool|info|-Uf|raw|disk.' disk.qcow2
completes 'imgtool|info|-fraw|disk.' disk.qcow2
completes 'imgtool|info|--|-' ''
completes 'imgtool|info|--|disk.' disk.qcow2
completes 'imgtool|info|disk.qcow2|' ''
completes 'imgtool|map|-s|' ''
completes 'imgtool|check|-r|' leaks all
completes 'imgtool|check|--repair|=|l' leaks
completes 'imgtool|bench|-i|io' io_uring
completes 'imgtool|bench|--random|disk.' disk.qcow2
completes 'imgtool|compare|disk.qcow2|disk.' disk.qcow2
completes 'imgtool|compare|a|b|' ''
completes 'imgtool|convert|a|b|c|disk.' disk.qcow2
completes 'imgtool|convert|-b|disk.' disk.qcow2
completes 'imgtool|convert|-B|disk.' disk.qcow2
completes 'imgtool|convert|nbd|:|//host/|disk.' disk.qcow2
completes 'imgtool|create|-f|qcow2|disk.' disk.qcow2
completes 'imgtool|create|new|1' ''
completes 'imgtool|create|-f|qcow2|-o|clu' cluster_size=
completes 'imgtool|create|-f|qcow2|-o|cluster_size|=|4k,extended' 4k,extended_l2=
completes 'imgtool|create|-f|qcow2|-o|cluster_size|=|4' ''
completes 'imgtool|create|-o|clu' ''
completes 'imgtool|create|-fqcow2|-o|clu' cluster_size=
completes 'imgtool|create|--format|=|qcow2|-o|clu' cluster_size=
completes 'imgtool|convert|-O|vmdk|-o|subf' subformat=
completes 'imgtool|convert|--target-format|qcow2|-f|vmdk|-o|clu' cluster_size=
completes 'imgtool|resize|disk.qcow2|+' ''
completes 'imgtool|io|-c|read' ''
completes 'imgtool|io|-c|length|-t|write' writeback writethrough

# Each word that is offered as a value is one that the command takes.
for command in $commands; do
	for option in $("$imgtool" "$command" --help | grep -oE -- '--[a-z-]+ [A-Za-z]' | cut -d ' ' -f 1); do
		for word in $(complete_at imgtool "$command" "$option" ''); do
			[ ! -e "$word" ] || continue
			answer=$(ask "$command" "$option" "$word")
			[[ $answer != *[Ii]nvalid* && $answer != *expects* && $answer != *[Uu]nknown* ]] || echo "$command $option $word: $answer"
		done
	done
done >"$work/values"
try "what is offered as a value is taken" diff /dev/null "$work/values"

# ---- zsh and fish ----

if have zsh; then
	try "zsh: it reads the script" zsh -n "$zsh_script"
else
	skip "zsh is not installed"
fi
if have fish; then
	offers() { fish -c "cd '$work/files'; source '$fish_script'; complete -C '$1'" | cut -f 1 | tr '\n' ' '; }
	try "fish: it reads the script" fish --no-execute "$fish_script"
	try "fish: commands" test "$(offers 'imgtool co')" = "commit compare convert "
	try "fish: formats" test "$(offers 'imgtool info -f q')" = "qcow qcow2 qed "
	try "fish: a value behind =" test "$(offers 'imgtool info --output=j')" = "--output=json "
	try "fish: files" test "$(offers 'imgtool info disk.')" = "disk.qcow2 "
else
	skip "fish is not installed"
fi
finish

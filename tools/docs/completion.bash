
# _imgtool_reply KIND PREFIX: offer those that begin with $cur; PREFIX is put in front of each.
_imgtool_reply()
{
	local element list

	case $1 in
	none | '') ;;
	file)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -P "$2" -f -- "$cur")
		;;
	keys)
		element=${value##*,}
		[[ $element != *=* ]] || return
		list=${cur%"$element"}
		compopt -o nospace 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -P "$2$list" -W "$(_imgtool_keys "$format")" -- "$element")
		;;
	*) mapfile -t COMPREPLY < <(compgen -P "$2" -W "$1" -- "$cur") ;;
	esac
}

_imgtool()
{
	local cur=${COMP_WORDS[COMP_CWORD]} word value letter i j join='' prefix=''
	local command='' option='' format=raw operand=1 operands_only=''
	local -a words=()

	COMPREPLY=()
	# bash cuts words at '=' and ':' too; undo that.
	for ((i = 1; i <= COMP_CWORD; i++)); do
		word=${COMP_WORDS[i]}
		if [[ ${#words[@]} -gt 0 && ($word == [=:]* || -n $join) ]]; then
			words[-1]+=$word
		else
			words+=("$word")
		fi
		join=
		[[ $word != [=:] ]] || join=1
	done
	[[ $cur != [=:] ]] || cur=

	# What stands before: the command, operands, at last perhaps an option that waits for a value.
	for ((i = 0; i < ${#words[@]} - 1; i++)); do
		word=${words[i]}
		if [[ -n $option ]]; then
			! _imgtool_sets_format "$command" "$option" || format=$word
			option=
		elif [[ -n $operands_only || $word != -?* ]]; then
			if [[ -z $command ]]; then
				command=$word
			else
				operand=$((operand + 1))
			fi
		elif [[ $word == -- ]]; then
			operands_only=1
		elif [[ $word == --*=* ]]; then
			! _imgtool_sets_format "$command" "${word%%=*}" || format=${word#*=}
		elif [[ $word != --* ]]; then
			# Letters in a row: behind the first that has a value is that, or it is the next word.
			for ((j = 1; j < ${#word}; j++)); do
				letter=-${word:j:1} value=${word:j+1}
				[[ -n $(_imgtool_value "$command" "$letter") ]] || continue
				if [[ -z $value ]]; then
					option=$letter
				elif _imgtool_sets_format "$command" "$letter"; then
					format=$value
				fi
				break
			done
		elif [[ -n $(_imgtool_value "$command" "$word") ]]; then
			option=$word
		fi
	done

	word=${words[-1]} value=${words[-1]}
	if [[ -n $option ]]; then
		_imgtool_reply "$(_imgtool_value "$command" "$option")"
	elif [[ -n $operands_only || $word != -* ]]; then
		_imgtool_reply "$(_imgtool_value "$command" "$operand")"
	elif [[ $word == --*=* ]]; then
		option=${word%%=*} value=${word#*=}
		if [[ $cur == "$word" ]]; then # '=' is none of those where bash cuts
			cur=$value prefix=$option=
		fi
		_imgtool_reply "$(_imgtool_value "$command" "$option")" "$prefix"
	else
		_imgtool_reply "$(_imgtool_options "$command")"
	fi
}

complete -F _imgtool imgtool

/* Completion for zsh: a specification for _arguments from each row. */
#include "tools/docs/docs.h"

/* ":METAVAR:ACTION", within quotes. */
static void put_value(FILE *out, const char *metavar, enum value_kind value, const char *choices)
{
	putc(':', out);
	docs_put_quoted(out, metavar, ":");
	putc(':', out);
	if (docs_has_words(value, choices)) {
		putc('(', out);
		docs_put_words(out, value, choices);
		putc(')', out);
	} else {
		fputs(value == VALUE_FILE ? "_files" : " ", out);
	}
}

static void put_spelling(FILE *out, const struct option_row *row, bool name)
{
	const char *value = !row->metavar ? "" : !name			? "+"
					 : row->flags & OPTION_OPTIONAL ? "=-"
									: "=";

	if (name)
		fprintf(out, "--%s%s", row->name, value);
	else
		fprintf(out, "-%c%s", row->letter, value);
}

static void put_option(FILE *out, const struct option_row *row)
{
	fputs("\t\t\t", out);
	if (row->flags & OPTION_MANY)
		fputs("'*'", out);
	else if (row->letter && row->name)
		fprintf(out, "'(-%c --%s)'", row->letter, row->name);
	if (row->letter && row->name)
		putc('{', out);
	if (row->letter)
		put_spelling(out, row, false);
	if (row->letter && row->name)
		putc(',', out);
	if (row->name)
		put_spelling(out, row, true);
	if (row->letter && row->name)
		putc('}', out);
	fputs("'[", out);
	docs_put_quoted(out, row->help, "[]\\:");
	putc(']', out);
	if (row->metavar) {
		fputs(row->flags & OPTION_OPTIONAL ? ":" : "", out);
		put_value(out, row->metavar, row->value, row->choices);
	}
	fputs("' \\\n", out);
}

static void put_options(FILE *out, const struct command *c)
{
	const struct option_row *row;

	for (row = c->options; !option_row_ends(row); row++)
		if (option_row_is_offered(row))
			put_option(out, row);
	put_option(out, &options_help_row);
}

static void put_command(FILE *out, const struct command *c)
{
	const struct operand_row *operand;

	fprintf(out, "\t\t%s)\n\t\t\t_arguments -s -S \\\n", c->name);
	put_options(out, c);
	for (operand = c->operands; operand->metavar; operand++) {
		/* what follows many is more of the same */
		fprintf(out, "\t\t\t'%s", operand->many ? "*" : operand->optional ? ":"
										  : "");
		put_value(out, operand->metavar, operand->value, NULL);
		fputs("' \\\n", out);
		if (operand->many)
			break;
	}
	fputs("\t\t\t&& return 0\n\t\t\t;;\n", out);
}

void zsh_completion(FILE *out)
{
	const struct command *c;
	size_t i;

	fputs("#compdef imgtool\n"
	      "# zsh completion for imgtool, made from the tables of its options.\n\n"
	      "_imgtool() {\n"
	      "\tlocal curcontext=$curcontext state line ret=1\n"
	      "\tlocal -a commands\n"
	      "\ttypeset -A opt_args\n\n"
	      "\tcommands=(\n",
	      out);
	for (i = 0; (c = command_at(i)); i++) {
		fprintf(out, "\t\t'%s:", c->name);
		docs_put_quoted(out, c->purpose, ":\\");
		fputs("'\n", out);
	}
	fputs("\t)\n\t_arguments -C \\\n", out);
	put_options(out, &program_command);
	fputs("\t\t\t'1:command:->command' \\\n\t\t\t'*::argument:->argument' && ret=0\n\n"
	      "\tcase $state in\n"
	      "\tcommand)\n"
	      "\t\t_describe -t commands command commands && ret=0\n"
	      "\t\t;;\n"
	      "\targument)\n"
	      "\t\tcase $words[1] in\n",
	      out);
	for (i = 0; (c = command_at(i)); i++)
		put_command(out, c);
	fputs("\t\tesac\n\t\t;;\n\tesac\n\treturn ret\n}\n\n_imgtool \"$@\"\n", out);
}

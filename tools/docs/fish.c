/* Completion for fish. */
#include "tools/docs/docs.h"

/* Ends the line. Single quotes of fish know \' and \\. */
static void put_description(FILE *out, const char *text)
{
	fputs(" -d '", out);
	for (; *text; text++) {
		if (*text == '\'' || *text == '\\')
			putc('\\', out);
		putc(*text, out);
	}
	fputs("'\n", out);
}

static void put_option(FILE *out, const char *condition, const struct option_row *row)
{
	fprintf(out, "complete -c imgtool -n '%s'", condition);
	if (row->letter)
		fprintf(out, " -s %c", row->letter);
	if (row->name)
		fprintf(out, " -l %s", row->name);
	if (row->metavar && row->value == VALUE_FILE)
		fputs(" -r -F", out);
	else if (row->metavar && !(row->flags & OPTION_OPTIONAL))
		fputs(" -x", out);
	if (docs_has_words(row->value, row->choices)) {
		fputs(" -a '", out);
		docs_put_words(out, row->value, row->choices);
		putc('\'', out);
	}
	put_description(out, row->help);
}

static void put_options(FILE *out, const char *condition, const struct command *c)
{
	const struct option_row *row;

	for (row = c->options; !option_row_ends(row); row++)
		if (option_row_is_offered(row))
			put_option(out, condition, row);
	put_option(out, condition, &options_help_row);
}

void fish_completion(FILE *out)
{
	const struct command *c;
	char condition[96];
	size_t i;

	fputs("# fish completion for imgtool, made from the tables of its options.\n"
	      "complete -c imgtool -f\n",
	      out);
	put_options(out, "__fish_use_subcommand", &program_command);
	for (i = 0; (c = command_at(i)); i++) {
		fprintf(out, "complete -c imgtool -n __fish_use_subcommand -a %s", c->name);
		put_description(out, c->purpose);
	}
	for (i = 0; (c = command_at(i)); i++) {
		snprintf(condition, sizeof(condition), "__fish_seen_subcommand_from %s", c->name);
		fprintf(out, "\ncomplete -c imgtool -n '%s' -F\n", condition);
		put_options(out, condition, c);
	}
}

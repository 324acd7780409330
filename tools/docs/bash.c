/*
 * Completion for bash: functions that say which options there are and what follows them. The rest of
 * the script, the same for any tables, is completion.bash.
 */
#include "libimg/img.h"
#include "tools/docs/docs.h"

/* ---- Lists ---- */

static const char *name_of(const struct command *c)
{
	return c->name ? c->name : "";
}

static void put_spellings(FILE *out, const struct option_row *row, const char *end)
{
	if (row->letter)
		fprintf(out, "-%c%s", row->letter, row->name ? " " : end);
	if (row->name)
		fprintf(out, "--%s%s", row->name, end);
}

static void put_options(FILE *out, const struct command *c)
{
	const struct option_row *row;

	fprintf(out, "\t'%s') echo '", name_of(c));
	for (row = c->options; !option_row_ends(row); row++)
		if (option_row_is_offered(row))
			put_spellings(out, row, " ");
	put_spellings(out, &options_help_row, "");
	fputs("' ;;\n", out);
}

static void put_kind(FILE *out, enum value_kind value, const char *choices)
{
	if (docs_has_words(value, choices))
		docs_put_words(out, value, choices);
	else
		fputs(value == VALUE_FILE	      ? "file"
		      : value == VALUE_CREATE_OPTIONS ? "keys"
						      : "none",
		      out);
}

/* One line for each option with a value, older spellings too, and for each operand. */
static void put_values(FILE *out, const struct command *c)
{
	const struct operand_row *operand;
	const struct option_row *row;
	unsigned number = 0;

	for (row = c->options; !option_row_ends(row); row++) {
		if (!row->metavar || (row->flags & (OPTION_OPTIONAL | OPTION_REFUSED)))
			continue;
		fputs("\t", out);
		if (row->letter)
			fprintf(out, "'%s -%c'", name_of(c), row->letter);
		if (row->letter && row->name)
			fputs(" | ", out);
		if (row->name)
			fprintf(out, "'%s --%s'", name_of(c), row->name);
		fputs(") echo '", out);
		put_kind(out, row->value, row->choices);
		fputs("' ;;\n", out);
	}
	for (operand = c->operands; c->name && operand->metavar; operand++) {
		number++;
		if (operand->many)
			fprintf(out, "\t'%s '[0-9]*", c->name);
		else
			fprintf(out, "\t'%s %u'", c->name, number);
		fputs(") echo '", out);
		put_kind(out, operand->value, NULL);
		fputs("' ;;\n", out);
	}
}

/* "-f" and "--format" of each command that makes an image. */
static void put_format_options(FILE *out)
{
	const struct option_row *row;
	const struct command *c;
	size_t i;

	for (i = 0; (c = command_at(i)); i++)
		for (row = c->options; !option_row_ends(row); row++)
			if (row->value == VALUE_NEW_FORMAT && option_row_is_offered(row))
				fprintf(out, "\t'%s -%c' | '%s --%s') return 0 ;;\n", c->name,
					row->letter, c->name, row->name);
}

static void put_keys(FILE *out)
{
	const char *name;
	size_t i, j;

	for (i = 0; (name = img_format_at(i)); i++) {
		struct img_value *options;

		if (!(img_format_features(name) & IMG_FORMAT_CREATE))
			continue;
		options = img_format_create_options(name);
		fprintf(out, "\t%s) echo '", name);
		for (j = 0; j < img_value_count(options); j++)
			fprintf(out, "%s%s=", j ? " " : "",
				img_value_string(img_value_get(img_value_at(options, j), "name")));
		fputs(" help' ;;\n", out);
		img_value_free(options);
	}
}

static void begin_function(FILE *out, const char *comment, const char *name, const char *subject)
{
	fprintf(out, "\n# %s\n%s()\n{\n\tcase \"%s\" in\n", comment, name, subject);
}

static void end_function(FILE *out)
{
	fputs("\tesac\n}\n", out);
}

void bash_completion(FILE *out)
{
	const struct command *c;
	size_t i;

	fputs("# bash completion for imgtool, made from the tables of its options.\n", out);
	begin_function(out, "The options of a command; nothing: of the program.", "_imgtool_options",
		       "$1");
	put_options(out, &program_command);
	for (i = 0; (c = command_at(i)); i++)
		put_options(out, c);
	end_function(out);

	begin_function(out,
		       "What the value of an option is, or operand number N, of a command: file, keys, "
		       "none (not known), or words.",
		       "_imgtool_value", "$1 $2");
	fputs("\t' '[0-9]*) echo '", out);
	for (i = 0; (c = command_at(i)); i++)
		fprintf(out, "%s%s", i ? " " : "", c->name);
	fputs("' ;;\n", out);
	put_values(out, &program_command);
	for (i = 0; (c = command_at(i)); i++)
		put_values(out, c);
	end_function(out);

	begin_function(out, "The creation options of a format.", "_imgtool_keys", "$1");
	put_keys(out);
	end_function(out);

	begin_function(out, "Does an option of a command say of which format a new image is?",
		       "_imgtool_sets_format", "$1 $2");
	put_format_options(out);
	fputs("\t*) return 1 ;;\n", out);
	end_function(out);
}

/* Manual pages, in the macros of man(7). */
#include <ctype.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/docs/docs.h"
#include "tools/io_commands.h"

enum { WIDTH = 72 }; /* of a line of the source, about */

/* Of the pages: they say the same until somebody edits a table. */
static const char date[] = "2026-11-27";

/* ---- Text ---- */

static int put_char(FILE *out, char c)
{
	static const struct {
		char c;
		const char *escape;
	} special[] = {
		{ '\\', "\\e" },
		{ '-', "\\-" },
		{ '\'', "\\(aq" },
		{ '`', "\\(ga" },
		{ '^', "\\(ha" },
		{ '~', "\\(ti" },
	};
	size_t i;

	for (i = 0; i < sizeof(special) / sizeof(special[0]); i++)
		if (special[i].c == c)
			return fprintf(out, "%s", special[i].escape);
	putc(c, out);
	return 1;
}

static int put_word(FILE *out, const char *text, size_t len)
{
	int columns = 0;
	size_t i;

	if (*text == '.')
		columns = fprintf(out, "\\&");
	for (i = 0; i < len; i++)
		columns += put_char(out, text[i]);
	return columns;
}

/* Sentences, with an empty line between paragraphs. */
static void put_text(FILE *out, const char *text)
{
	int column = 0;

	while (*text) {
		size_t len = strcspn(text, " \n");

		if (column && column + (int)len > WIDTH) {
			putc('\n', out);
			column = 0;
		} else if (column) {
			putc(' ', out);
			column++;
		}
		column += put_word(out, text, len);
		text += len;
		if (!strncmp(text, "\n\n", 2)) {
			fputs("\n.PP\n", out);
			column = 0;
		}
		text += strspn(text, " \n");
	}
	putc('\n', out);
}

static void put_font(FILE *out, char font, const char *text)
{
	fprintf(out, "\\f%c", font);
	put_word(out, text, strlen(text));
	fputs("\\fR", out);
}

static void put_upper(FILE *out, const char *text)
{
	for (; *text; text++)
		put_char(out, (char)toupper((unsigned char)*text));
}

/* ---- Parts of a page ---- */

/* name NULL: the program's own page. */
static void put_title(FILE *out, const char *name, const char *purpose)
{
	fputs(".\\\" Made from the tables of the program's options.\n.TH IMGTOOL", out);
	if (name) {
		fputs("\\-", out);
		put_upper(out, name);
	}
	fprintf(out, " 1 %s \"libimg %s\" \"User Commands\"\n.SH NAME\nimgtool", date, img_version());
	if (name)
		fprintf(out, "\\-%s", name);
	fputs(" \\- ", out);
	put_text(out, purpose);
}

/* "\fB-f\fR, \fB--format\fR \fIFORMAT\fR" */
static void put_option(FILE *out, const struct option_row *row)
{
	if (row->letter)
		fprintf(out, "\\fB\\-%c\\fR", row->letter);
	if (row->letter && row->name)
		fputs(", ", out);
	if (row->name) {
		fputs("\\fB\\-\\-", out);
		put_word(out, row->name, strlen(row->name));
		fputs("\\fR", out);
	}
	if (row->metavar) {
		fputs(row->flags & OPTION_OPTIONAL ? "[=" : " ", out);
		put_font(out, 'I', row->metavar);
		fputs(row->flags & OPTION_OPTIONAL ? "]" : "", out);
	}
}

static void put_row(FILE *out, const struct option_row *row)
{
	fputs(".TP\n", out);
	put_option(out, row);
	putc('\n', out);
	put_text(out, row->help);
	if (row->flags & OPTION_MANY)
		fputs("(can be given again)\n", out);
}

static void put_rows(FILE *out, const struct option_row *row)
{
	for (; !option_row_ends(row); row++) {
		if (row->flags & OPTION_HEADING)
			fprintf(out, ".SS %s\n", row->help);
		else if (option_row_is_offered(row))
			put_row(out, row);
	}
}

static bool has_rows(const struct option_row *row, unsigned flag)
{
	for (; !option_row_ends(row); row++)
		if (row->flags & flag)
			return true;
	return false;
}

/* What is taken for the sake of older scripts, and what is known but refused. */
static void put_other_rows(FILE *out, const struct command *c)
{
	static const struct {
		unsigned flag;
		const char *heading;
	} sections[] = {
		{ OPTION_ALIAS, "OTHER SPELLINGS" },
		{ OPTION_REFUSED, "REFUSED OPTIONS" },
	};
	const struct option_row *row;
	size_t i;

	for (i = 0; i < sizeof(sections) / sizeof(sections[0]); i++) {
		if (!has_rows(c->options, sections[i].flag))
			continue;
		fprintf(out, ".SH %s\n", sections[i].heading);
		for (row = c->options; !option_row_ends(row); row++)
			if (row->flags & sections[i].flag)
				put_row(out, row);
	}
}

/* Options and operands, each on a line of the source. */
static void put_synopsis(FILE *out, const struct command *c)
{
	const struct option_row *row;
	const struct operand_row *operand;

	for (row = c->options; !option_row_ends(row); row++) {
		struct option_row shown = *row;

		if (!option_row_is_offered(row))
			continue;
		if (shown.letter)
			shown.name = NULL;
		putc('[', out);
		put_option(out, &shown);
		fputs("]\n", out);
	}
	for (operand = c->operands; operand && operand->metavar; operand++) {
		fputs(operand->optional ? "[" : "", out);
		put_font(out, 'I', operand->metavar);
		fprintf(out, "%s%s\n", operand->many ? "\\&...\\&" : "", operand->optional ? "]" : "");
	}
}

static void put_exit_status(FILE *out, const struct command *c)
{
	fputs(".SH EXIT STATUS\n", out);
	put_text(out, c->exit_status ? c->exit_status : "0 on success, 1 on failure.");
}

static void put_environment(FILE *out)
{
	fputs(".SH ENVIRONMENT\n.TP\n.B LIBIMG_REFERENCES\n", out);
	put_text(out, "Which files images may name, where --references does not say: none, folder (the "
		      "default: the image's own folder and below), any, or folders with colons between.");
}

/* ---- What single commands have beside that ---- */

static void put_io_commands(FILE *out)
{
	const struct io_command *c;
	unsigned i;

	fputs(".SH COMMANDS\n", out);
	for (i = 0; (c = io_command_at(i)); i++) {
		fputs(".TP\n", out);
		put_font(out, 'B', c->command.name);
		if (c->alias) {
			fputs(" (", out);
			put_font(out, 'B', c->alias);
			fputs(")", out);
		}
		fputs("\n", out);
		put_text(out, c->command.purpose);
		if (!option_row_ends(c->command.options) || c->command.operands) {
			fputs(".RS\n.PP\n", out);
			put_font(out, 'B', c->command.name);
			putc('\n', out);
			put_synopsis(out, &c->command);
			put_rows(out, c->command.options);
			if (c->command.notes) {
				fputs(".PP\n", out);
				put_text(out, c->command.notes);
			}
			fputs(".RE\n", out);
		}
	}
}

/* "a,b,c" */
static void put_choices(FILE *out, const char *choices)
{
	fputs("(one of\n", out);
	while (*choices) {
		size_t len = strcspn(choices, ",");

		put_word(out, choices, len);
		choices += len;
		fputs(*choices ? ",\n" : ")\n", out);
		choices += *choices == ',';
	}
}

static void put_create_option(FILE *out, const struct img_value *option)
{
	const char *help = img_value_string(img_value_get(option, "help"));
	const char *choices = img_value_string(img_value_get(option, "choices"));

	fputs(".TP\n", out);
	put_font(out, 'B', img_value_string(img_value_get(option, "name")));
	fputs("\n", out);
	put_text(out, help);
	if (choices && !strchr(help, '(')) /* some name them already */
		put_choices(out, choices);
}

static void put_create_options(FILE *out)
{
	const char *name;
	size_t i, j;

	fputs(".SH OPTIONS OF THE FORMATS\n", out);
	put_text(out, "What -o takes here, and what the same option of imgtool-convert(1) takes but for "
		      "the size.");
	for (i = 0; (name = img_format_at(i)); i++) {
		struct img_value *options;

		if (!(img_format_features(name) & IMG_FORMAT_CREATE))
			continue;
		options = img_format_create_options(name);
		fprintf(out, ".SS %s\n", name);
		for (j = 0; j < img_value_count(options); j++)
			put_create_option(out, img_value_at(options, j));
		img_value_free(options);
	}
}

/* ---- Pages ---- */

void man_program(FILE *out)
{
	const struct command *c;
	const char *name;
	size_t i;

	put_title(out, NULL, program_command.purpose);
	fputs(".SH SYNOPSIS\n.B imgtool\n", out);
	put_synopsis(out, &program_command);
	fputs(".SH DESCRIPTION\n", out);
	put_text(out, program_command.description);
	fputs(".PP\n", out);
	put_text(out, "Each command has a manual page of its own. What is there already is found out by "
		      "its content, unless -f says what it is: a disk that a guest can write to is "
		      "better not guessed. A file whose name has a colon is given as ./NAME.");
	fputs(".SH OPTIONS\n", out);
	put_rows(out, program_command.options);
	put_row(out, &options_help_row);
	fputs(".SH COMMANDS\n", out);
	for (i = 0; (c = command_at(i)); i++) {
		fprintf(out, ".TP\n.BR imgtool\\-%s (1)\n", c->name);
		put_text(out, c->purpose);
	}
	fputs(".SH IMAGE FORMATS\n", out);
	for (i = 0; (name = img_format_at(i)); i++)
		fprintf(out, "%s%s", i ? ",\n" : "", name);
	fputs("\n.SH PROTOCOLS\n", out);
	put_text(out, "What holds an image's bytes, as URLs and descriptions name it:");
	for (i = 0; (name = img_protocol_at(i)); i++) {
		fputs(i ? ",\n" : "", out);
		put_word(out, name, strlen(name));
	}
	fputs("\n", out);
	put_other_rows(out, &program_command);
	put_exit_status(out, &program_command);
	put_environment(out);
}

void man_command(FILE *out, const struct command *c)
{
	const struct option_row *row;

	put_title(out, c->name, c->purpose);
	fprintf(out, ".SH SYNOPSIS\n.B imgtool %s\n", c->name);
	put_synopsis(out, c);
	fputs(".SH DESCRIPTION\n", out);
	put_text(out, c->description);
	if (c->notes) {
		fputs(".PP\n", out);
		put_text(out, c->notes);
	}
	fputs(".SH OPTIONS\n", out);
	put_rows(out, c->options);
	put_row(out, &options_help_row);
	if (c == &io_command)
		put_io_commands(out);
	if (c == &create_command)
		put_create_options(out);
	put_other_rows(out, c);
	put_exit_status(out, c);
	for (row = c->options; !option_row_ends(row); row++)
		if (row->id == ARG_REFERENCES)
			put_environment(out);
	fputs(".SH SEE ALSO\n.BR imgtool (1)", out);
	if (c == &convert_command)
		fputs(",\n.BR imgtool\\-create (1)", out);
	putc('\n', out);
}

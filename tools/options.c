/*
 * Command lines by table: getopt_long() does the work, with arrays made of the rows; what it
 * complains about is worded as programs that call us know it.
 */
#include "tools/options.h"

#include <assert.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "tools/report.h"
#include "tools/suggest.h"

enum {
	MAX_ROWS = 64,
	ROW_BASE = 1024, /* what getopt_long() returns for a name: this and the number of its row */
	WIDTH = 80,	 /* columns of the help */
	MAX_LEFT = 30,	 /* columns of an option; what is longer has a line of its own */
};

const struct option_row options_help_row = OPTION(.letter = 'h', .name = "help",
						  .help = "print help and exit");

bool option_row_ends(const struct option_row *row)
{
	return !row->letter && !row->name && !(row->flags & OPTION_HEADING);
}

bool option_row_is_offered(const struct option_row *row)
{
	return !(row->flags & (OPTION_ALIAS | OPTION_REFUSED | OPTION_HEADING));
}

static int id_of(const struct option_row *row)
{
	return row->id ? row->id : row->letter;
}

const char *options_command_name(const struct command *c)
{
	return c->alone && !strcmp(program_name(), c->alone) ? NULL : c->name;
}

/* ---- Parsing ---- */

/* Of the command line that is being parsed, as getopt_long()'s own state is. */
static const struct option_row *rows[MAX_ROWS];
static struct option names[MAX_ROWS + 1];
static char letters[3 * MAX_ROWS + 2];
static int row_count, name_count;

static void add_row(const struct option_row *row, char **letter)
{
	int arguments = !row->metavar		       ? no_argument
			: row->flags & OPTION_OPTIONAL ? optional_argument
						       : required_argument;

	assert(row_count < MAX_ROWS);
	if (row->name)
		names[name_count++] = (struct option){ row->name, arguments, NULL,
						       ROW_BASE + row_count };
	if (row->letter) {
		*(*letter)++ = row->letter;
		for (int i = 0; i < arguments; i++) /* one colon: required, two: optional */
			*(*letter)++ = ':';
	}
	rows[row_count++] = row;
}

static void begin(struct options *o, const struct option_row *table, bool ends_at_operand, int argc,
		  char **argv)
{
	char *letter = letters;

	row_count = name_count = 0;
	if (ends_at_operand)
		*letter++ = '+';
	for (; !option_row_ends(table); table++)
		if (!(table->flags & OPTION_HEADING))
			add_row(table, &letter);
	if (o->command)
		add_row(&options_help_row, &letter);
	names[name_count] = (struct option){ 0 };
	*letter = '\0';
	o->argc = argc;
	o->argv = argv;
	optind = 0; /* begin anew, for another command line */
}

void options_begin(struct options *o, const struct command *command, int argc, char **argv)
{
	*o = (struct options){ .command = command };
	begin(o, command->options, command->ends_at_operand, argc, argv);
}

void options_begin_letters(struct options *o, const struct option_row *table, int argc, char **argv)
{
	*o = (struct options){ 0 };
	begin(o, table, false, argc, argv);
}

static const struct option_row *find_row(int opt)
{
	int i;

	if (opt >= ROW_BASE)
		return rows[opt - ROW_BASE];
	for (i = 0; i < row_count - 1 && rows[i]->letter != opt; i++)
		;
	return rows[i];
}

/* getopt_long() has said that there is no option of this name, or that it could be several. */
static void suggest_name(const char *text)
{
	size_t len = strcspn(text, "=");
	struct suggestion s;
	int i;

	suggest_begin(&s, text, len);
	for (i = 0; i < row_count; i++) {
		if (!rows[i]->name || !option_row_is_offered(rows[i]))
			continue;
		if (!strncmp(rows[i]->name, text, len))
			return;
		suggest_offer(&s, rows[i]->name);
	}
	suggest_print(&s, "--");
}

static int leave(struct options *o, int code)
{
	o->code = code;
	return OPTIONS_EXIT;
}

static int complain(struct options *o)
{
	const char *text = o->argv[optind - 1];

	if (!o->command)
		return leave(o, 1);
	if (!optopt && !strncmp(text, "--", 2))
		suggest_name(text + 2);
	return leave(o, report_try_help(options_command_name(o->command)));
}

static int refuse(struct options *o, const struct option_row *row)
{
	char text[MAX_LEFT];

	o->refused = true;
	if (row->letter)
		snprintf(text, sizeof(text), "-%c", row->letter);
	else
		snprintf(text, sizeof(text), "--%s", row->name);
	return leave(o, report_refusal(o->command ? options_command_name(o->command) : NULL, text,
				       row->help));
}

int options_next(struct options *o)
{
	int opt = names[0].name ? getopt_long(o->argc, o->argv, letters, names, NULL)
				: getopt(o->argc, o->argv, letters);
	const struct option_row *row;

	if (opt == -1) {
		o->operands = o->argv + optind;
		o->operand_count = o->argc - optind;
		return OPTIONS_END;
	}
	if (opt == '?')
		return complain(o);
	row = find_row(opt);
	if (row == &options_help_row) {
		options_print_help(o->command);
		return leave(o, 0);
	}
	if (row->flags & OPTION_REFUSED)
		return refuse(o, row);
	o->value = optarg;
	return id_of(row);
}

/* ---- Printing ---- */

void options_print_title(const struct command *c)
{
	const char *name = options_command_name(c);

	printf("%s%s%s", program_name(), name ? " " : "", name ? name : "");
}

void options_print_wrapped(const char *text, unsigned column, unsigned indent)
{
	unsigned at = column;
	bool first = true;

	while (*text) {
		size_t len = strcspn(text, " \n");

		if (!first && at + 1 + len > WIDTH) {
			printf("\n%*s", (int)indent, "");
			at = indent;
		} else if (!first) {
			putchar(' ');
			at++;
		}
		fwrite(text, 1, len, stdout);
		at += (unsigned)len;
		text += len;
		first = false;
		if (*text == '\n') {
			printf("\n%*s", (int)indent, "");
			at = indent;
			first = true;
		}
		text += *text != '\0';
	}
	putchar('\n');
}

/* "  -f, --format FORMAT"; the columns it has. */
static size_t format_left(const struct option_row *row, bool named, char *left, size_t size)
{
	bool optional = row->flags & OPTION_OPTIONAL;
	const char *before = !row->metavar ? "" : optional ? "[="
							   : " ";
	char letter[8] = "";

	if (row->letter)
		snprintf(letter, sizeof(letter), "-%c%s", row->letter, row->name ? ", " : "");
	return (size_t)snprintf(left, size, "  %-*s%s%s%s%s%s", named ? 4 : 0, letter,
				row->name ? "--" : "", row->name ? row->name : "", before,
				row->metavar ? row->metavar : "", row->metavar && optional ? "]" : "");
}

static bool has_names(const struct option_row *row)
{
	for (; !option_row_ends(row); row++)
		if (row->name)
			return true;
	return false;
}

static void print_row(const struct option_row *row, bool named, unsigned column)
{
	char left[80], help[512];
	size_t len = format_left(row, named, left, sizeof(left));

	if (len + 2 > column)
		printf("%s\n%*s", left, (int)column, "");
	else
		printf("%-*s", (int)column, left);
	snprintf(help, sizeof(help), "%s%s", row->help,
		 row->flags & OPTION_MANY ? " (can be given again)" : "");
	options_print_wrapped(help, column, column);
}

void options_print_rows(const struct option_row *table)
{
	bool named = has_names(table);
	const struct option_row *row;
	unsigned column = 0;
	char left[80];

	for (row = table; !option_row_ends(row); row++) {
		size_t len = format_left(row, named, left, sizeof(left)) + 2;

		if (option_row_is_offered(row) && len <= MAX_LEFT && len > column)
			column = (unsigned)len;
	}
	for (row = table; !option_row_ends(row); row++) {
		if (row->flags & OPTION_HEADING)
			printf("%s%s:\n", row == table ? "" : "\n", row->help);
		else if (option_row_is_offered(row))
			print_row(row, named, column);
	}
	if (named)
		print_row(&options_help_row, named, column);
}

/* A name alone that is short, so that "-cf" would be read as that, goes first, as is customary. */
void options_print_synopsis(const struct command *c)
{
	const struct option_row *row;
	const struct operand_row *operand;
	const char *gap = "";

	for (row = c->options; !option_row_ends(row); row++) {
		const char *before = !row->metavar		    ? ""
				     : row->flags & OPTION_OPTIONAL ? "[="
								    : " ";

		if (!option_row_is_offered(row))
			continue;
		printf("%s[", gap);
		if (row->letter)
			printf("-%c", row->letter);
		else
			printf("--%s", row->name);
		printf("%s%s%s]", before, row->metavar ? row->metavar : "",
		       *before == '[' ? "]" : "");
		gap = " ";
	}
	for (operand = c->operands; operand && operand->metavar; operand++, gap = " ")
		printf("%s%s%s%s%s", gap, operand->optional ? "[" : "", operand->metavar,
		       operand->many ? "..." : "", operand->optional ? "]" : "");
}

static void print_usage(const struct command *c)
{
	const struct operand_row *operand;

	fputs("Usage:\n  ", stdout);
	options_print_title(c);
	fputs(" [OPTIONS]", stdout);
	for (operand = c->operands; operand && operand->metavar; operand++)
		printf(" %s%s%s%s", operand->optional ? "[" : "", operand->metavar,
		       operand->many ? "..." : "", operand->optional ? "]" : "");
	puts("\n");
}

void options_print_help(const struct command *c)
{
	if (!c->name && !is_imgtool())
		print_version(); /* callers look for it in the first line */
	print_usage(c);
	options_print_wrapped(c->description, 0, 0);
	putchar('\n');
	if (!(c->options->flags & OPTION_HEADING))
		puts("Options:");
	options_print_rows(c->options);
	if (c->notes) {
		putchar('\n');
		options_print_wrapped(c->notes, 0, 0);
	}
	if (c->exit_status) {
		fputs("\nExit status: ", stdout);
		options_print_wrapped(c->exit_status, 13, 0);
	}
	if (c->print_more)
		c->print_more();
}

/* All commands, and the program's own options. */
#include <stdio.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/command.h"
#include "tools/report.h"

static const struct command *const commands[] = {
	&amend_command,
	&bench_command,
	&check_command,
	&commit_command,
	&compare_command,
	&convert_command,
	&create_command,
	&info_command,
	&io_command,
	&map_command,
	&measure_command,
	&rebase_command,
	&resize_command,
};

const struct command *command_at(size_t i)
{
	return i < sizeof(commands) / sizeof(commands[0]) ? commands[i] : NULL;
}

/* As many names to a line as fit. */
static void print_names(const char *(*name_at)(size_t i))
{
	size_t column = 0, i;
	const char *name;

	for (i = 0; (name = name_at(i)); i++) {
		size_t len = strlen(name) + 1;

		if (!column || column + len > 78) {
			fputs(column ? "\n " : " ", stdout);
			column = 1;
		}
		printf(" %s", name);
		column += len;
	}
	putchar('\n');
}

/*
 * What releases of qemu-img before 10.1 printed, on one line each: callers look there for what they
 * may use, for "convert ... -W", an option's name, a format.
 */
static void print_old_help(void)
{
	const struct command *c;
	const char *name;
	size_t i;

	puts("\nCommand syntax:");
	for (i = 0; (c = command_at(i)); i++) {
		printf("  %s ", c->name);
		options_print_synopsis(c);
		putchar('\n');
	}
	fputs("\nSupported formats:", stdout);
	for (i = 0; (name = img_format_at(i)); i++)
		printf(" %s", name);
	for (i = 0; (name = img_protocol_at(i)); i++)
		printf(" %s", name);
	putchar('\n');
}

static void print_commands(void)
{
	const struct command *c;
	size_t i;

	printf("\nCommands (%s COMMAND --help shows more about each):\n\n", program_name());
	for (i = 0; (c = command_at(i)); i++)
		printf("  %-8s %s\n", c->name, c->purpose);
	puts("\nSupported image formats:\n");
	print_names(img_format_at);
	puts("\nSupported protocols:\n");
	print_names(img_protocol_at);
	if (!is_imgtool())
		print_old_help();
}

static const struct option_row option_rows[] = {
	OPTION(.letter = 'V', .name = "version", .help = "print the version and exit"),
	OPTION(.letter = 'T', .name = "trace", .metavar = "TRACE", .flags = OPTION_REFUSED,
	       .help = "there are no trace events"),
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "COMMAND" },
	{ .metavar = "ARGUMENT", .optional = true, .many = true },
	{ 0 },
};

const struct command program_command = {
	.purpose = "virtual disk images",
	.description = "Read, write, convert, check and compare virtual disk images.",
	.options = option_rows,
	.operands = operand_rows,
	.print_more = print_commands,
	.ends_at_operand = true,
};

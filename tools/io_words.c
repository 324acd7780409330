/* io: reading commands. What is wrong with one is printed on standard output, where scripts look. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/io_commands.h"
#include "tools/report.h"

bool io_is_qemu_io(void)
{
	return !strcmp(program_name(), "qemu-io");
}

int io_command_usage(const struct io_command *c)
{
	printf("%s ", c->command.name);
	options_print_synopsis(&c->command);
	printf("%s-- %s\n", option_row_ends(c->command.options) && !c->command.operands ? "" : " ",
	       c->command.purpose);
	return 1;
}

bool io_parse_options(const struct io_command *c, int argc, char **argv, struct io_options *o)
{
	struct options options;
	int letter;

	*o = (struct io_options){ 0 };
	options_begin_letters(&options, c->command.options, argc, argv);
	while ((letter = options_next(&options)) != OPTIONS_END) {
		if (letter == OPTIONS_EXIT) {
			if (!options.refused)
				io_command_usage(c);
			return false;
		}
		if (letter == 'r' && io_is_qemu_io() && c->run != io_run_open) {
			report_refusal(NULL, "-r", "buffers are not registered; as `imgtool io` it takes a seed");
			return false;
		}
		o->given[letter & 127] = options.value ? options.value : "";
	}
	o->operands = options.operands;
	o->operand_count = options.operand_count;
	return true;
}

bool io_parse_size(const char *text, uint64_t *out)
{
	int rc = img_parse_size(text, out);

	if (rc == -EINVAL)
		printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- %s\n",
		       text);
	else if (rc || *out > INT64_MAX) {
		printf("Parsing error: argument too large -- %s\n", text);
		rc = -ERANGE;
	}
	return !rc;
}

bool io_parse_number(const char *text, uint64_t max, const char *what, uint64_t *out)
{
	uint64_t value;

	if (img_parse_number(text, &value) || value > max) {
		printf("%s is not a valid %s\n", text, what);
		return false;
	}
	*out = value;
	return true;
}

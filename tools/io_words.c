/* io: reading commands. What is wrong with one is said on standard output, where scripts look. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/io_commands.h"
#include "tools/say.h"
#include "tools/size.h"

bool io_is_qemu_io(void)
{
	return !strcmp(say_program(), "qemu-io");
}

int io_refuse(const char *option, const char *why)
{
	say_error("option '%s' is not supported: %s", option, why);
	return 1;
}

int io_command_usage(const struct io_command *c)
{
	printf("%s%s%s -- %s\n", c->name, *c->words ? " " : "", c->words, c->purpose);
	return 1;
}

/* Options of qemu-io's that cannot be honoured. */
static bool is_refused(const struct io_command *c, int letter)
{
	static const struct {
		char letter;
		const char *why;
	} refusals[] = {
		{ 'b', "the VM state is not accessible" },
		{ 'i', "no statistics of requests are kept" },
	};
	char option[] = { '-', (char)letter, '\0' };
	size_t i;

	for (i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++) {
		if (refusals[i].letter == letter && c->run != io_run_open) {
			io_refuse(option, refusals[i].why);
			return true;
		}
	}
	if (letter == 'r' && io_is_qemu_io() && c->run != io_run_open) {
		io_refuse(option, "buffers are not registered; as `imgtool io` it takes a seed");
		return true;
	}
	return false;
}

bool io_parse_options(const struct io_command *c, int argc, char **argv, struct io_options *o)
{
	int letter;

	*o = (struct io_options){ 0 };
	optind = 0; /* begin anew, for another command line */
	while ((letter = getopt(argc, argv, c->letters)) != -1) {
		if (letter == '?') {
			io_command_usage(c);
			return false;
		}
		if (is_refused(c, letter))
			return false;
		o->given[letter & 127] = optarg ? optarg : "";
	}
	return true;
}

bool io_parse_size(const char *text, uint64_t *out)
{
	int rc = size_parse(text, out);

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
	unsigned long long value;
	char *end;

	errno = 0;
	value = strtoull(text, &end, 0);
	if (!*text || *end || errno || strchr(text, '-') || value > max) {
		printf("%s is not a valid %s\n", text, what);
		return false;
	}
	*out = value;
	return true;
}

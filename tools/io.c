/*
 * io: reads, writes and the like on an image by script. The commands are io_commands.c's. Called
 * under the name qemu-io the program is this command alone.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/io_commands.h"
#include "tools/io_session.h"
#include "tools/open.h"
#include "tools/report.h"
#include "tools/suggest.h"

enum {
	GO_ON = -1,
	MAX_WORDS = 1 << 20, /* of one command; each may be a buffer */
};

struct io {
	struct io_session session;
	struct io_open how;
	struct args_list commands;
};

/* ---- Running commands ---- */

/* Can it be run now, with so many words after its name? False: no; reported. */
static bool may_run(const struct io_session *s, const struct io_command *c, const char *name,
		    int words)
{
	bool many = c->max_words == IO_MANY;

	if (!s->img && !(c->flags & IO_NEEDS_NO_IMAGE)) {
		fprintf(stderr, "no file open, try 'help open'\n");
		return false;
	}
	if (words < c->min_words || (!many && words > c->max_words)) {
		fprintf(stderr, "bad argument count %d to %s, expected ", words, name);
		if (many)
			fprintf(stderr, "at least %d arguments\n", c->min_words);
		else if (c->min_words == c->max_words)
			fprintf(stderr, "%d arguments\n", c->min_words);
		else
			fprintf(stderr, "between %d and %d arguments\n", c->min_words, c->max_words);
		return false;
	}
	if ((c->flags & IO_CHANGES_IMAGE) && !s->writable) {
		report_error("Block node is read-only");
		return false;
	}
	return true;
}

/* The words of a line, which is cut up; NULL past the last. NULL: no memory, or too many; reported. */
static char **cut_line(char *line, int *count)
{
	static const char blanks[] = " \t\r\n";
	char **words = NULL, **more, *rest = NULL, *word;
	int n = 0;

	for (word = strtok_r(line, blanks, &rest);; word = strtok_r(NULL, blanks, &rest)) {
		if (word && *word == '#')
			word = NULL;
		more = n < MAX_WORDS ? realloc(words, ((size_t)n + 1) * sizeof(*words)) : NULL;
		if (!more) {
			report_error(n < MAX_WORDS ? "out of memory" : "too many words in a command");
			free(words);
			return NULL;
		}
		words = more;
		words[n] = word;
		if (!word)
			break;
		n++;
	}
	*count = n;
	return words;
}

static void report_not_found(const char *name)
{
	const struct io_command *c;
	struct suggestion s;
	unsigned i;

	fprintf(stderr, "command \"%s\" not found\n", name);
	suggest_begin(&s, name, strlen(name));
	for (i = 0; (c = io_command_at(i)); i++)
		suggest_offer(&s, c->command.name);
	suggest_print(&s, "");
}

/* line is cut up. Returns the exit code. */
static int run_line(struct io_session *s, char *line)
{
	const struct io_command *c;
	int count, code = 0;
	char **words = cut_line(line, &count);

	if (!words)
		return 1;
	if (count) {
		c = io_command_find(words[0]);
		if (!c)
			report_not_found(words[0]);
		code = 1;
		if (c && may_run(s, c, words[0], count - 1))
			code = c->run(s, c, count, words);
		/* Whoever waits for it at the other end of a pipe gets it now, in order. */
		fflush(stdout);
	}
	free(words);
	return code;
}

static int run_given(struct io_session *s, const struct args_list *commands)
{
	int code = 0;
	char *line;
	size_t i;

	for (i = 0; i < commands->count && !s->quit; i++) {
		line = strdup(commands->items[i]);
		if (!line) {
			report_error("out of memory");
			return 1;
		}
		code |= run_line(s, line);
		free(line);
	}
	return code;
}

static int run_input(struct io_session *s)
{
	bool person = isatty(STDIN_FILENO);
	char *line = NULL;
	size_t size = 0;
	int code = 0;

	while (!s->quit) {
		if (person) {
			printf("%s> ", program_name());
			fflush(stdout);
		}
		errno = 0;
		if (getline(&line, &size, stdin) < 0)
			break;
		code |= run_line(s, line);
	}
	if (!s->quit && ferror(stdin)) {
		report_error("Could not read standard input: %s", strerror(errno));
		code = 1;
	} else if (person && !s->quit) {
		putchar('\n');
	}
	free(line);
	return code;
}

/* ---- The command line ---- */

static const struct option_row option_rows[] = {
	OPTION(.letter = 'c', .name = "cmd", .metavar = "COMMAND", .flags = OPTION_MANY,
	       .help = "run this"),
	OPTION_ROW_FORMAT("of the image"),
	OPTION_ROW_IMAGE_OPTS("FILE is a list KEY=VALUE,... instead of a name"),
	OPTION(.letter = 'r', .name = "read-only", .help = "open the image for reading only"),
	OPTION(.letter = 't', .name = "cache", .metavar = "MODE", .value = VALUE_CHOICE,
	       .choices = OPTIONS_CACHE_MODES,
	       .help = "writethrough (default), writeback, none, try-none (none where that is "
		       "possible), directsync or unsafe"),
	OPTION(.letter = 'n', .name = "nocache", .help = "the same as -t none"),
	OPTION(.letter = 'd', .name = "discard", .metavar = "MODE", .value = VALUE_CHOICE,
	       .choices = "unmap ignore",
	       .help = "unmap (default): what is discarded is given back; or ignore"),
	OPTION(.letter = 'i', .name = "aio", .metavar = "KIND", .value = VALUE_CHOICE,
	       .choices = "io_uring threads", .help = "io_uring or threads"),
	OPTION(.letter = 'U', .name = "force-share",
	       .help = "with -r: also if another program has it open for writing"),
	OPTION(.letter = 'm', .name = "misalign", .help = "buffers do not begin at a page"),
	OPTION_ROW_OBJECT,
	OPTION_ROW_REFERENCES,
	OPTION_ROW_FORCE,
	OPTION(.letter = 'V', .name = "version", .help = "print the version and exit"),
	OPTION(.letter = 's', .name = "snapshot", .flags = OPTION_REFUSED,
	       .help = "make an overlay with `create -b` and open that"),
	OPTION(.letter = 'C', .name = "copy-on-read", .flags = OPTION_REFUSED,
	       .help = "reading never writes"),
	OPTION(.letter = 'k', .name = "native-aio", .flags = OPTION_REFUSED,
	       .help = "there are -i io_uring and -i threads"),
	OPTION(.letter = 'T', .name = "trace", .metavar = "TRACE", .flags = OPTION_REFUSED,
	       .help = "there are no trace events"),
	{ 0 },
};

static const struct operand_row operand_rows[] = {
	{ .metavar = "FILE", .value = VALUE_FILE, .optional = true },
	{ 0 },
};

static int parse(struct io *io, int argc, char **argv)
{
	struct io_open *how = &io->how;
	struct options o;
	int opt;

	options_begin(&o, &io_command, argc, argv);
	while ((opt = options_next(&o)) != OPTIONS_END) {
		switch (opt) {
		case 'V':
			return print_version();
		case 'c':
			args_list_add(&io->commands, o.value);
			break;
		case 'f':
			how->format = o.value;
			break;
		case ARG_IMAGE_OPTS:
			how->image_opts = true;
			break;
		case 'r':
			how->read_only = true;
			break;
		case 't':
		case 'n':
			if (!io_parse_cache(opt == 'n' ? "none" : o.value, &how->flags))
				return 1;
			break;
		case 'd':
			if (!io_parse_discard(o.value, &how->flags))
				return 1;
			break;
		case 'i':
			if (!io_parse_aio(o.value, &how->io))
				return 1;
			break;
		case 'U':
			how->flags |= IMG_OPEN_SHARE;
			break;
		case 'm':
			io->session.misalign = true;
			break;
		case ARG_REFERENCES:
			how->references = o.value;
			break;
		case ARG_FORCE:
			io->session.force = true;
			break;
		case ARG_OBJECT:
			if (!open_add_object(o.value))
				return 1;
			break;
		case OPTIONS_EXIT:
			return o.code;
		}
	}
	how->name = o.operands[0];
	if (o.operand_count > 1)
		return report_usage(options_command_name(&io_command),
				    "Expecting at most one image file name");
	if (how->image_opts && how->format) {
		report_error("--image-opts and -f are mutually exclusive");
		return 1;
	}
	io->session.image_opts = how->image_opts;
	io->session.references = how->references;
	return GO_ON;
}

static int io_run(int argc, char **argv)
{
	struct io io = { .how = { .flags = IO_OPEN_DEFAULT } };
	struct io_session *s = &io.session;
	int code = parse(&io, argc, argv);

	if (code != GO_ON)
		goto out;
	code = io.how.name ? io_session_open(s, &io.how) : 0;
	if (!code) {
		code = io.commands.count ? run_given(s, &io.commands) : run_input(s);
		code |= io_session_close(s);
	}
out:
	args_list_free(&io.commands);
	return code;
}

static void print_commands(void)
{
	const struct io_command *c;
	unsigned i;

	puts("\nCommands (-c 'help COMMAND' shows more about each):\n");
	for (i = 0; (c = io_command_at(i)); i++)
		printf("  %-11s %s\n", c->command.name, c->command.purpose);
}

const struct command io_command = {
	.name = "io",
	.alone = "qemu-io",
	.purpose = "read, write and compare by script",
	.description = "Read, write, compare, discard: commands are given with -c, or come from "
		       "standard input, one to a line. A command that fails does not keep the next "
		       "from being run. In a line everything from a word that begins with '#' on is "
		       "a comment.",
	.options = option_rows,
	.operands = operand_rows,
	.exit_status = "0 all commands did what they should, 1 one of them failed.",
	.run = io_run,
	.print_more = print_commands,
};

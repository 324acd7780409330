/*
 * io: reads, writes and the like on an image by script. The commands are io_commands.c's. Called
 * under the name qemu-io the program is this command alone.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/image/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/io_commands.h"
#include "tools/io_session.h"
#include "tools/open.h"
#include "tools/say.h"

static const char help[] =
	" [OPTIONS] [FILE]\n\n"
	"Read, write, compare, discard: commands are given with -c, or come from standard input, one\n"
	"to a line. The exit code is 1 if one of them failed, which does not keep the next from being\n"
	"run. In a line everything from a word that begins with '#' on is a comment.\n\n"
	"Options:\n"
	"  -c, --cmd COMMAND        run this; can be given again\n"
	"  -f, --format FORMAT      of the image (default: found out by its content)\n"
	"      --image-opts         FILE is a list KEY=VALUE,... instead of a name\n"
	"  -r, --read-only          open the image for reading only\n"
	"  -t, --cache MODE         writethrough (default), writeback, none, directsync or unsafe\n"
	"  -n, --nocache            the same as -t none\n"
	"  -d, --discard MODE       unmap (default): what is discarded is given back; or ignore\n"
	"  -i, --aio KIND           io_uring or threads\n"
	"  -U, --force-share        with -r: also if another program has it open for writing\n"
	"  -m, --misalign           buffers do not begin at a page\n"
	"      --references POLICY  which files images may name: none, folder, any or DIR:DIR\n"
	"  -h, --help               print this and exit\n"
	"  -V, --version            print the version and exit\n\n"
	"Commands (-c 'help COMMAND' tells more about each):\n\n";

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

/* Can it be run now, with so many words after its name? False: no; said. */
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
		say_error("Block node is read-only");
		return false;
	}
	return true;
}

/* The words of a line, which is cut up; NULL past the last. NULL: no memory, or too many; said. */
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
			say_error(n < MAX_WORDS ? "out of memory" : "too many words in a command");
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
			fprintf(stderr, "command \"%s\" not found\n", words[0]);
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
			say_error("out of memory");
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
			printf("%s> ", say_program());
			fflush(stdout);
		}
		errno = 0;
		if (getline(&line, &size, stdin) < 0)
			break;
		code |= run_line(s, line);
	}
	if (!s->quit && ferror(stdin)) {
		say_error("Could not read standard input: %s", strerror(errno));
		code = 1;
	} else if (person && !s->quit) {
		putchar('\n');
	}
	free(line);
	return code;
}

/* ---- The command line ---- */

static int print_help(void)
{
	const struct io_command *c;
	unsigned i;

	printf("Usage:\n  %s%s%s", say_program(), io_is_qemu_io() ? "" : " io", help);
	for (i = 0; (c = io_command_at(i)); i++)
		printf("  %-11s %s\n", c->name, c->purpose);
	return 0;
}

static int try_help(void)
{
	return say_try_help(io_is_qemu_io() ? NULL : "io");
}

/* qemu-io's options that cannot be honoured. Returns 1. */
static int refuse(int opt)
{
	switch (opt) {
	case 's':
		return io_refuse("-s", "make an overlay with `create -b` and open that");
	case 'C':
		return io_refuse("-C", "reading never writes");
	case 'k':
		return io_refuse("-k", "there are -i io_uring and -i threads");
	default:
		return io_refuse("-T", "there are no trace events");
	}
}

static int parse(struct io *io, int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ "cmd", required_argument, NULL, 'c' },
		{ "format", required_argument, NULL, 'f' },
		{ "image-opts", no_argument, NULL, ARG_IMAGE_OPTS },
		{ "read-only", no_argument, NULL, 'r' },
		{ "cache", required_argument, NULL, 't' },
		{ "nocache", no_argument, NULL, 'n' },
		{ "discard", required_argument, NULL, 'd' },
		{ "aio", required_argument, NULL, 'i' },
		{ "force-share", no_argument, NULL, 'U' },
		{ "misalign", no_argument, NULL, 'm' },
		{ "references", required_argument, NULL, ARG_REFERENCES },
		{ "snapshot", no_argument, NULL, 's' },
		{ "copy-on-read", no_argument, NULL, 'C' },
		{ "native-aio", no_argument, NULL, 'k' },
		{ "trace", required_argument, NULL, 'T' },
		{ "object", required_argument, NULL, ARG_OBJECT },
		{ 0 },
	};
	struct io_open *how = &io->how;
	int opt;

	while ((opt = getopt_long(argc, argv, "hVc:f:rt:nd:i:UmsCkT:", options, NULL)) != -1) {
		switch (opt) {
		case 'h':
			return print_help();
		case 'V':
			return say_version();
		case 'c':
			args_list_add(&io->commands, optarg);
			break;
		case 'f':
			how->format = optarg;
			break;
		case ARG_IMAGE_OPTS:
			how->image_opts = true;
			break;
		case 'r':
			how->read_only = true;
			break;
		case 't':
		case 'n':
			if (!io_parse_cache(opt == 'n' ? "none" : optarg, &how->flags))
				return 1;
			break;
		case 'd':
			if (!io_parse_discard(optarg, &how->flags))
				return 1;
			break;
		case 'i':
			if (!io_parse_aio(optarg, &how->io))
				return 1;
			break;
		case 'U':
			how->flags |= IMG_OPEN_SHARE;
			break;
		case 'm':
			io->session.misalign = true;
			break;
		case ARG_REFERENCES:
			how->references = optarg;
			break;
		case ARG_OBJECT:
			if (!open_add_object(optarg))
				return 1;
			break;
		case '?':
			return try_help();
		default:
			return refuse(opt);
		}
	}
	if (optind < argc)
		how->name = argv[optind++];
	if (optind < argc) {
		say_error("Expecting at most one image file name");
		return try_help();
	}
	if (how->image_opts && how->format) {
		say_error("--image-opts and -f are mutually exclusive");
		return 1;
	}
	io->session.image_opts = how->image_opts;
	io->session.references = how->references;
	return GO_ON;
}

int io_run(int argc, char **argv)
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

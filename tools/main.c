/*
 * imgtool: virtual disk images on the command line. Called under the name qemu-img it stands in for
 * that program: its name in messages, its version, and its freedom about which files an image may
 * name; under the name qemu-io in the same way its command io does.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "libimg/image/img.h"
#include "tools/args.h"
#include "tools/command.h"
#include "tools/open.h"
#include "tools/say.h"

static const struct command {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *help;
} commands[] = {
	{ "bench", bench_run, "measure how fast an image answers" },
	{ "check", check_run, "look for damage in an image's own structures, and repair it" },
	{ "compare", compare_run, "tell whether two images hold the same disk" },
	{ "convert", convert_run, "copy images to a new one, of any format" },
	{ "create", create_run, "make a new image" },
	{ "info", info_run, "tell what an image is" },
	{ "io", io_run, "read, write and compare by script" },
	{ "map", map_run, "tell where an image's data lies" },
	{ "resize", resize_run, "make a disk larger or smaller" },
};

/* As many names to a line as fit. */
static void print_formats(void)
{
	size_t column = 0, i;
	const char *name;

	for (i = 0; (name = img_format_at(i)); i++) {
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

static int print_help(void)
{
	size_t i;

	printf("%s: virtual disk images\n\n"
	       "Usage:\n"
	       "  %s [-h | -V] COMMAND [OPTIONS AND FILES OF THE COMMAND]\n\n"
	       "Options:\n"
	       "  -h, --help     print this and exit\n"
	       "  -V, --version  print the version and exit\n\n"
	       "Commands (%s COMMAND --help tells more about each):\n\n",
	       say_program(), say_program(), say_program());
	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		printf("  %-8s %s\n", commands[i].name, commands[i].help);
	puts("\nSupported image formats:\n");
	print_formats();
	return 0;
}

/* What getopt_long() complains about begins with argv[0]: "PROGRAM COMMAND" there. */
static int run_command(int argc, char **argv)
{
	char name[64];
	size_t i;

	for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		if (strcmp(argv[0], commands[i].name))
			continue;
		snprintf(name, sizeof(name), "%s %s", say_program(), commands[i].name);
		argv[0] = name;
		optind = 0; /* begin anew, for another command line */
		return commands[i].run(argc, argv);
	}
	return say_usage(NULL, "Command not found: %s", argv[0]);
}

static int run(int argc, char **argv)
{
	static const struct option options[] = {
		{ "help", no_argument, NULL, 'h' },
		{ "version", no_argument, NULL, 'V' },
		{ "trace", required_argument, NULL, 'T' },
		{ 0 },
	};
	char name[32];
	int c;

	snprintf(name, sizeof(name), "%s", say_program());
	argv[0] = name;
	while ((c = getopt_long(argc, argv, "+hVT:", options, NULL)) != -1) {
		switch (c) {
		case 'h':
			return print_help();
		case 'V':
			return say_version();
		case 'T':
			say_error("option '-T' is not supported");
			return 1;
		default:
			return say_try_help(NULL);
		}
	}
	if (optind >= argc)
		return say_usage(NULL, "Not enough arguments");
	return run_command(argc - optind, argv + optind);
}

/* A split disk has hundreds of extents, each a file; where the usual 1024 are allowed, more may be. */
static void allow_many_files(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}

/*
 * A file opened under the number of standard output would be written to by printf(). What is meant
 * for a closed one is lost, which must not look like success: there writing fails.
 */
static void fill_standard_descriptors(void)
{
	for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++)
		if (fcntl(fd, F_GETFD) < 0)
			open("/dev/null", fd == STDOUT_FILENO ? O_RDONLY : O_RDWR);
}

/* A report that did not get through is a failure, even if the work was done. */
static int finish_output(int code)
{
	if (fflush(stdout) || ferror(stdout)) {
		say_error("Could not write to standard output: %s", strerror(errno));
		return code ? code : 1;
	}
	return code;
}

/* The program that the name we were called under is another's; NULL: it is ours. */
static const char *stands_in_for(const char *path)
{
	static const char *const others[] = { "qemu-img", "qemu-io" };
	const char *slash = strrchr(path, '/');
	size_t i;

	for (i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (!strcmp(slash ? slash + 1 : path, others[i]))
			return others[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const char *other = argc ? stands_in_for(argv[0]) : NULL;

	if (!argc)
		return 1;
	/* Each thread would else reserve 64 MiB of address space, which callers limit. */
	mallopt(M_ARENA_MAX, 2);
	allow_many_files();
	fill_standard_descriptors();
	/* A closed pipe, a file past its limit are errors like others: clean up first. */
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN);
	if (other) {
		say_set_program(other);
		/* Whoever set the variable meant it, whatever the program is called. */
		if (!getenv("LIBIMG_REFERENCES"))
			open_set_default_references("any");
	}
	if (other && !strcmp(other, "qemu-io"))
		return finish_output(io_run(argc, argv));
	return finish_output(run(argc, argv));
}

/*
 * imgtool: virtual disk images on the command line. Called under the name qemu-img it stands in for
 * that program: its name in messages, its version, and its freedom about which files an image may
 * name; under the name qemu-io in the same way its command io does.
 */
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "tools/command.h"
#include "tools/open.h"
#include "tools/report.h"
#include "tools/suggest.h"

/* What is complained about begins with argv[0]: "PROGRAM COMMAND" there. */
static int run_command(int argc, char **argv)
{
	const struct command *c;
	struct suggestion s;
	char name[64];
	size_t i;

	suggest_begin(&s, argv[0], strlen(argv[0]));
	for (i = 0; (c = command_at(i)); i++) {
		if (!strcmp(argv[0], c->name)) {
			snprintf(name, sizeof(name), "%s %s", program_name(), c->name);
			argv[0] = name;
			return c->run(argc, argv);
		}
		suggest_offer(&s, c->name);
	}
	report_error("Command not found: %s", argv[0]);
	suggest_print(&s, "");
	return report_try_help(NULL);
}

static int run(int argc, char **argv)
{
	char name[32];
	struct options o;

	snprintf(name, sizeof(name), "%s", program_name());
	argv[0] = name;
	options_begin(&o, &program_command, argc, argv);
	switch (options_next(&o)) {
	case 'V':
		return print_version();
	case OPTIONS_EXIT:
		return o.code;
	}
	if (!o.operand_count)
		return report_usage(NULL, "Not enough arguments");
	return run_command(o.operand_count, o.operands);
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
		report_error("Could not write to standard output: %s", strerror(errno));
		return code ? code : 1;
	}
	return code;
}

/* The program that the name we were called under is another's; NULL: it is ours. */
static const char *replaced_program(const char *path)
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
	const char *other = argc ? replaced_program(argv[0]) : NULL;
	int code;

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
		set_program_name(other);
		/* Whoever set the variable meant it, whatever the program is called. */
		if (!getenv("LIBIMG_REFERENCES"))
			open_set_default_references("any");
	}
	if (other && !strcmp(other, io_command.alone))
		code = io_command.run(argc, argv);
	else
		code = run(argc, argv);
	open_forget_objects();
	return finish_output(code);
}

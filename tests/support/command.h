/* Commands in a test's folder, and the programs that they need. */
#ifndef TESTS_SUPPORT_COMMAND_H
#define TESTS_SUPPORT_COMMAND_H

#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>

/* False, and said, where there is none. */
static inline bool have_qemu(void)
{
	static int have = -1;

	if (have < 0)
		have = !system("qemu-img --version >/dev/null 2>&1");
	if (!have)
		fprintf(stderr, "skipped: no qemu-img here\n");
	return have;
}

/* The exit code of a command in dir; what it says is in out.txt there. */
__attribute__((format(printf, 2, 0))) static inline int try_command(const char *dir, const char *fmt, va_list args)
{
	char command[1024], full[1200];
	int status;

	vsnprintf(command, sizeof(command), fmt, args);
	snprintf(full, sizeof(full), "cd %s && { %s; } >out.txt 2>&1", dir, command);
	status = system(full);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

__attribute__((format(printf, 2, 3))) static inline int try_in(const char *dir, const char *fmt, ...)
{
	va_list args;
	int code;

	va_start(args, fmt);
	code = try_command(dir, fmt, args);
	va_end(args);
	return code;
}

/* It must succeed. */
__attribute__((format(printf, 2, 3))) static inline void run_in(const char *dir, const char *fmt, ...)
{
	char show[128];
	va_list args;
	int code;

	va_start(args, fmt);
	code = try_command(dir, fmt, args);
	va_end(args);
	snprintf(show, sizeof(show), "cat %s/out.txt", dir);
	if (code && system(show))
		fprintf(stderr, "%s: no output\n", fmt);
	cr_assert_eq(code, 0, "%s: exit %d in %s", fmt, code, dir);
}

#endif

/* Messages on standard error; and the version. */
#include "tools/say.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "libimg/image/img.h"

static const char *program = "imgtool";

void say_set_program(const char *name)
{
	program = name;
}

const char *say_program(void)
{
	return program;
}

static void say_line(const char *kind, const char *fmt, va_list args)
{
	fprintf(stderr, "%s: %s", program, kind);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
}

void say_error(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say_line("", fmt, args);
	va_end(args);
}

void say_warning(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say_line("warning: ", fmt, args);
	va_end(args);
}

int say_try_help(const char *command)
{
	fprintf(stderr, "Try '%s %s%s--help' for more information\n", program,
		command ? command : "", command ? " " : "");
	return 1;
}

int say_usage(const char *command, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	say_line("", fmt, args);
	va_end(args);
	return say_try_help(command);
}

int say_refusal(const char *command, const char *option)
{
	fprintf(stderr, "%s %s: option '%s' is not supported\n", program, command, option);
	return 1;
}

int say_version(void)
{
	/* the release whose command line this one follows; callers look at it to know what they may use */
	static const char follows[] = "11.1.3";

	if (strcmp(say_program(), "imgtool"))
		printf("%s version %s (libimg %s)\n", say_program(), follows, img_version());
	else
		printf("imgtool version %s\n", img_version());
	return 0;
}

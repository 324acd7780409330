/* Messages on standard error; and the version. */
#include "tools/report.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/img.h"

static const char *program = "imgtool";

/* Callers of qemu-img know this in front of an image's name, and once more in front of the reason. */
static const char twice[] = "Could not open '";

void set_program_name(const char *name)
{
	program = name;
}

const char *program_name(void)
{
	return program;
}

bool is_imgtool(void)
{
	return !strcmp(program, "imgtool");
}

/* What stands in the arguments came from the command line, or from an image. */
static void put_printable(const char *fmt, va_list args)
{
	char *text, *shown = NULL;

	if (vasprintf(&text, fmt, args) < 0)
		text = NULL;
	else
		shown = img_printable(text);
	fputs(shown ? shown : "out of memory", stderr);
	fputc('\n', stderr);
	free(text);
	free(shown);
}

static void report_line(const char *kind, const char *fmt, va_list args)
{
	fprintf(stderr, "%s: %s", program, kind);
	put_printable(fmt, args);
}

void report_detail(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	put_printable(fmt, args);
	va_end(args);
}

void report_error(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	report_line("", fmt, args);
	va_end(args);
}

void report_warning(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	report_line("warning: ", fmt, args);
	va_end(args);
}

/* What is new in text to who has read subject: not the image's name once more. */
static const char *skip_repeated(const char *subject, const char *text)
{
	size_t len = strlen(subject);
	const char *end = strstr(text, ": ");
	char *name;

	if (!strncmp(text, subject, len) && !strncmp(text + len, ": ", 2))
		return is_imgtool() || strncmp(text, twice, strlen(twice)) ? text + len + 2
									   : text;
	if (!end || asprintf(&name, "'%.*s'", (int)(end - text), text) < 0)
		return text;
	if (strstr(subject, name) || !strncmp(subject, text, (size_t)(end - text) + 2))
		text = end + 2;
	free(name);
	return text;
}

/*
 * What callers know about a lock that somebody else holds: no file's name before it, and the hint on
 * a line of its own.
 */
static bool report_lock(const char *subject, const char *text)
{
	const char *file = strstr(text, twice), *lock = strstr(text, "Failed to get");
	const char *hint = strstr(text, ". Is another process using");

	if (!lock || !hint || lock > hint)
		return false;
	if (!file || file > lock)
		file = lock;
	report_error("%s: %.*s%.*s", subject, (int)(file - text), text, (int)(hint - lock), lock);
	report_detail("%s", hint + 2);
	return true;
}

static void report_about(const char *subject, const struct img_error *err)
{
	const char *text = skip_repeated(subject, img_error_text(err));
	size_t len = strcspn(text, "\n");

	if (img_error_code(err) == -EAGAIN && report_lock(subject, text))
		return;
	report_error("%s: %.*s", subject, (int)len, text);
	for (text += len; *text; text += len) {
		text++;
		len = strcspn(text, "\n");
		report_detail("%.*s", (int)len, text);
	}
}

void report_failure(const struct img_error *err, const char *subject, ...)
{
	char *text, *shown = NULL;
	va_list args;

	va_start(args, subject);
	if (vasprintf(&text, subject, args) < 0)
		text = NULL;
	else
		shown = img_printable(text);
	va_end(args);
	if (shown)
		report_about(shown, err);
	else
		report_error("%s", img_error_text(err));
	free(text);
	free(shown);
}

void print_escaped(const char *text)
{
	char *shown = img_printable(text);

	fputs(shown ? shown : "(out of memory)", stdout);
	free(shown);
}

int report_try_help(const char *command)
{
	fprintf(stderr, "Try '%s %s%s--help' for more information\n", program,
		command ? command : "", command ? " " : "");
	return 1;
}

int report_usage(const char *command, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	report_line("", fmt, args);
	va_end(args);
	return report_try_help(command);
}

int report_refusal(const char *command, const char *option, const char *why)
{
	fprintf(stderr, "%s%s%s: option '%s' is not supported: %s\n", program, command ? " " : "",
		command ? command : "", option, why);
	return 1;
}

/* What this build can unpack, and what not. */
static void print_codecs(void)
{
	const char *name, *missing;
	size_t i;

	printf("codecs:");
	for (i = 0; (name = img_codec_at(i, &missing)); i++)
		if (!missing)
			printf(" %s", name);
	putchar('\n');
	for (i = 0; (name = img_codec_at(i, &missing)); i++)
		if (missing)
			printf("no %s: %s\n", name, missing);
}

int print_version(void)
{
	/* the release whose command line this one follows; callers look at it to know what they may use */
	static const char follows[] = "11.1.3";

	if (is_imgtool()) {
		printf("imgtool version %s\n", img_version());
		print_codecs();
	} else {
		printf("%s version %s (libimg %s)\n", program_name(), follows, img_version());
	}
	return 0;
}

/*
 * What a driver's check() reports: lines, and defects, of which as many become lines as a person reads.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "libimg/engine/driver.h"

static void report(const struct img_check *c, const char *fmt, va_list args)
{
	char *line;

	if (!c->report)
		return;
	if (vasprintf(&line, fmt, args) < 0)
		line = NULL;
	c->report(c->user, line ? line : "out of memory");
	free(line);
}

void img_check_report(struct img_check *c, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	report(c, fmt, args);
	va_end(args);
}

static void list(struct img_check *c, const char *fmt, va_list args)
{
	if (c->quiet || c->defects_reported > IMG_CHECK_DEFECTS_MAX)
		return;
	if (c->defects_reported++ == IMG_CHECK_DEFECTS_MAX)
		img_check_report(c, "There are more defects; they are only counted");
	else
		report(c, fmt, args);
}

void img_check_list(struct img_check *c, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	list(c, fmt, args);
	va_end(args);
}

void img_check_defect(struct img_check *c, const char *fmt, ...)
{
	va_list args;

	c->result.corruptions++;
	va_start(args, fmt);
	list(c, fmt, args);
	va_end(args);
}

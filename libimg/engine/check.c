/*
 * What a driver's check() has to say.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "libimg/engine/driver.h"

void img_check_report(struct img_check *c, const char *fmt, ...)
{
	va_list args;
	char *line;

	if (!c->say)
		return;
	va_start(args, fmt);
	if (vasprintf(&line, fmt, args) < 0)
		line = NULL;
	va_end(args);
	c->say(c->user, line ? line : "out of memory");
	free(line);
}

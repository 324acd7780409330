/* A folder for a test's files, in $TMPDIR or /tmp. */
#ifndef TESTS_SUPPORT_SCRATCH_H
#define TESTS_SUPPORT_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>

enum { SCRATCH_PATH = 64 };

/* A template for mkdtemp() and the like: NAME-XXXXXX below it. False if it does not fit. */
static inline _Bool scratch_name(char path[SCRATCH_PATH], const char *name)
{
	const char *top = getenv("TMPDIR");

	if (!top || !*top)
		top = "/tmp";
	if (snprintf(path, SCRATCH_PATH, "%s/%s-XXXXXX", top, name) < SCRATCH_PATH)
		return 1;
	fprintf(stderr, "TMPDIR: '%s' is too long for these tests: with the names in it %d bytes at most\n",
		top, SCRATCH_PATH - 1);
	return 0;
}

static inline _Bool scratch_make(char path[SCRATCH_PATH], const char *name)
{
	return scratch_name(path, name) && mkdtemp(path);
}

static inline _Bool scratch_remove(const char *path)
{
	char command[SCRATCH_PATH + 16];

	snprintf(command, sizeof(command), "rm -rf '%s'", path);
	return system(command) == 0;
}

#endif

/* A folder for a test's files, in $TMPDIR or /tmp. */
#ifndef TESTS_SUPPORT_SCRATCH_H
#define TESTS_SUPPORT_SCRATCH_H

#include <stdio.h>
#include <stdlib.h>

enum { SCRATCH_PATH = 64 };

/* NAME-XXXXXX below it. False if it does not fit or cannot be made. */
static inline _Bool scratch_name(char path[SCRATCH_PATH], const char *name)
{
	const char *top = getenv("TMPDIR");

	return snprintf(path, SCRATCH_PATH, "%s/%s-XXXXXX", top && *top ? top : "/tmp", name) <
	       SCRATCH_PATH;
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

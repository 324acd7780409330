/* Standard input as an image. */
#include "tools/input.h"

#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/image/img.h"
#include "tools/args.h"
#include "tools/open.h"
#include "tools/say.h"

#define OPEN_FILE "/proc/self/fd/0"

bool input_is_named(const char *name)
{
	return !strcmp(name, "-");
}

/* Its real name, unless it has none any more: what an image names is sought in its folder. */
const char *input_path(void)
{
	static char path[PATH_MAX];
	struct stat mine, its;
	ssize_t len;

	if (fstat(STDIN_FILENO, &mine) || (!S_ISREG(mine.st_mode) && !S_ISBLK(mine.st_mode)))
		return NULL;
	len = readlink(OPEN_FILE, path, sizeof(path) - 1);
	if (len > 0) {
		path[len] = '\0';
		if (!stat(path, &its) && its.st_dev == mine.st_dev && its.st_ino == mine.st_ino)
			return path;
	}
	return OPEN_FILE;
}

struct img_input *input_open(const char *format, const uint64_t *size)
{
	struct img_error *err = args_memory(img_error_new());
	struct img_input *in = NULL;

	if (isatty(STDIN_FILENO))
		say_error("Could not open '-': Standard input is a terminal, allowed a pipe or a file");
	else if (img_input_open(STDIN_FILENO, "standard input", format, size, &in, err))
		say_failure(err, "Could not open '-'");
	img_error_free(err);
	return in;
}

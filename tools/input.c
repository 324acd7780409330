/* Standard input, or a pipe that has a name, as an image. */
#include "tools/input.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/open.h"
#include "tools/report.h"

#define OPEN_FILE "/proc/self/fd/0"

/* Of a pipe that was opened by its name; there is one at a time. */
static int opened = -1;

bool input_is_stdin(const char *name)
{
	return !strcmp(name, "-");
}

bool input_is_pipe(const char *name)
{
	struct stat st;

	if (input_is_stdin(name))
		return !input_path();
	return !stat(name, &st) && S_ISFIFO(st.st_mode);
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

struct img_source_image *input_open(const char *name, const char *format, const uint64_t *size)
{
	bool standard = input_is_stdin(name);
	struct img_error *err;
	struct img_source_image *in = NULL;

	if (standard && isatty(STDIN_FILENO)) {
		report_error("Could not open '-': Standard input is a terminal, expected a pipe or a "
			     "file");
		return NULL;
	}
	if (!standard)
		opened = open(name, O_RDONLY | O_CLOEXEC);
	if (!standard && opened < 0) {
		report_error("Could not open '%s': %s", name, strerrordesc_np(errno));
		return NULL;
	}
	err = args_memory(img_error_new());
	if (img_source_open(standard ? STDIN_FILENO : opened, standard ? "standard input" : name,
			    format, size, &in, err))
		report_failure(err, "Could not open '%s'", name);
	img_error_free(err);
	return in;
}

void input_close(struct img_source_image *in)
{
	img_source_close(in);
	if (opened >= 0)
		close(opened);
	opened = -1;
}

/*
 * Names found inside images: the input is a name. Whatever it is, under the policy "folder" it
 * leads to a file in the folder or below it, or nowhere; under "any" never into /proc.
 */
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/error.h"
#include "libimg/image/gate.h"
#include "tests/support/scratch.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static char folder[SCRATCH_PATH], image[SCRATCH_PATH + 16];
static struct img_gate *in_folder, *anywhere;

/* libFuzzer leaves by exit(). */
static void leave(void)
{
	if (!scratch_remove(folder))
		perror("gate_fuzz");
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	char command[256];

	(void)argc;
	(void)argv;
	if (!scratch_make(folder, "img-gate-fuzz"))
		abort();
	snprintf(command, sizeof(command),
		 "cd %s; mkdir d; echo b > base; echo d > d/deep;"
		 "ln -s ../.. d/up; ln -s /etc e; ln -s /proc p; ln -s d l; ln -s loop loop;"
		 "mkfifo f",
		 folder);
	snprintf(image, sizeof(image), "%s/image", folder);
	if (system(command) || img_gate_new("folder", &in_folder, NULL) ||
	    img_gate_new("any", &anywhere, NULL))
		abort();
	atexit(leave);
	return 0;
}

static void ask(const struct img_gate *gate, const char *name, const char *below)
{
	struct img_gate_file file;
	char link[64], path[PATH_MAX];
	struct img_error err = { 0 };
	ssize_t n;

	if (img_gate_open(gate, image, name, "backing file", false, &file, &err)) {
		if (!err.code || !*img_error_text(&err))
			abort();
		img_error_clear(&err);
		return;
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", file.fd);
	n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		abort();
	path[n] = '\0';
	if (strncmp(path, below, strlen(below)) || !strncmp(path, "/proc/", 6))
		abort();
	close(file.fd);
	img_gate_file_free(&file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	char *name = malloc(len + 1), below[sizeof(folder) + 1];

	if (!name)
		return 0;
	memcpy(name, data, len);
	name[len] = '\0';
	snprintf(below, sizeof(below), "%s/", folder);
	ask(in_folder, name, below);
	ask(anywhere, name, "/");
	free(name);
	return 0;
}

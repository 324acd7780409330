/*
 * The images in tests/data/qcow2, unpacked into a folder, and what the manifest says of them: for
 * tests that need images by somebody else, but not qemu-img.
 */
#ifndef TESTS_QCOW2_FIXTURES_H
#define TESTS_QCOW2_FIXTURES_H

#include <dirent.h>
#include <zstd.h>

#include "tests/formats/qcow2/memory.h"

#define FIXTURES "tests/data/qcow2"

struct fixture {
	char name[40];
	uint64_t bytes;	  /* of the guest */
	char sha256[65];  /* of what it reads */
	char verdict[16]; /* qemu-img check's */
};

enum { FIXTURES_MAX = 64 };

/* All that the manifest has; returns how many. */
static inline size_t fixtures(struct fixture *out)
{
	FILE *f = fopen(FIXTURES "/MANIFEST.tsv", "r");
	char line[256];
	size_t n = 0;

	cr_assert(f, "to be run in the top folder");
	while (fgets(line, sizeof(line), f)) {
		if (line[0] == '#')
			continue;
		cr_assert_lt(n, FIXTURES_MAX);
		cr_assert_eq(sscanf(line, "%39s %" SCNu64 " %64s %15s", out[n].name, &out[n].bytes,
				    out[n].sha256, out[n].verdict),
			     4, "%s", line);
		n++;
	}
	fclose(f);
	cr_assert_gt(n, 20);
	return n;
}

/* NAME.zst in the tests' data, unpacked. */
static inline struct file unpack_fixture(const char *name)
{
	struct file packed, file;
	char path[300];

	snprintf(path, sizeof(path), "%s/%s.zst", FIXTURES, name);
	packed = load_file(path);
	file.len = ZSTD_getFrameContentSize(packed.bytes, packed.len);
	cr_assert_leq(file.len, FILE_LIMIT, "%s", path);
	file.bytes = malloc(file.len ? file.len : 1);
	cr_assert(file.bytes);
	cr_assert_eq(ZSTD_decompress(file.bytes, file.len, packed.bytes, packed.len), file.len);
	free(packed.bytes);
	return file;
}

/* All of them in b's folder, which start() made. */
static inline void unpack_fixtures(const struct bench *b)
{
	DIR *dir = opendir(FIXTURES);

	cr_assert(dir);
	for (struct dirent *d; (d = readdir(dir));) {
		size_t len = strlen(d->d_name);
		char name[256], path[400];
		struct file file;

		if (len < 5 || strcmp(d->d_name + len - 4, ".zst") != 0)
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(len - 4), d->d_name);
		file = unpack_fixture(name);
		snprintf(path, sizeof(path), "%s/%s", b->dir, name);
		write_file(path, file.bytes, file.len);
		free(file.bytes);
	}
	closedir(dir);
}

#endif

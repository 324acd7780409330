/*
 * Whole images: the input is a file in memory, opened as what it seems to be and then as each
 * format. It may be refused, but in words; what opens is asked for its report, mapped, read and
 * checked. Nothing that it names may be opened.
 */
#include <stdio.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/image/context.h"

enum {
	READ_BYTES = 64 << 10,
	READS = 16, /* extents that are read, the others are only mapped */
	MAPS = 256, /* extents that are mapped at most */
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "image_fuzz: %s\n", what);
		abort();
	}
}

static void walk(struct img *img, struct img_error *err)
{
	static uint8_t buf[READ_BYTES];
	uint64_t size = img_size(img), off = 0;

	must(size % 512 == 0 || size < UINT64_MAX / 2, "the size is out of range");
	for (int i = 0; i < MAPS && off < size; i++) {
		struct img_map_entry entry;

		if (img_map(img, off, size - off, true, &entry, err)) {
			must(*img_error_text(err), "map: refused without a word");
			entry.length = 512 - off % 512;
		}
		must(entry.length > 0 && entry.length <= round_up_u64(size - off, 512),
		     "map: the length is out of range");
		if (i < READS) {
			size_t n = (size_t)min_u64(min_u64(entry.length, READ_BYTES), size - off);

			if (img_read(img, off, buf, n, err))
				must(*img_error_text(err), "read: refused without a word");
		}
		off += min_u64(entry.length, size - off);
	}
	if (size >= 512 && img_read(img, size - 512, buf, 512, err))
		must(*img_error_text(err), "read: refused without a word");
}

static void ignore(void *user, const char *line)
{
	(void)user;
	must(line[0], "check: an empty line");
}

static void open_as(const uint8_t *data, size_t len, const char *format, unsigned flags)
{
	struct img_open_options options = {
		.format = format,
		.flags = flags | IMG_OPEN_NO_BACKING,
		.references = "none",
		.io = IMG_IO_THREADS,
	};
	struct img_error *err = img_error_new();
	struct img_check_result result;
	struct img_value *report = NULL;
	struct img_storage *s;
	struct img *img = NULL;

	must(img_storage_memory("input", 0, 1ull << 40, &s) == 0, "no memory");
	must(len == 0 || img_storage_write(s, 0, data, len, NULL) == 0, "no memory");
	if (img_open_storage(s, "/nowhere/input", &options, &img, err)) {
		must(*img_error_text(err) && img_error_code(err) < 0, "refused without a word");
		goto out;
	}
	if (img_info(img, &report, err) == 0)
		img_value_free(report);
	if (!(flags & IMG_OPEN_SELF_ONLY)) {
		walk(img, err);
		img_check(img, flags & IMG_OPEN_WRITE ? IMG_REPAIR_ALL : 0, ignore, NULL,
			  &result, err);
	}
	img_close(img, err);
out:
	img_error_free(err);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	const char *format;

	open_as(data, len, NULL, IMG_OPEN_SELF_ONLY);
	open_as(data, len, NULL, 0);
	for (size_t i = 0; (format = img_format_at(i)); i++) {
		open_as(data, len, format, 0);
		open_as(data, len, format, IMG_OPEN_WRITE | IMG_OPEN_CHECK);
	}
	return 0;
}

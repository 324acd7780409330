/*
 * An image from a pipe, of any bytes. The first byte: 1: a raw disk, else a VMDK; 2: it is copied
 * by the whole job, else the format's reader alone is asked for all units, each of which is unpacked;
 * 4: its size is said beforehand.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/image/context.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum {
	DISK_MAX = 16 << 20, /* that is copied */
	UNPACKED_MAX = 64 << 20,
};

struct feed {
	struct img_byte_reader reader;
	const uint8_t *bytes;
	size_t left;
};

static int feed_read(struct img_byte_reader *in, void *buf, size_t len, size_t *got,
		     struct img_error *err)
{
	struct feed *f = (struct feed *)in;

	(void)err;
	*got = min_size(len, f->left);
	memcpy(buf, f->bytes, *got);
	f->bytes += *got;
	f->left -= *got;
	in->taken += *got;
	return 0;
}

static void read_all(const char *format, const uint8_t *bytes, size_t len, bool sized)
{
	struct feed f = { .reader = { .name = "fuzz", .read = feed_read }, .bytes = bytes, .left = len };
	const struct img_driver *d = img_driver_named(format);
	struct img_source_unit u;
	struct img_source *s;
	uint8_t *stored, *unit;
	uint64_t unpacked = 0, next = 0;

	f.reader.sized = sized;
	f.reader.size = len;
	if (d->source(&f.reader, &s, NULL))
		return;
	assert(is_pow2_u64(s->unit_bytes) && s->unit_bytes >= 512);
	stored = malloc(s->stored_max);
	unit = malloc(s->unit_bytes);
	if (!stored || !unit)
		abort();
	while (unpacked < UNPACKED_MAX && !s->next(s, &u, NULL) && u.stored_bytes) {
		assert(u.stored_bytes <= s->stored_max && u.bytes && u.bytes <= s->unit_bytes &&
		       u.bytes % 512 == 0 && u.off % s->unit_bytes == 0);
		assert(!s->sized || range_in(u.off, u.bytes, s->size));
		assert(!s->plain || u.off == next);
		assert(u.codec || u.stored_bytes <= u.bytes);
		if (s->load(s, stored, NULL))
			break;
		if (u.codec)
			u.codec->decode(stored, u.stored_bytes, unit, u.bytes, NULL);
		next = u.off + u.bytes;
		unpacked += u.bytes;
	}
	s->free(s);
	free(stored);
	free(unit);
}

/* A disk that was copied to the end is one that can be read. */
static void copy(const char *format, const uint8_t *bytes, size_t len)
{
	struct img_open_options raw = { .format = "raw",
					.flags = IMG_OPEN_WRITE,
					.io = IMG_IO_THREADS };
	struct img_copy_options how = { .parallel = 1,
					.target_is_zero = true,
					.resize_target = true,
					.io = IMG_IO_THREADS };
	struct img_source_image *in = NULL;
	struct img_storage *s;
	struct img *img = NULL;
	uint64_t size;
	int fd = memfd_create("fuzz", 0);

	if (fd < 0 || write(fd, bytes, len) != (ssize_t)len || lseek(fd, 0, SEEK_SET))
		abort();
	if (!img_source_open(fd, "fuzz", format, NULL, &in, NULL) &&
	    (!img_source_size(in, &size) || size <= DISK_MAX)) {
		if (img_storage_memory("target", size, DISK_MAX, &s) ||
		    img_open_storage(s, "target", &raw, &img, NULL))
			abort();
		if (!img_copy_source(in, img, &how, NULL) && !size)
			assert(img_size(img) == round_up_u64(len, 512) || strcmp(format, "raw") != 0);
	}
	img_close(img, NULL);
	img_source_close(in);
	close(fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *format;

	if (!size)
		return 0;
	format = data[0] & 1 ? "raw" : "vmdk";
	if (data[0] & 2)
		copy(format, data + 1, size - 1);
	else
		read_all(format, data + 1, size - 1, data[0] & 4);
	return 0;
}

/* io: what requests write, and what reads are compared with. */
#ifndef TOOLS_IO_CONTENT_H
#define TOOLS_IO_CONTENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum io_content_kind {
	IO_CONTENT_BYTE,   /* one byte over and over */
	IO_CONTENT_RANDOM, /* of a seed and the offset in the disk alone */
	IO_CONTENT_FILE,   /* a file's bytes, again and again from the request's begin on */
};

struct io_content {
	enum io_content_kind kind;
	uint8_t byte;
	uint64_t seed;
	const char *path; /* borrowed */
	int fd;
	uint64_t file_bytes; /* 0: no plain file; its bytes come once, in order */
};

/* False: the file cannot be read, or is empty; reported. Close it in the end. */
bool io_content_open_file(struct io_content *c, const char *path);
void io_content_close(struct io_content *c); /* all kinds */

/*
 * The n bytes for offset off of the disk, at bytes behind the begin of the request. Where
 * file_bytes is 0 calls come in order. False: the file cannot be read; reported.
 */
bool io_content_fill(const struct io_content *c, uint64_t off, uint64_t at, uint8_t *buf, size_t n);

/* Where bytes are not what they should be. Zero-initialise. */
struct io_difference {
	uint64_t count; /* of bytes; 0: none, and no other field is set */
	uint64_t off;	/* of the first, in the disk */
	uint8_t found, wanted;
};
/* Add to d how buf differs from what io_content_fill() gives. False: as there. */
bool io_content_compare(const struct io_content *c, uint64_t off, uint64_t at, const uint8_t *buf,
			size_t n, struct io_difference *d);

#endif

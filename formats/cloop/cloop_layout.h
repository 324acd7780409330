/*
 * Bytes of cloop images: spec/cloop.md.
 */
#ifndef FORMATS_CLOOP_LAYOUT_H
#define FORMATS_CLOOP_LAYOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"

enum {
	CLOOP_HEADER_BYTES = 136, /* at the front; of version 4 it may be at the end instead */
	CLOOP_OFFSET_BYTES = 8,
};

/* What QEMU takes, and the engine decodes. */
#define CLOOP_BLOCK_BYTES_MAX (UINT32_C(64) << 20)

struct cloop_header {
	unsigned version;     /* 2 or 4 */
	uint32_t block_bytes; /* a multiple of 512 */
	uint32_t blocks;
};

/* How a block is stored: the flags of its offset in version 4; always zlib in version 2. */
enum cloop_kind {
	CLOOP_ZLIB,
	CLOOP_PLAIN,
	CLOOP_XZ,
	CLOOP_LZ4,
	CLOOP_LZO,
};

struct cloop_offset {
	uint64_t off;  /* bytes from the start of the file */
	unsigned kind; /* enum cloop_kind, or another number up to 15 */
};

/* Does a header begin at bytes? Not at all: 0; of a version that is known: its number; else: 1. */
unsigned cloop_header_version(const uint8_t *bytes, size_t len);
/* The same by all of the text that headers begin with, since others may have a version there, too. */
bool cloop_is_script(const uint8_t *bytes, size_t len);
/* Is the file one of cloop 3's alpha releases? tail: its last 8 bytes. */
bool cloop_is_alpha(const uint8_t tail[8]);
/*
 * CLOOP_HEADER_BYTES. -EMEDIUMTYPE; -ENOTSUP: another version; -EUCLEAN. The error's text begins with the
 * field.
 */
int cloop_parse_header(const uint8_t *bytes, size_t len, struct cloop_header *out, struct img_error *err);
struct cloop_offset cloop_parse_offset(const struct cloop_header *h, const uint8_t bytes[CLOOP_OFFSET_BYTES]);

/* The offsets: one for each block, and the last one's end. */
static inline uint64_t cloop_table_bytes(const struct cloop_header *h)
{
	return ((uint64_t)h->blocks + 1) * CLOOP_OFFSET_BYTES;
}

#endif

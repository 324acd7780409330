/*
 * Headers and offsets of cloop images.
 */
#include "formats/cloop/cloop_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	SECTOR = 512,
	OFF_VERSION = 11, /* behind "#!/bin/sh\n#" */
	OFF_BLOCK_BYTES = 128,
	OFF_BLOCKS = 132,
	KIND_SHIFT = 60, /* version 4: of an offset's upper bits */
};

unsigned cloop_header_version(const uint8_t *bytes, size_t len)
{
	const uint8_t *version = bytes + OFF_VERSION;

	if (len < CLOOP_HEADER_BYTES || version[0] != 'V' || version[2] != '.' || version[3] != '0')
		return 0;
	return version[1] == '2' ? 2 : version[1] == '4' ? 4
							 : 1;
}

bool cloop_is_script(const uint8_t *bytes, size_t len)
{
	static const char before[] = "#!/bin/sh\n#", after[] = " Format\n";

	return cloop_header_version(bytes, len) && !memcmp(bytes, before, strlen(before)) &&
	       !memcmp(bytes + OFF_VERSION + 4, after, strlen(after));
}

bool cloop_is_alpha(const uint8_t tail[8])
{
	return !memcmp(tail, "\nCLOOP3\n", 8);
}

int cloop_parse_header(const uint8_t *bytes, size_t len, struct cloop_header *out, struct img_error *err)
{
	struct cloop_header h = { .version = cloop_header_version(bytes, len) };

	if (!h.version)
		return img_fail(err, -EMEDIUMTYPE, "not a cloop image");
	if (h.version == 1)
		return img_fail(err, -ENOTSUP, "version is V%c.0, expected V2.0 or V4.0",
				bytes[OFF_VERSION + 1]);
	h.block_bytes = be32_load(bytes + OFF_BLOCK_BYTES);
	h.blocks = be32_load(bytes + OFF_BLOCKS);
	if (!h.block_bytes || h.block_bytes % SECTOR || h.block_bytes > CLOOP_BLOCK_BYTES_MAX)
		return img_fail(err, -EUCLEAN,
				"block size is %" PRIu32 ", expected a multiple of %d up to %" PRIu32,
				h.block_bytes, SECTOR, CLOOP_BLOCK_BYTES_MAX);
	*out = h;
	return 0;
}

struct cloop_offset cloop_parse_offset(const struct cloop_header *h, const uint8_t bytes[CLOOP_OFFSET_BYTES])
{
	uint64_t word = be64_load(bytes);

	if (h->version == 2)
		return (struct cloop_offset){ .off = word, .kind = CLOOP_ZLIB };
	return (struct cloop_offset){ .off = word & ((UINT64_C(1) << KIND_SHIFT) - 1),
				      .kind = (unsigned)(word >> KIND_SHIFT) };
}

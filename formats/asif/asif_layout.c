/*
 * Headers and entries of Apple sparse images.
 */
#include "formats/asif/asif_layout.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	VERSION = 1,
	OFF_VERSION = 4,
	OFF_HEADER_BYTES = 8,
	OFF_DIRECTORIES = 16,
	OFF_GUID = 32,
	OFF_SECTORS = 48,
	OFF_SECTORS_MAX = 56,
	OFF_CHUNK_BYTES = 64,
	OFF_BLOCK_BYTES = 68,
	CHUNK_BITS = 55, /* of an entry: the rest is flags */
	STATUS_SHIFT = 62,
	TABLES_MAX = 1 << 22, /* Apple's go up to 4 PiB, with 33,000 */
	CHUNK_BYTES_MIN = 64 << 10,
	CHUNK_BYTES_MAX = 64 << 20,
};

bool asif_is_asif(const uint8_t *head, size_t len)
{
	return len >= ASIF_HEADER_BYTES && !memcmp(head, "shdw", 4);
}

static int check_sizes(struct asif_header *h, uint64_t sectors, uint64_t sectors_max, struct img_error *err)
{
	uint64_t words;

	if (h->block_bytes != 512 && h->block_bytes != 4096)
		return img_fail(err, -ENOTSUP, "block size is %" PRIu32 ", expected 512 or 4096", h->block_bytes);
	if (!is_pow2_u64(h->chunk_bytes) || h->chunk_bytes < CHUNK_BYTES_MIN ||
	    h->chunk_bytes > CHUNK_BYTES_MAX)
		return img_fail(err, -ENOTSUP, "chunk size is %" PRIu32 ", expected a power of two from %d to %d",
				h->chunk_bytes, CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
	if (sectors > sectors_max || sectors_max > INT64_MAX / h->block_bytes)
		return img_fail(err, -EUCLEAN,
				"blocks is %" PRIu64 " of at most %" PRIu64 ", expected up to %" PRIu64, sectors,
				sectors_max, INT64_MAX / h->block_bytes);
	h->size = sectors * h->block_bytes;
	h->size_max = sectors_max * h->block_bytes;
	/* A bitmap is one chunk, and has two bits for each block. */
	h->group_chunks = UINT64_C(4) * h->block_bytes;
	words = h->chunk_bytes / ASIF_ENTRY_BYTES;
	h->table_chunks = words / (h->group_chunks + 1) * h->group_chunks;
	if (!h->table_chunks)
		return img_fail(err, -ENOTSUP,
				"chunk size is %" PRIu32 ", expected at least %" PRIu64 ", a table of one group",
				h->chunk_bytes, (h->group_chunks + 1) * ASIF_ENTRY_BYTES);
	return 0;
}

int asif_parse_header(const uint8_t *bytes, size_t len, struct asif_header *out, struct img_error *err)
{
	struct asif_header h;
	uint64_t directory_bytes;
	int rc;

	if (!asif_is_asif(bytes, len))
		return img_fail(err, -EMEDIUMTYPE, "not an Apple sparse image");
	if (be32_load(bytes + OFF_VERSION) != VERSION)
		return img_fail(err, -ENOTSUP, "version is %" PRIu32 ", expected %d", be32_load(bytes + OFF_VERSION),
				VERSION);
	if (be32_load(bytes + OFF_HEADER_BYTES) < ASIF_HEADER_BYTES)
		return img_fail(err, -EUCLEAN, "header size is %" PRIu32 ", expected at least %d",
				be32_load(bytes + OFF_HEADER_BYTES), ASIF_HEADER_BYTES);
	h.chunk_bytes = be32_load(bytes + OFF_CHUNK_BYTES);
	h.block_bytes = be16_load(bytes + OFF_BLOCK_BYTES);
	memcpy(h.guid, bytes + OFF_GUID, IMG_GUID_BYTES);
	rc = check_sizes(&h, be64_load(bytes + OFF_SECTORS), be64_load(bytes + OFF_SECTORS_MAX),
			 err);
	if (rc)
		return rc;
	if (asif_table_count(&h) > TABLES_MAX)
		return img_fail(err, -ENOTSUP, "blocks is at most %" PRIu64 ", which takes %" PRIu64 " tables, expected up to %d",
				h.size_max / h.block_bytes, asif_table_count(&h), TABLES_MAX);
	directory_bytes = (1 + asif_table_count(&h)) * ASIF_ENTRY_BYTES;
	for (size_t i = 0; i < ASIF_DIRECTORIES; i++) {
		h.directory_off[i] = be64_load(bytes + OFF_DIRECTORIES + 8 * i);
		if (h.directory_off[i] < ASIF_HEADER_BYTES ||
		    h.directory_off[i] % ASIF_ENTRY_BYTES ||
		    h.directory_off[i] > INT64_MAX - directory_bytes)
			return img_fail(err, -EUCLEAN,
					"offset of directory %zu is %" PRIu64 ", expected a multiple of %d from %d on", i,
					h.directory_off[i], ASIF_ENTRY_BYTES, ASIF_HEADER_BYTES);
	}
	*out = h;
	return 0;
}

struct asif_entry asif_parse_entry(const uint8_t bytes[ASIF_ENTRY_BYTES])
{
	uint64_t word = be64_load(bytes);

	return (struct asif_entry){
		.status = (enum asif_status)(word >> STATUS_SHIFT),
		.chunk = word & ((UINT64_C(1) << CHUNK_BITS) - 1),
		.reserved = (unsigned)(word >> CHUNK_BITS &
				       ((1 << (STATUS_SHIFT - CHUNK_BITS)) - 1)),
	};
}

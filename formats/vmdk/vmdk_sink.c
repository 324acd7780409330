/*
 * streamOptimized disks, written from front to end: spec/vmdk.md, "Writing streams".
 *
 * header | descriptor | [grains of a table | its marker | the table]... | directory's marker |
 * directory | footer's marker | footer | end marker
 *
 * The header says that the directory is named by the footer, so nothing is ever gone back to.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_parameters.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	DESCRIPTOR_SECTORS = 20,
	OVERHEAD_SECTORS = 32, /* the first grain's place; grains of streams lie anywhere */
	/*
	 * The least of libdeflate's levels that gives no larger disks than zlib's default, with which
	 * others write them: 0.5 to 3% smaller in well under half the time. Streams are made to be
	 * sent.
	 */
	LEVEL = 6,
};

struct stream {
	struct img_sink base;
	struct img_byte_writer *to;
	uint64_t capacity; /* bytes */
	uint64_t next;	   /* the lowest guest offset that may be put now */
	uint64_t tables, table;
	bool filled; /* the table at hand has a grain */
	uint32_t *directory;
	uint8_t *buf; /* a grain with marker and padding */
	uint8_t entries[VMDK_TABLE_SECTORS * VMDK_SECTOR];
};

enum {
	/* Other readers' bound of a compressed grain, and the buffer for one. */
	COMPRESSED_MAX = 2 * VMDK_GRAIN_BYTES - VMDK_GRAIN_MARKER_BYTES,
	BUF_BYTES = 2 * VMDK_GRAIN_BYTES + VMDK_SECTOR,
};

/*
 * The header's capacity is one of whole grains, as VirtualBox has it: open-vmdk's tool never ends on
 * another. The exact size is in the descriptor.
 */
static struct vmdk_header header_of(const struct stream *s)
{
	return (struct vmdk_header){
		.capacity = round_up_u64(s->capacity, VMDK_GRAIN_BYTES) / VMDK_SECTOR,
		.descriptor = 1,
		.descriptor_sectors = DESCRIPTOR_SECTORS,
		.directory = VMDK_DIRECTORY_AT_END,
		.overhead = OVERHEAD_SECTORS,
		.stream = true,
	};
}

/* The sector that the next byte goes to; entries have 32 bits for it. */
static int here(const struct stream *s, uint32_t *sector, struct img_error *err)
{
	uint64_t n = s->to->written / VMDK_SECTOR;

	if (n > UINT32_MAX)
		return img_fail(err, -EFBIG,
				"the output has %" PRIu64 " bytes, a streamOptimized VMDK at most "
				"%" PRIu64,
				s->to->written, (uint64_t)UINT32_MAX * VMDK_SECTOR);
	*sector = (uint32_t)n;
	return 0;
}

static int write_marker(struct stream *s, uint32_t type, uint64_t sectors, struct img_error *err)
{
	uint8_t marker[VMDK_SECTOR];

	vmdk_encode_marker(type, sectors, marker);
	return s->to->write(s->to, marker, sizeof(marker), err);
}

/* Write the table at hand, if it has anything, and begin the next. */
static int end_table(struct stream *s, struct img_error *err)
{
	int rc;

	if (!s->filled)
		return 0;
	rc = write_marker(s, VMDK_MARKER_TABLE, VMDK_TABLE_SECTORS, err);
	if (!rc)
		rc = here(s, &s->directory[s->table], err);
	if (!rc)
		rc = s->to->write(s->to, s->entries, sizeof(s->entries), err);
	memset(s->entries, 0, sizeof(s->entries));
	s->filled = false;
	return rc;
}

static int stream_put(struct img_sink *sink, uint64_t off, const uint8_t *bytes, size_t len,
		      struct img_error *err)
{
	struct stream *s = (struct stream *)sink;
	uint64_t grain = off / VMDK_GRAIN_BYTES, table = grain / VMDK_TABLE_ENTRIES;
	size_t whole = (size_t)round_up_u64(VMDK_GRAIN_MARKER_BYTES + len, VMDK_SECTOR);
	uint32_t sector = 0;
	int rc = 0;

	if (off % VMDK_GRAIN_BYTES || off < s->next || off >= s->capacity)
		return img_fail(err, -EINVAL,
				"a grain at guest offset %" PRIu64 ", expected multiples of %d "
				"from %" PRIu64 " to %" PRIu64,
				off, VMDK_GRAIN_BYTES, s->next, s->capacity);
	if (!len || len > COMPRESSED_MAX)
		return img_fail(err, -EINVAL,
				"the compressed grain of guest offset %" PRIu64 " has %zu bytes, "
				"expected 1 to %d",
				off, len, COMPRESSED_MAX);
	if (table != s->table)
		rc = end_table(s, err);
	s->table = table;
	if (!rc)
		rc = here(s, &sector, err);
	if (rc)
		return rc;
	le64_store(s->buf, off / VMDK_SECTOR);
	le32_store(s->buf + 8, (uint32_t)len);
	memcpy(s->buf + VMDK_GRAIN_MARKER_BYTES, bytes, len);
	memset(s->buf + VMDK_GRAIN_MARKER_BYTES + len, 0, whole - VMDK_GRAIN_MARKER_BYTES - len);
	rc = s->to->write(s->to, s->buf, whole, err);
	if (rc)
		return rc;
	le32_store(s->entries + grain % VMDK_TABLE_ENTRIES * 4, sector);
	s->filled = true;
	s->next = off + VMDK_GRAIN_BYTES;
	return 0;
}

static int write_directory(struct stream *s, uint32_t *sector, struct img_error *err)
{
	uint64_t sectors = div_round_up_u64(s->tables * 4, VMDK_SECTOR);
	uint64_t per = VMDK_SECTOR / 4;
	int rc = write_marker(s, VMDK_MARKER_DIRECTORY, sectors, err);

	if (!rc)
		rc = here(s, sector, err);
	for (uint64_t n = 0; n < sectors && !rc; n++) {
		uint8_t buf[VMDK_SECTOR] = { 0 };

		for (uint64_t i = 0; i < per && n * per + i < s->tables; i++)
			le32_store(buf + i * 4, s->directory[n * per + i]);
		rc = s->to->write(s->to, buf, sizeof(buf), err);
	}
	return rc;
}

static int stream_finish(struct img_sink *sink, struct img_error *err)
{
	struct stream *s = (struct stream *)sink;
	struct vmdk_header h = header_of(s);
	uint8_t footer[VMDK_HOSTED_HEADER_BYTES];
	uint32_t directory = 0;
	int rc = end_table(s, err);

	if (!rc)
		rc = write_directory(s, &directory, err);
	if (!rc)
		rc = write_marker(s, VMDK_MARKER_FOOTER, 1, err);
	if (rc)
		return rc;
	h.directory = directory;
	vmdk_encode_header(&h, footer);
	rc = s->to->write(s->to, footer, sizeof(footer), err);
	return rc ? rc : write_marker(s, VMDK_MARKER_END, 0, err);
}

static void stream_free(struct img_sink *sink)
{
	struct stream *s = (struct stream *)sink;

	if (!s)
		return;
	free(s->directory);
	free(s->buf);
	free(s);
}

/* The header and the descriptor, up to where grains begin. */
static int write_head(struct stream *s, const char *text, struct img_error *err)
{
	size_t bytes = OVERHEAD_SECTORS * VMDK_SECTOR, len = strlen(text);
	struct vmdk_header h = header_of(s);
	uint8_t *head;
	int rc;

	if (len > DESCRIPTOR_SECTORS * VMDK_SECTOR)
		return img_fail(err, -ENAMETOOLONG,
				"the descriptor has %zu bytes, expected at most %d: a name is too "
				"long",
				len, DESCRIPTOR_SECTORS * VMDK_SECTOR);
	head = calloc(1, bytes);
	if (!head)
		return img_fail(err, -ENOMEM, "out of memory");
	vmdk_encode_header(&h, head);
	memcpy(head + VMDK_SECTOR, text, len);
	rc = s->to->write(s->to, head, bytes, err);
	free(head);
	return rc;
}

int vmdk_sink(struct img_creating *c, struct img_byte_writer *to, struct img_sink **out,
	      struct img_error *err)
{
	struct vmdk_parameters w;
	struct stream *s;
	size_t len;
	char *text;
	int rc = vmdk_parameters_make(c, &w, err);

	*out = NULL;
	if (rc)
		return rc;
	s = w.stream ? calloc(1, sizeof(*s)) : NULL;
	if (!s) {
		vmdk_parameters_clear(&w);
		return w.stream ? img_fail(err, -ENOMEM, "out of memory") : 0;
	}
	s->base = (struct img_sink){
		.put = stream_put,
		.finish = stream_finish,
		.free = stream_free,
		.unit_bytes = VMDK_GRAIN_BYTES,
		.codec = &img_codec_zlib,
		.level = c->compress_level ? c->compress_level : LEVEL,
		.pad_last = true,
	};
	s->to = to;
	s->capacity = c->size;
	s->tables = div_round_up_u64(c->size, (uint64_t)VMDK_TABLE_ENTRIES * VMDK_GRAIN_BYTES);
	s->directory = calloc(s->tables + 1, sizeof(*s->directory));
	s->buf = malloc(BUF_BYTES);
	rc = s->directory && s->buf ? 0 : img_fail(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = vmdk_describe(c, &w, &text, &len, err);
	vmdk_parameters_clear(&w);
	if (!rc) {
		rc = write_head(s, text, err);
		free(text);
	}
	if (rc) {
		stream_free(&s->base);
		return rc;
	}
	*out = &s->base;
	return 0;
}

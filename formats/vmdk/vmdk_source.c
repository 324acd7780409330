/*
 * streamOptimized disks, read from front to end: spec/vmdk.md, "Reading streams". Each grain says
 * itself where it belongs, so the tables are not needed; but they tell whether all grains came.
 * What is not a grain is looked at as it goes by.
 *
 * Tables in front (QEMU, open-vmdk) are read before the grains, tables behind (all others) after
 * them. In either case the grains that they name are summed up in a way that does not depend on the
 * order, and so are the grains that come: nothing has to be kept, and the sums must be the same.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "formats/vmdk/vmdk_codec.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	SKIP_PIECE = 16384,
	DIRECTORY_PIECE = 65536,
};

/* Grains, in any order. */
struct tally {
	uint64_t count, sum;
};

struct vmdk_stream_source {
	struct img_source base;
	struct img_byte_reader *in;
	struct vmdk_sparse sparse;
	struct tally came, came_where;	  /* grains; the second does not know which they are */
	struct tally front, behind_where; /* what tables name */
	bool has_front, has_behind;
	bool footer_seen, ended;
	bool have_grain; /* next() has found one, and its bytes are to be loaded */
	bool held;	 /* sector is a marker that was read already */
	struct img_source_unit unit;
	uint8_t sector[VMDK_SECTOR]; /* its first */
};

/* One of very many numbers, so that sums of different grains differ. */
static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t x = a * UINT64_C(0x9e3779b97f4a7c15) + b;

	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return x ^ x >> 31;
}

static void count_grain(struct tally *t, uint64_t sector, uint64_t grain)
{
	t->count++;
	t->sum += mix(sector, grain);
}

static bool same_tally(const struct tally *a, const struct tally *b)
{
	return a->count == b->count && a->sum == b->sum;
}

/* ---- Taking bytes ---- */

/* The next len bytes, all of them. what: "the header". */
static int take(struct vmdk_stream_source *s, void *buf, size_t len, const char *what,
		struct img_error *err)
{
	uint64_t at = s->in->taken;
	size_t got;
	int rc = s->in->read(s->in, buf, len, &got, err);

	if (!rc && got < len)
		rc = img_fail(err, -EUCLEAN,
			      "%s: %s at %" PRIu64 ": truncated: ends at %" PRIu64 ", expected at "
			      "least %" PRIu64,
			      s->in->name, what, at, s->in->taken, at + len);
	return rc;
}

static int skip(struct vmdk_stream_source *s, uint64_t len, const char *what, struct img_error *err)
{
	uint8_t buf[SKIP_PIECE];
	int rc = 0;

	while (len && !rc) {
		size_t n = (size_t)min_u64(len, sizeof(buf));

		rc = take(s, buf, n, what, err);
		len -= n;
	}
	return rc;
}

/* ---- What is in front of the grains ---- */

static int fail_order(const struct vmdk_stream_source *s, const char *what, uint64_t off,
		      uint64_t end, struct img_error *err)
{
	return img_fail(err, -ENOTSUP,
			"%s: the header has %s at %" PRIu64 ", expected in a stream from %" PRIu64 " "
			"to %" PRIu64 ": save it to a file first",
			s->in->name, what, off, s->in->taken, end);
}

/* The size that the descriptor's only extent has. */
static int read_extents(struct vmdk_stream_source *s, const char *text, size_t len,
			struct img_error *err)
{
	struct vmdk_cursor cursor = { 0 };
	struct vmdk_line line;
	size_t extents = 0;
	int rc;

	while ((rc = vmdk_next_extent(text, len, &cursor, &line, err)) == 1) {
		if (!line.sectors)
			continue;
		if (extents++ || line.type != VMDK_TYPE_SPARSE || line.access == VMDK_NOACCESS)
			return img_fail(err, -ENOTSUP,
					"%s: descriptor line %zu: another extent than the "
					"stream's own",
					s->in->name, line.number);
		s->base.size = line.sectors * VMDK_SECTOR;
	}
	if (!rc && s->base.size > s->sparse.capacity_bytes)
		rc = img_fail(err, -EUCLEAN,
			      "%s: descriptor: %" PRIu64 " sectors, expected at most %" PRIu64 ", "
			      "the capacity",
			      s->in->name, s->base.size / VMDK_SECTOR,
			      s->sparse.capacity_bytes / VMDK_SECTOR);
	return rc;
}

static int parse_text(struct vmdk_stream_source *s, const char *text, size_t len,
		      struct img_error *err)
{
	struct vmdk_descriptor d;
	int rc;

	if (!text[0])
		return 0;
	rc = vmdk_parse_descriptor(text, len, &d, err);
	if (rc)
		return img_error_prefix(err, rc, "%s", s->in->name);
	if (d.encrypted)
		return img_fail(err, -ENOTSUP,
				"%s: the descriptor says that the disk is encrypted by VMware, "
				"which cannot be read",
				s->in->name);
	if (d.parent_cid != VMDK_NO_PARENT || d.uuid_parent.at)
		return img_fail(err, -ENOTSUP,
				"%s: the disk is a child of another one, which cannot be found "
				"from a pipe: save it next to its parent first",
				s->in->name);
	return read_extents(s, text, len, err);
}

static int parse_descriptor(struct vmdk_stream_source *s, uint64_t front, struct img_error *err)
{
	uint64_t off = s->sparse.descriptor_off, len = s->sparse.descriptor_bytes;
	char *text;
	int rc;

	if (!off || !len)
		return 0;
	if (len > VMDK_DESCRIPTOR_BYTES_MAX)
		return img_fail(err, -EUCLEAN,
				"%s: descriptor at %" PRIu64 ": %" PRIu64 " bytes long, expected "
				"at most %d",
				s->in->name, off, len, VMDK_DESCRIPTOR_BYTES_MAX);
	if (off < s->in->taken || !range_in(off, len, front))
		return fail_order(s, "the descriptor", off, front, err);
	text = malloc(len);
	if (!text)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = skip(s, off - s->in->taken, "what is before the descriptor", err);
	if (!rc)
		rc = take(s, text, len, "the descriptor", err);
	if (!rc)
		rc = parse_text(s, text, len, err);
	free(text);
	return rc;
}

/* The directory's entries, as they come. malloc'd: no more than the input has. */
static int parse_directory(struct vmdk_stream_source *s, uint8_t **out, struct img_error *err)
{
	uint64_t len = s->sparse.directory_entries * 4, have = 0;
	uint8_t *all = NULL;
	int rc = 0;

	while (have < len && !rc) {
		size_t n = (size_t)min_u64(DIRECTORY_PIECE, len - have);
		uint8_t *more = realloc(all, have + n);

		if (!more) {
			rc = img_fail(err, -ENOMEM, "out of memory");
			break;
		}
		all = more;
		rc = take(s, all + have, n, "the grain directory", err);
		have += n;
	}
	if (rc)
		free(all);
	else
		*out = all;
	return rc;
}

/* Count the grains of a table. number: which it is; known false: nobody has said. */
static void count_table(const struct vmdk_stream_source *s, const uint8_t *table, uint64_t number,
			bool known, struct tally *t)
{
	uint64_t grains = div_round_up_u64(s->base.size, s->sparse.grain_bytes);

	for (uint64_t i = 0; i < s->sparse.table_entries; i++) {
		uint64_t grain = number * s->sparse.table_entries + i;
		uint32_t sector = le32_load(table + i * 4);

		/* What is beyond the disk's end is nobody's. */
		if (known && grain >= grains)
			break;
		if (!sector || (sector == 1 && s->sparse.zeroed_grains))
			continue;
		count_grain(t, sector, known ? grain : 0);
	}
}

/*
 * Tables in front. Each known writer has them ascending behind the directory; where they are not,
 * only an end marker can tell that the stream is complete.
 */
static int read_tables(struct vmdk_stream_source *s, uint64_t front, struct img_error *err)
{
	uint8_t table[VMDK_TABLE_ENTRIES * 4], *directory = NULL;
	uint64_t bytes = vmdk_table_bytes(&s->sparse), off = s->sparse.directory_off;
	int rc;

	if (s->sparse.at_end || off >= front || !s->sparse.directory_entries)
		return 0;
	if (off < s->in->taken || !range_in(off, s->sparse.directory_entries * 4, front))
		return fail_order(s, "the grain directory", off, front, err);
	rc = skip(s, off - s->in->taken, "what is before the grain directory", err);
	if (!rc)
		rc = parse_directory(s, &directory, err);
	s->has_front = true;
	for (uint64_t i = 0; directory && i < s->sparse.directory_entries && !rc; i++) {
		uint64_t place = (uint64_t)le32_load(directory + i * 4) * VMDK_SECTOR;

		if (!place)
			continue;
		if (place < s->in->taken || !range_in(place, bytes, front)) {
			s->has_front = false;
			break;
		}
		rc = skip(s, place - s->in->taken, "what is between grain tables", err);
		if (!rc)
			rc = take(s, table, bytes, "a grain table", err);
		if (!rc)
			count_table(s, table, i, true, &s->front);
	}
	free(directory);
	return rc;
}

static int parse_header(struct vmdk_stream_source *s, struct img_error *err)
{
	uint8_t head[VMDK_HOSTED_HEADER_BYTES];
	size_t got;
	int rc = s->in->read(s->in, head, sizeof(head), &got, err);

	if (rc)
		return rc;
	if (vmdk_sparse_kind(head, got) == VMDK_NOT_SPARSE) {
		if (vmdk_is_descriptor((const char *)head, got))
			return img_fail(err, -ENOTSUP,
					"%s: a VMDK descriptor, which names other files: these "
					"cannot be found from a pipe",
					s->in->name);
		return img_fail(err, -EMEDIUMTYPE, "%s: not a VMDK image", s->in->name);
	}
	if (vmdk_sparse_kind(head, got) == VMDK_HOSTED) {
		rc = vmdk_parse_sparse(head, got, VMDK_BYTES_MAX, &s->sparse, err);
		if (rc)
			return img_error_prefix(err, rc, "%s", s->in->name);
	}
	if (!s->sparse.markers)
		return img_fail(err, -ENOTSUP,
				"%s: a VMDK that is read here and there; of VMDKs only "
				"streamOptimized ones can come from a pipe: save it to a file first",
				s->in->name);
	return 0;
}

/* All up to the first grain. */
static int read_front(struct vmdk_stream_source *s, struct img_error *err)
{
	uint64_t front;
	int rc = parse_header(s, err);

	if (rc)
		return rc;
	if (!s->sparse.overhead_sectors ||
	    !mul_u64(s->sparse.overhead_sectors, VMDK_SECTOR, &front) || front > VMDK_BYTES_MAX)
		return img_fail(err, -EUCLEAN,
				"%s: sparse header at 0: overhead is %" PRIu64 " sectors, "
				"expected 1 to %" PRIu64,
				s->in->name, s->sparse.overhead_sectors,
				VMDK_BYTES_MAX / VMDK_SECTOR);
	s->base.size = s->sparse.capacity_bytes;
	rc = parse_descriptor(s, front, err);
	if (!rc)
		rc = read_tables(s, front, err);
	return rc ? rc : skip(s, front - s->in->taken, "what is before the grains", err);
}

/* ---- The grains, and what is between them ---- */

static int check_grain(const struct vmdk_stream_source *s, const struct vmdk_marker *m,
		       uint64_t marker_off, struct img_error *err)
{
	uint64_t grain_sectors = s->sparse.grain_bytes / VMDK_SECTOR;

	if (m->value % grain_sectors || m->value >= s->base.size / VMDK_SECTOR)
		return img_fail(err, -EUCLEAN,
				"%s: grain marker at %" PRIu64 ": sector is %" PRIu64 ", expected "
				"multiples of %" PRIu64 " below %" PRIu64,
				s->in->name, marker_off, m->value, grain_sectors,
				s->base.size / VMDK_SECTOR);
	if (m->bytes > vmdk_compressed_max(&s->sparse))
		return img_fail(err, -EUCLEAN,
				"%s: grain marker at %" PRIu64 ": compressed size is %" PRIu32 " "
				"bytes, expected 1 to %" PRIu64,
				s->in->name, marker_off, m->bytes, vmdk_compressed_max(&s->sparse));
	return 0;
}

static int begin_grain(struct vmdk_stream_source *s, const struct vmdk_marker *m,
		       uint64_t marker_off, struct img_error *err)
{
	uint64_t off, bytes;
	int rc = check_grain(s, m, marker_off, err);

	if (rc)
		return rc;
	off = m->value * VMDK_SECTOR;
	bytes = min_u64(s->sparse.grain_bytes, s->base.size - off);
	s->unit = (struct img_source_unit){
		.off = off,
		.stored_bytes = m->bytes,
		.bytes = (uint32_t)bytes,
		.codec = bytes < s->sparse.grain_bytes ? &vmdk_codec_last_grain : &img_codec_zlib,
	};
	s->have_grain = true;
	count_grain(&s->came, marker_off / VMDK_SECTOR, off / s->sparse.grain_bytes);
	count_grain(&s->came_where, marker_off / VMDK_SECTOR, 0);
	return 0;
}

static int read_table_behind(struct vmdk_stream_source *s, struct img_error *err)
{
	uint8_t table[VMDK_TABLE_SECTORS * VMDK_SECTOR];
	uint64_t bytes = round_up_u64(vmdk_table_bytes(&s->sparse), VMDK_SECTOR);
	int rc = take(s, table, bytes, "a grain table", err);

	if (rc)
		return rc;
	s->has_behind = true;
	count_table(s, table, 0, false, &s->behind_where);
	return 0;
}

/*
 * All tables of the disk behind one marker, as Xen Orchestra has them (twice): then each entry says
 * which grain it is of.
 */
static int read_all_tables(struct vmdk_stream_source *s, struct img_error *err)
{
	uint8_t table[VMDK_TABLE_SECTORS * VMDK_SECTOR];
	uint64_t bytes = round_up_u64(vmdk_table_bytes(&s->sparse), VMDK_SECTOR);
	uint64_t at = s->in->taken;
	struct tally named = { 0 };

	for (uint64_t i = 0; i < s->sparse.directory_entries; i++) {
		int rc = take(s, table, bytes, "a grain table", err);

		if (rc)
			return rc;
		count_table(s, table, i, true, &named);
	}
	if (same_tally(&named, &s->came))
		return 0;
	return img_fail(err, -EUCLEAN,
			"%s: the grain tables at %" PRIu64 " name %" PRIu64 " grains, and "
			"%" PRIu64 " came before, which are not these: damaged, or laid out in a "
			"way that cannot be read from a pipe: save it to a file first",
			s->in->name, at, named.count, s->came.count);
}

static int parse_footer(struct vmdk_stream_source *s, struct img_error *err)
{
	uint8_t footer[VMDK_SECTOR];
	struct vmdk_sparse sparse = s->sparse;
	uint64_t at = s->in->taken;
	int rc = take(s, footer, sizeof(footer), "the footer", err);

	if (!rc) {
		rc = vmdk_parse_footer(footer, sizeof(footer), &sparse, err);
		if (rc)
			img_error_prefix(err, rc, "%s: at %" PRIu64, s->in->name, at);
	}
	s->footer_seen |= !rc;
	return rc;
}

/* Is the sector at hand a marker of metadata that a stream can go on with? */
static bool is_metadata_marker(const struct vmdk_stream_source *s)
{
	struct vmdk_marker m;
	uint64_t sectors;

	for (size_t i = VMDK_MARKER_BYTES; i < VMDK_SECTOR; i++)
		if (s->sector[i])
			return false;
	vmdk_parse_marker(s->sector, &m);
	return !m.bytes && m.type != VMDK_MARKER_END && m.type != VMDK_MARKER_PROGRESS &&
	       vmdk_marker_sectors(&s->sparse, &m, &sectors);
}

/* What comes behind the stream's end is not ours; whoever sends it may want to get rid of it. */
static int read_rest(struct vmdk_stream_source *s, struct img_error *err)
{
	uint8_t buf[SKIP_PIECE];
	size_t got = 1;
	int rc = 0;

	while (got && !rc)
		rc = s->in->read(s->in, buf, sizeof(buf), &got, err);
	return rc;
}

/*
 * A sector of zeroes ends a stream, but Xen Orchestra also pads with them before its tables. So
 * zeroes are passed over; then comes the end of the input, or a marker, or what is not ours.
 */
static int read_padding(struct vmdk_stream_source *s, struct img_error *err)
{
	size_t got, i;

	for (;;) {
		uint64_t at = s->in->taken;
		int rc = s->in->read(s->in, s->sector, sizeof(s->sector), &got, err);

		if (rc)
			return rc;
		for (i = 0; i < got && !s->sector[i]; i++)
			;
		if (i == got) {
			s->ended = got < sizeof(s->sector);
			if (s->ended)
				return 0;
			continue;
		}
		s->held = got == sizeof(s->sector) && !s->footer_seen && is_metadata_marker(s);
		if (s->held)
			return 0;
		s->ended = s->footer_seen || s->has_front;
		if (s->ended)
			return read_rest(s, err);
		return img_fail(err, -EUCLEAN,
				"%s: behind the end marker: the byte at %" PRIu64 " is %#x, "
				"expected only zeroes",
				s->in->name, at + i, s->sector[i]);
	}
}

/* What the marker of something else than a grain announces. */
static int read_metadata(struct vmdk_stream_source *s, const struct vmdk_marker *m, uint64_t off,
			 struct img_error *err)
{
	uint64_t sectors;

	if (!vmdk_marker_sectors(&s->sparse, m, &sectors))
		return img_fail(err, -EUCLEAN,
				"%s: marker at %" PRIu64 ": type is %" PRIu32 " with %" PRIu64 " "
				"sectors, none of the markers of a stream: damaged, or not "
				"readable from a pipe: save it to a file first",
				s->in->name, off, m->type, m->value);
	switch (m->type) {
	case VMDK_MARKER_END:
		return read_padding(s, err);
	case VMDK_MARKER_TABLE:
		return m->value ? read_table_behind(s, err) : read_all_tables(s, err);
	case VMDK_MARKER_DIRECTORY:
		return skip(s, sectors * VMDK_SECTOR, "the grain directory", err);
	case VMDK_MARKER_FOOTER:
		return parse_footer(s, err);
	default:
		return skip(s, sectors * VMDK_SECTOR, "what follows a marker of progress", err);
	}
}

/* The input has ended: is that all of the disk? */
static int check_end(const struct vmdk_stream_source *s, struct img_error *err)
{
	bool behind = s->has_behind && !s->has_front && !s->sparse.redundant_off;

	if (!s->ended && !s->footer_seen && !s->has_front)
		return img_fail(err, -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 " without an end marker",
				s->in->name, s->in->taken);
	if ((s->has_front && !same_tally(&s->front, &s->came)) ||
	    (behind && !same_tally(&s->behind_where, &s->came_where)))
		return img_fail(err, -EUCLEAN,
				"%s: the grain tables name %" PRIu64 " grains, and %" PRIu64 " "
				"came, which are not these: truncated, or damaged",
				s->in->name, s->has_front ? s->front.count : s->behind_where.count,
				s->came.count);
	return 0;
}

static int source_next(struct img_source *base, struct img_source_unit *unit, struct img_error *err)
{
	struct vmdk_stream_source *s = (struct vmdk_stream_source *)base;
	int rc = 0;

	while (!rc && !s->have_grain && !s->ended) {
		uint64_t off = s->in->taken - (s->held ? VMDK_SECTOR : 0);
		struct vmdk_marker m;
		size_t got = VMDK_SECTOR;

		if (!s->held)
			rc = s->in->read(s->in, s->sector, sizeof(s->sector), &got, err);
		s->held = false;
		if (rc || !got)
			break;
		if (got < sizeof(s->sector))
			return img_fail(err, -EUCLEAN,
					"%s: marker at %" PRIu64 ": truncated: ends at "
					"%" PRIu64 ", inside its sector",
					s->in->name, off, s->in->taken);
		vmdk_parse_marker(s->sector, &m);
		rc = m.bytes ? begin_grain(s, &m, off, err) : read_metadata(s, &m, off, err);
	}
	if (!rc && !s->have_grain)
		rc = check_end(s, err);
	if (!rc)
		*unit = s->have_grain ? s->unit : (struct img_source_unit){ 0 };
	return rc;
}

static int source_load(struct img_source *base, uint8_t *buf, struct img_error *err)
{
	struct vmdk_stream_source *s = (struct vmdk_stream_source *)base;
	size_t stored = s->unit.stored_bytes;
	size_t first = min_size(stored, VMDK_SECTOR - VMDK_GRAIN_MARKER_BYTES);
	size_t whole = (size_t)round_up_u64(VMDK_GRAIN_MARKER_BYTES + stored, VMDK_SECTOR);
	int rc = 0;

	memcpy(buf, s->sector + VMDK_GRAIN_MARKER_BYTES, first);
	s->have_grain = false;
	if (first < stored)
		rc = take(s, buf + first, stored - first, "a grain", err);
	if (!rc && first < stored)
		rc = skip(s, whole - VMDK_GRAIN_MARKER_BYTES - stored, "a grain's padding", err);
	return rc;
}

static void source_free(struct img_source *base)
{
	free(base);
}

int vmdk_source(struct img_byte_reader *in, struct img_source **out, struct img_error *err)
{
	struct vmdk_stream_source *s = calloc(1, sizeof(*s));
	int rc;

	if (!s)
		return img_fail(err, -ENOMEM, "out of memory");
	s->in = in;
	rc = read_front(s, err);
	if (rc) {
		free(s);
		return rc;
	}
	s->base = (struct img_source){
		.next = source_next,
		.load = source_load,
		.free = source_free,
		.sized = true,
		.size = s->base.size,
		.unit_bytes = (uint32_t)s->sparse.grain_bytes,
		.stored_max = (uint32_t)(2 * s->sparse.grain_bytes - VMDK_GRAIN_MARKER_BYTES),
	};
	*out = &s->base;
	return 0;
}

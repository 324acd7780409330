/*
 * Headers and table entries of sparse extents: bytes in, checked numbers out. spec/vmdk.md.
 */
#include "formats/vmdk/vmdk_layout.h"

#include <errno.h>
#include <inttypes.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* spec/vmdk.md, "Hosted sparse header". */
enum {
	HOSTED_MAGIC = 0x564d444b, /* "KDMV" in the file */
	HOSTED_OFF_VERSION = 4,
	HOSTED_OFF_FLAGS = 8,
	HOSTED_OFF_CAPACITY = VMDK_OFF_CAPACITY,
	HOSTED_OFF_GRAIN = 20,
	HOSTED_OFF_DESCRIPTOR = 28,
	HOSTED_OFF_DESCRIPTOR_SECTORS = 36,
	HOSTED_OFF_TABLE_ENTRIES = 44,
	HOSTED_OFF_REDUNDANT = VMDK_OFF_REDUNDANT,
	HOSTED_OFF_DIRECTORY = VMDK_OFF_DIRECTORY,
	HOSTED_OFF_OVERHEAD = 64,
	HOSTED_OFF_UNCLEAN = VMDK_OFF_UNCLEAN,
	HOSTED_OFF_NEWLINES = 73,
	HOSTED_OFF_COMPRESSION = 77,

	HOSTED_VERSION_MAX = 3,
	HOSTED_TABLE_ENTRIES_MAX = 512,

	FLAG_NEWLINES = 1u << 0,
	FLAG_REDUNDANT = 1u << 1,
	FLAG_ZEROED_GRAINS = 1u << 2,
	FLAG_COMPRESSED = 1u << 16,
	FLAG_MARKERS = 1u << 17,
	/* Unknown bits in the upper half change how the file is read; in the lower they do not. */
	FLAGS_MUST_KNOW = 0xffff0000u & ~(uint32_t)(FLAG_COMPRESSED | FLAG_MARKERS),

	COMPRESSION_NONE = 0,
	COMPRESSION_DEFLATE = 1,
};

/* spec/vmdk.md, "Metadata markers" and "Grain markers". */
enum {
	MARKER_OFF_SIZE = 8,
	MARKER_OFF_TYPE = 12,
};

/* spec/vmdk.md, "COWD". */
enum {
	COWD_MAGIC = 0x44574f43, /* "COWD" */
	COWD_OFF_VERSION = 4,
	COWD_OFF_SECTORS = 12,
	COWD_OFF_GRAIN = 16,
	COWD_OFF_DIRECTORY = 20,
	COWD_OFF_DIRECTORY_ENTRIES = 24,
	COWD_VERSION = 1,
	COWD_TABLE_ENTRIES = 4096,
	COWD_OFF_UNCLEAN = 1648,
};

/* spec/vmdk.md, "SESparse". */
enum {
	SE_OFF_VERSION = 8,
	SE_OFF_CAPACITY = 16,
	SE_OFF_GRAIN = 24,
	SE_OFF_TABLE = 32,
	SE_OFF_FLAGS = 40,
	SE_OFF_RESERVED = 48,
	SE_RESERVED_COUNT = 4,
	SE_OFF_VOLATILE = 80,
	SE_OFF_DIRECTORY = 128,
	SE_OFF_DIRECTORY_SIZE = 136,
	SE_OFF_TABLES = 144,
	SE_OFF_TABLES_SIZE = 152,
	SE_OFF_GRAINS = 192,
	SE_OFF_GRAINS_SIZE = 200,
	SE_GRAIN_SECTORS = 8,
	SE_TABLE_SECTORS = 64,
	SE_VOLATILE_OFF_REPLAY = 24,
};
#define SE_MAGIC UINT64_C(0x00000000cafebabe)
#define SE_VERSION UINT64_C(0x0000000200000001)
#define SE_VOLATILE_MAGIC UINT64_C(0x00000000cafecafe)
#define SE_DIRECTORY_TAG UINT64_C(0x10000000) /* the upper half of a directory entry */

void vmdk_encode_header(const struct vmdk_header *h, uint8_t *out)
{
	uint32_t flags = FLAG_NEWLINES;

	if (h->redundant)
		flags |= FLAG_REDUNDANT;
	if (h->zeroed_grains)
		flags |= FLAG_ZEROED_GRAINS;
	if (h->stream)
		flags |= FLAG_COMPRESSED | FLAG_MARKERS;
	memset(out, 0, VMDK_HOSTED_HEADER_BYTES);
	le32_store(out, HOSTED_MAGIC);
	le32_store(out + HOSTED_OFF_VERSION, h->stream ? 3 : h->zeroed_grains ? 2
									      : 1);
	le32_store(out + HOSTED_OFF_FLAGS, flags);
	le64_store(out + HOSTED_OFF_CAPACITY, h->capacity);
	le64_store(out + HOSTED_OFF_GRAIN, VMDK_GRAIN_SECTORS);
	le64_store(out + HOSTED_OFF_DESCRIPTOR, h->descriptor);
	le64_store(out + HOSTED_OFF_DESCRIPTOR_SECTORS, h->descriptor_sectors);
	le32_store(out + HOSTED_OFF_TABLE_ENTRIES, VMDK_TABLE_ENTRIES);
	le64_store(out + HOSTED_OFF_REDUNDANT, h->redundant);
	le64_store(out + HOSTED_OFF_DIRECTORY, h->directory);
	le64_store(out + HOSTED_OFF_OVERHEAD, h->overhead);
	memcpy(out + HOSTED_OFF_NEWLINES, "\n \r\n", 4);
	le16_store(out + HOSTED_OFF_COMPRESSION,
		   h->stream ? COMPRESSION_DEFLATE : COMPRESSION_NONE);
}

void vmdk_encode_marker(uint32_t type, uint64_t sectors, uint8_t *out)
{
	memset(out, 0, VMDK_SECTOR);
	le64_store(out, sectors);
	le32_store(out + MARKER_OFF_TYPE, type);
}

enum vmdk_kind vmdk_sparse_kind(const uint8_t *bytes, size_t len)
{
	if (len >= 4 && le32_load(bytes) == HOSTED_MAGIC)
		return VMDK_HOSTED;
	if (len >= 4 && le32_load(bytes) == COWD_MAGIC)
		return VMDK_COWD;
	if (len >= 16 && le64_load(bytes) == SE_MAGIC &&
	    le64_load(bytes + SE_OFF_VERSION) >> 32 == SE_VERSION >> 32)
		return VMDK_SE;
	return VMDK_NOT_SPARSE;
}

/* What all three have in common: capacity and grain, and the number of tables that follows. */
static int check_geometry(uint64_t capacity_sectors, uint64_t grain_sectors, struct vmdk_sparse *s,
			  struct img_error *err)
{
	if (capacity_sectors > VMDK_BYTES_MAX / VMDK_SECTOR)
		return img_fail(err, -EUCLEAN,
				"sparse header at 0: capacity is %" PRIu64 " sectors, expected at "
				"most %" PRIu64,
				capacity_sectors, VMDK_BYTES_MAX / VMDK_SECTOR);
	if (!is_pow2_u64(grain_sectors) || grain_sectors > VMDK_GRAIN_SECTORS_MAX)
		return img_fail(err, -EUCLEAN,
				"sparse header at 0: grain size is %" PRIu64 " sectors, expected "
				"a power of two up to %" PRIu64,
				grain_sectors, VMDK_GRAIN_SECTORS_MAX);
	s->capacity_bytes = capacity_sectors * VMDK_SECTOR;
	s->grain_bytes = grain_sectors * VMDK_SECTOR;
	s->directory_entries = div_round_up_u64(s->capacity_bytes, vmdk_table_covers(s));
	if (s->directory_entries > VMDK_DIRECTORY_ENTRIES_MAX)
		return img_fail(err, -EUCLEAN,
				"sparse header at 0: capacity is %" PRIu64 " sectors, which need "
				"%" PRIu64 " grain tables, expected at most %" PRIu64,
				capacity_sectors, s->directory_entries, VMDK_DIRECTORY_ENTRIES_MAX);
	return 0;
}

/* Are all entries of a directory at this sector in the file, and behind the header? */
static bool directory_fits(const struct vmdk_sparse *s, uint64_t sector)
{
	uint64_t off;

	return sector && mul_u64(sector, VMDK_SECTOR, &off) &&
	       range_in(off, s->directory_entries * s->entry_bytes, s->file_bytes);
}

static int parse_hosted(const uint8_t *bytes, size_t len, struct vmdk_sparse *s,
			struct img_error *err)
{
	if (len < VMDK_HOSTED_HEADER_BYTES)
		return img_fail(err, -EUCLEAN,
				"sparse header at 0: truncated: ends at %zu, the header needs %d", len,
				VMDK_HOSTED_HEADER_BYTES);

	uint32_t flags = le32_load(bytes + HOSTED_OFF_FLAGS);
	uint32_t compression = le16_load(bytes + HOSTED_OFF_COMPRESSION);
	uint64_t directory = le64_load(bytes + HOSTED_OFF_DIRECTORY);
	uint64_t redundant = le64_load(bytes + HOSTED_OFF_REDUNDANT);
	int rc;

	/* A transfer in text mode changes these four; QEMU and VMware look at them for that. */
	if ((flags & FLAG_NEWLINES) && memcmp(bytes + HOSTED_OFF_NEWLINES, "\n \r\n", 4) != 0)
		return img_fail(err, -EUCLEAN,
				"sparse header at 0: newline test is %02x %02x %02x %02x, "
				"expected 0a 20 0d 0a: damaged, or copied as text",
				bytes[HOSTED_OFF_NEWLINES], bytes[HOSTED_OFF_NEWLINES + 1],
				bytes[HOSTED_OFF_NEWLINES + 2], bytes[HOSTED_OFF_NEWLINES + 3]);
	s->version = le32_load(bytes + HOSTED_OFF_VERSION);
	if (s->version < 1 || s->version > HOSTED_VERSION_MAX)
		return img_fail(err, -ENOTSUP,
				"sparse header at 0: version is %" PRIu32 ", expected 1 to %d",
				s->version, HOSTED_VERSION_MAX);
	if (flags & FLAGS_MUST_KNOW)
		return img_fail(err, -ENOTSUP,
				"sparse header at 0: flags are %#" PRIx32 ", of which %#" PRIx32 " "
				"are unknown",
				flags, flags & FLAGS_MUST_KNOW);

	s->table_entries = le32_load(bytes + HOSTED_OFF_TABLE_ENTRIES);
	s->entry_bytes = 4;
	if (!s->table_entries || s->table_entries > HOSTED_TABLE_ENTRIES_MAX)
		return img_fail(err, -EUCLEAN,
				"sparse header at 0: a grain table has %" PRIu32 " entries, "
				"expected 1 to %d",
				s->table_entries, HOSTED_TABLE_ENTRIES_MAX);
	rc = check_geometry(le64_load(bytes + HOSTED_OFF_CAPACITY),
			    le64_load(bytes + HOSTED_OFF_GRAIN), s, err);
	if (rc)
		return rc;

	/* Flag and field say the same; QEMU believes the field. */
	if (compression > COMPRESSION_DEFLATE)
		return img_fail(err, -ENOTSUP,
				"sparse header at 0: compression is %" PRIu32 ", expected 0 "
				"(none) or 1 (deflate)",
				compression);
	if ((flags & FLAG_COMPRESSED) && compression == COMPRESSION_NONE)
		return img_fail(err, -EUCLEAN,
				"sparse header at 0: compression is 0, expected 1 (deflate), as "
				"the flag of compressed grains is set");
	s->compressed = compression == COMPRESSION_DEFLATE;
	s->markers = s->compressed && (flags & FLAG_MARKERS);
	if (s->compressed && s->grain_bytes > VMDK_COMPRESSED_GRAIN_BYTES_MAX)
		return img_fail(err, -ENOTSUP,
				"sparse header at 0: compressed grains have %" PRIu64 " bytes, "
				"expected at most %" PRIu64,
				s->grain_bytes, VMDK_COMPRESSED_GRAIN_BYTES_MAX);
	s->zeroed_grains = flags & FLAG_ZEROED_GRAINS;
	s->unclean = bytes[HOSTED_OFF_UNCLEAN];
	s->overhead_sectors = le64_load(bytes + HOSTED_OFF_OVERHEAD);

	uint64_t descriptor = le64_load(bytes + HOSTED_OFF_DESCRIPTOR);
	uint64_t descriptor_sectors = le64_load(bytes + HOSTED_OFF_DESCRIPTOR_SECTORS);

	if (!mul_u64(descriptor, VMDK_SECTOR, &s->descriptor_off) ||
	    !mul_u64(descriptor_sectors, VMDK_SECTOR, &s->descriptor_bytes))
		return img_fail(err, -EUCLEAN,
				"sparse header at 0: the descriptor at sector %" PRIu64 " has "
				"%" PRIu64 " sectors, which end past any file",
				descriptor, descriptor_sectors);

	if (directory == VMDK_DIRECTORY_AT_END) {
		s->at_end = true;
		return 0;
	}
	s->redundant_lost = (flags & FLAG_REDUNDANT) && s->capacity_bytes &&
			    !directory_fits(s, redundant);
	/* Two directories at one place are one. */
	if (!(flags & FLAG_REDUNDANT) || !directory_fits(s, redundant) || redundant == directory)
		redundant = 0;
	if (!directory_fits(s, directory)) {
		if (s->capacity_bytes && !redundant)
			return img_fail(err, -EUCLEAN,
					"sparse header at 0: the grain directory at sector "
					"%" PRIu64 " has %" PRIu64 " entries, expected inside the "
					"file's %" PRIu64 " bytes",
					directory, s->directory_entries, s->file_bytes);
		s->directory_lost = redundant;
		directory = redundant;
		redundant = 0;
	}
	s->directory_off = directory * VMDK_SECTOR;
	s->redundant_off = redundant * VMDK_SECTOR;
	return 0;
}

static int parse_cowd(const uint8_t *bytes, size_t len, struct vmdk_sparse *s,
		      struct img_error *err)
{
	if (len < VMDK_COWD_HEADER_BYTES)
		return img_fail(err, -EUCLEAN,
				"COWD header at 0: truncated: ends at %zu, the header needs %d", len,
				VMDK_COWD_HEADER_BYTES);

	uint32_t directory = le32_load(bytes + COWD_OFF_DIRECTORY);
	uint32_t entries = le32_load(bytes + COWD_OFF_DIRECTORY_ENTRIES);
	int rc;

	s->version = le32_load(bytes + COWD_OFF_VERSION);
	if (s->version != COWD_VERSION)
		return img_fail(err, -ENOTSUP,
				"COWD header at 0: version is %" PRIu32 ", expected %d",
				s->version, COWD_VERSION);
	s->table_entries = COWD_TABLE_ENTRIES;
	s->entry_bytes = 4;
	rc = check_geometry(le32_load(bytes + COWD_OFF_SECTORS), le32_load(bytes + COWD_OFF_GRAIN),
			    s, err);
	if (rc)
		return rc;
	if (entries < s->directory_entries)
		return img_fail(err, -EUCLEAN,
				"COWD header at 0: the grain directory has %" PRIu32 " entries, "
				"expected at least %" PRIu64 " for the capacity",
				entries, s->directory_entries);
	if (!directory_fits(s, directory))
		return img_fail(err, -EUCLEAN,
				"COWD header at 0: the grain directory at sector %" PRIu32 " has "
				"%" PRIu64 " entries, expected inside the file's %" PRIu64 " "
				"bytes",
				directory, s->directory_entries, s->file_bytes);
	s->directory_off = (uint64_t)directory * VMDK_SECTOR;
	s->unclean = le32_load(bytes + COWD_OFF_UNCLEAN);
	return 0;
}

/* A place in sectors as an SESparse header gives it; what: for the sentence. */
static int se_area(const uint8_t *bytes, size_t at, uint64_t file_bytes, const char *what,
		   uint64_t *off, uint64_t *size, struct img_error *err)
{
	uint64_t sector = le64_load(bytes + at), sectors = le64_load(bytes + at + 8);

	if (!sector || !mul_u64(sector, VMDK_SECTOR, off) || !mul_u64(sectors, VMDK_SECTOR, size) ||
	    *off > file_bytes)
		return img_fail(err, -EUCLEAN,
				"SESparse header at 0: %s at sector %" PRIu64 " has %" PRIu64 " "
				"sectors, expected inside the file's %" PRIu64 " bytes",
				what, sector, sectors, file_bytes);
	return 0;
}

static int parse_se(const uint8_t *bytes, size_t len, struct vmdk_sparse *s, struct img_error *err)
{
	if (len < VMDK_SE_HEADER_BYTES)
		return img_fail(err, -EUCLEAN,
				"SESparse header at 0: truncated: ends at %zu, the header needs "
				"%d",
				len,
				VMDK_SE_HEADER_BYTES);

	uint64_t version = le64_load(bytes + SE_OFF_VERSION);
	uint64_t grain = le64_load(bytes + SE_OFF_GRAIN), table = le64_load(bytes + SE_OFF_TABLE);
	uint64_t flags = le64_load(bytes + SE_OFF_FLAGS), directory_bytes = 0, ignored;
	int rc;

	if (version != SE_VERSION)
		return img_fail(err, -ENOTSUP,
				"SESparse header at 0: version is %#" PRIx64 ", expected "
				"%#" PRIx64 " (2.1)",
				version, SE_VERSION);
	if (grain != SE_GRAIN_SECTORS || table != SE_TABLE_SECTORS)
		return img_fail(err, -ENOTSUP,
				"SESparse header at 0: grains have %" PRIu64 " and tables "
				"%" PRIu64 " sectors, expected %d and %d",
				grain, table, SE_GRAIN_SECTORS, SE_TABLE_SECTORS);
	if (flags)
		return img_fail(err, -ENOTSUP,
				"SESparse header at 0: flags are %#" PRIx64 ", expected 0", flags);
	for (size_t i = 0; i < SE_RESERVED_COUNT; i++)
		if (le64_load(bytes + SE_OFF_RESERVED + i * 8))
			return img_fail(err, -ENOTSUP,
					"SESparse header at %zu: a reserved field is in use, "
					"expected 0",
					SE_OFF_RESERVED + i * 8);

	s->version = 2;
	s->entry_bytes = 8;
	s->table_entries = SE_TABLE_SECTORS * VMDK_SECTOR / 8;
	rc = check_geometry(le64_load(bytes + SE_OFF_CAPACITY), grain, s, err);
	if (!rc)
		rc = se_area(bytes, SE_OFF_VOLATILE, s->file_bytes, "the volatile header",
			     &s->volatile_off, &ignored, err);
	if (!rc)
		rc = se_area(bytes, SE_OFF_DIRECTORY, s->file_bytes, "the grain directory",
			     &s->directory_off, &directory_bytes, err);
	if (!rc)
		rc = se_area(bytes, SE_OFF_TABLES, s->file_bytes, "the grain tables",
			     &s->tables_off, &s->tables_bytes, err);
	if (!rc)
		rc = se_area(bytes, SE_OFF_GRAINS, s->file_bytes, "the grains", &s->grains_off,
			     &s->grains_bytes, err);
	if (rc)
		return rc;
	if (s->directory_entries * s->entry_bytes > directory_bytes ||
	    !range_in(s->directory_off, s->directory_entries * s->entry_bytes, s->file_bytes))
		return img_fail(err, -EUCLEAN,
				"SESparse header at %d: the grain directory has %" PRIu64 " bytes "
				"at %" PRIu64 ", expected at least %" PRIu64 " inside the file's "
				"%" PRIu64 " bytes",
				SE_OFF_DIRECTORY, directory_bytes, s->directory_off,
				s->directory_entries * s->entry_bytes, s->file_bytes);
	return 0;
}

int vmdk_parse_sparse(const uint8_t *bytes, size_t len, uint64_t file_bytes,
		      struct vmdk_sparse *out, struct img_error *err)
{
	struct vmdk_sparse s = { .kind = vmdk_sparse_kind(bytes, len), .file_bytes = file_bytes };
	int rc = -EMEDIUMTYPE;

	switch (s.kind) {
	case VMDK_HOSTED:
		rc = parse_hosted(bytes, len, &s, err);
		break;
	case VMDK_COWD:
		rc = parse_cowd(bytes, len, &s, err);
		break;
	case VMDK_SE:
		rc = parse_se(bytes, len, &s, err);
		break;
	case VMDK_NOT_SPARSE:
		img_fail(err, rc, "not a sparse VMDK extent");
		break;
	}
	if (!rc)
		*out = s;
	return rc;
}

int vmdk_parse_footer(const uint8_t *bytes, size_t len, struct vmdk_sparse *s,
		      struct img_error *err)
{
	struct vmdk_sparse footer;
	int rc = vmdk_parse_sparse(bytes, len, s->file_bytes, &footer, err);

	if (rc)
		return img_error_prefix(err, rc == -EMEDIUMTYPE ? -EUCLEAN : rc, "footer");
	if (footer.at_end)
		return img_fail(err, -EUCLEAN,
				"footer: no offset of the grain directory, as in the header");
	if (footer.kind != s->kind || footer.capacity_bytes != s->capacity_bytes ||
	    footer.grain_bytes != s->grain_bytes || footer.table_entries != s->table_entries ||
	    footer.compressed != s->compressed || footer.markers != s->markers)
		return img_fail(err, -EUCLEAN,
				"footer: %" PRIu64 " bytes in grains of %" PRIu64 " (compressed: "
				"%d, markers: %d), expected as in the header %" PRIu64 " in "
				"grains of %" PRIu64 " (compressed: %d, markers: %d)",
				footer.capacity_bytes, footer.grain_bytes, footer.compressed,
				footer.markers, s->capacity_bytes, s->grain_bytes, s->compressed,
				s->markers);
	/* The descriptor is at the front, and some writers leave its place out of the footer. */
	footer.descriptor_off = s->descriptor_off;
	footer.descriptor_bytes = s->descriptor_bytes;
	*s = footer;
	return 0;
}

int vmdk_parse_se_volatile(const uint8_t *bytes, size_t len, struct img_error *err)
{
	uint64_t replay;

	if (len < VMDK_SE_HEADER_BYTES || le64_load(bytes) != SE_VOLATILE_MAGIC)
		return img_fail(err, -EUCLEAN,
				"SESparse volatile header: no magic number %#" PRIx64,
				SE_VOLATILE_MAGIC);
	replay = le64_load(bytes + SE_VOLATILE_OFF_REPLAY);
	if (replay)
		return img_fail(err, -ENOTSUP,
				"SESparse volatile header: the journal waits to be replayed "
				"(%#" PRIx64 "), which this program cannot do",
				replay);
	return 0;
}

void vmdk_parse_marker(const uint8_t *bytes, struct vmdk_marker *out)
{
	*out = (struct vmdk_marker){
		.value = le64_load(bytes),
		.bytes = le32_load(bytes + MARKER_OFF_SIZE),
		.type = le32_load(bytes + MARKER_OFF_TYPE),
	};
}

bool vmdk_is_footer_marker(const uint8_t *sector)
{
	struct vmdk_marker m;

	vmdk_parse_marker(sector, &m);
	return m.value <= 1 && !m.bytes && m.type == VMDK_MARKER_FOOTER;
}

bool vmdk_is_grain_marker(const struct vmdk_sparse *s, const struct vmdk_marker *m)
{
	return m->value % (s->grain_bytes / VMDK_SECTOR) == 0 &&
	       m->value < s->capacity_bytes / VMDK_SECTOR && m->bytes <= vmdk_compressed_max(s);
}

bool vmdk_marker_sectors(const struct vmdk_sparse *s, const struct vmdk_marker *m,
			 uint64_t *sectors)
{
	uint64_t table = div_round_up_u64(vmdk_table_bytes(s), VMDK_SECTOR);
	uint64_t directory = div_round_up_u64(s->directory_entries * s->entry_bytes, VMDK_SECTOR);

	*sectors = m->value;
	switch (m->type) {
	case VMDK_MARKER_END:
		return !m->value;
	case VMDK_MARKER_TABLE:
		if (!m->value)
			*sectors = s->directory_entries * table;
		return !m->value || m->value == table;
	case VMDK_MARKER_DIRECTORY:
		if (!m->value)
			*sectors = directory;
		return !m->value ||
		       (m->value >= directory && m->value <= VMDK_BYTES_MAX / VMDK_SECTOR);
	case VMDK_MARKER_FOOTER:
		*sectors = 1;
		return m->value <= 1;
	case VMDK_MARKER_PROGRESS:
		return m->value <= VMDK_BYTES_MAX / VMDK_SECTOR;
	default:
		return false;
	}
}

int vmdk_parse_grain_marker(const struct vmdk_sparse *s, const uint8_t *bytes, uint64_t marker_off,
			    uint64_t grain_off, uint32_t *stored_bytes, struct img_error *err)
{
	uint64_t lba = le64_load(bytes);
	uint32_t size = le32_load(bytes + MARKER_OFF_SIZE);
	uint64_t most = vmdk_compressed_max(s);

	if (lba != grain_off / VMDK_SECTOR)
		return img_fail(err, -EUCLEAN,
				"grain marker at %" PRIu64 ": sector is %" PRIu64 ", expected "
				"%" PRIu64 ", whose table entry leads here",
				marker_off, lba, grain_off / VMDK_SECTOR);
	most = min_u64(most, s->file_bytes - marker_off - VMDK_GRAIN_MARKER_BYTES);
	if (!size || size > most)
		return img_fail(err, -EUCLEAN,
				"grain marker at %" PRIu64 ": compressed size is %" PRIu32 " "
				"bytes, expected 1 to %" PRIu64,
				marker_off, size, most);
	*stored_bytes = size;
	return 0;
}

struct vmdk_entry vmdk_directory_entry(const struct vmdk_sparse *s, const uint8_t *slot)
{
	struct vmdk_entry e = { .kind = VMDK_DAMAGED };
	uint64_t bytes = vmdk_table_bytes(s);

	if (s->kind != VMDK_SE) {
		e.value = le32_load(slot);
		e.file_off = e.value * VMDK_SECTOR;
	} else {
		e.value = le64_load(slot);
		/* An index of up to 32 bits into tables of 32 KiB: no overflow. */
		uint64_t within = (e.value & UINT32_MAX) * bytes;

		if (e.value && (e.value >> 32 != SE_DIRECTORY_TAG ||
				!range_in(within, bytes, s->tables_bytes) ||
				!add_u64(s->tables_off, within, &e.file_off)))
			return e;
	}
	if (!e.value)
		e.kind = VMDK_ABSENT;
	else if (range_in(e.file_off, bytes, s->file_bytes))
		e.kind = VMDK_STORED;
	return e;
}

static struct vmdk_entry se_table_entry(const struct vmdk_sparse *s, uint64_t value, uint64_t need)
{
	struct vmdk_entry e = { .kind = VMDK_DAMAGED, .value = value };
	uint64_t index = (value & UINT64_C(0x0fff000000000000)) >> 48 |
			 (value & UINT64_C(0x0000ffffffffffff)) << 12;
	uint64_t within;

	switch (value >> 60) {
	case 0:
		if (!value)
			e.kind = VMDK_ABSENT;
		break;
	case 1: /* unmapped by the guest */
	case 2:
		e.kind = VMDK_ZERO;
		break;
	case 3:
		if (mul_u64(index, s->grain_bytes, &within) &&
		    range_in(within, s->grain_bytes, s->grains_bytes) &&
		    add_u64(s->grains_off, within, &e.file_off) &&
		    range_in(e.file_off, need, s->file_bytes))
			e.kind = VMDK_STORED;
		break;
	default:
		break;
	}
	return e;
}

struct vmdk_entry vmdk_table_entry(const struct vmdk_sparse *s, const uint8_t *slot, uint64_t need)
{
	if (s->kind == VMDK_SE)
		return se_table_entry(s, le64_load(slot), need);

	uint32_t sector = le32_load(slot);
	struct vmdk_entry e = {
		.kind = VMDK_DAMAGED,
		.value = sector,
		.file_off = (uint64_t)sector * VMDK_SECTOR,
	};

	if (!sector)
		e.kind = VMDK_ABSENT;
	else if (sector == 1 && s->zeroed_grains)
		e.kind = VMDK_ZERO;
	else if (sector != 1 && range_in(e.file_off, need, s->file_bytes))
		e.kind = VMDK_STORED; /* sector 1 has the descriptor: never a grain */
	return e;
}

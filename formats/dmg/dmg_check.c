/*
 * Checking: chunks cover the disk, all of them can be unpacked, and checksums are right: of what the chunks of each block
 * table unpack to, of these checksums, and of the data fork.
 */
#include <errno.h>
#include <inttypes.h>
#include <libdeflate.h>
#include <stdio.h>
#include <stdlib.h>
#include <zlib.h>

#include "formats/dmg/dmg_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	PIECE = 1 << 20, /* of what is read for its checksum alone */
};

struct checking {
	struct img *img;
	struct img_check *check;
	uint8_t *stored, *unpacked;
	size_t stored_bytes, unpacked_bytes; /* there is memory for */
	uint32_t master;
	bool has_master; /* each table so far has a checksum */
};

static int no_memory(const struct checking *c, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", c->img->name);
}

static bool reserve(uint8_t **buf, size_t *bytes, size_t need)
{
	if (need <= *bytes)
		return true;
	free(*buf);
	*buf = malloc(need);
	*bytes = *buf ? need : 0;
	return *buf;
}

/* Go on over zeroes, however many. */
static uint32_t crc_zeroes(uint32_t crc, uint64_t len)
{
	static const uint8_t zero = 0;
	uint32_t zeroes = libdeflate_crc32(0, &zero, 1); /* of step bytes */

	for (uint64_t step = 1; len; len -= len & step, step *= 2) {
		if (len & step)
			crc = (uint32_t)crc32_combine(crc, zeroes, (z_off_t)step);
		zeroes = (uint32_t)crc32_combine(zeroes, zeroes, (z_off_t)step);
	}
	return crc;
}

static int crc_file(struct checking *c, uint64_t off, uint64_t len, uint32_t *crc, struct img_error *err)
{
	int rc = 0;

	if (!reserve(&c->stored, &c->stored_bytes, PIECE))
		return no_memory(c, err);
	for (uint64_t n; len && !rc; off += n, len -= n) {
		n = min_u64(len, PIECE);
		rc = img_storage_read(c->img->file, off, c->stored, (size_t)n, err);
		if (!rc)
			*crc = libdeflate_crc32(*crc, c->stored, (size_t)n);
	}
	return rc;
}

/*
 * 0: the checksum goes on over it; 1: a defect, that was reported; or a negative errno: of the file, not of
 * what is in it.
 */
static int unpack(struct checking *c, const struct dmg_entry *e, uint32_t *crc, struct img_error *err)
{
	const struct img_codec *codec = dmg_codec(e->type);
	size_t bytes = (size_t)e->sectors * DMG_SECTOR;
	struct img_error why = { 0 };
	int rc;

	if (!codec || codec->missing) {
		if (!c->check->result.check_errors++)
			img_check_report(c->check,
					 "Not checked: the chunk of sector %" PRIu64 ", and others: type %#" PRIx32 ": %s",
					 e->sector, e->type, codec ? codec->missing : "not known");
		return 1;
	}
	if (!reserve(&c->stored, &c->stored_bytes, (size_t)e->len) ||
	    !reserve(&c->unpacked, &c->unpacked_bytes, bytes))
		return no_memory(c, err);
	rc = img_storage_read(c->img->file, e->off, c->stored, (size_t)e->len, err);
	if (rc)
		return rc;
	rc = codec->decode(c->stored, (size_t)e->len, c->unpacked, bytes, &why);
	if (!rc) {
		*crc = libdeflate_crc32(*crc, c->unpacked, bytes);
		return 0;
	}
	if (rc == -ENOMEM)
		return no_memory(c, err);
	img_check_defect(c->check, "ERROR: the chunk of sector %" PRIu64 " at %" PRIu64 ": %s", e->sector, e->off,
			 img_error_text(&why));
	img_error_clear(&why);
	return 1;
}

static int check_entry(struct checking *c, const struct dmg_entry *e, uint32_t *crc, struct img_error *err)
{
	struct img_check_result *r = &c->check->result;

	if (!dmg_has_sectors(e) || e->type == DMG_IGNORED)
		return 0;
	if (e->type == DMG_ZEROES) {
		*crc = crc_zeroes(*crc, e->sectors * DMG_SECTOR);
		return 0;
	}
	if (!range_in(e->off, e->len, c->img->file->size)) {
		img_check_defect(c->check,
				 "ERROR: the chunk of sector %" PRIu64 " at %" PRIu64 " needs %" PRIu64
				 ", the file ends at %" PRIu64,
				 e->sector, e->off, e->off + e->len, (uint64_t)c->img->file->size);
		return 1;
	}
	r->allocated_units++;
	r->compressed_units += e->type != DMG_PLAIN;
	r->image_end = max_u64(r->image_end, e->off + e->len);
	return e->type == DMG_PLAIN ? crc_file(c, e->off, e->len, crc, err)
				    : unpack(c, e, crc, err);
}

static bool is_crc(const struct dmg_checksum *s)
{
	return s->type == DMG_CHECKSUM_CRC32 && s->bits == 32;
}

/* what: with where it is. */
static void compare(struct checking *c, const char *what, const struct dmg_checksum *want, uint32_t got)
{
	if (got != want->value)
		img_check_defect(c->check, "ERROR: CRC-32 of %s is 0x%08" PRIx32 ", expected 0x%08" PRIx32, what, got,
				 want->value);
}

static int check_table(void *user, unsigned number, const uint8_t *bytes, size_t len, struct img_error *err)
{
	struct checking *c = user;
	const struct dmg *d = c->img->state;
	struct dmg_table table;
	bool whole = true;
	uint32_t crc = 0;
	uint8_t value[4];
	char what[64];
	int rc = dmg_read_table(c->img, &d->trailer, number, bytes, len, &table, err);

	for (uint32_t i = 0; rc >= 0 && i < table.entries; i++) {
		struct dmg_entry e;

		rc = dmg_read_entry(c->img, &table, number, bytes, i, &e, err);
		if (!rc)
			rc = check_entry(c, &e, &crc, err);
		whole &= !rc;
		c->check->result.total_units += dmg_has_sectors(&e);
	}
	if (rc < 0)
		return rc;
	if (!is_crc(&table.checksum)) {
		c->has_master = false;
		return 0;
	}
	be32_store(value, table.checksum.value);
	c->master = libdeflate_crc32(c->master, value, sizeof(value));
	snprintf(what, sizeof(what), "block table %u, from sector %" PRIu64, number, table.first_sector);
	if (whole)
		compare(c, what, &table.checksum, crc);
	return 0;
}

static void check_cover(struct checking *c)
{
	const struct dmg *d = c->img->state;
	uint64_t next = 0;

	for (size_t i = 0; i <= d->count && next < d->trailer.sectors; i++) {
		uint64_t first = i < d->count ? d->chunks[i].first : d->trailer.sectors;

		first = min_u64(first, d->trailer.sectors);
		if (first > next)
			img_check_defect(c->check, "ERROR: no chunk has sectors %" PRIu64 " to %" PRIu64, next,
					 first - 1);
		if (i < d->count)
			next = d->chunks[i].first + d->chunks[i].sectors;
	}
}

static int check_data_fork(struct checking *c, struct img_error *err)
{
	const struct dmg *d = c->img->state;
	const struct dmg_trailer *t = &d->trailer;
	uint32_t crc = 0;
	int rc;

	if (!range_in(t->data_off, t->data_len, c->img->file->size)) {
		img_check_defect(c->check,
				 "ERROR: the data fork at %" PRIu64 " has %" PRIu64 " bytes, the file ends at %" PRIu64,
				 t->data_off, t->data_len, (uint64_t)c->img->file->size);
		return 0;
	}
	if (!is_crc(&t->data))
		return 0;
	rc = crc_file(c, t->data_off, t->data_len, &crc, err);
	if (!rc)
		compare(c, "the data fork", &t->data, crc);
	return rc;
}

int dmg_check(struct img *img, struct img_check *check, struct img_error *err)
{
	const struct dmg *d = img->state;
	struct checking c = { .img = img,
			      .check = check,
			      .has_master = is_crc(&d->trailer.master) };
	int rc;

	check_cover(&c);
	rc = dmg_for_each_table(img, &d->trailer, check_table, &c, err);
	if (!rc && c.has_master)
		compare(&c, "the checksums of all block tables", &d->trailer.master, c.master);
	if (!rc)
		rc = check_data_fork(&c, err);
	free(c.stored);
	free(c.unpacked);
	return rc;
}

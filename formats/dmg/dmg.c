/*
 * Disk images of Macs (UDIF): spec/dmg.md. Opening, closing and reading; they are read only.
 *
 * data fork: chunks | property list or resource fork: which sectors each of them has | trailer
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/dmg/dmg_state.h"
#include "libimg/base/arith.h"

extern const struct img_driver dmg_driver;

enum {
	TAIL_BYTES = 2 * DMG_TRAILER_BYTES - 1, /* a trailer begins in it */
	UNIT_BYTES = 1 << 20,			/* hdiutil's chunks; where none is compressed */
};

static const char encrypted_2[] = "encrcdsa"; /* at the front */
static const char encrypted_1[] = "cdsaencr"; /* at the end */

/* ---- Probing ---- */

static int dmg_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)file_size;
	if (tail && dmg_find_trailer(tail, IMG_PROBE_TAIL) >= 0)
		return 100;
	if (len >= DMG_TRAILER_BYTES && dmg_is_trailer(head))
		return 100;
	/* Both are refused, but not taken for raw disks. */
	if (len >= 8 && !memcmp(head, encrypted_2, 8))
		return 100;
	return tail && !memcmp(tail + IMG_PROBE_TAIL - 8, encrypted_1, 8) ? 90 : 0;
}

/* ---- Opening ---- */

static int read_trailer(struct img *img, struct dmg_trailer *t, struct img_error *err)
{
	uint8_t head[DMG_TRAILER_BYTES], tail[TAIL_BYTES];
	uint64_t size = img->file->size, from;
	size_t len = (size_t)min_u64(size, TAIL_BYTES);
	const uint8_t *bytes = head;
	int64_t at;
	int rc;

	if (size < DMG_TRAILER_BYTES)
		return img_fail(err, -EMEDIUMTYPE, "%s: not a disk image of a Mac", img->name);
	from = size - len;
	rc = img_storage_read(img->file, 0, head, sizeof(head), err);
	if (!rc)
		rc = img_storage_read(img->file, from, tail, len, err);
	if (rc)
		return rc;
	at = dmg_find_trailer(tail, len);
	if (at >= 0) {
		bytes = tail + at;
		from += (uint64_t)at;
	} else if (dmg_is_trailer(head)) {
		from = 0;
	} else if (!memcmp(head, encrypted_2, 8) || !memcmp(tail + len - 8, encrypted_1, 8)) {
		return img_fail(err, -ENOTSUP, "%s: an encrypted disk image (%s), which cannot be read", img->name,
				memcmp(head, encrypted_2, 8) != 0 ? encrypted_1 : encrypted_2);
	} else {
		return img_fail(err, -EMEDIUMTYPE, "%s: not a disk image of a Mac", img->name);
	}
	rc = dmg_parse_trailer(bytes, t, err);
	if (rc)
		return img_error_prefix(err, rc, "%s: trailer at %" PRIu64, img->name, from);
	if (t->segments > 1)
		return img_fail(err, -ENOTSUP,
				"%s: trailer at %" PRIu64 ": segment %" PRIu32 " of %" PRIu32
				", expected a disk image in one file",
				img->name, from, t->segment, t->segments);
	return 0;
}

/* What is gathered. */
struct loading {
	struct img *img;
	struct dmg *d;
	size_t space; /* for chunks */
};

/* Chunks of zeroes, and plain ones, that go on become one. */
static bool join(struct dmg_chunk *last, const struct dmg_chunk *next)
{
	if (last->type != next->type || last->first + last->sectors != next->first)
		return false;
	if (last->type != DMG_ZEROES &&
	    (last->type != DMG_PLAIN || last->file_off + last->sectors * DMG_SECTOR != next->file_off))
		return false;
	last->sectors += next->sectors;
	return true;
}

static int add_chunk(struct loading *l, const struct dmg_entry *e, struct img_error *err)
{
	struct dmg *d = l->d;
	bool zeroes = dmg_is_zeroes(e->type);
	const struct dmg_chunk c = {
		.first = e->sector,
		.sectors = e->sectors,
		.file_off = zeroes ? 0 : e->off,
		.stored = zeroes || e->type == DMG_PLAIN ? 0 : (uint32_t)e->len,
		.type = zeroes ? DMG_ZEROES : e->type,
	};

	if (d->count && join(&d->chunks[d->count - 1], &c))
		return 0;
	if (d->count == DMG_CHUNKS_MAX)
		return img_fail(err, -EUCLEAN, "%s: more than %d chunks", l->img->name, DMG_CHUNKS_MAX);
	if (d->count == l->space) {
		size_t space = l->space ? 2 * l->space : 64;
		struct dmg_chunk *more = reallocarray(d->chunks, space, sizeof(*more));

		if (!more)
			return img_fail(err, -ENOMEM, "%s: out of memory", l->img->name);
		d->chunks = more;
		l->space = space;
	}
	d->chunks[d->count++] = c;
	return 0;
}

static int load_table(void *user, unsigned number, const uint8_t *bytes, size_t len, struct img_error *err)
{
	struct loading *l = user;
	const struct dmg_trailer *t = &l->d->trailer;
	struct dmg_table table;
	int rc = dmg_read_table(l->img, t, number, bytes, len, &table, err);

	for (uint32_t i = 0; !rc && i < table.entries; i++) {
		struct dmg_entry e;

		rc = dmg_read_entry(l->img, &table, number, bytes, i, &e, err);
		if (!rc && dmg_has_sectors(&e))
			rc = add_chunk(l, &e, err);
	}
	return rc;
}

static int compare_chunks(const void *a, const void *b)
{
	const struct dmg_chunk *x = a, *y = b;

	return x->first < y->first ? -1 : x->first > y->first;
}

static int order_chunks(struct loading *l, struct img_error *err)
{
	struct dmg *d = l->d;

	if (d->count)
		qsort(d->chunks, d->count, sizeof(*d->chunks), compare_chunks);
	for (size_t i = 1; i < d->count; i++) {
		const struct dmg_chunk *a = &d->chunks[i - 1], *b = &d->chunks[i];

		if (a->first + a->sectors > b->first)
			return img_fail(err, -EUCLEAN,
					"%s: the chunk of sectors %" PRIu64 " to %" PRIu64
					" overlaps that of sectors %" PRIu64 " to %" PRIu64,
					l->img->name, a->first, a->first + a->sectors - 1, b->first,
					b->first + b->sectors - 1);
	}
	return 0;
}

static uint64_t largest_unit(const struct dmg *d)
{
	uint64_t sectors = 0;

	for (size_t i = 0; i < d->count; i++)
		if (d->chunks[i].type != DMG_ZEROES && d->chunks[i].type != DMG_PLAIN)
			sectors = max_u64(sectors, d->chunks[i].sectors);
	return sectors ? sectors * DMG_SECTOR : UNIT_BYTES;
}

static void free_state(struct dmg *d)
{
	if (d)
		free(d->chunks);
	free(d);
}

static int dmg_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct dmg *d = calloc(1, sizeof(*d));
	struct loading l = { .img = img, .d = d };
	int rc = d ? read_trailer(img, &d->trailer, err) : img_fail(err, -ENOMEM, "%s: out of memory", img->name);

	(void)o;
	if (!rc)
		rc = dmg_for_each_table(img, &d->trailer, load_table, &l, err);
	if (!rc)
		rc = order_chunks(&l, err);
	if (rc) {
		free_state(d);
		return rc;
	}
	img->state = d;
	img->size = d->trailer.sectors * DMG_SECTOR;
	img->unit_bytes = largest_unit(d);
	return 0;
}

static void dmg_close(struct img *img)
{
	free_state(img->state);
	img->state = NULL;
}

/* ---- Reading ---- */

const struct img_codec *dmg_codec(uint32_t type)
{
	switch (type) {
	case DMG_ADC:
		return &img_codec_adc;
	case DMG_ZLIB:
		return &img_codec_zlib;
	case DMG_BZIP2:
		return &img_codec_bzip2;
	case DMG_LZFSE:
		return &img_codec_lzfse;
	case DMG_LZMA:
		return &img_codec_xz;
	default:
		return NULL;
	}
}

/* The first chunk that ends behind a sector; NULL: none does. */
static const struct dmg_chunk *find_chunk(const struct dmg *d, uint64_t sector)
{
	size_t low = 0, high = d->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if (d->chunks[middle].first + d->chunks[middle].sectors <= sector)
			low = middle + 1;
		else
			high = middle;
	}
	return low < d->count ? &d->chunks[low] : NULL;
}

static int map_compressed(const struct img *img, const struct dmg_chunk *c, uint64_t within,
			  struct img_extent *out, struct img_error *err)
{
	const struct img_codec *codec = dmg_codec(c->type);

	if (!codec)
		return img_fail(err, -ENOTSUP,
				"%s: the chunk of sector %" PRIu64 " is of type %#" PRIx32 ", which is not known",
				img->name, c->first, c->type);
	if (codec->missing)
		return img_fail(err, -ENOTSUP, "%s: the chunk of sector %" PRIu64 " is compressed by %s: %s", img->name,
				c->first, codec->name, codec->missing);
	out->kind = IMG_COMPRESSED;
	out->codec = codec;
	out->file_off = c->file_off;
	out->stored_bytes = c->stored;
	out->unit_bytes = (uint32_t)(c->sectors * DMG_SECTOR);
	out->within = (uint32_t)within;
	return 0;
}

static int dmg_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		   struct img_extent *out)
{
	const struct dmg *d = img->state;
	uint64_t sector = off / DMG_SECTOR, within;
	const struct dmg_chunk *c = find_chunk(d, sector);

	if (!c || c->first > sector)
		return img_fail(img_req_error(req), -EUCLEAN,
				"%s: no chunk has sectors %" PRIu64 " to %" PRIu64, img->name, sector,
				(c ? c->first : d->trailer.sectors) - 1);
	within = off - c->first * DMG_SECTOR;
	*out = (struct img_extent){
		.kind = c->type == DMG_ZEROES ? IMG_ZERO : IMG_DATA,
		.length = min_u64(len, c->sectors * DMG_SECTOR - within),
	};
	if (c->type == DMG_ZEROES)
		return 0;
	out->storage = img->file;
	out->file_off = c->file_off + within;
	return c->type == DMG_PLAIN ? 0 : map_compressed(img, c, within, out, img_req_error(req));
}

const struct img_driver dmg_driver = {
	.name = "dmg",
	.features = IMG_DRIVER_READ_ONLY | IMG_DRIVER_REPORT_DIRTY_ONLY,
	.probe = dmg_probe,
	.open = dmg_open,
	.close = dmg_close,
	.map = dmg_map,
	.check = dmg_check,
};

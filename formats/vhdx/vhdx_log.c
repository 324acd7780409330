/*
 * The log. Every change to metadata is written there first, as an entry that holds all of it, and is
 * durable before the metadata itself is touched; who opens the file after a crash repeats what the
 * entries of the active sequence say.
 *
 * Entries written here stand alone: each names itself as the sequence's first, since what the one
 * before it holds is in its place and durable by then (driver.h, journal). They go round the log, so
 * that the one before is whole while one is being written.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/crc32c.h"
#include "libimg/base/endian.h"

enum {
	ENTRY_SECTORS_MAX = 256, /* of those written here */
	PATCHES_MAX = 64 << 10,	 /* in a replay: 64 MiB of sectors have 16384 */
	CHECKED_TIMES = 8,	 /* how often a log's bytes may be part of entries, overlapping ones */
};

/* ---- Finding the active sequence ---- */

/* What begins at a sector of the log; sequence 0: no valid entry. */
struct found {
	uint64_t sequence;
	uint32_t sectors, tail;
};

struct reading {
	const struct img *img;
	const struct vhdx *v;
	uint8_t *bytes;	  /* the whole log */
	uint64_t sectors; /* of it */
	uint64_t budget;  /* bytes that may still be summed up */
	struct found *found;
	bool torn; /* there is what may have been an entry */
};

/* The log goes round. */
static uint8_t *log_sector(const struct reading *r, uint64_t i)
{
	return r->bytes + i % r->sectors * VHDX_LOG_SECTOR;
}

/* Descriptor number i of the entry at a sector. */
static const uint8_t *descriptor_at(const struct reading *r, uint64_t first, uint64_t i)
{
	uint64_t at = VHDX_LOG_HEADER_BYTES + i * VHDX_LOG_DESCRIPTOR_BYTES;

	return log_sector(r, first + at / VHDX_LOG_SECTOR) + at % VHDX_LOG_SECTOR;
}

static uint32_t checksum(const struct reading *r, uint64_t first, uint64_t sectors)
{
	static const uint8_t none[4];
	const uint8_t *head = log_sector(r, first);
	uint32_t crc = img_crc32c(0, head, 4);

	crc = img_crc32c(crc, none, sizeof(none));
	crc = img_crc32c(crc, head + 8, VHDX_LOG_SECTOR - 8);
	for (uint64_t i = 1; i < sectors; i++)
		crc = img_crc32c(crc, log_sector(r, first + i), VHDX_LOG_SECTOR);
	return crc;
}

static bool is_data_of(const uint8_t *sector, uint64_t sequence)
{
	return !memcmp(sector, "data", 4) && le32_load(sector + 4) == (uint32_t)(sequence >> 32) &&
	       le32_load(sector + VHDX_LOG_SECTOR - 4) == (uint32_t)sequence;
}

/* Do the parts of an entry belong together? */
static bool is_whole(const struct reading *r, uint64_t first, const struct vhdx_log_header *h)
{
	uint64_t next = vhdx_log_descriptor_sectors(h->descriptors);
	uint64_t sectors = h->bytes / VHDX_LOG_SECTOR;

	for (uint64_t i = 0; i < h->descriptors; i++) {
		struct vhdx_log_descriptor d;

		if (!vhdx_parse_log_descriptor(descriptor_at(r, first, i), &d) ||
		    d.sequence != h->sequence)
			return false;
		if (d.zero)
			continue;
		if (next == sectors || !is_data_of(log_sector(r, first + next), h->sequence))
			return false;
		next++;
	}
	return true;
}

/* -EUCLEAN: something claims to be an entry of this log that none can be. */
static int look_at_sector(struct reading *r, uint64_t i, struct img_error *err)
{
	const uint8_t *sector = log_sector(r, i);
	const struct vhdx_header *header = &r->v->header;
	struct vhdx_log_header h;

	if (memcmp(sector, "loge", 4) != 0 || !img_guid_equal(sector + 32, header->log_guid))
		return 0;
	if (!vhdx_parse_log_header(sector, header->log_bytes, &h)) {
		r->torn = true;
		return 0;
	}
	if (h.bytes > r->budget)
		return img_fail(err, -EUCLEAN,
				"%s: the log at %" PRIu64
				": found entries that overlap, allowed one "
				"behind the other",
				r->img->name, header->log_off);
	r->budget -= h.bytes;
	if (is_whole(r, i, &h) &&
	    checksum(r, i, h.bytes / VHDX_LOG_SECTOR) == le32_load(sector + 4))
		r->found[i] = (struct found){
			.sequence = h.sequence,
			.sectors = h.bytes / VHDX_LOG_SECTOR,
			.tail = h.tail / VHDX_LOG_SECTOR,
		};
	return 0;
}

/* Do the entries from tail on lead to the one at head, one behind the other? */
static bool leads_to(const struct reading *r, uint64_t tail, uint64_t head, uint64_t *count)
{
	uint64_t at = tail;

	for (*count = 1; at != head; (*count)++) {
		uint64_t next = (at + r->found[at].sectors) % r->sectors;

		if (!r->found[at].sequence || r->found[next].sequence != r->found[at].sequence + 1)
			return false;
		at = next;
	}
	return r->found[at].sequence;
}

/*
 * The active sequence is the one that ends with the highest sequence number, of those that have their
 * beginning. *count 0: there is none.
 */
static void find_active(const struct reading *r, uint64_t *tail, uint64_t *count)
{
	uint64_t below = UINT64_MAX;

	for (;;) {
		uint64_t head = r->sectors;

		for (uint64_t i = 0; i < r->sectors; i++)
			if (r->found[i].sequence && r->found[i].sequence < below &&
			    (head == r->sectors || r->found[i].sequence > r->found[head].sequence))
				head = i;
		*count = 0;
		if (head == r->sectors)
			return;
		*tail = r->found[head].tail;
		if (leads_to(r, *tail, head, count))
			return;
		below = r->found[head].sequence;
	}
}

/* ---- What it says ---- */

struct changes {
	struct img_patch *patch;
	size_t count, max;
	uint64_t end; /* the file has to reach */
};

static int add_change(struct changes *c, uint64_t off, uint64_t len, const uint8_t *bytes)
{
	if (c->count == c->max) {
		size_t max = c->max ? c->max * 2 : 64;
		struct img_patch *more = realloc(c->patch, max * sizeof(*more));

		if (!more)
			return -ENOMEM;
		c->patch = more;
		c->max = max;
	}
	c->patch[c->count++] = (struct img_patch){ off, len, bytes };
	return 0;
}

/* One descriptor of an entry; *data: the sector that the next data descriptor has. */
static int take_descriptor(const struct reading *r, const uint8_t *bytes, uint64_t last_off,
			   uint64_t *data, struct changes *c, struct img_error *err)
{
	const struct vhdx_header *h = &r->v->header;
	struct vhdx_log_descriptor d;
	uint8_t *sector = NULL;

	if (!vhdx_parse_log_descriptor(bytes, &d))
		return img_fail(err, -EUCLEAN, "found entries that overlap");
	/* Headers have no log; the log itself is none of what it may change. */
	if (!is_aligned_u64(d.off | d.bytes, VHDX_LOG_SECTOR) || d.off < VHDX_REGION_TABLE_OFF(0) ||
	    !range_in(d.off, d.bytes, max_u64(last_off, r->img->file->size)) ||
	    (d.bytes && ranges_overlap(d.off, d.bytes, h->log_off, h->log_bytes)))
		return img_fail(err, -EUCLEAN,
				"found a change of %" PRIu64 " bytes at %" PRIu64
				", allowed whole sectors of 4096 bytes from %" PRIu64
				" on, up to the file's end at %" PRIu64 ", clear of the log",
				d.bytes, d.off, VHDX_REGION_TABLE_OFF(0),
				max_u64(last_off, r->img->file->size));
	if (!d.zero) {
		sector = log_sector(r, (*data)++);
		memcpy(sector, d.leading, sizeof(d.leading));
		memcpy(sector + VHDX_LOG_SECTOR - sizeof(d.trailing), d.trailing,
		       sizeof(d.trailing));
	}
	if (!d.bytes)
		return 0;
	if (c->count == PATCHES_MAX)
		return img_fail(err, -EUCLEAN, "more than %d changes, expected at most as many",
				PATCHES_MAX);
	return add_change(c, d.off, d.bytes, sector) ? img_fail(err, -ENOMEM, "out of memory") : 0;
}

static int take_entry(const struct reading *r, uint64_t first, struct changes *c,
		      struct img_error *err)
{
	struct vhdx_log_header h;
	uint64_t data;

	if (!vhdx_parse_log_header(log_sector(r, first), r->v->header.log_bytes, &h))
		return img_fail(err, -EUCLEAN, "found entries that overlap");
	data = first + vhdx_log_descriptor_sectors(h.descriptors);
	if (h.flushed_off > r->img->file->size)
		return img_fail(err, -EUCLEAN,
				"truncated: ends at %" PRIu64
				", the entry needs %" PRIu64,
				(uint64_t)r->img->file->size, h.flushed_off);
	if (h.last_off > VHDX_FILE_BYTES_MAX)
		return img_fail(err, -EUCLEAN,
				"file size is %" PRIu64 ", expected at most %" PRIu64, h.last_off,
				VHDX_FILE_BYTES_MAX);
	c->end = max_u64(c->end, round_up_u64(h.last_off, VHDX_MIB));
	for (uint64_t i = 0; i < h.descriptors; i++) {
		int rc = take_descriptor(r, descriptor_at(r, first, i), h.last_off, &data, c, err);

		if (rc)
			return rc;
	}
	return 0;
}

static int read_log(struct reading *r, struct changes *c, struct img_error *err)
{
	const struct vhdx_header *h = &r->v->header;
	uint64_t tail = 0, count = 0;
	int rc = img_storage_read(r->img->file, h->log_off, r->bytes, h->log_bytes, err);

	for (uint64_t i = 0; i < r->sectors && !rc; i++)
		rc = look_at_sector(r, i, err);
	if (rc)
		return rc;
	find_active(r, &tail, &count);
	/* A first entry that was not written to its end has changed nothing yet. */
	if (!count && r->torn)
		return img_fail(err, -EUCLEAN,
				"%s: the log at %" PRIu64
				" has to be replayed, and has no valid entry",
				r->img->name, h->log_off);
	while (count-- && !rc) {
		uint64_t sectors = r->found[tail].sectors, sequence = r->found[tail].sequence;

		rc = take_entry(r, tail, c, err);
		if (rc)
			return img_error_prefix(err, rc,
						"%s: the log's entry %" PRIu64 " at %" PRIu64,
						r->img->name, sequence,
						h->log_off + tail * VHDX_LOG_SECTOR);
		tail = (tail + sectors) % r->sectors;
	}
	return rc;
}

/* Carry the changes out in the file, and give the log up. */
static int replay_to_file(struct img *img, struct vhdx *v, const struct changes *c,
			  struct img_error *err)
{
	static const uint64_t random[2];
	struct img_storage *s = img->file;
	int rc = 0;

	for (size_t i = 0; i < c->count && !rc; i++) {
		const struct img_patch *p = &c->patch[i];

		rc = p->bytes ? img_storage_write(s, p->off, p->bytes, p->len, err)
			      : img_storage_zero(s, p->off, p->len, err);
	}
	if (!rc && c->end > s->size && !s->device)
		rc = img_storage_resize(s, c->end, IMG_PREALLOCATE_OFF, err);
	if (!rc)
		rc = vhdx_sync(img, err);
	if (!rc)
		rc = img_guid_new(random, "", v->header.file_write, err);
	if (rc)
		return rc;
	memset(v->header.log_guid, 0, sizeof(v->header.log_guid));
	return vhdx_write_headers(img, v, err);
}

int vhdx_replay_log(struct img *img, struct vhdx *v, struct img_error *err)
{
	struct reading r = { .img = img, .v = v, .sectors = v->header.log_bytes / VHDX_LOG_SECTOR };
	struct changes c = { 0 };
	int rc;

	if (v->header.log_bytes > VHDX_LOG_BYTES_MAX)
		return img_fail(err, -EFBIG,
				"%s: the log, which has to be replayed, is %" PRIu64
				" bytes, expected at most %" PRIu64,
				img->name, v->header.log_bytes, VHDX_LOG_BYTES_MAX);
	r.budget = CHECKED_TIMES * v->header.log_bytes;
	r.bytes = malloc(v->header.log_bytes);
	r.found = calloc(r.sectors, sizeof(*r.found));
	if (!r.bytes || !r.found)
		rc = vhdx_no_memory(img, err);
	else
		rc = read_log(&r, &c, err);
	if (!rc && img->writable) {
		rc = replay_to_file(img, v, &c, err);
	} else if (!rc) {
		rc = img_storage_patched(img->file, c.patch, c.count, c.end, &v->replayed);
		if (rc) {
			vhdx_no_memory(img, err);
		} else {
			c.patch = NULL;
			v->log_bytes = r.bytes;
			r.bytes = NULL;
			v->storage = v->replayed;
		}
	}
	free(c.patch);
	free(r.bytes);
	free(r.found);
	return rc;
}

/* ---- Writing ---- */

static uint64_t entry_sectors(const struct vhdx *v)
{
	/* Half of it, so that an entry never lies over the one before. */
	return min_u64(v->header.log_bytes / 2 / VHDX_LOG_SECTOR, ENTRY_SECTORS_MAX);
}

static uint64_t most_pages(const struct vhdx *v)
{
	uint64_t sectors = entry_sectors(v), pages = sectors - 1;

	while (pages + vhdx_log_descriptor_sectors(pages) > sectors)
		pages--;
	return pages;
}

uint64_t vhdx_log_capacity(const struct vhdx *v)
{
	return most_pages(v) * VHDX_LOG_SECTOR;
}

/* The 4 KiB of the file that an entry changes. */
struct pages {
	uint64_t *off;
	size_t count, max;
	uint8_t *bytes; /* VHDX_LOG_SECTOR each */
};

/* The page at off, with what the file has there; NULL: said why not. */
static uint8_t *page_at(struct img *img, struct pages *p, uint64_t off, bool whole,
			struct img_error *err)
{
	size_t i = p->count;
	uint8_t *bytes;

	while (i && p->off[i - 1] != off)
		i--;
	if (i)
		return p->bytes + (i - 1) * VHDX_LOG_SECTOR;
	if (p->count == p->max) {
		img_fail(err, -EIO, "%s: a change of the log has more than %zu pages", img->name,
			 p->max);
		return NULL;
	}
	bytes = p->bytes + p->count * VHDX_LOG_SECTOR;
	if (!whole && img_storage_read(img->file, off, bytes, VHDX_LOG_SECTOR, err))
		return NULL;
	p->off[p->count++] = off;
	return bytes;
}

static int add_pages(struct img *img, struct pages *p, const struct img_meta_write *w,
		     struct img_error *err)
{
	uint64_t off = w->off, end = w->off + w->len;

	while (off < end) {
		uint64_t page = align_down_u64(off, VHDX_LOG_SECTOR), within = off - page;
		uint64_t len = min_u64(end - off, VHDX_LOG_SECTOR - within);
		uint8_t *bytes = page_at(img, p, page, len == VHDX_LOG_SECTOR, err);

		if (!bytes)
			return -EIO;
		memcpy(bytes + within, w->data + (off - w->off), len);
		off += len;
	}
	return 0;
}

/* Write len bytes at log offset at; the log goes round. */
static int write_around(struct img *img, uint64_t at, const uint8_t *bytes, uint64_t len,
			struct img_error *err)
{
	const struct vhdx_header *h = &((const struct vhdx *)img->state)->header;
	uint64_t first = min_u64(len, h->log_bytes - at);
	int rc = img_storage_write(img->file, h->log_off + at, bytes, first, err);

	if (!rc && first < len)
		rc = img_storage_write(img->file, h->log_off, bytes + first, len - first, err);
	return rc;
}

/* One entry that sets the pages, durable when this returns. */
static int write_entry(struct img *img, const struct pages *p, struct img_error *err)
{
	struct vhdx *v = img->state;
	uint64_t sectors = vhdx_log_descriptor_sectors(p->count), size = img->file->size;
	struct vhdx_log_header h = {
		.bytes = (uint32_t)((sectors + p->count) * VHDX_LOG_SECTOR),
		.tail = (uint32_t)v->log.at,
		.sequence = v->log.sequence,
		.descriptors = (uint32_t)p->count,
		.flushed_off = v->log.durable,
		.last_off = round_up_u64(size, VHDX_MIB),
	};
	uint8_t *entry = v->log.buffer;
	int rc;

	memcpy(h.guid, v->header.log_guid, sizeof(h.guid));
	memset(entry, 0, sectors * VHDX_LOG_SECTOR);
	vhdx_encode_log_header(&h, entry);
	for (size_t i = 0; i < p->count; i++)
		vhdx_encode_log_data(h.sequence, p->off[i], p->bytes + i * VHDX_LOG_SECTOR,
				     entry + VHDX_LOG_HEADER_BYTES + i * VHDX_LOG_DESCRIPTOR_BYTES,
				     entry + (sectors + i) * VHDX_LOG_SECTOR);
	vhdx_seal_log_entry(entry, h.bytes);
	rc = write_around(img, v->log.at, entry, h.bytes, err);
	if (!rc)
		rc = vhdx_sync(img, err);
	if (rc)
		return rc;
	v->log.durable = max_u64(v->log.durable, size);
	v->log.at = (v->log.at + h.bytes) % v->header.log_bytes;
	v->log.sequence++;
	return 0;
}

static int have_buffer(struct img *img, struct img_error *err)
{
	struct vhdx *v = img->state;

	if (!v->log.buffer)
		v->log.buffer = malloc(entry_sectors(v) * VHDX_LOG_SECTOR);
	return v->log.buffer ? 0 : vhdx_no_memory(img, err);
}

/* An entry without changes, so that the log is valid before the header says that it counts. */
static int begin_log(struct img *img, struct img_error *err)
{
	struct vhdx *v = img->state;
	uint64_t size = img->file->size;
	int rc = have_buffer(img, err);

	/* What another program wrote before need not be durable. */
	if (!rc && !img->unsafe)
		rc = img_storage_sync(img->file, err);
	if (rc)
		return rc;
	v->log.at = 0;
	v->log.sequence = 1;
	v->log.durable = size;
	return write_entry(img, &(const struct pages){ 0 }, err);
}

int vhdx_open_log(struct img *img, struct img_error *err)
{
	struct vhdx *v = img->state;
	int rc;

	if (v->log_open)
		return 0;
	rc = vhdx_new_guid(img, "log", v->header.log_guid, err);
	if (!rc && !img->created)
		rc = vhdx_new_guid(img, "file write", v->header.file_write, err);
	if (!rc)
		rc = begin_log(img, err);
	if (!rc)
		rc = vhdx_write_headers(img, v, err);
	v->log_open = !rc;
	return rc;
}

/* May the log's last entry be given up? */
static int check_stuck(const struct img *img, struct img_error *err)
{
	const struct vhdx *v = img->state;

	if (!v->log.stuck)
		return 0;
	return img_fail(err, -EIO,
			"%s: an earlier change of its metadata failed: it is completed from the log when the "
			"image is opened again",
			img->name);
}

int vhdx_close_log(struct img *img, struct img_error *err)
{
	struct vhdx *v = img->state;
	int rc = check_stuck(img, err);

	if (!rc)
		rc = vhdx_sync(img, err);
	if (rc || !v->log_open)
		return rc;
	memset(v->header.log_guid, 0, sizeof(v->header.log_guid));
	rc = vhdx_write_headers(img, v, err);
	v->log_open = !!rc;
	return rc;
}

int vhdx_journal(struct img *img, const struct img_meta_write *writes, size_t n,
		 struct img_error *err)
{
	struct vhdx *v = img->state;
	struct pages p = { .max = most_pages(v) };
	int rc = check_stuck(img, err);

	if (!rc)
		rc = vhdx_open_log(img, err);
	if (!rc)
		rc = have_buffer(img, err);
	if (rc)
		return rc;
	p.off = calloc(p.max, sizeof(*p.off));
	p.bytes = malloc(p.max * VHDX_LOG_SECTOR);
	if (!p.off || !p.bytes)
		rc = vhdx_no_memory(img, err);
	for (size_t i = 0; i < n && !rc; i++)
		rc = add_pages(img, &p, &writes[i], err);
	if (!rc)
		rc = write_entry(img, &p, err);
	free(p.off);
	free(p.bytes);
	return rc;
}

int vhdx_write_logged(struct img *img, const struct vhdx_change *changes, size_t n,
		      struct img_error *err)
{
	struct vhdx *v = img->state;
	struct img_meta_write *writes = calloc(n, sizeof(*writes));
	int rc = writes ? vhdx_sync(img, err) : vhdx_no_memory(img, err);

	for (size_t i = 0; i < n && writes; i++)
		writes[i] = (struct img_meta_write){
			.storage = img->file,
			.off = changes[i].off,
			.len = changes[i].len,
			.rank = IMG_RANK_MAPPING,
			.data = (uint8_t *)(uintptr_t)changes[i].bytes,
		};
	if (!rc)
		rc = vhdx_journal(img, writes, n, err);
	free(writes);
	if (rc)
		return rc;
	for (size_t i = 0; i < n && !rc; i++) {
		rc = img_storage_write(img->file, changes[i].off, changes[i].bytes, changes[i].len,
				       err);
		img_meta_forget(img, img->file, changes[i].off, changes[i].len);
	}
	if (!rc)
		rc = vhdx_sync(img, err);
	v->log.stuck = rc != 0;
	return rc;
}

int vhdx_write_bytes(struct img *img, uint64_t off, const void *bytes, size_t len,
		     struct img_error *err)
{
	const uint8_t *from = bytes;
	uint64_t end = off + len;
	uint8_t *buffer = malloc(vhdx_log_capacity(img->state));
	int rc = buffer ? 0 : vhdx_no_memory(img, err);

	while (off < end && !rc) {
		uint64_t start = align_down_u64(off, VHDX_LOG_SECTOR);
		uint64_t stop = min_u64(end, start + vhdx_log_capacity(img->state));
		uint64_t whole = round_up_u64(stop, IMG_META_SECTOR) - start;
		struct vhdx_change c = { start, buffer, whole };

		rc = img_storage_read(img->file, start, buffer, whole, err);
		if (rc)
			break;
		memcpy(buffer + (off - start), from, stop - off);
		rc = vhdx_write_logged(img, &c, 1, err);
		from += stop - off;
		off = stop;
	}
	free(buffer);
	return rc;
}

/*
 * LUKS version 2: two copies of the header, one behind the other, each with a checksum and a number that
 * grows. The sound one with the higher number counts. Nothing of it is ever written.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/crypto/luks2_layout.h"
#include "libimg/storage/storage.h"

struct copy {
	struct img_luks2_header header;
	uint8_t *bytes; /* NULL: not sound */
	int rc;
	struct img_error err;
};

static void copy_free(struct copy *c)
{
	free(c->bytes);
	img_error_clear(&c->err);
}

/* One copy, at off from the start of the area. */
static int read_copy(const struct img_luks_area *a, uint64_t off, bool second, struct copy *c)
{
	uint8_t head[IMG_LUKS2_BYTES];
	int rc;

	if (!range_in(off, sizeof(head), a->bytes) ||
	    !range_in(a->off + off, sizeof(head), a->storage->size))
		return img_fail(&c->err, -EUCLEAN, "truncated: ends at %" PRIu64 ", it needs %" PRIu64,
				atomic_load(&a->storage->size), a->off + off + sizeof(head));
	rc = img_storage_read(a->storage, a->off + off, head, sizeof(head), &c->err);
	if (!rc)
		rc = img_luks2_parse(head, second, &c->header, &c->err);
	if (rc)
		return rc;
	if (c->header.off != off)
		return img_fail(&c->err, -EUCLEAN, "offset is %" PRIu64 ", expected %" PRIu64,
				c->header.off, off);
	if (!range_in(off, c->header.bytes, a->bytes) ||
	    !range_in(a->off + off, c->header.bytes, a->storage->size))
		return img_fail(&c->err, -EUCLEAN, "truncated: ends at %" PRIu64 ", it needs %" PRIu64,
				atomic_load(&a->storage->size), a->off + off + c->header.bytes);
	c->bytes = malloc(c->header.bytes);
	if (!c->bytes)
		return img_fail(&c->err, -ENOMEM, "out of memory");
	rc = img_storage_read(a->storage, a->off + off, c->bytes, c->header.bytes, &c->err);
	if (!rc)
		rc = img_luks2_check_sum(c->bytes, &c->header, &c->err);
	if (rc) {
		free(c->bytes);
		c->bytes = NULL;
	}
	return rc;
}

/* The second copy: behind the first, or where it can be if that does not tell. */
static void read_second(const struct img_luks_area *a, const struct copy *first, struct copy *c)
{
	uint64_t only = first->bytes ? first->header.bytes : 0;

	for (uint64_t off = IMG_LUKS2_HEADER_MIN; off <= IMG_LUKS2_HEADER_MAX; off *= 2) {
		if (only && off != only)
			continue;
		img_error_clear(&c->err);
		c->rc = read_copy(a, off, true, c);
		if (!c->rc || c->rc == -ENOMEM)
			return;
	}
}

static int parse(struct img_luks *l, const struct copy *c, struct img_error *err)
{
	snprintf(l->uuid, sizeof(l->uuid), "%.*s", IMG_LUKS_UUID_CHARS, c->header.uuid);
	return img_luks2_parse_json(l, c->header.bytes, (const char *)c->bytes + IMG_LUKS2_BYTES,
				    c->header.bytes - IMG_LUKS2_BYTES, err);
}

int img_luks2_open(struct img_luks *l, struct img_error *err)
{
	const struct img_luks_area *a = &l->area;
	struct copy first = { 0 }, second = { 0 };
	const struct copy *use;
	int rc;

	l->version = 2;
	first.rc = read_copy(a, 0, false, &first);
	read_second(a, &first, &second);
	use = second.bytes && (!first.bytes || second.header.sequence > first.header.sequence)
		      ? &second
		      : &first;
	if (first.rc == -ENOMEM || second.rc == -ENOMEM) {
		rc = img_fail(err, -ENOMEM, "%s: out of memory", a->name);
	} else if (!use->bytes) {
		rc = first.rc;
		img_error_move(err, &first.err);
		img_error_prefix(err, rc, "%s: LUKS header at %" PRIu64, a->name, a->off);
	} else {
		rc = parse(l, use, err);
		if (rc)
			img_error_prefix(err, rc, "%s: LUKS header at %" PRIu64, a->name,
					 a->off + use->header.off);
		else if (first.rc)
			l->copies_differ = "LUKS header: the first copy is damaged, the second is used";
		else if (second.rc)
			l->copies_differ = "LUKS header: the second copy is damaged";
		else if (first.header.sequence != second.header.sequence)
			l->copies_differ = "LUKS header: the copies are of different age, the newer is used";
	}
	copy_free(&first);
	copy_free(&second);
	return rc;
}

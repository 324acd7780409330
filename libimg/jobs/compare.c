/*
 * Comparing two images as a guest would see them: chunk by chunk, both sides read at once, a few
 * chunks ahead. What both sides know to be zeroes is not read.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/image/arguments.h"
#include "libimg/img.h"
#include "libimg/jobs/zero.h"

enum {
	CHUNK = 512 << 10,
	WINDOW = 8,
	SECTOR = 512,
};

struct compare;

struct side {
	struct compare *c;
	uint8_t *data;
	struct iovec iov;
	bool zero; /* known without reading */
};

struct pair {
	struct side side[2];
	uint64_t off;
	size_t len;
};

struct compare {
	struct img *img[2];
	uint64_t size[2];
	struct img_map_entry extent[2];
	bool have_extent[2];
	struct img_queue *q;
	struct pair pair[WINDOW];
	unsigned reads[WINDOW]; /* in flight for each pair */
	unsigned first, used;
	uint64_t pos, end; /* end: of the longer image */
	bool strict;
	struct img_compare_result *result;
	struct img_error *err;
	int rc;
	bool over; /* the answer is known */
};

static void read_done(void *user, int rc, const struct img_error *err)
{
	struct side *s = user;
	struct compare *c = s->c;

	if (rc && !c->rc)
		c->rc = img_fail(c->err, rc, "%s", img_error_text(err));
	for (unsigned i = 0; i < WINDOW; i++)
		if (s == &c->pair[i].side[0] || s == &c->pair[i].side[1])
			c->reads[i]--;
}

/* What image i is at off, and how long that holds. Past its end: zeroes that are not there. */
static int map_side(struct compare *c, int i, uint64_t off, struct img_map_entry *out)
{
	struct img_map_entry *x = &c->extent[i];

	if (off >= c->size[i]) {
		*out = (struct img_map_entry){ .start = off, .length = c->end - off, .zero = true };
		return 0;
	}
	if (!c->have_extent[i] || off < x->start || off - x->start >= x->length) {
		int rc = img_map(c->img[i], off, c->size[i] - off, true, x, c->err);

		if (rc)
			return rc;
		c->have_extent[i] = true;
	}
	*out = *x;
	out->start = off;
	out->length = x->start + x->length - off;
	return 0;
}

static int submit(struct compare *c, unsigned slot, int i)
{
	struct pair *p = &c->pair[slot];
	struct side *s = &p->side[i];
	int rc;

	s->c = c;
	if (s->zero)
		return 0;
	if (!s->data)
		s->data = aligned_alloc(4096, CHUNK);
	if (!s->data)
		return img_fail(c->err, -ENOMEM, "out of memory for comparing");
	s->iov = (struct iovec){ s->data, p->len };
	c->reads[slot]++;
	rc = img_submit_readv(c->q, c->img[i], p->off, &s->iov, 1, 0, read_done, s, NULL);
	if (rc) {
		c->reads[slot]--;
		return img_fail(c->err, rc, "%s: a read could not be submitted: %s",
				img_name(c->img[i]), strerror(-rc));
	}
	return 0;
}

/* Begin the next chunk, or step over what needs no reading. */
static int advance(struct compare *c)
{
	struct img_map_entry x[2];
	unsigned slot = (c->first + c->used) % WINDOW;
	struct pair *p = &c->pair[slot];
	uint64_t len;
	int rc;

	for (int i = 0; i < 2; i++) {
		rc = map_side(c, i, c->pos, &x[i]);
		if (rc)
			return rc;
	}
	len = min_u64(x[0].length, x[1].length);
	if (c->strict && c->pos < min_u64(c->size[0], c->size[1]) &&
	    (x[0].zero != x[1].zero || x[0].data != x[1].data || x[0].present != x[1].present ||
	     x[0].compressed != x[1].compressed)) {
		/* Earlier chunks may hold a difference of content: they speak first. */
		if (!c->used) {
			c->result->status_differs = true;
			c->result->offset = c->pos;
			c->over = true;
		}
		return 0;
	}
	if (x[0].zero && x[1].zero) {
		c->pos += len;
		return 0;
	}
	p->off = c->pos;
	p->len = (size_t)min_u64(len, CHUNK);
	c->pos += p->len;
	c->used++;
	for (int i = 0; i < 2; i++) {
		p->side[i].zero = x[i].zero;
		rc = submit(c, slot, i);
		if (rc)
			return rc;
	}
	return 0;
}

/* The first sector in which the pair differs; its length if there is none. */
static size_t first_difference(const struct pair *p)
{
	const struct side *a = &p->side[0], *b = &p->side[1];
	const uint8_t *data = a->zero ? b->data : a->data;

	if (!a->zero && !b->zero && !memcmp(a->data, b->data, p->len))
		return p->len;
	if ((a->zero || b->zero) && img_is_zero(data, p->len))
		return p->len;
	for (size_t at = 0; at < p->len; at += SECTOR) {
		size_t n = min_size(SECTOR, p->len - at);

		if (a->zero || b->zero ? !img_is_zero(data + at, n)
				       : memcmp(a->data + at, b->data + at, n) != 0)
			return at;
	}
	return p->len;
}

static void finish_first(struct compare *c)
{
	const struct pair *p = &c->pair[c->first];
	size_t at = first_difference(p);

	if (at < p->len && !c->over && !c->rc) {
		c->result->offset = p->off + at;
		c->over = true;
	}
	c->first = (c->first + 1) % WINDOW;
	c->used--;
}

static int run(struct compare *c, const struct img_compare_options *o)
{
	while (!c->rc && !c->over && (c->pos < c->end || c->used)) {
		uint64_t before;

		if (o->progress &&
		    o->progress(o->user, c->used ? c->pair[c->first].off : c->pos, c->end))
			c->rc = img_fail(c->err, -ECANCELED, "interrupted");
		while (!c->rc && !c->over && c->pos < c->end && c->used < WINDOW) {
			before = c->pos;
			c->rc = advance(c);
			if (c->pos == before)
				break;
		}
		while (!c->rc && c->used && !c->reads[c->first])
			finish_first(c);
		if (c->used && c->reads[c->first])
			img_queue_run(c->q, true);
	}
	while (img_queue_in_flight(c->q))
		img_queue_run(c->q, true);
	return c->rc;
}

int img_compare(struct img *a, struct img *b, const struct img_compare_options *options,
		struct img_compare_result *out, struct img_error *err)
{
	static const struct img_compare_options defaults;
	const struct img_compare_options *o = options ? options : &defaults;
	struct img_compare_result result = { 0 };
	struct compare *c;
	int rc = img_check_compare_options(o, err);

	if (rc)
		return rc;
	c = calloc(1, sizeof(*c));
	if (!c)
		return img_fail(err, -ENOMEM, "out of memory for comparing");
	*c = (struct compare){ .img = { a, b },
			       .size = { img_size(a), img_size(b) },
			       .strict = o->strict,
			       .result = &result,
			       .err = err };
	c->end = max_u64(c->size[0], c->size[1]);
	result.size_differs = c->size[0] != c->size[1];
	rc = o->strict && result.size_differs ? 0 : img_queue_new(o->io, &c->q, err);
	if (!rc && c->q)
		rc = run(c, o);
	if (!rc) {
		result.identical = !c->over && !(o->strict && result.size_differs);
		*out = result;
	}
	img_queue_free(c->q);
	for (unsigned i = 0; i < WINDOW; i++) {
		free(c->pair[i].side[0].data);
		free(c->pair[i].side[1].data);
	}
	free(c);
	return rc;
}

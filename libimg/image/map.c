/*
 * Where data is: one answer for the whole chain.
 *
 * The walk goes down from the image while the range is "not here". Each level may shorten the
 * range, never the answer of the levels above, so that what comes out is true for all of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/cancel.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/request.h"
#include "libimg/image/context.h"

enum { SPARSE_EVERY = 64 }; /* lookups */

/*
 * Is it worth looking for holes in s? Only if it occupies clearly less than its length: a hole
 * here and there (a table of zeroes) tells nothing about the guest's data. What was sparse is taken to
 * be so still: looking in vain costs time, and so does asking for each of a million extents. What was not is asked about
 * again now and then.
 */
static bool is_sparse(const struct img *img, struct img_storage *s)
{
	struct img_context *c = img->context;
	uint64_t allocated;

	if (atomic_load(&c->sparse) == s)
		return true;
	if (atomic_load(&c->full) == s && atomic_fetch_add(&c->full_lookups, 1) % SPARSE_EVERY)
		return false;
	allocated = img_storage_allocated(s);
	if (allocated + max_u64(allocated / 8, 2 * img->unit_bytes) >= s->size) {
		atomic_store(&c->full, s);
		return false;
	}
	atomic_store(&c->sparse, s);
	return true;
}

/*
 * Is the start of a DATA extent a hole of its file? A plain file's holes are the guest's own. In
 * other formats whole units may be holes: room that was allocated ahead and never written. Smaller
 * holes in them are of no use. IMG_LOOKUP_ASK: the storage has to be asked first.
 */
static int find_hole(const struct img_lookup *l, bool *hole, uint64_t *run)
{
	const struct img *img = l->level;
	const struct img_extent *e = &l->extent;
	bool plain = img->driver->features & IMG_DRIVER_PLAIN;
	enum img_storage_extent kind = l->stored;
	uint64_t end, off = l->off;

	*hole = false;
	*run = e->length;
	if (e->cipher || (!plain && !is_sparse(img, e->storage)))
		return 0;
	if (!l->asked)
		return IMG_LOOKUP_ASK;
	*run = min_u64(l->stored_bytes, e->length);
	if (!plain && kind == IMG_STORAGE_HOLE && *run < e->length) {
		end = multiple_down_u64(off + *run, img->unit_bytes);
		if (end > off) {
			*run = end - off;
		} else {
			kind = IMG_STORAGE_DATA;
			*run = 1;
		}
	}
	*hole = kind == IMG_STORAGE_HOLE;
	if (!*hole && !plain)
		*run = min_u64(e->length, multiple_up_u64(off + *run, img->unit_bytes) - off);
	return 0;
}

/* The beginning of what was looked up. As find_hole(). */
static int make_entry(const struct img_lookup *l, bool deep, struct img_map_entry *entry)
{
	const struct img *img = l->level;
	const struct img_extent *e = &l->extent;
	bool hole = false;
	uint64_t run = e->length;
	int rc;

	*entry = (struct img_map_entry){ .start = l->off,
					 .length = e->length,
					 .depth = l->depth,
					 .present = true,
					 .encrypted = e->cipher };
	switch (e->kind) {
	case IMG_DATA:
		if (deep) {
			rc = find_hole(l, &hole, &run);
			if (rc)
				return rc;
		}
		entry->length = run;
		entry->zero = hole;
		entry->data = !hole || !(img->driver->features & IMG_DRIVER_PLAIN);
		break;
	case IMG_ZERO:
		entry->zero = true;
		break;
	case IMG_COMPRESSED:
		entry->data = true;
		entry->compressed = true;
		break;
	case IMG_BACKING:
		entry->present = false;
		entry->zero = true;
		break;
	}
	if (e->storage && !e->cipher && (e->kind == IMG_DATA || e->kind == IMG_ZERO)) {
		entry->has_offset = true;
		entry->offset = e->file_off;
		entry->file = e->storage->name;
	}
	return 0;
}

static int check_range(const struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	int rc = img_context_is_ours(img, err);

	if (rc)
		return rc;
	if (!len || !range_in(off, len, img->size))
		return img_fail(err, -EINVAL,
				"%s: range %" PRIu64 "+%" PRIu64 " is not in the %" PRIu64
				" bytes of the disk",
				img->name, off, len, img->size);
	if (img->context->flags & IMG_OPEN_SELF_ONLY)
		return img_fail(err, -EINVAL, "%s: opened for its own report only", img->name);
	return 0;
}

/* Ask the storage for holes at the beginning of what was looked up, blocking. */
static int query_storage(struct img_lookup *l, struct img_error *err)
{
	const struct img_extent *e = &l->extent;
	int rc = img_storage_extent(e->storage, e->file_off, e->length, &l->stored,
				    &l->stored_bytes);

	l->asked = !rc;
	return rc ? img_fail(err, rc, "Could not look for holes at offset %" PRIu64 " of '%s': %s",
			     e->file_off, e->storage->name, strerrordesc_np(-rc))
		  : 0;
}

int img_map(struct img *img, uint64_t off, uint64_t len, bool deep, struct img_map_entry *entry,
	    struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct img_map_entry found;
	struct img_lookup l;
	struct img_walk *w;
	int rc = check_range(img, off, len, err);

	if (rc)
		return rc;
	/* until holes were looked for, too: space is not given to others meanwhile */
	w = img_engine_walk_begin(img);
	if (!w)
		return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
	rc = img_engine_lookup(img, off, len, deep, &l, err);
	if (!rc)
		rc = make_entry(&l, deep, &found);
	if (rc == IMG_LOOKUP_ASK) {
		rc = query_storage(&l, err);
		if (!rc)
			rc = make_entry(&l, deep, &found);
	}
	img_engine_walk_end(img, w);
	if (!rc)
		*entry = found;
	return rc;
}

/* Do b's bytes simply go on where a's end? */
static bool goes_on(const struct img_map_entry *a, const struct img_map_entry *b)
{
	return a->zero == b->zero && a->data == b->data && a->present == b->present &&
	       a->compressed == b->compressed && a->encrypted == b->encrypted &&
	       a->depth == b->depth && a->has_offset == b->has_offset && a->file == b->file &&
	       (!a->has_offset || a->offset + a->length == b->offset);
}

int img_map_each(struct img *img, uint64_t off, uint64_t len, bool deep, img_map_each_fn *fn,
		 void *user, struct img_error *err)
{
	struct img_map_entry entry = { .start = off }, next;
	uint64_t end;
	int rc = 0;

	if (len)
		rc = check_range(img, off, len, err);
	for (end = off + len; !rc && entry.start + entry.length < end;) {
		uint64_t at = entry.start + entry.length;

		rc = img_map(img, at, end - at, deep, &next, err);
		if (rc)
			break;
		if (entry.length && goes_on(&entry, &next)) {
			entry.length += next.length;
			continue;
		}
		if (entry.length)
			rc = fn(user, &entry);
		entry = next;
	}
	return rc || !entry.length ? rc : fn(user, &entry);
}

/* ---- Many, on a queue ---- */

enum {
	FIRST_ROOM = 16, /* entries */
};

struct map_request {
	const struct img *img;
	bool deep;
	struct img_map_entry *entries;
	size_t n, room, max;
	img_map_fn *done;
	void *user;
};

static int add_entry(struct map_request *m, const struct img_map_entry *e, struct img_error *err)
{
	size_t room = m->room ? min_size(m->room * 2, m->max) : min_size(FIRST_ROOM, m->max);
	struct img_map_entry *more = m->n < m->room ? m->entries
						    : reallocarray(m->entries, room, sizeof(*more));

	if (!more)
		return img_fail(err, -ENOMEM, "%s: out of memory for %zu map entries", m->img->name, room);
	if (m->n == m->room)
		m->room = room;
	m->entries = more;
	m->entries[m->n++] = *e;
	return 0;
}

static int found_more(void *user, const struct img_lookup *l, uint64_t *covered,
		      struct img_error *err)
{
	struct map_request *m = user;
	struct img_map_entry e, *last = m->n ? &m->entries[m->n - 1] : NULL;
	int rc = make_entry(l, m->deep, &e);

	if (rc)
		return rc;
	if (last && goes_on(last, &e))
		last->length += e.length;
	else if (m->n == m->max)
		return IMG_LOOKUP_ENOUGH;
	else
		rc = add_entry(m, &e, err);
	*covered = rc ? 0 : e.length;
	return rc;
}

static void mapped(void *user, int rc, const struct img_error *err)
{
	struct map_request *m = user;

	m->done(m->user, m->n ? 0 : rc, m->entries, m->n, err);
	free(m->entries);
	free(m);
}

int img_submit_map(struct img_queue *q, struct img *img, uint64_t off, uint64_t len, unsigned flags,
		   size_t max, img_map_fn *done, void *user, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct map_request *m;
	struct img_request r = { .kind = IMG_REQUEST_LOOKUP,
				 .off = off,
				 .len = len,
				 .deep = flags & IMG_MAP_DEEP,
				 .found = found_more,
				 .done = mapped };
	int rc = check_range(img, off, len, err);

	if (!rc && (flags & ~(unsigned)IMG_MAP_DEEP))
		rc = img_fail(err, -EINVAL, "flags of a map request are %#x, expected "
					    "IMG_MAP_DEEP or 0",
			      flags);
	if (!rc && !max)
		rc = img_fail(err, -EINVAL, "a map request for no entries");
	if (!rc && !img_engine_queue_is_ours(q))
		rc = img_fail(err, -EPERM,
			      "the queue is the parent process's: fork() does not hand it on");
	if (rc)
		return rc;
	m = malloc(sizeof(*m));
	if (m) {
		*m = (struct map_request){
			.img = img, .deep = r.deep, .max = max, .done = done, .user = user
		};
		r.user = r.found_user = m;
	}
	rc = m ? img_request_submit(q, img, &r) : -ENOMEM;
	if (rc)
		free(m);
	return rc ? img_fail(err, rc, "%s: out of memory for a request", img->name) : 0;
}

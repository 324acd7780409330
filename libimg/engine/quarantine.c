/*
 * Quarantine: space that a commit unlinked becomes free only when the unlinking is durable (or a
 * crash would leave an old table pointing at somebody else's new data) and every request of this
 * image, or of one above it, that started before is done (or it would read that data). Stages:
 * freed (unlinked in memory), written
 * (a write-out took the unlinking), durable; then the driver counts it as free.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/invariant.h"
#include "libimg/engine/core.h"

static bool list_reserve(struct img_freed_list *l, size_t n)
{
	struct img_freed *more;
	size_t max = l->max ? l->max : 64;

	while (max < l->n + n)
		max *= 2;
	if (max == l->max)
		return true;
	more = realloc(l->item, max * sizeof(*more));
	if (!more)
		return false;
	l->item = more;
	l->max = max;
	return true;
}

int img_free_reserve(struct img_req *req, size_t n)
{
	struct img_engine *e = req->engine;
	size_t all = e->freed_reserved + n + e->freed.n + e->freed_written.n + e->freed_durable.n;

	/* Room in every later stage too: moving on must not fail. */
	if (!list_reserve(&e->freed, all) || !list_reserve(&e->freed_written, all) ||
	    !list_reserve(&e->freed_durable, all))
		return -ENOMEM;
	e->freed_reserved += n;
	req->reserved += n;
	return 0;
}

void img_free_later(struct img_req *req, struct img_storage *s, uint64_t file_off, uint64_t len)
{
	struct img_engine *e = req->engine;

	IMG_INVARIANT(req->reserved > 0 && len > 0);
	/* any of the lists may have to hold all of them */
	IMG_INVARIANT(e->freed.n + e->freed_written.n + e->freed_durable.n <
		      min_size(min_size(e->freed.max, e->freed_written.max), e->freed_durable.max));
	e->freed.item[e->freed.n++] = (struct img_freed){ s, file_off, len, img_epoch_now() };
}

static void move_all(struct img_freed_list *to, struct img_freed_list *from)
{
	if (!from->n)
		return;
	IMG_INVARIANT(to->n + from->n <= to->max);
	memcpy(to->item + to->n, from->item, from->n * sizeof(*from->item));
	to->n += from->n;
	from->n = 0;
}

void img_quarantine_written(struct img_engine *e)
{
	move_all(&e->freed_written, &e->freed);
}

void img_quarantine_durable(struct img_engine *e)
{
	move_all(&e->freed_durable, &e->freed_written);
}

bool img_quarantine_pending(const struct img_engine *e)
{
	return e->freed.n || e->freed_written.n;
}

/*
 * Ask the driver whether this is the last use (last NULL: tell it of the release), until the metadata for that
 * is there. The lock is held, and dropped while reading.
 */
static int call_driver(struct img_engine *e, struct img_req *req, const struct img_freed *f, bool *last)
{
	const struct img_driver *d = e->img->driver;
	int rc;

	do {
		rc = last ? d->last_use(e->img, req, f->storage, f->off, f->len, last)
			  : d->release(e->img, req, f->storage, f->off, f->len);
		if (rc != IMG_NEED_METADATA)
			return rc;
		pthread_mutex_unlock(&e->lock);
		rc = img_meta_fetch(req);
		pthread_mutex_lock(&e->lock);
	} while (!rc);
	return rc;
}

static int release_one(struct img_engine *e, const struct img_freed *f, struct img_error *err)
{
	struct img_req req;
	bool last = !e->img->driver->last_use;
	int rc = 0;

	img_req_init(&req, err);
	req.engine = e;
	if (e->img->unmap) {
		if (!last)
			rc = call_driver(e, &req, f, &last);
		if (!rc && last) {
			pthread_mutex_unlock(&e->lock);
			/* Not being able to punch costs space, nothing else. */
			img_storage_punch(f->storage, f->off, f->len, NULL);
			pthread_mutex_lock(&e->lock);
		}
	}
	if (!rc)
		rc = call_driver(e, &req, f, NULL);
	img_req_unpin(&req, e);
	return rc;
}

int img_quarantine_release(struct img_engine *e, struct img_error *err)
{
	int rc = 0;
	size_t kept = 0, i;

	pthread_mutex_lock(&e->lock);
	while (e->writing_out)
		pthread_cond_wait(&e->changed, &e->lock);
	e->writing_out = true; /* nobody else moves the lists meanwhile */
	if (e->freed_durable.n)
		img_engine_reused(e);
	for (i = 0; i < e->freed_durable.n && !rc; i++) {
		struct img_freed f = e->freed_durable.item[i];

		if (!e->alone && !img_epoch_passed(&e->epochs, f.since))
			e->freed_durable.item[kept++] = f;
		else
			rc = release_one(e, &f, err);
	}
	/* What could not be released is leaked until a check finds it. */
	e->freed_durable.n = kept;
	e->writing_out = false;
	img_engine_changed(e);
	pthread_mutex_unlock(&e->lock);
	return rc;
}

void img_quarantine_free(struct img_engine *e)
{
	free(e->freed.item);
	free(e->freed_written.item);
	free(e->freed_durable.item);
}

/*
 * Write-out: metadata goes to disk here and nowhere else. One cycle copies all that is dirty, and
 * writes it rank by rank; before a rank above the first, everything written so far (guest data
 * too) is made durable. So a table on disk never points at something that is not there, whatever
 * subset of the unsynced writes a power cut leaves.
 *
 * A cycle blocks; it runs on the caller's thread (blocking calls) or on one of the waiting pool (the
 * service), never on a queue's.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/base/invariant.h"
#include "libimg/engine/core.h"

/* Let the file be as long as is counted on: new units that end in zeroes are not written to their end. */
static int lengthen(struct img_storage *s, struct img_error *err)
{
	uint64_t due = atomic_load(&s->due);
	int rc = due > atomic_load(&s->size) ? img_storage_zero(s, due, 0, err) : 0;

	if (!rc) /* unless it is more by now */
		atomic_compare_exchange_strong(&s->due, &due, 0);
	return rc;
}

int img_writeout_barrier(struct img_engine *e, struct img_error *err)
{
	for (size_t i = 0;; i++) {
		struct img_storage *s;
		int rc;

		pthread_mutex_lock(&e->lock);
		rc = e->sync_failed;
		s = i < e->ntouched ? e->touched[i] : NULL;
		pthread_mutex_unlock(&e->lock);
		if (rc)
			return img_fail(err, rc,
					"%s: an earlier sync failed; what is on disk is not "
					"known any more",
					e->img->name);
		if (!s)
			return 0;
		rc = lengthen(s, err);
		if (rc)
			return rc;
		if (!s->unsynced || e->config.unsafe)
			continue;
		rc = img_storage_sync(s, err);
		if (rc) {
			/* The kernel may have dropped the pages: a later success would lie. */
			pthread_mutex_lock(&e->lock);
			e->sync_failed = rc;
			pthread_mutex_unlock(&e->lock);
			return rc;
		}
	}
}

/* Write a group, neighbours together. */
static int write_group(const struct img_meta_group *g, struct img_error *err)
{
	size_t i = 0;

	while (i < g->n) {
		const struct img_meta_write *first = &g->writes[i];
		struct iovec iov[64];
		uint64_t end = first->off;
		int n = 0, rc;

		while (i < g->n && n < (int)IMG_ARRAY_LEN(iov) && g->writes[i].off == end &&
		       g->writes[i].storage == first->storage) {
			iov[n++] = (struct iovec){ g->writes[i].data, g->writes[i].len };
			end += g->writes[i++].len;
		}
		rc = img_storage_io(first->storage, IMG_IO_WRITE, iov, n, first->off,
				    end - first->off, 0);
		if (rc) {
			struct img_io io = { .storage = first->storage,
					     .op = IMG_IO_WRITE,
					     .off = first->off,
					     .len = end - first->off,
					     .rc = rc };

			return img_io_fail(&io, err);
		}
	}
	return 0;
}

/* ---- Formats with a journal ---- */

/* What a write takes in the journal. */
static uint64_t journal_cost(const struct img *img, uint64_t off, uint64_t len)
{
	uint32_t block = img->journal_block ? img->journal_block : IMG_META_SECTOR;

	return round_up_u64(off + len, block) - align_down_u64(off, block);
}

/* The most of a write, whole sectors, that one call takes. */
static size_t journal_piece(const struct img *img, const struct img_meta_write *w)
{
	size_t len = w->len;

	while (img->journal_bytes && len > IMG_META_SECTOR &&
	       journal_cost(img, w->off, len) > img->journal_bytes)
		len -= IMG_META_SECTOR;
	return len;
}

/* All writes, by rank, each in pieces that fit; NULL in *out: there are none. */
static int cut_writes(struct img_engine *e, const struct img_meta_group *groups,
		      struct img_meta_write **out, size_t *count, struct img_error *err)
{
	struct img_meta_write *all;
	size_t most = 0;

	*out = NULL;
	*count = 0;
	for (unsigned r = 0; r < IMG_RANKS; r++)
		for (size_t i = 0; i < groups[r].n; i++)
			most += groups[r].writes[i].len / IMG_META_SECTOR;
	if (!most)
		return 0;
	all = calloc(most, sizeof(*all));
	if (!all)
		return img_fail(err, -ENOMEM, "%s: out of memory", e->img->name);
	for (unsigned r = 0; r < IMG_RANKS; r++) {
		for (size_t i = 0; i < groups[r].n; i++) {
			struct img_meta_write w = groups[r].writes[i];

			while (w.len) {
				size_t piece = journal_piece(e->img, &w);

				all[*count] = w;
				all[(*count)++].len = piece;
				w.off += piece;
				w.data += piece;
				w.len -= piece;
			}
		}
	}
	*out = all;
	return 0;
}

/* To the journal and then in place, as many at a time as the journal takes. */
static int write_journaled(struct img_engine *e, const struct img_meta_group *groups,
			   struct img_error *err)
{
	const struct img *img = e->img;
	struct img_meta_write *all;
	size_t n, from, to;
	int rc = cut_writes(e, groups, &all, &n, err);

	for (from = 0; !rc && from < n; from = to) {
		uint64_t cost = 0;

		for (to = from; to < n; to++) {
			cost += journal_cost(img, all[to].off, all[to].len);
			if (to > from && img->journal_bytes && cost > img->journal_bytes)
				break;
		}
		rc = img_writeout_barrier(e, err);
		if (!rc)
			rc = img->driver->journal(e->img, all + from, to - from, err);
		if (!rc)
			rc = write_group(&(struct img_meta_group){ all + from, to - from, 0 }, err);
	}
	free(all);
	return rc;
}

/* In place, rank by rank. */
static int write_ranks(struct img_engine *e, const struct img_meta_group *groups,
		       struct img_error *err)
{
	int rc = 0;

	for (unsigned r = 0; !rc && r < IMG_RANKS; r++) {
		if (!groups[r].n)
			continue;
		if (r > 0)
			rc = img_writeout_barrier(e, err);
		if (!rc)
			rc = write_group(&groups[r], err);
	}
	return rc;
}

int img_writeout(struct img_engine *e, bool durable, struct img_error *err)
{
	struct img_meta_group groups[IMG_RANKS];
	uint64_t version;
	int rc;

	pthread_mutex_lock(&e->lock);
	while (e->writing_out)
		pthread_cond_wait(&e->changed, &e->lock);
	rc = img_meta_collect(e->meta, groups);
	if (rc) {
		pthread_mutex_unlock(&e->lock);
		return img_fail(err, rc, "%s: out of memory for a write-out", e->img->name);
	}
	version = img_engine_version();
	e->writing_out = true;
	img_quarantine_written(e);
	pthread_mutex_unlock(&e->lock);

	rc = e->img->driver->journal ? write_journaled(e, groups, err)
				     : write_ranks(e, groups, err);
	if (!rc && durable)
		rc = img_writeout_barrier(e, err);

	pthread_mutex_lock(&e->lock);
	img_meta_written(e->meta, groups, rc);
	if (!rc && (durable || e->config.unsafe))
		img_quarantine_durable(e);
	if (!rc && durable)
		atomic_store(&e->durable, version);
	e->writing_out = false;
	e->writeout_rc = rc;
	img_engine_changed(e);
	pthread_mutex_unlock(&e->lock);
	if (!rc && durable)
		rc = img_quarantine_release(e, err);
	return rc;
}

/* Let nobody look anything up, and wait until what was looked up is out of use. */
static void block_readers(struct img_engine *e)
{
	img_epoch_domain_close(&e->epochs);
	pthread_mutex_lock(&e->lock);
	while (!img_epoch_domain_empty(&e->epochs))
		pthread_cond_wait(&e->changed, &e->lock);
	e->alone = true;
	pthread_mutex_unlock(&e->lock);
}

/* Under the lock. */
static void admit_readers(struct img_engine *e)
{
	e->alone = false;
	img_epoch_domain_open(&e->epochs);
	img_engine_changed(e);
}

int img_writeout_drain(struct img_engine *e, bool alone, struct img_error *err)
{
	int rc = 0;

	if (alone) { /* the most of it while they still read */
		rc = img_writeout(e, true, err);
		if (rc)
			return rc;
		block_readers(e);
	}
	for (;;) {
		rc = img_writeout(e, true, err);
		pthread_mutex_lock(&e->lock);
		if (rc)
			break;
		/* What became durable frees space, which makes metadata dirty once more. */
		if (!e->writing_out && !img_meta_dirty_bytes(e->meta)) {
			e->writing_out = true;
			IMG_INVARIANT(!alone || (!e->freed.n && !e->freed_written.n &&
						 !e->freed_durable.n &&
						 img_epoch_domain_is_left(&e->epochs)));
			pthread_mutex_unlock(&e->lock);
			return 0;
		}
		pthread_mutex_unlock(&e->lock);
	}
	if (alone)
		admit_readers(e);
	pthread_mutex_unlock(&e->lock);
	return rc;
}

void img_writeout_resume(struct img_engine *e)
{
	pthread_mutex_lock(&e->lock);
	img_engine_remapped(e, 0, UINT64_MAX); /* the driver has had its way */
	img_engine_reused(e);
	e->writing_out = false;
	admit_readers(e);
	pthread_mutex_unlock(&e->lock);
}

/* The exclusive path: mark the image before its first change (which readers need not wait for), or
   grow it. */
static int run_grow(struct img_engine *e, struct img_error *err)
{
	struct img *img = e->img;
	int rc = img_writeout_drain(e, e->first_write_done, err);

	if (rc)
		return rc;
	IMG_INVARIANT(e->exclusive && !e->plans && e->writing_out &&
		      !img_meta_dirty_bytes(e->meta));
	if (!e->first_write_done) {
		rc = img->driver->first_write ? img->driver->first_write(img, err) : 0;
		e->first_write_done = !rc;
	} else {
		rc = img->driver->grow ? img->driver->grow(img, e->grow_off, e->grow_len, err)
				       : -EIO;
	}
	img_writeout_resume(e);
	return rc;
}

void img_service_run(struct img_work *work)
{
	struct img_engine *e = IMG_CONTAINER(work, struct img_engine, service_work);

	pthread_mutex_lock(&e->lock);
	for (;;) {
		struct img_error err = { 0 };
		int rc;

		if (e->growing && !e->plans) {
			pthread_mutex_unlock(&e->lock);
			rc = run_grow(e, &err);
			pthread_mutex_lock(&e->lock);
			e->growing = e->exclusive = false;
			img_wake_all(&e->growers, rc, &err);
			img_engine_changed(e);
		} else if (!img_list_empty(&e->flushes)) {
			struct img_list flushes;

			img_list_init(&flushes);
			img_list_splice(&flushes, &e->flushes);
			e->want_writeout = false;
			pthread_mutex_unlock(&e->lock);
			rc = img_writeout(e, true, &err);
			pthread_mutex_lock(&e->lock);
			img_wake_all(&flushes, rc, &err);
		} else if (e->want_writeout) {
			bool durable = img_quarantine_pending(e);

			e->want_writeout = false;
			pthread_mutex_unlock(&e->lock);
			/* A failure leaves it dirty: the next flush says so, or the next plan. */
			img_writeout(e, durable, &err);
			pthread_mutex_lock(&e->lock);
		} else {
			break;
		}
		img_error_clear(&err);
	}
	e->service_queued = false;
	pthread_cond_broadcast(&e->changed);
	pthread_mutex_unlock(&e->lock);
}

/*
 * The life of an engine, and the quiet in which blocking driver entries run.
 */
#include "libimg/engine/engine.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "libimg/base/fork.h"
#include "libimg/base/invariant.h"
#include "libimg/engine/core.h"
#include "libimg/engine/request.h"

enum {
	DEFAULT_CACHE = 4 << 20,
};

int img_engine_new(struct img *img, const struct img_engine_config *config, struct img_error *err)
{
	struct img_engine *e = calloc(1, sizeof(*e));

	if (e)
		e->meta = img_meta_cache_new(config->cache_bytes ? config->cache_bytes
								 : DEFAULT_CACHE);
	if (!e || !e->meta) {
		free(e);
		return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
	}
	e->img = img;
	e->config = *config;
	e->process = img_process_number();
	pthread_mutex_init(&e->lock, NULL);
	pthread_mutex_init(&e->blocking_lock, NULL);
	pthread_cond_init(&e->changed, NULL);
	pthread_cond_init(&e->blocking_freed, NULL);
	img_list_init(&e->blocking_idle);
	img_engine_remapped(e, 0, UINT64_MAX);
	img_engine_reused(e);
	if (!img->created) /* what is there was there before */
		e->durable = img_engine_version();
	img_epoch_domain_init(&e->epochs);
	img_queue_epochs_init(&e->walkers);
	img_list_init(&e->claims);
	img_list_init(&e->waiting);
	img_list_init(&e->growers);
	img_list_init(&e->ordered);
	img_list_init(&e->flushes);
	e->service_work.run = img_service_run;
	if (img->writable)
		img_engine_touch(e, img->file);
	img->engine = e;
	if (img->parent) /* nobody reads it yet, so that this takes no memory */
		img_engine_set_parent(img, img->parent);
	return 0;
}

/* The service may still be winding up after its last answer. */
static void wait_for_service(struct img_engine *e)
{
	pthread_mutex_lock(&e->lock);
	while (e->service_queued)
		pthread_cond_wait(&e->changed, &e->lock);
	pthread_mutex_unlock(&e->lock);
}

/* Nobody is at work on e: nothing is claimed, planned, pinned or waited for. */
static void check_idle(const struct img_engine *e)
{
	IMG_INVARIANT(!e->plans && !e->unclaimed && !e->freed_reserved);
	IMG_INVARIANT(!e->exclusive && !e->alone && !e->growing && !e->writing_out);
	IMG_INVARIANT(img_list_empty(&e->claims) && img_list_empty(&e->ordered) &&
		      img_list_empty(&e->waiting) && img_list_empty(&e->growers) &&
		      img_list_empty(&e->flushes));
	img_meta_check(e->meta, true);
}

void img_engine_free(struct img *img)
{
	struct img_engine *e = img->engine;

	if (!e)
		return;
	wait_for_service(e);
	check_idle(e);
	img_blocking_queues_free(e);
	img_queue_epochs_destroy(&e->walkers);
	img_epoch_domain_destroy(&e->epochs);
	img_meta_cache_free(e->meta);
	img_quarantine_free(e);
	free(e->touched);
	pthread_cond_destroy(&e->changed);
	pthread_cond_destroy(&e->blocking_freed);
	pthread_mutex_destroy(&e->blocking_lock);
	pthread_mutex_destroy(&e->lock);
	free(e);
	img->engine = NULL;
}

bool img_engine_is_ours(const struct img *img)
{
	return !img->engine || img->engine->process == img_process_number();
}

size_t img_engine_in_flight(struct img *img)
{
	return img->engine ? img_epoch_domain_in_flight(&img->engine->epochs, false, false) : 0;
}

int img_engine_finish(struct img *img, struct img_error *err)
{
	struct img_engine *e = img->engine;
	int rc;

	if (!img->writable || !e->changed_image)
		return 0;
	wait_for_service(e);
	rc = img_writeout_drain(e, true, err);
	if (rc)
		return rc;
	if (img->driver->finish)
		rc = img->driver->finish(img, err);
	img_writeout_resume(e);
	if (!rc)
		rc = img_writeout(e, true, err);
	IMG_INVARIANT(rc || !img_meta_dirty_bytes(e->meta));
	IMG_INVARIANT(rc || (!e->freed.n && !e->freed_written.n && !e->freed_durable.n));
	return rc;
}

/* Stop planning, and wait for the plans that are in flight. */
static void quiesce(struct img_engine *e)
{
	pthread_mutex_lock(&e->lock);
	while (e->exclusive)
		pthread_cond_wait(&e->changed, &e->lock);
	e->exclusive = true;
	while (e->plans)
		pthread_cond_wait(&e->changed, &e->lock);
	pthread_mutex_unlock(&e->lock);
}

static void resume(struct img_engine *e)
{
	pthread_mutex_lock(&e->lock);
	e->exclusive = false;
	img_engine_changed(e);
	pthread_mutex_unlock(&e->lock);
}

int img_engine_quiesce(struct img *img, enum img_quiesce how, struct img_error *err)
{
	bool alone = how != IMG_QUIESCE_FOR_READING, changing = how == IMG_QUIESCE_FOR_CHANGING;
	struct img_engine *e = img->engine;
	int rc;

	/* They end on this very thread, which is about to wait for them. */
	if (img_epoch_domain_in_flight(&e->epochs, !alone, true))
		return img_fail(err, -EDEADLK,
				"%s: requests of this thread are in flight, and would have to be "
				"done first",
				img->name);
	quiesce(e);
	rc = img_writeout_drain(e, alone, err);
	if (rc) {
		resume(e);
		return rc;
	}
	if (changing && !e->first_write_done) {
		rc = img->driver->first_write ? img->driver->first_write(img, err) : 0;
		e->first_write_done = !rc;
	}
	e->changed_image |= changing;
	if (rc)
		img_engine_resume(img);
	return rc;
}

void img_engine_resume(struct img *img)
{
	img_writeout_resume(img->engine);
	resume(img->engine);
}

/* ---- Another role ---- */

int img_engine_end_writing(struct img *img, struct img_error *err)
{
	struct img_engine *e = img->engine;
	bool changed = img_engine_is_changed(img);
	int rc = 0;

	if (changed && img->driver->finish)
		rc = img->driver->finish(img, err);
	if (!rc)
		rc = img_writeout_barrier(e, err);
	pthread_mutex_lock(&e->lock);
	e->first_write_done = false; /* its marks may be gone, also where this failed */
	e->changed_image = changed && rc;
	pthread_mutex_unlock(&e->lock);
	return rc;
}

int img_engine_keep_content(struct img *img, bool keeps, struct img_error *err)
{
	struct img_engine *e = img->engine;
	int rc = img_engine_quiesce(img, IMG_QUIESCE_FOR_CHECKING, err);

	if (rc && keeps)
		return rc;
	pthread_mutex_lock(&e->lock);
	/* Where it was changed before, it has been stamped; and what comes afterwards changes it. */
	img->content_stays = keeps && !e->first_write_done;
	if (!keeps)
		e->first_write_done = false;
	pthread_mutex_unlock(&e->lock);
	if (!rc)
		img_engine_resume(img);
	return rc;
}

void img_engine_begin_writing(struct img *img)
{
	struct img_engine *e = img->engine;

	pthread_mutex_lock(&e->lock);
	e->first_write_done = e->changed_image = false;
	e->writeout_rc = 0;
	img_engine_touch(e, img->file);
	pthread_mutex_unlock(&e->lock);
}

/* ---- Another chain ---- */

struct img_walk {
	struct img_reader reader;
	struct img_epoch_readers *readers;
};

struct img_walk *img_engine_walk_begin(struct img *img)
{
	struct img_engine *e = img->engine;
	struct img_walk *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	pthread_mutex_lock(&e->blocking_lock);
	w->readers = img_epoch_readers_find(&e->walkers, &e->epochs);
	if (!w->readers)
		w->readers = img_epoch_readers_new(&e->walkers, &e->epochs);
	if (w->readers)
		img_reader_start(w->readers, &w->reader);
	pthread_mutex_unlock(&e->blocking_lock);
	if (!w->readers) {
		free(w);
		return NULL;
	}
	return w;
}

void img_engine_walk_end(struct img *img, struct img_walk *w)
{
	struct img_engine *e = img->engine;

	pthread_mutex_lock(&e->blocking_lock);
	img_reader_end(w->readers, &w->reader);
	pthread_mutex_unlock(&e->blocking_lock);
	free(w);
}

void img_engine_drain(struct img *img)
{
	static const struct timespec pause = { .tv_nsec = 200 * 1000 };
	uint64_t now = img_epoch_now();

	/* Requests end without a lock, and tell nobody. */
	while (!img_epoch_passed(&img->engine->epochs, now))
		nanosleep(&pause, NULL);
}

bool img_engine_is_changed(struct img *img)
{
	struct img_engine *e = img->engine;
	bool changed;

	pthread_mutex_lock(&e->lock);
	changed = e->changed_image;
	pthread_mutex_unlock(&e->lock);
	return changed;
}

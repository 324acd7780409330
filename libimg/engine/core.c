/*
 * What every part of the engine leans on: waiting, waking, and remembering what was written to.
 */
#include "libimg/engine/core.h"

#include <errno.h>
#include <stdlib.h>

#include "libimg/base/invariant.h"

void img_engine_touch(struct img_engine *e, struct img_storage *s)
{
	for (size_t i = 0; i < e->ntouched; i++)
		if (e->touched[i] == s)
			return;

	struct img_storage **more = realloc(e->touched, (e->ntouched + 1) * sizeof(*more));

	if (!more) {
		e->sync_failed = -ENOMEM; /* never claim durability for what we cannot name */
		return;
	}
	e->touched = more;
	e->touched[e->ntouched++] = s;
}

void img_wake_all(struct img_list *waiters, int rc, const struct img_error *err)
{
	struct img_list *node;

	while ((node = img_list_pop(waiters))) {
		struct img_waiter *w = IMG_CONTAINER(node, struct img_waiter, link);

		w->wake(w, rc, err);
	}
}

static _Atomic uint64_t last_version;

/* A number that was never given out before. */
static uint64_t new_version(void)
{
	return atomic_fetch_add(&last_version, 1) + 1;
}

uint64_t img_engine_version(void)
{
	return atomic_load(&last_version);
}

bool img_engine_is_durable(const struct img_engine *e, uint64_t off, uint64_t len)
{
	uint64_t first = off / IMG_STRIPE_BYTES, last = (off + len - 1) / IMG_STRIPE_BYTES;
	uint64_t durable = atomic_load(&e->durable);
	bool all = true;

	for (uint64_t i = first; i <= last && i - first < IMG_STRIPES && all; i++)
		all = atomic_load(&e->mapped[i % IMG_STRIPES]) <= durable;
	return all;
}

static _Atomic uint64_t chains = 1;

uint64_t img_engine_chains(void)
{
	return atomic_load(&chains);
}

int img_engine_set_parent(struct img *img, struct img *parent)
{
	struct img *before = img->parent;
	int rc = img_epoch_domain_set_below(&img->engine->epochs,
					    parent ? &parent->engine->epochs : NULL);

	if (rc)
		return rc;
	img->parent = parent;
	atomic_fetch_add(&chains, 1);
	/* who has closed one of these may have been waiting for readers that are not its own any more */
	for (; before; before = before->parent) {
		struct img_engine *e = before->engine;

		pthread_mutex_lock(&e->lock);
		pthread_cond_broadcast(&e->changed);
		pthread_mutex_unlock(&e->lock);
	}
	return 0;
}

void img_engine_remapped(struct img_engine *e, uint64_t off, uint64_t len)
{
	uint64_t first = off / IMG_STRIPE_BYTES,
		 last = len ? (off + len - 1) / IMG_STRIPE_BYTES : first;
	uint64_t version = new_version();

	for (uint64_t i = first; i <= last && i - first < IMG_STRIPES; i++) {
		IMG_INVARIANT(atomic_load(&e->mapped[i % IMG_STRIPES]) < version);
		atomic_store(&e->mapped[i % IMG_STRIPES], version);
	}
}

void img_engine_reused(struct img_engine *e)
{
	uint64_t version = new_version();

	IMG_INVARIANT(atomic_load(&e->reused) < version);
	atomic_store(&e->reused, version);
}

void img_engine_changed(struct img_engine *e)
{
	img_wake_all(&e->waiting, 0, NULL);
	pthread_cond_broadcast(&e->changed);
}

void img_service_kick(struct img_engine *e)
{
	if (e->service_queued)
		return;
	e->service_queued = e->kick = true;
}

void img_engine_unlock(struct img_engine *e)
{
	bool kick = e->kick;

	e->kick = false;
	pthread_mutex_unlock(&e->lock);
	if (kick)
		img_pool_submit(img_pool_waiting(), &e->service_work);
}

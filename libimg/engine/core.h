/*
 * The engine's inside: the state of one open image. Private to libimg/engine, whose files build on
 * each other in this order: core, meta, quarantine, writeout; task, read, write; request, engine.
 *
 * Everything in struct img_engine is under its lock.
 */
#ifndef LIBIMG_ENGINE_CORE_H
#define LIBIMG_ENGINE_CORE_H

#include <pthread.h>

#include "libimg/base/list.h"
#include "libimg/base/pool.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/meta.h"
#include "libimg/engine/epochs.h"

struct img_queue;

/*
 * The disk in stripes that take turns in a few numbers, so that a change here does not make all that
 * is known of the rest of the disk look old.
 */
enum {
	IMG_STRIPE_BYTES = 16 << 20,
	IMG_STRIPES = 64,
};

/* Space that was unlinked and is not free yet (see quarantine.c). */
struct img_freed {
	struct img_storage *storage;
	uint64_t off, len;
	uint64_t since; /* requests that started before may still use it: img_epoch_passed() */
};

struct img_freed_list {
	struct img_freed *item;
	size_t n, max;
};

struct img_engine {
	struct img *img;
	struct img_engine_config config;
	unsigned process; /* img_process_number() */
	pthread_mutex_t lock;
	pthread_cond_t changed; /* something a blocking waiter looks at has changed */
	struct img_meta *meta;

	/*
	 * What the driver would say now (of each stripe of the disk: img_engine_mapped()), and what
	 * its space holds now: larger numbers after each change, never used before, by no image.
	 * Written under the lock, read without.
	 */
	_Atomic uint64_t mapped[IMG_STRIPES], reused;
	/* What was mapped by this number or an earlier one is durable. */
	_Atomic uint64_t durable;
	struct img_epoch_domain epochs;

	struct img_list claims;	 /* plans that others must keep clear of (claims.c) */
	bool rewrites;		 /* some plans read and write back what the guest did not name */
	unsigned unclaimed;	 /* plans without a claim */
	struct img_list ordered; /* requests that allocate in turn (task.c) */
	struct img_list waiting; /* img_waiter: to be woken when something changed */
	unsigned plans;		 /* plans between plan_write and the end of their I/O */
	bool exclusive;		 /* wanted or held: no new plans */
	bool alone;		 /* held, and nobody looks anything up either */
	bool growing;		 /* the exclusive path runs, or is queued */
	uint64_t grow_off, grow_len;
	struct img_list growers; /* img_waiter: who asked for it and wants its answer */

	bool first_write_done;
	bool changed_image;	 /* a plan was made or a blocking entry changed the image */
	bool writing_out;	 /* a write-out is running */
	bool service_queued;	 /* service_work is submitted, or will be at unlock */
	bool kick;		 /* submit it at unlock */
	bool want_writeout;	 /* there is much to write: start one in the background */
	int writeout_rc;	 /* the last background write-out's answer */
	struct img_list flushes; /* img_waiter: who waits for the next write-out to be durable */
	struct img_work service_work;
	int sync_failed; /* a sync failed: what is durable is not known any more */

	struct img_storage **touched; /* storages written to, to be synced */
	size_t ntouched;

	/* Quarantine: freed in memory; unlinking written; unlinking durable. */
	struct img_freed_list freed, freed_written, freed_durable;
	size_t freed_reserved;

	/* Blocking calls that go down the chain by themselves; under blocking_lock (engine.c). */
	struct img_queue_epochs walkers;

	/* Queues for blocking calls, each with one at a time (request.c). */
	pthread_mutex_t blocking_lock;
	pthread_cond_t blocking_freed;
	struct img_list blocking_idle; /* img_queue.idle_link; the one used last first */
	unsigned blocking_queues;
};

/* ---- core.c ---- */

/* Remember that s is written to by this image. Under the lock. */
void img_engine_touch(struct img_engine *e, struct img_storage *s);
/* Wake all of a list with the same answer. Under the lock. */
void img_wake_all(struct img_list *waiters, int rc, const struct img_error *err);
/*
 * What was looked up before of guest bytes [off, off + len) is not true any more: new numbers in
 * e->mapped. Under the lock.
 */
void img_engine_remapped(struct img_engine *e, uint64_t off, uint64_t len);
/* The number in e->mapped that goes for guest byte off. */
static inline uint64_t img_engine_mapped(const struct img_engine *e, uint64_t off)
{
	return atomic_load(&e->mapped[off / IMG_STRIPE_BYTES % IMG_STRIPES]);
}
/* The last number that was given out: what is mapped now is by this or an earlier one. Under the lock. */
uint64_t img_engine_version(void);
/* Is it durable how guest bytes [off, off + len) are mapped now? */
bool img_engine_is_durable(const struct img_engine *e, uint64_t off, uint64_t len);
/* Space may hold something else from now on: the same for e->reused. Under the lock. */
void img_engine_reused(struct img_engine *e);
/* Which images are below which: another number after each change of any chain. */
uint64_t img_engine_chains(void);
/* Something changed: wake e->waiting and blocking waiters. Under the lock. */
void img_engine_changed(struct img_engine *e);
/*
 * Have a thread of the waiting pool do what is wanted (write-out, flushes, growth: writeout.c). Under the lock,
 * which must then be left by img_engine_unlock(): that submits the work.
 */
void img_service_kick(struct img_engine *e);
void img_engine_unlock(struct img_engine *e);

/* ---- writeout.c ---- */

/*
 * Bring all metadata that is dirty now to its place, in rank order; durable: and sync. Blocking,
 * one at a time, no lock held.
 */
int img_writeout(struct img_engine *e, bool durable, struct img_error *err);
/*
 * Have the file hold all there is, and keep write-outs away until img_writeout_resume(): for blocking
 * driver entries. There must be no plans in flight, and no new ones. alone: wait for those who read
 * too, let no others in, and have all freed space released and counted; else what readers may be at
 * is left in quarantine.
 */
int img_writeout_drain(struct img_engine *e, bool alone, struct img_error *err);
void img_writeout_resume(struct img_engine *e);
/* Make all that was written to files so far durable, unless unsafe. No lock held. */
int img_writeout_barrier(struct img_engine *e, struct img_error *err);
/* The service: what img_service_kick() has run. */
void img_service_run(struct img_work *work);
/* More dirty metadata than this makes plans wait. */
enum {
	IMG_DIRTY_START = 1 << 20,
	IMG_DIRTY_STOP = 8 << 20,
};

/* ---- quarantine.c ---- */

void img_quarantine_written(struct img_engine *e); /* freed -> written. Under the lock */
void img_quarantine_durable(struct img_engine *e); /* written -> durable. Under the lock */
/* Release what no reader can be using any more. Blocking, no lock held; not in parallel. */
int img_quarantine_release(struct img_engine *e, struct img_error *err);
/* Is anything waiting for a write-out? Under the lock. */
bool img_quarantine_pending(const struct img_engine *e);
/* Ranges freed and not yet in a write-out that make one worth while. */
enum {
	IMG_QUARANTINE_START = 4096,
};
void img_quarantine_free(struct img_engine *e);

#endif

/*
 * The engine's inside: the state of one open image, its tasks (requests as a user made them) and
 * their pieces (one extent or one plan each). Private to libimg/engine.
 *
 * Who may touch what: everything in struct img_engine is under its lock; a task and its pieces
 * belong to the thread of their queue, except while a piece waits (then to who wakes it) or is at
 * work in the pool.
 */
#ifndef LIBIMG_ENGINE_CORE_H
#define LIBIMG_ENGINE_CORE_H

#include <pthread.h>

#include "libimg/base/list.h"
#include "libimg/base/pool.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/meta.h"
#include "libimg/engine/request.h"

/* Space that was unlinked and is not free yet (see quarantine.c). */
struct img_freed {
	struct img_storage *storage;
	uint64_t off, len;
	uint64_t seq;		/* readers that started before this number may still use it */
};

struct img_freed_list {
	struct img_freed *item;
	size_t n, max;
};

struct img_engine {
	struct img *img;
	struct img_engine_config config;
	pthread_mutex_t lock;
	pthread_cond_t changed;		/* something a blocking waiter looks at has changed */
	struct img_meta *meta;

	struct img_list active;		/* tasks in the order they started */
	uint64_t next_seq;

	struct img_list claims;		/* pieces whose plan will be committed or dropped */
	struct img_list waiting;	/* pieces to be tried again when something changed */
	struct img_list ordered;	/* tasks that allocate in turn */
	unsigned plans;			/* plans between plan_write and the end of their I/O */
	bool exclusive;			/* wanted or held: no new plans */
	bool growing;			/* the exclusive path runs, or is queued */
	uint64_t grow_off, grow_len;
	struct img_list growers;	/* pieces that asked for it and want its answer */

	bool first_write_done;
	bool changed_image;		/* a plan was made or a blocking entry changed the image */
	bool writing_out;		/* a write-out is running */
	bool service_queued;		/* service_work is submitted, or will be at unlock */
	bool kick;			/* submit it at unlock */
	bool want_writeout;		/* there is much to write: start one in the background */
	int writeout_rc;		/* the last background write-out's answer */
	struct img_list flushes;	/* flush tasks waiting for a write-out to start */
	struct img_work service_work;
	int sync_failed;		/* a sync failed: what is durable is not known any more */

	struct img_storage **touched;	/* storages written to, to be synced */
	size_t ntouched;

	/* Quarantine: freed in memory; unlinking written; unlinking durable. */
	struct img_freed_list freed, freed_written, freed_durable;
	size_t freed_reserved;

	pthread_mutex_t blocking_lock;
	struct img_queue *blocking_queue;
};

/* Remember that s is written to by this image. Under the lock. */
void img_engine_touch(struct img_engine *e, struct img_storage *s);
void img_meta_forget_locked(struct img_engine *e, struct img_storage *s, uint64_t file_off,
			    uint64_t len);

/* Wake all waiting pieces and blocking waiters. Under the lock. */
void img_engine_changed(struct img_engine *e);

/* Fetch what req is missing, blocking. No lock held. */
int img_engine_fetch(struct img_req *req);

/* ---- writeout.c ---- */

/*
 * Bring all metadata that is dirty now to its place, in rank order; durable: and sync. Blocking,
 * one at a time, no lock held.
 */
int img_writeout(struct img_engine *e, bool durable, struct img_error *err);
/*
 * Have a pool thread do what is wanted (write-out, flushes, growth). Under the lock, which must
 * then be left by img_engine_unlock(): that submits the work.
 */
void img_service_kick(struct img_engine *e);
void img_engine_unlock(struct img_engine *e);
/* More dirty metadata than this makes plans wait. */
enum { IMG_DIRTY_START = 1 << 20, IMG_DIRTY_STOP = 8 << 20 };

/* ---- quarantine.c ---- */

void img_quarantine_written(struct img_engine *e);	/* freed -> written. Under the lock */
void img_quarantine_durable(struct img_engine *e);	/* written -> durable. Under the lock */
/* Release what no reader can be using any more. Blocking, no lock held; not in parallel. */
int img_quarantine_release(struct img_engine *e, struct img_error *err);
/* Is anything waiting for a write-out? Under the lock. */
bool img_quarantine_pending(const struct img_engine *e);
/* Ranges freed and not yet in a write-out that make one worth while. */
enum { IMG_QUARANTINE_START = 4096 };
void img_quarantine_free(struct img_engine *e);

#endif

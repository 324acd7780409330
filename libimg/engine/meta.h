/*
 * The metadata cache: the only writer of metadata. Blocks of 16 KiB, by storage and file offset,
 * valid and dirty by 512-byte sector; a sector is dirty at one rank (driver.h). Everything here is
 * under the engine's lock unless it says otherwise.
 */
#ifndef LIBIMG_ENGINE_META_H
#define LIBIMG_ENGINE_META_H

#include "libimg/engine/driver.h"

struct img_block;
struct img_meta;
struct img_engine;

/*
 * One look-up in progress: what a driver holds as struct img_req. Blocks it has seen stay pinned
 * until img_req_release().
 */
struct img_req {
	struct img_engine *engine; /* of the level being asked; set before each driver call */
	struct img_error *err;
	bool may_unmap, keep_allocated; /* see img_req_may_unmap(), img_req_keep_allocated() */
	struct img_block **pins;
	unsigned npins, max_pins;
	struct img_block *few[6];    /* pins' first home */
	struct img_storage *missing; /* the block that a driver found missing */
	uint64_t missing_index;
	uint64_t missing_off; /* what it wanted of that block, in the file */
	size_t missing_len;
	bool out_of_memory;
	size_t reserved; /* img_free_reserve()d, given back by img_req_unpin() */
};

/* A block on its way into the cache. */
struct img_load {
	struct img_list link; /* in the block */
	struct img_block *block;
	const void *loader;
	uint8_t *buffer;
	unsigned forgets; /* the block's when it began */
};

/* A party that waits for something under the lock; wake is called with the lock held, once. */
struct img_waiter {
	struct img_list link;
	void (*wake)(struct img_waiter *w, int rc, const struct img_error *err);
};

/* What a write-out puts on disk for one rank: copies, in the order of storage and offset. */
struct img_meta_group {
	struct img_meta_write *writes; /* data malloc'd */
	size_t n, max;
};

struct img_meta *img_meta_cache_new(uint64_t bytes);
void img_meta_cache_free(struct img_meta *m);

void img_req_init(struct img_req *req, struct img_error *err);
/* Drop the pins and reservations taken on engine; its lock is held. */
void img_req_unpin(struct img_req *req, struct img_engine *engine);
/* Drop all pins; takes the locks it needs, holds none. */
void img_req_release(struct img_req *req);

/*
 * After IMG_NEED_METADATA: is what is missing in the file at all? -EUCLEAN: it lies past the end, wholly
 * or partly. Takes no lock.
 */
int img_meta_in_file(const struct img_req *req, struct img_error *err);
/*
 * After IMG_NEED_METADATA: the block that is missing, pinned for req. NULL: out of memory.
 * *must: none of loader's (a queue) reads it yet: the caller must, IMG_META_BLOCK bytes into
 * load->buffer, and say img_meta_loaded() at the end; load is kept until then. A block is read by
 * each who wants it, since the others may not get on.
 */
struct img_block *img_meta_request(struct img_req *req, const void *loader, struct img_load *load,
				   bool *must);
struct img_storage *img_meta_block_storage(const struct img_block *b, uint64_t *file_off);
void img_meta_wait(struct img_block *b, struct img_waiter *w);
/* The read is done (rc): runs the waiters, all loaders'. Only who got *must calls it. */
void img_meta_loaded(struct img_load *load, int rc);
/*
 * After IMG_NEED_METADATA: is what is missing a hole of the file, as far as that is known without asking? Then it is
 * there now, without being read: look it up again.
 */
bool img_meta_fill_hole(struct img_req *req);
/* The same: is it worth asking the file for holes before it is read? Takes the engine's lock. */
bool img_meta_may_be_hole(const struct img_req *req);
/*
 * The blocking way: read what req is missing on this thread. No lock held. It never waits for
 * another's load (which might be on this very thread's queue) but reads for itself.
 */
int img_meta_fetch(struct img_req *req);

/*
 * The cache agrees with itself: counts, valid sectors, one rank for each that is dirty. idle: and
 * nobody has a block pinned or is reading one. Does nothing without IMG_DEBUG.
 */
void img_meta_check(const struct img_meta *m, bool idle);
/* Dirty bytes now. */
uint64_t img_meta_dirty_bytes(const struct img_meta *m);

/*
 * Copy out all that is dirty, by rank, and count it as clean; the blocks stay until
 * img_meta_written(). -ENOMEM: nothing changed.
 */
int img_meta_collect(struct img_meta *m, struct img_meta_group groups[IMG_RANKS]);
/* The groups are in place (rc 0), or are dirty again. Frees the groups' memory. */
void img_meta_written(struct img_meta *m, struct img_meta_group groups[IMG_RANKS], int rc);

#endif

/*
 * The engine, as the floors above see it: what keeps an open image running. One request state
 * machine moves all guest data (request.h); metadata goes through one cache (meta.h).
 */
#ifndef LIBIMG_ENGINE_ENGINE_H
#define LIBIMG_ENGINE_ENGINE_H

#include "libimg/engine/driver.h"

struct img_engine_config {
	uint64_t cache_bytes; /* metadata cache; 0: the default, 4 MiB */
	bool unsafe;	      /* never sync */
	bool writethrough;    /* sync at the end of each write */
	bool no_read_ahead;   /* keep nothing of a unit beyond what was asked for */
	enum img_io_kind io;  /* of the queues behind the blocking calls */
};

/*
 * Give an image whose driver->open() has succeeded its engine. Queues for blocking calls are made as
 * they are needed. -ENOMEM.
 */
int img_engine_new(struct img *img, const struct img_engine_config *config, struct img_error *err);
/* Nothing may be in flight. Writes nothing. An image without an engine is fine. */
void img_engine_free(struct img *img);
/* False: it was opened by this process's parent, before fork(), and must not be touched. */
bool img_engine_is_ours(const struct img *img);
/* Requests in flight on img and those that read it through a child. Thread-safe. */
size_t img_engine_in_flight(struct img *img);

/*
 * The last write-out of an image about to be closed: all metadata in place, freed space released,
 * driver->finish() if anything was changed, and a sync unless unsafe. Nothing may be in flight.
 */
int img_engine_finish(struct img *img, struct img_error *err);

enum img_quiesce {
	IMG_QUIESCE_FOR_READING,  /* nothing changes; others may read */
	IMG_QUIESCE_FOR_CHECKING, /* nobody reads either, and no space waits to be released */
	IMG_QUIESCE_FOR_CHANGING, /* the same, after driver->first_write(), if it has not run */
};

/*
 * Write everything out and keep the image quiesced for blocking driver entries (resize, check): waits
 * for what is in flight; what comes meanwhile waits until img_engine_resume(). On failure the image
 * is not quiesced. -EDEADLK: a queue of the calling thread has such requests in flight.
 */
int img_engine_quiesce(struct img *img, enum img_quiesce how, struct img_error *err);
void img_engine_resume(struct img *img);

/*
 * The image, quiesced for checking, becomes read-only: what driver->finish() does, and all of it durable
 * (unless unsafe). On failure it is not read-only yet, and can be written to. Afterwards, and before an
 * image that was read-only is written to, nothing counts as changed.
 */
int img_engine_end_writing(struct img *img, struct img_error *err);
/*
 * A job begins (keeps) or ends, and nothing that it writes to img, which nobody else does meanwhile, changes
 * what img reads as: img->content_stays. Waits as img_engine_quiesce() for checking.
 */
int img_engine_keep_content(struct img *img, bool keeps, struct img_error *err);
/* It was read-only and is quiesced: it may be written to from now on. */
void img_engine_begin_writing(struct img *img);

/*
 * Let parent (NULL: none) be the image below img, which is quiesced, or was not used yet. Requests that are
 * waiting go on with it. -ENOMEM: nothing has changed; never for NULL.
 */
int img_engine_set_parent(struct img *img, struct img *parent);
/*
 * Wait until all requests and walks that img, or a child, has in flight now have ended: none of them has
 * a use for what was below img before. The image is not quiesced; they end on their own threads.
 */
void img_engine_drain(struct img *img);

/* A walk down the chain by a blocking call: no image of it goes away before its end. */
struct img_walk;
/* Thread-safe. NULL: out of memory. */
struct img_walk *img_engine_walk_begin(struct img *img);
void img_engine_walk_end(struct img *img, struct img_walk *w);

/* Was anything written to the image since it was opened? Thread-safe. */
bool img_engine_is_changed(struct img *img);

/* Where guest bytes from off on live. */
struct img_lookup {
	struct img *level; /* the image of the chain whose extent it is */
	unsigned depth;	   /* how far down that is */
	uint64_t off;
	struct img_extent extent;
	/* What extent.storage says of its bytes from extent.file_off on, if it was asked. */
	bool asked;
	enum img_storage_extent stored;
	uint64_t stored_bytes;
};
/*
 * Look up, blocking; thread-safe. deep: where an image says BACKING, ask the one below; else it is this
 * image's answer.
 */
int img_engine_lookup(struct img *img, uint64_t off, uint64_t len, bool deep,
		      struct img_lookup *out, struct img_error *err);
/* The same of this image alone: its extent. */
int img_engine_map(struct img *img, uint64_t off, uint64_t len, struct img_extent *out,
		   struct img_error *err);

#endif

/*
 * What a queue has looked up lately: extents of plain data and zeroes, so that most reads ask
 * neither the driver nor for the metadata lock. Only for the queue's thread. Private to
 * libimg/engine.
 */
#ifndef LIBIMG_ENGINE_EXTENT_CACHE_H
#define LIBIMG_ENGINE_EXTENT_CACHE_H

#include "libimg/engine/driver.h"

enum {
	IMG_EXTENT_CACHE_KEPT = 128,
};

/* Zero-initialise. */
struct img_extent_cache {
	struct {
		/*
		 * The sum of img_engine_mapped() of all images of the chain that were asked: as each
		 * only grows, it is the same only while all are.
		 */
		uint64_t version;
		uint64_t chains; /* img_engine_chains(): level is in the chain only while that stays */
		uint64_t image;	 /* img_epoch_domain.id; 0: nothing */
		uint64_t off, len;
		struct img *level;	  /* the last one that was asked */
		struct img_extent extent; /* of off */
	} kept[IMG_EXTENT_CACHE_KEPT];
};

/*
 * How much of an image is worth looking up at once, around any offset: a power of two. An extent is
 * kept for the window that its start lies in.
 */
uint64_t img_extent_cache_window(const struct img *img);
/* What is at off, and (*len is clipped) how far. False: not known. The reader is inside (epochs.h). */
bool img_extent_cache_find(const struct img_extent_cache *e, const struct img *img, uint64_t off,
			   uint64_t *len, struct img_extent *out, struct img **level);
void img_extent_cache_keep(struct img_extent_cache *e, const struct img *img, uint64_t version, uint64_t off,
			   uint64_t len, const struct img_extent *extent, struct img *level);

#endif

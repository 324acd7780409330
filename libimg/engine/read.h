/*
 * Reading through the backing chain.
 */
#ifndef LIBIMG_ENGINE_READ_H
#define LIBIMG_ENGINE_READ_H

#include "libimg/engine/task.h"

/* A read task's look. */
void img_read_piece(struct img_piece *p);

/*
 * driver->map() of this image alone, of bytes that have to be in its files: 0, IMG_NEED_METADATA (req
 * names it), or an error. Waits while somebody has the image to himself, unless the caller has entered.
 */
int img_read_level(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		   struct img_extent *out);

/*
 * What is at off, by metadata in memory: 0 (*len is clipped to what that is true for),
 * IMG_NEED_METADATA (req names it), or an error. *level: the last image of the chain that was asked,
 * which holds it. *version: what img_extent_cache_keep() needs.
 */
int img_read_resolve(struct img *top, struct img_req *req, uint64_t off, uint64_t *len,
		     struct img_extent *out, struct img **level, uint64_t *version);

#endif

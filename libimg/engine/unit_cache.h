/*
 * Decoded units that a queue has read a part of lately: who reads a compressed image in small steps
 * decodes each unit once. Requests that come while a unit is being decoded wait for it. Only for the
 * queue's thread. Private to libimg/engine.
 */
#ifndef LIBIMG_ENGINE_UNIT_CACHE_H
#define LIBIMG_ENGINE_UNIT_CACHE_H

#include "libimg/engine/buffers.h"
#include "libimg/engine/driver.h"

enum {
	IMG_UNIT_CACHE_KEPT = 16,
};

struct img_cached_unit {
	uint64_t version; /* of the space it was read from, see img_engine.reused; 0: none */
	/* What is stored, and as what it was decoded: hostile images have the same bytes in several ways. */
	struct img_storage *storage;
	uint64_t file_off;
	const struct img_codec *codec;
	uint32_t stored_bytes, unit_bytes, header_bytes;
	struct img_buffer bytes; /* none: being decoded */
	struct img_list waiting; /* for that; the waiters' own nodes */
	uint64_t used;
};

struct img_unit_cache {
	struct img_cached_unit kept[IMG_UNIT_CACHE_KEPT];
	uint64_t clock;
};

/* The unit that x says, whole or being decoded; NULL: neither. */
struct img_cached_unit *img_unit_cache_find(struct img_unit_cache *u, uint64_t version, const struct img_extent *x);
/* Say that it is being decoded. NULL: there is no room; nobody can wait for it then. */
struct img_cached_unit *img_unit_cache_begin(struct img_unit_cache *u, struct img_buffers *buffers, uint64_t version,
					     const struct img_extent *x);
/* Take over the decoded bytes; none: it failed. *waiting gets those who waited. */
void img_unit_cache_end(struct img_cached_unit *unit, struct img_buffer *bytes, struct img_list *waiting);
/* Give back the memory. */
void img_unit_cache_clear(struct img_unit_cache *u, struct img_buffers *buffers);

#endif

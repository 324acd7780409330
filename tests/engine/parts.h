/*
 * For tests of the engine's parts one by one: an engine around a driver that has nothing to say,
 * with as many files as wanted (see tests/storage/watch.h), and its metadata for whoever asks.
 */
#ifndef TESTS_ENGINE_PARTS_H
#define TESTS_ENGINE_PARTS_H

#include <errno.h>
#include <string.h>

#include "libimg/engine/core.h"
#include "tests/storage/watch.h"

enum {
	PARTS_FILES = 3,
	PARTS_BYTES = 2 << 20, /* of each file at first */
};

struct parts {
	struct img img;
	struct watch watch;
	struct img_storage *file[PARTS_FILES];
	unsigned releases, last_uses;
	uint64_t released[16]; /* offsets */
	bool last;	       /* last_use()'s answer */
	bool release_edits;    /* release() makes metadata dirty at 0 of file 0 */
	int release_rc;
	int (*journal)(struct parts *p, size_t n);
	const struct img_meta_write *journaled; /* during that */
};

static inline struct parts *parts_of(const struct img *img)
{
	return img->state;
}

static inline int parts_last_use(struct img *img, struct img_req *req, struct img_storage *s,
				 uint64_t off, uint64_t len, bool *last)
{
	(void)req;
	(void)s;
	(void)off;
	(void)len;
	parts_of(img)->last_uses++;
	*last = parts_of(img)->last;
	return 0;
}

static inline int parts_release(struct img *img, struct img_req *req, struct img_storage *s,
				uint64_t off, uint64_t len)
{
	struct parts *p = parts_of(img);

	(void)s;
	(void)len;
	if (p->release_edits) {
		if (!img_meta_get(req, p->file[0], 0, 8))
			return IMG_NEED_METADATA;
		img_meta_edit(req, p->file[0], 0, 8, IMG_RANK_ALLOCATION)[0]++;
	}
	p->released[p->releases++ % 16] = off;
	return p->release_rc;
}

static inline int parts_journal(struct img *img, const struct img_meta_write *writes, size_t n,
				struct img_error *err)
{
	(void)err;
	parts_of(img)->journaled = writes;
	return parts_of(img)->journal(parts_of(img), n);
}

static const struct img_driver parts_driver = {
	.name = "parts",
	.last_use = parts_last_use,
	.release = parts_release,
};

static const struct img_driver parts_journal_driver = {
	.name = "parts",
	.release = parts_release,
	.journal = parts_journal,
};

static inline struct parts *parts_new(bool unsafe)
{
	struct img_engine_config config = { .unsafe = unsafe, .cache_bytes = 1 };
	struct parts *p = calloc(1, sizeof(*p));

	cr_assert_not_null(p);
	for (unsigned i = 0; i < PARTS_FILES; i++)
		p->file[i] = watched_memory(&p->watch, i, PARTS_BYTES);
	p->img = (struct img){ .driver = &parts_driver,
			       .name = (char *)"parts.img",
			       .file = p->file[0],
			       .writable = true,
			       .state = p,
			       .size = 1 << 20,
			       .unit_bytes = 4096 };
	cr_assert_eq(img_engine_new(&p->img, &config, NULL), 0);
	return p;
}

static inline void parts_free(struct parts *p)
{
	img_engine_free(&p->img);
	for (unsigned i = 0; i < PARTS_FILES; i++)
		img_storage_close(p->file[i]);
	free(p);
}

static inline void parts_req(struct parts *p, struct img_req *req)
{
	img_req_init(req, NULL);
	req->engine = p->img.engine;
}

/* Metadata of a file, read if need be; pinned for req. */
static inline const uint8_t *parts_get(struct parts *p, struct img_req *req, unsigned file,
				       uint64_t off, size_t len)
{
	const uint8_t *at = img_meta_get(req, p->file[file], off, len);

	if (!at) {
		cr_assert_eq(img_meta_fetch(req), 0);
		at = img_meta_get(req, p->file[file], off, len);
	}
	return at;
}

/* Set a byte of metadata. */
static inline void parts_set(struct parts *p, unsigned file, uint64_t off, uint8_t value,
			     enum img_rank rank)
{
	struct img_req req;

	parts_req(p, &req);
	cr_assert_not_null(parts_get(p, &req, file, off, 1));
	*img_meta_edit(&req, p->file[file], off, 1, rank) = value;
	img_req_release(&req);
}

/* Is metadata there, without reading it? -1: no; else its byte. */
static inline int parts_cached(struct parts *p, unsigned file, uint64_t off)
{
	const uint8_t *at;
	struct img_req req;
	int value;

	parts_req(p, &req);
	at = img_meta_get(&req, p->file[file], off, 1);
	value = at ? *at : -1;
	img_req_release(&req);
	return value;
}

static inline uint8_t parts_on_disk(struct parts *p, unsigned file, uint64_t off)
{
	uint8_t byte;

	cr_assert_eq(img_storage_read(p->file[file], off, &byte, 1, NULL), 0);
	return byte;
}

/* Guest data arrives in a file. */
static inline void parts_data(struct parts *p, unsigned file, uint64_t off)
{
	uint8_t byte = 0xda;

	cr_assert_eq(img_storage_write(p->file[file], off, &byte, 1, NULL), 0);
	img_engine_touch(p->img.engine, p->file[file]);
}

static inline void parts_free_later(struct parts *p, uint64_t off)
{
	struct img_req req;

	parts_req(p, &req);
	cr_assert_eq(img_free_reserve(&req, 1), 0);
	img_free_later(&req, p->file[0], off, 4096);
	img_req_unpin(&req, p->img.engine);
}

#endif

/*
 * What a commit() frees, handed over in rows: clusters that follow each other in the file are one range.
 */
#ifndef LIBIMG_ENGINE_FREE_ROW_H
#define LIBIMG_ENGINE_FREE_ROW_H

#include "libimg/engine/driver.h"

/* Set req and storage; the rest is zero. */
struct img_free_row {
	struct img_req *req;
	struct img_storage *storage;
	uint64_t off, len; /* in the file; not handed over yet */
};

/* After the last one. What is handed over is for img_free_later(), and reserved as that wants it. */
static inline void img_free_row_end(struct img_free_row *row)
{
	if (row->len)
		img_free_later(row->req, row->storage, row->off, row->len);
	row->len = 0;
}

static inline void img_free_row_add(struct img_free_row *row, uint64_t off, uint64_t len)
{
	if (!row->len || off != row->off + row->len) {
		img_free_row_end(row);
		row->off = off;
	}
	row->len += len;
}

#endif

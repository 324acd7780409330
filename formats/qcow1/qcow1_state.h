/*
 * An open qcow image of version 1, and what the driver's files have for each other:
 *
 * qcow1.c         opening, closing, encryption; reading, writing, check: libimg/engine/tables.h
 * qcow1_change.c  another size, another backing file
 * qcow1_create.c
 */
#ifndef FORMATS_QCOW1_STATE_H
#define FORMATS_QCOW1_STATE_H

#include <errno.h>

#include "formats/qcow1/qcow1_layout.h"
#include "libimg/engine/tables.h"

struct qcow1 {
	struct qcow1_header header;
	struct img_tables tables; /* its cipher is ours */
};

extern const struct img_driver qcow1_driver;
extern const struct img_option qcow1_create_options[], qcow1_open_options[];

static inline int qcow1_no_memory(const struct img *img, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
}

/* Write the header, in one write, durably; it is the image's from now on, and its tables are where it says. */
int qcow1_write_header(struct img *img, const struct qcow1_header *h, struct img_error *err);

/* ---- qcow1_change.c ---- */

int qcow1_extend(struct img *img, uint64_t size, struct img_error *err);
int qcow1_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err);
int qcow1_set_backing(struct img *img, const char *name, const char *format, const struct img *backing,
		      struct img_error *err);

/* ---- qcow1_create.c ---- */

int qcow1_create_check(struct img_creating *c, struct img_error *err);
int qcow1_create(struct img_creating *c, struct img_error *err);

#endif

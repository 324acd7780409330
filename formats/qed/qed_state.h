/*
 * An open QED image, and what the driver's files have for each other:
 *
 * qed.c         opening, closing, marks, check; reading and writing are done by libimg/engine/tables.h
 * qed_change.c  another size, another backing file
 * qed_create.c
 */
#ifndef FORMATS_QED_STATE_H
#define FORMATS_QED_STATE_H

#include <errno.h>

#include "formats/qed/qed_layout.h"
#include "libimg/engine/tables.h"

struct qed {
	struct qed_header header;
	struct img_tables tables;
};

extern const struct img_driver qed_driver;
extern const struct img_option qed_create_options[];

static inline int qed_no_memory(const struct img *img, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
}

/* Write the header, in one write, durably; it is the image's from now on. */
int qed_write_header(struct img *img, const struct qed_header *h, struct img_error *err);

/* ---- qed_change.c ---- */

int qed_extend(struct img *img, uint64_t size, struct img_error *err);
int qed_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err);
int qed_set_backing(struct img *img, const char *name, const char *format, const struct img *backing,
		    struct img_error *err);

/* ---- qed_create.c ---- */

int qed_create_check(struct img_creating *c, struct img_error *err);
int qed_create(struct img_creating *c, struct img_error *err);

#endif

/*
 * The parent locator of a differencing disk: which disk it was made on, and where that is. Bytes and
 * text only.
 */
#ifndef FORMATS_VHDX_VHDX_LOCATOR_H
#define FORMATS_VHDX_VHDX_LOCATOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/guid.h"

struct img_error;

struct vhdx_locator {
	uint8_t linkage[IMG_GUID_BYTES]; /* the parent's DataWriteGuid */
	uint8_t linkage2[IMG_GUID_BYTES];
	bool has_linkage2;
	/* As stored, in UTF-8, malloc'd; NULL: not there. At least one is. */
	char *relative, *volume, *absolute;
};

/* -EUCLEAN; -ENOTSUP: a locator of another type; -ENOMEM. */
int vhdx_parse_locator(const uint8_t *bytes, size_t len, struct vhdx_locator *out,
		       struct img_error *err);
void vhdx_locator_clear(struct vhdx_locator *l);

/*
 * The paths at which the parent may be, best first: relative ones as paths of this system, from the child's
 * folder; a path on a volume of Windows as it is. Fills up to VHDX_PARENT_PATHS of out with malloc'd text
 * and returns how many; 0: out of memory.
 */
enum { VHDX_PARENT_PATHS = 3 };
size_t vhdx_locator_paths(const struct vhdx_locator *l, char *out[VHDX_PARENT_PATHS]);

/*
 * The locator of a parent by that name, relative to the child's folder or absolute. *out: for
 * vhdx_locator_clear(). -EINVAL: a name that the item cannot hold; -ENOMEM.
 */
int vhdx_locator_of(const uint8_t linkage[IMG_GUID_BYTES], const char *name,
		    struct vhdx_locator *out, struct img_error *err);
/* The item. *out: malloc'd. -EILSEQ: a name is not UTF-8; -ENOMEM. */
int vhdx_encode_locator(const struct vhdx_locator *l, uint8_t **out, size_t *len,
			struct img_error *err);

#endif

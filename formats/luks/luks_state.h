/* The state of an open LUKS disk. Private to formats/luks. */
#ifndef FORMATS_LUKS_LUKS_STATE_H
#define FORMATS_LUKS_LUKS_STATE_H

#include "libimg/crypto/luks.h"
#include "libimg/engine/driver.h"

struct luks {
	struct img_luks *header;
	struct img_storage *header_file; /* of a detached header; NULL: img->file */
	struct img_cipher *cipher;	 /* NULL: locked: for reports and checks */
	uint64_t payload_off;
	uint32_t sector_bytes;
	uint64_t tweak; /* of guest byte 0 */
	bool growing;	/* the file does not reach to the disk's end yet */
};

/* The largest disk: file offsets are signed. */
#define LUKS_MAX_SIZE ((uint64_t)INT64_MAX & ~UINT64_C(4095))

extern const struct img_option luks_create_options[], luks_amend_options[];
int luks_create_check(struct img_creating *c, struct img_error *err);
int luks_create(struct img_creating *c, struct img_error *err);
int luks_measure(const struct img_creating *c, uint64_t *required, uint64_t *fully_allocated,
		 struct img_error *err);
int luks_amend(struct img *img, struct img_amending *a, struct img_error *err);
int luks_check(struct img *img, struct img_check *c, struct img_error *err);

#endif

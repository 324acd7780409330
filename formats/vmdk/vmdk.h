/*
 * An open VMDK: what the driver's parts share.
 */
#ifndef FORMATS_VMDK_VMDK_H
#define FORMATS_VMDK_VMDK_H

#include "formats/vmdk/vmdk_descriptor.h"
#include "formats/vmdk/vmdk_layout.h"
#include "libimg/engine/driver.h"

/*
 * Different files that one disk may name. Each is kept open; 4096 files of 2 GiB make 8 TiB, and
 * the usual limit of open files ends sooner.
 */
enum { VMDK_FILES_MAX = 4096 };

/* A file that extents lie in; shared by all extents that name it. */
struct vmdk_file {
	char *name;		     /* as the descriptor has it; NULL: the image's own file */
	struct img_storage *storage; /* NULL: not opened (self_only, NOACCESS) */
	struct vmdk_sparse sparse;   /* kind VMDK_NOT_SPARSE: flat, or not parsed */
};

enum vmdk_extent_kind {
	VMDK_EXTENT_FLAT,
	VMDK_EXTENT_SPARSE,
	VMDK_EXTENT_ZERO,
	VMDK_EXTENT_NOACCESS,
};

struct vmdk_extent {
	uint64_t guest_off, bytes;
	uint64_t file_off; /* FLAT */
	enum vmdk_extent_kind kind;
	enum vmdk_extent_type type;
	bool has_type; /* false: the image's own header is all there is */
	uint32_t file; /* index of vmdk.files, or VMDK_NO_FILE */
};
#define VMDK_NO_FILE UINT32_MAX

struct vmdk {
	uint32_t cid, parent_cid;
	char *create_type;
	char *uuid_image, *uuid_parent; /* VirtualBox's; NULL: none */
	struct vmdk_file *files;
	size_t file_count;
	struct vmdk_extent *extents; /* in guest order, without gaps, none empty */
	size_t extent_count;
};

/* vmdk_open.c. The driver's open(). */
int vmdk_open(struct img *img, struct img_opening *o, struct img_error *err);
/* NULL is fine. The image's own file stays open. */
void vmdk_free(struct vmdk *vmdk, const struct img *img);
/* The grain that all extents have in bytes; 0: not all are sparse, or alike, or known. */
uint64_t vmdk_common_grain(const struct vmdk *vmdk);

/* vmdk_check.c. The driver's check(). */
int vmdk_check(struct img *img, struct img_check *c, struct img_error *err);

#endif

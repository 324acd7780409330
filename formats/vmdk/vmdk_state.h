/*
 * An open VMDK: what the driver's parts share.
 */
#ifndef FORMATS_VMDK_VMDK_STATE_H
#define FORMATS_VMDK_VMDK_STATE_H

#include "formats/vmdk/vmdk_descriptor.h"
#include "formats/vmdk/vmdk_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/range_map.h"
#include "libimg/base/unit_alloc.h"
#include "libimg/engine/driver.h"

/*
 * Different files that one disk may name. Each is kept open; 4096 files of 2 GiB make 8 TiB, and
 * the usual limit of open files ends sooner.
 */
enum {
	VMDK_FILES_MAX = 4096,
};

/* What writing to a sparse extent file needs; under the metadata lock. */
struct vmdk_alloc {
	struct img_unit_alloc grains;
	struct img_range_map metadata; /* the tables, both copies, and what has one place */
	bool was_unclean;	       /* already when it was opened */
};

/* A grain of a stream that has lost its tables. */
struct vmdk_found {
	uint64_t grain; /* its number */
	uint64_t file_off;
};

/* What stands in for the tables: the grains of a stream as their markers tell, ascending. */
struct vmdk_rebuilt {
	struct vmdk_found *grains;
	size_t count;
	bool complete;	   /* the stream has its end: no grain is missing */
	uint64_t ends_off; /* where in the file its last whole grain ends */
};

/* A file that extents lie in; shared by all extents that name it. */
struct vmdk_file {
	char *name;		     /* as the descriptor has it; NULL: the image's own file */
	struct img_storage *storage; /* NULL: not opened (self_only, NOACCESS) */
	struct vmdk_sparse sparse;   /* kind VMDK_NOT_SPARSE: flat, or not parsed */
	struct vmdk_alloc *alloc;    /* NULL: not writable, or not sparse */
	/* Opened for salvage: */
	char *lost;		      /* why nothing of it can be read; NULL: it can */
	struct vmdk_rebuilt *rebuilt; /* NULL: it has its tables */
};

enum vmdk_extent_kind {
	VMDK_EXTENT_FLAT,
	VMDK_EXTENT_SPARSE,
	VMDK_EXTENT_ZERO,
	VMDK_EXTENT_NOACCESS,
	VMDK_EXTENT_LOST, /* opened for salvage: its file says why */
};

struct vmdk_extent {
	uint64_t guest_off, bytes;
	uint64_t file_off; /* FLAT */
	enum vmdk_extent_kind kind;
	enum vmdk_extent_type type;
	enum vmdk_access access;
	bool has_type; /* false: the image's own header is all there is */
	uint32_t file; /* index of vmdk.files, or VMDK_NO_FILE */
};
#define VMDK_NO_FILE UINT32_MAX

struct vmdk {
	bool has_cid;
	uint32_t cid, parent_cid; /* cid 0: not given */
	char *create_type;
	char *uuid_image, *uuid_parent;			    /* VirtualBox's; NULL: none */
	char *uuid_modification, *uuid_parent_modification; /* the same, but may be nil */
	char *uuid_parent_next;				    /* its next one; NULL: not told */
	struct vmdk_file *files;
	size_t file_count;
	struct vmdk_extent *extents; /* in guest order, without gaps, none empty */
	size_t extent_count;
	uint64_t stored_bytes;	       /* the disk's size as the files tell it: the descriptor, or the header */
	uint64_t text_off, text_bytes; /* the descriptor's, in the image's own file; 0, 0: none */
	bool whole_sectors;	       /* no flat file ends inside a sector, unless it was cut short */
	unsigned cid_digits;	       /* that the descriptor has space for: up to 8 */
	/* The modification UUID that the next change gives, or (stamped) has given; its first digits are the CID. */
	char stamp[IMG_GUID_CHARS + 1]; /* "": not chosen */
	bool stamped;
	bool alone;	/* an extent of snapshots (COWD, SESparse) without its descriptor */
	bool salvage;	/* opened for reading what there is */
	bool for_check; /* opened for a check or a repair: the guest's bytes stay as they are */
};

/* vmdk_open.c. The driver's open(). */
int vmdk_open(struct img *img, struct img_opening *o, struct img_error *err);
/* What a descriptor says of the parent; of an earlier one nothing is kept any more. */
int vmdk_keep_parent(struct img *img, struct vmdk *vmdk, const struct vmdk_descriptor *d,
		     struct img_error *err);
/* NULL is fine. The image's own file stays open. */
void vmdk_free(struct vmdk *vmdk, const struct img *img);
/* The grain that all extents have in bytes; 0: not all are sparse, or alike, or known. */
uint64_t vmdk_common_grain(const struct vmdk *vmdk);

/* vmdk_footer.c. Find and parse the footer of an extent whose header says at_end. -EUCLEAN: none. */
int vmdk_read_footer(struct img_storage *s, struct vmdk_sparse *sparse, struct img_error *err);
/* For a stream without tables: find its grains. -EUCLEAN: there are none. */
int vmdk_rebuild(struct img_storage *s, const struct vmdk_sparse *sparse, struct vmdk_rebuilt **out,
		 struct img_error *err);
void vmdk_free_rebuilt(struct vmdk_rebuilt *rebuilt); /* NULL is fine */

/* How far a flat extent's file goes: up to the end of the last sector, if that may be a part of one. */
static inline uint64_t vmdk_flat_end(const struct vmdk *vmdk, const struct vmdk_extent *x)
{
	uint64_t size = vmdk->files[x->file].storage->size;
	bool last = x == &vmdk->extents[vmdk->extent_count - 1];

	return last && !vmdk->whole_sectors ? round_up_u64(size, VMDK_SECTOR)
					    : align_down_u64(size, VMDK_SECTOR);
}

/* The extent that guest byte off is in; there is one. */
static inline const struct vmdk_extent *vmdk_find_extent(const struct vmdk *vmdk, uint64_t off)
{
	size_t low = 0, high = vmdk->extent_count;

	while (high - low > 1) {
		size_t middle = low + (high - low) / 2;

		if (vmdk->extents[middle].guest_off <= off)
			low = middle;
		else
			high = middle;
	}
	return &vmdk->extents[low];
}

/* vmdk_alloc.c. All that writing to an image needs to know; refuses what cannot be written. */
int vmdk_prepare_writing(struct img *img, struct vmdk *vmdk, struct img_error *err);
void vmdk_free_alloc(struct vmdk_alloc *alloc);
/* The directories have moved, or have become longer. -ENOMEM, -EUCLEAN. */
int vmdk_list_metadata(struct vmdk_file *f, struct img_error *err);
/* The directories have become shorter: their tables alone count. Where it fails, those before do. */
int vmdk_list_tables(struct vmdk_file *f, struct img_error *err);
/* Room for 1 to want grains in a row: *off, *got. -EFBIG. */
int vmdk_alloc_grains(struct vmdk_file *f, uint64_t want, uint64_t *off, uint64_t *got,
		      struct img_error *err);
/* The driver's grow(): grain tables that are missing. */
int vmdk_grow(struct img *img, uint64_t off, uint64_t len, struct img_error *err);

/* vmdk_write.c. The driver's entries. */
int vmdk_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
		    uint64_t len, struct img_plan *plan);
void vmdk_commit(struct img *img, struct img_req *req, const struct img_plan *plan);
void vmdk_drop(struct img *img, struct img_req *req, const struct img_plan *plan);
bool vmdk_has_backing(const struct img *img);
int vmdk_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
		 uint64_t len);

/* vmdk_content_id.c. The driver's entries: content ID and the mark of an unclean shutdown. */
int vmdk_first_write(struct img *img, struct img_error *err);
int vmdk_finish(struct img *img, struct img_error *err);
int vmdk_next_identity(struct img *img, uint8_t out[IMG_GUID_BYTES], struct img_error *err);
/* The content ID that belongs to a modification UUID of ours: its first 8 digits. */
uint32_t vmdk_stamp_cid(const char *stamp);
/* A random UUID as text; or one made of 16 bytes, in the same shape (version 4). */
enum { VMDK_UUID_CHARS = 36 };
int vmdk_new_uuid(char out[VMDK_UUID_CHARS + 1], struct img_error *err);
void vmdk_print_uuid(const uint8_t bytes[16], char out[VMDK_UUID_CHARS + 1]);

/* vmdk_parent.c. The driver's entries. */
int vmdk_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err);
int vmdk_parent_opened(struct img *img, struct img_error *err);
int vmdk_accept_parent(struct img *img, const uint8_t identity[IMG_GUID_BYTES], struct img_error *err);
int vmdk_set_backing(struct img *img, const char *name, const char *format,
		     const struct img *backing, struct img_error *err);

/*
 * vmdk_text.c. Replace the descriptor, durably: len bytes without a NUL; and at once the capacity in the header of
 * the extent that it is embedded in (bytes; 0: it stays). -ENOSPC: more than its space. Before: can it be
 * replaced alone?
 */
int vmdk_store_text(struct img *img, const char *text, size_t len, uint64_t capacity,
		    struct img_error *err);
int vmdk_check_own_text(const struct img *img, struct img_error *err);

/* vmdk_resize.c. The driver's entries. */
int vmdk_extend(struct img *img, uint64_t size, struct img_error *err);
int vmdk_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err);

/* vmdk_empty.c. The driver's make_empty(). */
int vmdk_make_empty(struct img *img, struct img_error *err);

/* vmdk_create.c. The driver's entries. */
extern const struct img_option vmdk_create_options[];
int vmdk_create_check(struct img_creating *c, struct img_error *err);
/* Can a descriptor hold text between quotes? -EINVAL, -ENAMETOOLONG. */
int vmdk_check_text(const char *what, const char *text, struct img_error *err);
int vmdk_create(struct img_creating *c, struct img_error *err);

/* vmdk_sink.c. The driver's sink(). */
int vmdk_sink(struct img_creating *c, struct img_byte_writer *to, struct img_sink **out,
	      struct img_error *err);

/* vmdk_source.c. The driver's source(). */
int vmdk_source(struct img_byte_reader *in, struct img_source **out, struct img_error *err);

/* vmdk_check.c. The driver's check(). */
int vmdk_check(struct img *img, struct img_check *c, struct img_error *err);

#endif

/*
 * The text descriptor of a VMDK, in its own file or embedded in a sparse extent. Pure: text in a
 * buffer; what is returned points into the buffer, but for names. spec/vmdk.md, "Descriptor".
 */
#ifndef FORMATS_VMDK_DESCRIPTOR_H
#define FORMATS_VMDK_DESCRIPTOR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"

/*
 * Limits of ours. A 62 TiB disk split every 2 GiB needs some 32000 extents and 2 MiB of text; QEMU
 * looks at no more than 1 MiB.
 */
enum {
	VMDK_DESCRIPTOR_BYTES_MAX = 4 << 20,
	VMDK_EXTENTS_MAX = 128 << 10,
	VMDK_NAME_BYTES_MAX = 4095, /* of a file: PATH_MAX */
	VMDK_DESCRIPTOR_VERSION_MAX = 3,
};

#define VMDK_NO_PARENT UINT32_C(0xffffffff)

/* A piece of the buffer, not NUL-terminated. at NULL: not there. */
struct vmdk_text {
	const char *at;
	size_t len;
};

struct vmdk_descriptor {
	uint32_t version;
	bool has_cid;
	uint32_t cid;
	struct vmdk_text cid_digits; /* where its last 8 digits, or fewer, are written */
	struct vmdk_text long_cid;   /* ddb.longContentID, whose last 8 digits are the CID */
	uint32_t parent_cid;	     /* VMDK_NO_PARENT also if the key is missing */
	struct vmdk_text create_type;
	struct vmdk_text parent_hint; /* parentFileNameHint; not there: empty or missing */
	struct vmdk_text uuid_image;  /* VirtualBox's ddb.uuid.image; nil ones count as not there */
	struct vmdk_text uuid_parent;
	struct vmdk_text uuid_modification;	   /* changes with the disk's content */
	struct vmdk_text uuid_parent_modification; /* the parent's when the child was made; may be nil */
	struct vmdk_text uuid_parent_next;	   /* ours: the one that the parent may have got since */
	bool encrypted;
	bool extents_title; /* has the comment that programs put before the extent lines */
	bool database;	    /* has the part behind the extent lines: its title, or a key of it */
	bool line_cut;	    /* the last line has no end */
	size_t extents;	    /* lines that vmdk_next_extent() gives */
	uint64_t sectors;   /* their sum; its bytes fit an int64_t */
};

enum vmdk_access {
	VMDK_RW,
	VMDK_RDONLY,
	VMDK_NOACCESS,
};

enum vmdk_extent_type {
	VMDK_TYPE_FLAT,
	VMDK_TYPE_SPARSE,
	VMDK_TYPE_ZERO,
	VMDK_TYPE_VMFS,
	VMDK_TYPE_VMFSSPARSE,
	VMDK_TYPE_VMFSRDM,
	VMDK_TYPE_VMFSRAW,
	VMDK_TYPE_SESPARSE,
};
const char *vmdk_extent_type_name(enum vmdk_extent_type type);

/* One extent line. */
struct vmdk_line {
	enum vmdk_access access;
	enum vmdk_extent_type type;
	uint64_t sectors;
	struct vmdk_text file; /* may be empty; not there: ZERO, or NOACCESS without one */
	uint64_t file_sector;  /* where in the file the extent begins; 0 for sparse ones */
	size_t number;	       /* of the line in the text, from 1 */
};

/* Does a file begin like a descriptor? */
bool vmdk_is_descriptor(const char *text, size_t len);
/*
 * Has it what only descriptors have, though it does not begin like one: behind a byte order mark,
 * without the first line, in UTF-16 (*utf16)? Looks at the first 4 KiB.
 */
bool vmdk_is_nearly_descriptor(const char *text, size_t len, bool *utf16);

/*
 * Parse text[0, len), which ends at the first NUL. Every extent line is checked.
 * -EUCLEAN; -ENOTSUP: a version, an extent type; more than the limits above.
 */
int vmdk_parse_descriptor(const char *text, size_t len, struct vmdk_descriptor *out,
			  struct img_error *err);

/* Where vmdk_next_extent() is. Zero-initialise. */
struct vmdk_cursor {
	size_t at;
	size_t number;
};
/* The next extent line: 1; none left: 0; -EUCLEAN, -ENOTSUP: not after vmdk_parse_descriptor(). */
int vmdk_next_extent(const char *text, size_t len, struct vmdk_cursor *c, struct vmdk_line *out,
		     struct img_error *err);

/* What a descriptor is to say of the disk's parent. */
struct vmdk_new_parent {
	uint32_t cid;	  /* VMDK_NO_PARENT: none */
	const char *hint; /* for parentFileNameHint; NULL: none */
	/* VirtualBox's UUIDs, where the descriptor has them; NULL: nil. */
	const char *uuid, *modification;
};
/*
 * The text, up to its first NUL, with another parent and all else as it is. malloc'd, *out_len bytes without a NUL.
 * NULL: out of memory.
 */
char *vmdk_replace_parent(const char *text, size_t len, const struct vmdk_new_parent *parent,
			  size_t *out_len);

/*
 * The text, up to its first NUL, with a key for the modification UUID that the parent gets next, and all else as it
 * is; vmdk_replace_parent() leaves it out. malloc'd, *out_len bytes without a NUL. NULL: out of memory.
 */
char *vmdk_add_next_parent(const char *text, size_t len, const char *uuid, size_t *out_len);

/*
 * The text, up to its first NUL, with another size of the last extent that has one, and of the disk, which its
 * geometry then fits. malloc'd, *out_len bytes without a NUL. NULL: out of memory.
 */
char *vmdk_replace_size(const char *text, size_t len, uint64_t extent_sectors, uint64_t disk_sectors,
			size_t *out_len);

/*
 * A file's name for who takes "text:" in front for a protocol: there are none in a descriptor, so
 * "./" goes before it ("vm-10:20-flat.vmdk"). Paths of Windows stay as they are, and so do "file:" and
 * "json:", which qemu-img stores and which lead to files, too. malloc'd.
 */
char *vmdk_plain_name(const char *name, size_t len);

/* Same bytes, letters in any case? False if one is not there. */
bool vmdk_text_same(struct vmdk_text a, struct vmdk_text b);

#endif

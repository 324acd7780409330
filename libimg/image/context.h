/*
 * What the image floor keeps for each open image, and what its files share.
 */
#ifndef LIBIMG_IMAGE_CONTEXT_H
#define LIBIMG_IMAGE_CONTEXT_H

#include "libimg/engine/driver.h" /* before img.h, which repeats some of it for programs */
#include "libimg/image/gate.h"
#include "libimg/img.h"

enum {
	IMG_CHAIN_MAX = 256,
}; /* images in one backing chain; longer ones are an accident */

/* A further file of an image that is being created: see struct img_creating's create_file(). */
struct img_created {
	char *path;
	struct img_storage *storage;
	bool taken;    /* the driver's open() has it: the driver closes it */
	bool replaces; /* what had its name before cannot be had back; set by publishing */
};

struct img_context {
	char *path;		    /* of the file; names in the image are relative to its folder */
	struct img_storage **parts; /* further storages that the driver has; borrowed from it */
	size_t part_count;
	struct img_gate *gate;	     /* a counted reference */
	unsigned flags;		     /* IMG_OPEN_* */
	bool opened;		     /* driver->open() succeeded: close() is due */
	struct img *_Atomic above;   /* the image that it is the backing image of; NULL: top */
	char *view;		     /* of the image above, that this is: its ID and its name; NULL: none */
	char *parent_path;	     /* of the open parent, where it is not what backing_name says; NULL: it is */
	bool special;		     /* not what the file alone says: the user named a further file, or a view */
	bool unpublished;	     /* made by img_create_begin(), no final name yet */
	struct img_created *created; /* further files */
	size_t created_count;
	struct img_value *replaced;		  /* further files of the image that was there before: img_replaced_list() */
	const struct img_storage *_Atomic sparse; /* the last one that had holes when it was asked: see map.c */
	const struct img_storage *_Atomic full;	  /* the last one that had none, and lookups since then */
	_Atomic unsigned full_lookups;
};

/* -EPERM: img was opened by the parent process, before fork(). */
int img_context_is_ours(const struct img *img, struct img_error *err);

/* img_close() without its refusals: nothing is in flight. */
int img_context_close(struct img *img, struct img_error *err);

/* The driver of that name, or of bare bytes if that is a storage module's; NULL: none. */
const struct img_driver *img_driver_named(const char *name);

/*
 * What format is s? -EINVAL: a format that no driver reads, or two formats at once; the sentence
 * says which.
 */
int img_probe_storage(struct img_storage *s, const char *name, const struct img_driver **out,
		      struct img_error *err);

/*
 * The same for an image of which only the first len bytes can be looked at; size: of all, as far as
 * it is known.
 */
int img_probe_head(const uint8_t *head, size_t len, uint64_t size, const char *name,
		   const struct img_driver **out, struct img_error *err);

/* What a file that begins so is, if hardly a disk: see img_content_signatures. NULL: nothing special. */
const char *img_probe_content(const uint8_t *head, size_t len, const char *name);

/*
 * Before a write of iov to [off, ...) is planned: may it be made? -EPERM: the image was taken for
 * a raw disk by guess, and after this write the next guess would be another format (whose names
 * would then be followed). Only the first 512 bytes matter. Blocking; thread-safe.
 */
int img_guard_write(struct img *img, uint64_t off, const struct iovec *iov, int iovcnt,
		    struct img_error *err);

/* The same before zeroes are made, which can finish a mark too ("QED\0"). */
int img_guard_zero(struct img *img, uint64_t off, uint64_t len, struct img_error *err);

/* IMG_OPEN_* -> IMG_STORAGE_*, without WRITE. */
unsigned img_storage_flags(unsigned open_flags);

/*
 * An image around an open file, not yet understood: name, path and gate (a new reference) are
 * noted, file belongs to the image, also on failure. -ENOMEM.
 */
int img_context_new(struct img_storage *file, const char *name, const char *path,
		    struct img_gate *gate, unsigned flags, struct img **out, struct img_error *err);
/* How img_context_open() is to open. Zero-initialise. */
struct img_context_opening {
	enum img_io_kind io;
	uint64_t cache_bytes;
	struct img_view view;
	const struct img_node *data_file;  /* described by the user; NULL: not */
	const struct img_node *header;	   /* likewise */
	const struct img_node *options;	   /* settings for the driver among those of this node; NULL: none */
	const struct img_options *created; /* or, of an image that was just created, by these; NULL: no */
	void **handover;		   /* with created: see struct img_opening */
	const struct img_secrets *secrets;
};

/*
 * Let driver open it and give it an engine. driver NULL: by the file's content. On failure img is
 * to be closed all the same. -EINVAL (see img_probe_storage()), -EMEDIUMTYPE, and whatever the
 * driver says.
 */
int img_context_open(struct img *img, const struct img_driver *driver,
		     const struct img_context_opening *how, struct img_error *err);

/* s, which the driver has, is a part of img. -ENOMEM. */
int img_context_add_part(struct img *img, struct img_storage *s, struct img_error *err);
/* Does s share bytes with img or an image above or below it? */
bool img_context_shares(const struct img *img, const struct img_storage *s);
/* ... with img alone? */
bool img_context_has_storage(const struct img *img, const struct img_storage *s);
/* The same by identity alone. own: img's further storages count too. identity NULL: false. */
bool img_context_has(const struct img *img, const char *identity, bool own);
/* The same of img alone. */
bool img_context_depends_on(const struct img *img, const char *identity);
/*
 * Are a and b the same disk: the same bytes, read as one format, and so on down the chain? False also
 * where that is not known.
 */
bool img_context_is_same(const struct img *a, const struct img *b);

/*
 * Open, read-only, what the user calls name, seen from the image at path `image`: one image without
 * its backing chain. inner: judges what that image names. format NULL: by its content.
 */
int img_open_stored(const char *image, const char *name, const char *format,
		    struct img_gate *inner, const struct img_open_options *options,
		    struct img **out, struct img_error *err);

/*
 * img_open() for a storage that is open already, which belongs to the image from now on, also on
 * failure: for images in memory, behind injected faults or a record of writes. What the image
 * names is sought in name's folder.
 */
int img_open_storage(struct img_storage *storage, const char *name,
		     const struct img_open_options *options, struct img **out,
		     struct img_error *err);

/* Open the backing chain below img (which has no parent yet), unless flags forbid. */
int img_open_chain(struct img *img, const struct img_open_options *options,
		   struct img_error *err);

#endif

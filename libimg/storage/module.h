/*
 * Storage modules: what a description can name as the place of an image's bytes. A module opens a
 * storage from options; what it links to is loaded when a name first asks for it. The table is
 * modules.c.
 */
#ifndef LIBIMG_STORAGE_MODULE_H
#define LIBIMG_STORAGE_MODULE_H

#include "libimg/base/options.h"
#include "libimg/storage/storage.h"

struct img_secrets;

/* A key that begins as one of the module's lists ("inject-error.0.event"), and its value. */
struct img_module_item {
	const char *key, *value;
};

struct img_module_opening {
	const struct img_options *options;   /* against the module's table */
	const struct img_module_item *items; /* in the order given */
	size_t item_count;
	unsigned flags;			   /* IMG_STORAGE_* */
	struct img_storage *inner;	   /* of a filter: what it lies over */
	const struct img_secrets *secrets; /* borrowed; NULL: none */
};

struct img_module {
	const char *name;	    /* the value of "driver" */
	const char *const *schemes; /* names "SCHEME:..." are its; NULL at the end; NULL: none */
	const struct img_option *options;
	const char *const *lists; /* beginnings of further keys, with the dot; NULL at the end; NULL: none */
	bool filter;		  /* lies over another storage */
	bool devices;		  /* what it is said to be is a device */
	bool files;		  /* its names are paths, under which new files can be created */
	/* Take a name apart, schemes[i] and all. -EINVAL, -ENOMEM. Not for modules without schemes. */
	int (*parse_name)(const char *name, img_keyval_fn *set, void *user,
			  struct img_error *err);
	/*
	 * Whose bytes these options mean (struct img_storage's identity), without opening anything.
	 * malloc'd; NULL: not known. Optional.
	 */
	char *(*identify)(const struct img_options *options);
	/*
	 * Open. A filter owns inner from then on, unless this fails. Errors as img_storage_open_file();
	 * -EINVAL: options that do not go together; -ENOPKG: what it links to is not installed.
	 */
	int (*open)(const struct img_module_opening *o, struct img_storage **out,
		    struct img_error *err);
};

/* All of them, in no order of meaning; NULL past the last. */
const struct img_module *img_module_at(size_t i);
/* By the value of "driver"; NULL: no such module. */
const struct img_module *img_module_named(const char *name);
/* By the len bytes before a name's first colon; NULL: no such protocol. */
const struct img_module *img_module_of_name(const char *name, size_t len);

/* The table's rows. */
extern const struct img_module img_module_file, img_module_host_device; /* module_file.c */
extern const struct img_module img_module_null_co, img_module_null_aio; /* null.c */
extern const struct img_module img_module_nbd;
extern const struct img_module img_module_blkdebug;

#endif

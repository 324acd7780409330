/*
 * From what the user wrote to an open image: plain names, names with a protocol, json: names and
 * --image-opts.
 */
#ifndef TOOLS_OPEN_H
#define TOOLS_OPEN_H

#include <stdbool.h>

#include "libimg/img.h"

/* -l: which of the snapshots inside an image. Zero-initialise. */
struct open_snapshot {
	const char *any; /* an ID or, if none is called so, a name; borrowed; NULL: as the others say */
	char *id, *name; /* both must fit, if both are given */
};

/* From "snapshot.id=ID,snapshot.name=NAME", or else an ID or a name. False: neither; reported. */
bool open_parse_snapshot(const char *text, struct open_snapshot *out);
void open_snapshot_clear(struct open_snapshot *s);

/* What was said about one image. Zero-initialise. Strings are borrowed. */
struct open_request {
	const char *name;    /* a name; with image_opts: key=value,... */
	const char *format;  /* -f; NULL: not given */
	const char *subject; /* what errors begin with; NULL: "Could not open 'NAME'" */
	bool image_opts;
	unsigned flags;			      /* IMG_OPEN_* */
	const char *references;		      /* --references; NULL: the program's default */
	bool warn_if_probed;		      /* say that raw was only guessed */
	enum img_io_kind *io;		      /* if not NULL: set to what aio= in the name asks for, if it does */
	const unsigned *backing_flags;	      /* IMG_OPEN_* of the backing files; NULL: as flags */
	const struct open_snapshot *snapshot; /* of those inside the image; NULL: its present state */
};

/* NULL: it cannot be opened; reported. */
struct img *open_image(const struct open_request *request);

/*
 * Open it, let work() change it, and close it. The exit code: work()'s, or 1 where it cannot be opened, or what
 * was written may not have reached it; reported. err: for work()'s use.
 */
int open_and_change(const struct open_request *request,
		    int (*work)(void *user, struct img *img, struct img_error *err), void *user);

/*
 * Before img is written to: an image of its folder that is based on it reads differently then, which is a warning; or
 * it would refuse img, which is an error unless force is set. False: nothing is to be written; reported. Callers of
 * qemu-img and qemu-io know no such option: under those names the error is a warning, and there is no other.
 */
bool open_check_children(const struct img *img, bool force);

/*
 * Before a new image takes the place of what is at path, if anything is: a warning if an image of its folder is based on
 * that. Scripts replace images all day, so that it is no more than that. cache_flags: of the new image.
 */
void open_warn_replaced(const char *path, unsigned cache_flags);

/* Say so if the new disk `name` has not the size that was asked for; callers of qemu-img do not expect to hear it. */
void open_warn_rounded(const char *name, uint64_t asked, uint64_t size);

/* Say so if what was taken for a raw disk is something else by the look of it (img_guessed_content()). */
void open_warn_of_content(const char *name, const char *content);

/* The policy for files that images name, if the command line gives none; NULL: the library's. */
void open_set_default_references(const char *policy);
/* given, or else the default. */
const char *open_references(const char *given);

/*
 * --object: what descriptions speak of by id. text is of the command line: what data= is there is overwritten.
 * False: it makes no sense; reported.
 */
bool open_add_object(const char *text);
/*
 * What a subcommand of one image was given: -f, --image-opts, --references or --object, as
 * options_next() returned it. False: it makes no sense; reported.
 */
bool open_option(struct open_request *r, int opt, const char *value);
/* All objects; for a passphrase that none of them holds whoever sits at the terminal is asked. */
const struct img_secrets *open_objects(void);
/* At the end of the program: wipe them. */
void open_forget_objects(void);

/*
 * The path that a name for a new file means; export_too: or, as it is, the name of an export of a
 * protocol. NULL: it is neither; reported, beginning with subject if that is not NULL.
 */
const char *open_new_path(const char *name, const char *subject, bool export_too);

#endif

/*
 * The reference gate: the one way from a name found inside an image to an open file.
 *
 * An image is hostile until proven otherwise, so a name in it opens nothing but a regular file or
 * a block device, by a plain path, where the policy allows it; what was checked and what is opened
 * are the same file, whatever happens to the folder meanwhile.
 */
#ifndef LIBIMG_IMAGE_GATE_H
#define LIBIMG_IMAGE_GATE_H

#include <stdbool.h>
#include <sys/types.h>

struct img_error;
struct img_node;

/* A policy. Counted references; opening and closing images of one chain is single-threaded. */
struct img_gate;

/*
 * references: "none", "folder" (the naming image's own folder and below), "any", or folders
 * separated by ':'. NULL: the environment variable LIBIMG_REFERENCES, else "folder". -EINVAL,
 * -ENOMEM.
 */
int img_gate_new(const char *references, struct img_gate **out, struct img_error *err);
struct img_gate *img_gate_share(struct img_gate *gate); /* gate itself */
void img_gate_release(struct img_gate *gate);		/* NULL is fine */

/* What a name came to. */
struct img_gate_file {
	int fd;			  /* the caller's to close */
	char *path;		  /* malloc'd: the name, relative to the naming image's folder */
	char *format;		  /* malloc'd: said by a json: name; NULL: not said */
	char *identity;		  /* malloc'd: see struct img_storage */
	struct img_node *options; /* a json: name's settings for the driver (ids of secrets); NULL: none */
};
void img_gate_file_free(struct img_gate_file *file); /* not fd */

/*
 * Open what the image at path image names. gate NULL: the user gave the name, so any folder will
 * do. what: "backing file", "data file", "extent 3". writable: read-write.
 * -EPERM: refused, and the sentence says why and which option would allow it; -ENOENT, -EACCES,
 * ... of the file; -ELOOP: symbolic links that do not end.
 */
int img_gate_open(const struct img_gate *gate, const char *image, const char *name,
		  const char *what, bool writable, struct img_gate_file *out,
		  struct img_error *err);

/*
 * All names in the folder of the image at path image, sorted, that are not known to be folders: each to be
 * given to img_gate_open(). -EPERM: the policy is "none"; -E2BIG: more than IMG_GATE_NAMES_MAX; -ENOENT, ...
 */
enum { IMG_GATE_NAMES_MAX = 4096 };
int img_gate_list(const struct img_gate *gate, const char *image, char ***names, size_t *count,
		  struct img_error *err);
void img_gate_list_free(char **names, size_t count);

/*
 * The path that a name means, seen from the image at path image: absolute and protocol names as
 * they are, others relative to its folder. malloc'd; NULL: out of memory.
 */
char *img_gate_join(const char *image, const char *name);

/* Does name begin with a protocol ("nbd:", "https:", "json:")? "./a:b" and "/a:b" do not. */
bool img_gate_is_protocol(const char *name);

#endif

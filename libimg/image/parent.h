/*
 * Which file is the parent of an image, where its driver knows more than one name for it, or its identity.
 */
#ifndef LIBIMG_IMAGE_PARENT_H
#define LIBIMG_IMAGE_PARENT_H

#include "libimg/image/context.h"

struct img_parent {
	char *name;			 /* malloc'd: leads there, from img's folder, through img's gate */
	const struct img_driver *driver; /* whose image it is; NULL: not known */
};

/* Is it another state of the same file? */
static inline bool img_parent_is_view(const struct img *img)
{
	return img->backing_view.id || img->backing_view.name;
}

/* Does img say anything about a parent? */
static inline bool img_parent_is_named(const struct img *img)
{
	return (img->backing_name && *img->backing_name) || img->backing_alternative_count ||
	       img->backing_uuid_count || img_parent_is_view(img);
}

/* Is its name all there is to say? */
static inline bool img_parent_has_one_name(const struct img *img)
{
	return !img->backing_alternative_count && !img->backing_uuid_count;
}

/*
 * The first of its names that leads to an image of the identity that is sought; else the one file in
 * img's own folder that has it; else the first name that leads to a file of no identity. Only what the gate
 * allows is looked at. driver: the only one that it may be an image of; NULL: any. None of these: -ENOENT,
 * or why the first name cannot be followed (-EPERM, ...); the sentence has all that was tried, and why it is
 * not the parent. -ENOTUNIQ: two files of the folder have the identity. -ELOOP: it is an image of the chain.
 * -ENOMEM, -EMFILE, -ENFILE.
 */
int img_parent_find(const struct img *img, const struct img_driver *driver, struct img_parent *out,
		    struct img_error *err);

#endif

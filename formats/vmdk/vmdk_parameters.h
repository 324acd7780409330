/*
 * What is asked for when a disk is created, in the format's terms, and the descriptor made of that.
 */
#ifndef FORMATS_VMDK_VMDK_PARAMETERS_H
#define FORMATS_VMDK_VMDK_PARAMETERS_H

#include "formats/vmdk/vmdk_state.h"

struct vmdk_parameters {
	const char *create_type, *adapter, *hardware, *tools;
	bool flat, split, stream, zeroed_grains;
	char *stem, *suffix; /* of the image's name without its folder: "disk", ".vmdk" */
	uint64_t extents;
};

/* A content ID as the options have it. False: it is none, or stands for none. */
bool vmdk_parse_cid(const char *text, uint32_t *out);
/* path without its folder; borrowed from it. */
const char *vmdk_base_name(const char *path);
/* On failure there is nothing to clear. */
int vmdk_parameters_make(const struct img_creating *c, struct vmdk_parameters *w, struct img_error *err);
void vmdk_parameters_clear(struct vmdk_parameters *w);
/* The name of extent n, counted from 0, malloc'd. NULL: out of memory. */
char *vmdk_extent_name(const struct vmdk_parameters *w, uint64_t n);
uint64_t vmdk_extent_bytes(const struct img_creating *c, const struct vmdk_parameters *w, uint64_t n);
/* vmdk_descriptor_write.c. The descriptor, malloc'd, with an identity of its own. */
int vmdk_describe(const struct img_creating *c, const struct vmdk_parameters *w, char **text, size_t *len,
		  struct img_error *err);

#endif

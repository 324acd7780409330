/*
 * The descriptor of a new disk: what vmdk_descriptor.c parses. Its identifiers are random, or made of what
 * the caller gives, so that the same conversion gives the same bytes.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_parameters.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/identity.h"

static void print_extents(const struct img_creating *c, const struct vmdk_parameters *w, FILE *out,
			  bool *complete)
{
	for (uint64_t n = 0; n < w->extents; n++) {
		char *name = vmdk_extent_name(w, n);

		*complete &= name != NULL;
		fprintf(out, "RW %" PRIu64 " %s \"%s\"%s\n", vmdk_extent_bytes(c, w, n) / VMDK_SECTOR,
			w->flat ? "FLAT" : "SPARSE", name ? name : "", w->flat ? " 0" : "");
		free(name);
	}
	/* An embedded descriptor has a line for its own file, however small the disk. */
	if (!w->extents && !w->split && !w->flat) {
		char *name = vmdk_extent_name(w, 0);

		*complete &= name != NULL;
		fprintf(out, "RW 0 SPARSE \"%s\"\n", name ? name : "");
		free(name);
	}
}

/* What tells this disk from others. */
struct identifiers {
	uint32_t cid;
	uint64_t long_cid[2]; /* its last 32 bits are replaced by cid */
	char image[VMDK_UUID_CHARS + 1], modification[VMDK_UUID_CHARS + 1];
};

/* 16 bytes for one identifier. Disks of different kinds differ in them even with one content. */
static int make_bytes(const struct img_creating *c, const struct vmdk_parameters *w, const char *what,
		      uint8_t bytes[16], struct img_error *err)
{
	char label[128];

	snprintf(label, sizeof(label), "vmdk %s %s", w->create_type, what);
	return img_identity_bytes(c->identity, label, bytes, 16, err);
}

static int make_identifiers(const struct img_creating *c, const struct vmdk_parameters *w,
			    struct identifiers *id, struct img_error *err)
{
	const char *uuid = img_options_string(c->options, "uuid");
	const char *modified = img_options_string(c->options, "modification_uuid");
	const char *content = img_options_string(c->options, "cid");
	uint8_t cid[16], image[16], modification[16];
	int rc = make_bytes(c, w, "content", cid, err);

	if (!rc)
		rc = make_bytes(c, w, "image", image, err);
	if (!rc)
		rc = make_bytes(c, w, "modification", modification, err);
	if (rc)
		return rc;
	id->long_cid[0] = le64_load(cid);
	id->long_cid[1] = le64_load(cid + 8);
	id->cid = (uint32_t)(id->long_cid[1] >> 32);
	if (!id->cid || id->cid == VMDK_NO_PARENT)
		id->cid ^= 0x5a5a5a5a;
	if (content)
		vmdk_parse_cid(content, &id->cid);
	vmdk_print_uuid(image, id->image);
	if (uuid && img_guid_parse(uuid, strlen(uuid), image))
		img_guid_print(image, id->image);
	vmdk_print_uuid(modification, id->modification);
	if (modified && img_guid_parse(modified, strlen(modified), modification))
		img_guid_print(modification, id->modification);
	return 0;
}

int vmdk_describe(const struct img_creating *c, const struct vmdk_parameters *w, char **text,
		  size_t *len, struct img_error *err)
{
	static const char nil[] = "00000000-0000-0000-0000-000000000000";
	const struct vmdk *parent = c->backing ? c->backing->state : NULL;
	unsigned heads = !strcmp(w->adapter, "ide") ? 16 : 255;
	struct identifiers id;
	bool complete = true;
	FILE *out;
	int rc = make_identifiers(c, w, &id, err);

	if (rc)
		return rc;
	out = open_memstream(text, len);
	if (!out)
		return img_fail(err, -ENOMEM, "out of memory");
	fprintf(out,
		"# Disk DescriptorFile\nversion=1\nCID=%08" PRIx32 "\nparentCID=%08" PRIx32 "\n"
		"createType=\"%s\"\n",
		id.cid, parent ? parent->cid : VMDK_NO_PARENT, w->create_type);
	if (c->backing_name)
		fprintf(out, "parentFileNameHint=\"%s\"\n", c->backing_name);
	fprintf(out, "\n# Extent description\n");
	print_extents(c, w, out, &complete);
	fprintf(out,
		"\n# The Disk Data Base\n#DDB\n\n"
		"ddb.virtualHWVersion = \"%s\"\n"
		"ddb.geometry.cylinders = \"%" PRIu64 "\"\n"
		"ddb.geometry.heads = \"%u\"\n"
		"ddb.geometry.sectors = \"63\"\n"
		"ddb.adapterType = \"%s\"\n"
		"ddb.toolsVersion = \"%s\"\n",
		w->hardware, c->size / VMDK_SECTOR / (heads * UINT64_C(63)), heads, w->adapter,
		w->tools);
	fprintf(out,
		"ddb.longContentID = \"%016" PRIx64 "%08" PRIx32 "%08" PRIx32 "\"\n"
		"ddb.uuid.image=\"%s\"\n"
		"ddb.uuid.modification=\"%s\"\n"
		"ddb.uuid.parent=\"%s\"\n"
		"ddb.uuid.parentmodification=\"%s\"\n",
		id.long_cid[0], (uint32_t)id.long_cid[1], id.cid, id.image, id.modification,
		parent && parent->uuid_image ? parent->uuid_image : nil,
		parent && parent->uuid_modification ? parent->uuid_modification : nil);
	if (fclose(out) || !complete) {
		free(*text);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	return 0;
}

#include "formats/vmdk/vmdk_parameters.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/identity.h"

#define SPLIT_BYTES UINT64_C(0x80000000) /* as QEMU; VMware takes any */

/* The name in a stream's descriptor; readers go by the file they have. VMware's exports say this too. */
#define STREAM_NAME "generated-stream.vmdk"

static bool same(const char *a, const char *b)
{
	return !strcmp(a, b);
}

const char *vmdk_base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

void vmdk_parameters_clear(struct vmdk_parameters *w)
{
	free(w->stem);
	free(w->suffix);
}

int vmdk_parameters_make(const struct img_creating *c, struct vmdk_parameters *w, struct img_error *err)
{
	const struct img_options *o = c->options;
	const char *subformat = img_options_string(o, "subformat");
	const char *base = vmdk_base_name(c->name), *dot = strrchr(base, '.');
	size_t stem_len = dot ? (size_t)(dot - base) : strlen(base);
	/* In a descriptor these are no part of a file's name, but tell that one follows. */
	bool prefixed = !strncasecmp(base, "file:", 5) || !strncasecmp(base, "json:", 5);

	*w = (struct vmdk_parameters){
		.create_type = subformat ? subformat : "monolithicSparse",
		.adapter = img_options_string(o, "adapter_type"),
		.hardware = img_options_string(o, "hwversion"),
		.tools = img_options_string(o, "toolsversion"),
		.zeroed_grains = img_options_bool(o, "zeroed_grain"),
		.suffix = strdup(dot ? dot : ""),
		.extents = c->size ? 1 : 0,
	};
	if (asprintf(&w->stem, "%s%.*s", prefixed ? "./" : "", (int)stem_len, base) < 0)
		w->stem = NULL;
	if (!w->stem || !w->suffix) {
		vmdk_parameters_clear(w);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	w->flat = same(w->create_type, "monolithicFlat") ||
		  same(w->create_type, "twoGbMaxExtentFlat");
	w->split = same(w->create_type, "twoGbMaxExtentSparse") ||
		   same(w->create_type, "twoGbMaxExtentFlat");
	w->stream = same(w->create_type, "streamOptimized");
	if (w->split)
		w->extents = div_round_up_u64(c->size, SPLIT_BYTES);
	if (!w->adapter)
		w->adapter = "ide";
	if (!w->tools)
		w->tools = "2147483647"; /* "unknown": vSphere customizes guests only with one */
	if (!w->hardware || same(w->hardware, "undefined"))
		w->hardware = img_options_bool(o, "compat6") ? "6" : "4";
	return 0;
}

char *vmdk_extent_name(const struct vmdk_parameters *w, uint64_t n)
{
	char *name;
	int rc;

	if (w->stream)
		return strdup(STREAM_NAME);
	if (w->split)
		rc = asprintf(&name, "%s-%c%03" PRIu64 "%s", w->stem, w->flat ? 'f' : 's', n + 1,
			      w->suffix);
	else
		rc = asprintf(&name, "%s%s%s", w->stem, w->flat ? "-flat" : "", w->suffix);
	return rc < 0 ? NULL : name;
}

uint64_t vmdk_extent_bytes(const struct img_creating *c, const struct vmdk_parameters *w, uint64_t n)
{
	return w->split ? min_u64(SPLIT_BYTES, c->size - n * SPLIT_BYTES) : c->size;
}

/* ---- The descriptor ---- */

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
	vmdk_print_uuid(image, id->image);
	vmdk_print_uuid(modification, id->modification);
	return 0;
}

int vmdk_describe(const struct img_creating *c, const struct vmdk_parameters *w, char **text,
		  size_t *len, struct img_error *err)
{
	static const char nil[] = "00000000-0000-0000-0000-000000000000";
	const struct vmdk *parent = c->backing ? c->backing->state : NULL;
	unsigned heads = same(w->adapter, "ide") ? 16 : 255;
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

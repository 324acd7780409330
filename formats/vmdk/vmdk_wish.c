#include "formats/vmdk/vmdk_wish.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "libimg/base/arith.h"

#define SPLIT_BYTES UINT64_C(0x80000000) /* as QEMU; VMware takes any */

static bool same(const char *a, const char *b)
{
	return !strcmp(a, b);
}

const char *vmdk_base_name(const char *path)
{
	const char *slash = strrchr(path, '/');

	return slash ? slash + 1 : path;
}

void vmdk_wish_clear(struct vmdk_wish *w)
{
	free(w->stem);
	free(w->suffix);
}

int vmdk_wish_make(const struct img_creating *c, struct vmdk_wish *w, struct img_error *err)
{
	const struct img_options *o = c->options;
	const char *subformat = img_options_string(o, "subformat");
	const char *base = vmdk_base_name(c->name), *dot = strrchr(base, '.');

	*w = (struct vmdk_wish){
		.create_type = subformat ? subformat : "monolithicSparse",
		.adapter = img_options_string(o, "adapter_type"),
		.hardware = img_options_string(o, "hwversion"),
		.tools = img_options_string(o, "toolsversion"),
		.zeroed_grains = img_options_bool(o, "zeroed_grain"),
		.stem = dot ? strndup(base, (size_t)(dot - base)) : strdup(base),
		.suffix = strdup(dot ? dot : ""),
		.extents = c->size ? 1 : 0,
	};
	if (!w->stem || !w->suffix) {
		vmdk_wish_clear(w);
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

char *vmdk_extent_name(const struct vmdk_wish *w, uint64_t n)
{
	char *name;
	int rc;

	if (w->split)
		rc = asprintf(&name, "%s-%c%03" PRIu64 "%s", w->stem, w->flat ? 'f' : 's', n + 1,
			      w->suffix);
	else
		rc = asprintf(&name, "%s%s%s", w->stem, w->flat ? "-flat" : "", w->suffix);
	return rc < 0 ? NULL : name;
}

uint64_t vmdk_extent_bytes(const struct img_creating *c, const struct vmdk_wish *w, uint64_t n)
{
	return w->split ? min_u64(SPLIT_BYTES, c->size - n * SPLIT_BYTES) : c->size;
}

/* ---- The descriptor ---- */

static void print_extents(const struct img_creating *c, const struct vmdk_wish *w, FILE *out,
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
	if (!w->extents && !w->split && !w->flat)
		fprintf(out, "RW 0 SPARSE \"%s%s\"\n", w->stem, w->suffix);
}

int vmdk_describe(const struct img_creating *c, const struct vmdk_wish *w, char **text,
		  size_t *len, struct img_error *err)
{
	static const char nil[] = "00000000-0000-0000-0000-000000000000";
	const struct vmdk *parent = c->backing ? c->backing->state : NULL;
	unsigned heads = same(w->adapter, "ide") ? 16 : 255;
	char image[VMDK_UUID_CHARS + 1], modification[VMDK_UUID_CHARS + 1];
	uint64_t long_cid[2];
	bool complete = true;
	uint32_t cid;
	FILE *out;
	int rc;

	rc = vmdk_new_cid(0, &cid, err);
	if (!rc)
		rc = vmdk_new_uuid(image, err);
	if (!rc)
		rc = vmdk_new_uuid(modification, err);
	if (rc)
		return rc;
	if (getrandom(long_cid, sizeof(long_cid), 0) != sizeof(long_cid))
		return img_fail(err, -errno, "no random number: %s", strerror(errno));
	out = open_memstream(text, len);
	if (!out)
		return img_fail(err, -ENOMEM, "out of memory");
	fprintf(out,
		"# Disk DescriptorFile\nversion=1\nCID=%08" PRIx32 "\nparentCID=%08" PRIx32 "\n"
		"createType=\"%s\"\n",
		cid, parent ? parent->cid : VMDK_NO_PARENT, w->create_type);
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
		long_cid[0], (uint32_t)long_cid[1], cid, image, modification,
		parent && parent->uuid_image ? parent->uuid_image : nil, nil);
	if (fclose(out) || !complete) {
		free(*text);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	return 0;
}

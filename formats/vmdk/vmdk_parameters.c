/*
 * What is asked for when a disk is created, from options to the format's terms: the names and lengths of
 * its extents follow from that.
 */
#include "formats/vmdk/vmdk_parameters.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libimg/base/arith.h"

#define SPLIT_BYTES UINT64_C(0x80000000) /* as QEMU; VMware takes any */

/* The name in a stream's descriptor; readers go by the file they have. VMware's exports say this too. */
#define STREAM_NAME "generated-stream.vmdk"

static bool same(const char *a, const char *b)
{
	return !strcmp(a, b);
}

bool vmdk_parse_cid(const char *text, uint32_t *out)
{
	if (strlen(text) != 8 || strspn(text, "0123456789abcdefABCDEF") != 8)
		return false;
	*out = (uint32_t)strtoul(text, NULL, 16);
	return *out && *out != VMDK_NO_PARENT;
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

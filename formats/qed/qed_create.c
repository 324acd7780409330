/*
 * Creating images: a header, and an L1 table that leads nowhere.
 */
#include <inttypes.h>
#include <string.h>

#include "formats/qed/qed_state.h"
#include "libimg/base/arith.h"

/* In qemu-img's words. */
const struct img_option qed_create_options[] = {
	{ "size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL },
	{ "backing_file", IMG_OPTION_STRING, "File name of a base image", NULL, NULL },
	{ "backing_fmt", IMG_OPTION_STRING, "Image format of the base image", NULL, NULL },
	{ "cluster_size", IMG_OPTION_SIZE, "Cluster size (in bytes)", "65536", NULL },
	{ "table_size", IMG_OPTION_SIZE, "L1/L2 table size (in clusters)", NULL, NULL },
	{ 0 },
};

enum { TABLE_CLUSTERS = 4 };

static int make_header(const struct img_creating *c, struct qed_header *h, struct img_error *err)
{
	const struct img_options *o = c->options;
	uint64_t cluster = img_options_number(o, "cluster_size"), table = TABLE_CLUSTERS;

	if (img_options_has(o, "table_size"))
		table = img_options_number(o, "table_size");
	if (!is_pow2_u64(cluster) || cluster < QED_CLUSTER_MIN || cluster > QED_CLUSTER_MAX)
		return img_fail(err, -EINVAL,
				"%s: QED cluster size must be within range [%d, %d] and power of 2, found %" PRIu64,
				c->name, QED_CLUSTER_MIN, QED_CLUSTER_MAX, cluster);
	if (!is_pow2_u64(table) || table > QED_TABLE_SIZE_MAX)
		return img_fail(err, -EINVAL,
				"%s: QED table size must be within range [1, %d] and power of 2, found %" PRIu64,
				c->name, QED_TABLE_SIZE_MAX, table);
	*h = (struct qed_header){
		.cluster_bytes = (uint32_t)cluster,
		.table_clusters = (uint32_t)table,
		.header_clusters = 1,
		.l1_off = cluster,
		.size = c->size,
	};
	if (c->size > qed_size_max(h))
		return img_fail(err, -EFBIG,
				"%s: size is %" PRIu64 ", expected at most %" PRIu64
				" with clusters of %" PRIu64 " bytes and tables of %" PRIu64 " clusters",
				c->name, c->size, qed_size_max(h), cluster, table);
	if (!c->backing_name)
		return 0;
	if (strlen(c->backing_name) > QED_NAME_MAX)
		return img_fail(err, -EINVAL, "%s: backing file name has %zu bytes, expected at most %d",
				c->name, strlen(c->backing_name), QED_NAME_MAX);
	h->features |= QED_BACKING;
	if (c->backing_format && !strcmp(c->backing_format, "raw"))
		h->features |= QED_BACKING_RAW;
	h->name_off = QED_HEADER_BYTES;
	h->name_bytes = (uint32_t)strlen(c->backing_name);
	return 0;
}

int qed_create_check(struct img_creating *c, struct img_error *err)
{
	struct qed_header h;
	int rc = make_header(c, &h, err);

	if (!rc && c->compress)
		rc = img_fail(err, -ENOTSUP, "%s: Compression not supported for this file format", c->name);
	return rc;
}

int qed_create(struct img_creating *c, struct img_error *err)
{
	uint8_t bytes[QED_HEADER_BYTES];
	struct qed_header h;
	uint64_t end;
	int rc = make_header(c, &h, err);

	if (rc)
		return rc;
	end = h.l1_off + qed_table_bytes(&h);
	if (c->file->device)
		rc = img_storage_zero(c->file, 0, end, err);
	else
		rc = img_storage_resize(c->file, end, IMG_PREALLOCATE_OFF, err);
	qed_encode_header(&h, bytes);
	if (!rc)
		rc = img_storage_write(c->file, 0, bytes, sizeof(bytes), err);
	if (!rc && h.name_bytes)
		rc = img_storage_write(c->file, h.name_off, c->backing_name, h.name_bytes, err);
	return rc;
}

/*
 * What an image says about itself: spec/qcow2.md, "Header", "Snapshots", "Bitmaps", "Encryption".
 * Blocking; nothing but the image's own file is read.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/crypto/luks.h"

enum {
	/* The longest snapshot entry that is read: fixed part, extra data, id and name. */
	MAX_SNAPSHOT = QCOW2_SNAPSHOT_FIXED_BYTES + QCOW2_MAX_SNAPSHOT_EXTRA + 2 * UINT16_MAX,
};

int qcow2_each_snapshot(struct img *img, int (*fn)(void *user, const struct qcow2_snapshot *s),
			void *user, uint64_t *table_bytes, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	uint64_t at = 0;
	uint8_t *bytes = malloc(MAX_SNAPSHOT);
	int rc = 0;

	if (!bytes)
		return qcow2_no_memory(img, err);
	/* An image opened for a check may have any number in its header. */
	if (q->header.snapshots > QCOW2_MAX_SNAPSHOTS)
		rc = img_fail(err, -EUCLEAN,
			      "%s: header: Snapshot table too large: %" PRIu32 " snapshots, "
			      "expected at most %d",
			      img->name, q->header.snapshots, QCOW2_MAX_SNAPSHOTS);
	for (uint32_t i = 0; !rc && i < q->header.snapshots; i++) {
		uint64_t file_off = q->header.snapshots_off + at, len;
		struct qcow2_snapshot s;

		if (!range_in(file_off, QCOW2_SNAPSHOT_FIXED_BYTES, img->file->size)) {
			rc = img_fail(err, -EUCLEAN,
				      "%s: snapshot table entry %" PRIu32 " at offset %" PRIu64
				      " lies past the end of the file at %" PRIu64,
				      img->name, i, file_off, (uint64_t)img->file->size);
			break;
		}
		rc = img_storage_read(img->file, file_off, bytes, QCOW2_SNAPSHOT_FIXED_BYTES, err);
		if (rc)
			break;
		len = qcow2_snapshot_bytes(bytes);
		if (len > MAX_SNAPSHOT || at + len > QCOW2_MAX_SNAPSHOT_TABLE_BYTES) {
			rc = img_fail(err, -EUCLEAN,
				      "%s: snapshot table entry %" PRIu32 " at offset "
				      "%" PRIu64 ": Snapshot table too large: %" PRIu64 " bytes, "
				      "expected at most %d in the entry and %d in all",
				      img->name, i, file_off, len, MAX_SNAPSHOT,
				      QCOW2_MAX_SNAPSHOT_TABLE_BYTES);
			break;
		}
		rc = img_storage_read(img->file, file_off, bytes, (size_t)len, err);
		if (rc)
			break;
		rc = qcow2_parse_snapshot(bytes, (size_t)len, &s, err);
		if (rc) {
			img_error_prefix(err, rc,
					 "%s: snapshot table entry %" PRIu32 " at offset "
					 "%" PRIu64,
					 img->name, i, file_off);
			break;
		}
		at += round_up_u64(len, 8);
		rc = fn ? fn(user, &s) : 0;
	}
	free(bytes);
	if (!rc && table_bytes)
		*table_bytes = at;
	return rc;
}

int qcow2_read_bitmap_directory(struct img *img, uint8_t **out, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	/* At most 64 MiB, by the header's check; and no more than the file has. */
	uint64_t bytes = q->bitmap_directory_bytes;
	uint8_t *directory;
	int rc;

	if (!range_in(q->bitmap_directory_off, bytes, img->file->size))
		return img_fail(err, -EUCLEAN,
				"%s: bitmap directory at offset %" PRIu64 ": %" PRIu64 " bytes "
				"run past the end of the file at %" PRIu64,
				img->name, q->bitmap_directory_off, bytes,
				(uint64_t)img->file->size);
	directory = malloc(bytes);
	if (!directory)
		return qcow2_no_memory(img, err);
	rc = img_storage_read(img->file, q->bitmap_directory_off, directory, (size_t)bytes, err);
	if (rc) {
		free(directory);
		return rc;
	}
	*out = directory;
	return 0;
}

static char *text_of(const uint8_t *bytes, size_t len)
{
	return strndup((const char *)bytes, len);
}

struct snapshots {
	struct img_value *array;
};

static int add_snapshot(void *user, const struct qcow2_snapshot *s)
{
	struct snapshots *all = user;
	struct img_value *v = img_value_new(IMG_VALUE_OBJECT);
	char *id = text_of(s->id, s->id_bytes), *name = text_of(s->name, s->name_bytes);
	int rc = v && id && name ? 0 : -ENOMEM;

	if (!rc) {
		if (s->has_icount && s->icount != UINT64_MAX)
			img_value_add_int(v, "icount", (int64_t)s->icount);
		img_value_add_int(v, "vm-clock-nsec", (int64_t)(s->guest_ns % 1000000000));
		img_value_add_string(v, "name", name);
		img_value_add_int(v, "date-sec", s->seconds);
		img_value_add_int(v, "date-nsec", s->nanoseconds);
		img_value_add_int(v, "vm-clock-sec", (int64_t)(s->guest_ns / 1000000000));
		img_value_add_string(v, "id", id);
		img_value_add_int(v, "vm-state-size", (int64_t)s->vm_state_bytes);
		img_value_adopt(all->array, NULL, v);
		v = NULL;
	}
	img_value_free(v);
	free(id);
	free(name);
	return rc;
}

static int add_bitmap(struct img_value *array, const struct qcow2_bitmap *b)
{
	struct img_value *v = img_value_new(IMG_VALUE_OBJECT), *flags;
	char *name = text_of(b->name, b->name_bytes);

	if (!v || !name) {
		img_value_free(v);
		free(name);
		return -ENOMEM;
	}
	flags = img_value_add_array(v, "flags");
	if (b->flags & QCOW2_BITMAP_IN_USE)
		img_value_add_string(flags, NULL, "in-use");
	if (b->flags & QCOW2_BITMAP_AUTO)
		img_value_add_string(flags, NULL, "auto");
	img_value_add_string(v, "name", name);
	img_value_add_uint(v, "granularity", UINT64_C(1) << b->granularity_bits);
	img_value_adopt(array, NULL, v);
	free(name);
	return 0;
}

static int add_bitmaps(struct img *img, struct img_value *specific, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	struct img_value *array;
	uint8_t *directory = NULL;
	uint64_t at = 0;
	int rc = qcow2_read_bitmap_directory(img, &directory, err);

	if (rc || !directory)
		return rc;
	array = img_value_add_array(specific, "bitmaps");
	for (uint32_t i = 0; !rc && i < q->bitmaps; i++) {
		struct qcow2_bitmap b;

		rc = qcow2_parse_bitmap(&q->geometry, directory + at,
					(size_t)(q->bitmap_directory_bytes - at), &b, err);
		if (rc) {
			img_error_prefix(err, rc,
					 "%s: bitmap directory at offset %" PRIu64 ", entry "
					 "%" PRIu32,
					 img->name, q->bitmap_directory_off, i);
			break;
		}
		rc = add_bitmap(array, &b);
		if (rc)
			img_fail(err, rc, "%s: out of memory", img->name);
		at += qcow2_bitmap_bytes(directory + at);
	}
	free(directory);
	return rc;
}

static int add_luks(struct img *img, struct img_value *encrypt, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	struct img_luks *luks;
	int rc = qcow2_open_luks(img, q->crypto_off, q->crypto_bytes, &luks, err);

	if (rc)
		return rc;
	img_luks_info(luks, "luks", encrypt);
	img_luks_free(luks);
	return 0;
}

/* In the order in which qemu-img 7.2 prints it. */
int qcow2_info(struct img *img, struct img_value *top, struct img_value *specific,
	       struct img_error *err)
{
	const struct qcow2 *q = img->state;
	const struct qcow2_header *h = &q->header;
	bool v3 = h->version >= 3;
	int rc = 0;

	img_value_add_uint(top, "cluster-size", q->geometry.cluster_bytes);
	if (h->snapshots) {
		struct snapshots all = { img_value_add_array(top, "snapshots") };

		rc = qcow2_each_snapshot(img, add_snapshot, &all, NULL, err);
		if (rc)
			return rc;
	}
	img_value_add_string(specific, "compat", v3 ? "1.1" : "0.10");
	img_value_add_string(specific, "compression-type",
			     h->compression == QCOW2_COMPRESSION_ZSTD ? "zstd" : "zlib");
	if (v3)
		img_value_add_bool(specific, "lazy-refcounts",
				   h->compatible & QCOW2_COMPATIBLE_LAZY_REFCOUNTS);
	if (q->bitmaps)
		rc = add_bitmaps(img, specific, err);
	if (rc)
		return rc;
	img_value_add_uint(specific, "refcount-bits", q->geometry.refcount_bits);
	if (h->crypt_method != QCOW2_CRYPT_NONE) {
		struct img_value *encrypt = img_value_add_object(specific, "encrypt");

		if (h->crypt_method == QCOW2_CRYPT_AES)
			img_value_add_string(encrypt, "format", "aes");
		else
			rc = add_luks(img, encrypt, err);
		if (rc)
			return rc;
	}
	if (q->data_file_name)
		img_value_add_string(specific, "data-file", q->data_file_name);
	if (v3 && q->geometry.data_file)
		img_value_add_bool(specific, "data-file-raw", q->raw_data_file);
	if (v3) {
		img_value_add_bool(specific, "corrupt",
				   h->incompatible & QCOW2_INCOMPATIBLE_CORRUPT);
		img_value_add_bool(specific, "extended-l2", q->geometry.extended);
	}
	return 0;
}

/*
 * Another backing file's name in the header. A power cut leaves the old name or the new one: the new
 * one is written where neither the old one nor an extension is, and made durable; then one write at
 * the start of the file, of the header and the extensions, says where it is. Only where the first
 * cluster has no room for both names is it all one write.
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* The first cluster as it is and as it will be. */
struct first {
	uint8_t *old, *next;
	uint64_t bytes;
	uint64_t old_end;  /* of the extensions in old */
	uint64_t end;	   /* the same in next */
	uint64_t name_off; /* in next; 0: none */
	size_t name_bytes;
	bool apart; /* nothing that old needs is where the name goes */
};

static bool add_extension(struct first *f, uint32_t type, const void *data, size_t bytes)
{
	uint64_t room = div_round_up_u64(bytes, 8) * 8 + 8;

	if (room > f->bytes - f->end)
		return false;
	memset(f->next + f->end, 0, room);
	be32_store(f->next + f->end, type);
	be32_store(f->next + f->end + 4, (uint32_t)bytes);
	if (bytes)
		memcpy(f->next + f->end + 8, data, bytes);
	f->end += room;
	return true;
}

/* All extensions as they are, but the format, which is the first so that it moves the least. */
static bool add_extensions(struct first *f, const struct qcow2_header *h, const char *format)
{
	size_t pos = h->header_bytes;
	size_t end = h->backing_off ? (size_t)h->backing_off : (size_t)f->bytes;
	struct qcow2_extension ext;

	f->end = h->header_bytes;
	if (format && !add_extension(f, QCOW2_EXT_BACKING_FORMAT, format, strlen(format)))
		return false;
	while (qcow2_next_extension(f->old, end, &pos, &ext, NULL) == 1)
		if (ext.type != QCOW2_EXT_BACKING_FORMAT &&
		    !add_extension(f, ext.type, ext.data, ext.bytes))
			return false;
	f->old_end = min_u64(pos + 8, end);
	return add_extension(f, QCOW2_EXT_END, NULL, 0);
}

/* Find a place for the name behind the extensions. */
static bool place_name(struct first *f, const struct qcow2_header *h, const char *name)
{
	f->name_bytes = name ? strlen(name) : 0;
	f->apart = true;
	if (!name)
		return true;
	f->name_off = max_u64(f->end, f->old_end);
	if (h->backing_off && f->name_off + f->name_bytes > h->backing_off)
		f->name_off = max_u64(f->name_off, h->backing_off + h->backing_bytes);
	if (f->name_off + f->name_bytes > f->bytes) {
		f->name_off = f->end;
		f->apart = false;
	}
	return f->name_off + f->name_bytes <= f->bytes;
}

static int write_first(struct img *img, const struct first *f, struct img_error *err)
{
	uint64_t end = f->end;
	int rc = 0;

	if (f->name_off && f->apart) {
		rc = qcow2_write_meta(img, f->name_off, f->next + f->name_off, f->name_bytes, err);
		if (!rc)
			rc = qcow2_sync(img, err);
	} else if (f->name_off) {
		end = f->name_off + f->name_bytes;
	}
	if (!rc)
		rc = qcow2_write_meta(img, 0, f->next, (size_t)end, err);
	return rc ? rc : qcow2_sync(img, err);
}

static int check_names(const struct img *img, const char *name, const char *format,
		       struct img_error *err)
{
	const struct qcow2 *q = img->state;

	if (name && q->raw_data_file)
		return img_fail(err, -ENOTSUP,
				"%s: its data file must hold what the disk reads as, so it cannot have "
				"a backing file",
				img->name);
	if (name && strlen(name) > QCOW2_MAX_BACKING_NAME)
		return img_fail(err, -EINVAL,
				"%s: backing file name has %zu bytes, expected at most %d",
				img->name, strlen(name), QCOW2_MAX_BACKING_NAME);
	if (format && strlen(format) > QCOW2_MAX_BACKING_FORMAT)
		return img_fail(err, -EINVAL,
				"%s: backing format '%s' has %zu bytes, expected at most %d",
				img->name, format, strlen(format), QCOW2_MAX_BACKING_FORMAT);
	return 0;
}

static int rewrite(struct img *img, struct first *f, const char *name, const char *format,
		   struct img_error *err)
{
	struct qcow2 *q = img->state;
	struct qcow2_header h;
	int rc = img_storage_read(img->file, 0, f->old, (size_t)f->bytes, err);

	if (!rc)
		rc = qcow2_parse_header(f->old, (size_t)f->bytes, 0, &h, err);
	if (rc)
		return rc;
	memcpy(f->next, f->old, f->bytes);
	if (!add_extensions(f, &h, format) || !place_name(f, &h, name))
		return img_fail(err, -ENOSPC,
				"%s: the header, its extensions and a backing file name of %zu bytes "
				"do not fit in the first cluster, which has %" PRIu64,
				img->name, name ? strlen(name) : 0, f->bytes);
	if (f->name_off)
		memcpy(f->next + f->name_off, name, f->name_bytes);
	be64_store(f->next + QCOW2_OFF_BACKING_OFF, f->name_off);
	be32_store(f->next + QCOW2_OFF_BACKING_BYTES, (uint32_t)f->name_bytes);
	rc = write_first(img, f, err);
	if (rc)
		return rc;
	q->header.backing_off = f->name_off;
	q->header.backing_bytes = (uint32_t)f->name_bytes;
	return 0;
}

int qcow2_set_backing(struct img *img, const char *name, const char *format,
		      const struct img *backing, struct img_error *err)
{
	const struct qcow2 *q = img->state;
	struct first f = { .bytes = q->geometry.cluster_bytes };
	char *new_name = name ? strdup(name) : NULL, *new_format = format ? strdup(format) : NULL;
	int rc = check_names(img, name, format, err);

	(void)backing;
	f.old = malloc(f.bytes);
	f.next = malloc(f.bytes);
	if (!rc && (!f.old || !f.next || (name && !new_name) || (format && !new_format)))
		rc = qcow2_no_memory(img, err);
	if (!rc)
		rc = rewrite(img, &f, name, format, err);
	if (!rc) {
		char *old_name = img->backing_name, *old_format = img->backing_format;

		img->backing_name = new_name;
		img->backing_format = new_format;
		new_name = old_name;
		new_format = old_format;
	}
	free(f.old);
	free(f.next);
	free(new_name);
	free(new_format);
	return rc;
}

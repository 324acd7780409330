/*
 * luks: a header with key slots, then the disk, each sector of it encrypted (spec/luks.md). Guest byte n is
 * file byte payload + n; there is no other metadata, so every write is in place, in whole sectors of the
 * cipher. What was never written reads as whatever the cipher makes of it.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/luks/luks_state.h"
#include "libimg/base/arith.h"

enum {
	SECOND_HEADER_MIN = 16 << 10,
	PLAN_BYTES = 1 << 20, /* encrypted by one thread, in memory of its own */
};

static const struct img_option luks_open_options[] = {
	{ "key-secret", IMG_OPTION_SECRET, "ID of the secret that provides the keyslot passphrase",
	  NULL, NULL },
	{ 0 },
};

static int luks_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	if (img_luks_probe(head, len))
		return 100;
	/* version 2 without its first header, which -f luks opens by the second */
	for (size_t off = SECOND_HEADER_MIN; off + 6 <= len; off *= 2)
		if (!memcmp(head + off, "SKUL\xba\xbe", 6))
			return IMG_PROBE_NEARLY;
	return 0;
}

static void luks_close(struct img *img)
{
	struct luks *l = img->state;

	if (!l)
		return;
	img_cipher_free(l->cipher);
	img_luks_free(l->header);
	img_storage_close(l->header_file);
	free(l);
}

static int unlock(void *user, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	struct luks *l = user;

	return img_luks_unlock(l->header, passphrase, len, err);
}

/* Find the header, and parse it. */
static int open_header(struct img *img, struct luks *l, struct img_opening *o, struct img_error *err)
{
	struct img_luks_area area = { .storage = img->file,
				      .name = img->name,
				      .bytes = UINT64_MAX };
	int rc = o->header(o, &l->header_file, err);

	if (rc)
		return rc;
	if (l->header_file) {
		area.storage = l->header_file;
		area.name = l->header_file->name;
	}
	area.detached = l->header_file != NULL;
	if (o->handover && *o->handover) {
		l->header = *o->handover;
		*o->handover = NULL;
		return 0;
	}
	rc = img_luks_open(&area, &l->header, err);
	if (rc == -EMEDIUMTYPE && l->header_file)
		return img_fail(err, -EINVAL, "%s: Image is not in luks format: no LUKS header",
				area.name);
	/* without its disk such a header still has something to tell */
	if (!rc && !l->header_file && !img_luks_payload_off(l->header) && !o->self_only &&
	    !o->for_check)
		return img_fail(err, -EINVAL,
				"%s: a detached LUKS header: the disk is elsewhere, and is opened with "
				"header.filename=%s (--image-opts)",
				img->name, img->name);
	return rc;
}

static int set_size(struct img *img, const struct luks *l, const struct img_opening *o,
		    struct img_error *err)
{
	uint64_t given = img_luks_payload_bytes(l->header);
	uint64_t most = LUKS_MAX_SIZE - min_u64(LUKS_MAX_SIZE, l->payload_off);
	bool alone = !l->header_file && !l->payload_off;
	uint64_t room = img->file->size - min_u64(img->file->size, l->payload_off);

	if (alone)
		room = 0; /* a detached header */
	if (img->file->size < l->payload_off && !o->self_only && !o->for_check)
		return img_fail(err, -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 ", the disk begins at %" PRIu64, img->name,
				atomic_load(&img->file->size), l->payload_off);
	img->size = align_down_u64(given ? given : room, l->sector_bytes);
	if (img->size > most)
		return img_fail_range(err, -EUCLEAN, img->size, 0, most, "%s: size", img->name);
	return 0;
}

static int luks_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct luks *l = calloc(1, sizeof(*l));
	int rc;

	if (!l)
		return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
	rc = open_header(img, l, o, err);
	if (rc)
		goto out;
	img->encrypted = true;
	l->payload_off = img_luks_payload_off(l->header);
	l->sector_bytes = img_luks_sector_bytes(l->header);
	l->tweak = img_luks_tweak(l->header);
	img->unit_bytes = l->sector_bytes;
	rc = set_size(img, l, o, err);
	if (!rc && !o->no_data && !img->created)
		rc = o->passphrase(o, "key-secret", unlock, l, err);
	if (!rc && !o->no_data)
		rc = img_luks_cipher(l->header, &l->cipher, err);
out:
	img->state = l;
	if (rc) {
		luks_close(img);
		img->state = NULL;
	}
	return rc;
}

static int check_unlocked(struct img *img, struct img_req *req)
{
	const struct luks *l = img->state;

	return l->cipher ? 0
			 : img_fail(img_req_error(req), -ENOKEY,
				    "%s: it is encrypted, and was opened without its passphrase", img->name);
}

static int luks_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		    struct img_extent *out)
{
	const struct luks *l = img->state;
	int rc = check_unlocked(img, req);

	if (rc)
		return rc;
	*out = (struct img_extent){
		.kind = IMG_DATA,
		.length = len,
		.storage = img->file,
		.file_off = l->payload_off + off,
		.cipher = l->cipher,
		.tweak = l->tweak + off,
		.open_end = l->growing,
	};
	return 0;
}

static int luks_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
			   uint64_t len, struct img_plan *plan)
{
	const struct luks *l = img->state;
	int rc = check_unlocked(img, req);

	if (rc)
		return rc;
	if (op == IMG_OP_WRITE_COMPRESSED)
		return img_fail(img_req_error(req), -ENOTSUP, "%s: a LUKS disk holds nothing compressed",
				img->name);
	if (op == IMG_OP_ZERO) /* which a hole does not read as */
		return IMG_NEED_WRITE;
	if (op == IMG_OP_DISCARD) {
		*plan = (struct img_plan){ .kind = IMG_PLAN_NOTHING, .length = len };
		return 0;
	}
	*plan = (struct img_plan){
		.kind = IMG_PLAN_DATA,
		.fill_start = align_down_u64(off, l->sector_bytes),
		.storage = img->file,
		.cipher = l->cipher,
	};
	plan->length = min_u64(len, plan->fill_start + PLAN_BYTES - off);
	plan->fill_end = round_up_u64(off + plan->length, l->sector_bytes);
	plan->file_off = l->payload_off + plan->fill_start;
	plan->tweak = l->tweak + plan->fill_start;
	return 0;
}

/* ---- The size ---- */

static int check_size(const struct img *img, uint64_t size, struct img_error *err)
{
	const struct luks *l = img->state;

	if (img_luks_payload_bytes(l->header))
		return img_fail(err, -ENOTSUP,
				"%s: the header says that the disk has %" PRIu64
				" bytes; such a disk is not resized",
				img->name, img_luks_payload_bytes(l->header));
	if (size > LUKS_MAX_SIZE - l->payload_off)
		return img_fail_range(err, -EFBIG, size, 0, LUKS_MAX_SIZE - l->payload_off,
				      "%s: new size", img->name);
	if (size % l->sector_bytes)
		return img_fail(err, -EINVAL, "%s: new size is %" PRIu64 ", expected a multiple of %" PRIu32,
				img->name, size, l->sector_bytes);
	if (img->file->device && size != img->size)
		return img_fail(err, -EINVAL, "Cannot resize device files: %s has %" PRIu64 " bytes",
				img->name, atomic_load(&img->file->size));
	return 0;
}

/* The file becomes longer as zeroes are written, encrypted. */
static int luks_extend(struct img *img, uint64_t size, struct img_error *err)
{
	struct luks *l = img->state;
	int rc = check_size(img, size, err);

	if (rc)
		return rc;
	l->growing = true;
	img->size = size;
	return 0;
}

static int luks_resize(struct img *img, uint64_t size, enum img_preallocate how, struct img_error *err)
{
	struct luks *l = img->state;
	int rc = check_size(img, size, err);

	l->growing = false;
	if (how == IMG_PREALLOCATE_METADATA)
		return img_fail(err, -ENOTSUP, "Unsupported preallocation mode: metadata");
	if (rc || img->file->device)
		return rc;
	/* what was written to its new end is there already, whatever is asked for */
	rc = img_storage_resize(img->file, l->payload_off + size, IMG_PREALLOCATE_OFF, err);
	if (!rc)
		img->size = size;
	return rc;
}

static int luks_info(struct img *img, struct img_value *top, struct img_value *specific,
		     struct img_error *err)
{
	const struct luks *l = img->state;

	(void)top;
	(void)err;
	img_luks_info(l->header, NULL, specific);
	return 0;
}

static int luks_other_files(struct img *img, struct img_value *children, struct img_error *err)
{
	const struct luks *l = img->state;

	(void)err;
	if (l->header_file)
		img_report_file(children, "header", l->header_file->name, l->header_file->size,
				l->header_file);
	return 0;
}

const struct img_driver luks_driver = {
	.name = "luks",
	.features = IMG_DRIVER_NEW_UNDEFINED,
	.probe = luks_probe,
	.open_options = luks_open_options,
	.open = luks_open,
	.close = luks_close,
	.map = luks_map,
	.plan_write = luks_plan_write,
	.extend = luks_extend,
	.resize = luks_resize,
	.create_options = luks_create_options,
	.create_check = luks_create_check,
	.create = luks_create,
	.measure = luks_measure,
	.amend_options = luks_amend_options,
	.amend = luks_amend,
	.check = luks_check,
	.info = luks_info,
	.other_files = luks_other_files,
};

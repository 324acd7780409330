/*
 * raw: the file is the disk (spec/raw.md). Guest byte n is file byte n; a file whose length is not
 * a multiple of 512 reads as zeroes up to the next one. There is no metadata, so every write is in
 * place and nothing is ever committed.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/raw/raw_source.h"
#include "libimg/base/arith.h"
#include "libimg/engine/driver.h"

enum {
	RAW_SECTOR = 512,
};

/* The largest disk: file offsets are signed, and the size is rounded up. */
static const uint64_t RAW_MAX_SIZE = INT64_MAX & ~(uint64_t)(RAW_SECTOR - 1);

/* Anything can be a raw disk: a little more likely than nothing at all. */
static int raw_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)head;
	(void)len;
	(void)tail;
	(void)file_size;
	return 1;
}

static int raw_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	uint64_t length = img->file->size;

	(void)o;
	if (length > RAW_MAX_SIZE)
		return img_fail_range(err, -EFBIG, length, 0, RAW_MAX_SIZE, "%s: length",
				      img->name);
	img->size = round_up_u64(length, RAW_SECTOR);
	img->unit_bytes = RAW_SECTOR;
	return 0;
}

static void raw_close(struct img *img)
{
	(void)img; /* there is no state */
}

static int raw_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		   struct img_extent *out)
{
	(void)req;
	*out = (struct img_extent){
		.kind = IMG_DATA,
		.length = len,
		.storage = img->file,
		.file_off = off,
		.open_end = true, /* the last sector may be a part of one */
	};
	return 0;
}

static int raw_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
			  uint64_t len, struct img_plan *plan)
{
	static const enum img_plan_kind kinds[] = {
		[IMG_OP_WRITE] = IMG_PLAN_DATA,
		[IMG_OP_ZERO] = IMG_PLAN_ZERO,
		[IMG_OP_DISCARD] = IMG_PLAN_PUNCH,
	};

	if (op == IMG_OP_WRITE_COMPRESSED)
		return img_fail(img_req_error(req), -ENOTSUP,
				"%s: a raw disk holds nothing "
				"compressed",
				img->name);
	*plan = (struct img_plan){
		.kind = kinds[op],
		.length = len,
		.fill_start = off,
		.fill_end = off + len,
		.storage = img->file,
		.file_off = off,
	};
	return 0;
}

static int raw_resize(struct img *img, uint64_t size, enum img_preallocate how,
		      struct img_error *err)
{
	int rc;

	if (how == IMG_PREALLOCATE_METADATA)
		return img_fail(err, -ENOTSUP, "Unsupported preallocation mode: metadata");
	if (size > RAW_MAX_SIZE)
		return img_fail_range(err, -EFBIG, size, 0, RAW_MAX_SIZE, "%s: size", img->name);
	if (img->file->device && size != img->file->size)
		return img_fail(err, -EINVAL,
				"Cannot resize device files: %s has %" PRIu64 " bytes", img->name,
				atomic_load(&img->file->size));
	if (how != IMG_PREALLOCATE_OFF && size < img->file->size)
		return img_fail(err, -EINVAL, "Preallocation can only be used for growing images");
	rc = img_storage_resize(img->file, size, how, err);
	if (rc)
		return rc;
	/* A device keeps its own size, whatever part of it was asked for. */
	img->size = round_up_u64(img->file->device ? img->file->size : size, RAW_SECTOR);
	return 0;
}

static const struct img_option raw_create_options[] = {
	{ "size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL },
	{ "nocow", IMG_OPTION_BOOL, "Turn off copy-on-write (valid only on btrfs)", NULL, NULL },
	{ "preallocation", IMG_OPTION_STRING,
	  "Preallocation mode (allowed values: off, falloc, full)", NULL, NULL },
	{ "extent_size_hint", IMG_OPTION_SIZE, "Extent size hint for the image file, 0 to disable",
	  NULL, NULL },
	{ 0 },
};

static int raw_create_check(struct img_creating *c, struct img_error *err)
{
	if (c->preallocate == IMG_PREALLOCATE_METADATA)
		return img_fail(err, -EINVAL, "Unsupported preallocation mode: metadata");
	if (c->size > RAW_MAX_SIZE)
		return img_fail_range(err, -EFBIG, c->size, 0, RAW_MAX_SIZE, "%s: size", c->name);
	return 0;
}

static int raw_create(struct img_creating *c, struct img_error *err)
{
	return img_storage_resize(c->file, c->size, c->preallocate, err);
}

static int raw_measure(const struct img_creating *c, uint64_t *required, uint64_t *fully_allocated,
		       struct img_error *err)
{
	(void)err;
	*required = *fully_allocated = c->size;
	return 0;
}

/* ---- Into a pipe: everything, zeroes too ---- */

struct raw_sink {
	struct img_sink base;
	struct img_byte_writer *to;
};

static int raw_put(struct img_sink *sink, uint64_t off, const uint8_t *bytes, size_t len,
		   struct img_error *err)
{
	struct raw_sink *s = (struct raw_sink *)sink;

	(void)off;
	return s->to->write(s->to, bytes, len, err);
}

static int raw_sink_finish(struct img_sink *sink, struct img_error *err)
{
	(void)sink;
	(void)err;
	return 0;
}

static void raw_sink_free(struct img_sink *sink)
{
	free(sink);
}

static int raw_open_sink(struct img_creating *c, struct img_byte_writer *to, struct img_sink **out,
			 struct img_error *err)
{
	struct raw_sink *s;

	*out = NULL;
	if (!c->pipe)
		return 0; /* a file may have holes */
	if (c->preallocate != IMG_PREALLOCATE_OFF)
		return img_fail(err, -ENOTSUP, "preallocation: there is nothing to allocate in a pipe");
	s = calloc(1, sizeof(*s));
	if (!s)
		return img_fail(err, -ENOMEM, "out of memory");
	s->base = (struct img_sink){
		.put = raw_put,
		.finish = raw_sink_finish,
		.free = raw_sink_free,
		.unit_bytes = 65536,
		.wants_all = true,
	};
	s->to = to;
	*out = &s->base;
	return 0;
}

extern const struct img_driver raw_driver;
static void raw_zeroing(const struct img *img, struct img_zeroing *out)
{
	(void)img;
	*out = (struct img_zeroing){ IMG_ZERO_IN_PLACE, true };
}

const struct img_driver raw_driver = {
	.name = "raw",
	.features = IMG_DRIVER_PLAIN,
	.probe = raw_probe,
	.open = raw_open,
	.close = raw_close,
	.map = raw_map,
	.plan_write = raw_plan_write,
	.zeroing = raw_zeroing,
	.resize = raw_resize,
	.create_options = raw_create_options,
	.create_check = raw_create_check,
	.create = raw_create,
	.measure = raw_measure,
	.sink = raw_open_sink,
	.source = raw_source,
};

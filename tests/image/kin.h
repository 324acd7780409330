/*
 * A format for tests of how images find their parents: one whose files say all that the driver contract has
 * for it. The program that includes this has a driver table of its own.
 *
 * A file is a sector, then the disk: "KIN1", an own UUID, how many UUIDs of the parent, two of these, then
 * names of the parent, each with a NUL behind it, an empty one last. Bytes of the disk that the file does not have
 * are the parent's. In place of names "@" and a letter for each state that the file keeps: the parent of the present one
 * is the first, and so on; the last one alone has the disk.
 */
#ifndef TESTS_IMAGE_KIN_H
#define TESTS_IMAGE_KIN_H

#include "libimg/base/arith.h"
#include "libimg/image/context.h"
#include "tests/image/folder.h"

enum { KIN_HEAD = 512,
       KIN_DISK = 4096 };

struct kin_head {
	char magic[4];
	uint8_t uuid[IMG_GUID_BYTES]; /* all zero: none */
	uint8_t parent_count;
	uint8_t parent[2][IMG_GUID_BYTES];
	char names[KIN_HEAD - 53];
};
_Static_assert(sizeof(struct kin_head) == KIN_HEAD, "a sector");

static inline int kin_read(struct img_storage *s, struct kin_head *h, struct img_error *err)
{
	if (s->size < KIN_HEAD || img_storage_read(s, 0, h, KIN_HEAD, err) || memcmp(h->magic, "KIN1", 4))
		return img_fail(err, -EMEDIUMTYPE, "%s: not a kin image", s->name);
	return 0;
}

static inline int kin_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err)
{
	struct kin_head h;
	int rc = kin_read(s, &h, err);

	if (rc)
		return rc;
	memcpy(out, h.uuid, sizeof(h.uuid));
	return img_guid_is_zero(out) ? -ENODATA : 0;
}

static inline int kin_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t size)
{
	(void)tail;
	(void)size;
	return len >= 4 && !memcmp(head, "KIN1", 4) ? 100 : 0;
}

struct kin {
	char view[2]; /* the parent's */
	bool empty;
};

static inline int kin_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct kin *kin = calloc(1, sizeof(*kin));
	const char *views;
	struct kin_head h;
	int rc = kin_read(img->file, &h, err);

	if (rc) {
		free(kin);
		return rc;
	}
	views = *h.names == '@' ? h.names + 1 : "";
	if (o->view.id)
		views = strchr(views, *o->view.id) ? strchr(views, *o->view.id) + 1 : NULL;
	if (!views) {
		free(kin);
		return img_fail(err, -ENOENT, "%s: no state '%s'", img->name, o->view.id);
	}
	img->state = kin;
	if (*h.names == '@') {
		kin->view[0] = *views;
		kin->empty = *views;
		if (*views)
			img->backing_view.id = kin->view;
		*h.names = 0;
	}
	img->size = KIN_DISK;
	img->unit_bytes = 512;
	memcpy(img->backing_uuids, h.parent, sizeof(h.parent));
	img->backing_uuid_count = h.parent_count;
	if (*h.names)
		img->backing_name = strdup(h.names);
	img->backing_alternatives = calloc(8, sizeof(char *));
	for (const char *n = h.names; img->backing_name && *(n += strlen(n) + 1);)
		img->backing_alternatives[img->backing_alternative_count++] = strdup(n);
	return 0;
}

static inline int kin_parent_opened(struct img *img, struct img_error *err)
{
	uint8_t uuid[IMG_GUID_BYTES];
	bool fits = !img->backing_uuid_count;

	for (unsigned i = 0; i < img->backing_uuid_count; i++)
		fits |= !img->parent->driver->identify ||
			img->parent->driver->identify(img->parent->file, uuid, NULL) == -ENODATA ||
			img_guid_equal(uuid, img->backing_uuids[i]);
	return fits ? 0 : img_fail(err, -EUCLEAN, "%s: not the parent", img->name);
}

static inline void kin_close(struct img *img)
{
	free(img->state);
}

static inline int kin_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
			  struct img_extent *out)
{
	uint64_t has = ((struct kin *)img->state)->empty ? 0 : img->file->size - KIN_HEAD;

	(void)req;
	if (off < has)
		*out = (struct img_extent){ .kind = IMG_DATA,
					    .length = min_u64(len, has - off),
					    .storage = img->file,
					    .file_off = KIN_HEAD + off };
	else
		*out = (struct img_extent){ .kind = IMG_BACKING, .length = len };
	return 0;
}

static const struct img_driver kin_driver = {
	.name = "kin",
	.features = IMG_DRIVER_BACKING | IMG_DRIVER_VIEWS,
	.folder_file = "main.kin",
	.probe = kin_probe,
	.open = kin_open,
	.parent_opened = kin_parent_opened,
	.identify = kin_identify,
	.close = kin_close,
	.map = kin_map,
};

extern const struct img_driver qcow2_driver, vmdk_driver, raw_driver;

const struct img_driver *const img_drivers[] = { &kin_driver, &qcow2_driver, &vmdk_driver, &raw_driver,
						 NULL };

/* id 0: no UUID. parents: up to two of these digits, as text. names: with NULs between. */
static inline void kin_make(const char *path, uint8_t id, const char *parents, const char *names,
			    size_t names_len, char fill)
{
	uint8_t bytes[KIN_HEAD + KIN_DISK] = { 0 };
	struct kin_head *h = (struct kin_head *)bytes;
	size_t n = KIN_HEAD + (fill ? KIN_DISK : 0);

	memcpy(h->magic, "KIN1", 4);
	h->uuid[15] = id;
	h->parent_count = (uint8_t)strlen(parents);
	for (unsigned i = 0; i < h->parent_count; i++)
		h->parent[i][15] = (uint8_t)(parents[i] - '0');
	memcpy(h->names, names, names_len);
	memset(bytes + KIN_HEAD, fill, KIN_DISK);
	make_file(path, bytes, n, (off_t)n);
}
#define KIN(path, id, parents, names, fill) kin_make(path, id, parents, names, sizeof(names), fill)

#endif

/*
 * A differencing disk and its parent: the names that it stores, and whether an open image is the one that
 * it was made on. spec/vhd.md, "Parents".
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/endian.h"
#include "libimg/base/utf16.h"

/* ---- Names ---- */

/* The next name to try, unless it is one already; name is the image's from here on. -ENOMEM. */
static int add_name(struct img *img, char *name)
{
	char **more;

	if (!name)
		return 0;
	if (!img->backing_name) {
		img->backing_name = name;
		return 0;
	}
	if (!strcmp(img->backing_name, name)) {
		free(name);
		return 0;
	}
	for (size_t i = 0; i < img->backing_alternative_count; i++)
		if (!strcmp(img->backing_alternatives[i], name)) {
			free(name);
			return 0;
		}
	more = reallocarray(img->backing_alternatives, img->backing_alternative_count + 1, sizeof(*more));
	if (!more) {
		free(name);
		return -ENOMEM;
	}
	img->backing_alternatives = more;
	more[img->backing_alternative_count++] = name;
	return 0;
}

/* A locator that cannot be read is passed over: there are others, and the unique id. */
static int keep_locator(struct img *img, const struct vhd_locator *l, struct img_error *err)
{
	char *name, *other;
	uint8_t *data;
	int rc;

	if (!l->length || l->length > VHD_LOCATOR_DATA_MAX ||
	    !range_in(l->off, l->length, img->file->size))
		return 0;
	data = malloc(l->length);
	if (!data)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_storage_read(img->file, l->off, data, l->length, err);
	if (!rc) {
		rc = vhd_locator_name(l, data, &name, &other);
		if (!rc)
			rc = add_name(img, name);
		if (!rc)
			rc = add_name(img, other);
		if (rc == -ENOMEM)
			img_fail(err, rc, "out of memory");
		else
			rc = 0;
	}
	free(data);
	return rc;
}

int vhd_keep_parent(struct img *img, const struct vhd *v, struct img_error *err)
{
	static const char order[][5] = { "W2ru", "Wi2r", "MacX", "W2ku", "Wi2k", "Mac " };
	char *name = NULL;
	int rc = 0;

	for (size_t k = 0; k < IMG_ARRAY_LEN(order); k++) {
		for (unsigned i = 0; i < VHD_LOCATORS && !rc; i++) {
			struct vhd_locator l;

			vhd_parse_locator(v->header.bytes, i, &l);
			if (!memcmp(l.code, order[k], sizeof(l.code)))
				rc = keep_locator(img, &l, err);
		}
	}
	if (!rc && !vhd_parent_name(v->header.bytes, &name)) {
		if (*name)
			rc = add_name(img, name);
		else
			free(name);
		if (rc)
			img_fail(err, rc, "out of memory");
	}
	if (rc)
		return rc;
	img->backing_required = true;
	if (!img_guid_is_zero(v->header.parent_uuid)) {
		memcpy(img->backing_uuids[0], v->header.parent_uuid, IMG_GUID_BYTES);
		img->backing_uuid_count = 1;
	}
	return 0;
}

/* ---- Another parent ---- */

int vhd_check_parent(const char *image, const struct img *parent, const char *name, struct img_error *err)
{
	uint8_t uuid[IMG_GUID_BYTES];

	if (!parent->driver->identify || parent->driver->identify(parent->file, uuid, NULL))
		return img_fail(err, -ENOTSUP,
				"%s: the parent %s: found an image of format %s without an identifier, which a "
				"differencing VHD tells its parent by",
				image, parent->name, parent->driver->name);
	if (name[0] != '/' && strchr(name, '\\'))
		return img_fail(err, -EINVAL,
				"%s: the parent's name: found a \"\\\" in '%s', which a VHD would take for a \"/\"",
				image, name);
	return 0;
}

/* "dir/base.vhd" is ".\dir\base.vhd". malloc'd; NULL: out of memory. */
static char *windows_name(const char *name)
{
	char *out;

	if (asprintf(&out, ".\\%s", name) < 0)
		return NULL;
	for (char *p = out; *p; p++)
		if (*p == '/')
			*p = '\\';
	return out;
}

int vhd_encode_parent(uint8_t header[VHD_HEADER_BYTES], const char *image, const struct img *parent,
		      const char *name, uint64_t off, uint8_t **data, size_t *bytes,
		      struct img_error *err)
{
	bool relative = name[0] != '/';
	const char *base = strrchr(name, '/');
	struct vhd_locator l = { .off = off }, none = { 0 };
	char *stored = relative ? windows_name(name) : strdup(name);
	uint8_t uuid[IMG_GUID_BYTES], *text = NULL;
	size_t len = 0;
	int rc = stored ? img_utf8_to_utf16(stored, &text, &len) : -ENOMEM;

	free(stored);
	if (!rc)
		rc = vhd_set_parent_name(header, base ? base + 1 : name);
	if (!rc && len > VHD_LOCATOR_DATA_MAX)
		rc = -ENAMETOOLONG;
	*bytes = (size_t)round_up_u64(len, VHD_SECTOR);
	*data = rc ? NULL : calloc(1, *bytes);
	if (!rc && !*data)
		rc = -ENOMEM;
	if (rc) {
		free(text);
		return rc == -ENOMEM ? img_fail(err, rc, "out of memory")
				     : img_fail(err, rc, "%s: the parent's name: '%s' is %s", image, name,
						rc == -EILSEQ ? "not UTF-8" : "too long");
	}
	memcpy(*data, text, len);
	free(text);
	rc = parent->driver->identify(parent->file, uuid, err);
	if (rc) {
		free(*data);
		return rc;
	}
	memcpy(l.code, relative ? "W2ru" : "W2ku", sizeof(l.code));
	l.space = (uint32_t)*bytes;
	l.length = (uint32_t)len;
	for (unsigned i = 0; i < VHD_LOCATORS; i++)
		vhd_encode_locator(header, i, i ? &none : &l);
	memcpy(header + VHD_OFF_PARENT_UUID, uuid, sizeof(uuid));
	be32_store(header + VHD_OFF_PARENT_TIME,
		   parent->driver == &vhd_driver ? ((const struct vhd *)parent->state)->footer.time : 0);
	vhd_seal_header(header);
	return 0;
}

/* ---- Identity ---- */

int vhd_identify(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err)
{
	uint8_t head[VHD_FOOTER_BYTES] = { 0 };
	struct vhd_footer f;
	uint64_t off;
	int rc = img_storage_read(s, 0, head, (size_t)min_u64(s->size, sizeof(head)), err);

	if (rc)
		return rc;
	rc = vhd_parse_footer(head, &f, err);
	if (rc || f.type == VHD_FIXED) {
		int tail_rc = vhd_find_tail(s, &f, &off, err);

		/* By its end alone only a fixed one is told: of others the end may be the guest's. */
		if (!tail_rc && f.type == VHD_FIXED)
			rc = 0;
		else if (tail_rc && tail_rc != -ENODATA)
			rc = tail_rc;
		else if (!rc)
			rc = -EMEDIUMTYPE;
	}
	if (rc)
		return img_fail(err, rc, "%s: not a VHD image", s->name);
	if (img_guid_is_zero(f.uuid))
		return img_fail(err, -ENODATA, "%s: it has no unique id", s->name);
	memcpy(out, f.uuid, IMG_GUID_BYTES);
	return 0;
}

static int refuse_parent(const struct img *img, const uint8_t *found, struct img_error *err)
{
	const struct vhd *v = img->state;
	char text[IMG_GUID_CHARS + 1], expected[IMG_GUID_CHARS + 1];

	img_guid_print(found, text);
	img_guid_print(v->header.parent_uuid, expected);
	return img_fail(err, -EUCLEAN,
			"%s: the parent %s: found unique id %s, expected %s: it is not the disk that this "
			"one was made on",
			img->name, img->parent->name, text, expected);
}

/*
 * Programs store the time of the parent's footer, or of its file's last change, or the child's own: never one
 * from before the parent.
 */
static bool is_older_than(const struct img *img, const struct img *parent)
{
	const struct vhd *v = img->state, *p = parent->state;

	return v->header.parent_time && v->header.parent_time < p->footer.time;
}

int vhd_parent_opened(struct img *img, struct img_error *err)
{
	const struct vhd *v = img->state;
	const struct img *parent = img->parent;
	uint8_t uuid[IMG_GUID_BYTES];

	if (!vhd_is_child(v))
		return 0;
	if (!parent->driver->identify)
		return img_fail(err, -EUCLEAN,
				"%s: the parent %s: found format %s, whose images have no identifier that a "
				"VHD could tell its parent by",
				img->name, parent->name, parent->driver->name);
	if (img_guid_is_zero(v->header.parent_uuid)) /* the user says so, or a name is all there is */
		return 0;
	if (parent->driver->identify(parent->file, uuid, NULL))
		memset(uuid, 0, sizeof(uuid));
	if (!img_guid_equal(uuid, v->header.parent_uuid))
		return refuse_parent(img, uuid, err);
	if (parent->driver == img->driver && is_older_than(img, parent) && !img->warning &&
	    asprintf(&img->warning,
		     "%s: its parent %s has a time stamp from after this disk was made on it: it may have been "
		     "changed since",
		     img->name, parent->name) < 0)
		img->warning = NULL;
	return 0;
}

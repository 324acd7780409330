/*
 * Parent locators (spec/vhdx.md): pairs of UTF-16 strings, by which a child says which disk it was made on
 * and, in up to three ways, where that is. Names of Windows become paths of this system here.
 */
#include "formats/vhdx/vhdx_locator.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/base/utf16.h"

enum {
	HEADER_BYTES = 20,
	PAIR_BYTES = 12,
	PAIRS_MAX = 1024, /* the format knows six keys */
	NAME_BYTES_MAX = 4096,
};

/* The only type there is: a parent that is a VHDX. */
static const uint8_t type_vhdx[] = { 0xb7, 0xef, 0x4a, 0xb0, 0x9e, 0xd1, 0x81, 0x4a,
				     0xb7, 0x89, 0x25, 0xb8, 0xe9, 0x44, 0x59, 0x13 };

/* ---- Parsing ---- */

/* A string of the item. malloc'd. */
static int get_text(const uint8_t *bytes, size_t len, uint32_t off, uint16_t text_bytes,
		    const char *what, char **out, struct img_error *err)
{
	int rc;

	if (!off || !range_in(off, text_bytes, len))
		return img_fail(err, -EUCLEAN,
				"%s is %u bytes at %" PRIu32 ", expected inside the item's %zu",
				what, text_bytes, off, len);
	rc = img_utf16_to_utf8(bytes + off, text_bytes, out);
	if (rc == -ENOMEM)
		return img_fail(err, rc, "out of memory");
	return rc ? img_fail(err, -EUCLEAN, "%s at %" PRIu32 ": not UTF-16 text", what, off) : 0;
}

static int set_guid(uint8_t *to, const char *key, const char *value, struct img_error *err)
{
	if (!img_guid_parse(value, strlen(value), to))
		return img_fail(err, -EUCLEAN, "%s is '%s', expected a GUID", key, value);
	return 0;
}

/* Owns value. */
static int set_path(char **to, const char *key, char *value, struct img_error *err)
{
	if (*to || !*value) {
		int rc = img_fail(err, -EUCLEAN, "%s: found %s", key, *to ? "twice" : "no path");

		free(value);
		return rc;
	}
	*to = value;
	return 0;
}

/* Owns value. */
static int set_key(struct vhdx_locator *l, bool *linked, const char *key, char *value,
		   struct img_error *err)
{
	int rc = 0;

	if (!strcmp(key, "relative_path"))
		return set_path(&l->relative, key, value, err);
	if (!strcmp(key, "volume_path"))
		return set_path(&l->volume, key, value, err);
	if (!strcmp(key, "absolute_win32_path"))
		return set_path(&l->absolute, key, value, err);
	if (!strcmp(key, "parent_linkage")) {
		rc = *linked ? img_fail(err, -EUCLEAN, "%s: found twice", key)
			     : set_guid(l->linkage, key, value, err);
		*linked = true;
	} else if (!strcmp(key, "parent_linkage2")) {
		rc = set_guid(l->linkage2, key, value, err);
		l->has_linkage2 = true;
	}
	free(value);
	return rc;
}

int vhdx_parse_locator(const uint8_t *bytes, size_t len, struct vhdx_locator *out,
		       struct img_error *err)
{
	struct vhdx_locator l = { 0 };
	char type[IMG_GUID_CHARS + 1];
	bool linked = false;
	uint16_t count;
	int rc = 0;

	if (len < HEADER_BYTES)
		return img_fail(err, -EUCLEAN, "found %zu bytes, needed are %d", len, HEADER_BYTES);
	img_guid_print(bytes, type);
	if (!img_guid_equal(bytes, type_vhdx))
		return img_fail(err, -ENOTSUP, "found type %s, known here is that of a VHDX parent",
				type);
	count = le16_load(bytes + 18);
	if (count > PAIRS_MAX || len < HEADER_BYTES + (size_t)count * PAIR_BYTES)
		return img_fail(err, -EUCLEAN,
				"found %u keys, allowed up to %d inside the item's %zu bytes",
				count, PAIRS_MAX, len);
	for (uint16_t i = 0; i < count && !rc; i++) {
		const uint8_t *pair = bytes + HEADER_BYTES + (size_t)i * PAIR_BYTES;
		char *key = NULL, *value = NULL;

		rc = get_text(bytes, len, le32_load(pair), le16_load(pair + 8), "key", &key, err);
		if (!rc)
			rc = get_text(bytes, len, le32_load(pair + 4), le16_load(pair + 10), key,
				      &value, err);
		if (!rc)
			rc = set_key(&l, &linked, key, value, err);
		free(key);
	}
	if (!rc && !linked)
		rc = img_fail(err, -EUCLEAN, "found no key parent_linkage");
	if (!rc && !l.relative && !l.volume && !l.absolute)
		rc = img_fail(err, -EUCLEAN,
			      "found no path, needed is one of relative_path, volume_path, "
			      "absolute_win32_path");
	if (rc)
		vhdx_locator_clear(&l);
	else
		*out = l;
	return rc;
}

void vhdx_locator_clear(struct vhdx_locator *l)
{
	free(l->relative);
	free(l->volume);
	free(l->absolute);
	*l = (struct vhdx_locator){ 0 };
}

/* ---- Paths ---- */

/* Is it on a volume, a server or a drive that only Windows knows? */
static bool is_windows_path(const char *path)
{
	return !strncmp(path, "\\\\", 2) || (path[0] && path[1] == ':');
}

/* malloc'd; NULL: out of memory. */
static char *to_path(const char *stored)
{
	const char *from = stored;
	char *path;

	if (is_windows_path(stored))
		return strdup(stored);
	while (!strncmp(from, ".\\", 2) || !strncmp(from, "./", 2))
		from += 2;
	path = strdup(from);
	for (char *p = path; p && *p; p++)
		if (*p == '\\')
			*p = '/';
	return path;
}

size_t vhdx_locator_paths(const struct vhdx_locator *l, char *out[VHDX_PARENT_PATHS])
{
	const char *const stored[VHDX_PARENT_PATHS] = { l->relative, l->volume, l->absolute };
	size_t count = 0;

	for (size_t i = 0; i < VHDX_PARENT_PATHS; i++) {
		bool known = false;

		out[count] = stored[i] ? to_path(stored[i]) : NULL;
		for (size_t k = 0; k < count && out[count]; k++)
			known |= !strcmp(out[k], out[count]);
		if (known || (out[count] && !*out[count])) {
			free(out[count]);
			out[count] = NULL;
		}
		count += out[count] != NULL;
	}
	return count;
}

/* ---- Encoding ---- */

/* The path as it is stored: backslashes, and a relative one begins with ".\". malloc'd. */
static char *from_path(const char *name)
{
	bool bare = name[0] != '/' && strncmp(name, "./", 2) != 0 && strncmp(name, "../", 3) != 0;
	char *stored;

	if (asprintf(&stored, "%s%s", bare ? "./" : "", name) < 0)
		return NULL;
	for (char *p = stored; *p; p++)
		if (*p == '/')
			*p = '\\';
	return stored;
}

struct pair {
	const char *key, *value;
};

/* "{GUID}" */
enum { LINKAGE_CHARS = IMG_GUID_CHARS + 2 };

static void print_linkage(const uint8_t guid[IMG_GUID_BYTES], char out[LINKAGE_CHARS + 1])
{
	out[0] = '{';
	img_guid_print(guid, out + 1);
	out[LINKAGE_CHARS - 1] = '}';
	out[LINKAGE_CHARS] = '\0';
}

static int put_text(uint8_t *bytes, size_t *at, const char *text, uint8_t *off_field, uint8_t *len,
		    struct img_error *err)
{
	uint8_t *utf16;
	size_t n;
	int rc = img_utf8_to_utf16(text, &utf16, &n);

	if (rc)
		return img_fail(err, rc, rc == -ENOMEM ? "out of memory" : "'%s': not UTF-8 text",
				text);
	le32_store(off_field, (uint32_t)*at);
	le16_store(len, (uint16_t)n);
	memcpy(bytes + *at, utf16, n);
	*at += n;
	free(utf16);
	return 0;
}

int vhdx_encode_locator(const struct vhdx_locator *l, uint8_t **out, size_t *len,
			struct img_error *err)
{
	char linkage[LINKAGE_CHARS + 1], linkage2[LINKAGE_CHARS + 1];
	struct pair pairs[5];
	size_t count = 0, chars = 0, at;
	uint8_t *bytes;
	int rc = 0;

	print_linkage(l->linkage, linkage);
	print_linkage(l->linkage2, linkage2);
	pairs[count++] = (struct pair){ "parent_linkage", linkage };
	if (l->has_linkage2)
		pairs[count++] = (struct pair){ "parent_linkage2", linkage2 };
	if (l->relative)
		pairs[count++] = (struct pair){ "relative_path", l->relative };
	if (l->volume)
		pairs[count++] = (struct pair){ "volume_path", l->volume };
	if (l->absolute)
		pairs[count++] = (struct pair){ "absolute_win32_path", l->absolute };
	for (size_t i = 0; i < count; i++)
		chars += strlen(pairs[i].key) + strlen(pairs[i].value);
	at = HEADER_BYTES + count * PAIR_BYTES;
	bytes = calloc(1, at + 2 * chars); /* each byte becomes two at most */
	if (!bytes)
		return img_fail(err, -ENOMEM, "out of memory");
	memcpy(bytes, type_vhdx, sizeof(type_vhdx));
	le16_store(bytes + 18, (uint16_t)count);
	for (size_t i = 0; i < count && !rc; i++) {
		uint8_t *pair = bytes + HEADER_BYTES + i * PAIR_BYTES;

		rc = put_text(bytes, &at, pairs[i].key, pair, pair + 8, err);
		if (!rc)
			rc = put_text(bytes, &at, pairs[i].value, pair + 4, pair + 10, err);
	}
	if (rc) {
		free(bytes);
		return rc;
	}
	*out = bytes;
	*len = at;
	return 0;
}

int vhdx_locator_of(const uint8_t linkage[IMG_GUID_BYTES], const char *name,
		    struct vhdx_locator *out, struct img_error *err)
{
	char *path;

	if (strchr(name, '\\') || is_windows_path(name) || strlen(name) > NAME_BYTES_MAX)
		return img_fail(
			err, -EINVAL,
			"'%s': a name in a parent locator has up to %d bytes, no backslash, and "
			"no colon behind its first letter",
			name, NAME_BYTES_MAX);
	path = from_path(name);
	if (!path)
		return img_fail(err, -ENOMEM, "out of memory");
	*out = (struct vhdx_locator){ 0 };
	memcpy(out->linkage, linkage, IMG_GUID_BYTES);
	*(name[0] == '/' ? &out->absolute : &out->relative) = path;
	return 0;
}

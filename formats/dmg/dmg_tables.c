/*
 * Block tables are resources of type blkx: in a property list (plist/dict/resource-fork/blkx, each with its bytes in base64
 * as Data), or, before Mac OS X, in a resource fork.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/dmg/dmg_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/base64.h"
#include "libimg/base/endian.h"
#include "libimg/base/xml.h"

struct walk {
	struct img *img;
	dmg_table_fn *fn;
	void *user;
	unsigned count; /* of tables so far */
};

static int no_memory(const struct img *img, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", img->name);
}

static int found(struct walk *w, const uint8_t *bytes, size_t len, struct img_error *err)
{
	return w->fn(w->user, w->count++, bytes, len, err);
}

/* A part of the file in memory, with a zero byte behind it. For free(). */
static int load(struct img *img, const char *what, uint64_t off, uint64_t len, uint8_t **out,
		struct img_error *err)
{
	int rc;

	if (!range_in(off, len, img->file->size))
		return img_fail(err, -EUCLEAN,
				"%s: truncated: ends at %" PRIu64 ", the %s at %" PRIu64 " has %" PRIu64 " bytes",
				img->name, (uint64_t)img->file->size, what, off, len);
	if (len > DMG_DESCRIPTION_BYTES_MAX)
		return img_fail(err, -EUCLEAN, "%s: the %s at %" PRIu64 " has %" PRIu64 " bytes, expected up to %d",
				img->name, what, off, len, DMG_DESCRIPTION_BYTES_MAX);
	*out = malloc((size_t)len + 1);
	if (!*out)
		return no_memory(img, err);
	(*out)[len] = 0;
	rc = img_storage_read(img->file, off, *out, (size_t)len, err);
	if (rc)
		free(*out);
	return rc;
}

/* ---- The property list ---- */

static const struct img_xml_rules plist_rules = {
	.users = "disk images of Macs (dmg)",
	.bytes_max = DMG_DESCRIPTION_BYTES_MAX,
	.may_have_a_type = true,
};

static xmlNode *next_element(xmlNode *n)
{
	while (n && n->type != XML_ELEMENT_NODE)
		n = n->next;
	return n;
}

static bool is_named(const xmlNode *n, const char *name)
{
	return !strcmp((const char *)n->name, name);
}

/* What a dictionary has under a key, if that is an element of this name; NULL: nothing. */
static xmlNode *dict_get(const xmlNode *dict, const char *key, const char *kind)
{
	for (xmlNode *n = next_element(dict->children); n; n = next_element(n->next)) {
		char *text = is_named(n, "key") ? img_xml_text(n) : NULL;
		bool same = text && !strcmp(text, key);

		free(text);
		if (!same)
			continue;
		n = next_element(n->next);
		return n && is_named(n, kind) ? n : NULL;
	}
	return NULL;
}

static int found_data(struct walk *w, const xmlNode *data, struct img_error *err)
{
	char *text = img_xml_text(data);
	size_t len;
	int rc;

	if (!text)
		return no_memory(w->img, err);
	len = strlen(text);
	if (img_base64_decode((uint8_t *)text, &len))
		rc = found(w, (uint8_t *)text, len, err);
	else
		rc = img_fail(err, -EUCLEAN, "%s: block table %u: its Data is no base64", w->img->name, w->count);
	free(text);
	return rc;
}

static int walk_plist(struct walk *w, xmlNode *root, struct img_error *err)
{
	xmlNode *list = is_named(root, "plist") ? next_element(root->children) : NULL;
	int rc = 0;

	list = list && is_named(list, "dict") ? dict_get(list, "resource-fork", "dict") : NULL;
	list = list ? dict_get(list, "blkx", "array") : NULL;
	if (!list)
		return img_fail(err, -EUCLEAN, "%s: property list: no resource-fork with a list of blkx",
				w->img->name);
	for (xmlNode *n = next_element(list->children); n && !rc; n = next_element(n->next)) {
		const xmlNode *data = is_named(n, "dict") ? dict_get(n, "Data", "data") : NULL;

		if (data)
			rc = found_data(w, data, err);
		else
			rc = img_fail(err, -EUCLEAN, "%s: property list: a blkx without Data", w->img->name);
	}
	return rc;
}

static int read_plist(struct walk *w, const struct dmg_trailer *t, struct img_error *err)
{
	uint8_t *text;
	xmlDoc *doc;
	xmlNode *root;
	int rc = load(w->img, "property list", t->xml_off, t->xml_len, &text, err);

	if (rc)
		return rc;
	rc = img_xml_parse((char *)text, (size_t)t->xml_len, &plist_rules, &doc, &root, err);
	free(text);
	if (rc)
		return img_error_prefix(err, rc, "%s: property list at %" PRIu64, w->img->name, t->xml_off);
	rc = walk_plist(w, root, err);
	img_xml_free(doc);
	return rc;
}

/* ---- The resource fork: where its data is, and how much; each resource is a length and bytes ---- */

static int walk_fork(struct walk *w, const uint8_t *fork, size_t len, struct img_error *err)
{
	uint64_t at, end;
	int rc = 0;

	if (len < 16 || !range_in(be32_load(fork), be32_load(fork + 8), len))
		return img_fail(err, -EUCLEAN, "%s: resource fork: its data is not in its %zu bytes",
				w->img->name, len);
	at = be32_load(fork);
	end = at + be32_load(fork + 8);
	while (at < end && !rc) {
		uint64_t bytes;

		if (end - at < 4 || be32_load(fork + at) > end - at - 4)
			return img_fail(err, -EUCLEAN, "%s: resource fork: the resource at %" PRIu64 " is not in its data",
					w->img->name, at);
		bytes = be32_load(fork + at);
		at += 4;
		if (dmg_is_table(fork + at, (size_t)bytes))
			rc = found(w, fork + at, (size_t)bytes, err);
		at += bytes;
	}
	return rc;
}

static int read_fork(struct walk *w, const struct dmg_trailer *t, struct img_error *err)
{
	uint8_t *fork;
	int rc = load(w->img, "resource fork", t->fork_off, t->fork_len, &fork, err);

	if (rc)
		return rc;
	rc = walk_fork(w, fork, (size_t)t->fork_len, err);
	free(fork);
	return rc;
}

int dmg_for_each_table(struct img *img, const struct dmg_trailer *t, dmg_table_fn *fn, void *user,
		       struct img_error *err)
{
	struct walk w = { .img = img, .fn = fn, .user = user };
	int rc = t->fork_len ? read_fork(&w, t, err) : 0;

	if (!rc && !w.count && t->xml_len)
		rc = read_plist(&w, t, err);
	if (!rc && !w.count)
		rc = img_fail(err, -EUCLEAN, "%s: no block tables, neither in a property list nor in a resource fork",
			      img->name);
	return rc;
}

/* ---- Tables ---- */

int dmg_read_table(const struct img *img, const struct dmg_trailer *t, unsigned number, const uint8_t *bytes,
		   size_t len, struct dmg_table *out, struct img_error *err)
{
	struct dmg_entry e;
	uint64_t end;
	int rc;

	if (!dmg_is_table(bytes, len))
		return img_fail(err, -EUCLEAN, "%s: block table %u: %zu bytes, expected \"mish\" and at least %d",
				img->name, number, len, DMG_TABLE_BYTES);
	rc = dmg_parse_table(bytes, len, out, err);
	if (rc)
		return img_error_prefix(err, rc, "%s: block table %u", img->name, number);
	if (!add_u64(out->first_sector, out->sectors, &end) || end > INT64_MAX / DMG_SECTOR ||
	    !add_u64(out->data_off, t->data_off, &out->data_off))
		return img_fail(err, -EUCLEAN,
				"%s: block table %u: first sector is %" PRIu64 " of %" PRIu64
				", data offset %" PRIu64 ", expected sums below 2^63",
				img->name, number, out->first_sector, out->sectors, out->data_off);
	/* Programs that count entries by the table's length must see the same. */
	for (size_t i = out->entries; (i + 1) * DMG_ENTRY_BYTES <= len - DMG_TABLE_BYTES; i++) {
		dmg_parse_entry(bytes + DMG_TABLE_BYTES + i * DMG_ENTRY_BYTES, &e);
		if (dmg_has_sectors(&e))
			return img_fail(err, -EUCLEAN,
					"%s: block table %u: entries is %" PRIu32 ", but entry %zu has sectors",
					img->name, number, out->entries, i);
	}
	return 0;
}

int dmg_read_entry(const struct img *img, const struct dmg_table *table,
		   unsigned number, const uint8_t *bytes, uint32_t i, struct dmg_entry *out,
		   struct img_error *err)
{
	uint64_t end;

	dmg_parse_entry(bytes + DMG_TABLE_BYTES + (size_t)i * DMG_ENTRY_BYTES, out);
	if (!dmg_has_sectors(out))
		return 0;
	if (!add_u64(out->sector, out->sectors, &end) || end > INT64_MAX / DMG_SECTOR ||
	    end + table->first_sector > INT64_MAX / DMG_SECTOR)
		return img_fail(err, -EUCLEAN,
				"%s: block table %u: entry %" PRIu32 ": sector is %" PRIu64 " of %" PRIu64
				", expected a sum below 2^54",
				img->name, number, i, out->sector, out->sectors);
	out->sector += table->first_sector;
	if (dmg_is_zeroes(out->type))
		return 0;
	if (out->type == DMG_PLAIN ? out->len != out->sectors * DMG_SECTOR
				   : out->len > DMG_CHUNK_BYTES_MAX ||
					     out->sectors > DMG_CHUNK_BYTES_MAX / DMG_SECTOR)
		return img_fail(err, -EUCLEAN,
				out->type == DMG_PLAIN
					? "%s: block table %u: entry %" PRIu32 ": length is %" PRIu64
					  ", expected that of its %" PRIu64 " sectors"
					: "%s: block table %u: entry %" PRIu32 ": length is %" PRIu64
					  " for %" PRIu64 " sectors, expected up to 64 MiB",
				img->name, number, i, out->len, out->sectors);
	if (!add_u64(table->data_off, out->off, &out->off) || out->off > INT64_MAX - out->len)
		return img_fail(err, -EUCLEAN,
				"%s: block table %u: entry %" PRIu32 ": offset is %" PRIu64 ", expected a sum below 2^63",
				img->name, number, i, out->off);
	return 0;
}

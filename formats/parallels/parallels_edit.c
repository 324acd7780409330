/*
 * Changing a DiskDescriptor.xml: its elements are looked up again in the document, so that all else in it stays.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/parallels/parallels_descriptor.h"
#include "formats/parallels/parallels_layout.h"
#include "libimg/base/arith.h"

enum { BRACED_CHARS = IMG_GUID_CHARS + 2 };

static int no_memory(struct img_error *err)
{
	return img_fail(err, -ENOMEM, "out of memory");
}

/* ---- Elements ---- */

static bool child_number(const xmlNode *parent, const char *name, uint64_t *out)
{
	const xmlNode *e = img_xml_find(parent->children, name);
	char *text = e ? img_xml_text(e) : NULL;
	bool found = text && *text >= '0' && *text <= '9';

	if (found)
		*out = strtoull(text, NULL, 10);
	free(text);
	return found;
}

static int set_number(xmlNode *parent, const char *name, uint64_t number)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, number);
	return img_xml_set(parent, name, text);
}

static void print_braced(const uint8_t guid[IMG_GUID_BYTES], char out[BRACED_CHARS + 1])
{
	char text[IMG_GUID_CHARS + 1];

	img_guid_print(guid, text);
	snprintf(out, BRACED_CHARS + 1, "{%s}", text);
}

static bool has_guid(const xmlNode *parent, const char *name, const uint8_t guid[IMG_GUID_BYTES])
{
	const xmlNode *e = img_xml_find(parent->children, name);
	char *text = e ? img_xml_text(e) : NULL;
	uint8_t found[IMG_GUID_BYTES];
	bool has = text && img_guid_parse(text, strlen(text), found) && img_guid_equal(found, guid);

	free(text);
	return has;
}

/* The element of a part. */
static xmlNode *find_storage(xmlNode *root, const struct parallels_part *part)
{
	xmlNode *data = img_xml_find(root->children, "StorageData");
	xmlNode *e = img_xml_find(data->children, "Storage");

	for (size_t i = 0; e && i < part->index; i++)
		e = img_xml_find(e->next, "Storage");
	return e;
}

/* ---- A document that is changed ---- */

/* rc: of the changes. What comes out must be what can be read. */
static int finish(xmlDoc *doc, int rc, char **out, size_t *out_len, struct img_error *err)
{
	struct parallels_descriptor d;
	char *text = NULL;
	size_t len = 0;

	if (!rc)
		text = img_xml_print(doc, &len);
	img_xml_free(doc);
	if (!text)
		return no_memory(err);
	rc = parallels_descriptor_parse(text, len, &d, err);
	parallels_descriptor_free(&d);
	if (rc) {
		free(text);
		return rc;
	}
	*out = text;
	*out_len = len;
	return 0;
}

int parallels_descriptor_resize(const char *text, size_t len, const struct parallels_descriptor *d,
				uint64_t sectors, char **out, size_t *out_len,
				struct img_error *err)
{
	xmlNode *root, *parameters, *storage;
	uint64_t heads, track;
	xmlDoc *doc;
	int rc = img_xml_parse(text, len, &parallels_xml_rules, &doc, &root, err);

	if (rc)
		return rc;
	parameters = img_xml_find(root->children, "Disk_Parameters");
	storage = find_storage(root, &d->parts[d->part_count - 1]);
	rc = storage ? set_number(storage, "End", sectors) : -ENOMEM;
	if (!rc)
		rc = set_number(parameters, "Disk_size", sectors);
	if (!rc && img_xml_find(parameters->children, "Cylinders") &&
	    child_number(parameters, "Heads", &heads) &&
	    child_number(parameters, "Sectors", &track) && heads && track &&
	    heads <= UINT32_MAX && track <= UINT32_MAX)
		rc = set_number(parameters, "Cylinders",
				min_u64(div_round_up_u64(sectors, heads * track), UINT32_MAX));
	return finish(doc, rc, out, out_len, err);
}

/* ---- One more snapshot ---- */

static int add_image(xmlNode *storage, const char *guid, const char *file)
{
	xmlNode *image = img_xml_add(storage, "Image", NULL);

	return image && img_xml_add(image, "GUID", guid) &&
			       img_xml_add(image, "Type", "Compressed") &&
			       img_xml_add(image, "File", file)
		       ? 0
		       : -ENOMEM;
}

static int add_shot(xmlNode *list, const char *guid, const char *parent)
{
	xmlNode *shot = img_xml_add(list, "Shot", NULL);

	return shot && img_xml_add(shot, "GUID", guid) &&
			       img_xml_add(shot, "ParentGUID", parent)
		       ? 0
		       : -ENOMEM;
}

/* All children of that kind that are called from are called to. */
static int rename_guids(xmlNode *parent, const char *kind, const char *name,
			const uint8_t from[IMG_GUID_BYTES], const char *to)
{
	int rc = 0;

	for (xmlNode *e = parent->children; !rc && (e = img_xml_find(e, kind)); e = e->next)
		if (has_guid(e, name, from))
			rc = img_xml_set(e, name, to);
	return rc;
}

int parallels_descriptor_add_snapshot(const char *text, size_t len,
				      const struct parallels_descriptor *d,
				      const uint8_t older[IMG_GUID_BYTES], char *const *files,
				      char **out, size_t *out_len, struct img_error *err)
{
	static const uint8_t none[IMG_GUID_BYTES];
	char top[BRACED_CHARS + 1], below[BRACED_CHARS + 1], nothing[BRACED_CHARS + 1];
	xmlNode *root, *list;
	xmlDoc *doc;
	int rc = img_xml_parse(text, len, &parallels_xml_rules, &doc, &root, err);

	if (rc)
		return rc;
	print_braced(d->top, top);
	print_braced(older, below);
	print_braced(none, nothing);
	/* The elements are found by what they are before they change. */
	for (size_t i = 0; i < d->part_count && !rc; i++) {
		xmlNode *storage = find_storage(root, &d->parts[i]);

		rc = storage ? rename_guids(storage, "Image", "GUID", d->top, below) : -ENOMEM;
		if (!rc)
			rc = add_image(storage, top, files[i]);
	}
	list = img_xml_find(root->children, "Snapshots");
	if (!list)
		list = img_xml_add(root, "Snapshots", NULL);
	if (!list)
		rc = -ENOMEM;
	if (!rc && !d->snapshot_count)
		rc = add_shot(list, below, nothing);
	if (!rc)
		rc = rename_guids(list, "Shot", "GUID", d->top, below);
	if (!rc)
		rc = rename_guids(list, "Shot", "ParentGUID", d->top, below);
	if (!rc)
		rc = add_shot(list, top, below);
	return finish(doc, rc, out, out_len, err);
}

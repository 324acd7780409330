/*
 * Reading and writing DiskDescriptor.xml. What the disk does not depend on (geometry, names, UIDs)
 * is not looked at.
 */
#include "formats/parallels/parallels_descriptor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "formats/parallels/parallels_layout.h"
#include "libimg/base/arith.h"

const char parallels_top_guid[] = "{5fbaabe3-6958-40ff-92a7-860e329aab41}";

const struct img_xml_rules parallels_xml_rules = {
	.users = "Parallels folders",
	.bytes_max = 1 << 20,
};

static const char root_name[] = "Parallels_disk_image";

static int no_memory(struct img_error *err)
{
	return img_fail(err, -ENOMEM, "out of memory");
}

bool parallels_is_descriptor(const char *head, size_t len)
{
	size_t n = min_size(len, 4096);

	if (n >= 3 && !memcmp(head, "\xef\xbb\xbf", 3))
		head += 3, n -= 3;
	while (n && strchr(" \t\r\n", *head) && *head)
		head++, n--;
	return n && *head == '<' && memmem(head, n, root_name, sizeof(root_name) - 1);
}

/* ---- Elements ---- */

/* The text of a child element; *out NULL: there is none. */
static int child_text(const xmlNode *parent, const char *name, char **out, struct img_error *err)
{
	xmlNode *e = img_xml_find(parent->children, name);

	*out = e ? img_xml_text(e) : NULL;
	return e && !*out ? no_memory(err) : 0;
}

static int fail_text(const xmlNode *parent, const char *name, const char *text,
		     const char *expected, struct img_error *err)
{
	if (!text)
		return img_fail(err, -EUCLEAN, "line %ld: %s: no element %s", (long)parent->line,
				(const char *)parent->name, name);
	return img_fail(err, -EUCLEAN, "line %ld: %s: %s is '%.80s', expected %s",
			(long)parent->line, (const char *)parent->name, name, text, expected);
}

/* A number; absent: what *out was, unless it is required. */
static int child_number(const xmlNode *parent, const char *name, bool required, uint64_t *out,
			struct img_error *err)
{
	char *text, *end;
	int rc = child_text(parent, name, &text, err);

	if (rc || (!text && !required))
		return rc;
	errno = 0;
	if (text && *text >= '0' && *text <= '9')
		*out = strtoull(text, &end, 10);
	if (!text || *text < '0' || *text > '9' || *end || errno)
		rc = fail_text(parent, name, text, "a number", err);
	free(text);
	return rc;
}

static int child_guid(const xmlNode *parent, const char *name, uint8_t out[IMG_GUID_BYTES],
		      struct img_error *err)
{
	char *text;
	int rc = child_text(parent, name, &text, err);

	if (!rc && (!text || !img_guid_parse(text, strlen(text), out)))
		rc = fail_text(parent, name, text, "a GUID", err);
	free(text);
	return rc;
}

/* Make room for one more in an array of n; they are zeroes. */
static void *grow(void *array, size_t n, size_t bytes)
{
	/* at 0, 1, 2, 4, 8, ... */
	if (n & (n - 1))
		return array;
	array = realloc(array, (n ? 2 * n : 1) * bytes);
	if (array)
		memset((char *)array + n * bytes, 0, (n ? n : 1) * bytes);
	return array;
}

static size_t count_children(const xmlNode *parent, const char *name)
{
	size_t n = 0;

	for (xmlNode *e = parent->children; (e = img_xml_find(e, name)); e = e->next)
		n++;
	return n;
}

/* ---- Parsing ---- */

static int parse_parameters(const xmlNode *root, struct parallels_descriptor *d,
			    struct img_error *err)
{
	static const char none[] = "00000000-0000-0000-0000-000000000000";
	xmlNode *e = img_xml_find(root->children, "Disk_Parameters"), *encryption;
	uint64_t padding = 0, sector = PARALLELS_SECTOR;
	char *engine = NULL;
	int rc;

	if (!e)
		return fail_text(root, "Disk_Parameters", NULL, NULL, err);
	rc = child_number(e, "Disk_size", true, &d->sectors, err);
	if (!rc)
		rc = child_number(e, "Padding", false, &padding, err);
	if (!rc)
		rc = child_number(e, "LogicSectorSize", false, &sector, err);
	if (rc)
		return rc;
	if (d->sectors > PARALLELS_DISK_BYTES_MAX / PARALLELS_SECTOR)
		return img_fail(err, -EUCLEAN,
				"Disk_size is %" PRIu64 " sectors, expected up to %" PRIu64,
				d->sectors, PARALLELS_DISK_BYTES_MAX / PARALLELS_SECTOR);
	if (padding)
		return img_fail(err, -ENOTSUP, "Padding is %" PRIu64 ", only 0 is supported",
				padding);
	if (sector != PARALLELS_SECTOR)
		return img_fail(err, -ENOTSUP,
				"LogicSectorSize is %" PRIu64 ", only %d is supported", sector,
				PARALLELS_SECTOR);
	encryption = img_xml_find(e->children, "Encryption");
	if (encryption)
		rc = child_text(encryption, "Engine", &engine, err);
	if (!rc && engine && *engine && !strstr(engine, none))
		rc = img_fail(err, -ENOTSUP,
			      "the disk is encrypted (engine %.80s), which is not supported",
			      engine);
	free(engine);
	return rc;
}

static int parse_image(const xmlNode *e, struct parallels_image *out, struct img_error *err)
{
	char *type = NULL;
	int rc = child_guid(e, "GUID", out->guid, err);

	if (!rc)
		rc = child_text(e, "Type", &type, err);
	if (!rc && type && !strcmp(type, "Plain"))
		out->plain = true;
	else if (!rc && (!type || strcmp(type, "Compressed") != 0))
		rc = fail_text(e, "Type", type, "Compressed or Plain", err);
	if (!rc)
		rc = child_text(e, "File", &out->file, err);
	if (!rc && (!out->file || !*out->file))
		rc = fail_text(e, "File", out->file, "a name", err);
	free(type);
	return rc;
}

static int parse_part(const xmlNode *e, struct parallels_part *out, struct img_error *err)
{
	uint64_t cluster = 0;
	int rc = child_number(e, "Start", true, &out->start, err);

	if (!rc)
		rc = child_number(e, "End", true, &out->end, err);
	if (!rc)
		rc = child_number(e, "Blocksize", false, &cluster, err);
	if (rc)
		return rc;
	if (cluster > PARALLELS_CLUSTER_SECTORS_MAX)
		return img_fail(err, -EUCLEAN,
				"line %ld: Blocksize is %" PRIu64
				" sectors, expected up to %" PRIu32,
				(long)e->line, cluster, PARALLELS_CLUSTER_SECTORS_MAX);
	out->cluster_sectors = (uint32_t)cluster;
	if (count_children(e, "Image") > PARALLELS_SNAPSHOTS_MAX)
		return img_fail(err, -ENOTSUP, "line %ld: more than %d images in a storage",
				(long)e->line, PARALLELS_SNAPSHOTS_MAX);
	for (xmlNode *i = e->children; !rc && (i = img_xml_find(i, "Image"));
	     i = i->next) {
		struct parallels_image *more = grow(out->images, out->count, sizeof(*more));

		if (!more)
			return no_memory(err);
		out->images = more;
		rc = parse_image(i, &more[out->count++], err);
	}
	return rc;
}

static int by_start(const void *a, const void *b)
{
	const struct parallels_part *x = a, *y = b;

	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return x->index < y->index ? -1 : x->index > y->index;
}

static int parse_parts(const xmlNode *root, struct parallels_descriptor *d, struct img_error *err)
{
	xmlNode *data = img_xml_find(root->children, "StorageData");
	uint64_t end = 0;
	int rc = 0;

	if (!data)
		return fail_text(root, "StorageData", NULL, NULL, err);
	if (count_children(data, "Storage") > PARALLELS_STORAGES_MAX)
		return img_fail(err, -ENOTSUP, "StorageData: more than %d storages",
				PARALLELS_STORAGES_MAX);
	for (xmlNode *e = data->children; !rc && (e = img_xml_find(e, "Storage"));
	     e = e->next) {
		struct parallels_part *more = grow(d->parts, d->part_count, sizeof(*more));

		if (!more)
			return no_memory(err);
		d->parts = more;
		rc = parse_part(e, &more[d->part_count], err);
		more[d->part_count].index = d->part_count;
		d->part_count++;
	}
	if (rc)
		return rc;
	if (d->part_count)
		qsort(d->parts, d->part_count, sizeof(*d->parts), by_start);
	for (size_t i = 0; i < d->part_count; i++) {
		const struct parallels_part *p = &d->parts[i];

		if (p->start != end || p->end < p->start || (p->end == p->start && d->sectors))
			return img_fail(err, -EUCLEAN,
					"storage %zu: sectors %" PRIu64 " to %" PRIu64
					", expected to begin at %" PRIu64,
					i, p->start, p->end, end);
		end = p->end;
	}
	if (end != d->sectors)
		return img_fail(err, -EUCLEAN,
				"the storages end at sector %" PRIu64 ", expected %" PRIu64
				" (Disk_size)",
				end, d->sectors);
	return 0;
}

static int parse_snapshots(const xmlNode *root, struct parallels_descriptor *d,
			   struct img_error *err)
{
	xmlNode *list = img_xml_find(root->children, "Snapshots");
	int rc = 0;

	img_guid_parse(parallels_top_guid, strlen(parallels_top_guid), d->top);
	if (!list)
		return 0;
	if (img_xml_find(list->children, "TopGUID"))
		rc = child_guid(list, "TopGUID", d->top, err);
	if (!rc && count_children(list, "Shot") > PARALLELS_SNAPSHOTS_MAX)
		rc = img_fail(err, -ENOTSUP, "Snapshots: more than %d", PARALLELS_SNAPSHOTS_MAX);
	for (xmlNode *e = list->children; !rc && (e = img_xml_find(e, "Shot"));
	     e = e->next) {
		struct parallels_snapshot *more = grow(d->snapshots, d->snapshot_count,
						       sizeof(*more));

		if (!more)
			return no_memory(err);
		d->snapshots = more;
		more += d->snapshot_count++;
		rc = child_guid(e, "GUID", more->guid, err);
		if (!rc)
			rc = child_guid(e, "ParentGUID", more->parent, err);
	}
	return rc;
}

/* Each GUID stands for one thing, and each snapshot is based on one that is there, down to a first
 * one. */
static int check_snapshots(const struct parallels_descriptor *d, struct img_error *err)
{
	char text[IMG_GUID_CHARS + 1];

	for (size_t i = 0; i < d->snapshot_count; i++) {
		const struct parallels_snapshot *s = &d->snapshots[i], *below = s;
		size_t steps = 0;

		img_guid_print(s->guid, text);
		if (parallels_find_snapshot(d, s->guid) != s)
			return img_fail(err, -EUCLEAN, "two snapshots have the GUID %s", text);
		while (below && !img_guid_is_zero(below->parent) && steps++ < d->snapshot_count)
			below = parallels_find_snapshot(d, below->parent);
		if (!below)
			return img_fail(
				err, -EUCLEAN,
				"snapshot %s: one that it is based on is not among the snapshots",
				text);
		if (steps > d->snapshot_count)
			return img_fail(err, -EUCLEAN, "snapshot %s is based on itself", text);
	}
	for (size_t i = 0; i < d->part_count; i++)
		for (size_t j = 0; j < d->parts[i].count; j++) {
			const struct parallels_image *image = &d->parts[i].images[j];

			if (parallels_find_image(&d->parts[i], image->guid) == image)
				continue;
			img_guid_print(image->guid, text);
			return img_fail(err, -EUCLEAN, "storage %zu: two images have the GUID %s",
					i, text);
		}
	return 0;
}

int parallels_descriptor_parse(const char *text, size_t len, struct parallels_descriptor *out,
			       struct img_error *err)
{
	xmlNode *root;
	xmlDoc *doc;
	int rc;

	memset(out, 0, sizeof(*out));
	rc = img_xml_parse(text, len, &parallels_xml_rules, &doc, &root, err);
	if (rc)
		return rc;
	if (strcmp((const char *)root->name, root_name) != 0)
		rc = img_fail(err, -EUCLEAN, "the first element is %.80s, expected %s",
			      (const char *)root->name, root_name);
	if (!rc)
		rc = parse_parameters(root, out, err);
	if (!rc)
		rc = parse_parts(root, out, err);
	if (!rc)
		rc = parse_snapshots(root, out, err);
	if (!rc)
		rc = check_snapshots(out, err);
	img_xml_free(doc);
	return rc;
}

void parallels_descriptor_free(struct parallels_descriptor *d)
{
	for (size_t i = 0; i < d->part_count; i++) {
		for (size_t j = 0; j < d->parts[i].count; j++)
			free(d->parts[i].images[j].file);
		free(d->parts[i].images);
	}
	free(d->parts);
	free(d->snapshots);
	memset(d, 0, sizeof(*d));
}

const struct parallels_image *parallels_find_image(const struct parallels_part *part,
						   const uint8_t guid[IMG_GUID_BYTES])
{
	for (size_t i = 0; i < part->count; i++)
		if (img_guid_equal(part->images[i].guid, guid))
			return &part->images[i];
	return NULL;
}

const struct parallels_snapshot *parallels_find_snapshot(const struct parallels_descriptor *d,
							 const uint8_t guid[IMG_GUID_BYTES])
{
	for (size_t i = 0; i < d->snapshot_count; i++)
		if (img_guid_equal(d->snapshots[i].guid, guid))
			return &d->snapshots[i];
	return NULL;
}

/* ---- Writing ---- */

static void put_escaped(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '&')
			fputs("&amp;", out);
		else if (*text == '<')
			fputs("&lt;", out);
		else if (*text == '>')
			fputs("&gt;", out);
		else
			fputc(*text, out);
	}
}

char *parallels_descriptor_text(uint64_t sectors, uint32_t cluster_sectors, uint32_t cylinders,
				const char *file)
{
	char *text = NULL;
	size_t len;
	FILE *out = open_memstream(&text, &len);

	if (!out)
		return NULL;
	fprintf(out,
		"<?xml version='1.0' encoding='UTF-8'?>\n"
		"<Parallels_disk_image Version=\"1.0\">\n"
		"    <Disk_Parameters>\n"
		"        <Disk_size>%" PRIu64 "</Disk_size>\n"
		"        <Cylinders>%" PRIu32 "</Cylinders>\n"
		"        <PhysicalSectorSize>512</PhysicalSectorSize>\n"
		"        <LogicSectorSize>512</LogicSectorSize>\n"
		"        <Heads>%d</Heads>\n"
		"        <Sectors>%d</Sectors>\n"
		"        <Padding>0</Padding>\n"
		"    </Disk_Parameters>\n"
		"    <StorageData>\n"
		"        <Storage>\n"
		"            <Start>0</Start>\n"
		"            <End>%" PRIu64 "</End>\n"
		"            <Blocksize>%" PRIu32 "</Blocksize>\n"
		"            <Image>\n"
		"                <GUID>%s</GUID>\n"
		"                <Type>Compressed</Type>\n"
		"                <File>",
		sectors, cylinders, PARALLELS_HEADS, PARALLELS_TRACK_SECTORS, sectors,
		cluster_sectors, parallels_top_guid);
	put_escaped(out, file);
	fprintf(out,
		"</File>\n"
		"            </Image>\n"
		"        </Storage>\n"
		"    </StorageData>\n"
		"    <Snapshots>\n"
		"        <Shot>\n"
		"            <GUID>%s</GUID>\n"
		"            <ParentGUID>{00000000-0000-0000-0000-000000000000}</ParentGUID>\n"
		"        </Shot>\n"
		"    </Snapshots>\n"
		"</Parallels_disk_image>\n",
		parallels_top_guid);
	if (fclose(out)) {
		free(text);
		return NULL;
	}
	return text;
}

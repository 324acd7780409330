/*
 * DiskDescriptor.xml: the input is one. What is taken is a disk without gaps, whose snapshots lead down to
 * a first one. What is made of it, of another size or with one more snapshot, can be taken again.
 */
#include <stdlib.h>

#include "formats/parallels/parallels_descriptor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(bool holds)
{
	if (!holds)
		abort();
}

/* rc: of the change that made text. It was refused, or is what was wanted. */
static void judge(int rc, char *text, size_t len, uint64_t sectors, size_t snapshots,
		  struct img_error *err)
{
	struct parallels_descriptor d;

	if (rc) {
		must(*img_error_text(err));
		img_error_clear(err);
		return;
	}
	must(!parallels_descriptor_parse(text, len, &d, err));
	must(d.sectors == sectors && d.snapshot_count == snapshots);
	parallels_descriptor_free(&d);
	free(text);
}

static void change(const char *text, size_t len, const struct parallels_descriptor *d)
{
	static const uint8_t older[IMG_GUID_BYTES] = { 1, 2, 3 };
	static char name[] = "a&b.hds";
	uint64_t sectors = d->sectors + 1;
	struct img_error err = { 0 };
	char *out = NULL, **files = calloc(d->part_count + 1, sizeof(*files));
	size_t out_len = 0;
	int rc;

	must(files);
	for (size_t i = 0; i < d->part_count; i++)
		files[i] = name;
	if (d->part_count) {
		rc = parallels_descriptor_resize(text, len, d, sectors, &out, &out_len, &err);
		judge(rc, out, out_len, sectors, d->snapshot_count, &err);
	}
	rc = parallels_descriptor_add_snapshot(text, len, d, older, files, &out, &out_len, &err);
	judge(rc, out, out_len, d->sectors, (d->snapshot_count ? d->snapshot_count : 1) + 1, &err);
	free(files);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
	struct parallels_descriptor d;
	struct img_error err = { 0 };
	uint64_t end = 0;

	parallels_is_descriptor((const char *)data, len);
	if (parallels_descriptor_parse((const char *)data, len, &d, &err)) {
		must(*img_error_text(&err));
		goto out;
	}
	for (size_t i = 0; i < d.part_count; i++) {
		must(d.parts[i].start == end);
		end = d.parts[i].end;
		for (size_t j = 0; j < d.parts[i].count; j++)
			must(*d.parts[i].images[j].file);
	}
	must(end == d.sectors);
	for (size_t i = 0; i < d.snapshot_count; i++) {
		const struct parallels_snapshot *s = &d.snapshots[i];

		for (size_t steps = 0; !img_guid_is_zero(s->parent); steps++) {
			s = parallels_find_snapshot(&d, s->parent);
			must(s && steps < d.snapshot_count);
		}
	}
	change((const char *)data, len, &d);
out:
	parallels_descriptor_free(&d);
	img_error_clear(&err);
	return 0;
}

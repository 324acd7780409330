/*
 * DiskDescriptor.xml: the input is one. What is taken is a disk without gaps, whose snapshots lead down to
 * a first one.
 */
#include <stdlib.h>

#include "formats/parallels/parallels_descriptor.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static void must(bool holds)
{
	if (!holds)
		abort();
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
out:
	parallels_descriptor_free(&d);
	img_error_clear(&err);
	return 0;
}

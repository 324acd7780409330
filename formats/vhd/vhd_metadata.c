/* Where a dynamic disk's metadata lies: no block may lie there, and nothing twice. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/storage/storage.h"

static int list_batmap(struct img *img, struct vhd *v, struct img_error *err)
{
	uint8_t bytes[24];
	uint64_t off, len;
	int rc = img_storage_read(img->file, v->batmap_off, bytes, sizeof(bytes), err);

	if (rc)
		return rc;
	rc = img_range_map_add(&v->metadata, v->batmap_off, VHD_BATMAP_HEADER_BYTES, "batmap's header");
	off = be64_load(bytes + 8);
	len = (uint64_t)be32_load(bytes + 16) * VHD_SECTOR;
	if (!rc && range_in(off, len, img->file->size))
		rc = img_range_map_add(&v->metadata, off, len, "batmap");
	return rc ? img_fail(err, rc, "out of memory") : 0;
}

int vhd_list_metadata(struct img *img, struct vhd *v, struct img_error *err)
{
	struct img_range_map *m = &v->metadata;
	struct img_range overlap[2];
	int rc;

	img_range_map_clear_ranges(m);
	rc = img_range_map_add(m, 0, VHD_FOOTER_BYTES, "footer's copy");
	if (!rc)
		rc = img_range_map_add(m, v->footer.header_off, VHD_HEADER_BYTES, "dynamic disk header");
	if (!rc)
		rc = img_range_map_add(m, v->header.table_off,
				       (uint64_t)v->header.entries * VHD_ENTRY_BYTES,
				       "block allocation table");
	for (unsigned i = 0; !rc && vhd_is_child(v) && i < VHD_LOCATORS; i++) {
		struct vhd_locator l;

		vhd_parse_locator(v->header.bytes, i, &l);
		if (l.code[0] && l.length && range_in(l.off, l.length, img->file->size))
			rc = img_range_map_add(m, l.off, l.length, "parent locator");
	}
	if (rc)
		return img_fail(err, rc, "out of memory");
	if (v->batmap_off)
		rc = list_batmap(img, v, err);
	if (rc)
		return rc;
	img_range_map_sort(m);
	if (img_range_map_overlap(m, overlap))
		return img_fail(err, -EUCLEAN, "%s: found the %s at %" PRIu64 ", where the %s lies already",
				img->name, overlap[1].name, overlap[1].off, overlap[0].name);
	return 0;
}

/*
 * VHD: a fixed disk is its data and a footer; a dynamic one a table of blocks, each with a bitmap in front that has a
 * bit a sector: here, or not here, which is the parent's (a differencing disk) or zeroes. spec/vhd.md.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vhd/vhd_state.h"
#include "libimg/base/endian.h"

/*
 * By its end a fixed disk is told, and nothing else: a guest can write what it likes to the end of a raw disk, and a
 * fixed one names no other file. It fills its file, or nearly: some round the size down to a geometry.
 */
static int vhd_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	uint8_t bytes[VHD_FOOTER_BYTES + 1] = { 0 };
	struct vhd_footer f;

	if (len >= VHD_FOOTER_BYTES && !memcmp(head, "conectix", 8))
		return 100;
	if (!tail)
		return 0;
	memcpy(bytes, tail + IMG_PROBE_TAIL - VHD_FOOTER_BYTES, VHD_FOOTER_BYTES);
	for (unsigned cut = 0; cut < 2; cut++) {
		uint64_t room = file_size - VHD_FOOTER_BYTES + cut;

		/* Of another size it is the end of something inside a raw disk. */
		if (!vhd_parse_footer(bytes + cut, &f, NULL) && f.type == VHD_FIXED &&
		    f.current == room)
			return 90;
	}
	return 0;
}

static void vhd_close(struct img *img)
{
	vhd_free(img->state);
}

/* Entries that one look at the table sees, and are wanted. */
static uint64_t entries_seen(const struct vhd *v, uint64_t at, uint64_t number, uint64_t end)
{
	uint64_t wanted = div_round_up_u64(end, v->header.block_bytes) - number;

	return min_u64(wanted, (IMG_META_BLOCK - at % IMG_META_BLOCK) / VHD_ENTRY_BYTES);
}

/* From sector `within` of a block on, as far as bits are alike and one look at the bitmap sees. */
static int map_block(const struct img *img, struct img_req *req, uint64_t block_off, uint64_t within,
		     uint64_t len, struct img_extent *out)
{
	const struct vhd *v = img->state;
	uint64_t sector = within / VHD_SECTOR, at = block_off + sector / 8, run;
	uint64_t sectors = div_round_up_u64(within + len, VHD_SECTOR) - sector;
	const uint8_t *bits;
	bool set;

	sectors = min_u64(sectors, (IMG_META_BLOCK - at % IMG_META_BLOCK) * 8 - sector % 8);
	bits = img_meta_get(req, img->file, at, (size_t)div_round_up_u64(sector % 8 + sectors, 8));
	if (!bits)
		return IMG_NEED_METADATA;
	run = vhd_bit_run(bits, sector % 8, sectors, &set);
	*out = (struct img_extent){
		.kind = set ? IMG_DATA : IMG_BACKING,
		.length = min_u64(len, (sector + run) * VHD_SECTOR - within),
		.storage = set ? img->file : NULL,
		.file_off = set ? block_off + v->header.bitmap_bytes + within : 0,
	};
	return 0;
}

static int vhd_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		   struct img_extent *out)
{
	const struct vhd *v = img->state;
	uint64_t number, within, at, n, run;
	const uint8_t *slots;
	uint32_t entry;
	int rc;

	if (vhd_is_fixed(v)) {
		*out = (struct img_extent){ .kind = IMG_DATA, .length = len, .storage = img->file, .file_off = off };
		return 0;
	}
	number = off / v->header.block_bytes;
	within = off % v->header.block_bytes;
	at = v->header.table_off + number * VHD_ENTRY_BYTES;
	n = entries_seen(v, at, number, off + len);
	slots = img_meta_get(req, img->file, at, (size_t)n * VHD_ENTRY_BYTES);
	if (!slots)
		return IMG_NEED_METADATA;
	entry = be32_load(slots);
	if (entry == VHD_ABSENT) {
		for (run = 1; run < n && be32_load(slots + run * VHD_ENTRY_BYTES) == VHD_ABSENT;)
			run++;
		*out = (struct img_extent){ .kind = IMG_BACKING,
					    .length = min_u64(len, run * v->header.block_bytes - within) };
		return 0;
	}
	rc = vhd_check_entry(img, number, entry, img_req_error(req));
	if (rc)
		return rc;
	len = min_u64(len, v->header.block_bytes - within);
	return map_block(img, req, vhd_entry_off(entry), within, len, out);
}

static int vhd_info(struct img *img, struct img_value *top, struct img_value *specific,
		    struct img_error *err)
{
	const struct vhd *v = img->state;

	(void)specific;
	(void)err;
	if (!vhd_is_fixed(v))
		img_value_add_uint(top, "cluster-size", v->header.block_bytes);
	return 0;
}

static void vhd_zeroing(const struct img *img, struct img_zeroing *out)
{
	out->zero = IMG_ZERO_IN_PLACE;
	out->discard = !vhd_is_child(img->state);
}

static int vhd_identifiers(const struct img *img, struct img_value *out, struct img_error *err)
{
	const struct vhd *v = img->state;
	char text[IMG_GUID_CHARS + 1];

	(void)err;
	if (img_guid_is_zero(v->footer.uuid))
		return 0;
	img_guid_print(v->footer.uuid, text);
	img_value_add_string(out, "uuid", text);
	return 0;
}

const struct img_driver vhd_driver = {
	.name = "vpc",
	.alias = "vhd",
	.features = IMG_DRIVER_BACKING | IMG_DRIVER_IDENTITY | IMG_DRIVER_BACKING_KNOWN,
	.probe = vhd_probe,
	.open = vhd_open,
	.parent_opened = vhd_parent_opened,
	.identify = vhd_identify,
	.identifiers = vhd_identifiers,
	.close = vhd_close,
	.first_write = vhd_first_write,
	.set_writable = vhd_set_writable,
	.map = vhd_map,
	.plan_write = vhd_plan_write,
	.commit = vhd_commit,
	.drop = vhd_drop,
	.zeroing = vhd_zeroing,
	.last_use = vhd_last_use,
	.release = vhd_release,
	.extend = vhd_extend,
	.resize = vhd_resize,
	.set_backing = vhd_set_backing,
	.make_empty = vhd_make_empty,
	.create_options = vhd_create_options,
	.create_check = vhd_create_check,
	.create = vhd_create,
	.check = vhd_check,
	.info = vhd_info,
};

/*
 * The header of a Parallels image, from the format's document.
 */
#include "formats/parallels/parallels_layout.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"

/* 20 MiB as VirtualBox has it, or as qemu-img has it. */
static void theirs(uint8_t b[64], bool extended)
{
	static const uint8_t old[] =
		"WithoutFreeSpace\2\0\0\0\x10\0\0\0\x28\0\0\0\x3f\0\0\0\x8b\2\0\0\0\xa0\0\0";
	static const uint8_t new[] =
		"WithouFreSpacExt\2\0\0\0\x10\0\0\0\x50\0\0\0\0\x08\0\0\x14\0\0\0\0\xa0\0\0";

	memset(b, 0, 64);
	memcpy(b, extended ? new : old, 40);
	if (extended) {
		memcpy(b + 44, "v2.1", 4);
		le32_store(b + 48, 2048);
	}
}

Test(parallels_layout, header)
{
	struct parallels_header h;
	uint8_t bytes[64], again[64];

	theirs(bytes, false);
	cr_assert_eq(parallels_parse_header(bytes, &h, NULL), 0);
	cr_assert(!h.extended && h.heads == 16 && h.cylinders == 40 && h.cluster_sectors == 63);
	cr_assert(h.entries == 651 && h.sectors == 40960 && !h.in_use && !h.data_off &&
		  !h.extension_off);
	cr_assert_eq(parallels_cluster_bytes(&h), 63 * 512);
	cr_assert_eq(parallels_entry_scale(&h), 512);
	parallels_encode_header(&h, again);
	cr_assert(!memcmp(bytes, again, 64));

	theirs(bytes, true);
	cr_assert_eq(parallels_parse_header(bytes, &h, NULL), 0);
	cr_assert(h.extended && h.cluster_sectors == 2048 && h.entries == 20 && h.sectors == 40960);
	cr_assert(h.in_use == PARALLELS_CLOSED && h.data_off == 2048);
	cr_assert_eq(parallels_entry_scale(&h), 1 << 20);
	parallels_encode_header(&h, again);
	cr_assert(!memcmp(bytes, again, 64));
}

/* What is left of the old kind's size field does not count. */
Test(parallels_layout, size_of_the_old_kind)
{
	struct parallels_header h;
	uint8_t bytes[64];

	theirs(bytes, false);
	le32_store(bytes + 40, 77);
	cr_assert_eq(parallels_parse_header(bytes, &h, NULL), 0);
	cr_assert_eq(h.sectors, 40960);
	theirs(bytes, true);
	le32_store(bytes + 40, 77);
	cr_assert_eq(parallels_parse_header(bytes, &h, NULL), -EUCLEAN);
}

Test(parallels_layout, refused)
{
	static const struct {
		size_t off;
		uint32_t value;
		int rc;
		const char *words;
	} rows[] = {
		{ 0, 0, -EMEDIUMTYPE, "not a Parallels image" },
		{ 16, 1, -ENOTSUP, "version" },
		{ 28, 0, -EUCLEAN, "cluster size" },
		{ 28, 0x3fe010, -EUCLEAN, "cluster size" },
		{ 32, 0x20000000, -EUCLEAN, "BAT" },
		{ 32, 19, -EUCLEAN, "BAT" },
		{ 40, 0xffffffff, -EUCLEAN, "disk size" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct img_error *err = img_error_new();
		struct parallels_header h;
		uint8_t bytes[64];

		theirs(bytes, true);
		le32_store(bytes + rows[i].off, rows[i].value);
		cr_assert_eq(parallels_parse_header(bytes, &h, err), rows[i].rc, "row %zu", i);
		cr_assert(strstr(img_error_text(err), rows[i].words), "%s", img_error_text(err));
		img_error_free(err);
	}
}

Test(parallels_layout, data_start)
{
	static const struct {
		bool extended;
		uint32_t data_off;
		uint64_t start;
		bool wrong;
	} rows[] = {
		{ false, 0, 3072, false }, /* right behind the BAT */
		{ false, 6, 3072, false },
		{ false, 7, 3584, false }, /* anywhere behind it */
		{ false, 5, 3072, true },
		{ false, 100000, 3072, true }, /* behind the file */
		{ true, 2048, 1 << 20, false },
		{ true, 4096, 2 << 20, false },
		{ true, 0, 1 << 20, true },
		{ true, 2047, 1 << 20, true },
		{ true, 2049, 1 << 20, true }, /* no whole cluster */
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct parallels_header h;
		uint8_t bytes[64];
		bool wrong;

		theirs(bytes, rows[i].extended);
		le32_store(bytes + 48, rows[i].data_off);
		cr_assert_eq(parallels_parse_header(bytes, &h, NULL), 0);
		cr_assert_eq(parallels_data_start(&h, 3 << 20, &wrong), rows[i].start, "row %zu",
			     i);
		cr_assert_eq(wrong, rows[i].wrong, "row %zu", i);
	}
}

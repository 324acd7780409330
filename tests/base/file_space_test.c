/*
 * What formats keep of a file's space: where metadata lies (range_map), what is in use (use_map), and
 * where new units go (unit_alloc). Against arrays with an element for each byte or unit.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/range_map.h"
#include "libimg/base/unit_alloc.h"
#include "libimg/base/use_map.h"

Test(range_map, says_what_lies_where)
{
	struct img_range_map m = { .block_bytes = 8, .block_name = "table" };
	const char *model[200] = { 0 };
	static const struct img_range ranges[] = { { 90, 10, "copy" }, { 0, 16, "header" }, { 16, 4, "map" } };
	struct img_range pair[2];

	for (size_t i = 0; i < 3; i++) {
		cr_assert_eq(img_range_map_add(&m, ranges[i].off, ranges[i].len, ranges[i].name),
			     0);
		for (uint64_t k = 0; k < ranges[i].len; k++)
			model[ranges[i].off + k] = ranges[i].name;
	}
	cr_assert_eq(img_range_map_add(&m, 50, 0, "nothing"), 0);
	cr_assert_eq(img_range_map_add(&m, UINT64_MAX - 1, 2, "far"), -EOVERFLOW);
	for (uint64_t off = 170; off > 110; off -= 12)
		cr_assert_eq(img_range_map_add_block(&m, off), 0);
	cr_assert_eq(img_range_map_add_block(&m, UINT64_MAX - 7), -EOVERFLOW);
	img_range_map_sort(&m);
	cr_assert_eq(img_range_map_reserve_blocks(&m, 100), 0);
	img_range_map_insert_block(&m, 40);
	img_range_map_insert_block(&m, 180);
	img_range_map_insert_block(&m, 30);
	cr_assert_eq(m.block_count, 8);
	for (size_t i = 0; i < m.block_count; i++)
		for (uint64_t k = 0; k < 8; k++)
			model[m.blocks[i] + k] = "table";
	for (uint64_t off = 0; off < 200; off++) {
		for (uint64_t len = 1; len < 20 && off + len <= 200; len++) {
			const char *range = NULL, *block = NULL, *hit = img_range_map_at(&m, off, len);

			for (uint64_t k = off; k < off + len; k++) {
				if (model[k] && !strcmp(model[k], "table"))
					block = model[k];
				else if (model[k] && !range)
					range = model[k];
			}
			if (range || block)
				cr_assert_str_eq(hit, range ? range : block);
			else
				cr_assert_null(hit);
		}
	}
	cr_assert_not(img_range_map_overlap(&m, pair));
	cr_assert_not(img_range_map_block_overlap(&m, pair));
	img_range_map_free(&m);
}

Test(range_map, finds_overlaps)
{
	struct img_range_map m = { .block_bytes = 8, .block_name = "table" };
	struct img_range pair[2];

	img_range_map_add(&m, 20, 10, "b");
	img_range_map_add(&m, 0, 21, "a");
	img_range_map_sort(&m);
	cr_assert(img_range_map_overlap(&m, pair));
	cr_assert_str_eq(pair[0].name, "a");
	cr_assert_str_eq(pair[1].name, "b");
	img_range_map_clear_ranges(&m);
	img_range_map_add(&m, 40, 10, "c");
	img_range_map_add_block(&m, 49);
	img_range_map_sort(&m);
	cr_assert_not(img_range_map_overlap(&m, pair));
	cr_assert(img_range_map_block_overlap(&m, pair));
	cr_assert_str_eq(pair[0].name, "c");
	cr_assert_eq(pair[1].off, 49);
	img_range_map_clear_blocks(&m);
	img_range_map_add_block(&m, 100);
	img_range_map_add_block(&m, 93);
	img_range_map_sort(&m);
	cr_assert(img_range_map_block_overlap(&m, pair));
	cr_assert_eq(pair[0].off, 93);
	cr_assert_eq(pair[1].off, 100);
	img_range_map_free(&m);
}

Test(use_map, counts_users)
{
	enum { FILE_BYTES = 100000,
	       UNIT = 512,
	       UNITS = FILE_BYTES / UNIT + 1 };
	struct img_use_map m;
	int model[UNITS] = { 0 };
	uint64_t off = 1;

	img_use_map_init(&m, FILE_BYTES, UNIT);
	for (int i = 0; i < 60; i++) {
		uint64_t len = off % 3000;
		enum img_use use, expect = IMG_USE_NEW;

		off = (off * 48271 + 11) % FILE_BYTES;
		cr_assert_eq(img_use_map_add(&m, off, len, &use), 0);
		if (off + len > FILE_BYTES) {
			cr_assert_eq(use, IMG_USE_BEYOND);
			continue;
		}
		for (uint64_t u = off / UNIT; len && u <= (off + len - 1) / UNIT; u++)
			if (model[u]++)
				expect = IMG_USE_SHARED;
		cr_assert_eq(use, expect);
	}
	for (off = 0; off < FILE_BYTES; off += 100) {
		for (uint64_t len = 0; len < 3000 && off + len <= FILE_BYTES; len += 77) {
			bool shared = false;

			for (uint64_t u = off / UNIT; len && u <= (off + len - 1) / UNIT; u++)
				shared |= model[u] > 1;
			cr_assert_eq(img_use_map_is_shared(&m, off, len), shared);
		}
	}
	img_use_map_free(&m);
}

Test(use_map, takes_memory_for_what_is_used)
{
	struct img_use_map m;
	enum img_use use;

	img_use_map_init(&m, UINT64_MAX, 512);
	for (uint64_t i = 0; i < 60; i++)
		cr_assert_eq(img_use_map_add(&m, UINT64_C(1) << i, 1, &use), 0);
	cr_assert(m.used.pages.count < 60);
	cr_assert(img_use_map_is_shared(&m, 0, UINT64_C(1) << 60));
	cr_assert_not(img_use_map_is_shared(&m, 512, UINT64_C(1) << 60));
	cr_assert_eq(img_use_map_add(&m, UINT64_MAX, 1, &use), 0);
	cr_assert_eq(use, IMG_USE_BEYOND);
	img_use_map_free(&m);
}

Test(unit_alloc, uses_freed_units_first)
{
	struct img_unit_alloc a;
	uint64_t off, got;

	img_unit_alloc_init(&a, 100, 1000, 2000);
	cr_assert_eq(img_unit_alloc_get(&a, 4, &off, &got), 0);
	cr_assert(off == 1000 && got == 4 && a.next == 1400);
	img_unit_alloc_put(&a, 1100, 100);
	img_unit_alloc_put(&a, 1200, 100);
	cr_assert_eq(a.run_count, 1);
	cr_assert_eq(img_unit_alloc_get(&a, 1, &off, &got), 0);
	cr_assert(off == 1100 && got == 1);
	cr_assert_eq(img_unit_alloc_get_at_end(&a, 2, &off), 0);
	cr_assert(off == 1400 && a.next == 1600);
	cr_assert_eq(img_unit_alloc_get(&a, 9, &off, &got), 0);
	cr_assert(off == 1200 && got == 1);
	/* The end. */
	cr_assert_eq(img_unit_alloc_get_at_end(&a, 5, &off), -EFBIG);
	cr_assert_eq(img_unit_alloc_get(&a, 9, &off, &got), 0);
	cr_assert(off == 1600 && got == 4);
	cr_assert_eq(img_unit_alloc_get(&a, 1, &off, &got), -EFBIG);
	img_unit_alloc_put(&a, 1900, 100);
	cr_assert_eq(img_unit_alloc_get(&a, 1, &off, &got), 0);
	cr_assert_eq(off, 1900);
	img_unit_alloc_free(&a);
}

/* A file that was opened: what no table names is free, and a unit used in part is not. */
Test(unit_alloc, finds_what_is_free)
{
	enum { FROM = 1536,
	       UNIT = 2048,
	       UNITS = 50 };
	struct img_use_map m;
	struct img_unit_alloc a;
	bool used[UNITS] = { 0 }, given[UNITS] = { 0 };
	enum img_use use;
	uint64_t off, got, next = FROM + UNITS * UNIT;

	img_use_map_init(&m, next - 3 * UNIT, 512); /* the file ends before */
	img_use_map_add(&m, 0, FROM, &use);
	for (int i = 0; i < UNITS - 3; i++) {
		used[i] = i % 7 == 2 || i % 11 < 3;
		if (used[i])
			img_use_map_add(&m, FROM + (uint64_t)i * UNIT + (uint64_t)(i % 4) * 512,
					i % 4 ? 512 : UNIT, &use);
	}
	img_unit_alloc_init(&a, UNIT, next, next);
	cr_assert_eq(img_unit_alloc_find_free(&a, &m, FROM), 0);
	while (!img_unit_alloc_get(&a, 4, &off, &got)) {
		for (uint64_t k = 0; k < got; k++, off += UNIT) {
			cr_assert_eq((off - FROM) % UNIT, 0);
			cr_assert(off >= FROM && off < next);
			cr_assert_not(given[(off - FROM) / UNIT]);
			given[(off - FROM) / UNIT] = true;
		}
	}
	for (int i = 0; i < UNITS; i++)
		cr_assert_neq(given[i], used[i], "unit %d", i);
	img_unit_alloc_free(&a);
	img_use_map_free(&m);
}

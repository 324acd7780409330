/* What makes reading cheap: readers without a lock, buffers and decoded units that are kept. */
#include <criterion/criterion.h>
#include <string.h>

#include "libimg/engine/buffers.h"
#include "libimg/engine/extents.h"
#include "libimg/engine/readers.h"
#include "libimg/engine/units.h"

/* ---- Readers ---- */

Test(readers, who_started_before_holds_space_back)
{
	struct img_readers a, b;
	struct img_reader one, two;
	uint64_t now;

	img_readers_init(&a);
	img_readers_init(&b);
	cr_assert(img_readers_gone(img_readers_now()), "nobody reads");
	img_reader_start(&a, &one);
	img_reader_start(&b, &two);
	now = img_readers_now();
	cr_assert(!img_readers_gone(now));
	img_reader_end(&a, &one);
	cr_assert(!img_readers_gone(now), "the other queue's still runs");
	img_reader_end(&b, &two);
	cr_assert(img_readers_gone(now));
	img_readers_destroy(&a);
	img_readers_destroy(&b);
}

Test(readers, who_starts_later_does_not)
{
	struct img_readers q;
	struct img_reader old, young;
	uint64_t now;

	img_readers_init(&q);
	img_reader_start(&q, &old);
	now = img_readers_now();
	img_reader_start(&q, &young);
	img_reader_end(&q, &old);
	cr_assert(img_readers_gone(now));
	cr_assert(!img_readers_gone(img_readers_now()));
	img_reader_end(&q, &young);
	img_readers_destroy(&q);
}

Test(readers, ending_out_of_order_waits_for_the_oldest)
{
	struct img_readers q;
	struct img_reader r[3];
	uint64_t now;

	img_readers_init(&q);
	for (int i = 0; i < 3; i++)
		img_reader_start(&q, &r[i]);
	now = img_readers_now();
	img_reader_end(&q, &r[1]);
	img_reader_end(&q, &r[2]);
	cr_assert(!img_readers_gone(now));
	img_reader_end(&q, &r[0]);
	cr_assert(img_readers_gone(now));
	img_readers_destroy(&q);
}

/* ---- Buffers ---- */

Test(buffers, are_used_again)
{
	struct img_buffers b = { 0 };
	struct img_buffer one = { 0 }, two = { 0 };
	uint8_t *at;

	cr_assert(img_buffer_get(&b, 5000, &one));
	cr_assert_eq((uintptr_t)one.at % 4096, 0);
	cr_assert(one.len >= 5000);
	at = one.at;
	img_buffer_put(&b, &one);
	cr_assert_null(one.at);
	cr_assert(img_buffer_get(&b, 8000, &two));
	cr_assert_eq(two.at, at, "the same class, the same buffer");
	img_buffer_put(&b, &two);
	img_buffers_clear(&b);
	cr_assert_eq(b.bytes, 0);
}

Test(buffers, of_any_size_and_not_too_many_kept)
{
	struct img_buffers b = { 0 };
	struct img_buffer many[8] = { 0 };

	for (int i = 0; i < 8; i++) {
		cr_assert(img_buffer_get(&b, (2 << 20) + (i == 7), &many[i]));
		memset(many[i].at, i, many[i].len);
	}
	cr_assert(many[7].len > 2 << 20);
	for (int i = 0; i < 8; i++)
		img_buffer_put(&b, &many[i]);
	cr_assert_leq(b.bytes, 8 << 20);
	img_buffers_clear(&b);
}

/* ---- Units ---- */

static struct img_extent unit_at(uint64_t file_off, uint32_t unit_bytes)
{
	return (struct img_extent){ .kind = IMG_COMPRESSED,
				    .file_off = file_off,
				    .unit_bytes = unit_bytes };
}

/* Put a decoded unit there, as a piece does. */
static void put_unit(struct img_units *u, struct img_buffers *b, uint64_t version, uint64_t file_off)
{
	struct img_extent x = unit_at(file_off, 65536);
	struct img_unit *unit = img_units_begin(u, b, version, &x);
	struct img_buffer bytes;
	struct img_list waiting;

	img_list_init(&waiting);
	cr_assert_not_null(unit);
	cr_assert(img_buffer_get(b, 65536, &bytes));
	img_units_end(unit, &bytes, &waiting);
}

Test(units, are_found_until_space_is_used_again)
{
	struct img_buffers b = { 0 };
	struct img_units u = { 0 };
	struct img_extent x = unit_at(1000, 65536), other = unit_at(2000, 65536);

	cr_assert_null(img_units_find(&u, 1, &x));
	put_unit(&u, &b, 1, 1000);
	cr_assert_not_null(img_units_find(&u, 1, &x));
	cr_assert_null(img_units_find(&u, 1, &other));
	cr_assert_null(img_units_find(&u, 2, &x), "what was stored there may be gone");
	img_units_clear(&u, &b);
	img_buffers_clear(&b);
}

Test(units, the_longest_unused_makes_room)
{
	struct img_buffers b = { 0 };
	struct img_units u = { 0 };
	struct img_extent first = unit_at(0, 65536), second = unit_at(100, 65536);

	for (uint64_t i = 0; i < IMG_UNITS_KEPT; i++)
		put_unit(&u, &b, 1, i * 100);
	cr_assert_not_null(img_units_find(&u, 1, &first));
	put_unit(&u, &b, 1, 5000);
	cr_assert_not_null(img_units_find(&u, 1, &first));
	cr_assert_null(img_units_find(&u, 1, &second));
	img_units_clear(&u, &b);
	img_buffers_clear(&b);
}

Test(units, that_failed_are_forgotten_and_waiters_come_back)
{
	struct img_buffers b = { 0 };
	struct img_units u = { 0 };
	struct img_extent x = unit_at(0, 65536);
	struct img_unit *unit = img_units_begin(&u, &b, 1, &x);
	struct img_buffer none = { 0 };
	struct img_list waiting, me;

	img_list_init(&waiting);
	cr_assert_eq(img_units_find(&u, 1, &x), unit);
	cr_assert_null(unit->bytes.at);
	img_list_add_tail(&unit->waiting, &me);
	img_units_end(unit, &none, &waiting);
	cr_assert_eq(img_list_pop(&waiting), &me);
	cr_assert_null(img_units_find(&u, 1, &x));
}

Test(units, being_decoded_are_not_thrown_out)
{
	struct img_buffers b = { 0 };
	struct img_units u = { 0 };
	struct img_extent large = unit_at(0, 2 << 20), more = unit_at(1, 2 << 20),
			  third = unit_at(2, 2 << 20);

	cr_assert_not_null(img_units_begin(&u, &b, 1, &large));
	cr_assert_not_null(img_units_begin(&u, &b, 1, &more));
	cr_assert_null(img_units_begin(&u, &b, 1, &third), "4 MiB are all there is room for");
}

/* ---- Extents ---- */

static const struct img_driver plain = { .name = "plain", .features = IMG_DRIVER_PLAIN };
static const struct img_driver units = { .name = "units" };

Test(extents, answer_for_every_part_of_what_was_looked_up)
{
	struct img img = { .driver = &units, .unit_bytes = 65536 }, *level = NULL;
	struct img_extents e = { 0 };
	struct img_extent x = { .kind = IMG_DATA, .file_off = 1 << 20, .tweak = 7 }, out;
	uint64_t len = 4096;

	cr_assert_eq(img_extents_window(&img), 16 << 20);
	cr_assert(!img_extents_find(&e, &img, 1, 65536, &len, &out, &level));
	img_extents_keep(&e, &img, 1, 65536, 131072, &x, &img);
	cr_assert(img_extents_find(&e, &img, 1, 65536 + 512, &len, &out, &level));
	cr_assert_eq(out.file_off, (1 << 20) + 512);
	cr_assert_eq(out.tweak, 7 + 512);
	cr_assert_eq(len, 4096);
	cr_assert_eq(level, &img);
	len = 1 << 20;
	cr_assert(img_extents_find(&e, &img, 1, 65536 + 512, &len, &out, &level));
	cr_assert_eq(len, 131072 - 512);
	cr_assert(!img_extents_find(&e, &img, 1, 65535, &len, &out, &level));
	cr_assert(!img_extents_find(&e, &img, 1, 65536 + 131072, &len, &out, &level));
	cr_assert(!img_extents_find(&e, &img, 2, 65536, &len, &out, &level), "it was changed");
}

Test(extents, compressed_units_are_not_kept)
{
	struct img img = { .driver = &plain, .unit_bytes = 512 }, *level;
	struct img_extents e = { 0 };
	struct img_extent x = { .kind = IMG_COMPRESSED }, out;
	uint64_t len = 4096;

	img_extents_keep(&e, &img, 1, 0, 65536, &x, &img);
	cr_assert(!img_extents_find(&e, &img, 1, 0, &len, &out, &level));
}

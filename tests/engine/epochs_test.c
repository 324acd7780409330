/* What makes reading cheap: readers without a lock, buffers and decoded units that are kept. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "libimg/engine/buffers.h"
#include "libimg/engine/core.h"
#include "libimg/engine/extent_cache.h"
#include "libimg/engine/epochs.h"
#include "libimg/engine/unit_cache.h"

/* ---- Readers ---- */

/* Two images, one above the other, and another one; two queues. */
struct readers_setup {
	struct img_epoch_domain base, top, other;
	struct img_queue_epochs q[2];
	struct img_epoch_readers *top_by[2], *base_by, *other_by;
	_Atomic bool over;
	_Atomic unsigned turned_away;
};

static void readers_begin(struct readers_setup *s)
{
	*s = (struct readers_setup){ 0 };
	img_epoch_domain_init(&s->base);
	img_epoch_domain_init(&s->top);
	img_epoch_domain_init(&s->other);
	cr_assert_eq(img_epoch_domain_set_below(&s->top, &s->base), 0);
	for (int i = 0; i < 2; i++) {
		img_queue_epochs_init(&s->q[i]);
		cr_assert_null(img_epoch_readers_find(&s->q[i], &s->top));
		s->top_by[i] = img_epoch_readers_new(&s->q[i], &s->top);
		cr_assert_eq(img_epoch_readers_find(&s->q[i], &s->top), s->top_by[i]);
	}
	s->base_by = img_epoch_readers_new(&s->q[0], &s->base);
	s->other_by = img_epoch_readers_new(&s->q[0], &s->other);
}

static void readers_finish(struct readers_setup *s)
{
	img_queue_epochs_destroy(&s->q[1]);
	img_epoch_domain_destroy(&s->top);
	img_epoch_domain_destroy(&s->base);
	img_epoch_domain_destroy(&s->other);
	cr_assert(img_list_empty(&s->q[0].all), "they went with their images");
	img_queue_epochs_destroy(&s->q[0]);
}

Test(readers, who_started_before_holds_space_back)
{
	struct readers_setup s;
	struct img_reader one, two;
	uint64_t now;

	readers_begin(&s);
	cr_assert(img_epoch_passed(&s.top, img_epoch_now()), "nobody reads");
	img_reader_start(s.top_by[0], &one);
	img_reader_start(s.top_by[1], &two);
	now = img_epoch_now();
	cr_assert(!img_epoch_passed(&s.top, now));
	img_reader_end(s.top_by[0], &one);
	cr_assert(!img_epoch_passed(&s.top, now), "the other queue's still runs");
	img_reader_end(s.top_by[1], &two);
	cr_assert(img_epoch_passed(&s.top, now));
	readers_finish(&s);
}

Test(readers, hold_back_the_space_of_their_image_and_those_below)
{
	struct readers_setup s;
	struct img_reader r;
	uint64_t now;

	readers_begin(&s);
	img_reader_start(s.top_by[0], &r);
	now = img_epoch_now();
	cr_assert(!img_epoch_passed(&s.top, now));
	cr_assert(!img_epoch_passed(&s.base, now), "it is read through the child");
	cr_assert(img_epoch_passed(&s.other, now), "another image has nothing to do with it");
	img_reader_end(s.top_by[0], &r);
	img_reader_start(s.base_by, &r);
	now = img_epoch_now();
	cr_assert(img_epoch_passed(&s.top, now));
	cr_assert(!img_epoch_passed(&s.base, now));
	img_reader_end(s.base_by, &r);
	readers_finish(&s);
}

Test(readers, who_starts_later_does_not)
{
	struct readers_setup s;
	struct img_reader old, young;
	uint64_t now;

	readers_begin(&s);
	img_reader_start(s.top_by[0], &old);
	now = img_epoch_now();
	img_reader_start(s.top_by[0], &young);
	img_reader_end(s.top_by[0], &old);
	cr_assert(img_epoch_passed(&s.top, now));
	cr_assert(!img_epoch_passed(&s.top, img_epoch_now()));
	img_reader_end(s.top_by[0], &young);
	readers_finish(&s);
}

Test(readers, ending_out_of_order_waits_for_the_oldest)
{
	struct readers_setup s;
	struct img_reader r[3];
	uint64_t now;

	readers_begin(&s);
	for (int i = 0; i < 3; i++)
		img_reader_start(s.top_by[0], &r[i]);
	now = img_epoch_now();
	img_reader_end(s.top_by[0], &r[1]);
	img_reader_end(s.top_by[0], &r[2]);
	cr_assert(!img_epoch_passed(&s.top, now));
	img_reader_end(s.top_by[0], &r[0]);
	cr_assert(img_epoch_passed(&s.top, now));
	readers_finish(&s);
}

Test(readers, do_not_enter_what_is_closed)
{
	struct readers_setup s;

	readers_begin(&s);
	cr_assert(img_reader_enter(s.top_by[0]));
	img_epoch_domain_close(&s.base);
	cr_assert(!img_epoch_domain_empty(&s.base), "one is inside, by the child");
	cr_assert(!img_reader_enter(s.top_by[1]));
	cr_assert(!img_reader_enter(s.base_by));
	cr_assert(img_reader_enter(s.other_by));
	cr_assert(!img_reader_leave(s.other_by));
	cr_assert(img_reader_leave(s.top_by[0]), "who closed it waits for this");
	cr_assert(img_epoch_domain_empty(&s.base));
	img_epoch_domain_close(&s.top);
	img_epoch_domain_open(&s.base);
	cr_assert(!img_reader_enter(s.top_by[0]));
	cr_assert(img_reader_enter(s.base_by));
	cr_assert(!img_reader_leave(s.base_by));
	img_epoch_domain_open(&s.top);
	cr_assert(img_reader_enter(s.top_by[0]));
	cr_assert(!img_reader_leave(s.top_by[0]));
	readers_finish(&s);
}

static void *enter_again_and_again(void *arg)
{
	struct readers_setup *s = arg;

	while (!atomic_load(&s->over))
		if (img_reader_enter(s->top_by[0]))
			img_reader_leave(s->top_by[0]);
		else
			atomic_fetch_add(&s->turned_away, 1);
	return NULL;
}

/* Who is turned away is inside for a moment, but has never been let in. */
Test(readers, who_is_turned_away_was_never_let_in)
{
	struct readers_setup s;
	pthread_t thread;

	readers_begin(&s);
	cr_assert_eq(pthread_create(&thread, NULL, enter_again_and_again, &s), 0);
	while (atomic_load(&s.turned_away) < 20000) {
		img_epoch_domain_close(&s.base);
		while (!img_epoch_domain_empty(&s.base))
			sched_yield();
		for (int k = 0; k < 300; k++)
			cr_assert(img_epoch_domain_is_left(&s.base));
		img_epoch_domain_open(&s.base);
	}
	atomic_store(&s.over, true);
	pthread_join(thread, NULL);
	readers_finish(&s);
}

Test(readers, a_queue_that_comes_to_a_closed_image_stays_out)
{
	struct readers_setup s;
	struct img_epoch_readers *r;

	readers_begin(&s);
	img_epoch_domain_close(&s.other);
	r = img_epoch_readers_new(&s.q[1], &s.other);
	cr_assert(!img_reader_enter(r));
	img_epoch_domain_open(&s.other);
	cr_assert(img_reader_enter(r));
	img_reader_leave(r);
	readers_finish(&s);
}

/* ---- Readers of a chain that changes ---- */

Test(readers, are_those_of_the_images_below_after_a_change)
{
	struct readers_setup s;
	struct img_epoch_domain new_base, last;
	struct img_reader reader;
	uint64_t now;

	readers_begin(&s);
	img_epoch_domain_init(&new_base);
	img_epoch_domain_init(&last);
	cr_assert_eq(img_epoch_domain_set_below(&new_base, &last), 0);
	img_epoch_domain_close(&s.top);
	cr_assert_eq(img_epoch_domain_set_below(&s.top, &new_base), 0);
	cr_assert(!img_reader_enter(s.top_by[0]), "it is closed as before");
	img_epoch_domain_open(&s.top);

	/* the new ones are read through the top, the old one is not */
	img_reader_start(s.top_by[1], &reader);
	now = img_epoch_now();
	cr_assert(!img_epoch_passed(&s.top, now));
	cr_assert(!img_epoch_passed(&new_base, now));
	cr_assert(!img_epoch_passed(&last, now));
	cr_assert(img_epoch_passed(&s.base, now));
	img_reader_end(s.top_by[1], &reader);
	img_epoch_domain_close(&s.base);
	cr_assert(img_reader_enter(s.top_by[0]));
	cr_assert(!img_reader_enter(s.base_by), "its own readers are what they were");
	img_epoch_domain_close(&last);
	cr_assert(!img_epoch_domain_empty(&last));
	cr_assert(img_reader_leave(s.top_by[0]), "somebody may be waiting for it");
	cr_assert(img_epoch_domain_empty(&last));
	cr_assert(!img_reader_enter(s.top_by[0]));
	img_epoch_domain_open(&last);
	img_epoch_domain_open(&s.base);

	/* and back, the new ones going first */
	img_epoch_domain_close(&s.top);
	cr_assert_eq(img_epoch_domain_set_below(&s.top, NULL), 0);
	img_epoch_domain_destroy(&new_base);
	img_epoch_domain_destroy(&last);
	cr_assert_eq(img_epoch_domain_set_below(&s.top, &s.base), 0);
	img_epoch_domain_open(&s.top);
	cr_assert_eq(img_epoch_readers_find(&s.q[0], &s.top), s.top_by[0]);
	img_epoch_domain_close(&s.base);
	cr_assert(!img_reader_enter(s.top_by[1]));
	img_epoch_domain_open(&s.base);
	cr_assert(img_reader_enter(s.top_by[1]));
	img_reader_leave(s.top_by[1]);
	readers_finish(&s);
}

/* Who reads a child reads the image whose backing image changes, too. */
Test(readers, above_a_change_are_of_the_new_chain_too)
{
	struct readers_setup s;

	readers_begin(&s);
	img_epoch_domain_close(&s.base);
	cr_assert_eq(img_epoch_domain_set_below(&s.base, &s.other), 0);
	img_epoch_domain_open(&s.base);
	img_epoch_domain_close(&s.other);
	cr_assert(!img_reader_enter(s.top_by[0]));
	cr_assert(!img_reader_enter(s.top_by[1]));
	cr_assert(!img_reader_enter(s.base_by));
	cr_assert(!img_reader_enter(s.other_by));
	img_epoch_domain_open(&s.other);
	cr_assert(img_reader_enter(s.top_by[0]));
	cr_assert(!img_reader_leave(s.top_by[0]));
	readers_finish(&s);
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
static void put_unit(struct img_unit_cache *u, struct img_buffers *b, uint64_t version, uint64_t file_off)
{
	struct img_extent x = unit_at(file_off, 65536);
	struct img_cached_unit *unit = img_unit_cache_begin(u, b, version, &x);
	struct img_buffer bytes;
	struct img_list waiting;

	img_list_init(&waiting);
	cr_assert_not_null(unit);
	cr_assert(img_buffer_get(b, 65536, &bytes));
	img_unit_cache_end(unit, &bytes, &waiting);
}

Test(units, are_found_until_space_is_used_again)
{
	struct img_buffers b = { 0 };
	struct img_unit_cache u = { 0 };
	struct img_extent x = unit_at(1000, 65536), other = unit_at(2000, 65536);

	cr_assert_null(img_unit_cache_find(&u, 1, &x));
	put_unit(&u, &b, 1, 1000);
	cr_assert_not_null(img_unit_cache_find(&u, 1, &x));
	cr_assert_null(img_unit_cache_find(&u, 1, &other));
	cr_assert_null(img_unit_cache_find(&u, 2, &x), "what was stored there may be gone");
	img_unit_cache_clear(&u, &b);
	img_buffers_clear(&b);
}

Test(units, the_longest_unused_makes_room)
{
	struct img_buffers b = { 0 };
	struct img_unit_cache u = { 0 };
	struct img_extent first = unit_at(0, 65536), second = unit_at(100, 65536);

	for (uint64_t i = 0; i < IMG_UNIT_CACHE_KEPT; i++)
		put_unit(&u, &b, 1, i * 100);
	cr_assert_not_null(img_unit_cache_find(&u, 1, &first));
	put_unit(&u, &b, 1, 5000);
	cr_assert_not_null(img_unit_cache_find(&u, 1, &first));
	cr_assert_null(img_unit_cache_find(&u, 1, &second));
	img_unit_cache_clear(&u, &b);
	img_buffers_clear(&b);
}

Test(units, that_failed_are_forgotten_and_waiters_come_back)
{
	struct img_buffers b = { 0 };
	struct img_unit_cache u = { 0 };
	struct img_extent x = unit_at(0, 65536);
	struct img_cached_unit *unit = img_unit_cache_begin(&u, &b, 1, &x);
	struct img_buffer none = { 0 };
	struct img_list waiting, me;

	img_list_init(&waiting);
	cr_assert_eq(img_unit_cache_find(&u, 1, &x), unit);
	cr_assert_null(unit->bytes.at);
	img_list_add_tail(&unit->waiting, &me);
	img_unit_cache_end(unit, &none, &waiting);
	cr_assert_eq(img_list_pop(&waiting), &me);
	cr_assert_null(img_unit_cache_find(&u, 1, &x));
}

Test(units, being_decoded_are_not_thrown_out)
{
	struct img_buffers b = { 0 };
	struct img_unit_cache u = { 0 };
	struct img_extent large = unit_at(0, 2 << 20), more = unit_at(1, 2 << 20),
			  third = unit_at(2, 2 << 20);

	cr_assert_not_null(img_unit_cache_begin(&u, &b, 1, &large));
	cr_assert_not_null(img_unit_cache_begin(&u, &b, 1, &more));
	cr_assert_null(img_unit_cache_begin(&u, &b, 1, &third), "4 MiB are all there is room for");
}

/* ---- Extents ---- */

static const struct img_driver plain = { .name = "plain", .features = IMG_DRIVER_PLAIN };
static const struct img_driver units = { .name = "units" };

static void open_image(struct img *img, const struct img_driver *driver, uint64_t unit_bytes)
{
	struct img_engine_config config = { 0 };

	*img = (struct img){ .driver = driver, .unit_bytes = unit_bytes, .name = (char *)"image" };
	cr_assert_eq(img_engine_new(img, &config, NULL), 0);
}

static void changed(struct img *img, uint64_t off, uint64_t len)
{
	pthread_mutex_lock(&img->engine->lock);
	img_engine_remapped(img->engine, off, len);
	pthread_mutex_unlock(&img->engine->lock);
}

static uint64_t version_of(const struct img *img, uint64_t off)
{
	return img_engine_mapped(img->engine, off);
}

Test(extents, answer_for_every_part_of_what_was_looked_up)
{
	struct img img, *level = NULL;
	struct img_extent_cache e = { 0 };
	struct img_extent x = { .kind = IMG_DATA, .file_off = 1 << 20, .tweak = 7 }, out;
	uint64_t len = 4096;

	open_image(&img, &units, 65536);
	cr_assert_eq(img_extent_cache_window(&img), 16 << 20);
	cr_assert(!img_extent_cache_find(&e, &img, 65536, &len, &out, &level));
	img_extent_cache_keep(&e, &img, version_of(&img, 0), 65536, 131072, &x, &img);
	cr_assert(img_extent_cache_find(&e, &img, 65536 + 512, &len, &out, &level));
	cr_assert_eq(out.file_off, (1 << 20) + 512);
	cr_assert_eq(out.tweak, 7 + 512);
	cr_assert_eq(len, 4096);
	cr_assert_eq(level, &img);
	len = 1 << 20;
	cr_assert(img_extent_cache_find(&e, &img, 65536 + 512, &len, &out, &level));
	cr_assert_eq(len, 131072 - 512);
	cr_assert(!img_extent_cache_find(&e, &img, 65535, &len, &out, &level));
	cr_assert(!img_extent_cache_find(&e, &img, 65536 + 131072, &len, &out, &level));
	changed(&img, 64 << 20, 65536);
	cr_assert(img_extent_cache_find(&e, &img, 65536, &len, &out, &level), "that was elsewhere");
	changed(&img, 0, 512);
	cr_assert(!img_extent_cache_find(&e, &img, 65536, &len, &out, &level), "it was changed");
	img_engine_free(&img);
}

Test(extents, are_old_when_any_image_that_was_asked_has_changed)
{
	struct img base, top, *level = NULL;
	struct img_extent_cache e = { 0 };
	struct img_extent x = { .kind = IMG_DATA }, out;
	uint64_t len = 4096, version;

	open_image(&base, &units, 65536);
	open_image(&top, &units, 65536);
	cr_assert_eq(img_engine_set_parent(&top, &base), 0);
	version = version_of(&top, 0) + version_of(&base, 0);
	img_extent_cache_keep(&e, &top, version, 0, 65536, &x, &base);
	cr_assert(img_extent_cache_find(&e, &top, 0, &len, &out, &level));
	cr_assert_eq(level, &base);
	cr_assert(!img_extent_cache_find(&e, &base, 0, &len, &out, &level), "of the top one only");
	changed(&base, 0, 65536);
	cr_assert(!img_extent_cache_find(&e, &top, 0, &len, &out, &level));
	img_extent_cache_keep(&e, &top, version_of(&top, 0), 0, 65536, &x, &top);
	changed(&base, 0, 65536);
	cr_assert(img_extent_cache_find(&e, &top, 0, &len, &out, &level), "it was not asked");

	/* an image that is not below any more is not looked at */
	version = version_of(&top, 0) + version_of(&base, 0);
	img_extent_cache_keep(&e, &top, version, 0, 65536, &x, &base);
	cr_assert_eq(img_engine_set_parent(&top, NULL), 0);
	cr_assert(!img_extent_cache_find(&e, &top, 0, &len, &out, &level));
	img_engine_free(&top);
	img_engine_free(&base);
}

Test(extents, end_where_what_is_known_of_changes_ends)
{
	struct img img, *level;
	struct img_extent_cache e = { 0 };
	struct img_extent x = { .kind = IMG_DATA }, out;
	uint64_t len = 64 << 20;

	open_image(&img, &plain, 512);
	img_extent_cache_keep(&e, &img, version_of(&img, 0), 4096, 64 << 20, &x, &img);
	cr_assert(img_extent_cache_find(&e, &img, 4096, &len, &out, &level));
	cr_assert_eq(len, (16 << 20) - 4096);
	img_engine_free(&img);
}

Test(extents, compressed_units_are_not_kept)
{
	struct img img, *level;
	struct img_extent_cache e = { 0 };
	struct img_extent x = { .kind = IMG_COMPRESSED }, out;
	uint64_t len = 4096;

	open_image(&img, &plain, 512);
	img_extent_cache_keep(&e, &img, version_of(&img, 0), 0, 65536, &x, &img);
	cr_assert(!img_extent_cache_find(&e, &img, 0, &len, &out, &level));
	img_engine_free(&img);
}

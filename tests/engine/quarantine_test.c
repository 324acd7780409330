/* Quarantine by itself: when what was unlinked is given back. */
#include "tests/engine/parts.h"

enum {
	GONE = 65536, /* what is freed lies here */
};

static int release(struct parts *p)
{
	return img_quarantine_release(p->img.engine, NULL);
}

Test(quarantine, ends_when_the_unlinking_is_durable_not_before)
{
	struct parts *p = parts_new(false);

	parts_free_later(p, GONE);
	cr_assert_eq(release(p), 0);
	cr_assert_eq(p->releases, 0, "unlinked in memory");
	cr_assert_eq(img_writeout(p->img.engine, false, NULL), 0);
	cr_assert_eq(release(p), 0);
	cr_assert_eq(p->releases, 0, "written");
	cr_assert(img_quarantine_pending(p->img.engine));
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 1, "durable");
	cr_assert_eq(p->released[0], GONE);
	cr_assert(!img_quarantine_pending(p->img.engine));
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 1, "once");
	parts_free(p);
}

/* While a table is written another is changed, and what it named is freed. */
static int free_meanwhile(struct watch *w, const struct watch_entry *e)
{
	struct parts *p = w->user;

	if (e->op == IMG_IO_WRITE && w->a && --w->a == 0)
		parts_free_later(p, GONE);
	return 0;
}

Test(quarantine, what_is_freed_during_a_writeout_waits_for_the_next)
{
	struct parts *p = parts_new(false);

	parts_set(p, 0, 0, 1, IMG_RANK_MAPPING);
	p->watch.user = p;
	p->watch.a = 1;
	p->watch.before = free_meanwhile;
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 0, "its unlinking is in memory only");
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 1);
	parts_free(p);
}

static int fail_syncs(struct watch *w, const struct watch_entry *e)
{
	return w->a && e->op == IMG_IO_SYNC ? -EIO : 0;
}

Test(quarantine, goes_on_when_the_sync_fails)
{
	struct parts *p = parts_new(false);

	parts_set(p, 0, 0, 1, IMG_RANK_MAPPING);
	parts_free_later(p, GONE);
	p->watch.a = 1;
	p->watch.before = fail_syncs;
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), -EIO);
	cr_assert_eq(p->releases, 0);
	p->watch.a = 0;
	cr_assert_eq(release(p), 0);
	cr_assert_eq(p->releases, 0);
	parts_free(p);
}

static int fail_writes(struct watch *w, const struct watch_entry *e)
{
	return w->a && e->op == IMG_IO_WRITE ? -ENOSPC : 0;
}

Test(quarantine, goes_on_when_the_unlinking_cannot_be_written)
{
	struct parts *p = parts_new(false);

	parts_set(p, 0, 0, 1, IMG_RANK_MAPPING);
	parts_free_later(p, GONE);
	p->watch.a = 1;
	p->watch.before = fail_writes;
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), -ENOSPC);
	cr_assert_eq(release(p), 0);
	cr_assert_eq(p->releases, 0);
	p->watch.a = 0;
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 1);
	parts_free(p);
}

Test(quarantine, lasts_as_long_as_a_reader_that_started_before)
{
	struct parts *p = parts_new(false);
	struct img_epoch_domain *image = &p->img.engine->epochs;
	struct img_queue_epochs queue = { 0 };
	struct img_epoch_readers *readers;
	struct img_reader before, after;

	img_queue_epochs_init(&queue);
	readers = img_epoch_readers_new(&queue, image);
	parts_free_later(p, GONE);
	img_reader_start(readers, &before);
	parts_free_later(p, GONE + 4096);
	img_reader_start(readers, &after);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 1, "the reader started when the first was gone");
	cr_assert_eq(p->released[0], GONE);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 1, "it still reads");
	img_reader_end(readers, &before);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 2, "who started later does not matter");
	cr_assert_eq(p->released[1], GONE + 4096);
	img_reader_end(readers, &after);
	img_queue_epochs_destroy(&queue);
	parts_free(p);
}

Test(quarantine, what_was_looked_up_before_is_not_true_after)
{
	struct parts *p = parts_new(false);
	uint64_t before = p->img.engine->reused;

	parts_free_later(p, GONE);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 1);
	cr_assert_neq(p->img.engine->reused, before);
	parts_free(p);
}

Test(quarantine, with_unmap_only_the_last_use_is_punched)
{
	struct parts *p = parts_new(false);

	parts_free_later(p, GONE);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->last_uses, 0, "nobody wants it punched");
	p->img.unmap = true;
	parts_free_later(p, GONE);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->last_uses, 1);
	cr_assert_eq(watch_count(&p->watch, 0, 0, IMG_IO_PUNCH), 0, "others use it");
	p->last = true;
	parts_free_later(p, GONE);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(watch_count(&p->watch, 0, 0, IMG_IO_PUNCH), 1);
	cr_assert_eq(p->watch.entry[watch_find(&p->watch, 0, 0, GONE, 4096)].len, 4096);
	cr_assert_eq(p->releases, 3);
	parts_free(p);
}

Test(quarantine, settling_writes_what_releasing_changed)
{
	struct parts *p = parts_new(false);

	p->release_edits = true;
	for (unsigned i = 0; i < 3; i++)
		parts_free_later(p, GONE + i * 4096u);
	cr_assert_eq(img_writeout_drain(p->img.engine, false, NULL), 0);
	cr_assert_eq(p->releases, 3);
	cr_assert_eq(parts_on_disk(p, 0, 0), 3);
	cr_assert(!watch_unsynced(&p->watch, p->watch.n, 0));
	img_writeout_resume(p->img.engine);
	parts_free(p);
}

Test(quarantine, a_failed_release_is_said)
{
	struct parts *p = parts_new(false);

	p->release_rc = -EIO;
	parts_free_later(p, GONE);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), -EIO);
	parts_free(p);
}

Test(quarantine, reserved_room_is_enough_at_every_stage)
{
	struct parts *p = parts_new(false);
	struct img_epoch_domain *image = &p->img.engine->epochs;
	struct img_queue_epochs queue = { 0 };
	struct img_epoch_readers *readers;
	struct img_reader reader;

	img_queue_epochs_init(&queue);
	readers = img_epoch_readers_new(&queue, image);
	img_reader_start(readers, &reader);
	for (unsigned i = 0; i < 1000; i++) {
		parts_free_later(p, GONE);
		if (i % 7 == 0)
			cr_assert_eq(img_writeout(p->img.engine, i % 2, NULL), 0);
		cr_assert_leq(p->img.engine->freed_durable.n, p->img.engine->freed_durable.max);
		cr_assert_leq(p->img.engine->freed_written.n, p->img.engine->freed_written.max);
	}
	cr_assert_eq(p->releases, 0);
	cr_assert_eq(p->img.engine->freed_reserved, 0);
	img_reader_end(readers, &reader);
	cr_assert_eq(img_writeout(p->img.engine, true, NULL), 0);
	cr_assert_eq(p->releases, 1000);
	img_queue_epochs_destroy(&queue);
	parts_free(p);
}

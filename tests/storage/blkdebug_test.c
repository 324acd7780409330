/*
 * Requests that fail by rules.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/storage/module.h"
#include "tests/support/scratch.h"

enum { MAX_ITEMS = 16 };

/* items: "key=value" of inject-error and set-state, NULL at the end. */
static int open_with(const char *config, const char *const *items, struct img_storage **out,
		     struct img_error *err)
{
	const struct img_module *m = img_module_named("blkdebug");
	struct img_options *o = img_options_new(m->options);
	struct img_module_item list[MAX_ITEMS];
	struct img_module_opening opening = { .options = o, .items = list };
	char *copies[MAX_ITEMS];
	size_t n;
	int rc;

	for (n = 0; items[n]; n++) {
		char *copy = strdup(items[n]), *value = strchr(copy, '=');

		*value = '\0';
		copies[n] = copy;
		list[n] = (struct img_module_item){ copy, value + 1 };
	}
	opening.item_count = n;
	if (config)
		cr_assert_eq(img_options_set(o, "config", config, NULL), 0);
	cr_assert_eq(img_storage_memory("m", 1 << 20, 1 << 20, &opening.inner), 0);
	rc = m->open(&opening, out, err);
	if (rc)
		img_storage_close(opening.inner);
	while (n)
		free(copies[--n]);
	img_options_free(o);
	return rc;
}

static struct img_storage *debugged(const char *config, const char *const *items)
{
	struct img_storage *s = NULL;
	struct img_error err = { 0 };

	cr_assert_eq(open_with(config, items, &s, &err), 0, "%s", img_error_text(&err));
	return s;
}

static void done(struct img_io *io)
{
	(void)io;
}

/* Both ways to ask; what they answer must be the same unless a rule goes with use. */
static int ask(struct img_storage *s, enum img_io_op op, uint64_t off, uint64_t len, bool queued)
{
	static uint8_t bytes[65536];
	struct iovec iov = { bytes, len };
	struct img_io io = { .storage = s,
			     .op = op,
			     .iov = &iov,
			     .iovcnt = 1,
			     .off = off,
			     .len = len,
			     .done = done };
	struct img_ioq *q = NULL;

	if (!queued)
		return img_storage_io(s, op, &iov, 1, off, len, 0);
	cr_assert_eq(img_ioq_new(IMG_IO_THREADS, &q, NULL), 0);
	img_ioq_submit(q, &io);
	img_ioq_run(q, true);
	img_ioq_free(q);
	return io.rc;
}

Test(blkdebug, by_event_kind_and_sector)
{
	static const char *const rules[] = {
		"inject-error.0.event=none",
		"inject-error.0.iotype=discard",
		"inject-error.0.errno=28",
		"inject-error.1.event=read_aio",
		"inject-error.1.sector=16",
		"inject-error.2.event=flush_to_disk",
		"inject-error.2.errno=5",
		"inject-error.2.immediately=on",
		NULL,
	};
	struct img_storage *s = debugged(NULL, rules);

	for (int queued = 0; queued < 2; queued++) {
		cr_assert_eq(ask(s, IMG_IO_WRITE, 0, 65536, queued), 0);
		cr_assert_eq(ask(s, IMG_IO_PUNCH, 0, 512, queued), -ENOSPC);
		cr_assert_eq(ask(s, IMG_IO_ZERO, 0, 512, queued), 0);
		cr_assert_eq(ask(s, IMG_IO_READ, 0, 16 * 512, queued), 0);
		cr_assert_eq(ask(s, IMG_IO_READ, 0, 16 * 512 + 1, queued), -EIO);
		cr_assert_eq(ask(s, IMG_IO_READ, 17 * 512 - 1, 10, queued), -EIO);
		cr_assert_eq(ask(s, IMG_IO_READ, 17 * 512, 512, queued), 0);
		cr_assert_eq(ask(s, IMG_IO_SYNC, 0, 0, queued), -EIO);
		cr_assert(atomic_load(&s->unsynced));
	}
	img_storage_close(s);
}

Test(blkdebug, once_and_by_state)
{
	static const char *const once[] = { "inject-error.0.event=write_aio", "inject-error.0.once=on",
					    NULL };
	static const char *const states[] = {
		"set-state.0.event=write_aio",
		"set-state.0.state=1",
		"set-state.0.new_state=2",
		"inject-error.0.event=read_aio",
		"inject-error.0.state=2",
		NULL,
	};
	struct img_storage *s = debugged(NULL, once);

	cr_assert_eq(ask(s, IMG_IO_WRITE, 0, 512, false), -EIO);
	cr_assert_eq(ask(s, IMG_IO_WRITE, 0, 512, false), 0);
	img_storage_close(s);
	s = debugged(NULL, states);
	cr_assert_eq(ask(s, IMG_IO_READ, 0, 512, true), 0);
	cr_assert_eq(ask(s, IMG_IO_WRITE, 0, 512, true), 0);
	cr_assert_eq(ask(s, IMG_IO_READ, 0, 512, true), -EIO);
	img_storage_close(s);
}

static void write_text(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	cr_assert(f && fputs(text, f) >= 0);
	fclose(f);
}

Test(blkdebug, a_file_of_rules)
{
	static const char *const none[] = { NULL };
	char path[SCRATCH_PATH];
	struct img_storage *s = NULL;
	struct img_error err = { 0 };

	cr_assert(scratch_name(path, "blkdebug"));
	close(mkstemp(path));
	write_text(path, "# rules\n[inject-error]\nevent = \"write_aio\"\nerrno = \"28\"\n\n"
			 "[set-state]\n  event = \"read_aio\"\nnew_state = 7\n"
			 "[inject-error]\nevent=\"flush_to_disk\"\nstate=\"7\"\n");
	s = debugged(path, none);
	cr_assert_eq(ask(s, IMG_IO_WRITE, 0, 512, false), -ENOSPC);
	cr_assert_eq(ask(s, IMG_IO_SYNC, 0, 0, false), 0);
	cr_assert_eq(ask(s, IMG_IO_READ, 0, 512, false), 0);
	cr_assert_eq(ask(s, IMG_IO_SYNC, 0, 0, false), -EIO);
	img_storage_close(s);
	write_text(path, "[inject-error]\nevent\n");
	cr_assert_eq(open_with(path, none, &s, &err), -EINVAL);
	cr_assert(strstr(img_error_text(&err), "line 2"), "%s", img_error_text(&err));
	img_error_clear(&err);
	unlink(path);
	cr_assert_eq(open_with(path, none, &s, NULL), -ENOENT);
}

Test(blkdebug, rules_that_are_refused)
{
	static const char *const rows[][2] = {
		{ "inject-error.0.event=l2_update", "l2_update" },
		{ "inject-error.0.errno=5", "no event" },
		{ "inject-error.0.errno=0", "errno" },
		{ "inject-error.0.iotype=bite", "bite" },
		{ "inject-error.x.event=none", "expected a number below" },
		{ "inject-error.5000.event=none", "expected a number below" },
		{ "inject-error.0.frob=1", "frob" },
		{ "set-state.0.event=none", "new_state" },
		{ "set-state.0.errno=5", "errno" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		const char *const items[] = { rows[i][0], NULL };
		struct img_storage *s = NULL;
		struct img_error err = { 0 };

		cr_assert_eq(open_with(NULL, items, &s, &err), -EINVAL, "%s", rows[i][0]);
		cr_assert(strstr(img_error_text(&err), rows[i][1]), "%s: %s", rows[i][0],
			  img_error_text(&err));
		img_error_clear(&err);
	}
}

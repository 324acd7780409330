/*
 * Commit and rebase, as those who call the library can go wrong with them.
 */
#include "tests/image/folder.h"

enum { SIZE = 1 << 20 };

static void write_pattern(const char *name, uint64_t off, int value)
{
	struct img *img = must_open(name, "qcow2", IMG_OPEN_WRITE);
	static uint8_t bytes[4096];

	memset(bytes, value, sizeof(bytes));
	cr_assert_eq(img_write(img, off, bytes, sizeof(bytes), NULL), 0);
	must_close(img);
}

static void setup(void)
{
	folder_make();
	make_image("base.qcow2", "qcow2", SIZE, NULL, NULL);
	make_image("other.qcow2", "qcow2", SIZE, NULL, NULL);
	write_pattern("base.qcow2", 0, 1);
	make_image("top.qcow2", "qcow2", 0, "base.qcow2", "qcow2");
	write_pattern("top.qcow2", 65536, 2);
}

TestSuite(commit, .init = setup, .fini = folder_remove, .timeout = 30);

/* Nothing is written, there or here. */
Test(commit, base_of_another_chain)
{
	struct img *top, *other;
	struct img_error *err = img_error_new();

	run("cp other.qcow2 other.kept; cp top.qcow2 top.kept; cp base.qcow2 base.kept");
	top = must_open("top.qcow2", "qcow2", IMG_OPEN_WRITE);
	other = must_open("other.qcow2", "qcow2", 0);
	cr_assert_eq(img_commit(top, &(struct img_commit_options){ .base = other }, err), -EINVAL);
	cr_assert_not_null(strstr(img_error_text(err), "other.qcow2"), "%s", img_error_text(err));
	cr_assert_eq(img_commit(top, &(struct img_commit_options){ .base = top }, err), -EINVAL);
	img_error_free(err);
	must_close(top);
	must_close(other);
	run("cmp other.qcow2 other.kept && cmp top.qcow2 top.kept && cmp base.qcow2 base.kept");
}

/* To be dropped, so it is not worth emptying: it has its data still. */
Test(commit, kept)
{
	struct img *top = must_open("top.qcow2", "qcow2", IMG_OPEN_WRITE);
	struct img_map_entry e;

	cr_assert_eq(img_commit(top, &(struct img_commit_options){ .keep = true }, NULL), 0);
	cr_assert_eq(img_map(top, 65536, 4096, true, &e, NULL), 0);
	cr_assert(e.data && e.depth == 0, "depth %u", e.depth);
	cr_assert_eq(img_commit(top, NULL, NULL), 0);
	cr_assert_eq(img_map(top, 65536, 4096, true, &e, NULL), 0);
	cr_assert(e.data && e.depth == 1, "depth %u", e.depth);
	must_close(top);
}

/* What lies between still hides the base: top keeps all it has. */
Test(commit, past_its_parent)
{
	struct img *top, *base;
	uint8_t byte;

	make_image("last.qcow2", "qcow2", 0, "top.qcow2", "qcow2");
	write_pattern("last.qcow2", 65536, 3);
	top = must_open("last.qcow2", "qcow2", IMG_OPEN_WRITE);
	base = img_find_backing(top, "base.qcow2");
	cr_assert_not_null(base);
	cr_assert_eq(img_commit(top, &(struct img_commit_options){ .base = base }, NULL), 0);
	cr_assert_eq(img_read(top, 65536, &byte, 1, NULL), 0);
	cr_assert_eq(byte, 3);
	must_close(top);
}

/* On itself, or on what is built on it. */
Test(commit, rebased_on_itself)
{
	const char *const names[] = { "base.qcow2", "top.qcow2" };
	struct img *base = must_open("base.qcow2", "qcow2", IMG_OPEN_WRITE | IMG_OPEN_NO_LOCK);
	struct img_error *err = img_error_new();

	for (size_t i = 0; i < COUNT(names); i++) {
		struct img_rebase_options o = {
			.backing = names[i],
			.format = "qcow2",
			.backing_flags = IMG_OPEN_SHARE | IMG_OPEN_NO_LOCK,
		};

		cr_assert_eq(img_rebase(base, &o, err), -ELOOP, "%s: %s", names[i],
			     img_error_text(err));
	}
	img_error_free(err);
	must_close(base);
}

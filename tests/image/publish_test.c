/* A new image gets its name when all of it is durable, the main file last; or none at all. */
#include "formats/qcow2/qcow2_state.h"
#include "formats/vmdk/vmdk_state.h"
#include "tests/formats/watched.h"
#include "tests/support/scratch.h"

enum {
	FILES = 3,
};

struct made {
	struct folder f;
	struct img *img;
};

/* Begin an image with as many further files as the format has; file 0 is the main one. */
static struct made *begin(const char *format, const char *options, uint64_t size)
{
	struct img_create_options how = { .format = format,
					  .have_size = true,
					  .size = size,
					  .options = (const char *[]){ options, NULL },
					  .io = IMG_IO_THREADS };
	struct made *m = calloc(1, sizeof(*m));
	struct img_error *err = img_error_new();

	cr_assert_not_null(m);
	cr_assert(scratch_make(m->f.dir, "publish"));
	snprintf(m->f.path, sizeof(m->f.path), "%s/image.%s", m->f.dir, format);
	cr_assert_eq(img_create_begin(m->f.path, &how, &m->img, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	return m;
}

static void watch_main(struct made *m)
{
	m->img->file = watched(&m->f.watch, 0, m->img->file);
}

static void remove_all(struct made *m)
{
	cr_assert(scratch_remove(m->f.dir));
	free(m);
}

static size_t published(const struct watch *w, unsigned file)
{
	for (size_t i = 0; i < w->n; i++)
		if (w->entry[i].file == file && w->entry[i].op == WATCH_PUBLISH)
			return i;
	return w->n;
}

Test(publish, comes_when_all_is_durable)
{
	struct made *m = begin("raw", NULL, 1 << 20);
	size_t name;

	watch_main(m);
	write_bytes(m->img, 4096, 7, 4096, 0);
	cr_assert_eq(img_publish(m->img, NULL), 0);
	name = published(&m->f.watch, 0);
	cr_assert_lt(name, m->f.watch.n);
	cr_assert_lt(watch_find(&m->f.watch, 0, 0, 4096, 4096), name);
	cr_assert(!watch_unsynced(&m->f.watch, name, 0));
	cr_assert_eq(access(m->f.path, F_OK), 0);
	close_sound(m->img);
	remove_all(m);
}

/* What create() itself wrote, and what the cache holds. */
Test(publish, has_the_metadata_written)
{
	struct made *m = begin("qcow2", "cluster_size=4k", 1 << 20);
	struct qcow2 *q = m->img->state;
	size_t name;

	watch_main(m);
	q->data = m->img->file;
	write_bytes(m->img, 4096, 7, 4096, 0);
	cr_assert_eq(img_publish(m->img, NULL), 0);
	name = published(&m->f.watch, 0);
	cr_assert_lt(watch_find(&m->f.watch, 0, 0, q->header.l1_off, 8), name);
	cr_assert(!watch_unsynced(&m->f.watch, name, 0));
	close_sound(m->img);
	remove_all(m);
}

/* Even if nothing was written after it was made. */
Test(publish, syncs_what_was_made)
{
	struct made *m = begin("qcow2", "cluster_size=4k", 1 << 20);

	watch_main(m);
	cr_assert_eq(img_publish(m->img, NULL), 0);
	cr_assert_gt(watch_count(&m->f.watch, 0, 0, IMG_IO_SYNC), 0);
	cr_assert_neq(m->f.watch.entry[0].op, WATCH_PUBLISH);
	close_sound(m->img);
	remove_all(m);
}

/* The extents of a disk, as files 1 and up. */
static void watch_extents(struct made *m)
{
	struct vmdk *vmdk = m->img->state;

	watch_main(m);
	cr_assert_eq(vmdk->file_count, FILES);
	cr_assert_eq(m->img->context->created_count, FILES);
	for (unsigned i = 0; i < FILES; i++)
		for (unsigned k = 0; k < FILES; k++)
			if (m->img->context->created[k].storage == vmdk->files[i].storage) {
				vmdk->files[i].storage =
					watched(&m->f.watch, i + 1, vmdk->files[i].storage);
				m->img->context->created[k].storage = vmdk->files[i].storage;
				break;
			}
}

Test(publish, gives_the_main_file_its_name_last)
{
	struct made *m = begin("vmdk", "subformat=twoGbMaxExtentSparse", UINT64_C(5) << 30);
	const struct watch *w = &m->f.watch;
	size_t name;

	watch_extents(m);
	write_bytes(m->img, UINT64_C(3) << 30, 7, 65536, 0);
	cr_assert_eq(img_publish(m->img, NULL), 0);
	name = published(w, 0);
	cr_assert_lt(name, w->n);
	for (unsigned i = 0; i <= FILES; i++) {
		cr_assert(!watch_unsynced(w, published(w, i), i), "file %u", i);
		cr_assert_gt(watch_count(w, 0, i, IMG_IO_SYNC), 0, "file %u", i);
		if (i)
			cr_assert_lt(published(w, i), name, "file %u", i);
	}
	close_sound(m->img);
	remove_all(m);
}

static int fail_some(struct watch *w, const struct watch_entry *e)
{
	return e->op == w->a && e->file == w->b ? -ENOSPC : 0;
}

static unsigned names_in(const char *dir)
{
	char command[120];
	unsigned n = 0;
	FILE *p;

	snprintf(command, sizeof(command), "ls -A %s | wc -l", dir);
	p = popen(command, "r");
	cr_assert(p && fscanf(p, "%u", &n) == 1);
	pclose(p);
	return n;
}

Test(publish, that_fails_leaves_no_name)
{
	static const unsigned op[] = { IMG_IO_SYNC, WATCH_PUBLISH };

	for (unsigned i = 0; i < 2 * (FILES + 1); i++) {
		struct made *m = begin("vmdk", "subformat=twoGbMaxExtentSparse", UINT64_C(5) << 30);

		watch_extents(m);
		m->f.watch.a = op[i % 2];
		m->f.watch.b = i / 2;
		m->f.watch.before = fail_some;
		cr_assert_eq(img_publish(m->img, NULL), -ENOSPC);
		cr_assert_neq(access(m->f.path, F_OK), 0);
		img_close(m->img, NULL);
		cr_assert_eq(names_in(m->f.dir), 0, "round %u", i);
		remove_all(m);
	}
}

Test(publish, that_cannot_write_metadata_fails)
{
	struct made *m = begin("qcow2", "cluster_size=4k", 1 << 20);
	struct qcow2 *q = m->img->state;

	watch_main(m);
	q->data = m->img->file;
	write_bytes(m->img, 4096, 7, 4096, 0);
	m->f.watch.a = IMG_IO_WRITE;
	m->f.watch.before = fail_some;
	cr_assert_eq(img_publish(m->img, NULL), -ENOSPC);
	cr_assert_eq(published(&m->f.watch, 0), m->f.watch.n);
	cr_assert_neq(access(m->f.path, F_OK), 0);
	img_close(m->img, NULL);
	remove_all(m);
}

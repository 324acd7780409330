/*
 * Files that were cut short: what is missing is an error, never zeroes; and what a writer leaves at the
 * end of a file is no such thing.
 */
#include "libimg/base/arith.h"
#include "libimg/engine/engine.h"
#include "libimg/engine/request.h"
#include "tests/formats/qcow2/memory.h"

enum { SIZE = 300 << 10 }; /* no multiple of the larger clusters */

static const char *const kinds[] = {
	"cluster_size=512",
	"cluster_size=4k,compat=0.10",
	"cluster_size=64k",
	"cluster_size=16k,extended_l2=on",
	"cluster_size=4k,compression_type=zstd",
	"cluster_size=16k,preallocation=metadata",
};

static int write_at(struct img *img, uint64_t off, uint8_t *data, uint64_t len, bool compress,
		    struct img_error *err)
{
	struct iovec iov = { data, len };
	struct img_request r = {
		.kind = IMG_REQUEST_WRITE,
		.compress = compress,
		.off = off,
		.len = len,
		.iov = &iov,
		.iovcnt = 1,
	};

	return img_request_run(img, &r, err);
}

static struct file make_image(struct bench *b, const char *options, bool compress, bool close)
{
	const char *list[] = { options, NULL };
	struct img_create_options how = {
		.format = "qcow2",
		.have_size = true,
		.size = SIZE,
		.options = list,
	};
	struct img_error *err = img_error_new();
	struct file f;
	struct img *img;

	start(b, 3, SIZE);
	cr_assert_eq(img_create(b->image, &how, err), 0, "%s", img_error_text(err));
	img = open_image(b, IMG_OPEN_WRITE);
	random_bytes(b, b->model, SIZE / 4);
	random_bytes(b, b->model + SIZE * 3 / 4 / 512 * 512, 5120);
	random_bytes(b, b->model + SIZE - 1024, 1024);
	for (uint64_t at = 0, step = compress ? b->unit : 2048; at < SIZE; at += step) {
		uint64_t len = min_u64(step, SIZE - at);
		bool zero = true;

		for (uint64_t i = 0; zero && i < len; i++)
			zero = !b->model[at + i];
		if (!zero)
			cr_assert_eq(write_at(img, at, b->model + at, len, compress, err), 0, "%s",
				     img_error_text(err));
	}
	cr_assert_eq(img_flush(img, err), 0, "%s", img_error_text(err));
	if (close)
		cr_assert_eq(img_close(img, err), 0, "%s", img_error_text(err));
	f = load_file(b->image);
	if (!close)
		img_close(img, NULL);
	img_error_free(err);
	return f;
}

/* 0: the content is there; else what opening or reading it fails with. */
static int read_all(const struct bench *b, const struct file *f)
{
	struct img_open_options options = { .format = "qcow2" };
	struct img_error *err = img_error_new();
	uint8_t *content = malloc(SIZE);
	struct img *img = NULL;
	int rc = img_open_storage(in_memory(f), "memory.qcow2", &options, &img, err);

	cr_assert(content);
	if (!rc)
		rc = img_read(img, 0, content, SIZE, err);
	if (!rc)
		cr_assert(!memcmp(content, b->model, SIZE), "other content, and no error: %" PRIu64 " bytes", f->len);
	else
		cr_assert(*img_error_text(err));
	if (img)
		img_close(img, NULL);
	free(content);
	img_error_free(err);
	return rc;
}

Test(qcow2_cut, missing_data_is_an_error, .timeout = 120)
{
	for (size_t i = 0; i < IMG_ARRAY_LEN(kinds) * 2; i++) {
		struct bench b;
		struct file f = make_image(&b, kinds[i / 2], i % 2, true);
		uint64_t whole = f.len, least = whole;

		cr_assert_eq(read_all(&b, &f), 0, "%s", kinds[i / 2]);
		for (uint64_t cut = 1; cut < whole; cut += cut < 2048 ? 73 : 509) {
			f.len = whole - cut;
			if (!read_all(&b, &f))
				least = f.len;
		}
		/* Nearly all of the file is needed. */
		cr_assert_gt(least, whole * 2 / 3, "%s: %" PRIu64 " of %" PRIu64, kinds[i / 2],
			     least, whole);
		free(f.bytes);
		finish(&b);
	}
}

/* What was flushed is there, however the program ended: new clusters too that end in zeroes. */
Test(qcow2_cut, writer_that_was_killed)
{
	for (size_t i = 0; i < IMG_ARRAY_LEN(kinds) * 2; i++) {
		struct bench b;
		struct file f = make_image(&b, kinds[i / 2], i % 2, false);

		cr_assert_eq(read_all(&b, &f), 0, "%s", kinds[i / 2]);
		free(f.bytes);
		finish(&b);
	}
}

/* What was read before the end is still read: the rest of the same table or run is not. */
Test(qcow2_cut, what_is_left_is_read)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=64k", false, true);
	struct img *img;
	uint8_t content[4096];
	struct img_map_entry e;

	f.len -= 1536; /* of the last cluster, which the disk's end needs only 44 KiB of */
	cr_assert_eq(read_all(&b, &f), 0);
	img = open_image(&b, 0);
	cr_assert_eq(img_map(img, 0, SIZE, false, &e, NULL), 0);
	close_image(img);
	cr_assert(e.has_offset);
	f.len = e.offset + 10000; /* the first data cluster, cut */
	img = open_memory(in_memory(&f), IMG_OPEN_CHECK);
	cr_assert_eq(img_read(img, 0, content, 4096, NULL), 0);
	cr_assert(!memcmp(content, b.model, 4096));
	cr_assert_eq(img_read(img, 9728, content, 1024, NULL), -EUCLEAN);
	cr_assert_eq(img_read(img, 20000, content, 1, NULL), -EUCLEAN);
	img_close(img, NULL);
	free(f.bytes);
	finish(&b);
}

/* Written to, the file would grow, and what is missing would be zeroes. */
Test(qcow2_cut, is_not_written_to)
{
	for (size_t i = 0; i < IMG_ARRAY_LEN(kinds) * 2; i++) {
		struct img_open_options options = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
		struct bench b;
		struct file f = make_image(&b, kinds[i / 2], i % 2, true);
		uint64_t whole = f.len;

		for (uint64_t cut = 1; cut < whole; cut += 1777) {
			struct img *img = NULL;

			f.len = whole - cut;
			if (!read_all(&b, &f))
				continue;
			cr_assert_eq(img_open_storage(in_memory(&f), "memory.qcow2", &options, &img,
						      NULL),
				     -EUCLEAN, "%s, %" PRIu64 " bytes cut off", kinds[i / 2], cut);
		}
		free(f.bytes);
		finish(&b);
	}
}

/* A check finds it, and says nothing of a file that is whole. */
Test(qcow2_cut, is_found_by_a_check)
{
	for (size_t i = 0; i < IMG_ARRAY_LEN(kinds) * 2; i++) {
		struct bench b;
		struct file f = make_image(&b, kinds[i / 2], i % 2, true);
		uint64_t whole = f.len;

		for (uint64_t cut = 0; cut < whole; cut += 733) {
			struct img_open_options options = { .format = "qcow2",
							    .flags = IMG_OPEN_CHECK };
			struct img_check_result r = { 0 };
			struct img *img = NULL;
			bool sound, there;
			int rc;

			f.len = whole - cut;
			rc = img_open_storage(in_memory(&f), "memory.qcow2", &options, &img, NULL);
			if (!rc)
				rc = img_check(img, 0, NULL, NULL, &r, NULL);
			if (img)
				img_close(img, NULL);
			sound = !rc && !r.corruptions && !r.check_errors;
			there = !read_all(&b, &f);
			cr_assert(there || !sound, "%s, %" PRIu64 " bytes cut off", kinds[i / 2],
				  cut);
			cr_assert(cut || sound, "%s", kinds[i / 2]);
		}
		free(f.bytes);
		finish(&b);
	}
}

static void repair(struct file *f, unsigned how, struct img_check_result *r)
{
	struct img_open_options options = { .format = "qcow2",
					    .flags = IMG_OPEN_CHECK | IMG_OPEN_WRITE };
	struct img_storage *s = in_memory(f);
	struct img *img = NULL;

	cr_assert_eq(img_open_storage(s, "memory.qcow2", &options, &img, NULL), 0);
	cr_assert_eq(img_check(img, how, NULL, NULL, r, NULL), 0);
	free(f->bytes);
	f->len = s->size;
	f->bytes = malloc(f->len);
	cr_assert_eq(img_storage_read(s, 0, f->bytes, f->len, NULL), 0);
	img_close(img, NULL);
}

/* What is lost stays an error, unless the loss is accepted. */
Test(qcow2_cut, repair_asks_twice)
{
	struct img_check_result r;
	struct bench b;
	struct file f = make_image(&b, "cluster_size=4k", false, true);
	uint8_t *content = calloc(1, SIZE);
	uint64_t same = 0;
	struct img *img;

	f.len -= 6000;
	repair(&f, IMG_REPAIR_ALL, &r);
	cr_assert_gt(r.corruptions, 0);
	cr_assert_eq(read_all(&b, &f), -EUCLEAN);
	repair(&f, IMG_REPAIR_ALL | IMG_REPAIR_LOSS, &r);
	cr_assert(!r.corruptions && !r.leaks && !r.check_errors);
	img = open_memory(in_memory(&f), IMG_OPEN_WRITE);
	cr_assert_eq(img_read(img, 0, content, SIZE, NULL), 0);
	for (uint64_t at = 0; at < SIZE; at += 512) {
		if (!memcmp(content + at, b.model + at, 512))
			same++;
		else
			for (uint64_t i = at; i < at + 512; i++)
				cr_assert_eq(content[i], 0);
	}
	cr_assert(same >= SIZE / 512 - 8192 / 512 && same < SIZE / 512);
	img_close(img, NULL);
	if (have_qemu()) {
		write_file(b.image, f.bytes, f.len);
		run(&b, "qemu-img check -q image.qcow2");
	}
	free(content);
	free(f.bytes);
	finish(&b);
}

/* No repair makes zeroes of what is lost: not by a longer file, wherever new tables would go. */
Test(qcow2_cut, repair_makes_no_zeroes, .timeout = 120)
{
	for (size_t i = 0; i < IMG_ARRAY_LEN(kinds) * 2; i++) {
		struct bench b;
		struct file f = make_image(&b, kinds[i / 2], i % 2, true);
		uint64_t step = f.len / 25 / 512 * 512 + 333;

		for (uint64_t cut = step; cut < f.len - 512; cut += step) {
			struct file g = { .bytes = malloc(f.len), .len = f.len - cut };
			struct img_open_options options = { .format = "qcow2",
							    .flags = IMG_OPEN_CHECK |
								     IMG_OPEN_WRITE };
			struct img_check_result r = { 0 };
			struct img_storage *s;
			struct img *img = NULL;
			bool there;

			memcpy(g.bytes, f.bytes, f.len);
			there = !read_all(&b, &g);
			s = in_memory(&g);
			if (!img_open_storage(s, "memory.qcow2", &options, &img, NULL)) {
				img_check(img, IMG_REPAIR_ALL, NULL, NULL, &r, NULL);
				img_engine_finish(img, NULL);
				free(g.bytes);
				g.len = s->size;
				g.bytes = malloc(g.len);
				cr_assert_eq(img_storage_read(s, 0, g.bytes, g.len, NULL), 0);
				cr_assert(there || read_all(&b, &g), "%s, %" PRIu64 " cut off",
					  kinds[i / 2], cut);
				img_close(img, NULL);
			}
			free(g.bytes);
		}
		free(f.bytes);
		finish(&b);
	}
}

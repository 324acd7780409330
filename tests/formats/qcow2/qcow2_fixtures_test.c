/*
 * Images that QEMU made (tests/data/qcow2), of each kind: they read as qemu-img reads them, are as
 * sound, and stay so when they are written to. No qemu-img is needed.
 */
#include <openssl/evp.h>

#include "tests/formats/qcow2/fixtures.h"

static struct img *open_fixture(struct bench *b, const char *name, unsigned flags)
{
	struct img_open_options options = { .format = "qcow2", .flags = flags };
	struct img_error *err = img_error_new();
	struct img *img = NULL;
	char path[200];
	int rc;

	snprintf(path, sizeof(path), "%s/%s.qcow2", b->dir, name);
	rc = img_open(path, &options, &img, err);
	cr_assert_eq(rc, 0, "%s: %s", name, img_error_text(err));
	img_error_free(err);
	return img;
}

/* All that the guest sees, in b->model. */
static void read_all(struct bench *b, struct img *img, const struct fixture *f)
{
	struct img_error *err = img_error_new();

	cr_assert_eq(img_size(img), f->bytes, "%s", f->name);
	free(b->model);
	b->size = f->bytes;
	b->model = malloc(f->bytes);
	cr_assert(b->model);
	cr_assert_eq(img_read(img, 0, b->model, f->bytes, err), 0, "%s: %s", f->name,
		     img_error_text(err));
	img_error_free(err);
}

static void expect_sha256(const struct bench *b, const struct fixture *f)
{
	uint8_t digest[32];
	char text[65];

	cr_assert_eq(EVP_Digest(b->model, b->size, digest, NULL, EVP_sha256(), NULL), 1);
	for (size_t i = 0; i < sizeof(digest); i++)
		snprintf(text + 2 * i, 3, "%02x", digest[i]);
	cr_assert_str_eq(text, f->sha256, "%s", f->name);
}

/* What a check finds, in the manifest's word. */
static const char *verdict(struct bench *b, const char *name)
{
	struct img *img = open_fixture(b, name, IMG_OPEN_CHECK | IMG_OPEN_NO_BACKING);
	struct img_check_result r = { 0 };

	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, NULL), 0, "%s", name);
	close_image(img);
	return r.corruptions || r.check_errors ? "corruptions" : r.leaks ? "leaks"
									 : "sound";
}

Test(qcow2_fixtures, read_and_checked_as_by_qemu)
{
	struct fixture all[FIXTURES_MAX];
	struct bench b;
	size_t n = fixtures(all);

	start(&b, 1, 1);
	unpack_fixtures(&b);
	for (size_t i = 0; i < n; i++) {
		struct img *img = open_fixture(&b, all[i].name, 0);

		read_all(&b, img, &all[i]);
		expect_sha256(&b, &all[i]);
		close_image(img);
		cr_assert_str_eq(verdict(&b, all[i].name), all[i].verdict, "%s", all[i].name);
	}
	finish(&b);
}

/* One change anywhere; the model has it too. What is discarded may read as before. */
static void change(struct bench *b, struct img *img, const struct fixture *f)
{
	uint64_t off = below(b, b->size), len = 1 + below(b, below(b, 8) ? 20000 : b->size);
	struct img_error *err = img_error_new();
	int rc;

	if (len > b->size - off)
		len = b->size - off;
	if (below(b, 4)) {
		random_bytes(b, b->model + off, len);
		rc = img_write(img, off, b->model + off, len, err);
	} else {
		memset(b->model + off, 0, len);
		rc = img_zero(img, off, len, err);
	}
	cr_assert_eq(rc, 0, "%s: %s", f->name, img_error_text(err));
	img_error_free(err);
}

/* Written to at random, closed and opened again: a flat copy says what is there. */
Test(qcow2_fixtures, written_to)
{
	struct fixture all[FIXTURES_MAX];
	struct bench b;
	size_t n = fixtures(all);
	uint8_t *back;

	start(&b, 2, 1);
	unpack_fixtures(&b);
	for (size_t i = 0; i < n; i++) {
		struct img *img;

		/* of a damaged image nothing is promised but that it is refused; what others
		   stand on is left alone */
		if (!strcmp(all[i].name, "corrupt-mark") || !strcmp(all[i].name, "below"))
			continue;
		img = open_fixture(&b, all[i].name, IMG_OPEN_WRITE);
		read_all(&b, img, &all[i]);
		for (int k = 0; k < 60; k++) {
			change(&b, img, &all[i]);
			if (k % 20 == 10) {
				close_image(img);
				img = open_fixture(&b, all[i].name, IMG_OPEN_WRITE);
			}
		}
		close_image(img);
		img = open_fixture(&b, all[i].name, 0);
		back = malloc(b.size);
		cr_assert(back);
		cr_assert_eq(img_read(img, 0, back, b.size, NULL), 0);
		cr_assert_eq(memcmp(back, b.model, b.size), 0, "%s", all[i].name);
		free(back);
		close_image(img);
		/* leaks stay, what was dirty is repaired by opening */
		cr_assert_str_eq(verdict(&b, all[i].name),
				 strcmp(all[i].verdict, "leaks") ? "sound" : "leaks", "%s",
				 all[i].name);
	}
	finish(&b);
}

Test(qcow2_fixtures, marked_as_corrupt_is_not_written_to)
{
	struct img_open_options options = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
	struct img *img = NULL;
	struct bench b;
	char path[200];

	start(&b, 3, 1);
	unpack_fixtures(&b);
	snprintf(path, sizeof(path), "%s/corrupt-mark.qcow2", b.dir);
	cr_assert_neq(img_open(path, &options, &img, NULL), 0);
	cr_assert_null(img);
	finish(&b);
}

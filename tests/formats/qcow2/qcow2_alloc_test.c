/*
 * Finding and counting clusters in memory: random allocations, compressed data that shares clusters,
 * and what is given back, held against a plain list of what is in use.
 */
#include "tests/formats/qcow2/counts.h"

static const char *const images[] = { "rc1", "rc2", "rc4", "rc8", "c512", "rc32", "rc64", "v2-512",
				      "c4k" };

enum { PIECES_MAX = 4000 };

/* What is in use by the test. */
struct piece {
	uint64_t off, len; /* in the file */
	bool compressed;
};

struct situation {
	struct bench random;
	const char *name;
	struct img_storage *file;
	struct img *img;
	struct qcow2 *q;
	struct img_req req;
	struct img_error err;
	struct counts model;
	struct piece piece[PIECES_MAX];
	size_t pieces;
};

static struct situation *begin(const char *name, uint64_t seed)
{
	struct situation *s = calloc(1, sizeof(*s));
	struct file bytes;
	char path[64];

	cr_assert(s);
	snprintf(path, sizeof(path), "%s.qcow2", name);
	bytes = unpack_fixture(path);
	s->name = name;
	s->random.seed = seed * 0x9e3779b97f4a7c15u + 1;
	s->file = in_memory(&bytes);
	free(bytes.bytes);
	s->img = open_memory(s->file, IMG_OPEN_WRITE);
	s->q = s->img->state;
	s->model = counts_new();
	counts_read(s->file, &s->model);
	img_req_init(&s->req, &s->err);
	s->req.engine = s->img->engine;
	return s;
}

/* rc as a driver entry gives it: fetch what it misses. True: it is to be called again. */
static bool again(struct situation *s, int rc)
{
	if (rc != IMG_NEED_METADATA)
		return false;
	cr_assert_eq(img_meta_fetch(&s->req), 0, "%s", img_error_text(&s->err));
	return true;
}

static void put_out(struct situation *s)
{
	img_req_release(&s->req);
	cr_assert_eq(img_writeout(s->img->engine, true, NULL), 0);
	counts_expect(s->file, &s->model, s->name);
}

static void end(struct situation *s)
{
	put_out(s);
	counts_free(&s->model);
	img_error_clear(&s->err);
	close_image(s->img);
	free(s);
}

static void grow(struct situation *s)
{
	put_out(s);
	cr_assert_eq(img_engine_quiesce(s->img, IMG_QUIESCE_FOR_CHANGING, NULL), 0);
	cr_assert_eq(qcow2_grow(s->img, 0, 512, NULL), 0);
	img_engine_resume(s->img);
	counts_expect(s->file, &s->model, s->name);
}

static uint64_t lowest_free(const struct situation *s)
{
	uint64_t c = 0;

	while (s->model.of[c])
		c++;
	return c;
}

static void add_piece(struct situation *s, uint64_t off, uint64_t len, bool compressed)
{
	for (size_t i = 0; i < s->pieces; i++)
		cr_assert(off + len <= s->piece[i].off || s->piece[i].off + s->piece[i].len <= off,
			  "%s: %" PRIu64 " is in use", s->name, off);
	cr_assert_lt(s->pieces, PIECES_MAX);
	s->piece[s->pieces++] = (struct piece){ off, len, compressed };
}

static void take_clusters(struct situation *s, uint64_t want)
{
	uint64_t first, n, bytes = s->model.cluster_bytes;
	int rc;

	for (int grown = 0;; grown++) {
		do
			rc = qcow2_find_free(s->img, &s->req, want, &first, &n);
		while (again(s, rc));
		if (rc != IMG_NEED_EXCLUSIVE)
			break;
		cr_assert_lt(grown, 3);
		cr_assert_geq(lowest_free(s), s->model.covered, "%s", s->name);
		grow(s);
	}
	cr_assert_eq(rc, 0, "%s: %s", s->name, img_error_text(&s->err));
	cr_assert_eq(first, lowest_free(s), "%s", s->name);
	cr_assert(n >= 1 && n <= want);
	qcow2_alloc(s->img, &s->req, first, n);
	for (uint64_t c = first; c < first + n; c++) {
		cr_assert_eq(s->model.of[c], 0, "%s: %" PRIu64, s->name, c);
		s->model.of[c] = 1;
	}
	add_piece(s, first * bytes, n * bytes, false);
}

static void take_compressed(struct situation *s, uint64_t len)
{
	uint64_t bytes = s->model.cluster_bytes, before = s->q->compressed_end, off;
	uint64_t max = s->q->geometry.refcount_max;
	int rc;

	for (int grown = 0;; grown++) {
		do
			rc = qcow2_alloc_compressed(s->img, &s->req, len, &off);
		while (again(s, rc));
		if (rc != IMG_NEED_EXCLUSIVE)
			break;
		cr_assert_lt(grown, 3);
		grow(s);
	}
	cr_assert_eq(rc, 0, "%s: %s", s->name, img_error_text(&s->err));
	for (uint64_t c = off / bytes; c <= (off + len - 1) / bytes; c++) {
		cr_assert(!s->model.of[c] || (c == before / bytes && off == before), "%s: %" PRIu64,
			  s->name, c);
		cr_assert_lt(s->model.of[c], max, "%s: %" PRIu64, s->name, c);
		s->model.of[c]++;
	}
	/* it goes on where that is possible at all */
	if (off != before && before && before % bytes + len <= bytes)
		cr_assert_eq(s->model.of[before / bytes], max, "%s", s->name);
	add_piece(s, off, len, true);
}

static void give_back(struct situation *s, size_t i)
{
	uint64_t bytes = s->model.cluster_bytes;
	struct piece p = s->piece[i];
	bool once, expected = true;
	int rc;

	for (uint64_t c = p.off / bytes; c <= (p.off + p.len - 1) / bytes; c++)
		expected &= s->model.of[c] == 1;
	do
		rc = qcow2_used_once(s->img, &s->req, p.off, p.len, &once);
	while (again(s, rc));
	cr_assert_eq(rc, 0);
	cr_assert_eq(once, expected, "%s", s->name);
	if (p.compressed && below(&s->random, 2)) {
		uint64_t stale = s->q->stale_end;

		/* planned, and the write failed: looked at by the same request */
		for (uint64_t c = p.off / bytes; c <= (p.off + p.len - 1) / bytes; c++) {
			bool any;

			do
				rc = qcow2_used_once(s->img, &s->req, c * bytes, 1, &any);
			while (again(s, rc));
		}
		qcow2_drop_compressed(s->img, &s->req, p.off, p.len);
		cr_assert_geq(s->q->stale_end, p.off + p.len);
		cr_assert_geq(s->q->stale_end, stale);
	} else {
		do
			rc = qcow2_unuse(s->img, &s->req, p.off, p.len);
		while (again(s, rc));
		cr_assert_eq(rc, 0);
	}
	for (uint64_t c = p.off / bytes; c <= (p.off + p.len - 1) / bytes; c++) {
		s->model.of[c]--;
		if (!s->model.of[c]) {
			cr_assert_leq(s->q->next_free, c, "%s", s->name);
			cr_assert(!s->q->compressed_end || s->q->compressed_end / bytes != c, "%s",
				  s->name);
		}
	}
	s->piece[i] = s->piece[--s->pieces];
}

Test(qcow2_alloc, as_a_plain_list_of_what_is_in_use)
{
	for (size_t i = 0; i < sizeof(images) / sizeof(*images); i++) {
		struct situation *s = begin(images[i], i + 1);

		for (int k = 0; k < 1500; k++) {
			uint64_t what = below(&s->random, 8);

			if (what < 2)
				take_clusters(s, 1 + below(&s->random, 20));
			else if (what < 5)
				take_compressed(s, 1 + below(&s->random, s->model.cluster_bytes));
			else if (what < 7 && s->pieces)
				give_back(s, below(&s->random, s->pieces));
			if (!below(&s->random, 5))
				img_req_release(&s->req);
			if (!below(&s->random, 100))
				put_out(s);
		}
		end(s);
	}
}

/* Small pieces share clusters as far as the width of the counts lets them. */
Test(qcow2_alloc, compressed_pieces_share_clusters)
{
	for (size_t i = 0; i < sizeof(images) / sizeof(*images); i++) {
		struct situation *s = begin(images[i], i + 50);
		uint64_t bytes = s->model.cluster_bytes, len = bytes / 64, used = 0, share;

		share = s->q->geometry.refcount_max < 64 ? s->q->geometry.refcount_max : 64;
		for (int k = 0; k < 640; k++)
			take_compressed(s, len);
		for (size_t k = 0; k < s->pieces; k++)
			used += s->piece[k].off % bytes == 0;
		cr_assert_leq(used, 640 / share + 640 / 64 + 2, "%s: %" PRIu64 " clusters", images[i],
			      used);
		while (s->pieces)
			give_back(s, s->pieces - 1);
		end(s);
	}
}

/* Until nothing is left that is counted; then the table grows. */
Test(qcow2_alloc, full)
{
	static const char *const some[] = { "rc32", "rc64", "v2-512" };

	for (size_t i = 0; i < sizeof(some) / sizeof(*some); i++) {
		struct situation *s = begin(some[i], i + 80);
		uint64_t covered = s->model.covered, table = s->model.table_off;

		while (s->model.covered == covered || s->model.table_off == table) {
			take_clusters(s, 4000);
			cr_assert_lt(s->model.covered, COUNTS_MAX);
		}
		end(s);
	}
}

/* What is counted as free and is metadata is never handed out. */
Test(qcow2_alloc, metadata_that_is_counted_as_free)
{
	struct situation *s = begin("c4k", 1);
	uint64_t first, n, c = s->q->header.l1_off / 4096; /* of the L1 table */
	int rc;

	while (lowest_free(s) < c)
		take_clusters(s, 1);
	do
		rc = qcow2_unuse(s->img, &s->req, c * 4096, 1);
	while (again(s, rc));
	cr_assert_eq(rc, 0);
	cr_assert_eq(s->model.of[c]--, 1);
	do
		rc = qcow2_find_free(s->img, &s->req, 1, &first, &n);
	while (again(s, rc));
	cr_assert_eq(rc, -EUCLEAN);
	cr_assert(strstr(img_error_text(&s->err), "L1 table"), "%s", img_error_text(&s->err));
	end(s);
}

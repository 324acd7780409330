/*
 * Refcounts by blocking I/O, of every width: random runs are taken, counted and given back, and the
 * file must have what a plain array has.
 */
#include "tests/formats/qcow2/counts.h"

/* Clusters of 512 bytes and refcounts of 1 to 64 bits. */
static const char *const images[] = { "rc1", "rc2", "rc4", "rc8", "c512", "rc32", "rc64", "v2-512" };

struct situation {
	struct bench random;
	const char *name;
	struct img_storage *file;
	struct img *img;
	struct qcow2 *q;
	struct qcow2_refcounts r;
	struct counts model;
};

static void begin(struct situation *s, const char *name, uint64_t seed)
{
	struct file bytes;
	char path[64];

	snprintf(path, sizeof(path), "%s.qcow2", name);
	bytes = unpack_fixture(path);
	*s = (struct situation){ .name = name, .random.seed = seed * 0x9e3779b97f4a7c15u + 1 };
	s->file = in_memory(&bytes);
	free(bytes.bytes);
	s->img = open_memory(s->file, IMG_OPEN_WRITE);
	s->q = s->img->state;
	s->model = counts_new();
	counts_read(s->file, &s->model);
	cr_assert_eq(img_engine_quiesce(s->img, IMG_QUIESCE_FOR_CHANGING, NULL), 0);
	s->r = (struct qcow2_refcounts){ .img = s->img };
}

static void end(struct situation *s)
{
	cr_assert_eq(qcow2_refcounts_flush(&s->r, NULL), 0);
	counts_expect(s->file, &s->model, s->name);
	qcow2_refcounts_end(&s->r);
	img_engine_resume(s->img);
	counts_free(&s->model);
	close_image(s->img);
}

static void take(struct situation *s, uint64_t n)
{
	struct img_error *err = img_error_new();
	uint64_t first = 0;

	cr_assert_eq(qcow2_refcounts_alloc(&s->r, n, &first, err), 0, "%s: %s", s->name,
		     img_error_text(err));
	img_error_free(err);
	/* what was counted on the way, for new blocks */
	cr_assert_eq(qcow2_refcounts_flush(&s->r, NULL), 0);
	for (uint64_t c = first; c < first + n; c++) {
		cr_assert_lt(c, COUNTS_MAX);
		cr_assert_eq(s->model.of[c], 0, "%s: cluster %" PRIu64 " is in use", s->name, c);
		s->model.of[c] = 1;
	}
	counts_expect(s->file, &s->model, s->name);
}

static void give_back(struct situation *s, uint64_t first, uint64_t n)
{
	uint64_t bytes = s->model.cluster_bytes;

	/* any part of the first and last cluster counts */
	cr_assert_eq(qcow2_refcounts_unuse(&s->r, first * bytes + below(&s->random, bytes),
					   (n - 1) * bytes + 1 - (n > 1 ? bytes - 1 : 0), NULL),
		     0);
}

Test(qcow2_refcount, every_width_counts_as_a_plain_array)
{
	for (size_t i = 0; i < sizeof(images) / sizeof(*images); i++) {
		struct situation s;
		uint64_t max;

		begin(&s, images[i], i + 1);
		max = s.model.bits == 64 ? UINT64_MAX : (UINT64_C(1) << s.model.bits) - 1;
		cr_assert_eq(s.q->geometry.refcount_max, max, "%s", images[i]);
		for (int k = 0; k < 400; k++) {
			uint64_t c = below(&s.random, s.model.covered), n = 1 + below(&s.random, 9),
				 count;

			/* only what nobody names is played with */
			if (s.model.metadata[c] || img_range_map_at(&s.q->metadata, c * 512, n * 512) ||
			    c + n > s.model.covered)
				continue;
			cr_assert_eq(qcow2_refcounts_get(&s.r, c, &count, NULL), 0);
			cr_assert_eq(count, s.model.of[c], "%s: %" PRIu64, images[i], c);
			switch (below(&s.random, 3)) {
			case 0:
				count = next_random(&s.random) & max;
				cr_assert_eq(qcow2_refcounts_set(&s.r, c, n, count, NULL), 0);
				for (uint64_t m = c; m < c + n; m++)
					s.model.of[m] = count;
				break;
			case 1:
				if (s.model.of[c])
					s.model.of[c]--;
				give_back(&s, c, 1);
				break;
			case 2:
				cr_assert_eq(qcow2_refcounts_flush(&s.r, NULL), 0);
				counts_expect(s.file, &s.model, images[i]);
				break;
			}
		}
		end(&s);
	}
}

Test(qcow2_refcount, runs_are_free_ones_in_a_fragmented_file)
{
	for (size_t i = 0; i < sizeof(images) / sizeof(*images); i++) {
		struct situation s;

		begin(&s, images[i], i + 100);
		take(&s, 300);
		for (uint64_t c = 100; c < s.model.covered; c += 1 + below(&s.random, 9)) {
			if (!s.model.of[c] || img_range_map_at(&s.q->metadata, c * 512, 512))
				continue;
			s.model.of[c]--;
			give_back(&s, c, 1);
			cr_assert_leq(s.q->next_free, s.model.of[c] ? UINT64_MAX : c, "%s", images[i]);
		}
		for (uint64_t n = 1; n < 12; n++)
			take(&s, n);
		/* the lowest one first */
		for (int k = 0; k < 3; k++) {
			uint64_t lowest = 0;

			while (s.model.of[lowest])
				lowest++;
			take(&s, 1);
			cr_assert_neq(s.model.of[lowest], 0, "%s: %" PRIu64, images[i], lowest);
		}
		end(&s);
	}
}

/* The refcount table becomes too small; what is there stays counted, and the old one is free then. */
Test(qcow2_refcount, table_grows)
{
	static const char *const some[] = { "rc8", "c512", "rc32", "rc64", "v2-512" };

	for (size_t i = 0; i < sizeof(some) / sizeof(*some); i++) {
		struct situation s;
		uint64_t old, old_clusters, taken = 0;

		begin(&s, some[i], i + 200);
		old = s.model.table_off;
		old_clusters = s.model.table_clusters;
		for (int grown = 0; grown < 2 && s.model.covered < COUNTS_MAX / 2;) {
			uint64_t n = 1 + below(&s.random, 3000);

			take(&s, n);
			taken += n;
			if (s.model.table_off == old)
				continue;
			cr_assert_gt(s.model.table_clusters, old_clusters, "%s", some[i]);
			cr_assert_eq(s.q->header.refcount_table_off, s.model.table_off);
			cr_assert_eq(s.q->header.refcount_table_clusters, s.model.table_clusters);
			old = s.model.table_off;
			old_clusters = s.model.table_clusters;
			grown++;
		}
		cr_assert_gt(old_clusters, 1, "%s: after %" PRIu64 " clusters", some[i], taken);
		end(&s);
	}
}

Test(qcow2_refcount, room_is_made_and_not_taken)
{
	struct situation s;

	begin(&s, "rc64", 7);
	for (int k = 0; k < 30; k++) {
		uint64_t lowest = 0;

		cr_assert_eq(qcow2_refcounts_make_room(&s.r, NULL), 0);
		cr_assert_eq(qcow2_refcounts_flush(&s.r, NULL), 0);
		counts_expect(s.file, &s.model, "rc64");
		while (s.model.of[lowest])
			lowest++;
		cr_assert_lt(lowest, s.model.covered);
		/* fill it up */
		for (uint64_t c = 0; c < s.model.covered; c++) {
			if (s.model.of[c])
				continue;
			cr_assert_eq(qcow2_refcounts_set(&s.r, c, 1, 1, NULL), 0);
			s.model.of[c] = 1;
		}
	}
	end(&s);
}

/*
 * Power cuts while a disk changes its size: every write, sync and change of the file's length is
 * recorded; then each state that a cut could have left (any subset of the writes since the last
 * sync) must have no corruption, one of the two sizes, and the data that both have.
 */
#include "libimg/base/arith.h"
#include "libimg/image/place.h"
#include "tests/formats/qcow2/bench.h"

enum { SUBSETS = 6,
       MAX_FILE = 64 << 20 };

struct bytes {
	uint8_t *at;
	uint64_t len;
};

static struct bytes load(const char *path)
{
	struct bytes b;
	struct stat st;
	int fd = open(path, O_RDONLY);

	cr_assert(fd >= 0 && !fstat(fd, &st));
	b.len = (uint64_t)st.st_size;
	b.at = calloc(1, MAX_FILE);
	cr_assert(b.at && pread(fd, b.at, b.len, 0) == (ssize_t)b.len);
	close(fd);
	return b;
}

static struct img_storage *storage_of(const struct bytes *b)
{
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("image", b->len, MAX_FILE, &s), 0);
	cr_assert_eq(img_storage_write(s, 0, b->at, b->len, NULL), 0);
	return s;
}

static void apply(struct bytes *b, const struct img_record_entry *e)
{
	uint64_t end = e->off + e->len;

	switch (e->kind) {
	case IMG_RECORD_WRITE:
		cr_assert(end <= MAX_FILE);
		memcpy(b->at + e->off, e->data, e->len);
		b->len = max_u64(b->len, end);
		break;
	case IMG_RECORD_ZERO:
		cr_assert(end <= MAX_FILE);
		memset(b->at + e->off, 0, e->len);
		b->len = max_u64(b->len, end);
		break;
	case IMG_RECORD_RESIZE:
		cr_assert(e->len <= MAX_FILE);
		if (e->len < b->len)
			memset(b->at + e->len, 0, b->len - e->len);
		b->len = e->len;
		break;
	case IMG_RECORD_SYNC:
		break;
	}
}

static void say(void *user, const char *line)
{
	(void)user;
	fprintf(stderr, "      %s\n", line);
}

/* A state must be sound, of one of the sizes, with the model's data, and zeroes after it. */
static void examine(const struct bench *b, const struct bytes *state, uint64_t new_size)
{
	struct img_open_options options = { .format = "qcow2", .flags = IMG_OPEN_CHECK };
	struct img_error *err = img_error_new();
	struct img_check_result result = { 0 };
	struct img *img = NULL;
	uint64_t size, kept;
	uint8_t *bytes;
	int rc = img_open_storage(storage_of(state), "image", &options, &img, err);

	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	rc = img_check(img, 0, NULL, NULL, &result, err);
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	if (result.corruptions || result.check_errors)
		img_check(img, 0, say, NULL, &result, err);
	cr_assert_eq(result.corruptions + result.check_errors, 0);
	size = img_size(img);
	cr_assert(size == b->size || size == new_size);
	bytes = malloc(size);
	rc = img_read(img, 0, bytes, size, err);
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	kept = min_u64(b->size, new_size);
	cr_assert(!memcmp(bytes, b->model, kept), "kept data differs");
	for (uint64_t i = b->size; i < size; i++)
		cr_assert_eq(bytes[i], 0, "the new part shows something at %" PRIu64, i);
	free(bytes);
	img_close(img, NULL);
	img_error_free(err);
}

/* All states of cuts after the syncs of a recording. */
static void examine_cuts(struct bench *b, const struct bytes *before, const struct img_record *r,
			 uint64_t new_size)
{
	struct bytes durable = { malloc(MAX_FILE), before->len }, state = { malloc(MAX_FILE), 0 };
	size_t n = img_record_count(r), sync = 0;

	memcpy(durable.at, before->at, MAX_FILE);
	for (size_t cut = 0; cut <= n; cut++) {
		bool synced = cut == n || img_record_at(r, cut)->kind == IMG_RECORD_SYNC;

		for (unsigned k = 0; k < SUBSETS && (k == 0 || cut > sync); k++) {
			/* All, then random subsets. */
			uint64_t mask = next_random(b) | (k > 3 ? next_random(b) : 0);

			if (k && !synced)
				break;
			memcpy(state.at, durable.at, MAX_FILE);
			state.len = durable.len;
			for (size_t i = sync; i < cut; i++)
				if (!k || mask >> (i - sync) % 64 & 1)
					apply(&state, img_record_at(r, i));
			examine(b, &state, new_size);
		}
		if (!synced)
			continue;
		for (; sync < cut; sync++)
			apply(&durable, img_record_at(r, sync));
	}
	free(durable.at);
	free(state.at);
}

static void cut_resize(const char *options, uint64_t size, uint64_t new_size, int how,
		       bool snapshot)
{
	struct img_open_options writing = { .format = "qcow2", .flags = IMG_OPEN_WRITE };
	struct img_error *err = img_error_new();
	struct img_record *record = img_record_new();
	struct img_storage *s;
	struct bytes before;
	struct bench b;
	struct img *img;
	int rc;

	if (!have_qemu())
		return;
	start(&b, size + new_size, size);
	run(&b, "qemu-img create -f qcow2 -o %s image.qcow2 %" PRIu64, options, size);
	run(&b, "qemu-io -f qcow2 -c 'write -P 7 0 100k' -c 'write -P 8 200k 56k' image.qcow2");
	memset(b.model, 7, 100 << 10);
	memset(b.model + (200 << 10), 8, 56 << 10);
	if (snapshot)
		run(&b, "qemu-img snapshot -c one image.qcow2");
	before = load(b.image);
	cr_assert_eq(img_storage_record(storage_of(&before), record, &s), 0);
	rc = img_open_storage(s, "image", &writing, &img, err);
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	rc = img_resize(img, new_size, how, err);
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	rc = img_close(img, err);
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	cr_assert_gt(img_record_count(record), 0);
	examine_cuts(&b, &before, record, new_size);
	img_record_free(record);
	img_error_free(err);
	free(before.at);
	finish(&b);
}

enum { KIB = 1024,
       MIB = 1 << 20 };

#define CUT(name, ...) \
	Test(qcow2_resize, name) \
	{ \
		cut_resize(__VA_ARGS__); \
	}

CUT(grow, "cluster_size=4k", 256 * KIB, 2 * MIB, IMG_PREALLOC_OFF, false)
CUT(grow_moves_l1, "cluster_size=512", 512 * KIB, 8 * MIB, IMG_PREALLOC_OFF, false)
CUT(grow_moves_l1_rc64, "cluster_size=512,refcount_bits=64", 512 * KIB, 8 * MIB, IMG_PREALLOC_OFF,
    true)
CUT(grow_metadata, "cluster_size=4k", 256 * KIB, 1 * MIB, IMG_PREALLOC_METADATA, false)
CUT(grow_metadata_small, "cluster_size=512", 256 * KIB, 1 * MIB, IMG_PREALLOC_METADATA, true)
CUT(grow_metadata_rc64, "cluster_size=512,refcount_bits=64", 256 * KIB, 1 * MIB,
    IMG_PREALLOC_METADATA, false)
CUT(grow_falloc, "cluster_size=4k", 256 * KIB, 1 * MIB, IMG_PREALLOC_FALLOC, false)
CUT(grow_full, "cluster_size=4k,extended_l2=off", 256 * KIB, 1 * MIB, IMG_PREALLOC_FULL, true)
CUT(grow_extended, "cluster_size=16k,extended_l2=on", 256 * KIB, 1 * MIB, IMG_PREALLOC_FALLOC,
    false)
CUT(shrink, "cluster_size=4k", 1 * MIB, 64 * KIB, IMG_PREALLOC_OFF, false)
CUT(shrink_small, "cluster_size=512", 1 * MIB, 65 * KIB, IMG_PREALLOC_OFF, false)
CUT(shrink_shared, "cluster_size=512", 1 * MIB, 65 * KIB, IMG_PREALLOC_OFF, true)
CUT(shrink_rc1, "cluster_size=512,refcount_bits=1", 1 * MIB, 33 * KIB, IMG_PREALLOC_OFF, false)
CUT(shrink_version_2, "compat=0.10,cluster_size=4k", 1 * MIB, 32 * KIB, IMG_PREALLOC_OFF, false)

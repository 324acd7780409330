/*
 * Power cuts while a disk changes its size: every write, sync and change of the file's length is
 * recorded; then each state that a cut could have left (any subset of the writes since the last
 * sync) must have no corruption, and be the old disk, or the new one: what both have, then zeroes.
 */
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/image/context.h"
#include "tests/formats/qcow2/bench.h"

enum { SUBSETS = 6,
       MAX_FILE = 64 << 20 };

struct bytes {
	uint8_t *at;	    /* MAX_FILE bytes, zeroes from len on */
	uint64_t len, most; /* most: of len, ever */
};

static struct bytes load(const char *path)
{
	struct bytes b;
	struct stat st;
	int fd = open(path, O_RDONLY);

	cr_assert(fd >= 0 && !fstat(fd, &st));
	b.len = b.most = (uint64_t)st.st_size;
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

static void copy(struct bytes *to, const struct bytes *from)
{
	memcpy(to->at, from->at, from->len);
	if (to->most > from->len)
		memset(to->at + from->len, 0, to->most - from->len);
	to->len = from->len;
	to->most = max_u64(to->most, from->len);
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
	case IMG_RECORD_REPLACE: /* descriptors alone */
	case IMG_RECORD_SYNC:
	case IMG_RECORD_SYNC_FAILED:
		break;
	}
	b->most = max_u64(b->most, b->len);
}

static void say(void *user, const char *line)
{
	(void)user;
	fprintf(stderr, "      %s\n", line);
}

/*
 * A state must be sound, of one of the sizes, with the model's data, and zeroes after it: also in
 * the first of what a disk that became smaller shows when it grows again.
 */
static void examine(const struct bench *b, const struct bytes *state, uint64_t new_size)
{
	struct img_open_options options = { .format = "qcow2", .flags = IMG_OPEN_CHECK };
	struct img_error *err = img_error_new();
	struct img_check_result result = { 0 };
	struct img *img = NULL;
	uint64_t size, kept;
	uint8_t *bytes;
	int rc = img_open_storage(storage_of(state), b->image, &options, &img, err);

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
	kept = min_u64(b->size, size);
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
	struct bytes durable = { .at = calloc(1, MAX_FILE) }, state = { .at = calloc(1, MAX_FILE) };
	size_t n = img_record_count(r), sync = 0;

	copy(&durable, before);
	for (size_t cut = 0; cut <= n; cut++) {
		bool synced = cut == n || img_record_at(r, cut)->kind == IMG_RECORD_SYNC;

		for (unsigned k = 0; k < SUBSETS && (k == 0 || cut > sync); k++) {
			/* All, then random subsets. */
			uint64_t mask = next_random(b) | (k > 3 ? next_random(b) : 0);

			if (k && !synced)
				break;
			copy(&state, &durable);
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

enum { FILL = 1,	    /* all of the disk has data */
       COMPRESS = 2,	    /* compressed */
       BACKING = 4,	    /* of 1 MiB */
       SNAPSHOT = 8,	    /* which shares all clusters */
       SNAPSHOT_FIRST = 16, /* before the disk is made smaller */
       HEADER_ONLY = 32 };  /* the disk is made smaller in the header alone, as by a power cut */

static void name_size(const char *path, uint64_t size)
{
	uint8_t field[8];
	int fd = open(path, O_WRONLY);

	be64_store(field, size);
	cr_assert(fd >= 0 && pwrite(fd, field, 8, 24) == 8);
	close(fd);
}

/* A disk of size bytes; before the resize that is tried it is cut to cut bytes. */
static void prepare(struct bench *b, const char *options, uint64_t size, uint64_t cut, unsigned how)
{
	struct bytes model;

	if (how & BACKING) {
		run(b, "yes content-of-the-base | head -c 1M | dd of=base.raw");
		run(b, "qemu-img create -f qcow2 -o %s -b base.raw -F raw image.qcow2 %" PRIu64,
		    options, size);
	} else {
		run(b, "qemu-img create -f qcow2 -o %s image.qcow2 %" PRIu64, options, size);
	}
	if (how & COMPRESS) {
		run(b, "yes compressed | head -c %" PRIu64 " | dd of=full.raw", size);
		run(b, "qemu-img convert -n -c -O qcow2 -f raw full.raw image.qcow2");
	} else if (how & FILL) {
		run(b, "qemu-io -f qcow2 -c 'write -P 0x5e 0 %" PRIu64 "' image.qcow2", size);
	}
	if (!(how & COMPRESS) && size >= 256 << 10)
		run(b, "qemu-io -f qcow2 -c 'write -P 7 0 100k' -c 'write -P 8 200k 56k' "
		       "image.qcow2");
	if (how & SNAPSHOT_FIRST)
		run(b, "qemu-img snapshot -c one image.qcow2");
	if (cut < size && how & HEADER_ONLY)
		name_size(b->image, cut);
	else if (cut < size)
		run(b, "qemu-img resize --shrink -f qcow2 image.qcow2 %" PRIu64, cut);
	if (how & SNAPSHOT)
		run(b, "qemu-img snapshot -c one image.qcow2");
	run(b, "qemu-img convert -f qcow2 -O raw image.qcow2 model.raw");
	model = load(b->model_file);
	cr_assert_eq(model.len, cut);
	memcpy(b->model, model.at, cut);
	free(model.at);
}

static void cut_resize(const char *options, uint64_t size, uint64_t cut, uint64_t new_size, int how,
		       unsigned made)
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
	start(&b, size + cut + new_size + made, cut);
	prepare(&b, options, size, cut, made);
	before = load(b.image);
	cr_assert_eq(img_storage_record(storage_of(&before), record, &s), 0);
	rc = img_open_storage(s, b.image, &writing, &img, err);
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

#define CUT(name, options, size, new_size, how, made) \
	Test(qcow2_resize, name) \
	{ \
		cut_resize(options, size, size, new_size, how, made); \
	}

CUT(grow, "cluster_size=4k", 256 * KIB, 2 * MIB, IMG_PREALLOCATE_OFF, 0)
CUT(grow_moves_l1, "cluster_size=512", 512 * KIB, 8 * MIB, IMG_PREALLOCATE_OFF, 0)
CUT(grow_moves_l1_rc64, "cluster_size=512,refcount_bits=64", 512 * KIB, 8 * MIB, IMG_PREALLOCATE_OFF,
    SNAPSHOT)
CUT(grow_metadata, "cluster_size=4k", 256 * KIB, 1 * MIB, IMG_PREALLOCATE_METADATA, 0)
CUT(grow_metadata_small, "cluster_size=512", 256 * KIB, 1 * MIB, IMG_PREALLOCATE_METADATA, SNAPSHOT)
CUT(grow_metadata_rc64, "cluster_size=512,refcount_bits=64", 256 * KIB, 1 * MIB,
    IMG_PREALLOCATE_METADATA, 0)
CUT(grow_falloc, "cluster_size=4k", 256 * KIB, 1 * MIB, IMG_PREALLOCATE_FALLOC, 0)
CUT(grow_full, "cluster_size=4k,extended_l2=off", 256 * KIB, 1 * MIB, IMG_PREALLOCATE_FULL, SNAPSHOT)
CUT(grow_extended, "cluster_size=16k,extended_l2=on", 256 * KIB, 1 * MIB, IMG_PREALLOCATE_FALLOC, 0)
CUT(shrink, "cluster_size=4k", 1 * MIB, 64 * KIB, IMG_PREALLOCATE_OFF, 0)
CUT(shrink_small, "cluster_size=512", 1 * MIB, 65 * KIB, IMG_PREALLOCATE_OFF, 0)
CUT(shrink_shared, "cluster_size=512", 1 * MIB, 65 * KIB, IMG_PREALLOCATE_OFF, SNAPSHOT)
CUT(shrink_rc1, "cluster_size=512,refcount_bits=1", 1 * MIB, 33 * KIB, IMG_PREALLOCATE_OFF, 0)
CUT(shrink_version_2, "compat=0.10,cluster_size=4k", 1 * MIB, 32 * KIB, IMG_PREALLOCATE_OFF, 0)
CUT(shrink_filled, "cluster_size=4k", 1 * MIB, 65 * KIB, IMG_PREALLOCATE_OFF, FILL)
CUT(shrink_over_a_base, "cluster_size=4k", 1 * MIB, 65 * KIB, IMG_PREALLOCATE_OFF, FILL | BACKING)
CUT(shrink_compressed, "cluster_size=4k", 1 * MIB, 65 * KIB, IMG_PREALLOCATE_OFF, COMPRESS)
CUT(shrink_many_blocks, "cluster_size=512,refcount_bits=64", 512 * KIB, 4 * KIB, IMG_PREALLOCATE_OFF,
    FILL)

/* What was cut off before does not come back. */
#define AGAIN(name, options, size, cut, new_size, how, made) \
	Test(qcow2_resize, again_##name) \
	{ \
		cut_resize(options, size, cut, new_size, how, made); \
	}

AGAIN(plain, "cluster_size=64k", 320 * KIB, 270 * KIB, 512 * KIB, IMG_PREALLOCATE_OFF, FILL)
AGAIN(within_a_cluster, "cluster_size=64k", 320 * KIB, 270 * KIB, 300 * KIB, IMG_PREALLOCATE_OFF, FILL)
AGAIN(version_2, "compat=0.10,cluster_size=64k", 320 * KIB, 270 * KIB, 512 * KIB, IMG_PREALLOCATE_OFF,
      FILL)
AGAIN(extended, "cluster_size=64k,extended_l2=on", 320 * KIB, 271 * KIB, 512 * KIB,
      IMG_PREALLOCATE_OFF, FILL)
AGAIN(compressed, "cluster_size=64k", 320 * KIB, 270 * KIB, 512 * KIB, IMG_PREALLOCATE_OFF, COMPRESS)
AGAIN(compressed_zstd, "cluster_size=64k,compression_type=zstd", 320 * KIB, 270 * KIB, 512 * KIB,
      IMG_PREALLOCATE_METADATA, COMPRESS)
AGAIN(shared, "cluster_size=64k", 320 * KIB, 270 * KIB, 512 * KIB, IMG_PREALLOCATE_OFF,
      FILL | SNAPSHOT_FIRST)
AGAIN(shared_cut, "cluster_size=4k", 320 * KIB, 270 * KIB, 512 * KIB, IMG_PREALLOCATE_OFF,
      FILL | SNAPSHOT)
AGAIN(metadata, "cluster_size=64k", 320 * KIB, 270 * KIB, 512 * KIB, IMG_PREALLOCATE_METADATA, FILL)
AGAIN(falloc, "cluster_size=16k", 320 * KIB, 270 * KIB, 512 * KIB, IMG_PREALLOCATE_FALLOC, FILL)
AGAIN(full, "cluster_size=16k,extended_l2=on", 320 * KIB, 271 * KIB, 512 * KIB, IMG_PREALLOCATE_FULL,
      FILL)
AGAIN(big_clusters, "cluster_size=2M", 4 * MIB, 3 * MIB + 512, 9 * MIB, IMG_PREALLOCATE_OFF, FILL)
AGAIN(tables_left, "cluster_size=4k", 1 * MIB, 270 * KIB, 3 * MIB, IMG_PREALLOCATE_OFF,
      FILL | HEADER_ONLY)
AGAIN(tables_left_small, "cluster_size=512", 512 * KIB, 33 * KIB, 300 * KIB, IMG_PREALLOCATE_OFF,
      FILL | HEADER_ONLY)
AGAIN(tables_left_shared, "cluster_size=512", 512 * KIB, 33 * KIB, 600 * KIB, IMG_PREALLOCATE_METADATA,
      FILL | HEADER_ONLY | SNAPSHOT_FIRST)
AGAIN(tables_left_over_a_base, "cluster_size=4k", 1 * MIB, 270 * KIB, 3 * MIB, IMG_PREALLOCATE_OFF,
      FILL | HEADER_ONLY | BACKING)
AGAIN(over_a_base, "cluster_size=64k", 320 * KIB, 270 * KIB, 2 * MIB, IMG_PREALLOCATE_OFF,
      FILL | BACKING)

/* What the backing file has beyond the old end does not show. */
#define OVER(name, options, size, new_size, how) \
	Test(qcow2_resize, over_##name) \
	{ \
		cut_resize(options, size, size, new_size, how, BACKING); \
	}

OVER(whole, "cluster_size=64k", 192 * KIB, 2 * MIB, IMG_PREALLOCATE_OFF)
OVER(odd, "cluster_size=64k", 193 * KIB, 2 * MIB, IMG_PREALLOCATE_OFF)
OVER(odd_less_than_the_base, "cluster_size=64k", 193 * KIB, 700 * KIB, IMG_PREALLOCATE_OFF)
OVER(odd_within_a_cluster, "cluster_size=64k", 193 * KIB, 210 * KIB, IMG_PREALLOCATE_OFF)
OVER(version_2, "compat=0.10,cluster_size=64k", 193 * KIB, 2 * MIB, IMG_PREALLOCATE_OFF)
OVER(version_2_small, "compat=0.10,cluster_size=512", 193 * KIB, 700 * KIB, IMG_PREALLOCATE_OFF)
OVER(extended, "cluster_size=64k,extended_l2=on", 193 * KIB, 2 * MIB, IMG_PREALLOCATE_OFF)
OVER(extended_used, "cluster_size=16k,extended_l2=on", 257 * KIB, 700 * KIB, IMG_PREALLOCATE_OFF)
OVER(small, "cluster_size=512", 193 * KIB + 512, 2 * MIB, IMG_PREALLOCATE_OFF)
OVER(metadata, "cluster_size=64k", 193 * KIB, 2 * MIB, IMG_PREALLOCATE_METADATA)
OVER(metadata_version_2, "compat=0.10,cluster_size=64k", 193 * KIB, 2 * MIB, IMG_PREALLOCATE_METADATA)
OVER(falloc_extended, "cluster_size=64k,extended_l2=on", 193 * KIB, 2 * MIB, IMG_PREALLOCATE_FALLOC)

/* ---- The file ---- */

static uint64_t size_of(const char *path)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	return (uint64_t)st.st_size;
}

static void resize_to(struct bench *b, uint64_t size, enum img_preallocate how)
{
	struct img *img = open_image(b, IMG_OPEN_WRITE);

	cr_assert_eq(img_resize(img, size, how, NULL), 0);
	cr_assert_eq(img_close(img, NULL), 0);
	run(b, "qemu-img check -q -f qcow2 image.qcow2");
}

/* It ends with what the smaller disk needs, and what was there is given back. */
Test(qcow2_file, of_a_smaller_disk_is_shorter)
{
	struct bench b;

	if (!have_qemu())
		return;
	start(&b, 1, 8 * MIB);
	run(&b, "qemu-img create -f qcow2 image.qcow2 8M");
	run(&b, "qemu-io -f qcow2 -c 'write -P 5 0 8M' image.qcow2");
	cr_assert_gt(size_of(b.image), 8 * MIB);
	resize_to(&b, MIB, IMG_PREALLOCATE_OFF);
	cr_assert_lt(size_of(b.image), 2 * MIB);
	run(&b, "qemu-io -f qcow2 -c 'read -P 5 0 1M' image.qcow2 >io.txt 2>&1; ! grep -i failed io.txt");
	finish(&b);
}

/* So does a data file. */
Test(qcow2_file, of_data_of_a_smaller_disk_is_shorter)
{
	static const char *const options[] = { "data_file=data.raw", "data_file=data.raw,data_file_raw=on" };

	for (size_t i = 0; i < 2; i++) {
		char path[160];
		struct bench b;

		if (!have_qemu())
			return;
		start(&b, 5, 4 * MIB);
		snprintf(path, sizeof(path), "%s/data.raw", b.dir);
		run(&b, "qemu-img create -f qcow2 -o %s image.qcow2 4M", options[i]);
		run(&b, "qemu-io -f qcow2 -c 'write -P 5 0 4M' image.qcow2");
		cr_assert_eq(size_of(path), 4 * MIB);
		resize_to(&b, MIB, IMG_PREALLOCATE_OFF);
		cr_assert_eq(size_of(path), MIB, "%s", options[i]);
		run(&b, "qemu-io -f qcow2 -c 'read -P 5 0 1M' image.qcow2 >io.txt 2>&1; ! grep -i failed io.txt");
		finish(&b);
	}
}

/* What a data file has behind the disk's end is not the disk's. */
Test(qcow2_file, of_data_is_not_seen_behind_the_old_end)
{
	static const struct {
		const char *options;
		enum img_preallocate how;
	} rows[] = {
		{ "data_file=data.raw", IMG_PREALLOCATE_OFF },
		{ "data_file=data.raw", IMG_PREALLOCATE_METADATA },
		{ "data_file=data.raw,data_file_raw=on", IMG_PREALLOCATE_OFF },
		{ "data_file=data.raw,data_file_raw=on", IMG_PREALLOCATE_FALLOC },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(*rows); i++) {
		struct bench b;

		if (!have_qemu())
			return;
		start(&b, 2, 4 * MIB);
		run(&b, "qemu-img create -f qcow2 -o %s image.qcow2 1M", rows[i].options);
		run(&b, "qemu-io -f qcow2 -c 'write -P 5 0 1M' image.qcow2");
		run(&b, "yes more | head -c 2M | dd of=data.raw oflag=append conv=notrunc");
		resize_to(&b, 4 * MIB, rows[i].how);
		run(&b, "qemu-io -f qcow2 -c 'read -P 5 0 1M' -c 'read -P 0 1M 3M' image.qcow2 "
			">io.txt 2>&1; ! grep -i failed io.txt");
		finish(&b);
	}
}

/* Version 2 keeps no size of a snapshot's own. */
Test(qcow2_file, of_version_2_with_a_snapshot_keeps_its_size)
{
	struct img_error *err = img_error_new();
	struct img *img;
	struct bench b;

	if (!have_qemu())
		return;
	start(&b, 3, MIB);
	run(&b, "qemu-img create -f qcow2 -o compat=0.10 image.qcow2 1M && qemu-img snapshot -c a image.qcow2");
	img = open_image(&b, IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, 2 * MIB, IMG_PREALLOCATE_OFF, err), -ENOTSUP);
	cr_assert(strstr(img_error_text(err), "version 2"), "%s", img_error_text(err));
	cr_assert_eq(img_resize(img, 512 * KIB, IMG_PREALLOCATE_OFF, NULL), -ENOTSUP);
	cr_assert_eq(img_size(img), MIB);
	cr_assert_eq(img_close(img, NULL), 0);
	img_error_free(err);
	finish(&b);
}

/* A table that two entries name would be freed twice. */
Test(qcow2_file, with_two_entries_for_one_table_is_not_cut)
{
	struct img_error *err = img_error_new();
	struct img *img;
	struct bench b;

	if (!have_qemu())
		return;
	start(&b, 4, 256 * KIB);
	run(&b, "qemu-img create -f qcow2 -o cluster_size=512 image.qcow2 256k");
	run(&b, "qemu-io -f qcow2 -c 'write -P 5 0 32k' image.qcow2");
	/* the L1 table is at the offset that the header has at 40 */
	run(&b, "at=$((0x$(od -A n -t x1 -j 40 -N 8 image.qcow2 | tr -d ' '))); "
		"dd if=image.qcow2 of=image.qcow2 bs=1 skip=$at seek=$((at + 8)) count=8 conv=notrunc");
	img = open_image(&b, IMG_OPEN_WRITE);
	cr_assert_eq(img_resize(img, 16 * KIB, IMG_PREALLOCATE_OFF, err), -EUCLEAN);
	cr_assert(strstr(img_error_text(err), "two L1 entries"), "%s", img_error_text(err));
	img_close(img, NULL);
	img_error_free(err);
	finish(&b);
}

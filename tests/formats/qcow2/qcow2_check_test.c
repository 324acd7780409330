/*
 * Checking and repairing damaged qcow2 images. Each damage is one word of a sound image; after a
 * repair the image is sound, the guest sees what it saw before, and that also holds wherever the
 * repair was cut off by a power failure.
 */
#include "formats/qcow2/qcow2_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "tests/formats/qcow2/memory.h"

enum { SIZE = 1 << 20 };

/* A sound image with data, zeroes and compressed units in b->image and in memory. */
static struct file make_image(struct bench *b, const char *options)
{
	const char *list[] = { options, NULL };
	struct img_create_options how = {
		.format = "qcow2",
		.have_size = true,
		.size = SIZE,
		.options = list,
	};
	struct img_error *err = img_error_new();
	struct img *img;

	start(b, 7, SIZE);
	cr_assert_eq(img_create(b->image, &how, err), 0, "%s", img_error_text(err));
	img = open_image(b, IMG_OPEN_WRITE);
	random_bytes(b, b->model, SIZE / 2);
	random_bytes(b, b->model + SIZE * 3 / 4, SIZE / 8);
	cr_assert_eq(img_write(img, 0, b->model, SIZE / 2, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_zero(img, SIZE / 2, SIZE / 8, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_write(img, SIZE * 3 / 4, b->model + SIZE * 3 / 4, SIZE / 8, err), 0);
	cr_assert_eq(img_close(img, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	return load_file(b->image);
}

static struct img_check_result check_file(const struct file *file)
{
	struct img *img = open_memory(in_memory(file), IMG_OPEN_CHECK);
	struct img_check_result r;
	struct img_error *err = img_error_new();

	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	img_close(img, NULL);
	return r;
}

static bool is_sound(const struct file *file)
{
	struct img_check_result r = check_file(file);

	return !r.corruptions && !r.leaks && !r.check_errors;
}

/* Does the guest see the model? */
static bool content_same(const struct bench *b, const struct file *file)
{
	struct img *img = open_memory(in_memory(file), IMG_OPEN_CHECK);
	uint8_t *content = malloc(SIZE);
	bool same = !img_read(img, 0, content, SIZE, NULL) && !memcmp(content, b->model, SIZE);

	free(content);
	img_close(img, NULL);
	return same;
}

/* Repair in memory; the new content replaces the old one. record: where writes go, or NULL. */
static struct img_check_result repair_file(struct file *file, unsigned repair,
					   struct img_record *record)
{
	struct img_storage *s = in_memory(file);
	struct img_check_result r;
	struct img_error *err = img_error_new();
	struct img *img;

	if (record)
		cr_assert_eq(img_storage_record(s, record, &s), 0);
	img = open_memory(s, IMG_OPEN_CHECK | IMG_OPEN_WRITE);
	cr_assert_eq(img_check(img, repair, NULL, NULL, &r, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	free(file->bytes);
	file->len = s->size;
	file->bytes = malloc(file->len);
	cr_assert_eq(img_storage_read(s, 0, file->bytes, file->len, NULL), 0);
	img_close(img, NULL);
	return r;
}

/* ---- Finding things in a sound image ---- */

static uint64_t l1_at(const struct file *f)
{
	return be64_load(f->bytes + QCOW2_OFF_L1_OFF);
}

static uint64_t l2_at(const struct file *f)
{
	return be64_load(f->bytes + l1_at(f)) & QCOW2_OFFSET_MASK;
}

static uint64_t reftable_at(const struct file *f)
{
	return be64_load(f->bytes + QCOW2_OFF_REFTABLE_OFF);
}

static uint64_t block_at(const struct file *f)
{
	return be64_load(f->bytes + reftable_at(f));
}

static uint64_t word(const struct file *f, uint64_t at)
{
	return be64_load(f->bytes + at);
}

static void set_word(struct file *f, uint64_t at, uint64_t value)
{
	be64_store(f->bytes + at, value);
}

/* ---- Damages: each on an image of 4 KiB clusters and 16-bit refcounts ---- */

static void no_block(struct file *f)
{
	set_word(f, reftable_at(f), 0);
}

static void unaligned_block(struct file *f)
{
	set_word(f, reftable_at(f), block_at(f) + 512);
}

static void block_outside(struct file *f)
{
	set_word(f, reftable_at(f), UINT64_C(1) << 40);
}

static void block_in_data(struct file *f)
{
	set_word(f, reftable_at(f), word(f, l2_at(f)) & QCOW2_OFFSET_MASK);
}

static void block_with_reserved_bits(struct file *f)
{
	set_word(f, reftable_at(f), block_at(f) | 1);
}

static void no_reftable(struct file *f)
{
	be32_store(f->bytes + QCOW2_OFF_REFTABLE_CLUSTERS, 0);
}

static void counts_wrong(struct file *f)
{
	set_word(f, block_at(f) + 8, UINT64_C(0x0000000100050001));
	set_word(f, block_at(f) + 2048, UINT64_C(0x0001000100010001));
}

static void copied_flags_wrong(struct file *f)
{
	set_word(f, l1_at(f), word(f, l1_at(f)) & ~QCOW2_COPIED);
	set_word(f, l2_at(f) + 16, word(f, l2_at(f) + 16) & ~QCOW2_COPIED);
}

static void reserved_bits(struct file *f)
{
	set_word(f, l1_at(f), word(f, l1_at(f)) | 1);
	set_word(f, l2_at(f), word(f, l2_at(f)) | 4);
}

static void unaligned_preallocation(struct file *f)
{
	/* At half of the disk there are zeroes. */
	set_word(f, l2_at(f) + SIZE / 2 / 4096 * 8, 0x200 | QCOW2_L2_ZERO);
}

static void table_past_the_end(struct file *f)
{
	/* The second half of the L2 table's span is unused: a second L1 entry would be, too. */
	set_word(f, l2_at(f) + SIZE / 2 / 4096 * 8, (f->len + 4096) | QCOW2_L2_ZERO);
}

static void dirty_and_corrupt(struct file *f)
{
	f->bytes[79] |= QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT;
	counts_wrong(f);
}

static const struct damage {
	const char *name;
	void (*make)(struct file *f);
	uint64_t corruptions, leaks; /* what is found; UINT64_MAX: some */
} damages[] = {
	{ "no refcount block", no_block, UINT64_MAX, 0 },
	{ "an unaligned refcount block", unaligned_block, UINT64_MAX, 0 },
	{ "a refcount block outside", block_outside, UINT64_MAX, 0 },
	{ "a refcount block that is data", block_in_data, UINT64_MAX, UINT64_MAX },
	{ "reserved bits in the refcount table", block_with_reserved_bits, 1, 0 },
	{ "no refcount table", no_reftable, UINT64_MAX, 0 },
	{ "wrong counts", counts_wrong, UINT64_MAX, UINT64_MAX },
	{ "wrong copied flags", copied_flags_wrong, 2, 0 },
	{ "reserved bits", reserved_bits, 2, 0 },
	{ "unaligned preallocation", unaligned_preallocation, UINT64_MAX, 0 },
	{ "an entry past the end", table_past_the_end, UINT64_MAX, 0 },
	{ "marked dirty and corrupt", dirty_and_corrupt, UINT64_MAX, UINT64_MAX },
};

static bool found(uint64_t expected, uint64_t n)
{
	return expected == UINT64_MAX ? n > 0 : n == expected;
}

Test(qcow2_check, finds_and_repairs)
{
	struct bench b;
	struct file sound = make_image(&b, "cluster_size=4k");

	cr_assert(is_sound(&sound) && content_same(&b, &sound));
	for (size_t i = 0; i < IMG_ARRAY_LEN(damages); i++) {
		struct file f = copy_file(&sound);
		struct img_check_result r;

		damages[i].make(&f);
		r = check_file(&f);
		cr_assert(found(damages[i].corruptions, r.corruptions),
			  "%s: %" PRIu64 " corruptions", damages[i].name, r.corruptions);
		cr_assert(found(damages[i].leaks, r.leaks) || r.leaks == 0 ||
				  damages[i].leaks == UINT64_MAX,
			  "%s: %" PRIu64 " leaks", damages[i].name, r.leaks);
		r = repair_file(&f, IMG_REPAIR_ALL, NULL);
		cr_assert(!r.corruptions && !r.leaks && r.corruptions_fixed, "%s",
			  damages[i].name);
		cr_assert(is_sound(&f), "%s: not sound after the repair", damages[i].name);
		cr_assert(content_same(&b, &f), "%s: other content", damages[i].name);
		cr_assert_eq(f.bytes[79] & 3, 0, "%s: marks left", damages[i].name);
		if (have_qemu()) {
			write_file(b.image, f.bytes, f.len);
			run(&b, "qemu-img check -q image.qcow2");
		}
		free(f.bytes);
	}
	free(sound.bytes);
	finish(&b);
}

Test(qcow2_check, marks_alone_are_taken_back)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=4k");
	struct img_check_result r;

	f.bytes[79] = QCOW2_INCOMPATIBLE_DIRTY | QCOW2_INCOMPATIBLE_CORRUPT;
	r = repair_file(&f, IMG_REPAIR_LEAKS, NULL);
	cr_assert(!r.corruptions && !r.corruptions_fixed && !r.leaks);
	cr_assert_eq(f.bytes[79], 0);
	free(f.bytes);
	finish(&b);
}

/* ---- Tables in the wrong place ---- */

static uint8_t *content_of(const struct file *file)
{
	struct img *img = open_memory(in_memory(file), IMG_OPEN_CHECK);
	uint8_t *content = malloc(SIZE);

	cr_assert_eq(img_read(img, 0, content, SIZE, NULL), 0);
	img_close(img, NULL);
	return content;
}

/* An entry that points at a table: what the guest reads there stays, and one repair is enough. */
Test(qcow2_check, data_in_a_table)
{
	static const char *const all[] = { "cluster_size=64k", "cluster_size=512", "cluster_size=4k",
					   "compat=0.10", "refcount_bits=64" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(all) * 2; i++) {
		struct bench b;
		struct file f = make_image(&b, all[i / 2]);
		uint64_t table = i % 2 ? l1_at(&f) : l2_at(&f);
		uint8_t *before, *after;
		struct img_check_result r;

		set_word(&f, l2_at(&f) + 8, table | QCOW2_COPIED);
		before = content_of(&f);
		cr_assert_gt(check_file(&f).corruptions, 0);
		r = repair_file(&f, IMG_REPAIR_ALL, NULL);
		cr_assert(!r.corruptions && !r.leaks && r.corruptions_fixed, "%s", all[i / 2]);
		cr_assert(is_sound(&f), "%s", all[i / 2]);
		after = content_of(&f);
		cr_assert(!memcmp(before, after, SIZE), "%s", all[i / 2]);
		if (have_qemu()) {
			write_file(b.image, f.bytes, f.len);
			run(&b, "qemu-img check -q image.qcow2");
		}
		free(before);
		free(after);
		free(f.bytes);
		finish(&b);
	}
}

/* The refcounts know that two things lie there: damage all the same. */
Test(qcow2_check, overlap_that_is_counted)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=4k");
	uint64_t l2 = l2_at(&f), cluster = l2 / 4096;
	uint64_t old = word(&f, l2 + 8) & QCOW2_OFFSET_MASK;

	set_word(&f, l2 + 8, l2);
	set_word(&f, l1_at(&f), l2);
	be16_store(f.bytes + block_at(&f) + cluster * 2, 2);
	be16_store(f.bytes + block_at(&f) + old / 4096 * 2, 0);
	cr_assert_eq(check_file(&f).corruptions, 1);
	repair_file(&f, IMG_REPAIR_ALL, NULL);
	cr_assert(is_sound(&f));
	free(f.bytes);
	finish(&b);
}

/* One bit of the header: all that follows the L1 table is taken for entries of it. */
Test(qcow2_check, too_many_l1_entries)
{
	static const char *const all[] = { "cluster_size=4k", "cluster_size=4k,compat=0.10",
					   "cluster_size=512", "cluster_size=64k" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(all); i++) {
		struct bench b;
		struct file f = make_image(&b, all[i]);

		f.bytes[QCOW2_OFF_L1_ENTRIES + 2] ^= 0x80;
		cr_assert(content_same(&b, &f));
		cr_assert_gt(check_file(&f).corruptions, 0);
		repair_file(&f, IMG_REPAIR_ALL, NULL);
		cr_assert(content_same(&b, &f), "%s", all[i]);
		cr_assert(is_sound(&f), "%s", all[i]);
		free(f.bytes);
		finish(&b);
	}
}

/* Two tables in one place: nothing is changed. */
Test(qcow2_check, beyond_repair)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=4k"), before;
	struct img_check_result r;

	set_word(&f, l1_at(&f), l1_at(&f) | QCOW2_COPIED);
	before = copy_file(&f);
	r = repair_file(&f, IMG_REPAIR_ALL, NULL);
	cr_assert(r.corruptions && !r.corruptions_fixed && !r.leaks_fixed);
	cr_assert(f.len == before.len && !memcmp(f.bytes, before.bytes, f.len));
	free(before.bytes);
	free(f.bytes);
	finish(&b);
}

/* ---- Repairing leaks only ---- */

Test(qcow2_check, leaks_only)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=4k");
	uint64_t at = block_at(&f) + f.len / 4096 * 2;
	struct img_check_result r;

	/* Two clusters that nobody uses, and one that is not counted, which must stay so. */
	f.bytes = realloc(f.bytes, f.len + 4 * 4096);
	cr_assert(f.bytes && is_aligned_u64(f.len, 4096));
	memset(f.bytes + f.len, 0, 4 * 4096);
	f.len += 4 * 4096;
	be16_store(f.bytes + at, 1);
	be16_store(f.bytes + at + 2, 7);
	be16_store(f.bytes + block_at(&f) + 10, 0);
	r = check_file(&f);
	cr_assert_eq(r.leaks, 2);
	cr_assert_geq(r.corruptions, 1);
	r = repair_file(&f, IMG_REPAIR_LEAKS, NULL);
	cr_assert_eq(r.leaks, 0);
	cr_assert_eq(r.leaks_fixed, 2);
	cr_assert_geq(r.corruptions, 1);
	cr_assert_eq(be16_load(f.bytes + block_at(&f) + 10), 0);
	cr_assert(content_same(&b, &f));
	free(f.bytes);
	finish(&b);
}

/* ---- Power failures during a repair ---- */

/* The file after all writes before `whole`, and a random part of those from there to `end`. */
static struct file after_failure(struct bench *b, const struct file *before,
				 struct img_record *record, size_t whole, size_t end)
{
	struct img_storage *s = in_memory(before);
	struct file f;

	for (size_t i = 0; i < end; i++) {
		const struct img_record_entry *e = img_record_at(record, i);

		if (i >= whole && below(b, 2))
			continue;
		if (e->kind == IMG_RECORD_WRITE)
			cr_assert_eq(img_storage_write(s, e->off, e->data, e->len, NULL), 0);
		else if (e->kind == IMG_RECORD_ZERO)
			cr_assert_eq(img_storage_zero(s, e->off, e->len, NULL), 0);
		else if (e->kind == IMG_RECORD_RESIZE)
			cr_assert_eq(img_storage_resize(s, e->len, IMG_PREALLOCATE_OFF, NULL), 0);
	}
	f.len = s->size;
	f.bytes = malloc(f.len);
	cr_assert_eq(img_storage_read(s, 0, f.bytes, f.len, NULL), 0);
	img_storage_close(s);
	return f;
}

Test(qcow2_check, power_failure_during_repair)
{
	struct bench b;
	struct file sound = make_image(&b, "cluster_size=4k");

	for (size_t i = 0; i < IMG_ARRAY_LEN(damages); i++) {
		struct file before = copy_file(&sound), after;
		struct img_record *record = img_record_new();
		size_t whole = 0;
		bool readable;

		damages[i].make(&before);
		readable = content_same(&b, &before); /* reserved bits are not read over */
		after = copy_file(&before);
		repair_file(&after, IMG_REPAIR_ALL, record);
		for (size_t end = 0; end <= img_record_count(record); end++) {
			struct file f = after_failure(&b, &before, record, whole, end);

			cr_assert(!readable || content_same(&b, &f), "%s: lost at write %zu",
				  damages[i].name, end);
			repair_file(&f, IMG_REPAIR_ALL, NULL);
			cr_assert(is_sound(&f), "%s: beyond repair at write %zu", damages[i].name,
				  end);
			cr_assert(content_same(&b, &f), "%s: lost after write %zu",
				  damages[i].name, end);
			free(f.bytes);
			if (end < img_record_count(record) &&
			    img_record_at(record, end)->kind == IMG_RECORD_SYNC)
				whole = end;
		}
		img_record_free(record);
		free(before.bytes);
		free(after.bytes);
	}
	free(sound.bytes);
	finish(&b);
}

/* Guest data is copied out of a table: nothing of it is lost on the way. */
Test(qcow2_check, power_failure_while_data_is_moved)
{
	struct bench b;
	struct file before = make_image(&b, "cluster_size=4k"), after;
	struct img_record *record = img_record_new();
	uint8_t *content;
	size_t whole = 0;

	set_word(&before, l2_at(&before) + 8, l1_at(&before) | QCOW2_COPIED);
	content = content_of(&before);
	after = copy_file(&before);
	repair_file(&after, IMG_REPAIR_ALL, record);
	for (size_t end = 0; end <= img_record_count(record); end++) {
		for (unsigned k = 0; k < 4; k++) {
			struct file f = after_failure(&b, &before, record, whole, end);
			uint8_t *left = content_of(&f), *repaired;

			cr_assert(!memcmp(left, content, SIZE), "lost at write %zu", end);
			repair_file(&f, IMG_REPAIR_ALL, NULL);
			repaired = content_of(&f);
			cr_assert(is_sound(&f) && !memcmp(repaired, content, SIZE), "write %zu", end);
			free(repaired);
			free(left);
			free(f.bytes);
		}
		if (end < img_record_count(record) &&
		    img_record_at(record, end)->kind == IMG_RECORD_SYNC)
			whole = end;
	}
	img_record_free(record);
	free(content);
	free(before.bytes);
	free(after.bytes);
	finish(&b);
}

/* ---- What is lost ---- */

/*
 * An L2 table that is not in the file any more: who finds it again finds all of its data, whatever else was repaired
 * meanwhile.
 */
Test(qcow2_check, a_lost_table_keeps_its_clusters)
{
	for (unsigned i = 0; i < 8; i++) {
		bool counts = i & 1, rebuilds = i & 2;
		struct bench b;
		struct file f = make_image(&b, i & 4 ? "cluster_size=512" : "cluster_size=4k");
		uint64_t entry = l1_at(&f), old, lost;
		struct img_check_result r;

		old = word(&f, entry);
		lost = (f.len + (32 << 20)) / 4096 * 4096 | QCOW2_COPIED;
		set_word(&f, entry, lost);
		if (counts) /* of the header's cluster */
			be16_store(f.bytes + block_at(&f), 0);
		if (rebuilds)
			set_word(&f, reftable_at(&f), block_at(&f) + 100);
		r = repair_file(&f, IMG_REPAIR_ALL, NULL);
		cr_assert_gt(r.corruptions, 0, "%u", i);
		entry = l1_at(&f);
		cr_assert_eq(word(&f, entry) & QCOW2_OFFSET_MASK, lost & QCOW2_OFFSET_MASK, "%u", i);
		set_word(&f, entry, old);
		r = check_file(&f);
		cr_assert_eq(r.corruptions, 0, "%u: %" PRIu64, i, r.corruptions);
		cr_assert(content_same(&b, &f), "%u", i);
		free(f.bytes);
		finish(&b);
	}
}

/* A block of counts that is guest data too is not counted in. */
Test(qcow2_check, leaks_counted_in_data)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=4k");
	uint64_t block = block_at(&f), at = block + f.len / 4096 * 2;
	uint8_t *before, *after;

	f.bytes = realloc(f.bytes, f.len + 4096);
	memset(f.bytes + f.len, 0, 4096);
	f.len += 4096;
	be16_store(f.bytes + at, 1); /* a leak */
	set_word(&f, l2_at(&f) + 8, block);
	before = content_of(&f);
	repair_file(&f, IMG_REPAIR_LEAKS, NULL);
	after = content_of(&f);
	cr_assert(!memcmp(before, after, SIZE));
	free(before);
	free(after);
	free(f.bytes);
	finish(&b);
}

/* ---- Widths, subclusters, snapshots ---- */

Test(qcow2_check, rebuild_in_every_geometry)
{
	static const char *const all[] = {
		"cluster_size=512,refcount_bits=1",
		"cluster_size=512,refcount_bits=64",
		"cluster_size=1k,refcount_bits=2",
		"cluster_size=2k,refcount_bits=8",
		"cluster_size=16k,extended_l2=on",
		"cluster_size=64k,refcount_bits=32",
		"compat=0.10",
		"cluster_size=2M",
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(all); i++) {
		struct bench b;
		struct file f = make_image(&b, all[i]);

		no_block(&f);
		repair_file(&f, IMG_REPAIR_ALL, NULL);
		cr_assert(is_sound(&f), "%s", all[i]);
		cr_assert(content_same(&b, &f), "%s", all[i]);
		if (have_qemu()) {
			write_file(b.image, f.bytes, f.len);
			run(&b, "qemu-img check -q image.qcow2");
		}
		free(f.bytes);
		finish(&b);
	}
}

Test(qcow2_check, subclusters)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=16k,extended_l2=on");
	uint64_t unused = l2_at(&f) + SIZE / 16384 * 7 / 8 * 16;

	set_word(&f, unused + 8, 5); /* allocated, but where? */
	cr_assert_eq(check_file(&f).corruptions, 1);
	set_word(&f, unused + 8, 0);
	set_word(&f, l2_at(&f) + 8, UINT64_C(0x1ffffffff)); /* both allocated and zero */
	cr_assert_eq(check_file(&f).corruptions, 1);
	free(f.bytes);
	finish(&b);
}

Test(qcow2_check, snapshot_entries)
{
	struct img_check_result r;
	struct bench b;
	struct file f;
	uint64_t table;

	if (!have_qemu())
		return;
	f = make_image(&b, "cluster_size=4k");
	free(f.bytes);
	run(&b, "qemu-img snapshot -c one image.qcow2");
	run(&b, "qemu-img snapshot -c two image.qcow2");
	f = load_file(b.image);
	cr_assert(is_sound(&f));
	table = word(&f, QCOW2_OFF_SNAPSHOTS_OFF);

	/* The first entry loses its extra data: the strings follow the fixed part at once. */
	be32_store(f.bytes + table + 36, 8);
	memmove(f.bytes + table + 48, f.bytes + table + 64, 4);
	set_word(&f, table + 56, 0);
	f.bytes[table + 15] = 20; /* a longer name, so that the second entry stays where it is */
	r = check_file(&f);
	cr_assert_eq(r.corruptions, 1);
	r = repair_file(&f, IMG_REPAIR_ALL, NULL);
	cr_assert(!r.corruptions && r.corruptions_fixed == 1);
	cr_assert(is_sound(&f) && content_same(&b, &f));
	/* it has the disk's size */
	cr_assert_geq(be32_load(f.bytes + word(&f, QCOW2_OFF_SNAPSHOTS_OFF) + 36), 16);
	cr_assert_eq(word(&f, word(&f, QCOW2_OFF_SNAPSHOTS_OFF) + 48), SIZE);
	write_file(b.image, f.bytes, f.len);
	run(&b, "qemu-img check -q image.qcow2");
	run(&b, "qemu-img snapshot -a two image.qcow2");
	free(f.bytes);

	/* A snapshot that cannot be found keeps its clusters. */
	f = load_file(b.image);
	table = word(&f, QCOW2_OFF_SNAPSHOTS_OFF);
	set_word(&f, table, word(&f, table) + 512);
	r = check_file(&f);
	cr_assert(r.corruptions == 1 && r.leaks);
	repair_file(&f, IMG_REPAIR_ALL, NULL);
	cr_assert_eq(check_file(&f).leaks, r.leaks);
	set_word(&f, table, word(&f, table) - 512);
	cr_assert(is_sound(&f));
	free(f.bytes);
	finish(&b);
}

/* ---- Hostile ---- */

Test(qcow2_check, many_l1_entries_for_one_table, .timeout = 20)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=64k");
	uint64_t l2 = word(&f, l1_at(&f)), at = f.len;

	/* Four million of them: 256 GiB to read if each were followed. */
	f.len += QCOW2_MAX_L1_BYTES;
	f.bytes = realloc(f.bytes, f.len);
	cr_assert(f.bytes && is_aligned_u64(at, 65536));
	for (uint64_t i = 0; i < QCOW2_MAX_L1_BYTES; i += 8)
		set_word(&f, at + i, l2);
	be32_store(f.bytes + QCOW2_OFF_L1_ENTRIES, QCOW2_MAX_L1_BYTES / 8);
	set_word(&f, QCOW2_OFF_L1_OFF, at);
	cr_assert_gt(check_file(&f).corruptions, 0);
	free(f.bytes);
	finish(&b);
}

/* Many snapshots, each with the largest L1 table, all in one place. */
Test(qcow2_check, many_snapshots_in_one_place, .timeout = 20)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=512");
	uint64_t at = round_up_u64(f.len, 512), bytes = QCOW2_MAX_SNAPSHOTS * UINT64_C(64);
	struct qcow2_snapshot s = {
		.l1_off = at + bytes,
		.l1_entries = QCOW2_MAX_L1_BYTES / 8,
	};
	struct img_check_result r;

	f.bytes = realloc(f.bytes, at + bytes + QCOW2_MAX_L1_BYTES);
	cr_assert(f.bytes);
	f.len = at + bytes + QCOW2_MAX_L1_BYTES;
	memset(f.bytes + at, 0, bytes + QCOW2_MAX_L1_BYTES);
	for (uint64_t i = 0; i < QCOW2_MAX_SNAPSHOTS; i++)
		qcow2_encode_snapshot(&s, f.bytes + at + i * 64);
	be32_store(f.bytes + QCOW2_OFF_SNAPSHOTS, QCOW2_MAX_SNAPSHOTS);
	set_word(&f, QCOW2_OFF_SNAPSHOTS_OFF, at);
	r = check_file(&f);
	cr_assert_gt(r.check_errors, 0);
	free(f.bytes);
	finish(&b);
}

Test(qcow2_check, huge_and_sparse, .timeout = 20)
{
	struct bench b;
	struct file f = make_image(&b, "cluster_size=64k");
	struct img_check_result r;
	struct img *img;

	free(f.bytes);
	if (truncate(b.image, INT64_C(1) << 43)) { /* 8 TiB */
		fprintf(stderr, "skipped: no sparse files here\n");
		finish(&b);
		return;
	}
	img = open_image(&b, IMG_OPEN_CHECK);
	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, NULL), 0);
	cr_assert(!r.corruptions && !r.leaks);
	img_close(img, NULL);
	finish(&b);
}

/* ---- The corpus ---- */

Test(qcow2_check, corpus, .timeout = 120)
{
	const char *corpus = getenv("IMG_CORPUS");
	static const struct {
		const char *name;
		uint64_t corruptions, leaks;
	} all[] = {
		{ "copied-flag", 2, 0 },
		{ "corrupt-bit", 0, 0 },
		{ "dirty-lazy", 22, 0 },
		{ "l2-unaligned", 2, 0 },
		{ "leak3", 0, 3 },
		{ "refcount-high", 3, 3 },
		{ "refcount-low", 2, 0 },
		{ "reftable-zero", 61, 0 },
		{ "shared-cluster", 1, 1 },
		{ "snapshots", 0, 0 },
		{ "bitmaps", 0, 0 },
		{ "luks-xts", 0, 0 },
		{ "ext-l2-2M", 0, 0 },
		{ "v3-512-rc1", 0, 0 },
		{ "zlib-v2-512", 0, 0 },
	};

	if (!corpus)
		corpus = "../shared/corpus";
	if (access(corpus, R_OK))
		cr_skip_test("no corpus: set IMG_CORPUS");
	for (size_t i = 0; i < IMG_ARRAY_LEN(all); i++) {
		char command[500];
		struct img_check_result r;
		struct bench b;
		struct img *img;

		start(&b, 1, 512);
		snprintf(command, sizeof(command), "xz -dc %s/qcow2/%s.qcow2.xz >%s", corpus,
			 all[i].name, b.image);
		cr_assert_eq(system(command), 0, "%s", command);
		img = open_image(&b, IMG_OPEN_CHECK);
		cr_assert_eq(img_check(img, 0, NULL, NULL, &r, NULL), 0);
		img_close(img, NULL);
		cr_assert_eq(r.corruptions, all[i].corruptions, "%s: %" PRIu64 " corruptions",
			     all[i].name, r.corruptions);
		cr_assert_eq(r.leaks, all[i].leaks, "%s: %" PRIu64 " leaks", all[i].name,
			     r.leaks);
		finish(&b);
	}
}

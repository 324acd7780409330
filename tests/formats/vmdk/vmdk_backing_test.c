/*
 * Another parent, and giving up all content: what qemu-img reads afterwards, what a power cut on the way leaves, what
 * is refused.
 */
#include <sys/stat.h>

#include "libimg/image/context.h"
#include "tests/formats/vmdk/bench.h"

enum { SIZE = 1 << 20 };

/* Of children; the last one's text is longer than a sector in a file of its own. */
static const char *const kinds[] = { "subformat=monolithicSparse", "subformat=twoGbMaxExtentSparse",
				     "subformat=monolithicSparse,zeroed_grain=on" };
enum { KINDS = sizeof(kinds) / sizeof(*kinds) };

/*
 * base.vmdk and other.vmdk, of different content, child.vmdk on the first with some of its own, and what it reads as over
 * either, or over none.
 */
static const char *in(const struct bench *b, const char *name)
{
	static char path[200];

	snprintf(path, sizeof(path), "%s/%s", b->dir, name);
	return path;
}

static void load(const struct bench *b, const char *name, uint8_t bytes[SIZE])
{
	FILE *f = fopen(in(b, name), "r");

	cr_assert(f && fread(bytes, 1, SIZE, f) == SIZE && !fclose(f), "%s", name);
}

static void make_all(const struct bench *b, unsigned kind, bool qemu)
{
	static uint8_t other[SIZE];
	struct img *img;

	run(b, "yes base | head -c 1M | dd of=base.raw; yes other | head -c 1M | dd of=other.raw");
	run(b, "mkdir -p deeper; qemu-img convert -f raw -O vmdk base.raw base.vmdk");
	load(b, "other.raw", other);
	if (qemu) {
		run(b, "qemu-img convert -f raw -O vmdk other.raw other.vmdk");
		run(b, "qemu-img create -f vmdk -o %s -b base.vmdk -F vmdk child.vmdk", kinds[kind]);
	} else {
		must_make(in(b, "other.vmdk"), SIZE, NULL, NULL);
		img = open_image(in(b, "other.vmdk"), IMG_OPEN_WRITE);
		cr_assert_eq(img_write(img, 0, other, SIZE, NULL), 0);
		close_image(img);
		must_make(in(b, "child.vmdk"), SIZE, kinds[kind], "base.vmdk");
	}
	run(b, "qemu-io -f vmdk -c 'write -P 7 100k 300k' child.vmdk");
	run(b, "cp base.raw on-base.raw; qemu-io -f raw -c 'write -P 7 100k 300k' on-base.raw");
	/* whole grains are its own, whatever it is put on */
	run(b, "truncate -s 1M none.raw; for i in other none; do cp $i.raw on-$i.raw && dd if=on-base.raw "
	       "of=on-$i.raw bs=64k skip=1 seek=1 count=6 conv=notrunc || exit; done");
}

static const char *child(const struct bench *b)
{
	return in(b, "child.vmdk");
}

static void set(struct img *img, const char *name)
{
	struct img_error *err = img_error_new();
	int rc = img_set_backing_name(img, name, name ? "vmdk" : NULL, err);

	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	img_error_free(err);
}

/* Both read child.vmdk as on-NAME.raw. */
static void must_be_on(const struct bench *b, const char *name)
{
	static uint8_t expected[SIZE];
	uint8_t *bytes;
	char raw[40];

	run(b, "qemu-img check -f vmdk child.vmdk");
	run(b, "qemu-img compare -f vmdk -F raw child.vmdk on-%s.raw", name);
	snprintf(raw, sizeof(raw), "on-%s.raw", name);
	load(b, raw, expected);
	bytes = read_all(child(b), SIZE);
	cr_assert(!memcmp(bytes, expected, SIZE), "over %s", name);
	free(bytes);
}

Test(vmdk_backing, qemu_finds_the_parent, .timeout = 100)
{
	static const struct {
		const char *name, *content;
	} names[] = {
		{ "other.vmdk", "other" },
		{ "deeper/../deeper/../deeper/../deeper/../deeper/../other.vmdk", "other" },
		{ "base.vmdk", "base" },
		{ NULL, "none" },
		{ "./other.vmdk", "other" },
		{ "base.vmdk", "base" },
	};

	if (!have_qemu())
		return;
	for (unsigned i = 0; i < 2 * KINDS; i++) {
		struct bench b;
		struct stat before, after;

		start(&b);
		make_all(&b, i / 2, i % 2);
		chmod(child(&b), 0640);
		stat(child(&b), &before);
		for (size_t k = 0; k < sizeof(names) / sizeof(*names); k++) {
			struct img *img = open_image(child(&b), IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);

			set(img, names[k].name);
			if (k % 2) /* more than the name is changed */
				cr_assert_eq(img_write(img, 0, "", 0, NULL), 0);
			close_image(img);
			must_be_on(&b, names[k].content);
		}
		stat(child(&b), &after);
		cr_assert_eq(after.st_mode, before.st_mode);
		cr_assert_leq(after.st_size, before.st_size + 512);
		run(&b, "! ls | grep new-");
		finish(&b);
	}
}

/* What was written before and after is there, whether or not the descriptor's file is another one. */
Test(vmdk_backing, goes_on_afterwards, .timeout = 60)
{
	if (!have_qemu())
		return;
	for (unsigned kind = 0; kind < KINDS; kind++) {
		struct bench b;
		struct img *img;
		char byte;

		start(&b);
		make_all(&b, kind, true);
		img = open_image(child(&b), IMG_OPEN_WRITE);
		cr_assert_eq(img_write(img, 0, "before", 6, NULL), 0);
		set(img, "other.vmdk");
		cr_assert_eq(img_read(img, SIZE - 1, &byte, 1, NULL), 0);
		cr_assert_eq(img_write(img, 900 << 10, "after", 5, NULL), 0);
		close_image(img);
		/* both grains were filled from the chain that was open */
		run(&b, "dd if=base.raw of=on-other.raw bs=64k count=1 conv=notrunc; "
			"dd if=base.raw of=on-other.raw bs=64k skip=14 seek=14 count=1 conv=notrunc; "
			"printf before | dd of=on-other.raw conv=notrunc; "
			"printf after | dd of=on-other.raw bs=1k seek=900 conv=notrunc");
		must_be_on(&b, "other");
		finish(&b);
	}
}

/* The parent was written to: the same name once more has its new content ID. */
Test(vmdk_backing, the_same_parent_changed, .timeout = 60)
{
	struct bench b;
	struct img *img;

	if (!have_qemu())
		return;
	start(&b);
	make_all(&b, 0, false);
	run(&b, "qemu-io -f vmdk -c 'write -P 9 0 64k' base.vmdk; "
		"qemu-io -f raw -c 'write -P 9 0 64k' on-base.raw");
	refuse_open(child(&b), 0, -EUCLEAN, "changed since");
	img = open_image(child(&b), IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
	set(img, "base.vmdk");
	close_image(img);
	must_be_on(&b, "base");
	finish(&b);
}

/* VirtualBox's UUIDs follow, where the descriptor has them. */
Test(vmdk_backing, uuids, .timeout = 60)
{
	static uint8_t other[SIZE];
	uint8_t *bytes;
	struct bench b;
	struct img *img;

	if (!have_qemu())
		return;
	start(&b);
	make_all(&b, 0, false);
	must_make(child(&b), SIZE, NULL, "other.vmdk");
	run(&b, "grep -a uuid.parent child.vmdk | dd of=then; ! grep -aq 'uuid.parent=\"0000' then");
	img = open_image(child(&b), IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
	set(img, NULL);
	close_image(img);
	run(&b, "test $(grep -ac 'uuid.parent.*=\"00000000-0000-0000-0000-000000000000\"' child.vmdk) = 2");
	run(&b, "grep -aq '^parentCID=ffffffff' child.vmdk");
	img = open_image(child(&b), IMG_OPEN_WRITE);
	set(img, "other.vmdk");
	close_image(img);
	run(&b, "grep -a uuid.parent child.vmdk | cmp - then");
	/* found by its UUID, too */
	run(&b, "mv other.vmdk moved.vmdk");
	load(&b, "other.raw", other);
	bytes = read_all(child(&b), SIZE);
	cr_assert(!memcmp(bytes, other, SIZE));
	free(bytes);
	finish(&b);
}

/* There is no ID that a commit could change, by which other children would notice: it is refused. */
Test(vmdk_backing, a_parent_without_content_id, .timeout = 60)
{
	struct bench b;
	struct img *img;
	uint8_t *bytes;

	start(&b);
	must_make(in(&b, "base.vmdk"), SIZE, NULL, NULL);
	must_make(child(&b), SIZE, NULL, "base.vmdk");
	run(&b, "LC_ALL=C sed -i 's/^CID/cud/' base.vmdk");
	run(&b, "LC_ALL=C sed -i 's/^parentCID=[0-9a-f]*/parentCID=ffffffff/' child.vmdk");
	img = open_image(child(&b), IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 4096, "child", 5, NULL), 0);
	cr_assert_eq(img_commit(img, NULL, NULL), -ENOTSUP);
	close_image(img);
	bytes = read_all(in(&b, "base.vmdk"), SIZE);
	cr_assert_eq(bytes[4096], 0);
	free(bytes);
	bytes = read_all(child(&b), SIZE);
	cr_assert(!memcmp(bytes + 4096, "child", 5));
	free(bytes);
	finish(&b);
}

/* ---- Emptying ---- */

Test(vmdk_backing, empty_is_the_parent, .timeout = 60)
{
	if (!have_qemu())
		return;
	for (unsigned i = 0; i < 2 * KINDS; i++) {
		bool alone = i % 2;
		struct bench b;
		struct img *img;

		start(&b);
		make_all(&b, i / 2, true);
		img = open_image(child(&b), IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
		if (alone)
			set(img, NULL);
		cr_assert_eq(img_make_empty(img, NULL), 0);
		close_image(img);
		run(&b, "qemu-img check -f vmdk child.vmdk");
		run(&b, "qemu-img compare -f vmdk -F raw child.vmdk %s.raw", alone ? "none" : "base");
		run(&b, "test $(cat child*.vmdk | wc -c) -le 140000");
		img = open_image(child(&b), IMG_OPEN_WRITE);
		cr_assert_eq(img_make_empty(img, NULL), 0);
		cr_assert_eq(img_write(img, 700 << 10, "after", 5, NULL), 0);
		cr_assert_eq(img_make_empty(img, NULL), 0);
		cr_assert_eq(img_write(img, 4096, "after", 5, NULL), 0);
		close_image(img);
		run(&b, "printf after | dd of=%s.raw bs=1 seek=4096 conv=notrunc", alone ? "none" : "base");
		run(&b, "qemu-img check -f vmdk child.vmdk");
		run(&b, "qemu-img compare -f vmdk -F raw child.vmdk %s.raw", alone ? "none" : "base");
		finish(&b);
	}
}

/* ---- Power cuts ---- */

static uint64_t next_random(uint64_t *state)
{
	*state = *state * UINT64_C(6364136223846793005) + 1442695040888963407;
	return *state >> 11;
}

static void apply(struct img_storage *s, const struct img_record_entry *e, uint64_t *seed)
{
	uint64_t pick = seed ? next_random(seed) : UINT64_MAX;

	if (e->kind == IMG_RECORD_RESIZE && (pick & 1))
		cr_assert_eq(img_storage_resize(s, e->len, IMG_PREALLOCATE_OFF, NULL), 0);
	/* of a write, any of its sectors */
	for (uint64_t off = 0; e->kind != IMG_RECORD_RESIZE && off < e->len; off += 512) {
		uint64_t n = e->len - off < 512 ? e->len - off : 512;

		pick = seed ? next_random(seed) : UINT64_MAX;
		if ((pick & 1) && e->kind == IMG_RECORD_WRITE)
			cr_assert_eq(img_storage_write(s, e->off + off, e->data + off, n, NULL), 0);
		else if ((pick & 1) && e->kind == IMG_RECORD_ZERO)
			cr_assert_eq(img_storage_zero(s, e->off + off, n, NULL), 0);
	}
}

static struct img_storage *copy_of(const uint8_t *bytes, uint64_t len)
{
	struct img_storage *s;

	cr_assert_eq(img_storage_memory("image", len, 16 << 20, &s), 0);
	cr_assert_eq(img_storage_write(s, 0, bytes, len, NULL), 0);
	return s;
}

static void cut(bool empties, const char *name)
{
	static uint8_t file[4 << 20], own[SIZE], got[SIZE];
	struct img_open_options o = { .format = "vmdk", .flags = IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING };
	/* with its parent, which has to fit: name, content ID and UUID go together */
	struct img_open_options later = { .format = "vmdk", .flags = empties ? IMG_OPEN_NO_BACKING : 0 };
	struct img_record *record = img_record_new();
	uint64_t len, seed = 1;
	struct img_storage *s;
	struct img *img;
	struct bench b;
	size_t synced = 0;
	bool seen[2] = { false };
	FILE *f;

	start(&b);
	make_all(&b, 0, false);
	f = fopen(child(&b), "r");
	cr_assert(f);
	len = fread(file, 1, sizeof(file), f);
	fclose(f);
	cr_assert_eq(img_storage_record(copy_of(file, len), record, &s), 0);
	cr_assert_eq(img_open_storage(s, child(&b), &o, &img, NULL), 0);
	cr_assert_eq(img_read(img, 0, own, SIZE, NULL), 0);
	if (empties)
		cr_assert_eq(img_make_empty(img, NULL), 0);
	else
		set(img, name);
	close_image(img);
	for (size_t n = 0; n <= img_record_count(record); n++) {
		if (n && img_record_at(record, n - 1)->kind == IMG_RECORD_SYNC)
			synced = n;
		for (int k = 0; k < 12; k++) {
			struct img_check_result result = { 0 };
			struct img_error *err = img_error_new();
			const char *stored;
			bool is_new;

			s = copy_of(file, len);
			for (size_t i = 0; i < n; i++)
				apply(s, img_record_at(record, i), i >= synced && k ? &seed : NULL);
			img = NULL;
			cr_assert_eq(img_open_storage(s, child(&b), &later, &img, err), 0, "%s",
				     img_error_text(err));
			img_error_free(err);
			stored = img->backing_name ? img->backing_name : "";
			is_new = strcmp(stored, "base.vmdk") != 0;
			cr_assert(!is_new || !strcmp(stored, name ? name : ""), "%s", stored);
			cr_assert_eq(!img->parent, empties || (is_new && !name));
			seen[is_new] = true;
			cr_assert_eq(img_check(img, 0, NULL, NULL, &result, NULL), 0);
			cr_assert_eq(result.corruptions + result.check_errors, 0);
			if (!empties) {
				close_image(img);
				continue;
			}
			cr_assert_eq(img_read(img, 0, got, SIZE, NULL), 0);
			for (size_t off = 0; off < SIZE; off += 512) {
				static const uint8_t zeroes[512];

				cr_assert(!memcmp(got + off, own + off, 512) ||
					  !memcmp(got + off, zeroes, 512));
			}
			close_image(img);
		}
	}
	cr_assert(empties || (seen[0] && seen[1]));
	img_record_free(record);
	finish(&b);
}

Test(vmdk_backing, power_cuts, .timeout = 200)
{
	if (!have_qemu())
		return;
	cut(false, "other.vmdk");
	cut(false, "deeper/../deeper/../deeper/../deeper/../other.vmdk");
	cut(false, NULL);
	cut(true, "base.vmdk");
}

/* ---- Refusals ---- */

static void refused(struct img *img, int rc, const char *name, const char *format, const char *words)
{
	struct img_error *err = img_error_new();

	cr_assert_eq(img_set_backing_name(img, name, format, err), rc, "%s", img_error_text(err));
	cr_assert(strstr(img_error_text(err), words), "%s", img_error_text(err));
	img_error_free(err);
}

Test(vmdk_backing, refusals, .timeout = 60)
{
	static const uint8_t two[8] = { 2 };
	static const char last[] = "other.vmdk";
	char long_name[680 + sizeof(last)];
	struct bench b;
	struct img *img;

	if (!have_qemu())
		return;
	start(&b);
	make_all(&b, 0, true);
	img = open_image(child(&b), IMG_OPEN_WRITE);
	refused(img, -ENOENT, "nothing.vmdk", "vmdk", "nothing.vmdk");
	refused(img, -EINVAL, "other.raw", "raw", "expected vmdk");
	refused(img, -EINVAL, "other.vmdk", "raw", "expected vmdk");
	refused(img, -ELOOP, "child.vmdk", "vmdk", "itself");
	run(&b, "cp other.vmdk 'quo\"te.vmdk'; sed 's/^CID/cud/' other.vmdk | dd of=no-cid.vmdk");
	refused(img, -EINVAL, "quo\"te.vmdk", "vmdk", "quote");
	refused(img, -ENOTSUP, "no-cid.vmdk", "vmdk", "content ID");
	close_image(img);
	/* nothing of it has changed anything */
	must_be_on(&b, "base");
	/* little room for the text */
	write_at(child(&b), 36, two, sizeof(two));
	memset(long_name, '/', sizeof(long_name));
	memcpy(long_name, "deeper/..", 9);
	memcpy(long_name + 680, last, sizeof(last));
	img = open_image(child(&b), IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
	refused(img, -ENOSPC, long_name, "vmdk", "the space for it is");
	set(img, "other.vmdk");
	close_image(img);
	must_be_on(&b, "other");
	finish(&b);

	start(&b);
	run(&b, "qemu-img create -f vmdk base.vmdk 1M && "
		"qemu-img create -f vmdk -o subformat=monolithicFlat child.vmdk 1M");
	img = open_image(child(&b), IMG_OPEN_WRITE);
	refused(img, -ENOTSUP, "base.vmdk", "vmdk", "flat");
	cr_assert_eq(img_make_empty(img, NULL), -ENOTSUP);
	close_image(img);
	img = open_image(child(&b), 0);
	refused(img, -EROFS, "base.vmdk", "vmdk", "reading only");
	close_image(img);
	run(&b, "qemu-img create -f vmdk -o subformat=twoGbMaxExtentSparse split.vmdk 1M && mv split.vmdk "
		"child.vmdk && ln child.vmdk hard");
	img = open_image(child(&b), IMG_OPEN_WRITE);
	refused(img, -EMLINK, "base.vmdk", "vmdk", "hard links");
	close_image(img);
	finish(&b);
}

/*
 * img_map() and img_info(), against what qemu-img says where it is installed.
 */
#include "libimg/image/context.h"
#include "tests/image/folder.h"
#include "tests/support/command.h"
#include "tests/storage/watch.h"

TestSuite(limits, .init = folder_make, .fini = folder_remove, .timeout = 60);
TestSuite(map, .init = folder_make, .fini = folder_remove, .timeout = 60);

static bool alike(const struct img_map_entry *a, const struct img_map_entry *b)
{
	return a->depth == b->depth && a->present == b->present && a->zero == b->zero &&
	       a->data == b->data && a->compressed == b->compressed &&
	       a->has_offset == b->has_offset &&
	       (!a->has_offset || (a->file == b->file && a->offset + a->length == b->offset));
}

static void print(FILE *f, bool first, const struct img_map_entry *e)
{
	fprintf(f,
		"%s{ \"start\": %llu, \"length\": %llu, \"depth\": %u, \"present\": %s, "
		"\"zero\": %s, \"data\": %s",
		first ? "[" : ",\n", (unsigned long long)e->start, (unsigned long long)e->length,
		e->depth, e->present ? "true" : "false", e->zero ? "true" : "false",
		e->data ? "true" : "false");
	if (e->has_offset)
		fprintf(f, ", \"offset\": %llu", (unsigned long long)e->offset);
	fprintf(f, "}");
}

/* The whole map, as qemu-img 7.2 prints it. Returns the number of calls that it took. */
static size_t write_map(const char *name, const char *to)
{
	struct img *img = must_open(name, NULL, 0);
	struct img_map_entry all = { 0 }, e;
	FILE *f = fopen(to, "w");
	bool first = true;
	size_t calls = 0;

	cr_assert_not_null(f);
	for (uint64_t off = 0; off < img_size(img); off += e.length, calls++) {
		cr_assert_eq(img_map(img, off, img_size(img) - off, true, &e, NULL), 0);
		cr_assert_eq(e.start, off);
		cr_assert(e.length >= 1 && e.length <= img_size(img) - off);
		if (off && alike(&all, &e)) {
			all.length += e.length;
			continue;
		}
		if (off) {
			print(f, first, &all);
			first = false;
		}
		all = e;
	}
	print(f, first, &all);
	fprintf(f, "]\n");
	fclose(f);
	must_close(img);
	return calls;
}

struct asked {
	FILE *f;
	uint64_t next; /* where the next entry begins */
	int rc;
	size_t count;
};

static int print_each(void *user, const struct img_map_entry *e)
{
	struct asked *a = user;

	cr_assert_eq(e->start, a->next);
	print(a->f, !a->count++, e);
	a->next += e->length;
	return a->rc;
}

/* The same, merged by the library. */
static void write_merged_map(const char *name, const char *to)
{
	struct img *img = must_open(name, NULL, 0);
	struct asked a = { .f = fopen(to, "w") };

	cr_assert_not_null(a.f);
	cr_assert_eq(img_map_each(img, 0, img_size(img), true, print_each, &a, NULL), 0);
	cr_assert_eq(a.next, img_size(img));
	fprintf(a.f, "]\n");
	fclose(a.f);
	must_close(img);
}

static void print_mapped(void *user, int rc, const struct img_map_entry *entries, size_t count,
			 const struct img_error *err)
{
	struct asked *a = user;

	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	cr_assert_geq(count, 1);
	for (size_t i = 0; i < count; i++) {
		cr_assert_eq(entries[i].start, a->next);
		cr_assert(!i || !alike(&entries[i - 1], &entries[i]));
		print(a->f, !a->next, &entries[i]);
		a->next += entries[i].length;
	}
	a->count = count;
}

/* The same by requests of so many entries. */
static void write_map_on_queue(const char *name, const char *to, size_t max)
{
	struct img *img = must_open(name, NULL, 0);
	struct asked a = { .f = fopen(to, "w") };
	struct img_queue *q;

	cr_assert_not_null(a.f);
	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	while (a.next < img_size(img)) {
		cr_assert_eq(img_submit_map(q, img, a.next, img_size(img) - a.next, IMG_MAP_DEEP,
					    max, print_mapped, &a, NULL),
			     0);
		while (img_queue_in_flight(q))
			img_queue_run(q, true);
		cr_assert_leq(a.count, max);
	}
	fprintf(a.f, "]\n");
	fclose(a.f);
	img_queue_free(q);
	must_close(img);
}

Test(map, as_qemu_img_says)
{
	static const char *const names[] = {
		"base.raw",
		"mid.qcow2",
		"top.qcow2",
		"pre.qcow2",
		"full.qcow2",
		"comp.qcow2",
		"sparse.vmdk",
		"flat.vmdk",
		"odd.raw",
		"sub.qcow2",
		"plain.qcow2",
	};
	char command[256];

	if (!have_qemu())
		return;
	run("truncate -s 4M base.raw; printf x | dd of=base.raw bs=1 seek=1M conv=notrunc status=none;"
	    "qemu-img create -q -f qcow2 -b base.raw -F raw mid.qcow2 8M;"
	    "qemu-img create -q -f qcow2 -b mid.qcow2 -F qcow2 top.qcow2 16M;"
	    "qemu-io -c 'write -P 1 2M 64k' -c 'write -z 3M 64k' -c 'write -P 3 3200k 64k' "
	    " -c 'write -z 3200k 64k' -c 'write -P 5 7M 64k' mid.qcow2 >/dev/null;"
	    "qemu-io -c 'write -P 1 0 64k' -c 'write -z 64k 64k' -c 'write -z 12M 64k' "
	    " -c 'write -P 9 9M 64k' top.qcow2 >/dev/null;"
	    "qemu-img create -q -f qcow2 -o preallocation=metadata pre.qcow2 4M;"
	    "qemu-io -c 'write -P 1 1M 64k' pre.qcow2 >/dev/null;"
	    "qemu-img create -q -f qcow2 -o preallocation=full full.qcow2 4M;"
	    "qemu-img convert -c -O qcow2 base.raw comp.qcow2;"
	    "qemu-img convert -O qcow2 base.raw plain.qcow2;"
	    "qemu-img convert -O vmdk base.raw sparse.vmdk;"
	    "qemu-img create -q -f vmdk -o subformat=monolithicFlat flat.vmdk 4M;"
	    "qemu-io -f vmdk -c 'write -P 1 1M 64k' flat.vmdk >/dev/null;"
	    "truncate -s 10000 odd.raw; printf x | dd of=odd.raw bs=1 seek=9000 conv=notrunc status=none;"
	    "qemu-img create -q -f qcow2 -o extended_l2=on,cluster_size=64k -b base.raw -F raw "
	    " sub.qcow2 8M; qemu-io -c 'write -P 1 10k 4k' -c 'write -z 1M 6k' sub.qcow2 >/dev/null");
	for (size_t i = 0; i < COUNT(names); i++) {
		write_map(names[i], "ours");
		snprintf(command, sizeof(command),
			 "qemu-img map --output=json %s > theirs; "
			 "diff theirs ours",
			 names[i]);
		cr_expect_eq(system(command), 0, "%s", names[i]);
		write_merged_map(names[i], "ours");
		cr_expect_eq(system(command), 0, "%s, merged", names[i]);
		write_map_on_queue(names[i], "ours", 1000);
		cr_expect_eq(system(command), 0, "%s, on a queue", names[i]);
		write_map_on_queue(names[i], "ours", 1);
		cr_expect_eq(system(command), 0, "%s, entry by entry", names[i]);
	}
}

Test(map, one_image_alone)
{
	struct img_map_entry e;
	struct img *img;

	make_image("base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("top.qcow2", "qcow2", 0, "base.raw", "raw");
	img = must_open("top.qcow2", NULL, 0);
	cr_assert_eq(img_map(img, 0, 1 << 20, false, &e, NULL), 0);
	cr_assert(e.depth == 0 && !e.present && e.length == 1 << 20);
	cr_assert_eq(img_map(img, 0, 1 << 20, true, &e, NULL), 0);
	cr_assert(e.depth == 1 && e.present && e.zero && !e.data);
	cr_assert_eq(img_map(img, 0, 0, true, &e, NULL), -EINVAL);
	must_close(img);
}

Test(map, each_ends_where_its_user_says)
{
	struct asked a = { .f = fopen("/dev/null", "w"), .rc = 7 };
	struct img *img;

	make_image("a.raw", "raw", 1 << 20, NULL, NULL);
	img = must_open("a.raw", "raw", IMG_OPEN_WRITE);
	cr_assert_eq(img_zero(img, 0, 512, NULL), 0);
	cr_assert_eq(img_map_each(img, 0, 1 << 20, true, print_each, &a, NULL), 7);
	cr_assert_eq(a.count, 1);
	a = (struct asked){ .f = a.f, .next = 4096 };
	cr_assert_eq(img_map_each(img, 4096, 0, true, print_each, &a, NULL), 0);
	cr_assert_eq(img_map_each(img, 4096, 1 << 20, true, print_each, &a, NULL), -EINVAL);
	cr_assert_eq(a.count, 0);
	cr_assert_eq(img_map_each(img, 4096, 4096, true, print_each, &a, NULL), 0);
	cr_assert_eq(a.next, 8192);
	fclose(a.f);
	must_close(img);
}

Test(map, emptiness_comes_in_long_runs, .timeout = 10)
{
	make_image("huge.raw", "raw", UINT64_C(1) << 40, NULL, NULL);
	make_image("huge.qcow2", "qcow2", UINT64_C(1) << 40, NULL, NULL);
	make_image("over.qcow2", "qcow2", 0, "huge.qcow2", "qcow2");
	cr_assert_leq(write_map("huge.raw", "ours"), 2);
	cr_assert_leq(write_map("huge.qcow2", "ours"), 4096);
	cr_assert_leq(write_map("over.qcow2", "ours"), 8192);
}

static void keep_answer(void *user, int rc, const struct img_map_entry *entries, size_t count,
			const struct img_error *err)
{
	struct asked *a = user;

	(void)err;
	a->rc = rc;
	a->count = count;
	a->next = count ? entries[count - 1].start + entries[count - 1].length : 0;
}

Test(map, on_a_queue_is_refused_with_a_sentence)
{
	struct img_error *err = img_error_new();
	struct asked a = { .rc = 1 };
	struct img_queue *q;
	struct img *img;

	make_image("a.qcow2", "qcow2", 1 << 20, NULL, NULL);
	img = must_open("a.qcow2", NULL, 0);
	cr_assert_eq(img_queue_new(IMG_IO_THREADS, &q, NULL), 0);
	cr_assert_eq(img_submit_map(q, img, 0, 512, 2, 1, keep_answer, &a, err), -EINVAL);
	cr_assert(strstr(img_error_text(err), "0x2"), "%s", img_error_text(err));
	cr_assert_eq(img_submit_map(q, img, 0, 512, 0, 0, keep_answer, &a, err), -EINVAL);
	cr_assert_eq(img_submit_map(q, img, 0, 0, 0, 1, keep_answer, &a, err), -EINVAL);
	cr_assert_eq(img_submit_map(q, img, 512, 1 << 20, 0, 1, keep_answer, &a, err), -EINVAL);
	cr_assert(strstr(img_error_text(err), "a.qcow2"), "%s", img_error_text(err));
	cr_assert_eq(img_queue_in_flight(q), 0);
	cr_assert_eq(a.rc, 1);
	img_queue_free(q);
	must_close(img);
	img_error_free(err);
}

/* What was found before the damage is told; who asks from there on is told of that. */
Test(map, on_a_queue_goes_as_far_as_it_can)
{
	struct asked a = { 0 };
	struct img_queue *q;
	struct img *img;
	uint8_t bytes[65536] = { 1 };

	make_image("a.qcow2", "qcow2", 1 << 20, NULL, NULL);
	img = must_open("a.qcow2", "qcow2", IMG_OPEN_WRITE);
	cr_assert_eq(img_write(img, 0, bytes, sizeof(bytes), NULL), 0);
	cr_assert_eq(img_write(img, 256 << 10, bytes, sizeof(bytes), NULL), 0);
	must_close(img);
	cr_assert_eq(truncate("a.qcow2", 6 * 65536 + 512), 0); /* the second one's data, but a sector */
	img = must_open("a.qcow2", "qcow2", 0);
	cr_assert_eq(img_queue_new(IMG_IO_THREADS, &q, NULL), 0);
	for (int i = 0; i < 2; i++) {
		cr_assert_eq(img_submit_map(q, img, a.next, (1 << 20) - a.next, IMG_MAP_DEEP, 100,
					    keep_answer, &a, NULL),
			     0);
		cr_assert_neq(img_close(img, NULL), 0, "it is in flight");
		while (img_queue_in_flight(q))
			img_queue_run(q, true);
		cr_assert_eq(a.rc, i ? -EUCLEAN : 0, "%d: %d", i, a.rc);
		cr_assert(i || a.next == (256 << 10) + 512, "%lu", (unsigned long)a.next);
		a.next = (256 << 10) + 512;
	}
	img_queue_free(q);
	must_close(img);
}

Test(map, an_image_opened_for_its_report_has_no_map)
{
	struct img_map_entry e;
	struct img *img;

	make_image("a.qcow2", "qcow2", 1 << 20, NULL, NULL);
	img = must_open("a.qcow2", NULL, IMG_OPEN_SELF_ONLY);
	cr_assert_eq(img_map(img, 0, 512, true, &e, NULL), -EINVAL);
	must_close(img);
}

/* What the chain's files ask for, and what the image's own report says. */
Test(limits, of_the_whole_chain)
{
	struct img_limits l, base, part;
	struct img *img;

	make_image("base.raw", "raw", 1 << 20, NULL, NULL);
	make_image("top.qcow2", "qcow2", 0, "base.raw", "raw");
	img = must_open("base.raw", "raw", 0);
	cr_assert_eq(img_get_limits(img, &l, sizeof(l), NULL), 0);
	cr_assert(l.block == 512 && l.memory_align == 1 && l.optimal == 4096 && !l.flags);
	must_close(img);
	img = must_open("base.raw", "raw", IMG_OPEN_TRY_DIRECT);
	cr_assert_eq(img_get_limits(img, &base, sizeof(base), NULL), 0);
	must_close(img);
	img = must_open("top.qcow2", "qcow2", IMG_OPEN_WRITE | IMG_OPEN_TRY_DIRECT);
	cr_assert_eq(img_get_limits(img, &l, sizeof(l), NULL), 0);
	cr_assert(l.block == base.block || base.block == 512);
	cr_assert_eq(l.memory_align, base.memory_align);
	cr_assert(l.optimal == 65536 && l.zero_granularity == 65536 &&
		  l.discard_granularity == 65536);
	cr_assert_eq(l.flags, IMG_LIMIT_FUA | IMG_LIMIT_FAST_ZERO | IMG_LIMIT_DISCARD_ZEROES);
	memset(&part, 0xee, sizeof(part));
	cr_assert_eq(img_get_limits(img, &part, 8, NULL), 0); /* who knows two fields gets two */
	cr_assert_eq(memcmp(&part, &l, 8), 0);
	cr_assert_eq(((uint8_t *)&part)[8], 0xee);
	must_close(img);
	img = must_open("top.qcow2", "qcow2", IMG_OPEN_SELF_ONLY);
	cr_assert_eq(img_get_limits(img, &l, sizeof(l), NULL), -EINVAL);
	must_close(img);
}

/* IMG_LIMIT_* of an image, and whether what they promise is kept. */
static unsigned limit_flags(const char *name, const char *format)
{
	struct img *img = must_open(name, format, IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	uint64_t all = img_size(img), zero, discard;
	uint8_t *bytes = malloc(all);
	struct img_limits l;
	int rc;

	cr_assert_eq(img_get_limits(img, &l, sizeof(l), NULL), 0);
	zero = l.zero_granularity < all ? l.zero_granularity : all;
	discard = l.discard_granularity < all ? l.discard_granularity : all;
	for (int i = 0; i < 2; i++) {
		memset(bytes, 0xaa, all);
		if (i)
			cr_assert_eq(img_write(img, 0, bytes, all, NULL), 0);
		rc = img_zero_with(img, 0, zero, IMG_SUBMIT_FAST | (i ? IMG_SUBMIT_MAY_UNMAP : 0),
				   NULL);
		cr_assert(!rc || (rc == -ENOTSUP && !(l.flags & IMG_LIMIT_FAST_ZERO)), "%s: %d", format, rc);
		cr_assert_eq(img_discard(img, 0, discard, NULL), 0);
		cr_assert_eq(img_read(img, 0, bytes, discard, NULL), 0);
		for (uint64_t at = 0; at < discard; at++)
			cr_assert(!bytes[at] || !(l.flags & IMG_LIMIT_DISCARD_ZEROES), "%s", name);
	}
	free(bytes);
	must_close(img);
	return l.flags;
}

Test(limits, promise_what_is_kept)
{
	static const struct {
		const char *format, *options;
		unsigned flags;
		bool in_place; /* fast as far as the file system is */
	} rows[] = {
		{ "qcow2", NULL, IMG_LIMIT_FAST_ZERO | IMG_LIMIT_DISCARD_ZEROES, false },
		{ "qcow2", "compat=0.10", 0, false },
		{ "qcow2", "extended_l2=on", IMG_LIMIT_DISCARD_ZEROES, false },
		{ "vmdk", NULL, IMG_LIMIT_FAST_ZERO | IMG_LIMIT_DISCARD_ZEROES, false },
		{ "vhdx", NULL, IMG_LIMIT_DISCARD_ZEROES, true },
		{ "vpc", NULL, IMG_LIMIT_DISCARD_ZEROES, true },
	};
	unsigned file;
	uint8_t bytes[1 << 16];
	FILE *f;

	memset(bytes, 0x55, sizeof(bytes));
	make_image("base.raw", "raw", 6 << 20, NULL, NULL);
	f = fopen("base.raw", "r+e");
	cr_assert(f && fwrite(bytes, sizeof(bytes), 1, f) == 1 && !fclose(f));
	make_image("plain.raw", "raw", 6 << 20, NULL, NULL);
	file = limit_flags("plain.raw", "raw");
	cr_assert(file & IMG_LIMIT_DISCARD_ZEROES);
	for (size_t i = 0; i < COUNT(rows) * 2; i++) {
		const char *list[] = { rows[i / 2].options, NULL };
		unsigned expected = rows[i / 2].flags;
		bool backed = i % 2;
		struct img_create_options o = { .format = rows[i / 2].format,
						.size = 6 << 20,
						.have_size = true,
						.options = list };

		if (backed && strcmp(o.format, "qcow2") != 0)
			continue;
		o.backing_name = backed ? "base.raw" : NULL;
		o.backing_format = backed ? "raw" : NULL;
		if (rows[i / 2].in_place)
			expected |= file & IMG_LIMIT_FAST_ZERO;
		cr_assert_eq(img_create("a", &o, NULL), 0, "%s", o.format);
		cr_assert_eq(limit_flags("a", o.format) & (IMG_LIMIT_FAST_ZERO | IMG_LIMIT_DISCARD_ZEROES),
			     expected, "%s %s", o.format, list[0] ? list[0] : "");
		unlink("a");
	}
}

/* A storage that takes less than requests have gets them in parts; it is told so, and holds no more. */
Test(limits, of_a_file_that_takes_little)
{
	static const char *const formats[] = { "raw", "qcow2", "vmdk", "vhdx", "vpc" };
	uint8_t *bytes = malloc(3 << 20), *back = malloc(3 << 20);
	char name[256];

	for (size_t i = 0; i < 3 << 20; i++)
		bytes[i] = (uint8_t)(i * 7 >> 3);
	for (size_t i = 0; i < COUNT(formats); i++) {
		struct img_limits l;
		struct img *img;

		make_image("little", formats[i], 8 << 20, NULL, NULL);
		snprintf(name, sizeof(name),
			 "json:{'driver':'%s','file':{'driver':'blkdebug','max-transfer':4096,"
			 "'max-write-zero':65536,'image':{'driver':'file','filename':'little'}}}",
			 formats[i]);
		img = must_open(name, NULL, IMG_OPEN_WRITE);
		cr_assert_eq(img_get_limits(img, &l, sizeof(l), NULL), 0);
		cr_assert(l.max_transfer == 4096 && l.max_zero == 65536 && l.max_discard == 65536);
		cr_assert_eq(img_write(img, 777, bytes, 3 << 20, NULL), 0);
		cr_assert_eq(img_zero(img, 1000000, 500000, NULL), 0);
		memset(bytes + 1000000 - 777, 0, 500000);
		cr_assert_eq(img_read(img, 777, back, 3 << 20, NULL), 0);
		cr_assert_eq(memcmp(back, bytes, 3 << 20), 0, "%s", formats[i]);
		must_close(img);
		img = must_open("little", formats[i], 0);
		cr_assert_eq(img_read(img, 777, back, 3 << 20, NULL), 0);
		cr_assert_eq(memcmp(back, bytes, 3 << 20), 0, "%s", formats[i]);
		must_close(img);
	}
	free(bytes);
	free(back);
}

Test(map, info)
{
	struct img *img;
	struct img_value *v = NULL;
	const struct img_value *file;
	struct stat st;

	make_image("b.raw", "raw", 5 << 20, NULL, NULL);
	make_image("a.qcow2", "qcow2", 10 << 20, "b.raw", "raw");
	cr_assert_eq(stat("a.qcow2", &st), 0);
	img = must_open("./a.qcow2", NULL, IMG_OPEN_SELF_ONLY);
	cr_assert_eq(img_info(img, &v, NULL), 0);
	cr_assert_str_eq(img_value_string(img_value_get(v, "filename")), "./a.qcow2");
	cr_assert_str_eq(img_value_string(img_value_get(v, "format")), "qcow2");
	cr_assert_eq(img_value_uint(img_value_get(v, "virtual-size")), 10 << 20);
	cr_assert_eq(img_value_uint(img_value_get(v, "cluster-size")), 65536);
	cr_assert_eq(img_value_uint(img_value_get(v, "actual-size")), (uint64_t)st.st_blocks * 512);
	cr_assert_str_eq(img_value_string(img_value_get(v, "backing-filename")), "b.raw");
	cr_assert_str_eq(img_value_string(img_value_get(v, "full-backing-filename")), "./b.raw");
	cr_assert_str_eq(img_value_string(img_value_get(v, "backing-filename-format")), "raw");
	cr_assert_not(img_value_bool(img_value_get(v, "dirty-flag")));
	cr_assert_null(img_value_get(v, "encrypted"));
	cr_assert_str_eq(
		img_value_string(img_value_get(
			img_value_get(img_value_get(v, "format-specific"), "data"), "compat")),
		"1.1");
	file = img_value_get(img_value_at(img_value_get(v, "children"), 0), "info");
	cr_assert_str_eq(img_value_string(img_value_get(file, "format")), "file");
	cr_assert_eq(img_value_uint(img_value_get(file, "virtual-size")),
		     ((uint64_t)st.st_size + 511) / 512 * 512);
	img_value_free(v);
	must_close(img);
	img = must_open("b.raw", "raw", 0);
	cr_assert_eq(img_info(img, &v, NULL), 0);
	cr_assert_null(img_value_get(v, "cluster-size"));
	cr_assert_null(img_value_get(v, "format-specific"));
	img_value_free(v);
	must_close(img);
}

/* ---- How much is asked ---- */

static unsigned times_asked;

static uint64_t count_allocated(struct img_storage *s)
{
	times_asked++;
	return img_filter_allocated(s);
}

/* Whether it is worth to look for holes is found out once, not for each extent. */
Test(map, asks_once_what_a_file_occupies)
{
	enum { CLUSTER = 64 << 10,
	       CLUSTERS = 32 };
	struct img_open_options o = { .format = "qcow2" };
	struct img_storage_ops ops = watched_ops;
	struct img_error *err = img_error_new();
	static uint8_t bytes[CLUSTER];
	static struct watch w;
	struct img_map_entry e;
	struct img_storage *inner, *s;
	struct img *img;
	unsigned extents = 0;
	ssize_t n;
	int fd;

	make_image("a", "qcow2", CLUSTERS * CLUSTER, NULL, NULL);
	img = must_open("a", "qcow2", IMG_OPEN_WRITE);
	for (unsigned i = CLUSTERS; i-- > 0;) /* each is an extent */
		cr_assert_eq(img_write(img, i * CLUSTER, "x", 1, NULL), 0);
	must_close(img);
	cr_assert_eq(img_storage_memory("a", 64 << 20, 64 << 20, &inner), 0);
	fd = open("a", O_RDONLY | O_CLOEXEC);
	for (uint64_t off = 0; (n = pread(fd, bytes, CLUSTER, (off_t)off)) > 0; off += (uint64_t)n)
		cr_assert_eq(img_storage_write(inner, off, bytes, (size_t)n, NULL), 0);
	close(fd);
	s = watched(&w, 0, inner);
	ops.allocated = count_allocated;
	s->ops = &ops;
	cr_assert_eq(img_open_storage(s, "a", &o, &img, err), 0, "%s", img_error_text(err));
	times_asked = 0;
	for (uint64_t off = 0; off < img_size(img); off += e.length, extents++)
		cr_assert_eq(img_map(img, off, img_size(img) - off, true, &e, err), 0);
	cr_assert_eq(extents, CLUSTERS);
	cr_assert_eq(times_asked, 1, "%u times", times_asked);
	must_close(img);
	img_error_free(err);
}

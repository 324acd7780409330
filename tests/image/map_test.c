/*
 * img_map() and img_info(), against what qemu-img says where it is installed.
 */
#include "tests/image/folder.h"

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

static bool have_qemu(void)
{
	if (!system("command -v qemu-img qemu-io >/dev/null"))
		return true;
	cr_log_warn("no qemu-img: skipped");
	return false;
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

Test(map, emptiness_is_told_in_long_runs, .timeout = 10)
{
	make_image("huge.raw", "raw", UINT64_C(1) << 40, NULL, NULL);
	make_image("huge.qcow2", "qcow2", UINT64_C(1) << 40, NULL, NULL);
	make_image("over.qcow2", "qcow2", 0, "huge.qcow2", "qcow2");
	cr_assert_leq(write_map("huge.raw", "ours"), 2);
	cr_assert_leq(write_map("huge.qcow2", "ours"), 4096);
	cr_assert_leq(write_map("over.qcow2", "ours"), 8192);
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

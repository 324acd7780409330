/*
 * Folders: DiskDescriptor.xml, storages, snapshots.
 */
#include "tests/formats/parallels/xml.h"

TestSuite(parallels_folder, .init = folder_make, .fini = folder_remove);

/* Of the folder, whatever it is opened for: refused with these words. */
static void refused(const char *xml, int rc, const char *words)
{
	struct img_open_options o = { .format = "parallels" };
	const char *text;
	int got;

	descriptor(xml);
	got = must_fail("d.hdd", &o, &text);
	cr_assert(strstr(text, words), "%s: %s", words, text);
	cr_assert_eq(got, rc, "%d: %s", got, text);
	cr_assert(strstr(text, "d.hdd"), "%s", text);
}

static void reads(const uint8_t *model)
{
	folder_reads(&(struct img_open_options){ .format = "parallels" }, model);
	folder_reads(&(struct img_open_options){ 0 }, model);
}

static struct img_check_result check_folder(unsigned repair)
{
	return check("d.hdd", repair);
}

/* ---- Storages ---- */

static const char split[] = XML(STORAGE(2048, 6144, IMAGE(TOP, "Compressed", "b.hds"))
					STORAGE(0, 2048, IMAGE(TOP, "Compressed", "a.hds")),
				SHOT(TOP, NONE));

Test(parallels_folder, split)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;

	descriptor(split);
	make_new("d.hdd/a.hds", MIB, "cluster_size=4k");
	make_old("d.hdd/b.hds", 2 * MIB, 8);
	img = must_open("d.hdd", "parallels", IMG_OPEN_WRITE);
	put(img, MIB - 5000, 10000, 1, model);
	put(img, 2 * MIB, 70000, 2, model);
	put(img, SIZE - 512, 512, 3, model);
	put(img, 0, 512, 4, model);
	cr_assert_eq(peek_le("d.hdd/a.hds", IN_USE_AT, 4), in_use);
	cr_assert_eq(peek_le("d.hdd/b.hds", IN_USE_AT, 4), in_use);
	cr_assert_eq(img_zero(img, MIB - 4096, 8192, NULL), 0);
	memset(model + MIB - 4096, 0, 8192);
	cr_assert_eq(img_discard(img, 2 * MIB, 8192, NULL), 0);
	memset(model + 2 * MIB, 0, 8192);
	must_close(img);
	cr_assert_eq(peek_le("d.hdd/a.hds", IN_USE_AT, 4), closed);
	cr_assert_eq(peek_le("d.hdd/b.hds", IN_USE_AT, 4), closed);
	reads(model);
	reads_as("d.hdd/a.hds", model, MIB);
	reads_as("d.hdd/b.hds", model + MIB, 2 * MIB);
	free(model);
}

/* Clusters of two sizes are read; what would go over from one to the other is not written. */
Test(parallels_folder, uneven)
{
	struct img_open_options o = { .format = "parallels", .flags = IMG_OPEN_WRITE };
	uint8_t *model = calloc(1, SIZE);
	const char *text;

	descriptor(split);
	make_new("d.hdd/a.hds", MIB, "cluster_size=32256");
	make_new("d.hdd/b.hds", 2 * MIB, "cluster_size=64k");
	fill("d.hdd/a.hds", MIB - 700, 700, 1);
	fill("d.hdd/b.hds", 0, 100000, 2);
	memset(model + MIB - 700, 1, 700);
	memset(model + MIB, 2, 100000);
	reads(model);
	cr_assert_eq(must_fail("d.hdd", &o, &text), -ENOTSUP);
	cr_assert(strstr(text, "can only be read"), "%s", text);
	free(model);
}

Test(parallels_folder, plain)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;

	descriptor(XML(STORAGE(0, 4096, IMAGE(TOP, "Plain", "a.hdd"))
			       STORAGE(4096, 6144, IMAGE(TOP, "Compressed", "b.hds")),
		       ""));
	make_file("d.hdd/a.hdd", "abc", 3, 2 * MIB);
	make_new("d.hdd/b.hds", MIB, "cluster_size=64k");
	memcpy(model, "abc", 3);
	reads(model);
	img = must_open("d.hdd", "parallels", IMG_OPEN_WRITE);
	put(img, 2 * MIB - 1000, 70000, 1, model);
	cr_assert_eq(img_zero(img, 512, 1024, NULL), 0);
	must_close(img);
	reads(model);
	cr_assert_eq(file_size("d.hdd/a.hdd"), 2 * MIB);
	cr_assert_eq(truncate("d.hdd/a.hdd", 2 * MIB - 512), 0);
	refused(XML(STORAGE(0, 4096, IMAGE(TOP, "Plain", "a.hdd"))
			    STORAGE(4096, 6144, IMAGE(TOP, "Compressed", "b.hds")),
		    ""),
		-EUCLEAN, "truncated");
	free(model);
}

/* Without its files the descriptor tells how long a plain one has to be, and of an expanding one
 * nothing. */
Test(parallels_folder, report)
{
	struct img_open_options o = { .format = "parallels", .flags = IMG_OPEN_SELF_ONLY };
	const struct img_value *children, *info;
	struct img_value *report = NULL;
	struct img *img = NULL;

	descriptor(XML(STORAGE(0, 4096, IMAGE(TOP, "Plain", "a.hdd"))
			       STORAGE(4096, 6144, IMAGE(TOP, "Compressed", "b.hds")),
		       ""));
	cr_assert_eq(img_open("d.hdd", &o, &img, NULL), 0);
	cr_assert_eq(img_info(img, &report, NULL), 0);
	must_close(img);
	children = img_value_get(report, "children");
	info = img_value_get(img_value_at(children, 0), "info");
	cr_assert_str_eq(img_value_string(img_value_get(info, "filename")), "d.hdd/a.hdd");
	cr_assert_eq(img_value_uint(img_value_get(info, "virtual-size")), 2 * MIB);
	info = img_value_get(img_value_at(children, 1), "info");
	cr_assert_str_eq(img_value_string(img_value_get(info, "filename")), "d.hdd/b.hds");
	cr_assert_null(img_value_get(info, "virtual-size"));
	img_value_free(report);
}

/* ---- Snapshots ---- */

#define CHAIN(top) \
	XML(STORAGE(0, 2048, \
		    IMAGE(TOP, "Compressed", "a2.hds") IMAGE(OLD, "Compressed", "a1.hds") \
			    IMAGE(OLDEST, "Plain", "a0.hds")) \
		    STORAGE(2048, 6144, \
			    IMAGE(OLDEST, "Compressed", "b0.hds") \
				    IMAGE(OLD, "Compressed", "b1.hds") \
					    IMAGE(TOP, "Compressed", "b2.hds")), \
	    top SHOT(OLD, OLDEST) SHOT(TOP, OLD) SHOT(OLDEST, NONE))

static void make_chain(uint8_t *oldest, uint8_t *old, uint8_t *top)
{
	struct img *img;

	mkdir("d.hdd", 0700);
	make_file("d.hdd/a0.hds", "oldest", 6, MIB);
	make_new("d.hdd/a1.hds", MIB, "cluster_size=4k");
	make_new("d.hdd/a2.hds", MIB, "cluster_size=64k");
	make_new("d.hdd/b0.hds", 2 * MIB, "cluster_size=64k");
	make_new("d.hdd/b1.hds", 2 * MIB, "cluster_size=4k");
	make_new("d.hdd/b2.hds", 2 * MIB, "cluster_size=64k");
	fill("d.hdd/b0.hds", 0, 2 * MIB, 9);
	fill("d.hdd/b1.hds", 4096, 4096, 8);
	fill("d.hdd/a1.hds", 8192, 4096, 7);
	memcpy(oldest, "oldest", 6);
	memset(oldest + MIB, 9, 2 * MIB);
	memcpy(old, oldest, SIZE);
	memset(old + MIB + 4096, 8, 4096);
	memset(old + 8192, 7, 4096);
	memcpy(top, old, SIZE);
	descriptor(CHAIN(""));
	img = must_open("d.hdd", "parallels", IMG_OPEN_WRITE);
	put(img, 9000, 100, 1, top);
	put(img, MIB - 3, 6, 2, top);
	cr_assert_eq(img_zero(img, 2 * MIB, 70000, NULL), 0);
	memset(top + 2 * MIB, 0, 70000);
	must_close(img);
}

static int open_view(const char *view, unsigned flags, struct img **out)
{
	struct img_open_options o = { .flags = flags };
	struct img_node *node = NULL;
	char text[200];
	int rc;

	snprintf(text, sizeof(text), "driver=parallels,file.filename=d.hdd,%s", view);
	cr_assert_eq(img_node_parse_options(text, &node, NULL), 0);
	rc = img_open_node(node, &o, out, NULL);
	img_node_free(node);
	return rc;
}

Test(parallels_folder, snapshots)
{
	uint8_t *oldest = calloc(1, SIZE), *old = calloc(1, SIZE), *top = calloc(1, SIZE);
	struct img_check_result r;
	struct img *img;

	make_chain(oldest, old, top);
	reads(top);
	r = check_folder(0);
	cr_assert(!r.corruptions && !r.leaks);
	/* what is below stays as it was */
	cr_assert_eq(peek_le("d.hdd/b1.hds", IN_USE_AT, 4), closed);
	cr_assert_eq(open_view("snapshot.id=" OLD, 0, &img), 0);
	cr_assert_eq(img_read(img, 0, top, SIZE, NULL), 0);
	cr_assert(!memcmp(top, old, SIZE));
	must_close(img);
	cr_assert_eq(open_view("snapshot.name=aaaaaaaa-2222-3333-4444-555555555555", 0, &img), 0);
	cr_assert_eq(img_read(img, 0, top, SIZE, NULL), 0);
	cr_assert(!memcmp(top, oldest, SIZE));
	must_close(img);
	cr_assert_eq(open_view("snapshot.id=" NONE, 0, &img), -ENOENT);
	cr_assert_eq(open_view("snapshot.id=" OLD, IMG_OPEN_WRITE, &img), -EINVAL);
	/* another one is on top */
	descriptor(CHAIN("<TopGUID>" OLD "</TopGUID>"));
	reads(old);
	free(oldest);
	free(old);
	free(top);
}

/* A snapshot whose files are not there is never read as zeroes. */
Test(parallels_folder, missing)
{
	uint8_t *oldest = calloc(1, SIZE), *old = calloc(1, SIZE), *top = calloc(1, SIZE);
	struct img_open_options o = { .format = "parallels" };
	const char *text;

	make_chain(oldest, old, top);
	cr_assert_eq(rename("d.hdd/b1.hds", "d.hdd/other"), 0);
	cr_assert_eq(must_fail("d.hdd", &o, &text), -ENOENT);
	cr_assert(strstr(text, "b1.hds"), "%s", text);
	cr_assert_eq(rename("d.hdd/other", "d.hdd/b1.hds"), 0);
	reads(top);
	free(oldest);
	free(old);
	free(top);
}

/* ---- Descriptors that are wrong ---- */

#define ONE STORAGE(0, 6144, IMAGE(TOP, "Compressed", "a.hds"))

Test(parallels_folder, refused)
{
	static const struct {
		const char *xml;
		int rc;
		const char *words;
	} rows[] = {
		{ XML(STORAGE(0, 4096, IMAGE(TOP, "Compressed", "a.hds")), ""), -EUCLEAN, "4096" },
		{ XML(STORAGE(1, 6144, IMAGE(TOP, "Compressed", "a.hds")), ""), -EUCLEAN,
		  "expected to begin at 0" },
		{ XML(ONE STORAGE(4096, 6144, IMAGE(TOP, "Compressed", "a.hds")), ""), -EUCLEAN,
		  "begin at 6144" },
		{ XML(ONE, SHOT(TOP, OLD)), -EUCLEAN, "not among the snapshots" },
		{ XML(ONE, SHOT(TOP, OLD) SHOT(OLD, TOP)), -EUCLEAN, "based on itself" },
		{ XML(ONE, SHOT(TOP, TOP)), -EUCLEAN, "based on itself" },
		{ XML(ONE, SHOT(OLD, NONE)), -EUCLEAN, "top snapshot" },
		{ XML(ONE, SHOT(TOP, NONE) SHOT(TOP, NONE)), -EUCLEAN, "two snapshots" },
		{ XML(ONE, SHOT(TOP, "{nonsense}")), -EUCLEAN, "a GUID" },
		{ XML(ONE, "<TopGUID>" OLD "</TopGUID>"), -EUCLEAN, "no image of snapshot" },
		{ XML(STORAGE(0, 6144, IMAGE(OLD, "Compressed", "a.hds")), ""), -EUCLEAN,
		  "no image of snapshot" },
		{ XML(STORAGE(0, 6144,
			      IMAGE(TOP, "Compressed", "a.hds") IMAGE(TOP, "Plain", "b.hds")),
		      ""),
		  -EUCLEAN, "two images" },
		{ XML(STORAGE(0, 6144, IMAGE(TOP, "Packed", "a.hds")), ""), -EUCLEAN,
		  "Compressed or Plain" },
		{ XML(STORAGE(0, 6144, IMAGE(TOP, "Compressed", "")), ""), -EUCLEAN, "File" },
		{ XML(STORAGE(0, 6144, IMAGE(TOP, "Compressed", "../out.hds")), ""), -EPERM,
		  "--references" },
		{ XML(STORAGE(0, 6144, IMAGE(TOP, "Compressed", "/etc/passwd")), ""), -EPERM,
		  "--references" },
		{ XML(STORAGE(0, 6144, IMAGE(TOP, "Compressed", "out.hds")), ""), -EPERM,
		  "--references" },
		{ XML(STORAGE(0, 6144, IMAGE(TOP, "Plain", "nbd://example.org/x")), ""), -EPERM,
		  "nbd" },
		{ XML(STORAGE(0, 6144, IMAGE(TOP, "Compressed", "DiskDescriptor.xml")), ""),
		  -ELOOP, "image itself" },
		{ XML(STORAGE(0, 6144, IMAGE(TOP, "Compressed", "text")), ""), -EUCLEAN,
		  "no expanding image" },
		{ XML(STORAGE(0, 6144, IMAGE(TOP, "Compressed", "small.hds")), ""), -EUCLEAN,
		  "disk size" },
		{ XML(STORAGE(0, 3072, IMAGE(TOP, "Compressed", "a.hds"))
			      STORAGE(3072, 6144, IMAGE(TOP, "Compressed", "./a.hds")),
		      ""),
		  -EUCLEAN, "already" },
		{ XML_OF("", ONE, ""), -EUCLEAN, "Disk_size" },
		{ XML_OF("<Disk_size>many</Disk_size>", ONE, ""), -EUCLEAN, "a number" },
		{ XML_OF("<Disk_size>-1</Disk_size>", ONE, ""), -EUCLEAN, "a number" },
		{ XML_OF("<Disk_size>18446744073709551617</Disk_size>", ONE, ""), -EUCLEAN,
		  "a number" },
		{ XML_OF("<Disk_size>18446744073709551615</Disk_size>", ONE, ""), -EUCLEAN,
		  "Disk_size" },
		{ XML_OF("<Disk_size>6144</Disk_size><Padding>1</Padding>", ONE, ""), -ENOTSUP,
		  "Padding" },
		{ XML_OF("<Disk_size>6144</Disk_size><LogicSectorSize>4096</LogicSectorSize>", ONE,
			 ""),
		  -ENOTSUP, "LogicSectorSize" },
		{ XML_OF("<Disk_size>6144</Disk_size><Encryption><Engine>" OLD
			 "</Engine></Encryption>",
			 ONE, ""),
		  -ENOTSUP, "encrypted" },
		{ "<Parallels_disk_image><Disk_Parameters>", -EUCLEAN, "line 1" },
		{ "<other>Parallels_disk_image</other>", -EUCLEAN, "first element" },
		{ "<!DOCTYPE Parallels_disk_image SYSTEM 'http://example.org/x.dtd'><Parallels_disk_image/>",
		  -EUCLEAN, "document type" },
		{ "<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><Parallels_disk_image>&b;"
		  "</Parallels_disk_image>",
		  -EUCLEAN, "document type" },
	};

	mkdir("d.hdd", 0700);
	make_new("d.hdd/a.hds", SIZE, NULL);
	make_new("d.hdd/small.hds", SIZE - 512, NULL);
	make_new("out.hds", SIZE, NULL);
	make_file("d.hdd/text", "text", 4, 4);
	cr_assert_eq(symlink("../out.hds", "d.hdd/out.hds"), 0);
	for (size_t i = 0; i < COUNT(rows); i++)
		refused(rows[i].xml, rows[i].rc, rows[i].words);
}

/* Depth and length have their limits. */
Test(parallels_folder, endless)
{
	const size_t len = 3 * MIB;
	char *xml = malloc(len + 1);

	memset(xml, ' ', len);
	xml[len] = 0;
	memcpy(xml, "<Parallels_disk_image>", 22);
	refused(xml, -EUCLEAN, "bytes of XML");
	for (size_t i = 22; i + 3 < 300000; i += 3)
		memcpy(xml + i, "<a>", 3);
	xml[300000] = 0;
	refused(xml, -EUCLEAN, "line 1");
	free(xml);
}

/* ---- Made ---- */

Test(parallels_folder, made)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;

	mkdir("d.hdd", 0700);
	make_new("d.hdd", SIZE, "cluster_size=64k");
	img = must_open("d.hdd", "parallels", IMG_OPEN_WRITE);
	put(img, 100000, 100000, 1, model);
	must_close(img);
	reads(model);
	reads_as("d.hdd/d.hdd.0.{5fbaabe3-6958-40ff-92a7-860e329aab41}.hds", model, SIZE);
	cr_assert_eq(check_folder(0).corruptions, 0);
	/* markup in a name, or what a reader could take for a protocol, does not get into the XML
	 */
	mkdir("./a<b>&c:d", 0700);
	make_new("./a<b>&c:d/DiskDescriptor.xml", SIZE, NULL);
	must_close(must_open("./a<b>&c:d", "parallels", 0));
	must_close(must_open("./a<b>&c:d/disk.hdd.0.{5fbaabe3-6958-40ff-92a7-860e329aab41}.hds", NULL,
			     0));
	free(model);
}

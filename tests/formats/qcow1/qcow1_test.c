/*
 * What qcow images of version 1 read as, what is made, how they are written to, encrypted ones, and their check.
 */
#include "tests/formats/qcow1/plain.h"

TestSuite(qcow1, .init = folder_make, .fini = folder_remove);

enum { SIZE = 3 * MIB + 512 };

#define D(i) (FIRST + (uint64_t)(i)*CLUSTER)
static const uint64_t some[] = { D(2), 0, D(0), D(1) };

static void make_some(struct plain p)
{
	p.in_file = 3;
	p.entries = some;
	p.entry_count = COUNT(some);
	make_plain("a", &p);
}

static void model_of_some(uint8_t *model)
{
	memset(model, 3, CLUSTER);
	memset(model + 2 * CLUSTER, 1, CLUSTER);
	memset(model + 3 * CLUSTER, 2, CLUSTER);
}

/* ---- Reading ---- */

Test(qcow1, clusters_where_the_tables_say)
{
	static uint8_t model[64 * CLUSTER];

	model_of_some(model);
	make_some((struct plain){ 0 });
	library_reads("a", model, sizeof(model));
	/* a size of no whole sectors is cut */
	make_some((struct plain){ .size = 10 * CLUSTER + 700 });
	library_reads("a", model, 10 * CLUSTER + 512);
}

/* Whatever the backing file looks like, its format is found out; behind its end there are zeroes. */
Test(qcow1, over_a_shorter_backing_file)
{
	static uint8_t model[64 * CLUSTER], below[10 * CLUSTER + 512];

	memset(below, 9, sizeof(below));
	make_file("base", below, sizeof(below), sizeof(below));
	memcpy(model, below, sizeof(below));
	model_of_some(model);
	make_some((struct plain){ .backing = "base" });
	library_reads("a", model, sizeof(model));
	make("base", sizeof(model), NULL, NULL, NULL);
	memset(model, 0, sizeof(model));
	model_of_some(model);
	library_reads("a", model, sizeof(model));
}

/* Clusters anywhere are read; for writing they have to be where others look for them. */
Test(qcow1, clusters_at_odd_places)
{
	struct img_open_options o = { .format = "qcow", .flags = IMG_OPEN_WRITE };
	static uint8_t model[64 * CLUSTER];
	const char *text;

	model_of_some(model);
	make_some((struct plain){ 0 });
	patch64("a", TABLE + 8, D(0) + 512 * 3);
	memset(model + CLUSTER, 1, CLUSTER - 1536);
	memset(model + 2 * CLUSTER - 1536, 2, 1536);
	library_reads("a", model, sizeof(model));
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "repaired"), "%s", text);
	cr_assert_eq(check("a", 0).corruptions, 3);
	check("a", IMG_REPAIR_ALL);
	sound("a");
	reads_as("a", model, sizeof(model));
}

static void refused(uint64_t off, uint32_t value, const char *word)
{
	struct img_open_options o = { .format = "qcow" };
	uint8_t bytes[4];
	const char *text;

	make_some((struct plain){ .backing = "base" });
	be32_store(bytes, value);
	patch("a", off, bytes, sizeof(bytes));
	must_fail("a", &o, &text);
	cr_assert(strstr(text, word), "%s", text);
}

Test(qcow1, headers_that_are_refused)
{
	refused(8, 1, "backing file name");
	refused(12, 7, "backing file name offset is 7");
	refused(16, 1024, "backing file name size");
	refused(16, UINT32_MAX, "backing file name size");
	refused(24, UINT32_MAX, "size");
	refused(28, 1, "size is 1");
	refused(28, 0, "size is 0");
	refused(32, 0x08090000, "cluster bits");
	refused(32, 0x11090000, "cluster bits");
	refused(32, 0x0c050000, "L2 bits");
	refused(32, 0x0c0e0000, "L2 bits");
	refused(32, 0xffff0000, "cluster bits");
	refused(36, 2, "encryption method");
	refused(40, 1, "truncated");
	refused(40, UINT32_MAX, "L1 table offset");
	refused(44, 40, "L1 table offset is 40");
	refused(44, 68, "L1 table offset is 68");
}

/* It is no qcow2, and a qcow2 is none. */
Test(qcow1, probed)
{
	const char *format;

	make_some((struct plain){ 0 });
	cr_assert(!img_probe("a", &format, NULL) && !strcmp(format, "qcow"));
	make_image("q", "qcow2", SIZE, NULL, NULL);
	cr_assert(!img_probe("q", &format, NULL) && !strcmp(format, "qcow2"));
}

/* ---- Writing ---- */

Test(qcow1, writes)
{
	static uint8_t model[64 * CLUSTER];
	struct img *img;

	make_some((struct plain){ 0 });
	model_of_some(model);
	img = must_open("a", "qcow", IMG_OPEN_WRITE);
	put(img, CLUSTER - 700, 1500, 0x41, model); /* old and new */
	put(img, 63 * CLUSTER + 100, 10, 0x42, model);
	put(img, 64 * CLUSTER - 512, 512, 0x43, model);
	must_close(img);
	reads_as("a", model, sizeof(model));
	sound("a");
}

Test(qcow1, discards)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;
	struct stat st;

	make("a", SIZE, NULL, NULL, NULL);
	img = must_open("a", "qcow", IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	for (unsigned i = 0; i < 48; i++)
		put(img, i * 64 * KIB, 64 * KIB, (uint8_t)(i + 1), model);
	cr_assert_eq(img_discard(img, 128 * KIB, MIB, NULL), 0);
	memset(model + 128 * KIB, 0, MIB);
	cr_assert_eq(img_zero_with(img, 2 * MIB + 100, 192 * KIB, IMG_SUBMIT_MAY_UNMAP, NULL), 0);
	memset(model + 2 * MIB + 100, 0, 192 * KIB);
	must_close(img);
	reads_as("a", model, SIZE);
	sound("a");
	cr_assert_eq(stat("a", &st), 0);
	cr_assert_leq(st.st_size, (32 * 16 - 47 + 3) * CLUSTER);
	free(model);
}

static void put_packed(struct img *img, uint64_t off, uint64_t len, uint8_t value, uint8_t *model)
{
	struct img_error *err = img_error_new();

	memset(model + off, value, len);
	for (uint64_t at = off; at < off + len; at += 100)
		model[at] = (uint8_t)(at / 100);
	for (uint64_t unit = img_unit_bytes(img), at = off; at < off + len; at += unit)
		cr_assert_eq(img_write_with(img, at, model + at, unit, IMG_SUBMIT_COMPRESS, err), 0, "%s",
			     img_error_text(err));
	img_error_free(err);
}

/* Compressed data is packed, written over, and moves down when what was before it is gone. */
Test(qcow1, packed)
{
	for (unsigned over = 0; over < 2; over++) {
		uint8_t *model = calloc(1, SIZE + CLUSTER);
		struct img *img;
		struct stat full, left;

		if (over)
			make("b", SIZE, NULL, NULL, NULL);
		make("a", SIZE, NULL, over ? "b" : NULL, NULL);
		img = must_open("a", "qcow", IMG_OPEN_WRITE);
		put_packed(img, 0, 2 * MIB + 64 * KIB, 0x11, model);
		put(img, 2 * MIB + 128 * KIB, 64 * KIB, 0x22, model);
		put_packed(img, 2 * MIB + 256 * KIB, 512 * KIB, 0x33, model);
		must_close(img);
		reads_as("a", model, SIZE);
		sound("a");
		cr_assert(!stat("a", &full) && full.st_size < MIB);
		img = must_open("a", "qcow", IMG_OPEN_WRITE);
		put_packed(img, 64 * KIB, MIB, 0x44, model);
		put(img, MIB + 1000, 100, 0x55, model);
		if (!over) {
			cr_assert_eq(img_discard(img, 0, 64 * KIB, NULL), 0);
			memset(model, 0, 64 * KIB);
		}
		must_close(img);
		reads_as("a", model, SIZE);
		sound("a");
		cr_assert(!stat("a", &left) && left.st_size < full.st_size + 64 * KIB);
		free(model);
	}
}

/* ---- Creating, resizing ---- */

Test(qcow1, created_as_asked)
{
	struct bytes b;
	const char *text;

	make("b", SIZE, NULL, NULL, NULL);
	b = load("b");
	cr_assert(b.len == 48 + 512 && b.at[32] == 12 && b.at[33] == 9 && at64("b", 40) == 48);
	free(b.at);
	make("a", 0, NULL, "b", NULL);
	b = load("a");
	cr_assert(b.len == 56 + 512 && b.at[32] == 9 && b.at[33] == 12 && at64("a", 40) == 56);
	cr_assert(at64("a", 8) == 48 && be32_load(b.at + 16) == 1 && b.at[48] == 'b');
	free(b.at);
	cr_assert_neq(make("c", 0, "size=0", NULL, &text), 0);
	cr_assert_neq(make("c", UINT64_C(1) << 50, NULL, NULL, &text), 0);
	cr_assert(strstr(text, "expected at most"), "%s", text);
	cr_assert_neq(make("c", SIZE, "cluster_size=4k", NULL, &text), 0);
	cr_assert_eq(access("c", F_OK), -1);
}

Test(qcow1, resized)
{
	make("a", 4 * MIB, NULL, NULL, NULL);
	resize_around("a", 4 * MIB, 40 * MIB, NULL);
}

/* The L1 table grows in its place, then elsewhere, and comes back when the disk is small. */
Test(qcow1, l1_table_moves)
{
	const uint64_t sizes[] = { 900 * (uint64_t)MIB, 2000 * (uint64_t)MIB, 9000 * (uint64_t)MIB,
				   5 * MIB, 40000 * (uint64_t)MIB, 6 * MIB };
	uint8_t *model = calloc(1, 5 * MIB);
	struct img *img;
	uint8_t got[100];

	make("a", 4 * MIB, NULL, NULL, NULL);
	img = must_open("a", "qcow", IMG_OPEN_WRITE);
	put(img, 0, 3 * MIB, 7, model);
	for (size_t i = 0; i < COUNT(sizes); i++) {
		resize(img, sizes[i]);
		put(img, 3 * MIB + i * 1000, 1000, (uint8_t)i, model);
		if (sizes[i] > 900 * (uint64_t)MIB) {
			cr_assert_eq(img_read(img, sizes[i] - 100, got, 100, NULL), 0);
			cr_assert(!got[0] && !memcmp(got, got + 1, 99));
			cr_assert_eq(img_write(img, sizes[i] - 100, model, 100, NULL), 0);
		}
		must_close(img);
		sound("a");
		cr_assert_eq(at64("a", 24), sizes[i]);
		cr_assert_eq(at64("a", 40) == 48, i == 0, "%zu", i);
		img = must_open("a", "qcow", IMG_OPEN_WRITE);
	}
	resize(img, 5 * MIB);
	cr_assert_eq(img_resize(img, 0, IMG_PREALLOCATE_OFF, NULL), -EINVAL);
	cr_assert_eq(img_resize(img, INT64_MAX / 512 * 512, IMG_PREALLOCATE_OFF, NULL), -EFBIG);
	cr_assert_eq(img_resize(img, 8 * MIB, IMG_PREALLOCATE_FALLOC, NULL), -ENOTSUP);
	must_close(img);
	reads_as("a", model, 5 * MIB);
	sound("a");
	free(model);
}

/* QEMU puts compressed data right behind the L1 table: a longer one may not be written over it. */
Test(qcow1, l1_table_beside_packed)
{
	static uint8_t model[64 * CLUSTER];
	uint8_t packed[200] = { 0 };
	struct plain p = { .in_file = 3, .entries = some, .entry_count = COUNT(some) };
	z_stream z = { .next_in = model + CLUSTER,
		       .avail_in = CLUSTER,
		       .next_out = packed,
		       .avail_out = sizeof(packed) };
	struct img *img;

	model_of_some(model);
	memset(model + CLUSTER, 0x77, CLUSTER);
	cr_assert_eq(deflateInit2(&z, 9, Z_DEFLATED, -12, 9, Z_DEFAULT_STRATEGY), Z_OK);
	cr_assert_eq(deflate(&z, Z_FINISH), Z_STREAM_END);
	make_plain("a", &p);
	patch("a", 100, packed, z.total_out);
	patch64("a", TABLE + 8, PACKED(100, z.total_out));
	deflateEnd(&z);
	library_reads("a", model, sizeof(model));
	img = must_open("a", "qcow", IMG_OPEN_WRITE);
	resize(img, (uint64_t)400 * MIB);
	resize(img, sizeof(model));
	must_close(img);
	reads_as("a", model, sizeof(model));
	sound("a");
}

/* QEMU inflates with a window of 4 KiB. */
Test(qcow1, large_clusters_are_not_packed)
{
	static uint8_t zeroes[8 * KIB];
	struct img *img;

	make("a", SIZE, NULL, NULL, NULL);
	patch("a", 32, "\15", 1);
	img = must_open("a", "qcow", IMG_OPEN_WRITE);
	cr_assert_eq(img_unit_bytes(img), sizeof(zeroes));
	cr_assert_neq(img_write_with(img, 0, zeroes, sizeof(zeroes), IMG_SUBMIT_COMPRESS, NULL), 0);
	cr_assert_eq(img_write(img, 0, zeroes, sizeof(zeroes), NULL), 0);
	must_close(img);
	sound("a");
}

/* ---- Parents ---- */

Test(qcow1, other_backing_files)
{
	char names[6][1025];
	struct img *img;

	make("b", SIZE, NULL, NULL, NULL);
	make("a", SIZE, NULL, "b", NULL);
	for (unsigned i = 0; i < COUNT(names); i++) {
		memset(names[i], 'a' + (int)i, 1024);
		names[i][(const unsigned[]){ 3, 700, 1023, 1, 1000, 1024 }[i]] = 0;
	}
	for (unsigned i = 0; i < COUNT(names); i++) {
		bool fits = i < COUNT(names) - 1;
		struct bytes b;
		uint64_t at;

		img = must_open("a", "qcow", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
		cr_assert_eq(img_set_backing_name(img, names[i], i % 2 ? "raw" : NULL, NULL), fits ? 0 : -EINVAL);
		if (!fits)
			cr_assert_eq(img_set_backing_name(img, NULL, NULL, NULL), 0);
		must_close(img);
		b = load("a");
		at = be64_load(b.at + 8);
		if (fits)
			cr_assert(be32_load(b.at + 16) == strlen(names[i]) &&
					  !memcmp(b.at + at, names[i], strlen(names[i])),
				  "%u", i);
		else
			cr_assert_eq(at, 0);
		free(b.at);
	}
	sound("a");
}

/* "./././b", of an odd number of bytes, or of none. */
static void long_name(char *name, size_t len)
{
	for (size_t i = 0; i < len; i++)
		name[i] = "./"[i % 2];
	if (len)
		name[len - 1] = 'b';
	name[len] = 0;
}

/* Where the L1 table was there are clusters now: a name may not be written over them. */
Test(qcow1, name_beside_clusters)
{
	uint8_t *model = calloc(1, 200 * MIB);
	char name[1024];
	struct img *img;

	make("b", SIZE, NULL, NULL, NULL);
	make("a", 4 * MIB, NULL, "b", NULL);
	img = must_open("a", "qcow", IMG_OPEN_WRITE);
	put(img, 0, 3 * MIB, 7, model);
	resize(img, 200 * MIB);
	must_close(img);
	for (size_t i = 0, lengths[] = { 899, 1, 799, 0, 1023, 439 }; i < COUNT(lengths); i++) {
		long_name(name, lengths[i]);
		img = must_open("a", "qcow", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
		cr_assert_eq(img_set_backing_name(img, lengths[i] ? name : NULL, NULL, NULL), 0);
		put(img, i * 1000, 2000, (uint8_t)i, model);
		must_close(img);
		reads_as("a", model, 200 * MIB);
		sound("a");
	}
	free(model);
}

/* A name that has clusters of its own moves into gaps as well, so that the file can be cut. */
Test(qcow1, name_moves)
{
	static uint8_t model[SIZE];
	char name[1024];
	struct img *img;
	struct bytes b;

	make("b", 512, NULL, NULL, NULL);
	make("a", SIZE, NULL, "b", NULL);
	img = must_open("a", "qcow", IMG_OPEN_WRITE);
	put(img, 0, 2 * MIB, 7, model);
	long_name(name, sizeof(name) - 1);
	cr_assert_eq(img_set_backing_name(img, name, NULL, NULL), 0);
	must_close(img);
	img = must_open("a", "qcow", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
	cr_assert_eq(img_set_backing_name(img, "b", NULL, NULL), 0);
	cr_assert_eq(img_set_backing_name(img, name, NULL, NULL), 0);
	must_close(img);
	b = load("a");
	cr_assert(!memcmp(b.at + be64_load(b.at + 8), name, sizeof(name) - 1));
	free(b.at);
	sound("a");
	img = must_open("a", "qcow", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
	resize(img, MIB);
	must_close(img);
	sound("a");
	b = load("a");
	cr_assert(!memcmp(b.at + be64_load(b.at + 8), name, sizeof(name) - 1));
	cr_assert_leq(b.len, MIB + 40 * KIB);
	free(b.at);
	img = must_open("a", "qcow", IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING);
	cr_assert_eq(img_set_backing_name(img, NULL, NULL, NULL), 0);
	must_close(img);
	reads_as("a", model, MIB);
	sound("a");
}

Test(qcow1, emptied)
{
	uint8_t *model = calloc(1, SIZE);
	struct img *img;
	struct stat st;

	make("b", SIZE, NULL, NULL, NULL);
	make("a", SIZE, NULL, "b", NULL);
	img = must_open("a", "qcow", IMG_OPEN_WRITE);
	put(img, 1000, MIB, 3, model);
	cr_assert_eq(img_make_empty(img, NULL), 0);
	must_close(img);
	cr_assert(!stat("a", &st) && st.st_size <= 1024);
	memset(model, 0, SIZE);
	reads_as("a", model, SIZE);
	free(model);
}

/* ---- Encryption ---- */

static struct img_secrets *secrets_new(void)
{
	struct img_secrets *s = img_secrets_new();

	cr_assert_eq(img_secrets_add(s, "secret,id=s,data=open sesame", NULL), 0);
	cr_assert_eq(img_secrets_add(s, "secret,id=no,data=open barley", NULL), 0);
	return s;
}

static int open_by(const char *keys, unsigned flags, struct img **out, struct img_error *err)
{
	struct img_secrets *s = secrets_new();
	const struct img_open_options o = { .flags = flags, .references = "any", .secrets = s };
	struct img_node *node = NULL;
	char text[512];
	int rc;

	snprintf(text, sizeof(text), "driver=qcow,file.filename=a%s", keys);
	rc = img_node_parse_options(text, &node, err);
	if (!rc)
		rc = img_open_node(node, &o, out, err);
	img_node_free(node);
	img_secrets_free(s);
	return rc;
}

static int create_encrypted(const char *options)
{
	struct img_secrets *s = secrets_new();
	const char *const list[] = { options, NULL };
	const struct img_create_options o = {
		.format = "qcow", .size = SIZE, .have_size = true, .options = list, .secrets = s
	};
	int rc = img_create("a", &o, NULL);

	img_secrets_free(s);
	return rc;
}

Test(qcow1, encrypted)
{
	uint8_t *model = calloc(1, SIZE), *got = calloc(1, SIZE);
	struct img_check_result r;
	struct img *img = NULL;

	cr_assert_neq(create_encrypted("encrypt.format=aes"), 0);
	cr_assert_neq(create_encrypted("encrypt.key-secret=s"), 0);
	cr_assert_neq(create_encrypted("encryption=on,encrypt.format=aes,encrypt.key-secret=s"), 0);
	cr_assert_neq(create_encrypted("encrypt.format=aes,encrypt.key-secret=gone"), 0);
	cr_assert_eq(access("a", F_OK), -1);
	cr_assert_eq(create_encrypted("encrypt.format=aes,encrypt.key-secret=s"), 0);
	cr_assert_neq(open_by("", IMG_OPEN_WRITE, &img, NULL), 0);
	cr_assert_neq(open_by(",encrypt.format=luks,encrypt.key-secret=s", 0, &img, NULL), 0);
	cr_assert_eq(open_by(",encrypt.key-secret=s", IMG_OPEN_WRITE | IMG_OPEN_UNMAP, &img, NULL), 0);
	put(img, 1000, MIB, 7, model);
	put(img, 2 * MIB + 3, 5, 8, model);
	cr_assert_eq(img_zero(img, 8 * KIB + 512, 100 * KIB, NULL), 0);
	memset(model + 8 * KIB + 512, 0, 100 * KIB);
	cr_assert_eq(img_discard(img, 512 * KIB, 64 * KIB, NULL), 0);
	memset(model + 512 * KIB, 0, 64 * KIB);
	cr_assert_neq(img_write_with(img, 0, model, CLUSTER, IMG_SUBMIT_COMPRESS, NULL), 0);
	must_close(img);
	cr_assert_eq(open_by(",encrypt.key-secret=s,encrypt.format=aes", 0, &img, NULL), 0);
	cr_assert_eq(img_read(img, 0, got, SIZE, NULL), 0);
	cr_assert(!memcmp(got, model, SIZE));
	must_close(img);
	/* Nothing tells a wrong password. */
	cr_assert_eq(open_by(",encrypt.key-secret=no", 0, &img, NULL), 0);
	cr_assert_eq(img_read(img, 0, got, SIZE, NULL), 0);
	cr_assert(memcmp(got, model, SIZE));
	must_close(img);
	/* A check needs none. */
	r = check("a", 0);
	cr_assert(!r.corruptions && !r.leaks);
	if (!system("qemu-img --version >/dev/null 2>&1")) {
		make_file("model", model, SIZE, SIZE);
		cr_assert_eq(system("qemu-img convert --object 'secret,id=s,data=open sesame' --image-opts "
				    "driver=qcow,encrypt.key-secret=s,file.filename=a -O raw out && cmp out model"),
			     0);
	}
	free(model);
	free(got);
}

/* ---- Check ---- */

Test(qcow1, checked)
{
	static const struct {
		const char *what;
		uint64_t l1[2], entries[4];
		unsigned corruptions, leaks, left;
	} rows[] = {
		{ "sound", { 0 }, { D(0), D(1), 0, D(2) }, 0, 0, 0 },
		{ "leaks", { 0 }, { D(2), 0, 0, 0 }, 0, 2, 0 },
		{ "shared", { 0 }, { D(0), D(1), D(1), D(2) }, 1, 0, 0 },
		{ "beyond the end", { 0 }, { D(0), D(3), D(1), D(2) }, 1, 0, 1 },
		{ "over the header", { 0 }, { D(0), 512, D(1), D(2) }, 1, 0, 0 },
		{ "over a table", { 0 }, { D(0), TABLE, D(1), D(2) }, 1, 0, 0 },
		{ "packed", { 0 }, { PACKED(D(0) + 5, 4000), PACKED(D(0) + 4005, 300), D(2), 0 }, 0, 0, 0 },
		{ "packed over data", { 0 }, { PACKED(D(0), 4000), PACKED(D(2) - 4, 300), D(1), 0 }, 1, 0, 0 },
		{ "packed beyond the end", { 0 }, { PACKED(D(3) - 10, 20), D(0), D(1), D(2) }, 1, 0, 1 },
		{ "a table beyond the end", { TABLE, D(9) }, { D(0), 0, D(1), D(2) }, 1, 1, 1 },
		{ "a table that two have", { TABLE, TABLE }, { D(0), 0, D(1), D(2) }, 1, 1, 0 },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		const struct plain p = { .l1 = { rows[i].l1[0], rows[i].l1[1] },
					 .size = (uint64_t)600 * CLUSTER,
					 .in_file = 3,
					 .entries = rows[i].entries,
					 .entry_count = COUNT(rows[i].entries) };
		struct img_open_options o = { .format = "qcow", .flags = IMG_OPEN_WRITE };
		uint8_t before[4][CLUSTER], after[CLUSTER];
		struct img_check_result r;
		const char *text;
		bool can[4];
		struct img *img;

		make_plain("a", &p);
		r = check("a", 0);
		cr_assert_eq(r.corruptions, rows[i].corruptions, "%s: %u", rows[i].what, (unsigned)r.corruptions);
		cr_assert_eq(r.leaks, rows[i].leaks, "%s: %u leaks", rows[i].what, (unsigned)r.leaks);
		if (rows[i].corruptions)
			must_fail("a", &o, &text);
		img = must_open("a", "qcow", 0);
		for (unsigned k = 0; k < 4; k++)
			can[k] = !img_read(img, (uint64_t)k * CLUSTER, before[k], CLUSTER, NULL);
		must_close(img);
		r = check("a", IMG_REPAIR_ALL);
		cr_assert_eq(r.corruptions, rows[i].left, "%s: %u left", rows[i].what, (unsigned)r.corruptions);
		img = must_open("a", "qcow", 0);
		for (unsigned k = 0; k < 4; k++)
			if (can[k])
				cr_assert(!img_read(img, (uint64_t)k * CLUSTER, after, CLUSTER, NULL) &&
						  !memcmp(before[k], after, CLUSTER),
					  "%s: cluster %u", rows[i].what, k);
		must_close(img);
		check("a", IMG_REPAIR_ALL | IMG_REPAIR_LOSS);
		sound("a");
		must_close(must_open("a", "qcow", IMG_OPEN_WRITE));
	}
}

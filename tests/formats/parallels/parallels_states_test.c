/*
 * Folders whose DiskDescriptor.xml changes: snapshots are made and merged, the disk gets another size; and all files are
 * looked at by a check.
 */
#include <dirent.h>

#include "tests/formats/parallels/xml.h"

TestSuite(parallels_states, .init = folder_make, .fini = folder_remove);

static uint8_t model[4 * SIZE];

static void reads(void)
{
	folder_reads(&(struct img_open_options){ .format = "parallels" }, model);
}

static struct img *must_open_folder(void)
{
	return must_open("d.hdd", "parallels", IMG_OPEN_WRITE);
}

/* d.hdd of two storages, the second one from 1 MiB on, and something in it. */
static const char split[] = XML_OF("<Disk_size>6144</Disk_size><Cylinders>12</Cylinders><Heads>16</Heads>"
				   "<Sectors>32</Sectors><Name>kept</Name>",
				   STORAGE(2048, 6144, IMAGE(TOP, "Compressed", "b.hds"))
					   STORAGE(0, 2048, IMAGE(TOP, "Compressed", "a.hds")),
				   SHOT(TOP, NONE));

static void make_split(const char *xml, const char *options)
{
	struct img *img;

	descriptor(xml);
	make_new("d.hdd/a.hds", MIB, options);
	make_new("d.hdd/b.hds", 2 * MIB, options);
	img = must_open_folder();
	put(img, 0, 70000, 1, model);
	put(img, MIB - 5000, 10000, 2, model);
	put(img, SIZE - 512, 512, 3, model);
	must_close(img);
}

static void add_snapshot(void)
{
	make("d.hdd", 0, NULL, "d.hdd", NULL);
}

static size_t count_files(void)
{
	DIR *dir = opendir("d.hdd");
	size_t n = 0;

	cr_assert(dir);
	for (struct dirent *e; (e = readdir(dir));)
		n += *e->d_name != '.';
	closedir(dir);
	return n;
}

/* ---- Snapshots ---- */

static void commit(const struct img_commit_options *o)
{
	struct img *img = must_open_folder();
	struct img_error *err = img_error_new();

	cr_assert_eq(img_commit(img, o, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	must_close(img);
}

static void commit_fails(int rc, const char *words)
{
	struct img *img = must_open_folder();
	struct img_error *err = img_error_new();

	cr_assert_eq(img_commit(img, NULL, err), rc, "%s", img_error_text(err));
	cr_assert(strstr(img_error_text(err), words), "%s", img_error_text(err));
	img_error_free(err);
	must_close(img);
}

/* Bytes of the disk that the present state, or the one below it, has itself. */
static uint64_t own_bytes(unsigned depth)
{
	struct img *img = must_open("d.hdd", "parallels", 0), *level = img;
	uint64_t own = 0;

	while (depth--)
		level = img_backing(level);
	for (uint64_t off = 0; off < SIZE;) {
		struct img_map_entry e;

		cr_assert_eq(img_map(level, off, SIZE - off, false, &e, NULL), 0);
		own += e.present ? e.length : 0;
		off += e.length;
	}
	must_close(img);
	return own;
}

Test(parallels_states, snapshot)
{
	uint8_t before[SIZE];
	struct bytes a, b;
	struct img *img;

	make_split(split, "cluster_size=4k");
	a = load("d.hdd/a.hds");
	memcpy(before, model, SIZE);
	add_snapshot();
	cr_assert_eq(count_files(), 5);
	reads();
	img = must_open_folder();
	put(img, 4000, 9000, 4, model);
	put(img, 2 * MIB, 5000, 5, model);
	cr_assert_eq(img_zero(img, 65536, 4096, NULL), 0);
	memset(model + 65536, 0, 4096);
	must_close(img);
	reads();
	/* what was there stays, byte by byte */
	b = load("d.hdd/a.hds");
	cr_assert(a.len == b.len && !memcmp(a.at, b.at, a.len));
	free(a.at);
	free(b.at);
	reads_as("d.hdd/a.hds", before, MIB);
	cr_assert_eq(check("d.hdd", 0).corruptions, 0);
	add_snapshot();
	reads();
	cr_assert_eq(own_bytes(0), 0);
}

/* Storages of a disk of no bytes all begin and end in one place. */
Test(parallels_states, snapshot_of_nothing)
{
	descriptor(XML_OF("<Disk_size>0</Disk_size>",
			  STORAGE(0, 0, IMAGE(TOP, "Compressed", "a.hds"))
				  STORAGE(0, 0, IMAGE(TOP, "Compressed", "b.hds"))
					  STORAGE(0, 0, IMAGE(TOP, "Compressed", "c.hds")),
			  SHOT(TOP, NONE)));
	make_new("d.hdd/a.hds", 0, "size=0");
	make_new("d.hdd/b.hds", 0, "size=0");
	make_new("d.hdd/c.hds", 0, "size=0");
	add_snapshot();
	add_snapshot();
	cr_assert_eq(count_files(), 10);
	must_close(must_open_folder());
	cr_assert_eq(check("d.hdd", 0).corruptions, 0);
}

Test(parallels_states, snapshot_refused)
{
	const char *text;
	struct bytes xml;
	struct img *img;

	make_split(split, "cluster_size=4k");
	make_new("other.hds", SIZE, NULL);
	xml = load("d.hdd/DiskDescriptor.xml");
	cr_assert_eq(make("d.hdd", 2 * SIZE, NULL, "d.hdd", &text), -EINVAL);
	cr_assert(strstr(text, "size"), "%s", text);
	cr_assert_eq(make("d.hdd", 0, "cluster_size=3M", "d.hdd", &text), -EINVAL);
	cr_assert(strstr(text, "cluster_size"), "%s", text);
	cr_assert_eq(make("d.hdd", 0, "preallocation=full", "d.hdd", &text), -ENOTSUP);
	cr_assert_eq(make("d.hdd", 0, NULL, "other.hds", &text), -ENOTSUP);
	cr_assert(strstr(text, "its own backing file"), "%s", text);
	cr_assert_eq(make("other.hds", 0, NULL, "other.hds", &text), -ENOTSUP);
	cr_assert_eq(make("new.hds", 0, NULL, "other.hds", &text), -ENOTSUP);
	/* in use */
	img = must_open_folder();
	cr_assert_eq(make("d.hdd", 0, NULL, "d.hdd", &text), -EAGAIN, "%s", text);
	must_close(img);
	cr_assert_eq(count_files(), 3);
	reads();
	{
		struct bytes now = load("d.hdd/DiskDescriptor.xml");

		cr_assert(now.len == xml.len && !memcmp(now.at, xml.at, xml.len));
		free(now.at);
	}
	free(xml.at);
}

Test(parallels_states, committed)
{
	struct img *img;

	make_split(split, "cluster_size=4k");
	add_snapshot();
	img = must_open_folder();
	put(img, 4000, 9000, 4, model);
	put(img, MIB - 3, 6, 5, model);
	cr_assert_eq(img_zero(img, 65536, 4096, NULL), 0);
	memset(model + 65536, 0, 4096);
	must_close(img);
	commit(NULL);
	reads();
	cr_assert_eq(own_bytes(0), 0);
	reads_as("d.hdd/a.hds", model, MIB);
	reads_as("d.hdd/b.hds", model + MIB, 2 * MIB);
	cr_assert(!check("d.hdd", 0).corruptions && !check("d.hdd", 0).leaks);
	/* once more, with new clusters in the emptied files */
	img = must_open_folder();
	put(img, 300000, 100000, 6, model);
	must_close(img);
	reads();
	commit(&(struct img_commit_options){ .keep = true });
	reads();
	cr_assert_gt(own_bytes(0), 0);
	reads_as("d.hdd/a.hds", model, MIB);
}

/* Into one that is further down, by the name that it has. */
Test(parallels_states, committed_deep)
{
	struct img_commit_options o = { 0 };
	struct img *img;

	make_split(split, "cluster_size=64k");
	for (uint8_t i = 0; i < 3; i++) {
		add_snapshot();
		img = must_open_folder();
		put(img, MIB - 3000 + i * 100u, 70000, (uint8_t)(10 + i), model);
		must_close(img);
	}
	img = must_open_folder();
	o.base = img_backing(img_backing(img));
	cr_assert_eq(img_commit(img, &o, NULL), 0);
	must_close(img);
	reads();
	cr_assert_gt(own_bytes(0), 0);
	cr_assert_eq(check("d.hdd", 0).corruptions, 0);
	img = must_open("d.hdd", "parallels", 0);
	cr_assert_eq(img_find_backing(img, "d.hdd"), NULL);
	must_close(img);
}

#define BRANCH \
	XML(STORAGE(0, 6144, \
		    IMAGE(TOP, "Compressed", "top.hds") IMAGE(OLD, "Compressed", "old.hds") \
			    IMAGE(OLDEST, "Compressed", "oldest.hds")), \
	    SHOT(OLDEST, NONE) SHOT(TOP, OLDEST) SHOT(OLD, OLDEST))

/* A snapshot that another one is based on, too, would change that one. */
Test(parallels_states, branched)
{
	struct img_open_options o = { .format = "parallels", .flags = IMG_OPEN_WRITE };
	struct bytes before, after;

	descriptor(BRANCH);
	make_new("d.hdd/top.hds", SIZE, "cluster_size=4k");
	make_new("d.hdd/old.hds", SIZE, "cluster_size=4k");
	make_new("d.hdd/oldest.hds", SIZE, "cluster_size=4k");
	fill("d.hdd/oldest.hds", 0, 10000, 1);
	fill("d.hdd/top.hds", 4096, 4096, 2);
	before = load("d.hdd/oldest.hds");
	commit_fails(-EBUSY, "aaaaaaaa-2222-3333-4444-555555555555");
	after = load("d.hdd/oldest.hds");
	cr_assert(before.len == after.len && !memcmp(before.at, after.at, before.len));
	free(before.at);
	free(after.at);
	memset(model, 1, 10000);
	memset(model + 4096, 2, 4096);
	memset(model + 8192, 1, 10000 - 8192);
	folder_reads(&o, model);
}

/* The clusters of a file below do not fit together: nothing of it can be written. */
Test(parallels_states, uneven_below)
{
	make_split(split, "cluster_size=4k");
	add_snapshot();
	make_new("d.hdd/b.hds", 2 * MIB, "cluster_size=64k");
	commit_fails(-ENOTSUP, "clusters of");
}

/* A plain image is written in place. */
Test(parallels_states, committed_plain)
{
	struct bytes plain;
	struct img *img;

	descriptor(XML(STORAGE(0, 6144, IMAGE(TOP, "Plain", "a.raw")), ""));
	make_file("d.hdd/a.raw", "first", 5, SIZE);
	memcpy(model, "first", 5);
	add_snapshot();
	img = must_open_folder();
	put(img, 3, 100000, 4, model);
	must_close(img);
	commit(NULL);
	reads();
	plain = load("d.hdd/a.raw");
	cr_assert(plain.len == SIZE && !memcmp(plain.at, model, SIZE));
	free(plain.at);
}

/* What a snapshot is based on is said by its own file alone. */
Test(parallels_states, rebase_refused)
{
	struct img_rebase_options o = { .backing = "other.hds", .format = "parallels" };
	struct img_error *err = img_error_new();
	struct img *img;

	make_split(split, "cluster_size=4k");
	make_new("other.hds", SIZE, NULL);
	add_snapshot();
	for (int i = 0; i < 2; i++) {
		o.unsafe = i;
		img = must_open_folder();
		cr_assert_eq(img_rebase(img, &o, err), -ENOTSUP);
		cr_assert(strstr(img_error_text(err), "of its own"), "%s", img_error_text(err));
		must_close(img);
	}
	reads();
	img_error_free(err);
}

/* ---- Another size ---- */

static bool descriptor_has(const char *words)
{
	struct bytes xml = load("d.hdd/DiskDescriptor.xml");
	bool has = strstr((char *)xml.at, words);

	free(xml.at);
	return has;
}

static void has_size(uint64_t size)
{
	library_reads("d.hdd", model, size);
	cr_assert_eq(check("d.hdd", 0).corruptions, 0);
	cr_assert(descriptor_has("<Name>kept</Name>"));
}

static void resized(uint64_t size)
{
	struct img *img = must_open_folder();
	uint64_t before = img_size(img);

	resize(img, size);
	must_close(img);
	if (size < before)
		memset(model + size, 0, sizeof(model) - size);
	has_size(size);
}

Test(parallels_states, resized)
{
	struct img *img;

	make_split(split, "cluster_size=4k");
	resized(4 * SIZE);
	cr_assert(descriptor_has("<Disk_size>24576</Disk_size>"));
	cr_assert(descriptor_has("<Cylinders>48</Cylinders>"));
	img = must_open_folder();
	put(img, SIZE - 100, MIB, 7, model);
	put(img, 4 * SIZE - 1000, 1000, 8, model);
	must_close(img);
	resized(SIZE - 5120);
	resized(SIZE + 512);
	resized(MIB + 512);
	resized(2 * SIZE);
	/* the last storage is all that can go */
	img = must_open_folder();
	cr_assert_eq(img_resize(img, MIB, IMG_PREALLOCATE_OFF, NULL), -ENOTSUP);
	cr_assert_eq(img_resize(img, MIB - 512, IMG_PREALLOCATE_OFF, NULL), -ENOTSUP);
	cr_assert_eq(img_resize(img, 3 * SIZE, IMG_PREALLOCATE_FALLOC, NULL), -ENOTSUP);
	cr_assert_eq(img_size(img), 2 * SIZE);
	put(img, 2 * SIZE - 600, 600, 9, model);
	must_close(img);
	has_size(2 * SIZE);
}

/* A file that is longer than its storage has what nobody wrote to this disk. */
Test(parallels_states, resized_over_old)
{
	make_split(split, "cluster_size=4k");
	make_new("d.hdd/b.hds", 4 * MIB, "cluster_size=4k");
	fill("d.hdd/b.hds", 0, 4 * MIB, 0x77);
	memset(model + MIB, 0x77, 2 * MIB);
	has_size(SIZE);
	resized(SIZE + 3 * 512);
	resized(2 * SIZE);
}

Test(parallels_states, resized_plain)
{
	descriptor(XML_OF("<Disk_size>6144</Disk_size><Name>kept</Name>",
			  STORAGE(0, 2048, IMAGE(TOP, "Compressed", "a.hds"))
				  STORAGE(2048, 6144, IMAGE(TOP, "Plain", "b.raw")),
			  ""));
	make_new("d.hdd/a.hds", MIB, "cluster_size=4k");
	make_file("d.hdd/b.raw", "plain", 5, 3 * MIB); /* longer than its storage */
	patch("d.hdd/b.raw", 2 * MIB, "old", 3);
	memcpy(model + MIB, "plain", 5);
	has_size(SIZE);
	resized(SIZE + 1024);
	resized(2 * SIZE);
	resized(2 * MIB);
	cr_assert_eq(file_size("d.hdd/b.raw"), MIB);
}

Test(parallels_states, snapshots_keep_the_size)
{
	struct img_error *err = img_error_new();
	struct img *img;

	make_split(split, "cluster_size=4k");
	add_snapshot();
	img = must_open_folder();
	cr_assert_eq(img_resize(img, 2 * SIZE, IMG_PREALLOCATE_OFF, err), -ENOTSUP);
	cr_assert(strstr(img_error_text(err), "snapshots"), "%s", img_error_text(err));
	cr_assert_eq(img_resize(img, 2 * MIB, IMG_PREALLOCATE_OFF, err), -ENOTSUP);
	cr_assert_eq(img_size(img), SIZE);
	must_close(img);
	reads();
	img_error_free(err);
}

/* A descriptor that cannot be replaced (of two names one would stay as it is): nothing has changed. */
Test(parallels_states, descriptor_of_two_names)
{
	struct img_error *err = img_error_new();
	const char *text;
	struct img *img;

	make_split(split, "cluster_size=4k");
	cr_assert_eq(link("d.hdd/DiskDescriptor.xml", "second"), 0);
	img = must_open_folder();
	cr_assert_eq(img_resize(img, 2 * SIZE, IMG_PREALLOCATE_OFF, err), -EMLINK, "%s", img_error_text(err));
	cr_assert_eq(img_size(img), SIZE);
	cr_assert_eq(img_resize(img, 2 * MIB, IMG_PREALLOCATE_OFF, err), -EMLINK, "%s", img_error_text(err));
	cr_assert_eq(img_size(img), SIZE);
	must_close(img);
	has_size(SIZE);
	cr_assert_eq(make("d.hdd", 0, NULL, "d.hdd", &text), -EMLINK, "%s", text);
	cr_assert_eq(count_files(), 3);
	has_size(SIZE);
	img_error_free(err);
}

/* ---- Checks ---- */

static char said[4096];

static void keep(void *user, const char *line)
{
	size_t len = strlen(said);

	(void)user;
	snprintf(said + len, sizeof(said) - len, "%s\n", line);
}

static struct img_check_result check_saying(unsigned repair)
{
	struct img *img = must_open("d.hdd", "parallels",
				    IMG_OPEN_CHECK | (repair ? (unsigned)IMG_OPEN_WRITE : 0));
	struct img_check_result r;

	*said = 0;
	cr_assert_eq(img_check(img, repair, keep, NULL, &r, NULL), 0);
	must_close(img);
	return r;
}

/* Every file of every snapshot is looked at, repaired, and named. */
Test(parallels_states, checked)
{
	static const char *const files[] = { "a.hds", "b.hds", NULL, NULL };
	struct img_check_result r;

	make_split(split, "cluster_size=4k");
	add_snapshot();
	for (size_t i = 0; files[i]; i++) {
		char path[40];
		uint32_t first;

		snprintf(path, sizeof(path), "d.hdd/%s", files[i]);
		first = entry(path, i ? 0 : 1);
		set_entry(path, 100, first);
		r = check_saying(0);
		cr_assert_eq(r.corruptions, 1, "%s: %s", path, said);
		cr_assert(strstr(said, files[i]), "%s", said);
		r = check_saying(IMG_REPAIR_ALL);
		cr_assert(!r.corruptions && r.corruptions_fixed == 1, "%s", said);
		cr_assert(strstr(said, files[i]), "%s", said);
		cr_assert(!check("d.hdd", 0).corruptions && !check("d.hdd", 0).leaks);
		memcpy(model + (i ? MIB : 0) + 100 * 4096, model + (i ? MIB : 4096), 4096);
		reads();
	}
}

/* A file of an older snapshot is missing, or another one's: a check cannot be completed. */
Test(parallels_states, checked_missing)
{
	struct img_open_options o = { .format = "parallels",
				      .flags = IMG_OPEN_CHECK | IMG_OPEN_NO_BACKING };
	const char *text;

	make_split(split, "cluster_size=4k");
	add_snapshot();
	cr_assert_eq(rename("d.hdd/b.hds", "d.hdd/c.hds"), 0);
	cr_assert_eq(must_fail("d.hdd", &o, &text), -ENOENT);
	cr_assert(strstr(text, "b.hds"), "%s", text);
	cr_assert_eq(symlink("a.hds", "d.hdd/b.hds"), 0);
	cr_assert_eq(must_fail("d.hdd", &o, &text), -EUCLEAN);
	cr_assert(strstr(text, "already"), "%s", text);
}

/* ---- In the place of another image ---- */

/* What the image before had beside its descriptor is not left behind; what is not its is. */
Test(parallels_states, replaced)
{
	struct img *img;

	make_split(split, "cluster_size=4k");
	add_snapshot();
	make_file("d.hdd/notes", "mine", 4, 4);
	cr_assert_eq(count_files(), 6);
	/* who has a file open keeps it */
	img = must_open("d.hdd/b.hds", "parallels", 0);
	make_new("d.hdd", SIZE, "cluster_size=4k");
	cr_assert_eq(count_files(), 4);
	cr_assert(!access("d.hdd/notes", F_OK) && !access("d.hdd/b.hds", F_OK));
	must_close(img);
	memset(model, 0, SIZE);
	reads();
	make_new("d.hdd", SIZE, "cluster_size=64k");
	reads();
	cr_assert_eq(count_files(), 4);
}

/* Nor is what it named, if that is no file of the format: a descriptor can name anything that lies there. */
Test(parallels_states, replaced_naming_others)
{
	static const char xml[] = XML(STORAGE(0, 2048, IMAGE(TOP, "Compressed", "a.hds"))
					      STORAGE(2048, 4096, IMAGE(TOP, "Plain", "notes"))
						      STORAGE(4096, 6144, IMAGE(TOP, "Compressed", "disk.vdi")),
				      SHOT(TOP, NONE));
	static const struct img_create_options vdi = { .format = "vdi",
						       .size = MIB,
						       .have_size = true };

	descriptor(xml);
	make_new("d.hdd/a.hds", MIB, "cluster_size=4k");
	make_file("d.hdd/notes", "mine", 4, 4);
	cr_assert_eq(img_create("d.hdd/disk.vdi", &vdi, NULL), 0);
	make_new("d.hdd", SIZE, "cluster_size=4k");
	cr_assert(access("d.hdd/a.hds", F_OK));
	cr_assert(!access("d.hdd/notes", F_OK) && !access("d.hdd/disk.vdi", F_OK));
	cr_assert_eq(count_files(), 4);
	memset(model, 0, SIZE);
	reads();
}

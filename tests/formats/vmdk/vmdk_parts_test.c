/*
 * Parts of disks that are opened without the rest: extents without their descriptor, files that
 * were cut short, text that is nearly a descriptor; and a disk all of whose parts are in one file.
 */
#include "libimg/base/endian.h"
#include "tests/formats/vmdk/bench.h"

enum { MIB = 1 << 20 };

static void write_file(const struct bench *b, const char *name, const void *bytes, size_t len,
		       size_t size)
{
	char path[200];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", b->dir, name);
	f = fopen(path, "w");
	cr_assert(f && fwrite(bytes, 1, len, f) == len);
	if (size > len)
		cr_assert(!fseek(f, (long)size - 1, SEEK_SET) && fputc(0, f) == 0);
	cr_assert_eq(fclose(f), 0);
}

/* A path in the folder; good for two calls. */
static const char *in(const struct bench *b, const char *name)
{
	static char path[2][200];
	static unsigned turn;

	turn = !turn;
	snprintf(path[turn], sizeof(path[turn]), "%s/%s", b->dir, name);
	return path[turn];
}

static struct img *open_with(const char *path, const char *format, const char *backing,
			     const char *backing_format, unsigned flags, struct img_error *err)
{
	struct img_open_options o = {
		.format = format,
		.flags = flags,
	};
	struct img_node *node = NULL;
	struct img *img = NULL;
	int rc = img_node_parse_name(path, &node, err);

	if (!rc && backing)
		rc = img_node_set(node, "backing.file.filename", backing, err);
	if (!rc && backing_format)
		rc = img_node_set(node, "backing.driver", backing_format, err);
	if (!rc)
		rc = img_open_node(node, &o, &img, err);
	img_node_free(node);
	return rc ? NULL : img;
}

/* 64 KiB of disk, sector 7 of which is here. */
static void write_cowd(const struct bench *b, const char *name)
{
	static uint8_t file[64 * 512];

	memcpy(file, "COWD", 4);
	le32_store(file + 4, 1);
	le32_store(file + 8, 3);
	le32_store(file + 12, 128);
	le32_store(file + 16, 1);
	le32_store(file + 20, 4);
	le32_store(file + 24, 128);
	le32_store(file + 2048, 8);
	le32_store(file + 8 * 512 + 4 * 7, 40);
	memset(file + 40 * 512, 0xc0, 512);
	write_file(b, name, file, sizeof(file), 0);
}

/* 64 KiB of disk, the second grain of 4 KiB is here. */
static void write_sesparse(const struct bench *b, const char *name)
{
	static uint8_t file[88 * 512];
	static const uint64_t header[26] = { 0xcafebabe, 0x200000001, 128, 8, 64, 0, 0, 0, 0,
					     0, 2, 1, 4, 1, 5, 1, 8, 8,
					     16, 64, 0, 0, 0, 0, 80, 8 };

	for (size_t i = 0; i < 26; i++)
		le64_store(file + 8 * i, header[i]);
	le64_store(file + 2 * 512, 0xcafecafe);
	le64_store(file + 8 * 512, UINT64_C(0x1000000000000000));
	le64_store(file + 16 * 512 + 8, UINT64_C(3) << 60);
	memset(file + 80 * 512, 0x5e, 4096);
	write_file(b, name, file, sizeof(file), 0);
}

/* What snapshots do not hold is their parent's: without it they are not read. */
Test(vmdk_parts, snapshots_without_their_descriptor)
{
	static const struct {
		void (*write)(const struct bench *b, const char *name);
		size_t off, len;
		uint8_t byte;
	} kinds[] = {
		{ write_cowd, 7 * 512, 512, 0xc0 },
		{ write_sesparse, 4096, 4096, 0x5e },
	};
	struct img_error *err = img_error_new();
	static uint8_t base[65536], got[65536];
	struct bench b;

	start(&b);
	memset(base, 0xba, sizeof(base));
	write_file(&b, "base.raw", base, sizeof(base), 0);
	for (size_t i = 0; i < 2; i++) {
		struct img *img;

		kinds[i].write(&b, "delta.vmdk");
		refuse_open(in(&b, "delta.vmdk"), 0, -EUCLEAN, "backing.file.filename");
		refuse_open(in(&b, "delta.vmdk"), IMG_OPEN_SHARE, -EUCLEAN, "differences");
		close_image(open_image(in(&b, "delta.vmdk"), IMG_OPEN_SELF_ONLY));
		close_image(open_image(in(&b, "delta.vmdk"), IMG_OPEN_NO_BACKING | IMG_OPEN_CHECK));
		/* The user knows which disk it belongs to. */
		img = open_with(in(&b, "delta.vmdk"), "vmdk", in(&b, "base.raw"), "raw", 0, err);
		cr_assert(img, "%s", img_error_text(err));
		cr_assert_eq(img_read(img, 0, got, sizeof(got), err), 0, "%s", img_error_text(err));
		for (size_t k = 0; k < sizeof(got); k++)
			cr_assert_eq(got[k],
				     k - kinds[i].off < kinds[i].len ? kinds[i].byte : 0xba);
		cr_assert_null(img_warning(img));
		close_image(img);
	}
	finish(&b);
	img_error_free(err);
}

/* An extent of a split disk may be a snapshot's or not: nothing in it tells. */
Test(vmdk_parts, extents_of_split_disks)
{
	struct bench b;
	struct img *img;

	start(&b);
	must_make(b.image, MIB, "subformat=twoGbMaxExtentSparse", NULL);
	img = open_image(b.image, 0);
	cr_assert_null(img_warning(img));
	close_image(img);
	img = open_image(in(&b, "image-s001.vmdk"), 0);
	cr_assert(img_warning(img) && strstr(img_warning(img), "image-s001.vmdk"));
	cr_assert(strstr(img_warning(img), "descriptor"));
	close_image(img);
	must_make(b.image, MIB, NULL, NULL);
	img = open_image(b.image, 0);
	cr_assert_null(img_warning(img));
	close_image(img);
	finish(&b);
}

/* The words are parsed by programs that call qemu-img. */
Test(vmdk_parts, cut_before_its_grains)
{
	struct bench b;
	char words[64];

	start(&b);
	must_make(b.image, MIB, NULL, NULL);
	snprintf(words, sizeof(words), "File truncated, expecting at least %" PRIu64 " bytes",
		 size_of(b.image));
	cr_assert_eq(truncate(b.image, (off_t)size_of(b.image) - 512), 0);
	refuse_open(b.image, 0, -EUCLEAN, words);
	refuse_open(b.image, IMG_OPEN_SELF_ONLY, -EUCLEAN, words);
	refuse_open(b.image, IMG_OPEN_CHECK, -EUCLEAN, words);
	/* Also if tables, directories or the descriptor are gone with it. */
	for (off_t len = 30000; len >= 512; len /= 2) {
		cr_assert_eq(truncate(b.image, len), 0);
		refuse_open(b.image, 0, -EUCLEAN, words);
		refuse_open(b.image, IMG_OPEN_SELF_ONLY, -EUCLEAN, words);
	}
	must_make(b.image, MIB, "subformat=twoGbMaxExtentSparse", NULL);
	cr_assert_eq(truncate(in(&b, "image-s001.vmdk"), 16384), 0);
	refuse_open(b.image, 0, -EUCLEAN, "File truncated");
	finish(&b);
}

#define REST "CID=12345678\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\n" \
	     "RW 8 FLAT \"image-flat.vmdk\" 0\n"

/* 8 bits a character -> 16. */
static size_t widen(const char *text, bool big, bool mark, char *out)
{
	size_t n = 0;

	if (mark) {
		out[n++] = (char)(big ? 0xfe : 0xff);
		out[n++] = (char)(big ? 0xff : 0xfe);
	}
	for (; *text; text++) {
		out[n++] = big ? '\0' : *text;
		out[n++] = big ? *text : '\0';
	}
	return n;
}

Test(vmdk_parts, text_that_is_nearly_a_descriptor)
{
	static const char *const texts[] = {
		"\xef\xbb\xbf# Disk DescriptorFile\nversion=1\n" REST,
		"version = 1\n" REST,
		"\r\nencoding=\"UTF-8\"\r\nversion=1\r\n" REST,
		REST,
		"RW 8 FLAT \"image-flat.vmdk\" 0\n",
		"ddb.adapterType = \"ide\"\nRW 8 FLAT \"image-flat.vmdk\" 0\n",
	};
	static const char binary[] = "\x01" REST;
	static const char *const others[] = {
		"version = 1\nname = x\n",
		"RW\n",
		"RW 8 FLOT \"x\"\n",
		"# Disk\n",
		binary,
		"",
	};
	struct img_error *err = img_error_new();
	const char *format = NULL;
	char wide[1024];
	struct bench b;

	start(&b);
	write_file(&b, "image-flat.vmdk", "flat", 4, 4096);
	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		write_file(&b, "image.vmdk", texts[i], strlen(texts[i]), 0);
		cr_assert_eq(img_probe(b.image, &format, err), -EINVAL, "%zu", i);
		cr_assert(strstr(img_error_text(err), "-f raw"), "%s", img_error_text(err));
		/* Who says what it is gets it. */
		cr_assert_null(open_with(b.image, NULL, NULL, NULL, 0, err));
		close_image(open_with(b.image, "raw", NULL, NULL, 0, err));
		close_image(open_image(b.image, 0));
	}
	for (int i = 0; i < 4; i++) {
		size_t n = widen("# Disk DescriptorFile\nversion=1\n" REST, i & 1, i & 2, wide);

		write_file(&b, "image.vmdk", wide, n, 0);
		cr_assert_eq(img_probe(b.image, &format, err), -EINVAL, "%d", i);
		close_image(open_with(b.image, "raw", NULL, NULL, 0, err));
		refuse_open(b.image, 0, -EUCLEAN, "UTF-16");
	}
	for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
		write_file(&b, "image.vmdk", others[i], strlen(others[i]), 0);
		cr_assert_eq(img_probe(b.image, &format, err), 0, "%zu: %s", i, img_error_text(err));
		cr_assert_str_eq(format, "raw");
	}
	finish(&b);
	img_error_free(err);
}

/*
 * A descriptor of which the end is missing: no disk, or a warning. Each length from where it is
 * known to be a descriptor.
 */
Test(vmdk_parts, descriptors_cut_short)
{
	static const char *const subformats[] = { "monolithicFlat", "twoGbMaxExtentFlat",
						  "twoGbMaxExtentSparse" };
	struct img_open_options options = { .format = "vmdk" };
	struct img_error *err = img_error_new();
	static uint8_t text[2048];
	struct img *img;
	struct bench b;

	start(&b);
	for (size_t i = 0; i < 3; i++)
		for (int size = 0; size < 2; size++) {
			char option[64];
			size_t whole, names, database;

			snprintf(option, sizeof(option), "subformat=%s", subformats[i]);
			must_make(b.image, size ? UINT64_C(3) << 30 : 0, option, NULL);
			whole = size_of(b.image);
			cr_assert(whole < sizeof(text));
			read_at(b.image, 0, text, whole);
			text[whole] = 0;
			database = (size_t)(strstr((char *)text, "# The Disk Data Base") - (char *)text) +
				   strlen("# The Disk Data Base");
			names = size ? (size_t)(strchr(strstr((char *)text, "RW "), '\n') - (char *)text)
				     : database;
			for (size_t n = strlen("# Disk DescriptorFile"); n <= whole; n++) {
				int rc;

				write_file(&b, "image.vmdk", text, n, 0);
				rc = img_open(b.image, &options, &img, err);
				/* The offset of a flat extent may be left out: it is 0. */
				if (n + 2 < names || (n < names && i == 2))
					cr_assert(rc, "%s, %zu", option, n);
				if (n >= database && text[n - 1] == '\n')
					cr_assert_eq(rc, 0, "%s, %zu: %s", option, n,
						     img_error_text(err));
				if (!rc && n < database)
					cr_assert(img_warning(img), "%s, %zu", option, n);
				if (!rc && n == whole)
					cr_assert_null(img_warning(img));
				if (!rc)
					close_image(img);
			}
			run(&b, "rm -f image*");
		}
	/* By hand. */
	write_file(&b, "image.vmdk", "# Disk DescriptorFile\nversion=1\nRW 8 ZERO\n", 43, 0);
	img = open_image(b.image, 0);
	cr_assert_null(img_warning(img));
	close_image(img);
	img_error_free(err);
	finish(&b);
}

/* A file that ends inside a sector: the rest of it reads as zeroes. */
Test(vmdk_parts, a_flat_file_that_ends_inside_a_sector)
{
	struct bench b;
	struct img *img;
	uint8_t *bytes;

	start(&b);
	write_file(&b, "image.vmdk", "# Disk DescriptorFile\nversion=1\n" REST,
		   strlen("# Disk DescriptorFile\nversion=1\n" REST), 0);
	write_file(&b, "image-flat.vmdk", "flat", 4, 4000);
	write_at(in(&b, "image-flat.vmdk"), 3996, "last", 4);
	img = open_image(b.image, 0);
	cr_assert(img_warning(img) && strstr(img_warning(img), "image-flat.vmdk"));
	close_image(img);
	bytes = read_all(b.image, 4096);
	cr_assert(!memcmp(bytes + 3996, "last", 4));
	for (size_t i = 4000; i < 4096; i++)
		cr_assert_eq(bytes[i], 0);
	free(bytes);
	finish(&b);
}

/* The files of programs have whole sectors: one that ends inside a sector was cut short. */
Test(vmdk_parts, flat_files_cut_inside_a_sector)
{
	static const char by_hand[] = "# Disk DescriptorFile\nversion=1\nRW 8 FLAT \"a\" 0\n"
				      "RW 8 FLAT \"b\" 0\n";
	static const char *const options[] = { "subformat=monolithicFlat",
					       "subformat=twoGbMaxExtentFlat" };
	static const char *const names[] = { "image-flat.vmdk", "image-f001.vmdk" };
	static const size_t cuts[] = { 1, 2, 256, 511 };
	struct img_error *err = img_error_new();
	uint8_t sector[512];
	struct bench b;

	start(&b);
	for (size_t i = 0; i < 2; i++)
		for (size_t k = 0; k < 4; k++) {
			struct img_open_options salvage = { .format = "vmdk", .flags = IMG_OPEN_SALVAGE };
			struct img *img;

			must_make(b.image, 65536, options[i], NULL);
			cr_assert_eq(truncate(in(&b, names[i]), (off_t)(65536 - cuts[k])), 0);
			refuse_open(b.image, 0, -EUCLEAN, names[i]);
			refuse_open(b.image, IMG_OPEN_CHECK, -EUCLEAN, names[i]);
			cr_assert_eq(img_open(b.image, &salvage, &img, err), 0);
			cr_assert_eq(img_read(img, 65024 - 512, sector, 512, err), 0);
			cr_assert_eq(img_read(img, 65024, sector, 512, err), -EUCLEAN);
			close_image(img);
			run(&b, "rm -f image*");
		}
	/* By hand only the last file of a disk can have a size that is not a disk's. */
	write_file(&b, "a", "a", 1, 4000);
	write_file(&b, "b", "b", 1, 4096);
	write_file(&b, "image.vmdk", by_hand, sizeof(by_hand) - 1, 0);
	refuse_open(b.image, 0, -EUCLEAN, "/a");
	img_error_free(err);
	finish(&b);
}

/* Who takes untrusted disks counts what a report says that they are made of. */
Test(vmdk_parts, a_report_names_all_files)
{
	static const char text[] = "# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\n"
				   "createType=\"custom\"\nRW 8 FLAT \"../host-secret.img\" 3\n"
				   "RW 8 ZERO\nRW 0 SPARSE \"none\"\nRW 9 SPARSE \"b:c.vmdk\"\n";
	static const struct {
		const char *name, *file;
		uint64_t size;
	} want[] = {
		{ "extents.1", "./b:c.vmdk", 9 * 512 },
		{ "extents.0", "../host-secret.img", 11 * 512 },
		{ "file", "image.vmdk", 512 },
	};
	struct img_error *err = img_error_new();
	const struct img_value *children;
	struct img_value *report;
	struct bench b;
	struct img *img;

	start(&b);
	write_file(&b, "image.vmdk", text, strlen(text), 0);
	img = open_image(b.image, IMG_OPEN_SELF_ONLY);
	cr_assert_eq(img_info(img, &report, err), 0, "%s", img_error_text(err));
	children = img_value_get(report, "children");
	cr_assert_eq(img_value_count(children), 3);
	for (size_t i = 0; i < 3; i++) {
		const struct img_value *child = img_value_at(children, i);
		const struct img_value *info = img_value_get(child, "info");

		cr_expect_str_eq(img_value_string(img_value_get(child, "name")), want[i].name);
		cr_expect_str_eq(img_value_string(img_value_get(info, "filename")),
				 in(&b, want[i].file));
		cr_expect_eq(img_value_uint(img_value_get(info, "virtual-size")), want[i].size);
	}
	img_value_free(report);
	close_image(img);
	must_make(b.image, MIB, NULL, NULL);
	img = open_image(b.image, IMG_OPEN_SELF_ONLY);
	cr_assert_eq(img_info(img, &report, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_value_count(img_value_get(report, "children")), 1);
	img_value_free(report);
	close_image(img);
	finish(&b);
	img_error_free(err);
}

/* Haiku's vmdkimage: a header of no capacity, a descriptor, and behind them the disk. */
static void write_haiku(const struct bench *b, const char *name, unsigned off, bool header)
{
	static uint8_t file[65536 + 4096];
	char text[400];
	int n = snprintf(text, sizeof(text),
			 "# Disk DescriptorFile\nversion=1\nCID=fffffffe\nparentCID=ffffffff\n"
			 "createType=\"monolithicFlat\"\nRW 8 FLAT \"%s\" %u\n",
			 name, off);

	memset(file, 0, sizeof(file));
	if (header) {
		memcpy(file, "KDMV\1\0\0\0\1\0\0\0", 12);
		le64_store(file + 20, 16);
		le64_store(file + 28, 1);
		le64_store(file + 36, 1);
		le32_store(file + 44, 512);
		le64_store(file + 64, 128);
		memcpy(file + 73, "\n \r\n", 4);
	}
	memcpy(file + (header ? 512 : 0), text, (size_t)n);
	memset(file + 65536, 0xda, 4096);
	write_file(b, name, file, sizeof(file), 0);
}

Test(vmdk_parts, a_flat_extent_in_the_descriptors_own_file)
{
	struct img_error *err = img_error_new();
	struct bench b;

	start(&b);
	for (int header = 0; header < 2; header++) {
		uint8_t text[512], *bytes;
		struct img *img;

		write_haiku(&b, "image.vmdk", 128, header);
		bytes = read_all(b.image, 4096);
		for (size_t i = 0; i < 4096; i++)
			cr_assert_eq(bytes[i], 0xda);
		free(bytes);
		if (have_qemu() && header)
			run(&b, "qemu-img convert -f vmdk -O raw image.vmdk q.raw && tail -c 4096 image.vmdk | "
				"cmp - q.raw");
		/* It is written to where it lies, and the ID changes. */
		img = open_image(b.image, IMG_OPEN_WRITE);
		cr_assert_eq(img_write(img, 0, "new", 3, err), 0, "%s", img_error_text(err));
		cr_assert_eq(img_zero(img, 1024, 512, err), 0, "%s", img_error_text(err));
		close_image(img);
		read_at(b.image, header ? 512 : 0, text, sizeof(text));
		cr_assert(strstr((char *)text, "# Disk DescriptorFile"));
		cr_assert_null(strstr((char *)text, "CID=fffffffe"));
		bytes = read_all(b.image, 4096);
		cr_assert(!memcmp(bytes, "new", 3));
		cr_assert(!bytes[1024] && !bytes[1535] && bytes[1023] == 0xda &&
			  bytes[1536] == 0xda);
		free(bytes);
		/* Over what tells of it, it is not. */
		for (unsigned off = 0; off <= (header ? 1u : 0u); off++) {
			write_haiku(&b, "image.vmdk", off, header);
			refuse_open(b.image, 0, -EUCLEAN, "own file");
		}
	}
	/* What the guest writes right behind the text must not become part of it. */
	write_haiku(&b, "image.vmdk", 128, false);
	run(&b, "tr '\\0' '\\n' <image.vmdk >x && mv x image.vmdk");
	refuse_open(b.image, 0, -EUCLEAN, "own file");
	finish(&b);
	img_error_free(err);
}

/*
 * The driver: opening over files in memory, what map() answers, parents, and real files of
 * tests/data.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/engine/engine.h"
#include "libimg/img.h"

extern const struct img_driver vmdk_driver, raw_driver;

/* ---- Files in memory, and an image over them ---- */

enum { FILES = 4,
       GRAIN = 65536 };

static struct {
	const char *name;	     /* NULL: not used */
	struct img_storage *storage; /* NULL: closed by the driver */
	unsigned references;
} files[FILES];

static struct img_storage *add_file(const char *name, uint64_t size)
{
	struct img_storage *s;
	size_t i = 0;

	while (files[i].name)
		i++;
	cr_assert_eq(img_storage_memory(name, size, size, &s), 0);
	files[i].name = name;
	files[i].storage = s;
	return s;
}

static struct img_storage *add_text(const char *name, const char *text)
{
	struct img_storage *s = add_file(name, strlen(text));

	cr_assert_eq(img_storage_write(s, 0, text, strlen(text), NULL), 0);
	return s;
}

static int reference(struct img_opening *o, const char *name, const char *what,
		     struct img_storage **out, struct img_error *err)
{
	(void)o;
	for (size_t i = 0; i < FILES; i++)
		if (files[i].name && !strcmp(files[i].name, name) && files[i].storage) {
			*out = files[i].storage;
			files[i].storage = NULL;
			files[i].references++;
			return 0;
		}
	return img_fail(err, -ENOENT, "%s '%s' is not there", what, name);
}

/* Open the first file. */
static int open_image(struct img *img, bool self_only, struct img_error *err)
{
	struct img_opening o = { .self_only = self_only, .reference = reference };
	struct img_engine_config config = { 0 };
	int rc;

	*img = (struct img){
		.driver = &vmdk_driver,
		.name = strdup(files[0].name),
		.file = files[0].storage,
	};
	rc = vmdk_driver.open(img, &o, err);
	if (!rc)
		rc = img_engine_new(img, &config, err);
	return rc;
}

static void close_image(struct img *img)
{
	if (img->engine) {
		img_engine_free(img);
		vmdk_driver.close(img);
	}
	free(img->backing_name);
	free(img->backing_format);
	free(img->name);
}

static void must_open(struct img *img)
{
	struct img_error err = { 0 };

	cr_assert_eq(open_image(img, false, &err), 0, "%s", img_error_text(&err));
	img_error_clear(&err);
}

static void must_fail(int rc)
{
	struct img_error err = { 0 };
	struct img img;

	cr_assert_eq(open_image(&img, false, &err), rc, "%s", img_error_text(&err));
	cr_assert_null(img.backing_name);
	cr_assert_gt(strlen(img_error_text(&err)), 10);
	img_error_clear(&err);
	close_image(&img);
}

static void drop_files(void)
{
	for (size_t i = 0; i < FILES; i++) {
		img_storage_close(files[i].storage);
		files[i].name = NULL;
		files[i].storage = NULL;
		files[i].references = 0;
	}
}

TestSuite(vmdk, .init = drop_files, .fini = drop_files, .timeout = 20);

static struct img_extent map(struct img *img, uint64_t off, uint64_t len)
{
	struct img_error err = { 0 };
	struct img_extent x = { 0 };

	cr_assert_eq(img_engine_map(img, off, len, &x, &err), 0, "%s", img_error_text(&err));
	return x;
}

static void expect_map(struct img *img, uint64_t off, enum img_extent_kind kind, uint64_t length,
		       uint64_t file_off)
{
	struct img_extent x = map(img, off, img->size - off);

	cr_expect_eq(x.kind, kind, "at %" PRIu64 ": kind %d", off, (int)x.kind);
	cr_expect_eq(x.length, length, "at %" PRIu64 ": length %" PRIu64, off, x.length);
	if (kind == IMG_DATA)
		cr_expect_eq(x.file_off, file_off, "at %" PRIu64 ": file_off %" PRIu64, off,
			     x.file_off);
}

static int map_error(struct img *img, uint64_t off)
{
	struct img_error err = { 0 };
	struct img_extent x;
	int rc = img_engine_map(img, off, img->size - off, &x, &err);

	if (rc)
		cr_expect_gt(strlen(img_error_text(&err)), 10);
	img_error_clear(&err);
	return rc;
}

#define HEAD "# Disk DescriptorFile\nversion=1\nCID=fedc4321\nparentCID=ffffffff\n" \
	     "createType=\"custom\"\n"

/*
 * A hosted sparse file: header, descriptor of 2 sectors at 1, redundant directory at 4 with its
 * tables from 8, directory at 24 with tables from 32; room for grains from sector 128.
 */
enum { DESCRIPTOR = 512,
       REDUNDANT = 4 * 512,
       DIRECTORY = 24 * 512,
       TABLES = 32 * 512 };

static uint32_t flags = 3, version = 1, compression = 0;

static void put32(struct img_storage *s, uint64_t off, uint32_t v)
{
	uint8_t b[4];

	le32_store(b, v);
	cr_assert_eq(img_storage_write(s, off, b, 4, NULL), 0);
}

static struct img_storage *add_hosted(const char *name, uint64_t sectors, uint64_t size,
				      const char *descriptor)
{
	struct img_storage *s = add_file(name, size);
	uint64_t tables = div_round_up_u64(sectors, 65536);
	uint8_t b[512] = "KDMV";

	le32_store(b + 4, version);
	le32_store(b + 8, flags);
	le64_store(b + 12, sectors);
	le64_store(b + 20, 128);
	le64_store(b + 28, descriptor ? 1 : 0);
	le64_store(b + 36, descriptor ? 2 : 0);
	le32_store(b + 44, 512);
	le64_store(b + 48, REDUNDANT / 512);
	le64_store(b + 56, DIRECTORY / 512);
	le64_store(b + 64, 128);
	memcpy(b + 73, "\n \r\n", 4);
	le16_store(b + 77, (uint16_t)compression);
	cr_assert_eq(img_storage_write(s, 0, b, sizeof(b), NULL), 0);
	if (descriptor)
		cr_assert_eq(img_storage_write(s, DESCRIPTOR, descriptor, strlen(descriptor), NULL),
			     0);
	cr_assert_leq(tables, 4);
	for (uint32_t i = 0; i < tables; i++) {
		put32(s, REDUNDANT + 4 * i, 8 + 4 * i);
		put32(s, DIRECTORY + 4 * i, TABLES / 512 + 4 * i);
	}
	return s;
}

static void put_grain(struct img_storage *s, uint32_t grain, uint32_t sector)
{
	put32(s, TABLES + 4 * grain, sector);
	put32(s, 8 * 512 + 4 * grain, sector);
}

/* ---- Probing ---- */

Test(vmdk, probe)
{
	static const uint8_t text[] = "# Disk DescriptorFile\nversion=1\n";
	static const uint8_t sparse[16] = "KDMV", cowd[16] = "COWD", other[16] = "QFI";
	static const uint8_t se[16] = { 0xbe, 0xba, 0xfe, 0xca, 0, 0, 0, 0, 1, 0, 0, 0, 2 };

	cr_assert_eq(vmdk_driver.probe(text, sizeof(text) - 1, NULL, 99), 100);
	cr_assert_eq(vmdk_driver.probe(sparse, 16, NULL, 99), 100);
	cr_assert_eq(vmdk_driver.probe(cowd, 16, NULL, 99), 100);
	cr_assert_eq(vmdk_driver.probe(se, 16, NULL, 99), 100);
	cr_assert_eq(vmdk_driver.probe(other, 16, NULL, 99), 0);
	cr_assert_eq(vmdk_driver.probe(other, 0, NULL, 0), 0);
}

/* ---- Flat, zero, and mixes ---- */

Test(vmdk, flat_at_offsets_and_zero)
{
	struct img img;

	add_text("d.vmdk", HEAD "RW 8 FLAT \"f\" 2\nRW 4 ZERO\nRDONLY 3 VMFS \"f\" 10\n");
	add_file("f", 13 * 512);
	must_open(&img);
	cr_assert_eq(img.size, 15 * 512);
	cr_assert_eq(img.unit_bytes, 512);
	cr_assert_eq(files[1].references, 1, "one file, opened once");
	expect_map(&img, 0, IMG_DATA, 8 * 512, 2 * 512);
	expect_map(&img, 700, IMG_DATA, 8 * 512 - 700, 2 * 512 + 700);
	expect_map(&img, 8 * 512, IMG_ZERO, 4 * 512, 0);
	expect_map(&img, 12 * 512, IMG_DATA, 3 * 512, 10 * 512);
	expect_map(&img, 15 * 512 - 1, IMG_DATA, 1, 13 * 512 - 1);
	close_image(&img);
}

Test(vmdk, a_flat_file_that_is_too_short)
{
	struct img img;

	add_text("d.vmdk", HEAD "RW 8 FLAT \"f\" 2\n");
	add_file("f", 9 * 512);
	must_fail(-EUCLEAN);
	drop_files();
	add_text("d.vmdk", HEAD "RW 8 FLAT \"f\" 2\n");
	add_file("f", 9 * 512 + 1); /* the rest of its last sector reads as zeroes */
	must_open(&img);
	close_image(&img);
}

Test(vmdk, extents_do_not_share_bytes)
{
	add_text("d.vmdk", HEAD "RW 8 FLAT \"f\" 2\nRW 3 FLAT \"f\" 0\n");
	add_file("f", 10 * 512);
	must_fail(-EUCLEAN);
}

Test(vmdk, a_missing_file)
{
	add_text("d.vmdk", HEAD "RW 8 FLAT \"f\" 2\n");
	must_fail(-ENOENT);
}

Test(vmdk, noaccess_opens_no_file_and_is_not_read)
{
	struct img img;

	add_text("d.vmdk", HEAD "RW 2 ZERO\nNOACCESS 8 FLAT \"secret\" 0\nRW 1 ZERO\n");
	must_open(&img);
	cr_assert_eq(img.size, 11 * 512);
	expect_map(&img, 0, IMG_ZERO, 1024, 0);
	cr_assert_eq(map_error(&img, 1024), -EACCES);
	cr_assert_eq(map_error(&img, 9 * 512), -EACCES);
	expect_map(&img, 10 * 512, IMG_ZERO, 512, 0);
	close_image(&img);
}

Test(vmdk, a_report_opens_nothing)
{
	struct img_value *top = img_value_new(IMG_VALUE_OBJECT);
	struct img_value *data = img_value_new(IMG_VALUE_OBJECT);
	const struct img_value *x;
	struct img img;

	add_text("d/d.vmdk", HEAD "RW 8 FLAT \"f\" 2\nRW 4 SPARSE \"s\"\n");
	cr_assert_eq(open_image(&img, true, NULL), 0);
	cr_assert_eq(img.size, 12 * 512);
	cr_assert_eq(vmdk_driver.info(&img, top, data, NULL), 0);
	cr_assert_eq(img_value_uint(img_value_get(data, "cid")), 0xfedc4321);
	cr_assert_eq(img_value_uint(img_value_get(data, "parent-cid")), 0xffffffff);
	cr_assert_str_eq(img_value_string(img_value_get(data, "create-type")), "custom");
	x = img_value_at(img_value_get(data, "extents"), 0);
	cr_assert_str_eq(img_value_string(img_value_get(x, "filename")), "d/f");
	cr_assert_str_eq(img_value_string(img_value_get(x, "format")), "FLAT");
	cr_assert_eq(img_value_uint(img_value_get(x, "virtual-size")), 4096);
	x = img_value_at(img_value_get(data, "extents"), 1);
	cr_assert_str_eq(img_value_string(img_value_get(x, "format")), "SPARSE");
	close_image(&img);
	img_value_free(top);
	img_value_free(data);
}

Test(vmdk, not_ours)
{
	add_text("d.vmdk", "hello\n");
	must_fail(-EMEDIUMTYPE);
	drop_files();
	add_file("d.vmdk", 0);
	must_fail(-EMEDIUMTYPE);
	drop_files();
	add_text("d.vmdk", HEAD "RW 1 FLAT \"\" 0\n");
	must_fail(-EUCLEAN);
	drop_files();
	add_text("d.vmdk", HEAD "encryption.keySafe=\"x\"\nRW 1 ZERO\n");
	must_fail(-ENOTSUP);
}

/* Neither matters to who reads a disk without a parent. */
Test(vmdk, no_cid_and_no_create_type)
{
	struct img img;
	struct vmdk *vmdk;

	add_text("d.vmdk", "# Disk DescriptorFile\nversion=1 # by hand\nRW 3 ZERO\n");
	must_open(&img);
	vmdk = img.state;
	cr_assert_eq(img.size, 3 * 512);
	cr_assert(!vmdk->has_cid);
	cr_assert_str_eq(vmdk->create_type, "custom");
	cr_assert(!img.backing_required);
	close_image(&img);
}

Test(vmdk, too_many_files)
{
	size_t n = VMDK_FILES_MAX + 1, at;
	char *text = malloc(n * 32 + sizeof(HEAD));

	cr_assert_not_null(text);
	at = (size_t)sprintf(text, "%s", HEAD);
	for (size_t i = 0; i < n; i++)
		at += (size_t)sprintf(text + at, "RW 1 FLAT \"f%zu\" 0\n", i);
	add_text("d.vmdk", text);
	must_fail(-ENOTSUP);
	free(text);
}

/* ---- Hosted sparse ---- */

Test(vmdk, sparse_runs)
{
	struct img img;
	struct img_storage *s = add_hosted("s.vmdk", 3 * 65536, 8 << 20, NULL);

	flags = 3;
	put_grain(s, 0, 128);
	put_grain(s, 1, 256);
	put_grain(s, 2, 640);
	put_grain(s, 3, 512);
	put_grain(s, 511, 1024);
	put_grain(s, 512, 1152); /* the next table goes on where this one ends */
	must_open(&img);
	cr_assert_eq(img.size, 96 << 20);
	cr_assert_eq(img.unit_bytes, GRAIN);
	expect_map(&img, 0, IMG_DATA, 2 * GRAIN, 128 * 512);
	expect_map(&img, 5, IMG_DATA, 2 * GRAIN - 5, 128 * 512 + 5);
	expect_map(&img, 2 * GRAIN, IMG_DATA, GRAIN, 640 * 512);
	expect_map(&img, 3 * GRAIN, IMG_DATA, GRAIN, 512 * 512);
	expect_map(&img, 4 * GRAIN, IMG_BACKING, 507 * GRAIN, 0);
	expect_map(&img, 511 * GRAIN, IMG_DATA, 2 * GRAIN, 1024 * 512);
	expect_map(&img, 513 * GRAIN, IMG_BACKING, 1023 * GRAIN, 0);
	close_image(&img);
}

Test(vmdk, absent_tables_are_one_run)
{
	struct img img;
	struct img_storage *s = add_hosted("s.vmdk", 4 * 65536, 1 << 20, NULL);

	put32(s, DIRECTORY, 0);
	put32(s, DIRECTORY + 4, 0);
	must_open(&img);
	expect_map(&img, GRAIN + 1, IMG_BACKING, 1024 * GRAIN - GRAIN - 1, 0);
	close_image(&img);
}

Test(vmdk, zeroed_grains)
{
	struct img img;
	struct img_storage *s;

	flags = 7;
	version = 2;
	s = add_hosted("s.vmdk", 65536, 1 << 20, NULL);
	put_grain(s, 0, 1);
	put_grain(s, 1, 1);
	put_grain(s, 2, 128);
	must_open(&img);
	expect_map(&img, 0, IMG_ZERO, 2 * GRAIN, 0);
	expect_map(&img, 2 * GRAIN, IMG_DATA, GRAIN, 128 * 512);
	close_image(&img);
}

Test(vmdk, damaged_entries_and_their_copies)
{
	struct img img;
	struct img_storage *s = add_hosted("s.vmdk", 2 * 65536, 1 << 20, NULL);

	put_grain(s, 0, 128);
	put_grain(s, 1, 256);
	put32(s, TABLES, 0x7fffffff); /* the copy has it */
	put_grain(s, 2, 0x7fffffff);  /* both are damaged */
	put_grain(s, 3, 1);	      /* the descriptor's sector */
	put_grain(s, 512, 384);
	put32(s, DIRECTORY + 4, 0xffffff); /* a table: the copy has it */
	must_open(&img);
	expect_map(&img, 0, IMG_DATA, GRAIN, 128 * 512);
	expect_map(&img, GRAIN, IMG_DATA, GRAIN, 256 * 512);
	cr_assert_eq(map_error(&img, 2 * GRAIN), -EUCLEAN);
	cr_assert_eq(map_error(&img, 3 * GRAIN), -EUCLEAN);
	expect_map(&img, 512 * GRAIN, IMG_DATA, GRAIN, 384 * 512);
	close_image(&img);

	put32(s, REDUNDANT + 4, 0);
	must_open(&img);
	cr_assert_eq(map_error(&img, 512 * GRAIN), -EUCLEAN);
	close_image(&img);
}

Test(vmdk, embedded_descriptor)
{
	struct img img;

	add_hosted("s.vmdk", 256, 1 << 20, HEAD "RW 200 SPARSE \"another name\"\n");
	must_open(&img);
	cr_assert_eq(img.size, 200 * 512, "VirtualBox rounds the header's capacity up");
	close_image(&img);
	drop_files();
	add_hosted("s.vmdk", 128, 1 << 20, HEAD "RW 129 SPARSE \"s.vmdk\"\n");
	must_fail(-EUCLEAN);
	drop_files();
	add_hosted("s.vmdk", 128, 1 << 20, HEAD "RW 128 FLAT \"s.vmdk\" 0\n");
	add_file("s.vmdk", 1 << 20);
	must_fail(-EUCLEAN);
	drop_files();
	add_hosted("s.vmdk", 128, 1 << 20, ""); /* room for one, unused */
	must_open(&img);
	cr_assert_eq(img.size, 128 * 512);
	close_image(&img);
}

Test(vmdk, a_sparse_extent_must_hold_its_line)
{
	struct img img;

	add_text("d.vmdk", HEAD "RW 100 SPARSE \"s\"\nRW 1 ZERO\n");
	add_hosted("s", 128, 1 << 20, NULL);
	must_open(&img);
	cr_assert_eq(img.size, 101 * 512);
	expect_map(&img, 0, IMG_BACKING, 100 * 512, 0);
	close_image(&img);
	drop_files();
	add_text("d.vmdk", HEAD "RW 129 SPARSE \"s\"\n");
	add_hosted("s", 128, 1 << 20, NULL);
	must_fail(-EUCLEAN);
	drop_files();
	add_text("d.vmdk", HEAD "RW 10 SPARSE \"s\"\n");
	add_text("s", "# Disk DescriptorFile\n");
	must_fail(-EUCLEAN);
}

Test(vmdk, the_last_grain_may_be_cut)
{
	struct img img;
	struct img_storage *s = add_hosted("s.vmdk", 129, GRAIN + 512, NULL);

	put_grain(s, 1, 128); /* one sector of it is needed, one is there */
	put_grain(s, 0, 128);
	must_open(&img);
	expect_map(&img, GRAIN, IMG_DATA, 512, GRAIN);
	cr_assert_eq(map_error(&img, 0), -EUCLEAN);
	close_image(&img);
}

/* ---- Streams ---- */

/* A grain of the byte c, with its marker, at sector. len: unpacked. Returns the stored bytes. */
static uint32_t put_stream(struct img_storage *s, uint32_t grain, uint32_t sector, int c,
			   size_t len)
{
	static uint8_t plain[2 * GRAIN], packed[12 + 2 * GRAIN];
	uLongf n = 2 * GRAIN;

	memset(plain, c, len);
	cr_assert_eq(compress2(packed + 12, &n, plain, len, 9), Z_OK);
	le64_store(packed, grain * UINT64_C(128));
	le32_store(packed + 8, (uint32_t)n);
	cr_assert_eq(img_storage_write(s, sector * UINT64_C(512), packed, 12 + n, NULL), 0);
	put_grain(s, grain, sector);
	return (uint32_t)n;
}

Test(vmdk, stream)
{
	struct img img;
	struct img_storage *s;
	struct img_extent x;
	uint32_t stored;
	uint8_t *buf = malloc(GRAIN), packed[4096];

	flags = 0x30001;
	version = 3;
	compression = 1;
	s = add_hosted("s.vmdk", 128 * 4 + 1, 1 << 20, NULL);
	stored = put_stream(s, 0, 128, 'a', GRAIN);
	put_stream(s, 1, 130, 'b', GRAIN);
	put_stream(s, 4, 132, 'c', GRAIN);
	must_open(&img);
	x = map(&img, 100, img.size - 100);
	cr_assert_eq(x.kind, IMG_COMPRESSED);
	cr_assert_eq(x.length, GRAIN - 100);
	cr_assert_eq(x.file_off, 128 * 512 + 12);
	cr_assert_eq(x.stored_bytes, stored);
	cr_assert_eq(x.within, 100);
	cr_assert_eq(x.unit_bytes, GRAIN);
	cr_assert_eq(x.header_bytes, 0);
	expect_map(&img, 2 * GRAIN, IMG_BACKING, 2 * GRAIN, 0);
	x = map(&img, 4 * GRAIN, 512);
	cr_assert_eq(x.kind, IMG_COMPRESSED);
	cr_assert_eq(x.unit_bytes, 512, "what the disk needs of the last grain");
	cr_assert_eq(img_storage_read(s, x.file_off, packed, x.stored_bytes, NULL), 0);
	cr_assert_eq(x.codec->decode(packed, x.stored_bytes, buf, x.unit_bytes, NULL), 0);
	cr_assert_eq(buf[0], 'c');
	cr_assert_eq(buf[511], 'c');
	close_image(&img);

	put_grain(s, 0, 130);	    /* another grain's marker */
	put32(s, 130 * 512 + 8, 0); /* which has no bytes */
	must_open(&img);
	cr_assert_eq(map_error(&img, 0), -EUCLEAN);
	cr_assert_eq(map_error(&img, GRAIN), -EUCLEAN);
	close_image(&img);
	free(buf);
}

Test(vmdk, the_last_grain_of_a_stream)
{
	struct img img;
	struct img_storage *s;
	struct img_extent x;
	uint8_t buf[1024], packed[8192];
	static const struct {
		size_t len;
		int rc;
	} rows[] = {
		{ GRAIN, 0 },
		{ 1024, 0 },
		{ 1023, -EUCLEAN },
		{ 2 * GRAIN, 0 },
	};

	flags = 0x30001;
	version = 3;
	compression = 1;
	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		drop_files();
		s = add_hosted("s.vmdk", 2, 1 << 20, NULL);
		put_stream(s, 0, 128, 'z', rows[i].len);
		must_open(&img);
		x = map(&img, 0, 1024);
		cr_assert_eq(img_storage_read(s, x.file_off, packed, x.stored_bytes, NULL), 0);
		cr_expect_eq(x.codec->decode(packed, x.stored_bytes, buf, x.unit_bytes, NULL),
			     rows[i].rc, "%zu", rows[i].len);
		if (!rows[i].rc)
			cr_expect_eq(buf[1023], 'z');
		cr_expect_eq(x.codec->decode(packed, 9, buf, x.unit_bytes, NULL), -EUCLEAN, "cut");
		close_image(&img);
	}
}

Test(vmdk, a_stream_without_markers)
{
	struct img img;
	struct img_storage *s;
	struct img_extent x;

	flags = 0x10001;
	version = 3;
	compression = 1;
	s = add_hosted("s.vmdk", 256, 128 * 512 + 1000, NULL);
	put_grain(s, 0, 128);
	must_open(&img);
	x = map(&img, 0, 256 * 512);
	cr_assert_eq(x.kind, IMG_COMPRESSED);
	cr_assert_eq(x.file_off, 128 * 512);
	cr_assert_eq(x.stored_bytes, 1000, "to the end of the file");
	close_image(&img);
}

/* padding: zero bytes behind the end of the stream. */
static struct img_storage *add_footed(uint64_t padding, bool end_marker)
{
	struct img_storage *s;
	uint8_t b[1024] = { 1 };

	flags = 0x30001;
	version = 3;
	compression = 1;
	s = add_hosted("s.vmdk", 128, 128 * 512 + 1024 + (end_marker ? 512u : 0u) + padding, NULL);
	cr_assert_eq(img_storage_read(s, 0, b + 512, 512, NULL), 0);
	b[12] = 3;
	cr_assert_eq(img_storage_write(s, 128 * 512, b, sizeof(b), NULL), 0);
	put32(s, 56, UINT32_MAX);
	put32(s, 60, UINT32_MAX);
	return s;
}

Test(vmdk, footer)
{
	struct img img;
	struct img_storage *s;
	static const uint64_t padding[] = { 0, 512, 100000, 65536, 3 << 20 };

	for (size_t i = 0; i < IMG_ARRAY_LEN(padding); i++) {
		drop_files();
		add_footed(padding[i], true);
		must_open(&img);
		expect_map(&img, 0, IMG_BACKING, GRAIN, 0);
		close_image(&img);
	}
	drop_files();
	add_footed(0, false); /* cut right behind the footer */
	must_open(&img);
	close_image(&img);
	drop_files();
	s = add_footed(0, true);
	put32(s, 128 * 512 + 12, 2); /* not a footer's marker */
	must_fail(-EUCLEAN);
	drop_files();
	s = add_footed(0, true);
	put32(s, 129 * 512 + 12, 256); /* another capacity */
	must_fail(-EUCLEAN);
	drop_files();
	s = add_footed(0, true); /* Xen Orchestra's */
	put32(s, 128 * 512, 0);
	must_open(&img);
	close_image(&img);
	drop_files();
	s = add_footed(0, true); /* no footer's marker has this */
	put32(s, 128 * 512, 2);
	must_fail(-EUCLEAN);
}

/* Where it is not the last thing in the file, the markers lead to it. */
Test(vmdk, footer_with_something_behind)
{
	struct img img;
	struct img_storage *s;

	add_footed(5 << 20, true); /* more zeroes than are looked through from the end */
	must_open(&img);
	expect_map(&img, 0, IMG_BACKING, GRAIN, 0);
	close_image(&img);
	drop_files();
	s = add_footed(4096, true);
	put32(s, s->size - 4, 0x12345678);
	must_open(&img);
	expect_map(&img, 0, IMG_BACKING, GRAIN, 0);
	close_image(&img);
	drop_files();
	s = add_footed(4096, true); /* the marker before says that more follows than there is */
	put32(s, s->size - 4, 0x12345678);
	put32(s, 128 * 512, 1000);
	put32(s, 128 * 512 + 12, 4);
	must_fail(-EUCLEAN);
}

/* ---- The others ---- */

Test(vmdk, cowd)
{
	struct img img;
	struct img_storage *s;
	uint8_t b[2048] = "COWD";

	le32_store(b + 4, 1);
	le32_store(b + 12, 8192);
	le32_store(b + 16, 1);
	le32_store(b + 20, 4);
	le32_store(b + 24, 2);
	add_text("d.vmdk", HEAD "RW 8192 VMFSSPARSE \"c\"\n");
	s = add_file("c", 64 * 512);
	cr_assert_eq(img_storage_write(s, 0, b, sizeof(b), NULL), 0);
	put32(s, 2048, 5);
	put32(s, 5 * 512 + 4 * 7, 40);
	put32(s, 5 * 512 + 4 * 8, 41);
	put32(s, 5 * 512 + 4 * 9, 63);
	put32(s, 5 * 512 + 4 * 10, 64);
	must_open(&img);
	expect_map(&img, 0, IMG_BACKING, 7 * 512, 0);
	expect_map(&img, 7 * 512, IMG_DATA, 1024, 40 * 512);
	expect_map(&img, 9 * 512, IMG_DATA, 512, 63 * 512);
	cr_assert_eq(map_error(&img, 10 * 512), -EUCLEAN);
	expect_map(&img, 4096 * 512, IMG_BACKING, 4096 * 512, 0);
	close_image(&img);
}

/* ---- Parents ---- */

static int open_with_parent(const char *child, const char *parent, const struct img_driver *driver)
{
	struct img img, base;
	int rc;

	drop_files();
	add_text("base.vmdk", parent);
	must_open(&base);
	base.file = files[0].storage;
	files[0].storage = NULL;
	drop_files();
	add_text("d.vmdk", child);
	must_open(&img);
	cr_assert_str_eq(img.backing_name, "base.vmdk");
	cr_assert_str_eq(img.backing_format, "vmdk");
	cr_assert(img.backing_required);
	base.driver = driver;
	img.parent = &base;
	rc = vmdk_driver.parent_opened(&img, NULL);
	img.parent = NULL;
	base.driver = &vmdk_driver;
	close_image(&img);
	img_engine_free(&base);
	vmdk_driver.close(&base);
	base.engine = NULL;
	img_storage_close(base.file);
	close_image(&base);
	return rc;
}

#define CHILD(parent_cid, more) \
	"# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=" parent_cid "\n" \
	"createType=\"custom\"\nparentFileNameHint=\"base.vmdk\"\n" more "RW 1 ZERO\n"
#define UUID(key, n) "ddb.uuid." key "=\"00000000-0000-4000-8000-00000000000" n "\"\n"

Test(vmdk, parents)
{
	const char *base = HEAD UUID("image", "1") "RW 1 ZERO\n";
	struct img_error err = { 0 };
	struct img img;

	cr_assert_eq(open_with_parent(CHILD("fedc4321", ""), base, &vmdk_driver), 0);
	cr_assert_eq(open_with_parent(CHILD("FEDC4322", ""), base, &vmdk_driver), -EUCLEAN);
	cr_assert_eq(open_with_parent(CHILD("fedc4321", ""), base, &raw_driver), -EUCLEAN);
	/* VirtualBox's: by UUID. */
	cr_assert_eq(open_with_parent(CHILD("ffffffff", UUID("parent", "1")), base, &vmdk_driver),
		     0);
	cr_assert_eq(open_with_parent(CHILD("ffffffff", UUID("parent", "2")), base, &vmdk_driver),
		     -EUCLEAN);
	cr_assert_eq(open_with_parent(CHILD("fedc4321", UUID("parent", "2")), base, &vmdk_driver),
		     -EUCLEAN);

	drop_files();
	add_text("d.vmdk", HEAD UUID("parent", "1") "RW 1 ZERO\n");
	cr_assert_eq(open_image(&img, false, &err), 0);
	cr_assert_null(img.backing_name);
	cr_assert(img.backing_required, "never to be read alone");
	close_image(&img);
}

/* ---- Checking ---- */

static void count_line(void *user, const char *line)
{
	(void)line;
	++*(unsigned *)user;
}

static uint64_t corruptions(void)
{
	unsigned lines = 0;
	struct img_check c = { .report = count_line, .user = &lines };
	struct img_error err = { 0 };
	struct img img;

	must_open(&img);
	cr_assert_eq(vmdk_driver.check(&img, &c, &err), 0, "%s", img_error_text(&err));
	cr_assert_eq(lines, c.result.corruptions);
	close_image(&img);
	return c.result.corruptions;
}

Test(vmdk, check)
{
	struct img_storage *s = add_hosted("s.vmdk", 2 * 65536, 1 << 20, NULL);

	put_grain(s, 0, 128);
	put_grain(s, 700, 384);
	cr_assert_eq(corruptions(), 0);
	put_grain(s, 1, 383); /* over grain 700 */
	cr_assert_eq(corruptions(), 1);
	put_grain(s, 1, 0x7fffffff);
	cr_assert_eq(corruptions(), 1);
	put_grain(s, 1, 24); /* over the directory and the tables */
	cr_assert_eq(corruptions(), 1);
	put_grain(s, 1, 0);
	put32(s, TABLES + 4 * 600, 640); /* not in the copy */
	cr_assert_eq(corruptions(), 1);
	put_grain(s, 600, 0);
	put32(s, DIRECTORY + 4, TABLES / 512); /* the first table, again */
	put32(s, REDUNDANT + 4, 8);
	cr_assert_eq(corruptions(), 2); /* the table, and its copy */
}

Test(vmdk, check_of_a_stream)
{
	struct img_storage *s;

	flags = 0x30001;
	version = 3;
	compression = 1;
	s = add_hosted("s.vmdk", 512, 1 << 20, NULL);
	put_stream(s, 0, 128, 'a', GRAIN);
	put_stream(s, 1, 130, 'b', GRAIN);
	cr_assert_eq(corruptions(), 0);
	put_grain(s, 2, 130); /* another grain's marker */
	cr_assert_eq(corruptions(), 1);
}

/* ---- Real files ---- */

/* The rows of tests/data/vmdk/README.md. */
static const struct {
	const char *name, *sha256;
	int rc; /* of opening or reading */
} data[] = {
	{ "good-ext4-stream.vmdk",
	  "bf387deee40c44a0d56c8e9fc36fbdecadb2dcfd07f1077971c2e2ea4a2079cf", 0 },
	{ "good-ext4-convert.vmdk",
	  "bf387deee40c44a0d56c8e9fc36fbdecadb2dcfd07f1077971c2e2ea4a2079cf", 0 },
	{ "good-odd-vbox.vmdk",
	  "bbc4fbf0a9e3613053855eb36ee3873ea1162a757e91545b490ff28280105353", 0 },
	{ "good-odd-qemu.vmdk",
	  "bbc4fbf0a9e3613053855eb36ee3873ea1162a757e91545b490ff28280105353", 0 },
	{ "good-zeroed.vmdk",
	  "8591c541ed47b84a1fcbfb068b1c10f63b0f2d44b48adb0de33f9b6f0a32f19b", 0 },
	{ "good-mixed.vmdk",
	  "eded53a5a8add04e0f874191a8fe5a9413d95e31008135df128a90b33607052c", 0 },
	{ "good-child.vmdk",
	  "e80232b4d18d0bb7e794be263ba937626f383f9917d4b8a737ba893a8f752293", 0 },
	{ "bad-parent-cid.vmdk", NULL, -EUCLEAN },
	{ "bad-parent-uuid-only.vmdk", NULL, -ENOENT },
	{ "bad-self.vmdk", NULL, -EUCLEAN },
	{ "bad-flat-short.vmdk", NULL, -EUCLEAN },
	{ "bad-stream-cut.vmdk", NULL, -EUCLEAN },
	{ "bad-noaccess.vmdk", NULL, -EACCES },
	{ "unsupported-version.vmdk", NULL, -ENOTSUP },
};

static int hash_image(const char *path, char *hex, struct img_error *err)
{
	struct img_open_options options = { .format = "vmdk" };
	uint8_t digest[32], *buf = NULL;
	struct img *img;
	int rc = img_open(path, &options, &img, err);

	if (rc)
		return rc;
	/* Small disks: all at once, after a read of a piece. */
	cr_assert_leq(img_size(img), 8 << 20);
	buf = malloc(img_size(img));
	cr_assert_not_null(buf);
	rc = img_read(img, img_size(img) / 2 - 100, buf, 150, err);
	if (!rc)
		rc = img_read(img, 0, buf, img_size(img), err);
	if (!rc)
		cr_assert_eq(EVP_Digest(buf, img_size(img), digest, NULL, EVP_sha256(), NULL), 1);
	for (size_t i = 0; i < sizeof(digest) && !rc; i++)
		sprintf(hex + 2 * i, "%02x", digest[i]);
	free(buf);
	img_close(img, NULL);
	return rc;
}

Test(vmdk, real_files)
{
	struct img_error *err = img_error_new();
	char path[256], hex[65];

	for (size_t i = 0; i < IMG_ARRAY_LEN(data); i++) {
		int rc;

		snprintf(path, sizeof(path), "tests/data/vmdk/%s", data[i].name);
		rc = hash_image(path, hex, err);
		cr_expect_eq(rc, data[i].rc, "%s: %s", data[i].name, img_error_text(err));
		if (!rc && data[i].sha256)
			cr_expect_str_eq(hex, data[i].sha256, "%s", data[i].name);
	}
	img_error_free(err);
}

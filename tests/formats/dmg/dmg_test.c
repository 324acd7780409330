/*
 * Disk images of Macs from byte literals: trailers, tables, plists and forks that are damaged, and chunks of any size.
 */
#include <sys/resource.h>
#include <zlib.h>

#include "formats/dmg/dmg_layout.h"
#include "libimg/base/endian.h"
#include "tests/image/folder.h"

TestSuite(dmg, .init = folder_make, .fini = folder_remove, .timeout = 60);

enum {
	KIB = 1 << 10,
	ENTRIES_MAX = 16,
	IMAGE_MAX = 2048 * KIB,
};

/* What a test has of an image; begin() fills it. */
struct image {
	uint8_t bytes[IMAGE_MAX];
	size_t len; /* so far: the data fork */
	uint8_t table[DMG_TABLE_BYTES + ENTRIES_MAX * DMG_ENTRY_BYTES];
	uint32_t entries;
	uint64_t sectors; /* of the disk, so far */
	uint8_t trailer[DMG_TRAILER_BYTES];
};

static struct image m;

static void begin(void)
{
	memset(&m, 0, sizeof(m));
	memcpy(m.table, "mish", 4);
	be32_store(m.table + 4, 1);
	memcpy(m.trailer, "koly", 4);
	be32_store(m.trailer + 4, 4);
	be32_store(m.trailer + 8, 512);
	be32_store(m.trailer + 56, 1);
	be32_store(m.trailer + 60, 1);
}

static void add_entry(uint32_t type, uint64_t sector, uint64_t sectors, uint64_t off, uint64_t len)
{
	uint8_t *e = m.table + DMG_TABLE_BYTES + (size_t)m.entries++ * DMG_ENTRY_BYTES;

	be32_store(e, type);
	be64_store(e + 8, sector);
	be64_store(e + 16, sectors);
	be64_store(e + 24, off);
	be64_store(e + 32, len);
	m.sectors = sector + sectors;
}

/* Sectors full of a byte, by zlib. */
static void add_zlib(uint64_t sector, uint64_t sectors, uint8_t value)
{
	uint8_t *plain = malloc(sectors * 512);
	uLongf len = IMAGE_MAX - m.len;

	memset(plain, value, sectors * 512);
	cr_assert_eq(compress2(m.bytes + m.len, &len, plain, sectors * 512, 9), Z_OK);
	add_entry(DMG_ZLIB, sector, sectors, m.len, len);
	m.len += len;
	free(plain);
}

/* A resource fork with the table, and the trailer. */
static void write_image(const char *name)
{
	size_t table_bytes = DMG_TABLE_BYTES + (size_t)m.entries * DMG_ENTRY_BYTES;
	uint8_t *fork = m.bytes + m.len;

	be64_store(m.table + 16, m.sectors);
	be32_store(m.table + 200, m.entries);
	be32_store(fork, 16);
	be32_store(fork + 8, (uint32_t)(4 + table_bytes));
	be32_store(fork + 16, (uint32_t)table_bytes);
	memcpy(fork + 20, m.table, table_bytes);
	be64_store(m.trailer + 40, m.len);
	be64_store(m.trailer + 48, 20 + table_bytes);
	if (!be64_load(m.trailer + 492))
		be64_store(m.trailer + 492, m.sectors);
	memcpy(fork + 20 + table_bytes, m.trailer, sizeof(m.trailer));
	make_file(name, m.bytes, m.len + 20 + table_bytes + 512,
		  (off_t)(m.len + 20 + table_bytes + 512));
}

/* A property list, and the trailer. */
static void write_plist(const char *name, const char *text)
{
	size_t len = strlen(text);

	memcpy(m.bytes + m.len, text, len);
	be64_store(m.trailer + 216, m.len);
	be64_store(m.trailer + 224, len);
	be64_store(m.trailer + 492, 8);
	memcpy(m.bytes + m.len + len, m.trailer, sizeof(m.trailer));
	make_file(name, m.bytes, m.len + len + 512, (off_t)(m.len + len + 512));
}

static const char *refusal(const char *name)
{
	struct img_open_options o = { 0 };
	const char *text;

	must_fail(name, &o, &text);
	return text;
}

static void said(const char *name, const char *word)
{
	const char *text = refusal(name);

	cr_assert(strstr(text, word), "%s: expected '%s'", text, word);
}

static int read_at(struct img *img, uint64_t off, uint8_t *value)
{
	uint8_t got[512];
	int rc = img_read(img, off, got, sizeof(got), NULL);

	*value = got[0];
	return rc;
}

Test(dmg, chunks_of_all_kinds_in_any_order)
{
	static const uint8_t want[] = { 1, 1, 1, 0, 0, 0, 7, 7, 2, 0, 9 };
	struct img_map_entry e;
	struct img *img;
	uint8_t value;

	begin();
	add_zlib(8, 1, 2);
	add_entry(DMG_COMMENT, 0, 0, 0, 0);
	add_entry(DMG_COMMENT, 0, 99, 0, 0);
	add_zlib(0, 3, 1);
	add_entry(DMG_ZEROES, 3, 1, 0, 0);
	add_entry(DMG_IGNORED, 4, 2, 12345, 99);
	memset(m.bytes + m.len, 7, 1024);
	add_entry(DMG_PLAIN, 6, 1, m.len, 512);
	add_entry(DMG_PLAIN, 7, 1, m.len + 512, 512);
	m.len += 1024;
	add_entry(DMG_IGNORED, 9, 1, 0, 0);
	add_zlib(10, 1, 9);
	add_entry(DMG_LAST, 11, 0, 0, 0);
	write_image("a");
	img = must_open("a", NULL, 0);
	cr_assert_str_eq(img_format(img), "dmg");
	cr_assert_eq(img_size(img), sizeof(want) * 512);
	for (size_t i = 0; i < sizeof(want); i++) {
		cr_assert_eq(read_at(img, i * 512, &value), 0);
		cr_assert_eq(value, want[i], "sector %zu", i);
	}
	cr_assert_eq(img_map(img, 3 * 512 + 1, 5 * 512, true, &e, NULL), 0);
	cr_assert(e.zero && e.length == 3 * 512 - 1);
	cr_assert_eq(img_map(img, 6 * 512, 5 * 512, true, &e, NULL), 0);
	cr_assert(e.data && e.has_offset && e.length == 1024);
	must_close(img);
	cr_assert_eq(img_format_features("dmg"), IMG_FORMAT_CHECK);
}

Test(dmg, trailers)
{
	struct img_open_options o = { .format = "dmg" };
	const char *text;
	struct img *img;

	begin();
	add_zlib(0, 8, 1);
	be32_store(m.trailer + 56, 2);
	be32_store(m.trailer + 60, 3);
	write_image("a");
	said("a", "segment 2 of 3");
	be32_store(m.trailer + 60, 1);
	be64_store(m.trailer + 492, UINT64_MAX / 512);
	write_image("a");
	said("a", "sectors is");
	be64_store(m.trailer + 492, 9);
	write_image("a");
	img = must_open("a", "dmg", 0);
	cr_assert_eq(img_read(img, 0, m.bytes, 8 * 512, NULL), 0);
	cr_assert_eq(img_read(img, 8 * 512, m.bytes, 512, NULL), -EUCLEAN);
	must_close(img);
	/* neither of both */
	begin();
	make_file("a", m.trailer, 512, 512);
	said("a", "no block tables");
	make_file("a", "encrcdsa", 8, 4096);
	said("a", "encrypted");
	begin();
	memcpy(m.bytes + 4096 - 8, "cdsaencr", 8);
	make_file("a", m.bytes, 4096, 4096);
	said("a", "encrypted");
	make_file("a", "koly", 4, 4096);
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "not in dmg format"), "%s", text);
	make_file("a", "koly", 4, 100);
	must_fail("a", &o, &text);
	cr_assert(strstr(text, "not in dmg format"), "%s", text);
}

Test(dmg, tables)
{
	static const struct {
		uint32_t type;
		uint64_t sector, sectors, off, len;
		const char *said;
	} rows[] = {
		{ DMG_PLAIN, 8, 1, 0, 511, "length is 511" },
		{ DMG_PLAIN, 8, UINT64_C(1) << 55, 0, 0, "first sector is" },
		{ DMG_PLAIN, 8, 2, UINT64_MAX, 1024, "offset is" },
		{ DMG_PLAIN, 8, 2, INT64_MAX, 1024, "offset is" },
		{ DMG_ZLIB, 8, 131073, 0, 100, "up to 64 MiB" },
		{ DMG_ZLIB, 8, 100, 0, (64 << 20) + 1, "up to 64 MiB" },
		{ DMG_ZEROES, UINT64_MAX, 2, 0, 0, "sector is" },
		{ DMG_ZEROES, 7, 2, 0, 0, "overlaps" },
		{ DMG_ZLIB, 0, 1, 0, 100, "overlaps" },
	};

	for (size_t i = 0; i < COUNT(rows); i++) {
		begin();
		add_zlib(0, 8, 1);
		add_entry(rows[i].type, rows[i].sector, rows[i].sectors, rows[i].off, rows[i].len);
		be64_store(m.trailer + 492, 8);
		write_image("a");
		said("a", rows[i].said);
	}
	/* the number of entries says less than there is, or more */
	begin();
	add_zlib(0, 8, 1);
	add_zlib(8, 8, 1);
	write_image("a");
	be32_store(m.bytes + m.len + 20 + 200, 1);
	make_file("a", m.bytes, m.len + 20 + DMG_TABLE_BYTES + 2 * DMG_ENTRY_BYTES + 512,
		  (off_t)(m.len + 20 + DMG_TABLE_BYTES + 2 * DMG_ENTRY_BYTES + 512));
	said("a", "entry 1 has sectors");
	be32_store(m.bytes + m.len + 20 + 200, UINT32_MAX);
	make_file("a", m.bytes, m.len + 20 + DMG_TABLE_BYTES + 2 * DMG_ENTRY_BYTES + 512,
		  (off_t)(m.len + 20 + DMG_TABLE_BYTES + 2 * DMG_ENTRY_BYTES + 512));
	said("a", "entries is 4294967295");
	/* first sector and data offset */
	begin();
	add_zlib(0, 8, 1);
	be64_store(m.table + 8, UINT64_MAX - 4);
	write_image("a");
	said("a", "first sector is");
	be64_store(m.table + 8, 0);
	be64_store(m.table + 24, UINT64_MAX);
	be64_store(m.trailer + 24, 1);
	write_image("a");
	said("a", "data offset");
}

Test(dmg, what_cannot_be_unpacked)
{
	struct img_error *err = img_error_new();
	struct img *img;
	uint8_t value;

	begin();
	add_zlib(0, 8, 1);
	add_entry(0x80000009, 8, 1, 0, 10);	/* of no known type */
	add_entry(DMG_ZLIB, 9, 1, 1 << 30, 10); /* beyond the end */
	add_entry(DMG_ZLIB, 10, 7, 0, m.len);	/* of other lengths than what comes out */
	add_entry(DMG_ZLIB, 17, 9, 0, m.len);
	add_entry(DMG_ZLIB, 26, 1, 0, 0);
	add_entry(DMG_BZIP2, 27, 1, 0, m.len);
	add_entry(DMG_LZFSE, 28, 1, 0, m.len);
	add_entry(DMG_LZMA, 29, 1, 0, m.len);
	write_image("a");
	img = must_open("a", "dmg", 0);
	cr_assert_eq(read_at(img, 0, &value), 0);
	cr_assert_eq(img_read(img, 8 * 512, &value, 1, err), -ENOTSUP);
	cr_assert(strstr(img_error_text(err), "0x80000009"), "%s", img_error_text(err));
	for (uint64_t sector = 9; sector < 30; sector++)
		cr_assert_lt(read_at(img, sector * 512, &value), 0, "sector %u", (unsigned)sector);
	must_close(img);
	img_error_free(err);
}

Test(dmg, property_lists)
{
	static const char head[] = "<?xml version=\"1.0\"?>\n<!DOCTYPE plist PUBLIC \"-//Apple//DTD PLIST 1.0//EN\" "
				   "\"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n";
	static const struct {
		const char *text, *said;
	} rows[] = {
		{ "<plist><dict>", "not well-formed" },
		{ "<plist><dict/></plist>", "no resource-fork" },
		{ "<plist><dict><key>resource-fork</key><array/></dict></plist>", "no resource-fork" },
		{ "<plist><dict><key>resource-fork</key></dict></plist>", "no resource-fork" },
		{ "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array/></dict></dict></plist>",
		  "no block tables" },
		{ "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict/></array></dict></dict></plist>",
		  "without Data" },
		{ "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict><key>Data</key>"
		  "<data>bWlz!Ac</data></dict></array></dict></dict></plist>",
		  "no base64" },
		{ "<plist><dict><key>resource-fork</key><dict><key>blkx</key><array><dict><key>Data</key>"
		  "<data>bWlzaAAA</data></dict></array></dict></dict></plist>",
		  "expected \"mish\"" },
	};
	char text[4096];

	for (size_t i = 0; i < COUNT(rows); i++) {
		begin();
		snprintf(text, sizeof(text), "%s%s", head, rows[i].text);
		write_plist("a", text);
		said("a", rows[i].said);
	}
	/* entities, however declared */
	begin();
	write_plist("a", "<?xml version=\"1.0\"?><!DOCTYPE plist [<!ENTITY a \"aaaa\">]><plist>&a;</plist>");
	said("a", "document type");
	begin();
	write_plist("a", "<?xml version=\"1.0\"?><!DOCTYPE plist [<!ELEMENT plist ANY>]><plist/>");
	said("a", "document type");
	/* out of the file, and too long */
	begin();
	write_plist("a", head);
	be64_store(m.bytes + strlen(head) + 224, UINT64_MAX);
	make_file("a", m.bytes, strlen(head) + 512, (off_t)strlen(head) + 512);
	said("a", "truncated");
	be64_store(m.bytes + strlen(head) + 216, 0);
	be64_store(m.bytes + strlen(head) + 224, (16 << 20) + 1);
	make_file("a", m.bytes, strlen(head), (16 << 20) + 4096);
	{
		int fd = open("a", O_WRONLY | O_CLOEXEC);

		cr_assert_eq(pwrite(fd, m.bytes + strlen(head), 512, (16 << 20) + 4096 - 512), 512);
		close(fd);
	}
	said("a", "expected up to 16777216");
}

/* A large chunk that is read in small steps is unpacked once. */
Test(dmg, large_chunks_in_small_steps)
{
	enum { SECTORS = 131072 };
	struct img *img;
	uint8_t value;

	begin();
	add_zlib(0, SECTORS, 0x41);
	add_zlib(SECTORS, 1, 0x42);
	write_image("a");
	img = must_open("a", "dmg", 0);
	for (uint64_t off = 0; off < SECTORS * UINT64_C(512); off += 16 * KIB) {
		cr_assert_eq(read_at(img, off, &value), 0);
		cr_assert_eq(value, 0x41);
	}
	cr_assert_eq(read_at(img, SECTORS * UINT64_C(512), &value), 0);
	cr_assert_eq(value, 0x42);
	must_close(img);
}

static void count(void *user, int rc, const struct img_error *err)
{
	unsigned *done = user;

	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	++*done;
}

/* From now on there are so many bytes more to be had. */
static void limit_memory(unsigned long bytes)
{
	unsigned long pages = 0;
	struct rlimit limit;
	FILE *f = fopen("/proc/self/statm", "r");

	/* the sixth number: data */
	cr_assert(f && fscanf(f, "%*u %*u %*u %*u %*u %lu", &pages) == 1);
	fclose(f);
	limit.rlim_cur = limit.rlim_max = pages * 4096 + bytes;
	cr_assert_eq(setrlimit(RLIMIT_DATA, &limit), 0);
}

/* Many of them at once do not take memory for all at once: that would be 14 times 32 MiB. */
Test(dmg, large_chunks_at_once)
{
	enum { SECTORS = 65536,
	       CHUNKS = 14,
	       LIMIT = 256 << 20 };
	static uint8_t bytes[CHUNKS][512];
	struct iovec iov[CHUNKS];
	struct img_queue *q;
	struct img *img;
	unsigned done = 0;

	if (getenv("ASAN_OPTIONS"))
		cr_skip_test("memory means nothing there");
	begin();
	add_zlib(0, SECTORS, 1);
	for (uint64_t i = 1; i < CHUNKS; i++)
		add_entry(DMG_ZLIB, i * SECTORS, SECTORS, 0, m.len);
	/* not at the same place, or they are one for who keeps them */
	for (uint64_t i = 1; i < CHUNKS; i++)
		memcpy(m.bytes + i * 64 * KIB + 100 * i, m.bytes, m.len);
	for (uint64_t i = 1; i < CHUNKS; i++)
		be64_store(m.table + DMG_TABLE_BYTES + i * DMG_ENTRY_BYTES + 24, i * 64 * KIB + 100 * i);
	cr_assert_lt(m.len, 64 * KIB);
	m.len += CHUNKS * 64 * KIB;
	write_image("a");
	img = must_open("a", "dmg", 0);
	cr_assert_eq(img_queue_new(IMG_IO_THREADS, &q, NULL), 0);
	limit_memory(LIMIT);
	for (unsigned i = 0; i < CHUNKS; i++) {
		iov[i] = (struct iovec){ bytes[i], 512 };
		cr_assert_eq(img_submit_readv(q, img, (uint64_t)i * SECTORS * 512 + 512, &iov[i], 1, 0, count, &done, NULL),
			     0);
	}
	while (done < CHUNKS)
		img_queue_run(q, true);
	img_queue_free(q);
	must_close(img);
}

/* By check: checksums of tables, of these, and of the data fork; zeroes count, ignored sectors do not. */
Test(dmg, checksums)
{
	static const uint8_t zeroes[512];
	struct img_check_result result;
	uint8_t sector[512], value[4];
	uLong crc;
	struct img *img;

	memset(sector, 5, sizeof(sector));
	begin();
	add_zlib(0, 1, 5);
	add_entry(DMG_ZEROES, 1, 3, 0, 0);
	add_entry(DMG_IGNORED, 4, 7, 0, 0);
	memset(m.bytes + m.len, 5, 512);
	add_entry(DMG_PLAIN, 11, 1, m.len, 512);
	m.len += 512;
	crc = crc32(0, sector, 512);
	for (unsigned i = 0; i < 3; i++)
		crc = crc32(crc, zeroes, 512);
	crc = crc32(crc, sector, 512);
	be32_store(value, (uint32_t)crc);
	be32_store(m.table + 64, 2);
	be32_store(m.table + 68, 32);
	be32_store(m.table + 72, (uint32_t)crc);
	be64_store(m.trailer + 32, m.len);
	be32_store(m.trailer + 80, 2);
	be32_store(m.trailer + 84, 32);
	be32_store(m.trailer + 88, (uint32_t)crc32(0, m.bytes, (uInt)m.len));
	be32_store(m.trailer + 352, 2);
	be32_store(m.trailer + 356, 32);
	be32_store(m.trailer + 360, (uint32_t)crc32(0, value, 4));
	for (unsigned wrong = 0; wrong < 4; wrong++) {
		uint8_t *at = wrong == 1 ? m.table + 72 : m.trailer + (wrong == 2 ? 88 : 360);

		if (wrong)
			at[2] ^= 1;
		write_image("a");
		img = must_open("a", "dmg", 0);
		cr_assert_eq(img_check(img, 0, NULL, NULL, &result, NULL), 0);
		/* that of the tables is over theirs, too */
		cr_assert_eq(result.corruptions, wrong == 1 ? 2 : wrong ? 1
									: 0,
			     "%u: %u", wrong, (unsigned)result.corruptions);
		must_close(img);
		if (wrong)
			at[2] ^= 1;
	}
}

/* Zeroes without an end cost no time. */
Test(dmg, checksum_of_many_zeroes)
{
	struct img_check_result result;
	struct img *img;

	begin();
	add_entry(DMG_ZEROES, 0, UINT64_C(1) << 53, 0, 0);
	be32_store(m.table + 64, 2);
	be32_store(m.table + 68, 32);
	write_image("a");
	img = must_open("a", "dmg", 0);
	cr_assert_eq(img_check(img, 0, NULL, NULL, &result, NULL), 0);
	cr_assert_eq(result.corruptions, 1);
	must_close(img);
}

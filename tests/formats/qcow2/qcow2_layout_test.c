/*
 * qcow2 bytes: parsing and encoding from byte literals.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "formats/qcow2/qcow2_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum { CLUSTER = 65536 };

/* A sound first cluster of an image of 1 GiB, version 3. */
static void make_first(uint8_t *first)
{
	static const uint8_t bytes[] = {
		0x51,
		0x46,
		0x49,
		0xfb,
		0,
		0,
		0,
		3,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		16,
		0,
		0,
		0,
		0,
		0x40,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		2,
		0,
		0,
		0,
		0,
		0,
		3,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		1,
		0,
		0,
		0,
		0,
		0,
		1,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		4,
		0,
		0,
		0,
		112,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
		0,
	};

	memset(first, 0, CLUSTER);
	memcpy(first, bytes, sizeof(bytes));
}

static int parse(const uint8_t *first, unsigned flags, struct qcow2_header *h)
{
	return qcow2_parse_header(first, CLUSTER, flags, h, NULL);
}

Test(qcow2_header, sound)
{
	uint8_t first[CLUSTER];
	struct qcow2_header h;

	make_first(first);
	cr_assert_eq(qcow2_peek_cluster_bytes(first, 24), CLUSTER);
	cr_assert_eq(parse(first, 0, &h), 0);
	cr_assert_eq(h.version, 3);
	cr_assert_eq(h.size, 1 << 30);
	cr_assert_eq(h.l1_entries, 2);
	cr_assert_eq(h.l1_off, 3 * CLUSTER);
	cr_assert_eq(h.refcount_table_off, CLUSTER);
	cr_assert_eq(h.refcount_table_clusters, 1);
	cr_assert_eq(h.refcount_order, 4);
	cr_assert_eq(h.header_bytes, 112);
	cr_assert_null(h.more);
}

Test(qcow2_header, version_2_has_no_features)
{
	uint8_t first[CLUSTER];
	struct qcow2_header h;

	make_first(first);
	first[7] = 2;
	memset(first + 72, 0xff, 40); /* an extension, for all a reader of version 2 knows */
	cr_assert_eq(parse(first, 0, &h), 0);
	cr_assert_eq(h.incompatible | h.compatible | h.autoclear, 0);
	cr_assert_eq(h.refcount_order, 4);
	cr_assert_eq(h.header_bytes, 72);
}

Test(qcow2_header, not_ours)
{
	uint8_t first[CLUSTER];
	struct qcow2_header h;

	make_first(first);
	cr_assert_eq(qcow2_parse_header(first, 71, 0, &h, NULL), -EMEDIUMTYPE);
	first[0] = 'q';
	cr_assert_eq(parse(first, 0, &h), -EMEDIUMTYPE);
	cr_assert_eq(qcow2_peek_cluster_bytes(first, 24), 0);
}

/* One field changed: what the answer is then. */
struct change {
	unsigned off, bytes;
	uint64_t value;
	int rc, rc_check;
};

Test(qcow2_header, each_field_out_of_range)
{
	static const struct change changes[] = {
		{ 4, 4, 1, -ENOTSUP, -ENOTSUP }, /* version */
		{ 4, 4, 4, -ENOTSUP, -ENOTSUP },
		{ 8, 8, CLUSTER + 1, -EUCLEAN, -EUCLEAN }, /* backing name */
		{ 20, 4, 8, -EUCLEAN, -EUCLEAN },	   /* cluster bits */
		{ 20, 4, 22, -EUCLEAN, -EUCLEAN },
		{ 20, 4, UINT32_MAX, -EUCLEAN, -EUCLEAN },
		{ 24, 8, (1 << 30) + 1, -EUCLEAN,
		  -EUCLEAN }, /* size: the L1 table is too small */
		{ 24, 8, UINT64_MAX, -EUCLEAN, -EUCLEAN },
		{ 32, 4, 3, -ENOTSUP, -ENOTSUP }, /* encryption */
		{ 36, 4, 1, -EUCLEAN, -EUCLEAN }, /* L1 */
		{ 36, 4, (4 << 20) + 1, -EUCLEAN, -EUCLEAN },
		{ 40, 8, 3 * CLUSTER + 512, -EUCLEAN, -EUCLEAN },
		{ 40, 8, 0, -EUCLEAN, -EUCLEAN },
		{ 40, 8, UINT64_C(1) << 63, -EUCLEAN, -EUCLEAN },
		{ 48, 8, 1, -EUCLEAN, -EUCLEAN }, /* refcount table */
		{ 48, 8, 0, -EUCLEAN, 0 },
		{ 56, 4, 0, -EUCLEAN, 0 },
		{ 56, 4, 129, -EUCLEAN, -EUCLEAN },
		{ 60, 4, 65537, -EUCLEAN, 0 }, /* snapshots */
		{ 60, 4, 1, -EUCLEAN, 0 },
		{ 64, 8, 3, -EUCLEAN, 0 },
		{ 72, 8, 1 << 5, -ENOTSUP, -ENOTSUP }, /* incompatible features */
		{ 72, 8, UINT64_C(1) << 63, -ENOTSUP, -ENOTSUP },
		{ 72, 8, QCOW2_INCOMPATIBLE_COMPRESSION, -EUCLEAN, -EUCLEAN },
		{ 80, 8, UINT64_MAX, 0, 0 },
		{ 88, 8, UINT64_MAX - 1, 0, 0 },
		{ 96, 4, 7, -EUCLEAN, -EUCLEAN },
		{ 100, 4, 103, -EUCLEAN, -EUCLEAN },
		{ 100, 4, CLUSTER + 8, -EUCLEAN, -EUCLEAN },
		{ 104, 1, 1, -EUCLEAN, -EUCLEAN }, /* compression without its bit */
	};
	struct qcow2_header h;
	uint8_t first[CLUSTER];

	for (size_t i = 0; i < IMG_ARRAY_LEN(changes); i++) {
		const struct change *c = &changes[i];

		make_first(first);
		for (unsigned k = 0; k < c->bytes; k++)
			first[c->off + k] = (uint8_t)(c->value >> 8 * (c->bytes - 1 - k));
		cr_assert_eq(parse(first, 0, &h), c->rc, "change %zu", i);
		cr_assert_eq(parse(first, QCOW2_PARSE_FOR_CHECK, &h), c->rc_check,
			     "change %zu, for a check", i);
	}
}

Test(qcow2_header, unknown_features_by_name)
{
	uint8_t first[CLUSTER];
	struct qcow2_header h;
	struct img_error *err = img_error_new();

	make_first(first);
	be64_store(first + 72, UINT64_C(3) << 40);
	be32_store(first + 112, QCOW2_EXT_FEATURES);
	be32_store(first + 116, 48);
	first[120] = 0;
	first[121] = 41;
	memcpy(first + 122, "flux capacitor", 14);
	cr_assert_eq(qcow2_parse_header(first, CLUSTER, 0, &h, err), -ENOTSUP);
	cr_assert(strstr(img_error_text(err), "bit 40, flux capacitor"), "%s",
		  img_error_text(err));
	img_error_free(err);
}

Test(qcow2_header, compression_type)
{
	uint8_t first[CLUSTER];
	struct qcow2_header h;

	make_first(first);
	first[79] = QCOW2_INCOMPATIBLE_COMPRESSION;
	first[104] = 1;
	cr_assert_eq(parse(first, 0, &h), 0);
	cr_assert_eq(h.compression, QCOW2_COMPRESSION_ZSTD);
	first[104] = 2;
	cr_assert_eq(parse(first, 0, &h), -ENOTSUP);
	first[103] = 104; /* too short for the field: it counts as 0 */
	cr_assert_eq(parse(first, 0, &h), -EUCLEAN);
}

Test(qcow2_extensions, all_kinds_come_back)
{
	uint8_t first[CLUSTER], again[CLUSTER];
	struct qcow2_header h, h2;
	struct qcow2_extensions x = { 0 }, x2;
	uint8_t stranger[24] = "\x12\x34\x56\x78\0\0\0\5abcde";

	make_first(first);
	memset(first + 112, 0x5a, 8); /* a field of a later version */
	first[103] = 120;
	memcpy(first + 120, stranger, sizeof(stranger));
	first[95] = QCOW2_AUTOCLEAR_BITMAPS;
	cr_assert_eq(parse(first, 0, &h), 0);
	cr_assert_eq(h.more_bytes, 8);
	cr_assert_eq(qcow2_parse_extensions(first, CLUSTER, &h, &x, NULL), -EUCLEAN,
		     "the bitmaps bit without bitmaps");
	h.autoclear = 0;
	cr_assert_eq(qcow2_parse_extensions(first, CLUSTER, &h, &x, NULL), 0);

	h.autoclear = QCOW2_AUTOCLEAR_BITMAPS;
	h.crypt_method = QCOW2_CRYPT_LUKS;
	strcpy(x.backing_format, "qcow2");
	x.data_file = (const uint8_t *)"data.raw";
	x.data_file_bytes = 8;
	x.crypto_off = 7 * CLUSTER;
	x.crypto_bytes = 4096;
	x.bitmaps = 2;
	x.bitmap_directory_bytes = 64;
	x.bitmap_directory_off = 5 * CLUSTER;
	cr_assert_eq(qcow2_encode_first(&h, &x, "base.qcow2", again, NULL), 0);
	cr_assert_eq(h.backing_bytes, 10);
	cr_assert(!memcmp(again + h.backing_off, "base.qcow2", 10));

	cr_assert_eq(parse(again, 0, &h2), 0);
	cr_assert_eq(h2.backing_off, h.backing_off);
	cr_assert_eq(h2.more_bytes, 8);
	cr_assert_eq(h2.more[7], 0x5a);
	cr_assert_eq(qcow2_parse_extensions(again, CLUSTER, &h2, &x2, NULL), 0);
	cr_assert_str_eq(x2.backing_format, "qcow2");
	cr_assert(x2.data_file_bytes == 8 && !memcmp(x2.data_file, "data.raw", 8));
	cr_assert_eq(x2.crypto_off, x.crypto_off);
	cr_assert_eq(x2.crypto_bytes, x.crypto_bytes);
	cr_assert_eq(x2.bitmaps, 2);
	cr_assert_eq(x2.bitmap_directory_off, x.bitmap_directory_off);
	cr_assert_not_null(memmem(again, CLUSTER, stranger, 13));
	cr_assert_not_null(memmem(again, CLUSTER, "raw external data", 17));
}

Test(qcow2_extensions, unsound)
{
	uint8_t first[CLUSTER];
	struct qcow2_header h;
	struct qcow2_extensions x;

	make_first(first);
	cr_assert_eq(parse(first, 0, &h), 0);
	be32_store(first + 112, 0x11111111);
	be32_store(first + 116, CLUSTER - 119);
	cr_assert_eq(qcow2_parse_extensions(first, CLUSTER, &h, &x, NULL), -EUCLEAN, "too long");
	be32_store(first + 116, CLUSTER - 120);
	cr_assert_eq(qcow2_parse_extensions(first, CLUSTER, &h, &x, NULL), 0, "just fits");
	be32_store(first + 112, QCOW2_EXT_BACKING_FORMAT);
	be32_store(first + 116, 16);
	cr_assert_eq(qcow2_parse_extensions(first, CLUSTER, &h, &x, NULL), -EUCLEAN,
		     "long format");
	be32_store(first + 112, QCOW2_EXT_CRYPTO);
	cr_assert_eq(qcow2_parse_extensions(first, CLUSTER, &h, &x, NULL), -EUCLEAN,
		     "not encrypted");
	h.crypt_method = QCOW2_CRYPT_LUKS;
	be64_store(first + 120, CLUSTER + 8);
	be64_store(first + 128, 4096);
	cr_assert_eq(qcow2_parse_extensions(first, CLUSTER, &h, &x, NULL), -EUCLEAN, "unaligned");
	h.crypt_method = 0;
	be32_store(first + 112, QCOW2_EXT_BITMAPS);
	cr_assert_eq(qcow2_parse_extensions(first, CLUSTER, &h, &x, NULL), 0,
		     "stale: not looked at");
	cr_assert(x.stale_bitmaps && !x.bitmaps);
	h.autoclear = QCOW2_AUTOCLEAR_BITMAPS;
	cr_assert_eq(qcow2_parse_extensions(first, CLUSTER, &h, &x, NULL), -EUCLEAN,
		     "bad length");
}

Test(qcow2_extensions, backing_name_must_fit)
{
	struct qcow2_header h = { .version = 3, .cluster_bits = 9, .refcount_order = 4 };
	struct qcow2_extensions x = { .backing_format = "raw" };
	uint8_t out[512];
	char name[1100];

	memset(name, 'n', sizeof(name));
	name[512 - 112 - 16 - 8] = '\0';
	cr_assert_eq(qcow2_encode_first(&h, &x, name, out, NULL), 0);
	cr_assert_eq(h.backing_off, 136);
	h.backing_off = 7;
	name[512 - 112 - 16 - 8] = 'n';
	name[512 - 112 - 16 - 7] = '\0';
	cr_assert_eq(qcow2_encode_first(&h, &x, name, out, NULL), -ENOSPC);
	cr_assert_eq(h.backing_off, 7, "untouched");
	h.cluster_bits = 21; /* room enough, but nobody reads such a name */
	memset(name, 'n', sizeof(name));
	name[1024] = '\0';
	cr_assert_eq(qcow2_encode_first(&h, &x, name, out, NULL), -ENOSPC);
}

static struct qcow2_geometry geometry(unsigned version, unsigned bits, unsigned order,
				      uint64_t features)
{
	struct qcow2_header h = {
		.version = version,
		.cluster_bits = bits,
		.refcount_order = order,
		.incompatible = features,
	};
	struct qcow2_geometry g;

	qcow2_geometry(&h, &g);
	return g;
}

Test(qcow2_geometry, numbers)
{
	struct qcow2_geometry g = geometry(3, 16, 4, 0);

	cr_assert_eq(g.l2_entries, 8192);
	cr_assert_eq(g.l2_span, 512 << 20);
	cr_assert_eq(g.block_entries, 32768);
	cr_assert_eq(g.refcount_max, 65535);
	cr_assert_eq(g.compressed_shift, 54);
	cr_assert_eq(qcow2_l1_needed(&g, 0), 0);
	cr_assert_eq(qcow2_l1_needed(&g, (512 << 20) + 1), 2);
	g = geometry(3, 9, 0, 0);
	cr_assert_eq(g.l2_entries, 64);
	cr_assert_eq(g.block_entries, 4096);
	cr_assert_eq(g.refcount_max, 1);
	cr_assert_eq(g.compressed_shift, 61);
	g = geometry(3, 21, 6, QCOW2_INCOMPATIBLE_EXTENDED_L2);
	cr_assert_eq(g.l2_entries, 131072);
	cr_assert_eq(g.block_entries, 262144);
	cr_assert_eq(g.refcount_max, UINT64_MAX);
	cr_assert_eq(g.subcluster_bytes, 65536);
	cr_assert_eq(g.compressed_shift, 49);
}

Test(qcow2_entry, standard)
{
	struct qcow2_geometry g = geometry(3, 16, 4, 0), v2 = geometry(2, 16, 4, 0);
	struct qcow2_entry e;

	cr_assert_eq(qcow2_decode_entry(&g, 0, 0, &e), 0);
	cr_assert_eq(e.kind, QCOW2_UNALLOCATED);
	cr_assert_eq(qcow2_decode_entry(&g, 0x8000000000050000, 0, &e), 0);
	cr_assert(e.kind == QCOW2_NORMAL && e.host_off == 0x50000 && e.copied);
	cr_assert_eq(qcow2_decode_entry(&g, 1, 0, &e), 0);
	cr_assert_eq(e.kind, QCOW2_ZERO_PLAIN);
	cr_assert_eq(qcow2_decode_entry(&g, 0x50001, 0, &e), 0);
	cr_assert(e.kind == QCOW2_ZERO_ALLOC && e.host_off == 0x50000 && !e.copied);
	cr_assert_eq(qcow2_decode_entry(&v2, 1, 0, &e), QCOW2_BAD_V2_ZERO);
	cr_assert_eq(qcow2_decode_entry(&g, 0x50200, 0, &e), QCOW2_BAD_UNALIGNED);
	cr_assert_eq(qcow2_decode_entry(&g, 0x50002, 0, &e), QCOW2_ODD_RESERVED);
	cr_assert_eq(qcow2_decode_entry(&g, 0x0100000000050000, 0, &e), QCOW2_ODD_RESERVED);
	cr_assert_str_eq(qcow2_defect_text(QCOW2_BAD_UNALIGNED), "an unaligned host offset");
}

Test(qcow2_entry, offset_0_in_a_data_file)
{
	struct qcow2_geometry g = geometry(3, 16, 4, QCOW2_INCOMPATIBLE_DATA_FILE);
	struct qcow2_entry e;

	cr_assert_eq(qcow2_decode_entry(&g, QCOW2_COPIED, 0, &e), 0);
	cr_assert(e.kind == QCOW2_NORMAL && !e.host_off);
	cr_assert_eq(qcow2_decode_entry(&g, QCOW2_L2_COMPRESSED, 0, &e),
		     QCOW2_BAD_COMPRESSED_DATA_FILE);
	g = geometry(3, 16, 4, 0);
	qcow2_decode_entry(&g, QCOW2_COPIED, 0, &e);
	cr_assert_eq(e.kind, QCOW2_UNALLOCATED);
}

Test(qcow2_entry, compressed)
{
	struct qcow2_geometry g = geometry(3, 16, 4, 0), small = geometry(3, 9, 4, 0);
	struct qcow2_entry e;
	uint64_t word, bitmap;

	cr_assert_eq(qcow2_decode_entry(&g, 0x400000000005004f, 0, &e), 0);
	cr_assert(e.kind == QCOW2_COMPRESSED && e.host_off == 0x5004f);
	cr_assert_eq(e.stored_bytes, 512 - 0x4f);
	cr_assert_eq(qcow2_decode_entry(&g, 0x40c000000005004f, 0, &e), 0);
	cr_assert_eq(e.stored_bytes, 4 * 512 - 0x4f);
	cr_assert_eq(qcow2_decode_entry(&small, 0x4100000000000000, 0, &e),
		     QCOW2_BAD_COMPRESSED_OFFSET);
	cr_assert_eq(qcow2_decode_entry(&g, 0xc00000000005004f, 0, &e),
		     QCOW2_ODD_COMPRESSED_COPIED);

	for (unsigned bits = 9; bits <= 21; bits++) {
		g = geometry(3, bits, 4, 0);
		cr_assert_eq(g.compressed_shift, 70 - bits);
		for (uint32_t len = 1; len < g.cluster_bytes; len = len * 3 + 1) {
			struct qcow2_entry in = {
				.kind = QCOW2_COMPRESSED,
				.host_off = 0x12345 + len,
				.stored_bytes = len,
			};

			cr_assert(qcow2_compressed_fits(&g, in.host_off, len));
			qcow2_encode_entry(&g, &in, &word, &bitmap);
			cr_assert_eq(qcow2_decode_entry(&g, word, bitmap, &e), 0);
			cr_assert(e.kind == QCOW2_COMPRESSED && e.host_off == in.host_off);
			cr_assert(e.stored_bytes >= len && e.stored_bytes < len + 512);
			cr_assert_eq((e.host_off + e.stored_bytes) % 512, 0);
		}
	}
	cr_assert(!qcow2_compressed_fits(&g, UINT64_C(1) << 49, 1));
	cr_assert(!qcow2_compressed_fits(&g, 0, 0));
	cr_assert(!qcow2_compressed_fits(&g, 0, g.cluster_bytes + 1));
}

Test(qcow2_entry, extended)
{
	struct qcow2_geometry g = geometry(3, 16, 4, QCOW2_INCOMPATIBLE_EXTENDED_L2);
	struct qcow2_entry e;
	uint64_t word, bitmap;

	cr_assert_eq(qcow2_decode_entry(&g, 0, 0x0000ff0000000000, &e), 0);
	cr_assert(e.kind == QCOW2_UNALLOCATED && e.sub_zero == 0xff00);
	cr_assert_eq(qcow2_decode_entry(&g, 0x50000, 0x8000000000000001, &e), 0);
	cr_assert(e.kind == QCOW2_NORMAL && e.sub_alloc == 1 && e.sub_zero == 0x80000000);
	cr_assert_eq(qcow2_decode_entry(&g, 0x50000, 0x0000000100000001, &e),
		     QCOW2_BAD_SUBCLUSTERS);
	cr_assert_eq(qcow2_decode_entry(&g, 0, 1, &e), QCOW2_BAD_UNBACKED);
	cr_assert_eq(qcow2_decode_entry(&g, 1, 0, &e), QCOW2_ODD_RESERVED);
	cr_assert_eq(qcow2_decode_entry(&g, QCOW2_L2_COMPRESSED, 1, &e),
		     QCOW2_BAD_COMPRESSED_BITMAP);

	e = (struct qcow2_entry){
		.kind = QCOW2_NORMAL,
		.host_off = 0x50000,
		.copied = true,
		.sub_alloc = 3,
		.sub_zero = 4,
	};
	qcow2_encode_entry(&g, &e, &word, &bitmap);
	cr_assert_eq(word, 0x8000000000050000);
	cr_assert_eq(bitmap, 0x0000000400000003);
	e.kind = QCOW2_ZERO_PLAIN;
	qcow2_encode_entry(&g, &e, &word, &bitmap);
	cr_assert(!word && bitmap == 0xffffffff00000000);
}

Test(qcow2_refcount, every_width)
{
	for (unsigned order = 0; order <= 6; order++) {
		uint8_t block[64];
		uint64_t max = UINT64_MAX >> (64 - (1u << order)), n = sizeof(block) * 8 >> order;

		memset(block, 0xff, sizeof(block));
		for (uint64_t i = 0; i < n; i++) {
			cr_assert_eq(qcow2_refcount_get(block, order, i), max);
			qcow2_refcount_set(block, order, i, i & max);
		}
		for (uint64_t i = 0; i < n; i++)
			cr_assert_eq(qcow2_refcount_get(block, order, i), (i & max));
	}
}

Test(qcow2_refcount, bit_order)
{
	uint8_t block[8] = { 0 };

	qcow2_refcount_set(block, 0, 1, 1);
	cr_assert_eq(block[0], 2);
	qcow2_refcount_set(block, 2, 2, 0xa);
	cr_assert_eq(block[1], 0xa);
	qcow2_refcount_set(block, 4, 3, 0x1234);
	cr_assert_eq(block[6], 0x12);
}

Test(qcow2_snapshot, both_ways)
{
	struct qcow2_geometry g = geometry(3, 16, 4, 0);
	struct qcow2_snapshot s = {
		.l1_off = CLUSTER,
		.l1_entries = 2,
		.seconds = 1000,
		.nanoseconds = 5,
		.guest_ns = 77,
		.vm_state_bytes = UINT64_C(1) << 33,
		.has_size = true,
		.size = 1 << 30,
		.id = (const uint8_t *)"12",
		.id_bytes = 2,
		.name = (const uint8_t *)"before",
		.name_bytes = 6,
		.more_extra = (const uint8_t *)"later",
		.more_extra_bytes = 5,
	},
			      t;
	uint8_t bytes[128];
	uint64_t len = qcow2_snapshot_encoded_bytes(&s);

	cr_assert_eq(len, 40 + 24 + 5 + 2 + 6);
	qcow2_encode_snapshot(&s, bytes);
	cr_assert_eq(qcow2_snapshot_bytes(bytes), len);
	cr_assert_eq(qcow2_parse_snapshot(bytes, len - 1, &t, NULL), -EUCLEAN);
	cr_assert_eq(qcow2_parse_snapshot(bytes, len, &t, NULL), 0);
	cr_assert(t.l1_off == s.l1_off && t.l1_entries == 2 && t.seconds == 1000 &&
		  t.guest_ns == 77);
	cr_assert(t.vm_state_bytes == s.vm_state_bytes && t.size == s.size && t.has_size);
	cr_assert(t.has_icount && t.icount == UINT64_MAX);
	cr_assert(t.id_bytes == 2 && !memcmp(t.id, "12", 2) && !memcmp(t.name, "before", 6));
	cr_assert(t.more_extra_bytes == 5 && !memcmp(t.more_extra, "later", 5));
	cr_assert_eq(qcow2_check_snapshot_l1(&g, &t, NULL), 0);
	t.l1_off = 512;
	cr_assert_eq(qcow2_check_snapshot_l1(&g, &t, NULL), -EUCLEAN);
	be32_store(bytes + 36, UINT32_MAX);
	cr_assert_eq(qcow2_parse_snapshot(bytes, sizeof(bytes), &t, NULL), -EUCLEAN);
}

Test(qcow2_snapshot, short_extra_data)
{
	uint8_t bytes[64] = { 0 };
	struct qcow2_snapshot s;

	be32_store(bytes + 32, 99);
	cr_assert_eq(qcow2_parse_snapshot(bytes, 40, &s, NULL), 0);
	cr_assert(!s.has_size && !s.has_icount && s.vm_state_bytes == 99 &&
		  s.icount == UINT64_MAX);
	be32_store(bytes + 36, 8);
	cr_assert_eq(qcow2_parse_snapshot(bytes, 48, &s, NULL), 0);
	cr_assert_eq(s.vm_state_bytes, 0);
}

Test(qcow2_bitmap, both_ways_and_unsound)
{
	struct qcow2_geometry g = geometry(3, 16, 4, 0);
	struct qcow2_bitmap b = {
		.table_off = CLUSTER,
		.table_entries = 1,
		.flags = QCOW2_BITMAP_AUTO,
		.type = QCOW2_BITMAP_DIRTY_TRACKING,
		.granularity_bits = 16,
		.name = (const uint8_t *)"b0",
		.name_bytes = 2,
	},
			    c;
	static const struct change changes[] = {
		{ 0, 8, 1, -EUCLEAN, 0 },
		{ 0, 8, 0, -EUCLEAN, 0 },
		{ 8, 4, QCOW2_MAX_BITMAP_TABLE_ENTRIES + 1, -EUCLEAN, 0 },
		{ 12, 4, 4, -ENOTSUP, 0 },
		{ 16, 1, 2, -ENOTSUP, 0 },
		{ 17, 1, 64, -EUCLEAN, 0 },
		{ 17, 1, 8, -ENOTSUP, 0 },
		{ 18, 2, 0, -EUCLEAN, 0 },
		{ 18, 2, 9, -EUCLEAN, 0 },
		{ 20, 4, 6, -ENOTSUP, 0 },
		{ 20, 4, UINT32_MAX, -EUCLEAN, 0 },
	};
	uint8_t bytes[32], bad[32];

	qcow2_encode_bitmap(&b, bytes);
	cr_assert_eq(qcow2_bitmap_bytes(bytes), 32);
	cr_assert_eq(qcow2_parse_bitmap(&g, bytes, 31, &c, NULL), -EUCLEAN);
	cr_assert_eq(qcow2_parse_bitmap(&g, bytes, 32, &c, NULL), 0);
	cr_assert(c.table_off == CLUSTER && c.flags == QCOW2_BITMAP_AUTO &&
		  c.granularity_bits == 16);
	cr_assert(c.name_bytes == 2 && !memcmp(c.name, "b0", 2));
	for (size_t i = 0; i < IMG_ARRAY_LEN(changes); i++) {
		memcpy(bad, bytes, sizeof(bad));
		for (unsigned k = 0; k < changes[i].bytes; k++)
			bad[changes[i].off + k] = (uint8_t)(changes[i].value >>
							    8 * (changes[i].bytes - 1 - k));
		cr_assert_eq(qcow2_parse_bitmap(&g, bad, 32, &c, NULL), changes[i].rc,
			     "change %zu", i);
	}
	cr_assert_eq(qcow2_bitmap_entries(&g, 1 << 30, 16), 1);
	cr_assert_eq(qcow2_bitmap_entries(&g, UINT64_C(1) << 40, 16), 32);
}

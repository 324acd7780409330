/*
 * qcow2 from any bytes. The first byte says what the rest is: an image (0, and whatever is not
 * named here), snapshot table (1), bitmap directory (2), L2 entries and refcounts (3).
 *
 * An image is parsed and its first cluster encoded again, then checked and repaired over memory; a
 * check afterwards finds what the repair said it left.
 */
#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/engine/engine.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { IMAGE_MAX = 16 << 20,
       FIRST_MAX = 65536 };

static struct qcow2_geometry geometry(unsigned choice)
{
	struct qcow2_header h = {
		.version = choice & 1 ? 3 : 2,
		.cluster_bits = 9 + choice % 13,
		.refcount_order = choice % 7,
	};
	struct qcow2_geometry g;

	if (h.version == 3 && h.cluster_bits >= QCOW2_MIN_EXTENDED_BITS && choice & 64)
		h.incompatible |= QCOW2_INCOMPATIBLE_EXTENDED_L2;
	if (h.version == 3 && choice & 128)
		h.incompatible |= QCOW2_INCOMPATIBLE_DATA_FILE;
	qcow2_geometry(&h, &g);
	return g;
}

static void fuzz_snapshots(const uint8_t *bytes, size_t len)
{
	struct qcow2_geometry g = geometry(16);
	struct qcow2_snapshot s, again;
	size_t at = 0;

	while (len - at >= QCOW2_SNAPSHOT_FIXED_BYTES) {
		uint64_t used = qcow2_snapshot_bytes(bytes + at), bytes_again;
		uint8_t *out;

		if (qcow2_parse_snapshot(bytes + at, len - at, &s, NULL))
			return;
		assert(used <= len - at && s.id + s.id_bytes <= s.name + s.name_bytes);
		qcow2_check_snapshot_l1(&g, &s, NULL);
		bytes_again = qcow2_snapshot_encoded_bytes(&s);
		out = malloc(bytes_again);
		if (!out)
			return;
		qcow2_encode_snapshot(&s, out);
		assert(qcow2_snapshot_bytes(out) == bytes_again);
		assert(!qcow2_parse_snapshot(out, bytes_again, &again, NULL));
		assert(again.l1_off == s.l1_off && again.vm_state_bytes == s.vm_state_bytes);
		free(out);
		at += min_u64(round_up_u64(used, 8), len - at);
	}
}

static void fuzz_bitmaps(const uint8_t *bytes, size_t len)
{
	struct qcow2_geometry g = geometry(19);
	struct qcow2_bitmap b;
	size_t at = 0;

	while (at < len && !qcow2_parse_bitmap(&g, bytes + at, len - at, &b, NULL)) {
		uint8_t out[QCOW2_BITMAP_FIXED_BYTES + QCOW2_MAX_BITMAP_NAME + 8];

		qcow2_encode_bitmap(&b, out);
		assert(qcow2_bitmap_bytes(out) == qcow2_bitmap_bytes(bytes + at));
		assert(!memcmp(out, bytes + at, QCOW2_BITMAP_FIXED_BYTES + (size_t)b.name_bytes));
		at += qcow2_bitmap_bytes(bytes + at);
	}
}

static void fuzz_entries(const uint8_t *bytes, size_t len)
{
	struct qcow2_geometry g = geometry(len ? bytes[0] : 0);
	uint8_t block[8];

	for (size_t i = 1; len >= 17 && i <= len - 16; i += 16) {
		uint64_t word = be64_load(bytes + i),
			 bitmap = g.extended ? be64_load(bytes + i + 8) : 0;
		uint64_t word_again, bitmap_again;
		struct qcow2_entry e, again;

		if (qcow2_decode_entry(&g, word, bitmap, &e))
			continue;
		assert(e.kind != QCOW2_COMPRESSED ||
		       (e.stored_bytes && e.stored_bytes <= 2 * g.cluster_bytes));
		qcow2_encode_entry(&g, &e, &word_again, &bitmap_again);
		assert(!qcow2_decode_entry(&g, word_again, bitmap_again, &again));
		assert(again.kind == e.kind && again.host_off == e.host_off &&
		       again.stored_bytes == e.stored_bytes && again.copied == e.copied &&
		       again.sub_zero == e.sub_zero && again.sub_alloc == e.sub_alloc);
		memcpy(block, bytes + i, 8);
		for (uint64_t k = 0; k < 64 >> g.refcount_order; k++) {
			uint64_t count = qcow2_refcount_get(block, g.refcount_order, k);

			assert(count <= g.refcount_max);
			qcow2_refcount_set(block, g.refcount_order, k, count);
		}
		assert(!memcmp(block, bytes + i, 8));
	}
}

static void fuzz_first(const uint8_t *bytes, size_t len)
{
	uint64_t cluster = qcow2_peek_cluster_bytes(bytes, len);
	size_t have = max_u64(min_u64(cluster, FIRST_MAX), 512);
	uint8_t *first = calloc(1, have), *again = malloc(have);
	struct qcow2_header h, h2;
	struct qcow2_extensions x, x2;

	if (!first || !again)
		abort();
	memcpy(first, bytes, min_size(len, have));
	qcow2_parse_header(first, have, 0, &h, NULL);
	if (!qcow2_parse_header(first, have, QCOW2_PARSE_FOR_CHECK, &h, NULL) &&
	    !qcow2_parse_extensions(first, have, &h, &x, NULL) &&
	    !qcow2_encode_first(&h, &x, NULL, again, NULL)) {
		assert(!qcow2_parse_header(again, have, QCOW2_PARSE_FOR_CHECK, &h2, NULL));
		assert(!qcow2_parse_extensions(again, have, &h2, &x2, NULL));
		assert(h2.size == h.size && h2.l1_off == h.l1_off &&
		       h2.more_bytes == h.more_bytes);
		assert(!strcmp(x.backing_format, x2.backing_format));
		assert(x.bitmaps == x2.bitmaps && x.data_file_bytes == x2.data_file_bytes);
	}
	free(first);
	free(again);
}

static int reference(struct img_opening *o, const char *name, const char *what,
		     struct img_storage **out, struct img_error *err)
{
	(void)o;
	(void)what;
	(void)err;
	return img_storage_memory(name, 1 << 20, 1 << 20, out);
}

static int data_file(struct img_opening *o, const char *stored, struct img_storage **out,
		     struct img_error *err)
{
	return reference(o, stored ? stored : "data", "data file", out, err);
}

static int passphrase(struct img_opening *o, const char *option, img_passphrase_fn *use, void *user,
		      struct img_error *err)
{
	(void)o;
	(void)option;
	return use(user, (const uint8_t *)"secret", 6, err);
}

static void fuzz_image(const uint8_t *bytes, size_t len)
{
	struct img_options *options = img_options_new(qcow2_driver.open_options);
	void *nothing = NULL;
	struct img_opening o = { .for_check = true,
				 .options = options,
				 .handover = &nothing,
				 .passphrase = passphrase,
				 .reference = reference,
				 .data_file = data_file };
	struct img_engine_config config = { .io = IMG_IO_THREADS };
	struct img_check check = { 0 }, mended = { .repair = IMG_REPAIR_ALL }, after = { 0 };
	struct img img = { .driver = &qcow2_driver, .name = strdup("fuzz"), .writable = true };

	if (!options || !img.name || img_storage_memory("fuzz", len, IMAGE_MAX, &img.file))
		abort();
	img_storage_write(img.file, 0, bytes, len, NULL);
	if (!qcow2_driver.open(&img, &o, NULL)) {
		if (img_engine_new(&img, &config, NULL))
			abort();
		if (!qcow2_check(&img, &check, NULL) && !qcow2_check(&img, &mended, NULL) &&
		    !qcow2_check(&img, &after, NULL))
			assert(after.result.corruptions == mended.result.corruptions &&
			       after.result.leaks == mended.result.leaks);
		img_engine_free(&img);
		qcow2_driver.close(&img);
	}
	img_storage_close(img.file);
	img_options_free(options);
	free(img.backing_name);
	free(img.backing_format);
	free(img.name);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	switch (data[0]) {
	case 1:
		fuzz_snapshots(data + 1, size - 1);
		break;
	case 2:
		fuzz_bitmaps(data + 1, size - 1);
		break;
	case 3:
		fuzz_entries(data + 1, size - 1);
		break;
	default:
		fuzz_first(data + 1, size - 1);
		fuzz_image(data + 1, size - 1);
	}
	return 0;
}

/*
 * streamOptimized disks: what the sink writes is what VMware's own products expect, and others
 * read it.
 */
#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "tests/formats/vmdk/bench.h"

enum { GRAIN = 65536 };

/* ---- Output that is kept in memory ---- */

struct kept {
	struct img_byte_writer base;
	uint8_t *bytes;
	uint64_t limit; /* the write that goes past fails */
};

static int keep(struct img_byte_writer *a, const void *bytes, size_t len, struct img_error *err)
{
	struct kept *k = (struct kept *)a;

	if (k->limit && a->written + len > k->limit)
		return img_fail(err, -EPIPE, "the reader went away");
	k->bytes = realloc(k->bytes, a->written + len);
	cr_assert(k->bytes);
	memcpy(k->bytes + a->written, bytes, len);
	a->written += len;
	return 0;
}

static int begin(struct kept *k, uint64_t size, struct img_options **options,
		 struct img_sink **sink, struct img_error *err)
{
	struct img_creating c = { .name = "folder/disk.vmdk", .size = size };

	*options = img_options_new(vmdk_create_options);
	cr_assert_eq(img_options_parse(*options, "subformat=streamOptimized,adapter_type=lsilogic",
				       err),
		     0);
	c.options = *options;
	k->base.write = keep;
	return vmdk_sink(&c, &k->base, sink, err);
}

/* Guest bytes: grain g has something if have(g). */
typedef bool have_fn(uint64_t grain);

static void fill(uint64_t g, uint8_t *grain)
{
	for (size_t i = 0; i < GRAIN; i++)
		grain[i] = (uint8_t)(i % 64 < 32 ? i % 8 + g : (g + 1) * (i + 77) * 2654435761u >> 24);
}

/* Write a disk, and read it with everything there is. */
static void round_trip(uint64_t size, have_fn *have)
{
	uint64_t grains = div_round_up_u64(size, GRAIN);
	uint8_t *model = calloc(1, grains * GRAIN + 1), *packed = malloc(2 * GRAIN), *got;
	struct img_options *options;
	struct img_error *err = img_error_new();
	struct kept k = { 0 };
	struct img_sink *sink;
	struct bench b;
	FILE *f;

	start(&b);
	cr_assert_eq(begin(&k, size, &options, &sink, err), 0, "%s", img_error_text(err));
	cr_assert_eq(sink->unit_bytes, GRAIN);
	cr_assert(sink->pad_last && !sink->wants_all);
	for (uint64_t g = 0; g < grains; g++) {
		uint8_t whole[GRAIN];
		size_t len;

		if (!have(g))
			continue;
		fill(g, whole);
		memset(whole + min_u64(GRAIN, size - g * GRAIN), 0,
		       GRAIN - min_u64(GRAIN, size - g * GRAIN));
		memcpy(model + g * GRAIN, whole, GRAIN);
		cr_assert_eq(sink->codec->encode(whole, GRAIN, 0, packed, 2 * GRAIN, &len, err),
			     0);
		cr_assert_eq(sink->put(sink, g * GRAIN, packed, len, err), 0, "%s",
			     img_error_text(err));
	}
	cr_assert_eq(sink->finish(sink, err), 0, "%s", img_error_text(err));
	sink->free(sink);

	/* Header, footer and end are where readers look for them, and agree. */
	uint8_t *footer = k.bytes + k.base.written - 1024, zeroes[512] = { 0 };

	cr_assert_eq(k.base.written % 512, 0);
	cr_assert_eq(le32_load(k.bytes + 4), 3);
	cr_assert_eq(le32_load(k.bytes + 8), 0x30001);
	cr_assert_eq(le64_load(k.bytes + 56), UINT64_MAX);
	cr_assert_eq(le64_load(k.bytes + 12), round_up_u64(size, GRAIN) / 512);
	cr_assert(!memcmp(k.bytes, footer, 56) && !memcmp(k.bytes + 64, footer + 64, 448));
	cr_assert(le64_load(footer + 56) * 512 < k.base.written);
	cr_assert(vmdk_is_footer_marker(footer - 512));
	cr_assert_arr_eq(footer + 512, zeroes, 512);

	/* Markers alone lead through it, in ascending order, with each table behind its grains. */
	uint64_t at = le64_load(k.bytes + 64) * 512, last = 0, n = 0;

	for (;;) {
		uint64_t value = le64_load(k.bytes + at);
		uint32_t bytes = le32_load(k.bytes + at + 8), type = le32_load(k.bytes + at + 12);

		if (bytes) {
			cr_assert(!n || value > last);
			last = value;
			n++;
			at += round_up_u64(12 + bytes, 512);
			continue;
		}
		if (type == VMDK_MARKER_END)
			break;
		cr_assert(type == VMDK_MARKER_TABLE || type == VMDK_MARKER_DIRECTORY ||
			  type == VMDK_MARKER_FOOTER);
		at += 512 + value * 512;
	}
	cr_assert_eq(at + 512, k.base.written);

	f = fopen(b.image, "w");
	cr_assert(f && fwrite(k.bytes, 1, k.base.written, f) == k.base.written && !fclose(f));
	got = read_all(b.image, size);
	cr_assert(!memcmp(got, model, size));
	sound(&b, b.image);
	if (size && have_qemu()) {
		char raw[160];

		snprintf(raw, sizeof(raw), "%s/model.raw", b.dir);
		f = fopen(raw, "w");
		cr_assert(f && fwrite(model, 1, size, f) == size && !fclose(f));
		run(&b, "qemu-img compare -f vmdk -F raw image.vmdk model.raw");
		if (!system("command -v 7z >/dev/null"))
			run(&b, "truncate -s %%65536 model.raw && 7z x -so image.vmdk 2>/dev/null | "
				"cmp - model.raw");		   /* it goes by the header */
		if (!system("command -v vmdk-convert >/dev/null")) /* and so does that */
			run(&b, "truncate -s %%65536 model.raw && timeout 60 vmdk-convert image.vmdk open.raw "
				"&& cmp open.raw model.raw");
		if (!system("command -v vmdkinfo >/dev/null"))
			run(&b, "cp image.vmdk disk.vmdk && vmdkinfo disk.vmdk");
	}
	if (size) /* of nothing, everything can be written */
		refuse_open(b.image, IMG_OPEN_WRITE, -ENOTSUP, "streamOptimized");
	img_options_free(options);
	img_error_free(err);
	free(model);
	free(packed);
	free(got);
	free(k.bytes);
	finish(&b);
}

static bool all(uint64_t g)
{
	(void)g;
	return true;
}

static bool none(uint64_t g)
{
	(void)g;
	return false;
}

static bool some(uint64_t g)
{
	return g % 7 == 3 || (g > 100 && g < 300) || g % 512 == 511;
}

static bool late(uint64_t g)
{
	return g == 1500;
}

Test(vmdk_stream, all_sizes)
{
	static const uint64_t sizes[] = {
		512,
		GRAIN - 512,
		GRAIN,
		GRAIN + 512,
		512 * GRAIN,
		512 * GRAIN + 512,
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(sizes); i++)
		round_trip(sizes[i], all);
}

Test(vmdk_stream, holes)
{
	round_trip(0, none);
	round_trip(GRAIN, none);
	round_trip(1700 * GRAIN + 1024, none);
	round_trip(1700 * GRAIN + 1024, some);
	round_trip(1700 * GRAIN, late);
}

Test(vmdk_stream, wrong_order)
{
	static const struct {
		uint64_t off;
		size_t len;
	} bad[] = { { GRAIN, 100 }, { 0, 100 }, { 2 * GRAIN + 512, 100 }, { 10 * GRAIN, 100 }, { 3 * GRAIN, 0 }, { 3 * GRAIN, 2 * GRAIN } };
	uint8_t *bytes = calloc(2, GRAIN);
	struct img_options *options;
	struct img_error *err = img_error_new();
	struct kept k = { 0 };
	struct img_sink *sink;
	uint64_t before;

	cr_assert_eq(begin(&k, 10 * GRAIN, &options, &sink, err), 0);
	cr_assert_eq(sink->put(sink, GRAIN, bytes, 2 * GRAIN - 12, err), 0);
	before = k.base.written;
	for (size_t i = 0; i < IMG_ARRAY_LEN(bad); i++)
		cr_assert_eq(sink->put(sink, bad[i].off, bytes, bad[i].len, err), -EINVAL);
	cr_assert_eq(k.base.written, before);
	sink->free(sink);
	img_options_free(options);
	img_error_free(err);
	free(bytes);
	free(k.bytes);
}

/* A pipe that closes at any place: the error comes through. */
Test(vmdk_stream, output_fails)
{
	for (uint64_t limit = 1; limit < 80000; limit += 511) {
		struct img_options *options = NULL;
		struct img_error *err = img_error_new();
		struct kept k = { .limit = limit };
		struct img_sink *sink = NULL;
		uint8_t bytes[5000] = { 1 };
		int rc = begin(&k, UINT64_C(600) * GRAIN, &options, &sink, err);

		if (!rc)
			rc = sink->put(sink, 0, bytes, sizeof(bytes), err);
		if (!rc)
			rc = sink->put(sink, UINT64_C(599) * GRAIN, bytes, 600, err);
		if (!rc)
			rc = sink->finish(sink, err);
		cr_assert(rc == -EPIPE || (!rc && k.base.written <= limit));
		if (sink)
			sink->free(sink);
		img_options_free(options);
		img_error_free(err);
		free(k.bytes);
	}
}

/* Created as an image like others: empty, and complete. */
Test(vmdk_stream, created_empty)
{
	struct bench b;
	uint8_t *got;

	start(&b);
	must_make(b.image, 5 << 20, "subformat=streamOptimized", NULL);
	got = read_all(b.image, 5 << 20);
	for (size_t i = 0; i < 5 << 20; i++)
		cr_assert_eq(got[i], 0);
	free(got);
	sound(&b, b.image);
	refuse_open(b.image, IMG_OPEN_WRITE, -ENOTSUP, "streamOptimized");
	finish(&b);
}

/*
 * Creating qcow2 images: every geometry is sound by our own check and by qemu-img's, and where
 * qemu-img makes the same layout, the same bytes.
 */
#include "tests/formats/qcow2/bench.h"

/* Make b's image; options: "a=1,b=2", may be NULL. */
static int make(struct bench *b, uint64_t size, const char *options, struct img_error *err)
{
	const char *list[] = { options, NULL };
	struct img_create_options how = {
		.format = "qcow2",
		.have_size = true,
		.size = size,
		.options = options ? list : NULL,
	};

	return img_create(b->image, &how, err);
}

static struct img_check_result check(struct bench *b)
{
	struct img *img = open_image(b, IMG_OPEN_CHECK);
	struct img_check_result result;
	struct img_error *err = img_error_new();

	cr_assert_eq(img_check(img, 0, NULL, NULL, &result, err), 0, "%s", img_error_text(err));
	img_error_free(err);
	cr_assert_eq(img_close(img, NULL), 0);
	return result;
}

struct geometry {
	uint64_t size;
	const char *options;
	bool same; /* as qemu-img makes it, byte for byte */
};

Test(qcow2_create, sound_in_every_geometry)
{
	static const struct geometry all[] = {
		{ 0, NULL, true },
		{ 512, NULL, true },
		{ 1 << 30, NULL, true },
		{ UINT64_C(100) << 30, NULL, true },
		{ 1 << 20, "compat=0.10", true },
		{ 1 << 20, "compat=v3,lazy_refcounts=on", true },
		{ 1 << 30, "cluster_size=512,refcount_bits=1", true },
		{ 3 << 20, "cluster_size=512,refcount_bits=64", true },
		{ 1 << 30, "cluster_size=8k,refcount_bits=2", true },
		{ UINT64_C(10) << 30, "cluster_size=2M,refcount_bits=32", true },
		{ 1 << 30, "extended_l2=on,cluster_size=16k,compression_type=zstd", true },
		{ UINT64_C(3) << 30, "cluster_size=512",
		  false }, /* more than one refcount block */
		{ 64 << 20, "preallocation=metadata", true },
		{ 64 << 20, "preallocation=metadata,extended_l2=on", true },
		{ 5 << 20, "preallocation=metadata,cluster_size=512", false },
		{ 5000 << 10, "preallocation=metadata,cluster_size=1k,refcount_bits=64", false },
		{ 8 << 20, "preallocation=falloc", false },
		{ 8 << 20, "preallocation=full,extended_l2=on,cluster_size=128k", false },
		{ UINT64_C(1) << 61, "cluster_size=2M", true },
		{ UINT64_C(1) << 37, "cluster_size=512", false },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		const struct geometry *g = &all[i];
		struct img_error *err = img_error_new();
		struct img_check_result r;
		struct bench b;

		start(&b, 1, 512);
		cr_assert_eq(make(&b, g->size, g->options, err), 0, "%s: %s", g->options,
			     img_error_text(err));
		r = check(&b);
		cr_assert(!r.corruptions && !r.leaks && !r.check_errors, "%s", g->options);
		if (have_qemu()) {
			run(&b, "qemu-img check -q image.qcow2");
			run(&b, "qemu-img create -q -f qcow2 %s%s other.qcow2 %" PRIu64,
			    g->options ? "-o " : "", g->options ? g->options : "", g->size);
			if (g->same)
				run(&b, "cmp image.qcow2 other.qcow2");
			/* The same clusters, wherever they are. */
			run(&b,
			    "qemu-img check --output=json image.qcow2 | grep clusters >a || true");
			run(&b,
			    "qemu-img check --output=json other.qcow2 | grep clusters >b || true");
			run(&b, "cmp a b");
		}
		img_error_free(err);
		finish(&b);
	}
}

Test(qcow2_create, refusals)
{
	static const struct {
		uint64_t size;
		const char *options;
		const char *part; /* of the sentence */
	} all[] = {
		{ 1 << 20, "cluster_size=100", "power of two between 512 and 2048k" },
		{ 1 << 20, "cluster_size=4M", "power of two between 512 and 2048k" },
		{ 1 << 20, "cluster_size=0", "power of two between 512 and 2048k" },
		{ 1 << 20, "refcount_bits=0", "power of two and may not exceed 64" },
		{ 1 << 20, "refcount_bits=3", "power of two and may not exceed 64" },
		{ 1 << 20, "refcount_bits=128", "power of two and may not exceed 64" },
		{ 1 << 20, "compat=0.10,refcount_bits=8", "refcount widths" },
		{ 1 << 20, "compat=0.10,lazy_refcounts=on", "Lazy refcounts" },
		{ 1 << 20, "compat=v2,extended_l2=on", "Extended L2" },
		{ 1 << 20, "compat=v2,compression_type=zstd", "Non-zlib" },
		{ 1 << 20, "compat=v2,data_file=d", "External data files" },
		{ 1 << 20, "extended_l2=on,cluster_size=8k", "at least 16384" },
		{ 1 << 20, "data_file_raw=on", "requires data_file" },
		{ 1 << 20, "data_file=", "empty" },
		{ 1 << 20, "compression_type=lz4", "lz4" },
		{ 1 << 20, "preallocation=some", "some" },
		{ UINT64_C(1) << 40, "cluster_size=512", "too large" },
		{ UINT64_C(1) << 61, "cluster_size=2M,extended_l2=on", "too large" },
		{ UINT64_C(1) << 37, "cluster_size=512,refcount_bits=64,preallocation=metadata",
		  "too large" },
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct img_error *err = img_error_new();
		struct bench b;

		start(&b, 1, 512);
		cr_assert_lt(make(&b, all[i].size, all[i].options, err), 0, "%s", all[i].options);
		cr_assert(strstr(img_error_text(err), all[i].part), "%s: %s", all[i].options,
			  img_error_text(err));
		cr_assert_neq(access(b.image, F_OK), 0, "%s: left a file behind", all[i].options);
		img_error_free(err);
		finish(&b);
	}
}

Test(qcow2_create, data_file)
{
	static const char *const all[] = {
		"",
		",data_file_raw=on",
		",preallocation=metadata",
		",preallocation=falloc",
		",preallocation=full,data_file_raw=on",
		",preallocation=metadata,extended_l2=on",
		",data_file_raw=on,extended_l2=on",
	};

	for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		struct img_error *err = img_error_new();
		struct img_check_result r;
		struct bench b;
		struct stat st;
		char options[300], data[100];

		start(&b, 1, 512);
		snprintf(data, sizeof(data), "%s/data.raw", b.dir);
		snprintf(options, sizeof(options), "data_file=%s%s", data, all[i]);
		cr_assert_eq(make(&b, 3 << 20, options, err), 0, "%s", img_error_text(err));
		cr_assert_eq(stat(data, &st), 0);
		cr_assert_eq(st.st_size, 3 << 20);
		r = check(&b);
		cr_assert(!r.corruptions && !r.leaks && !r.check_errors, "%s", all[i]);
		cr_assert_eq(r.allocated_units, i ? 48 : 0);
		if (have_qemu())
			run(&b, "qemu-img check -q image.qcow2");
		img_error_free(err);
		finish(&b);
	}
}

Test(qcow2_create, backing_file)
{
	struct img_error *err = img_error_new();
	struct img_create_options how = {
		.format = "qcow2",
		.backing_name = "base.raw",
		.backing_format = "raw",
	};
	static const char *const metadata[] = { "preallocation=metadata", NULL };
	static const char *const extended[] = { "preallocation=metadata,extended_l2=on", NULL };
	struct bench b;
	char base[100];

	start(&b, 1, 2 << 20);
	snprintf(base, sizeof(base), "%s/base.raw", b.dir);
	random_bytes(&b, b.model, b.size);
	write_file(base, b.model, b.size);
	cr_assert_eq(img_create(b.image, &how, err), 0, "%s", img_error_text(err));
	if (have_qemu()) {
		run(&b, "qemu-img create -q -f qcow2 -b base.raw -F raw other.qcow2");
		run(&b, "cmp image.qcow2 other.qcow2");
	}
	how.options = metadata;
	cr_assert_eq(img_create(b.image, &how, err), -EINVAL);
	how.options = extended;
	cr_assert_eq(img_create(b.image, &how, err), 0, "%s", img_error_text(err));
	cr_assert_eq(check(&b).allocated_units, 32);
	/* The subclusters are not, so the backing file shows. */
	if (have_qemu())
		run(&b, "qemu-img compare image.qcow2 base.raw");
	img_error_free(err);
	finish(&b);
}

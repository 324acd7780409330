/*
 * Encrypted images: what needs the passphrase and what does not, what is written and what reads as zeroes,
 * judged by qemu-img where it is there.
 */
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "tests/formats/qcow2/bench.h"

enum { KIB = 1024,
       MIB = 1024 * KIB };

#define KEY ",encrypt.key-secret=s"

static const char *const kinds[] = { "aes", "luks" };

/* Secret s is the passphrase, no is another one. */
static struct img_secrets *secrets_new(void)
{
	struct img_secrets *s = img_secrets_new();

	cr_assert_eq(img_secrets_add(s, "secret,id=s,data=open sesame", NULL), 0);
	cr_assert_eq(img_secrets_add(s, "secret,id=no,data=open barley", NULL), 0);
	return s;
}

static int create(const char *path, uint64_t size, const char *options, struct img_error *err)
{
	struct img_secrets *s = secrets_new();
	const char *const list[] = { options, NULL };
	const struct img_create_options o = { .format = "qcow2",
					      .size = size,
					      .have_size = size,
					      .options = list,
					      .secrets = s };
	int rc = img_create(path, &o, err);

	img_secrets_free(s);
	return rc;
}

static void make(const char *path, const char *kind, uint64_t size, const char *more)
{
	struct img_error *err = img_error_new();
	char options[256];

	snprintf(options, sizeof(options), "encrypt.format=%s,encrypt.key-secret=s%s%s", kind,
		 strcmp(kind, "luks") ? "" : ",encrypt.iter-time=1", more);
	cr_assert_eq(create(path, size, options, err), 0, "%s: %s", options, img_error_text(err));
	img_error_free(err);
}

/* keys: further ones of the description. */
static int open_by(const char *path, const char *keys, unsigned flags, struct img **out,
		   struct img_error *err)
{
	struct img_secrets *s = secrets_new();
	const struct img_open_options o = { .flags = flags, .references = "any", .secrets = s };
	struct img_node *node = NULL;
	char text[512];
	int rc;

	snprintf(text, sizeof(text), "driver=qcow2,file.filename=%s%s", path, keys);
	rc = img_node_parse_options(text, &node, err);
	if (!rc)
		rc = img_open_node(node, &o, out, err);
	img_node_free(node);
	img_secrets_free(s);
	return rc;
}

static struct img *opened(const char *path, const char *keys, unsigned flags)
{
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(open_by(path, keys, flags, &img, err), 0, "%s%s: %s", path, keys,
		     img_error_text(err));
	img_error_free(err);
	return img;
}

static void refused(const char *path, const char *keys, unsigned flags, int rc, const char *word)
{
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	cr_assert_eq(open_by(path, keys, flags, &img, err), rc, "%s: %s", keys, img_error_text(err));
	cr_assert(strstr(img_error_text(err), word), "%s: %s", keys, img_error_text(err));
	cr_assert_null(strstr(img_error_text(err), "sesame"));
	img_error_free(err);
}

static void write_all(struct img *img, uint64_t off, const void *bytes, size_t len)
{
	struct img_error *err = img_error_new();

	cr_assert_eq(img_write(img, off, bytes, len, err), 0, "%s", img_error_text(err));
	img_error_free(err);
}

static void reads_as(struct img *img, uint64_t off, const uint8_t *expect, size_t len)
{
	struct img_error *err = img_error_new();
	uint8_t *got = malloc(len);

	cr_assert_eq(img_read(img, off, got, len, err), 0, "%s", img_error_text(err));
	for (size_t i = 0; i < len; i++)
		cr_assert_eq(got[i], expect[i], "byte %zu: %#x, expected %#x", (size_t)off + i, got[i],
			     expect[i]);
	free(got);
	img_error_free(err);
}

/* The image reads as the model, also for qemu-img if it is there. */
static void is_model(struct bench *b)
{
	struct img *img = opened(b->image, KEY, 0);

	cr_assert_eq(img_size(img), b->size);
	reads_as(img, 0, b->model, b->size);
	close_image(img);
	if (!have_qemu())
		return;
	write_file(b->model_file, b->model, b->size);
	run(b, "qemu-img compare --object 'secret,id=s,data=open sesame' --image-opts "
	       "driver=qcow2,file.filename=image.qcow2,encrypt.key-secret=s "
	       "driver=raw,file.filename=model.raw");
}

Test(qcow2_crypto, what_is_said_of_an_image_must_fit)
{
	for (size_t i = 0; i < 2; i++) {
		const char *other = kinds[1 - i];
		struct bench b;
		char keys[128];

		start(&b, 1, MIB);
		make(b.image, kinds[i], MIB, "");
		refused(b.image, "", 0, -ENOKEY, "Parameter 'encrypt.key-secret' is required for cipher");
		refused(b.image, ",encrypt.key-secret=none", 0, -ENOENT, "No secret with id 'none'");
		snprintf(keys, sizeof(keys), KEY ",encrypt.format=%s", other);
		refused(b.image, keys, 0, -EINVAL, "encryption format but options specify");
		snprintf(keys, sizeof(keys), KEY ",encrypt.format=%s", kinds[i]);
		close_image(opened(b.image, keys, 0));
		refused(b.image, KEY ",encrypt.format=rot13", 0, -EINVAL, "expected one of: aes,luks");
		refused(b.image, KEY ",encrypt.nonsense=1", 0, -EINVAL, "encrypt.nonsense");
		finish(&b);
	}
}

Test(qcow2_crypto, a_wrong_passphrase_is_refused_by_luks_alone)
{
	struct bench b;

	start(&b, 1, MIB);
	make(b.image, "luks", MIB, "");
	refused(b.image, ",encrypt.key-secret=no", 0, -EKEYREJECTED,
		"Invalid password, cannot unlock any keyslot");
	refused(b.image, ",encrypt.key-secret=no", IMG_OPEN_WRITE, -EKEYREJECTED, "Invalid password");
	finish(&b);
}

Test(qcow2_crypto, a_secret_for_a_plain_image_is_refused)
{
	struct bench b;

	start(&b, 1, MIB);
	cr_assert_eq(create(b.image, MIB, "cluster_size=4k", NULL), 0);
	refused(b.image, KEY, 0, -EINVAL, "No encryption in image header");
	refused(b.image, ",encrypt.format=luks", 0, -EINVAL,
		"No encryption in image header, but options specified format 'luks'");
	finish(&b);
}

Test(qcow2_crypto, a_format_without_encryption_has_no_such_key)
{
	struct img_secrets *s = secrets_new();
	const struct img_open_options o = { .secrets = s };
	/* without a driver it is found to be raw */
	static const char *const drivers[] = { "driver=raw,", "", "driver=vmdk," };
	struct bench b;

	start(&b, 1, 4096);
	write_file(b.model_file, b.model, b.size);
	for (size_t i = 0; i < IMG_ARRAY_LEN(drivers); i++) {
		struct img_error *err = img_error_new();
		struct img_node *node = NULL;
		struct img *img = NULL;
		char text[256];

		snprintf(text, sizeof(text), "%sfile.filename=%s" KEY, drivers[i], b.model_file);
		cr_assert_eq(img_node_parse_options(text, &node, err), 0);
		cr_assert_eq(img_open_node(node, &o, &img, err), -EINVAL, "%s", text);
		cr_assert(strstr(img_error_text(err), "does not support the option 'encrypt.key-secret'"),
			  "%s: %s", text, img_error_text(err));
		img_node_free(node);
		img_error_free(err);
	}
	img_secrets_free(s);
	finish(&b);
}

/* A report, a check and a child need no passphrase; what would is refused. */
Test(qcow2_crypto, what_does_without_a_passphrase)
{
	for (size_t i = 0; i < 2; i++) {
		struct img_error *err = img_error_new();
		struct img_check_result result;
		struct img_value *info;
		struct bench b;
		char child[160], options[256];
		uint8_t byte = 0;
		struct img *img;

		start(&b, 1, MIB);
		make(b.image, kinds[i], MIB, "");
		img = opened(b.image, KEY, IMG_OPEN_WRITE);
		write_all(img, 70000, "x", 1);
		close_image(img);
		img = opened(b.image, "", IMG_OPEN_WRITE | IMG_OPEN_CHECK);
		cr_assert_eq(img_check(img, IMG_REPAIR_ALL, NULL, NULL, &result, err), 0);
		cr_assert_eq(result.corruptions + result.leaks, 0);
		close_image(img);
		img = opened(b.image, "", IMG_OPEN_SELF_ONLY);
		cr_assert_eq(img_info(img, &info, err), 0);
		cr_assert(img_value_bool(img_value_get(info, "encrypted")));
		img_value_free(info);
		close_image(img);
		snprintf(child, sizeof(child), "%s/child.qcow2", b.dir);
		snprintf(options, sizeof(options), "backing_file=image.qcow2,backing_fmt=qcow2");
		cr_assert_eq(create(child, 0, options, err), 0, "%s", img_error_text(err));
		img = opened(child, "", IMG_OPEN_NO_DATA);
		cr_assert_eq(img_read(img, 0, &byte, 1, err), -ENOKEY);
		cr_assert(strstr(img_error_text(err), "opened without its passphrase"), "%s",
			  img_error_text(err));
		close_image(img);
		img = opened(b.image, "", IMG_OPEN_NO_DATA | IMG_OPEN_WRITE);
		cr_assert_eq(img_write(img, 0, &byte, 1, err), -ENOKEY);
		cr_assert_eq(img_zero(img, 0, 65536, err), -ENOKEY);
		close_image(img);
		refused(child, "", 0, -ENOKEY, "image.qcow2: Parameter 'encrypt.key-secret'");
		img = opened(child, ",backing.encrypt.key-secret=s", 0);
		reads_as(img, 70000, (const uint8_t *)"x", 1);
		close_image(img);
		img_error_free(err);
		finish(&b);
	}
}

/* A json: name in the image says which secret the image below needs; the user says otherwise. */
Test(qcow2_crypto, a_child_may_store_the_id_of_a_secret)
{
	for (size_t i = 0; i < 2; i++) {
		struct img_secrets *s = secrets_new();
		const struct img_create_options o = {
			.format = "qcow2",
			.backing_name = "json:{\"driver\": \"qcow2\", \"encrypt.key-secret\": \"s\", "
					"\"file\": {\"driver\": \"file\", \"filename\": \"image.qcow2\"}}",
			.backing_format = "qcow2",
			.secrets = s,
		};
		struct img_error *err = img_error_new();
		struct bench b;
		char child[160];
		struct img *img;

		start(&b, 1, MIB);
		make(b.image, kinds[i], MIB, "");
		img = opened(b.image, KEY, IMG_OPEN_WRITE);
		write_all(img, 70000, "x", 1);
		close_image(img);
		snprintf(child, sizeof(child), "%s/child.qcow2", b.dir);
		cr_assert_eq(img_create(child, &o, err), 0, "%s", img_error_text(err));
		img = opened(child, "", 0);
		reads_as(img, 70000, (const uint8_t *)"x", 1);
		close_image(img);
		refused(child, ",backing.encrypt.key-secret=none", 0, -ENOENT, "'none'");
		img_error_free(err);
		img_secrets_free(s);
		finish(&b);
	}
}

/* A parent and a child, each encrypted, or one of them: what is written in part brings the rest along. */
Test(qcow2_crypto, copy_on_write_between_plain_and_encrypted)
{
	static const struct {
		const char *below, *above;
		const char *keys;
	} rows[] = {
		{ "luks", NULL, ",backing.encrypt.key-secret=s" },
		{ NULL, "luks", KEY },
		{ "aes", "luks", KEY ",backing.encrypt.key-secret=s" },
		{ "luks", "aes", KEY ",backing.encrypt.key-secret=s" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct bench b;
		char lower[160], more[256];
		struct img *img;

		start(&b, i + 1, MIB);
		snprintf(lower, sizeof(lower), "%s/below.qcow2", b.dir);
		random_bytes(&b, b.model, b.size);
		if (rows[i].below)
			make(lower, rows[i].below, MIB, ",cluster_size=4k");
		else
			cr_assert_eq(create(lower, MIB, "cluster_size=4k", NULL), 0);
		img = opened(lower, rows[i].below ? KEY : "", IMG_OPEN_WRITE);
		write_all(img, 0, b.model, b.size);
		close_image(img);
		snprintf(more, sizeof(more), ",backing_file=below.qcow2,backing_fmt=qcow2");
		if (rows[i].above)
			make(b.image, rows[i].above, 0, more);
		else
			cr_assert_eq(create(b.image, 0, more + 1, NULL), 0);
		img = opened(b.image, rows[i].keys, IMG_OPEN_WRITE);
		for (unsigned n = 0; n < 40; n++) {
			uint64_t off = below(&b, b.size - 3000), len = 1 + below(&b, 3000);

			random_bytes(&b, b.model + off, len);
			write_all(img, off, b.model + off, len);
		}
		reads_as(img, 0, b.model, b.size);
		close_image(img);
		img = opened(b.image, rows[i].keys, 0);
		reads_as(img, 0, b.model, b.size);
		close_image(img);
		finish(&b);
	}
}

/* ---- Requests in flight together ---- */

static void done(void *user, int rc, const struct img_error *err)
{
	unsigned *left = user;

	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	--*left;
}

static void write_together(struct img *img, unsigned n, const uint64_t *off, struct iovec *iov)
{
	struct img_queue *q;
	unsigned left = n;

	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	for (unsigned i = 0; i < n; i++)
		cr_assert_eq(img_submit_writev(q, img, off[i], &iov[i], 1, 0, done, &left, NULL),
			     0);
	while (left)
		img_queue_run(q, true);
	img_queue_free(q);
}

/* Different bytes of one sector, of one cluster, of a fresh one and of one that is there. */
Test(qcow2_crypto, writes_in_flight_to_one_sector_all_survive)
{
	static const char *const options[] = { "", ",cluster_size=512", ",extended_l2=on" };

	for (size_t i = 0; i < 2 * IMG_ARRAY_LEN(options); i++) {
		struct bench b;
		struct img *img;

		start(&b, i + 1, MIB);
		make(b.image, kinds[i % 2], MIB, options[i / 2]);
		img = opened(b.image, KEY, IMG_OPEN_WRITE);
		for (unsigned round = 0; round < 20; round++) {
			uint64_t at = round % 2 ? 1024 : below(&b, 2000) * 512, off[8];
			struct iovec iov[8];

			for (unsigned n = 0; n < 8; n++) {
				uint64_t len = 1 + below(&b, 60);

				off[n] = at + n * 64 + below(&b, 64 - len + 1);
				random_bytes(&b, b.model + off[n], len);
				iov[n] = (struct iovec){ b.model + off[n], len };
			}
			write_together(img, 8, off, iov);
			reads_as(img, at, b.model + at, 512);
		}
		close_image(img);
		is_model(&b);
		finish(&b);
	}
}

/* ---- Zeroes ---- */

/* Zeroed, discarded, preallocated, grown: it reads as zeroes, and is not what a cipher makes of zeroes. */
Test(qcow2_crypto, what_is_cleared_reads_as_zeroes)
{
	static const struct {
		const char *options;
		enum img_preallocate how;
	} rows[] = {
		{ "", IMG_PREALLOCATE_OFF },
		{ ",compat=0.10", IMG_PREALLOCATE_OFF },
		{ ",cluster_size=4k,preallocation=metadata", IMG_PREALLOCATE_METADATA },
		{ ",preallocation=full", IMG_PREALLOCATE_FULL },
		{ ",extended_l2=on,preallocation=falloc", IMG_PREALLOCATE_FALLOC },
		{ ",data_file=data.bin", IMG_PREALLOCATE_OFF },
		{ ",data_file=data.bin,preallocation=metadata", IMG_PREALLOCATE_METADATA },
		{ ",data_file=data.bin,extended_l2=on", IMG_PREALLOCATE_METADATA },
	};

	for (size_t i = 0; i < 2 * IMG_ARRAY_LEN(rows); i++) {
		uint64_t half = MIB + 3 * 512;
		struct bench b;
		struct img *img;

		start(&b, i + 1, 2 * MIB + 5 * 512);
		make(b.image, kinds[i % 2], half, rows[i / 2].options);
		img = opened(b.image, KEY, IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
		reads_as(img, 0, b.model, half);
		random_bytes(&b, b.model, half);
		write_all(img, 0, b.model, half);
		for (unsigned n = 0; n < 60; n++) {
			uint64_t off = below(&b, half),
				 len = 1 + below(&b, min_u64(half - off, 200000));

			memset(b.model + off, 0, len);
			cr_assert_eq(img_zero_with(img, off, len,
						   n % 2 ? IMG_SUBMIT_KEEP_ALLOCATED : 0, NULL),
				     0);
			off = below(&b, half - 5000);
			random_bytes(&b, b.model + off, 5000);
			write_all(img, off, b.model + off, 5000);
		}
		reads_as(img, 0, b.model, half);
		cr_assert_eq(img_resize(img, b.size, rows[i / 2].how, NULL), 0);
		reads_as(img, 0, b.model, b.size);
		random_bytes(&b, b.model + half, 777);
		write_all(img, half, b.model + half, 777);
		close_image(img);
		is_model(&b);
		finish(&b);
	}
}

/* Discarded clusters are what was there, or zeroes. */
Test(qcow2_crypto, discarded_parts_are_old_or_zeroes)
{
	static const char *const options[] = { "", ",cluster_size=4k", ",data_file=data.bin" };

	for (size_t i = 0; i < 2 * IMG_ARRAY_LEN(options); i++) {
		struct bench b;
		struct img *img;
		uint8_t *got;

		start(&b, i + 1, MIB);
		got = malloc(b.size);
		make(b.image, kinds[i % 2], MIB, options[i / 2]);
		img = opened(b.image, KEY, IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
		random_bytes(&b, b.model, b.size);
		write_all(img, 0, b.model, b.size);
		for (unsigned n = 0; n < 30; n++) {
			uint64_t off = below(&b, b.size);

			cr_assert_eq(img_discard(img, off, min_u64(b.size - off, below(&b, 100000)),
						 NULL),
				     0);
		}
		cr_assert_eq(img_read(img, 0, got, b.size, NULL), 0);
		for (uint64_t at = 0; at < b.size; at++)
			cr_assert(!got[at] || got[at] == b.model[at], "byte %" PRIu64, at);
		memcpy(b.model, got, b.size);
		close_image(img);
		is_model(&b);
		free(got);
		finish(&b);
	}
}

/* ---- Refusals ---- */

Test(qcow2_crypto, creation_that_is_refused)
{
	static const struct {
		const char *options;
		const char *part; /* of the sentence */
	} rows[] = {
		{ "encryption=on", "Parameter 'encrypt.key-secret' is required for cipher" },
		{ "encrypt.format=luks", "Parameter 'encrypt.key-secret' is required for cipher" },
		{ "encrypt.key-secret=s", "Parameter 'encrypt.format' is missing" },
		{ "encrypt.iter-time=10", "Parameter 'encrypt.format' is missing" },
		{ "encryption=off,encrypt.iter-time=10", "Parameter 'encrypt.format' is missing" },
		{ "encryption=on,encrypt.format=luks,encrypt.key-secret=s",
		  "'encrypt.format' and its alias 'encryption' can't be used at the same time" },
		{ "encrypt.format=aes,encrypt.key-secret=s,encrypt.cipher-alg=aes-256",
		  "Parameter 'encrypt.cipher-alg' is unexpected" },
		{ "encrypt.format=rot13,encrypt.key-secret=s", "expected one of: aes,luks" },
		{ "encrypt.format=aes,encrypt.key-secret=none", "No secret with id 'none'" },
		{ "encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=aes-3", "aes-3" },
		{ "encrypt.format=luks,encrypt.key-secret=s,data_file=d,data_file_raw=on",
		  "Encryption and data_file_raw" },
		{ "encrypt.format=aes,encrypt.key-secret=s,compat=v2,preallocation=metadata",
		  "Encryption and preallocation" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct img_error *err = img_error_new();
		struct bench b;

		start(&b, 1, 512);
		write_file(b.image, (const uint8_t *)"what was there", 14);
		cr_assert_lt(create(b.image, MIB, rows[i].options, err), 0, "%s", rows[i].options);
		cr_assert(strstr(img_error_text(err), rows[i].part), "%s: %s", rows[i].options,
			  img_error_text(err));
		run(&b, "printf 'what was there' | cmp - image.qcow2");
		img_error_free(err);
		finish(&b);
	}
}

Test(qcow2_crypto, nothing_is_compressed)
{
	struct img_error *err = img_error_new();
	uint8_t cluster[65536] = { 1 };
	struct iovec iov = { cluster, sizeof(cluster) };
	struct img_queue *q;
	struct bench b;
	struct img *img;

	start(&b, 1, MIB);
	make(b.image, "aes", MIB, "");
	img = opened(b.image, KEY, IMG_OPEN_WRITE);
	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	cr_assert_eq(img_submit_writev(q, img, 0, &iov, 1, IMG_SUBMIT_COMPRESS, done, NULL, err),
		     -ENOTSUP);
	img_queue_free(q);
	close_image(img);
	img_error_free(err);
	finish(&b);
}

/* ---- The header ---- */

/* Where in the first cluster the extension of the encryption header is. */
static off_t find_extension(const uint8_t *first, size_t len)
{
	size_t i = 0;

	while (i + 24 <= len && be32_load(first + i) != 0x0537be77)
		i += 8;
	cr_assert_leq(i + 24, len);
	return (off_t)i;
}

/* The keys are in it: what seems leaked is not given away, and nothing is changed. */
Test(qcow2_crypto, no_repair_frees_what_may_be_a_header)
{
	static const struct {
		off_t at; /* in the extension */
		uint64_t value;
		const char *word; /* why the image cannot be opened */
	} rows[] = {
		{ 0, UINT64_C(0x1234567800000010), "no extension says where the encryption header is" },
		{ 8, UINT64_C(1) << 40, "no LUKS header is there" },
		{ 16, 592, "key slot" },
		{ 16, 100, "truncated" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(rows); i++) {
		struct img_error *err = img_error_new();
		struct img_check_result result;
		struct bench b;
		uint8_t first[65536], value[8];
		struct img *img;
		int fd;

		start(&b, 1, MIB);
		make(b.image, "luks", MIB, "");
		fd = open(b.image, O_RDWR);
		cr_assert_eq(pread(fd, first, sizeof(first), 0), (ssize_t)sizeof(first));
		be64_store(value, rows[i].value);
		cr_assert_eq(
			pwrite(fd, value, 8, find_extension(first, sizeof(first)) + rows[i].at), 8);
		close(fd);
		run(&b, "cp image.qcow2 before");
		refused(b.image, KEY, 0, -EUCLEAN, rows[i].word);
		img = opened(b.image, "", IMG_OPEN_WRITE | IMG_OPEN_CHECK);
		cr_assert_eq(img_check(img, IMG_REPAIR_ALL, NULL, NULL, &result, err), 0, "%s",
			     img_error_text(err));
		cr_assert_gt(result.corruptions, 0);
		cr_assert_eq(result.leaks_fixed, 0);
		close_image(img);
		run(&b, "cmp image.qcow2 before");
		img_error_free(err);
		finish(&b);
	}
}

/* A header that cannot be read may be sound, or not: the check is not complete. */
Test(qcow2_crypto, a_check_that_cannot_read_the_header_fails)
{
	const struct img_open_options o = { .flags = IMG_OPEN_WRITE | IMG_OPEN_CHECK };
	struct img_error *err = img_error_new();
	struct img_check_result result;
	struct img_node *node = NULL;
	uint8_t first[65536], *at;
	struct img *img;
	struct bench b;
	char text[512];
	FILE *f;

	start(&b, 1, MIB);
	make(b.image, "luks", MIB, "");
	f = fopen(b.image, "rb");
	cr_assert(f && fread(first, sizeof(first), 1, f) == 1);
	fclose(f);
	at = first + find_extension(first, sizeof(first)) + 8;
	snprintf(text, sizeof(text),
		 "driver=qcow2,file.driver=blkdebug,file.image.filename=%s,"
		 "file.inject-error.0.event=read_aio,file.inject-error.0.sector=%" PRIu64,
		 b.image, be64_load(at) / 512);
	cr_assert_eq(img_node_parse_options(text, &node, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_open_node(node, &o, &img, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_check(img, IMG_REPAIR_ALL, NULL, NULL, &result, err), 0, "%s",
		     img_error_text(err));
	cr_assert_eq(result.check_errors, 1);
	cr_assert_eq(result.corruptions, 0);
	close_image(img);
	img_node_free(node);
	img_error_free(err);
	finish(&b);
}

/* ---- Key slots ---- */

static int amend(const char *path, const char *keys, const char *options, struct img_error *err)
{
	struct img_secrets *s = secrets_new();
	const char *const list[] = { options, NULL };
	const struct img_amend_options o = { .options = list, .secrets = s };
	struct img *img = opened(path, keys, IMG_OPEN_WRITE);
	int rc = img_amend(img, &o, err);

	close_image(img);
	img_secrets_free(s);
	return rc;
}

Test(qcow2_crypto, key_slots_are_changed)
{
	struct img_error *err = img_error_new();
	struct bench b;
	struct img *img;

	start(&b, 1, MIB);
	make(b.image, "luks", MIB, "");
	random_bytes(&b, b.model, b.size);
	img = opened(b.image, KEY, IMG_OPEN_WRITE);
	write_all(img, 0, b.model, b.size);
	close_image(img);
	cr_assert_eq(amend(b.image, KEY,
			   "encrypt.state=active,encrypt.new-secret=no,encrypt.iter-time=1", err),
		     0, "%s", img_error_text(err));
	is_model(&b);
	cr_assert_eq(amend(b.image, KEY, "encrypt.state=inactive,encrypt.old-secret=s", err), 0, "%s",
		     img_error_text(err));
	refused(b.image, KEY, 0, -EKEYREJECTED, "Invalid password");
	img = opened(b.image, ",encrypt.key-secret=no", 0);
	reads_as(img, 0, b.model, b.size);
	close_image(img);
	cr_assert_eq(amend(b.image, ",encrypt.key-secret=no",
			   "encrypt.state=inactive,encrypt.old-secret=no", err),
		     -EINVAL);
	cr_assert_eq(amend(b.image, ",encrypt.key-secret=no", "encrypt.new-secret=s", err), -EINVAL);
	cr_assert(strstr(img_error_text(err), "'encrypt.state' is missing"), "%s", img_error_text(err));
	img_error_free(err);
	finish(&b);
}

Test(qcow2_crypto, only_luks_has_key_slots)
{
	static const char *const options[] = { "encrypt.format=aes,encrypt.key-secret=s", "compat=1.1" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(options); i++) {
		struct img_error *err = img_error_new();
		struct bench b;

		start(&b, 1, MIB);
		cr_assert_eq(create(b.image, MIB, options[i], NULL), 0);
		cr_assert_eq(amend(b.image, i ? "" : KEY, "encrypt.state=active,encrypt.new-secret=no", err),
			     -ENOTSUP);
		cr_assert(strstr(img_error_text(err), "only LUKS has key slots"), "%s",
			  img_error_text(err));
		img_error_free(err);
		finish(&b);
	}
}

/* What is lost of a cluster cannot be zeroes, whoever accepts that loss. */
Test(qcow2_crypto, a_cluster_that_was_cut_is_not_filled_up)
{
	for (size_t i = 0; i < 2; i++) {
		struct img_error *err = img_error_new();
		struct img_check_result result;
		struct bench b;
		struct stat st;
		struct img *img;

		start(&b, 1, MIB);
		make(b.image, kinds[i], MIB, "");
		img = opened(b.image, KEY, IMG_OPEN_WRITE);
		random_bytes(&b, b.model, b.size);
		write_all(img, 0, b.model, b.size);
		close_image(img);
		cr_assert(!stat(b.image, &st) && !truncate(b.image, st.st_size - 5000));
		img = opened(b.image, "", IMG_OPEN_WRITE | IMG_OPEN_CHECK);
		cr_assert_eq(img_check(img, IMG_REPAIR_ALL | IMG_REPAIR_LOSS, NULL, NULL, &result,
				       err),
			     -ENOTSUP, "%s", img_error_text(err));
		cr_assert(strstr(img_error_text(err), "cannot be made to read as zeroes"), "%s",
			  img_error_text(err));
		close_image(img);
		img_error_free(err);
		finish(&b);
	}
}

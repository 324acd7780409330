/*
 * Creating VMDKs: every kind and size is sound by our own check and by qemu-img's; descriptors say
 * what was asked for; what cannot be made is refused before there is a file.
 */
#include "libimg/base/arith.h"
#include "tests/formats/vmdk/bench.h"

/* The descriptor of an image, embedded or not. malloc'd. */
static char *descriptor_of(const char *path)
{
	uint64_t size = size_of(path), from, len;
	uint8_t magic[4];
	char *text;

	read_at(path, 0, magic, sizeof(magic));
	from = memcmp(magic, "KDMV", 4) ? 0 : 512;
	len = from ? 20 * 512 : size;
	text = calloc(1, len + 1);
	cr_assert(text);
	read_at(path, from, (uint8_t *)text, len);
	return text;
}

/* The value of a key, up to the end of the line, in a static buffer. */
static const char *value_of(const char *text, const char *key)
{
	static char value[256];
	const char *at = strstr(text, key);

	cr_assert(at, "%s in\n%s", key, text);
	at += strlen(key);
	snprintf(value, sizeof(value), "%.*s", (int)strcspn(at, "\n"), at);
	return value;
}

Test(vmdk_create, sound_in_every_kind)
{
	static const char *const kinds[] = {
		NULL,
		"subformat=monolithicSparse,zeroed_grain=on",
		"subformat=monolithicFlat",
		"subformat=twoGbMaxExtentSparse",
		"subformat=twoGbMaxExtentFlat",
		"subformat=streamOptimized",
	};
	static const uint64_t sizes[] = {
		0,
		512,
		65536 - 512,
		65536 + 512,
		UINT64_C(32) << 20,
		(UINT64_C(32) << 20) + 512,
		UINT64_C(0x80000000),
		UINT64_C(0x80000000) + 512,
		UINT64_C(5) << 30,
		UINT64_C(2) << 40,
	};

	for (size_t k = 0; k < IMG_ARRAY_LEN(kinds); k++) {
		for (size_t i = 0; i < IMG_ARRAY_LEN(sizes); i++) {
			struct img *img;
			struct bench b;

			start(&b);
			must_make(b.image, sizes[i], kinds[k], NULL);
			img = open_image(b.image, 0);
			cr_assert_eq(img_size(img), sizes[i]);
			close_image(img);
			if (!kinds[k] || !strstr(kinds[k], "Flat"))
				sound(&b, b.image);
			if (have_qemu() && sizes[i] > 512 && sizes[i] < UINT64_C(1) << 40) {
				run(&b, "truncate -s %" PRIu64 " model.raw", sizes[i]);
				run(&b, "qemu-img compare -f vmdk -F raw image.vmdk model.raw");
			}
			finish(&b);
		}
	}
}

Test(vmdk_create, huge)
{
	struct bench b;

	start(&b);
	must_make(b.image, UINT64_C(62) << 40, "zeroed_grain=on", NULL);
	if (have_qemu())
		run(&b, "qemu-img info --output=json image.vmdk | grep -q 68169720922112");
	close_image(open_image(b.image, IMG_OPEN_WRITE));
	finish(&b);
}

Test(vmdk_create, descriptor)
{
	struct bench b;
	char cid[16], uuid[48];
	char *text;

	start(&b);
	must_make(b.image, 10 << 20, "adapter_type=lsilogic,hwversion=11,toolsversion=10304", NULL);
	text = descriptor_of(b.image);
	cr_assert_str_eq(value_of(text, "ddb.adapterType = "), "\"lsilogic\"");
	cr_assert_str_eq(value_of(text, "ddb.virtualHWVersion = "), "\"11\"");
	cr_assert_str_eq(value_of(text, "ddb.toolsVersion = "), "\"10304\"");
	cr_assert_str_eq(value_of(text, "ddb.geometry.heads = "), "\"255\"");
	cr_assert_str_eq(value_of(text, "\nparentCID="), "ffffffff");
	cr_assert_str_eq(value_of(text, "createType="), "\"monolithicSparse\"");
	cr_assert_str_eq(value_of(text, "RW "), "20480 SPARSE \"image.vmdk\"");
	snprintf(cid, sizeof(cid), "%s\"", value_of(text, "\nCID="));
	/* The long content ID ends with the short one. */
	cr_assert_str_eq(value_of(text, "ddb.longContentID = \"") + 24, cid);
	free(text);

	/* Two disks are never alike. */
	must_make(b.image, 10 << 20, "compat6=on", NULL);
	text = descriptor_of(b.image);
	cr_assert_str_eq(value_of(text, "ddb.virtualHWVersion = "), "\"6\"");
	cr_assert_str_eq(value_of(text, "ddb.toolsVersion = "), "\"2147483647\"");
	cr_assert_str_eq(value_of(text, "ddb.adapterType = "), "\"ide\"");
	snprintf(uuid, sizeof(uuid), "%s", value_of(text, "ddb.uuid.image="));
	free(text);
	must_make(b.image, 10 << 20, NULL, NULL);
	text = descriptor_of(b.image);
	cr_assert_str_neq(value_of(text, "ddb.uuid.image="), uuid);
	free(text);
	finish(&b);
}

Test(vmdk_create, split)
{
	struct bench b;
	char *text, path[160];

	start(&b);
	snprintf(path, sizeof(path), "%s/a.b.vmdk", b.dir);
	must_make(path, UINT64_C(5) << 30, "subformat=twoGbMaxExtentFlat", NULL);
	text = descriptor_of(path);
	cr_assert(strstr(text, "\nRW 4194304 FLAT \"a.b-f001.vmdk\" 0\n"
			       "RW 4194304 FLAT \"a.b-f002.vmdk\" 0\n"
			       "RW 2097152 FLAT \"a.b-f003.vmdk\" 0\n"),
		  "%s", text);
	free(text);
	snprintf(path, sizeof(path), "%s/plain", b.dir);
	must_make(path, UINT64_C(1) << 30, "subformat=twoGbMaxExtentSparse", NULL);
	text = descriptor_of(path);
	cr_assert(strstr(text, "\nRW 2097152 SPARSE \"plain-s001\"\n"), "%s", text);
	free(text);
	finish(&b);
}

Test(vmdk_create, child)
{
	struct bench b;
	char base[160], cid[16], uuid[48];
	char *text;

	start(&b);
	snprintf(base, sizeof(base), "%s/base.vmdk", b.dir);
	must_make(base, 3 << 20, NULL, NULL);
	text = descriptor_of(base);
	snprintf(cid, sizeof(cid), "%s", value_of(text, "\nCID="));
	snprintf(uuid, sizeof(uuid), "%s", value_of(text, "ddb.uuid.image="));
	free(text);
	must_make(b.image, 3 << 20, NULL, "base.vmdk");
	text = descriptor_of(b.image);
	cr_assert_str_eq(value_of(text, "parentCID="), cid);
	cr_assert_str_eq(value_of(text, "parentFileNameHint="), "\"base.vmdk\"");
	cr_assert_str_eq(value_of(text, "ddb.uuid.parent="), uuid);
	free(text);
	close_image(open_image(b.image, IMG_OPEN_WRITE));
	if (have_qemu())
		run(&b, "qemu-img compare image.vmdk base.vmdk");
	finish(&b);
}

/* Asked for like this, it must fail with these words, and leave nothing behind. */
static void refused(const char *name, uint64_t size, const char *options, const char *backing,
		    const char *words)
{
	struct img_error *err = img_error_new();
	struct bench b;
	char path[160];

	start(&b);
	snprintf(path, sizeof(path), "%s/base.vmdk", b.dir);
	must_make(path, 1 << 20, NULL, NULL);
	snprintf(path, sizeof(path), "%s/%s", b.dir, name);
	cr_assert_lt(make(path, size, options, backing, err), 0, "%s", words);
	cr_assert(strstr(img_error_text(err), words), "%s: %s", words, img_error_text(err));
	run(&b, "test $(ls | grep -cv out.txt) = 1");
	img_error_free(err);
	finish(&b);
}

/* A colon in a name is no protocol: not the user's path, and not what the descriptor calls its files. */
Test(vmdk_create, colons_in_names)
{
	static const char *const kinds[] = {
		"subformat=monolithicSparse",
		"subformat=monolithicFlat",
		"subformat=twoGbMaxExtentSparse",
		"subformat=twoGbMaxExtentFlat",
	};
	struct img_error *err = img_error_new();
	struct bench b;
	char path[192], child[192];
	uint8_t *bytes;

	start(&b);
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		struct img *img;

		snprintf(path, sizeof(path), "%s/vm-%zuT10:20.vmdk", b.dir, i);
		must_make(path, 1 << 20, kinds[i], NULL);
		img = open_image(path, IMG_OPEN_WRITE);
		cr_assert_eq(img_write(img, 65536, "found", 5, err), 0, "%s", img_error_text(err));
		close_image(img);
		bytes = read_all(path, 1 << 20);
		cr_assert(!memcmp(bytes + 65536, "found", 5));
		free(bytes);
		if (have_qemu())
			run(&b, "qemu-img convert -O raw -f vmdk ./vm-%zuT10:20.vmdk q.raw", i);
	}
	snprintf(path, sizeof(path), "./vm-%dT10:20.vmdk", 0);
	snprintf(child, sizeof(child), "%s/child.vmdk", b.dir);
	must_make(child, 1 << 20, "subformat=twoGbMaxExtentSparse", path);
	/* As other programs call the parent. */
	run(&b, "sed -i 's,parentFileNameHint=\"./,parentFileNameHint=\",' child.vmdk");
	run(&b, "grep -q 'parentFileNameHint=\"vm-0T10:20.vmdk' child.vmdk");
	bytes = read_all(child, 1 << 20);
	cr_assert(!memcmp(bytes + 65536, "found", 5));
	free(bytes);
	finish(&b);
	img_error_free(err);
}

/* A name that looks as if it led to another file, as the image's own. */
Test(vmdk_create, prefixes_in_names)
{
	static const char *const kinds[] = { "monolithicSparse", "monolithicFlat",
					     "twoGbMaxExtentSparse", "twoGbMaxExtentFlat" };
	struct bench b;
	char path[192], option[64];

	start(&b);
	for (size_t i = 0; i < 8; i++) {
		const char *prefix = i < 4 ? "file" : "json";

		snprintf(path, sizeof(path), "%s/%s:%zu.vmdk", b.dir, prefix, i);
		snprintf(option, sizeof(option), "subformat=%s", kinds[i % 4]);
		must_make(path, 1 << 20, option, NULL);
		free(read_all(path, 1 << 20));
		if (have_qemu())
			run(&b, "qemu-img convert -O raw -f vmdk ./%s:%zu.vmdk q.raw", prefix, i);
	}
	finish(&b);
}

Test(vmdk_create, refusals)
{
	refused("a", 1 << 20, "subformat=vmfs", NULL, "subformat");
	refused("a", 1 << 20, "adapter_type=sata", NULL, "adapter_type");
	refused("a", 1 << 20, "compat6=on,hwversion=11", NULL, "compat6");
	refused("a", 1 << 20, "hwversion=x", NULL, "hwversion is 'x'");
	refused("a", 1 << 20, "toolsversion=\"", NULL, "toolsversion");
	refused("a", 1 << 20, "subformat=monolithicFlat,zeroed_grain=on", NULL, "zeroed grain");
	refused("a", 1 << 20, "subformat=streamOptimized,zeroed_grain=on", NULL, "zeroed grain");
	refused("a", 1 << 20, "subformat=monolithicFlat", "base.vmdk", "backing file");
	refused("a", 1 << 20, NULL, "missing.vmdk", "missing.vmdk");
	refused("a\"b", 1 << 20, NULL, NULL, "quote");
	refused("a\nb", 1 << 20, NULL, NULL, "control character");
	refused("a", UINT64_C(1) << 62, NULL, NULL, "size of a sparse VMDK is");
	refused("a", UINT64_C(9) << 40, "subformat=twoGbMaxExtentSparse", NULL, "4608 extent files");
}

static char *identified(const char *kind, uint64_t a, uint64_t b)
{
	const char *list[] = { kind, NULL };
	struct img_create_options how = {
		.format = "vmdk",
		.have_size = true,
		.size = 1 << 20,
		.options = list,
		.identity = { a, b },
	};
	struct bench bench;
	char *text;
	struct img *img;

	start(&bench);
	cr_assert_eq(img_create_begin(bench.image, &how, &img, NULL), 0);
	cr_assert_eq(img_write(img, 0, "data", 4, NULL) == 0, !strstr(kind, "stream"));
	cr_assert_eq(img_publish(img, NULL), 0);
	close_image(img);
	text = descriptor_of(bench.image);
	finish(&bench);
	return text;
}

/* The same identity gives the same descriptor, also when data is written; another gives another. */
Test(vmdk_create, identity)
{
	static const char *const kinds[] = { "subformat=monolithicSparse",
					     "subformat=monolithicFlat",
					     "subformat=twoGbMaxExtentSparse",
					     "subformat=streamOptimized" };
	static const char *const keys[] = { "\nCID=", "longContentID = ", "uuid.image=",
					    "uuid.modification=" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(kinds); i++) {
		char *one = identified(kinds[i], 1, 2), *again = identified(kinds[i], 1, 2);
		char *other = identified(kinds[i], 1, 3), *random = identified(kinds[i], 0, 0);
		char *random2 = identified(kinds[i], 0, 0);

		cr_assert_str_eq(one, again);
		for (size_t k = 0; k < IMG_ARRAY_LEN(keys); k++) {
			char value[256];

			snprintf(value, sizeof(value), "%s", value_of(one, keys[k]));
			cr_assert_str_neq(value, value_of(other, keys[k]));
			cr_assert_str_neq(value, value_of(random, keys[k]));
			snprintf(value, sizeof(value), "%s", value_of(random, keys[k]));
			cr_assert_str_neq(value, value_of(random2, keys[k]));
		}
		cr_assert_eq(value_of(one, "uuid.image=")[15], '4');
		free(one);
		free(again);
		free(other);
		free(random);
		free(random2);
	}
}

/*
 * Descriptors, from text.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_descriptor.h"

#define HEAD "# Disk DescriptorFile\nversion=1\nCID=fedc4321\nparentCID=ffffffff\n" \
	     "createType=\"custom\"\n"

static int parse(const char *text, struct vmdk_descriptor *d)
{
	return vmdk_parse_descriptor(text, strlen(text), d, NULL);
}

static void assert_text(struct vmdk_text t, const char *want)
{
	cr_assert_not_null(t.at, "nothing, not \"%s\"", want);
	cr_assert_eq(t.len, strlen(want));
	cr_assert_arr_eq(t.at, want, t.len);
}

Test(vmdk_descriptor, keys)
{
	struct vmdk_descriptor d;

	cr_assert_eq(parse("# Disk DescriptorFile\nversion=2\nencoding=\"UTF-8\"\nCID=12AbcDef\n"
			   "parentCID=00000001\ncreateType = \"vmfsSparse\" \n"
			   "parentFileNameHint=\"a = b.vmdk\"\n\n# Extent description\n"
			   "RW 16 VMFSSPARSE \"x-delta.vmdk\"\n#DDB\n"
			   "ddb.uuid.image=\"12345678-0000-4000-8000-000000000001\"\n"
			   "ddb.uuid.parent=\"00000000-0000-0000-0000-000000000000\"\n",
			   &d),
		     0);
	cr_assert_eq(d.version, 2);
	cr_assert(d.has_cid);
	cr_assert_eq(d.cid, 0x12abcdef);
	cr_assert_eq(d.parent_cid, 1);
	assert_text(d.create_type, "vmfsSparse");
	assert_text(d.parent_hint, "a = b.vmdk");
	assert_text(d.uuid_image, "12345678-0000-4000-8000-000000000001");
	cr_assert_null(d.uuid_parent.at, "nil is none");
	cr_assert_eq(d.extents, 1);
	cr_assert_eq(d.sectors, 16);
	cr_assert(!d.encrypted);
}

Test(vmdk_descriptor, missing_keys)
{
	struct vmdk_descriptor d;

	cr_assert_eq(parse("# Disk DescriptorFile\nparentFileNameHint=\"\"\n", &d), 0);
	cr_assert(!d.has_cid);
	cr_assert_eq(d.parent_cid, VMDK_NO_PARENT);
	cr_assert_null(d.create_type.at);
	cr_assert_null(d.parent_hint.at);
	cr_assert_eq(parse("", &d), 0);
	cr_assert_eq(d.extents, 0);
}

/* What other programs and people write, and all readers take. */
Test(vmdk_descriptor, numbers_in_other_dress)
{
	static const struct {
		const char *text;
		uint32_t cid, parent_cid;
		const char *digits; /* of the CID, where a new one goes */
	} rows[] = {
		{ "CID=3014967295\n", 0x14967295, VMDK_NO_PARENT, "14967295" },
		{ "CID=123456789\n", 0x23456789, VMDK_NO_PARENT, "23456789" },
		{ "CID=1234567890abcdef1\n", 0x0abcdef1, VMDK_NO_PARENT, "0abcdef1" },
		{ "CID=0x12345678\n", 0x12345678, VMDK_NO_PARENT, "12345678" },
		{ "CID=0X1a\nparentCID=0xffffffff\n", 0x1a, VMDK_NO_PARENT, "1a" },
		{ "CID = \"ABCD\"\nparentCID=00000000000000ab\n", 0xabcd, 0xab, "ABCD" },
		{ "CID=7 # mine\nparentCID=8# its\n", 7, 8, "7" },
	};
	struct vmdk_descriptor d;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		cr_assert_eq(parse(rows[i].text, &d), 0, "%s", rows[i].text);
		cr_expect_eq(d.cid, rows[i].cid, "%s", rows[i].text);
		cr_expect_eq(d.parent_cid, rows[i].parent_cid, "%s", rows[i].text);
		assert_text(d.cid_digits, rows[i].digits);
	}
	cr_assert_eq(parse("version=1 # by hand\n", &d), 0);
	cr_assert_eq(parse("version=\"2\"\t# by hand\n", &d), 0);
	cr_assert_eq(d.version, 2);
	cr_assert_eq(parse("version=1x\n", &d), -EUCLEAN);
}

Test(vmdk_descriptor, quotes_and_comments)
{
	struct vmdk_descriptor d;

	cr_assert_eq(parse("createType = \"custom\" # \"mine\"\n", &d), 0);
	assert_text(d.create_type, "custom");
	cr_assert_eq(parse("parentFileNameHint=\"a \"b\" # c.vmdk\"\n", &d), 0);
	assert_text(d.parent_hint, "a \"b\" # c.vmdk");
	cr_assert_eq(parse("parentFileNameHint=\"a#b.vmdk\"\n", &d), 0);
	assert_text(d.parent_hint, "a#b.vmdk");
	cr_assert_eq(parse("parentFileNameHint=\"\"\ncreateType=custom\n", &d), 0);
	cr_assert_null(d.parent_hint.at);
	assert_text(d.create_type, "custom");
}

Test(vmdk_descriptor, extent_names)
{
	static const struct {
		const char *text, *name;
		uint64_t sector;
	} rows[] = {
		{ "RW 1 SPARSE \"\"", "", 0 },
		{ "RW 1 FLAT \"\" 7", "", 7 },
		{ "RW 1 SPARSE x.vmdk", "x.vmdk", 0 },
		{ "RW 1 FLAT x-flat.vmdk 128 # here", "x-flat.vmdk", 128 },
		{ "RW 1 FLAT \"C:\\VMs\\x-flat.vmdk\" 0", "C:\\VMs\\x-flat.vmdk", 0 },
		{ "RW 1 FLAT \"10:20 # x\" 1", "10:20 # x", 1 },
		{ "RW 1 SPARSE \"x.vmdk\" # here", "x.vmdk", 0 },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct vmdk_cursor c = { 0 };
		struct vmdk_line line;

		cr_assert_eq(vmdk_next_extent(rows[i].text, strlen(rows[i].text), &c, &line, NULL),
			     1, "%s", rows[i].text);
		assert_text(line.file, rows[i].name);
		cr_expect_eq(line.file_sector, rows[i].sector, "%s", rows[i].text);
	}
}

Test(vmdk_descriptor, names_have_no_protocols)
{
	static const char *const rows[][2] = {
		{ "x-flat.vmdk", "x-flat.vmdk" },
		{ "vm-2024-01-01T10:20:30-flat.vmdk", "./vm-2024-01-01T10:20:30-flat.vmdk" },
		{ "nbd://host/x", "./nbd://host/x" },
		{ "a/b:c", "a/b:c" },
		{ "/vmfs/a:b", "/vmfs/a:b" },
		{ ":x", "./:x" },
		{ "C:\\VMs\\x.vmdk", "C:\\VMs\\x.vmdk" },
		{ "C:/VMs/x.vmdk", "C:/VMs/x.vmdk" },
		{ "C:x.vmdk", "./C:x.vmdk" },
		{ "file:x.vmdk", "file:x.vmdk" },
		{ "", "" },
	};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		char *name = vmdk_plain_name(rows[i][0], strlen(rows[i][0]));

		cr_assert_str_eq(name, rows[i][1]);
		free(name);
	}
}

Test(vmdk_descriptor, the_first_of_two_counts)
{
	struct vmdk_descriptor d;

	cr_assert_eq(parse(HEAD "CID=1\nparentCID=2\ncreateType=\"x\"\n", &d), 0);
	cr_assert_eq(d.cid, 0xfedc4321);
	cr_assert_eq(d.parent_cid, VMDK_NO_PARENT);
	assert_text(d.create_type, "custom");
}

Test(vmdk_descriptor, line_ends)
{
	static const char *const texts[] = {
		"version=1\nCID=1\nRW 1 ZERO\nRW 2 ZERO",
		"version=1\r\nCID=1\r\nRW 1 ZERO\r\nRW 2 ZERO\r\n",
		"version=1\rCID=1\rRW 1 ZERO\rRW 2 ZERO\r",
		"\n\n\r\n\rversion=1\n\r\nCID=1\n RW  1\tZERO \nRW 2 ZERO\n\n",
	};
	struct vmdk_descriptor d;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		cr_assert_eq(parse(texts[i], &d), 0, "%zu", i);
		cr_assert(d.has_cid, "%zu", i);
		cr_assert_eq(d.extents, 2, "%zu", i);
		cr_assert_eq(d.sectors, 3, "%zu", i);
	}
}

Test(vmdk_descriptor, the_text_ends_at_a_nul)
{
	static const char text[] = HEAD "RW 1 ZERO\n\0RW 2 ZERO\nRW x";
	struct vmdk_descriptor d;

	cr_assert_eq(vmdk_parse_descriptor(text, sizeof(text), &d, NULL), 0);
	cr_assert_eq(d.sectors, 1);
}

Test(vmdk_descriptor, extents)
{
	static const char text[] = HEAD
		"RW 4097 FLAT \"flat.bin\" 7\n"
		"RW 2048 ZERO\n"
		"RDONLY 12287 SPARSE \"a b \xc3\xbc.vmdk\"\n"
		"NOACCESS 63 FLAT \"/dev/sda\" 0\n"
		"NOACCESS 5 FLAT\n"
		"RW 1 VMFS \"x-flat.vmdk\"\n"
		"rw 1 vmfsRdm \"x-rdm.vmdk\" 0 \n"
		"RW 1 FLAT \"/dev/disk0\" 40 partitionUUID 00000000-1111 deviceIdentifier \"x\"\n"
		"RW 0 SESPARSE \"y\"\n";
	static const struct {
		enum vmdk_access access;
		enum vmdk_extent_type type;
		uint64_t sectors, file_sector;
		const char *file;
		size_t number;
	} want[] = {
		{ VMDK_RW, VMDK_TYPE_FLAT, 4097, 7, "flat.bin", 6 },
		{ VMDK_RW, VMDK_TYPE_ZERO, 2048, 0, NULL, 7 },
		{ VMDK_RDONLY, VMDK_TYPE_SPARSE, 12287, 0, "a b \xc3\xbc.vmdk", 8 },
		{ VMDK_NOACCESS, VMDK_TYPE_FLAT, 63, 0, "/dev/sda", 9 },
		{ VMDK_NOACCESS, VMDK_TYPE_FLAT, 5, 0, NULL, 10 },
		{ VMDK_RW, VMDK_TYPE_VMFS, 1, 0, "x-flat.vmdk", 11 },
		{ VMDK_RW, VMDK_TYPE_VMFSRDM, 1, 0, "x-rdm.vmdk", 12 },
		{ VMDK_RW, VMDK_TYPE_FLAT, 1, 40, "/dev/disk0", 13 },
		{ VMDK_RW, VMDK_TYPE_SESPARSE, 0, 0, "y", 14 },
	};
	struct vmdk_cursor c = { 0 };
	struct vmdk_descriptor d;
	struct vmdk_line line;

	cr_assert_eq(parse(text, &d), 0);
	cr_assert_eq(d.extents, sizeof(want) / sizeof(want[0]));
	for (size_t i = 0; i < d.extents; i++) {
		cr_assert_eq(vmdk_next_extent(text, strlen(text), &c, &line, NULL), 1);
		cr_expect_eq(line.access, want[i].access, "%zu", i);
		cr_expect_eq(line.type, want[i].type, "%zu", i);
		cr_expect_eq(line.sectors, want[i].sectors, "%zu", i);
		cr_expect_eq(line.file_sector, want[i].file_sector, "%zu", i);
		cr_expect_eq(line.number, want[i].number, "%zu", i);
		if (want[i].file)
			assert_text(line.file, want[i].file);
		else
			cr_expect_null(line.file.at);
	}
	cr_assert_eq(vmdk_next_extent(text, strlen(text), &c, &line, NULL), 0);
}

Test(vmdk_descriptor, refused)
{
	static const struct {
		const char *text;
		int rc;
	} rows[] = {
		{ "version=4\n", -ENOTSUP },
		{ "version=x\n", -EUCLEAN },
		{ "version=0\n", -EUCLEAN },
		{ "CID=\n", -EUCLEAN },
		{ "CID=0x\n", -EUCLEAN },
		{ "CID= # none\n", -EUCLEAN },
		{ "CID=xyz\n", -EUCLEAN },
		{ "parentCID=-1\n", -EUCLEAN },
		{ "RW\n", -EUCLEAN },
		{ "RW x FLAT \"a\"\n", -EUCLEAN },
		{ "RW -1 FLAT \"a\"\n", -EUCLEAN },
		{ "RW 1\n", -ENOTSUP },
		{ "RW 1 FLOT \"a\"\n", -ENOTSUP },
		{ "RW 1 FLAT\n", -EUCLEAN },
		{ "RW 1 FLAT # a\n", -EUCLEAN },
		{ "RW 1 FLAT \"a\n", -EUCLEAN },
		{ "RW 1 FLAT \"a\" 0x10\n", -EUCLEAN },
		{ "RW 1 FLAT \"a\" 99999999999999999999\n", -EUCLEAN },
		{ "RW 1 SPARSE \"a\" 1\n", -EUCLEAN },
		{ "RW 18446744073709551616 ZERO\n", -EUCLEAN },
		{ "RW 18446744073709551615 ZERO\n", -EUCLEAN },
		{ "RW 18014398509481983 ZERO\nRW 1 ZERO\n", -EUCLEAN },
	};
	struct vmdk_descriptor d;

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		cr_expect_eq(parse(rows[i].text, &d), rows[i].rc, "%s", rows[i].text);
	cr_assert_eq(parse("RW 18014398509481983 ZERO\n", &d), 0, "the largest disk");
}

Test(vmdk_descriptor, limits)
{
	static const char line[] = "RW 1 ZERO\n";
	size_t n = VMDK_EXTENTS_MAX;
	char *text = malloc((n + 1) * strlen(line) + 1);
	struct vmdk_descriptor d;

	cr_assert_not_null(text);
	for (size_t i = 0; i <= n; i++)
		memcpy(text + i * strlen(line), line, strlen(line) + 1);
	cr_assert_eq(vmdk_parse_descriptor(text, n * strlen(line), &d, NULL), 0);
	cr_assert_eq(d.extents, n);
	cr_assert_eq(parse(text, &d), -ENOTSUP);
	free(text);

	text = malloc(VMDK_NAME_BYTES_MAX + 64);
	cr_assert_not_null(text);
	memcpy(text, "RW 1 FLAT \"", 11);
	memset(text + 11, 'a', VMDK_NAME_BYTES_MAX + 1);
	memcpy(text + 11 + VMDK_NAME_BYTES_MAX, "\" 0\n", 5);
	cr_assert_eq(parse(text, &d), 0);
	memcpy(text + 11 + VMDK_NAME_BYTES_MAX, "a\" 0\n", 6);
	cr_assert_eq(parse(text, &d), -EUCLEAN);
	free(text);
}

Test(vmdk_descriptor, encrypted)
{
	struct vmdk_descriptor d;

	cr_assert_eq(parse(HEAD "ddb.iofilters = \"vmwarevmcrypt\"\n", &d), 0);
	cr_assert(d.encrypted);
	cr_assert_eq(parse(HEAD "encryption.keySafe = \"vmware:key/list\"\n", &d), 0);
	cr_assert(d.encrypted);
	cr_assert_eq(parse(HEAD "ddb.iofilters = \"cache\"\n", &d), 0);
	cr_assert(!d.encrypted);
}

Test(vmdk_descriptor, recognised)
{
	static const char *const yes[] = {
		"# Disk DescriptorFile\n",
		"# disk descriptorfile\r\nversion=1",
		"# something\n\n version=1\n",
		"version=3\r\n",
	};
	static const char *const no[] = {
		"",
		"#",
		"# Disk Descriptor",
		"version=4\n",
		"version=11\n",
		"hello\nversion=1\n",
		"KDMV",
	};

	for (size_t i = 0; i < sizeof(yes) / sizeof(yes[0]); i++)
		cr_expect(vmdk_is_descriptor(yes[i], strlen(yes[i])), "%s", yes[i]);
	for (size_t i = 0; i < sizeof(no) / sizeof(no[0]); i++)
		cr_expect_not(vmdk_is_descriptor(no[i], strlen(no[i])), "%s", no[i]);
}

/* ---- Another parent ---- */

static void replaced(const char *text, const struct vmdk_new_parent *to, const char *want)
{
	size_t len = 0;
	char *out = vmdk_replace_parent(text, strlen(text), to, &len);

	cr_assert_not_null(out);
	cr_assert_eq(len, strlen(out));
	cr_assert_str_eq(out, want);
	free(out);
}

static void resized(const char *text, uint64_t extent, uint64_t disk, const char *want)
{
	size_t len;
	char *out = vmdk_replace_size(text, strlen(text), extent, disk, &len);

	cr_assert_not_null(out);
	cr_assert_eq(len, strlen(out));
	cr_assert_str_eq(out, want);
	free(out);
}

Test(vmdk_descriptor, another_size)
{
	resized("version=1\nCID=7\nRW 63 SPARSE \"a 12 b.vmdk\"\nddb.geometry.cylinders = \"1\"\n"
		"ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n",
		2016, 2016,
		"version=1\nCID=7\nRW 2016 SPARSE \"a 12 b.vmdk\"\nddb.geometry.cylinders = \"2\"\n"
		"ddb.geometry.heads = \"16\"\nddb.geometry.sectors = \"63\"\n");
	/* the last extent, that has a length; a disk of less than a cylinder has one */
	resized("ddb.geometry.heads=255\r\nddb.geometry.cylinders=99\r\nddb.geometry.sectors=63\r\n"
		"RW 4194304 FLAT \"a-f001.vmdk\" 0\r\n rw\t5 flat \"a-f002.vmdk\" 0\r\nRW 0 FLAT \"c\" 0\r\n",
		12345678901, 700,
		"ddb.geometry.heads=255\r\nddb.geometry.cylinders=1\r\nddb.geometry.sectors=63\r\n"
		"RW 4194304 FLAT \"a-f001.vmdk\" 0\r\n rw\t12345678901 flat \"a-f002.vmdk\" 0\r\n"
		"RW 0 FLAT \"c\" 0\r\n");
	/* no geometry, or a part of it: nothing to fit; what is no extent line is left alone */
	resized("# RW 5 FLAT \"x\" 0\nRW 1 VMFS \"x\"\nddb.geometry.cylinders = \"7\"\n", 2, 2,
		"# RW 5 FLAT \"x\" 0\nRW 2 VMFS \"x\"\nddb.geometry.cylinders = \"7\"\n");
}

Test(vmdk_descriptor, another_parent)
{
	static const struct vmdk_new_parent none = { .cid = VMDK_NO_PARENT },
					    other = { 0x1a, "sub/b.vmdk", "U", NULL };

	replaced("# Disk DescriptorFile\nversion=1\nCID=7\nparentCID=00000001\n"
		 "parentFileNameHint=\"a.vmdk\"\n\nRW 1 ZERO\n#DDB\nddb.uuid.parent=\"old\"\n"
		 "ddb.uuid.parentmodification = \"old\"\n",
		 &other,
		 "# Disk DescriptorFile\nversion=1\nCID=7\nparentCID=0000001a\n"
		 "parentFileNameHint=\"sub/b.vmdk\"\n\nRW 1 ZERO\n#DDB\nddb.uuid.parent=\"U\"\n"
		 "ddb.uuid.parentmodification=\"00000000-0000-0000-0000-000000000000\"\n");
	/* none any more; each key that was there twice is there once */
	replaced("version=1\r\nCID=7\r\nParentCID=1 # words\r\nparentFileNameHint=a\r\ncreateType=x\r\n"
		 "PARENTFILENAMEHINT=b\r\nparentcid=2\r\nRW 1 ZERO\r\n",
		 &none, "version=1\r\nCID=7\r\nparentCID=ffffffff\r\ncreateType=x\r\nRW 1 ZERO\r\n");
	/* where there was none, in front of the extents; comments are left alone */
	replaced("version=1\nCID=7\n#parentCID=5\n# Extent description\nRW 1 ZERO\n", &other,
		 "version=1\nCID=7\n#parentCID=5\nparentCID=0000001a\n"
		 "parentFileNameHint=\"sub/b.vmdk\"\n# Extent description\nRW 1 ZERO\n");
	replaced("version=1\nCID=7", &other,
		 "version=1\nCID=7\nparentCID=0000001a\nparentFileNameHint=\"sub/b.vmdk\"\n");
	replaced("version=1\nRW 1 ZERO\nparentCID=1", &none, "version=1\nparentCID=ffffffff\nRW 1 ZERO\n");
}

/*
 * Which file is the parent: several names, an identity, both; what is looked at for it, what is not, and what is said
 * where it is not found.
 */
#include "tests/image/kin.h"

TestSuite(parent, .init = folder_make, .fini = folder_remove, .timeout = 30);

#define HEAD "# Disk DescriptorFile\nversion=1\ncreateType=\"custom\"\n"
#define UUID(key, n) "ddb.uuid." key "=\"00000000-0000-4000-8000-00000000000" n "\"\n"

static void text(const char *name, const char *bytes)
{
	make_file(name, bytes, strlen(bytes), (off_t)strlen(bytes));
}

/* A disk of a sector that begins with `fill`, with UUID n. */
static void make_base(const char *name, char fill, const char *keys)
{
	char bytes[1024], flat[64];
	char sector[512];

	snprintf(flat, sizeof(flat), "flat-%c", fill);
	memset(sector, fill, sizeof(sector));
	make_file(flat, sector, sizeof(sector), sizeof(sector));
	snprintf(bytes, sizeof(bytes), HEAD "CID=00000007\n%sRW 1 FLAT \"%s%s\" 0\n#DDB\n", keys,
		 strchr(name, '/') ? "../" : "", flat);
	text(name, bytes);
}

/* The first byte, read through the chain. */
static char first_byte(const char *name, const char *references)
{
	struct img_open_options o = { .references = references };
	struct img_error *err = img_error_new();
	struct img *img = NULL;
	char byte = 0;

	cr_assert_eq(img_open(name, &o, &img, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_read(img, 0, &byte, 1, NULL), 0);
	must_close(img);
	img_error_free(err);
	return byte;
}

/* It cannot be opened, rc, and the sentence has all words (NULL at the end). */
static void refused(const char *name, const char *references, int rc, const char *const *words)
{
	struct img_open_options o = { .references = references };
	const char *sentence;

	cr_assert_eq(must_fail(name, &o, &sentence), rc, "%s", sentence);
	for (; *words; words++)
		cr_assert(strstr(sentence, *words), "'%s' is not in: %s", *words, sentence);
}
#define REFUSED(name, references, rc, ...) \
	refused(name, references, rc, (const char *const[]){ __VA_ARGS__, NULL })

static char *report(const char *name, unsigned flags, const char *key)
{
	struct img *img = must_open(name, NULL, flags);
	struct img_value *v;
	const char *found;
	char *copy;

	cr_assert_eq(img_info(img, &v, NULL), 0);
	found = img_value_string(img_value_get(v, key));
	copy = found ? strdup(found) : NULL;
	img_value_free(v);
	must_close(img);
	return copy;
}

/* ---- By identity: children of VirtualBox ---- */

#define CHILD HEAD "CID=00000001\nparentCID=ffffffff\nRW 1 SPARSE \"none\"\n"

/* A sparse disk of nothing, with these lines. */
static void make_child(const char *name, const char *keys)
{
	char with[1024];
	uint8_t disk[128 * 512] = { 0 };
	struct img_create_options o = { .format = "vmdk", .size = 512, .have_size = true };

	cr_assert_eq(img_create(name, &o, NULL), 0);
	int fd = open(name, O_RDWR | O_CLOEXEC);

	cr_assert_eq(pread(fd, disk, sizeof(disk), 0), (ssize_t)sizeof(disk));
	snprintf(with, sizeof(with), "%s%s%s", CHILD, "#DDB\n", keys);
	memset(disk + 512, 0, 20 * 512);
	memcpy(disk + 512, with, strlen(with));
	cr_assert_eq(pwrite(fd, disk, sizeof(disk), 0), (ssize_t)sizeof(disk));
	close(fd);
}

Test(parent, by_uuid_alone)
{
	char *found;

	make_base("zz-base.vmdk", 'B', UUID("image", "1"));
	make_base("another.vmdk", 'x', UUID("image", "2"));
	make_base("of-no-uuid.vmdk", 'y', "");
	text("notes.txt", "no image");
	text("empty", "");
	run("head -c 300000 /dev/urandom > noise; mkfifo pipe; mkdir folder.vmdk; ln -s nowhere broken; "
	    "ln -s /proc/self/mem memory; ln -s /dev/null null");
	make_child("child.vmdk", UUID("parent", "1"));
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
	cr_assert_eq(first_byte("./child.vmdk", "any"), 'B');
	/* what was found is told once it was looked for */
	found = report("child.vmdk", 0, "full-backing-filename");
	cr_assert_str_eq(found, "zz-base.vmdk");
	free(found);
	found = report("child.vmdk", 0, "backing-filename");
	cr_assert_str_eq(found, "zz-base.vmdk");
	free(found);
	cr_assert_null(report("child.vmdk", IMG_OPEN_SELF_ONLY, "backing-filename"));
	found = report("child.vmdk", IMG_OPEN_SELF_ONLY, "backing-uuid");
	cr_assert_str_eq(found, "00000000-0000-4000-8000-000000000001");
	free(found);
	/* a name that looks like something else is one all the same */
	run("mv zz-base.vmdk 'nbd:x y.vmdk'");
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
	run("mv 'nbd:x y.vmdk' 'C:\\base.vmdk'");
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
}

Test(parent, chain_by_uuid)
{
	make_base("base.vmdk", 'B', UUID("image", "1"));
	make_child("a.vmdk", UUID("image", "3") UUID("parent", "2"));
	make_child("b.vmdk", UUID("image", "2") UUID("parent", "1"));
	cr_assert_eq(first_byte("a.vmdk", NULL), 'B');
}

Test(parent, uuid_of_nobody)
{
	make_base("base.vmdk", 'B', UUID("image", "1"));
	make_child("child.vmdk", UUID("parent", "9"));
	REFUSED("child.vmdk", NULL, -ENOENT, "only differences", "00000000-0000-4000-8000-000000000009",
		"among the 3 files", "backing.file.filename");
}

Test(parent, uuid_of_two)
{
	make_base("base.vmdk", 'B', UUID("image", "1"));
	make_child("child.vmdk", UUID("parent", "1"));
	/* the same file under other names is no second one */
	run("ln base.vmdk hard.vmdk; ln -s base.vmdk soft.vmdk");
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
	run("cp base.vmdk copy.vmdk");
	REFUSED("child.vmdk", NULL, -ENOTUNIQ, "'base.vmdk'", "'copy.vmdk'", "backing.file.filename");
}

/* Only the folder itself is searched, and only as the policy lets images name files. */
Test(parent, where_it_is_sought)
{
	run("mkdir -p in/deeper out");
	make_child("in/child.vmdk", UUID("parent", "1"));
	make_base("in/deeper/base.vmdk", 'B', UUID("image", "1"));
	REFUSED("in/child.vmdk", "any", -ENOENT, "among the 1 files");
	run("mv in/deeper/base.vmdk .");
	REFUSED("in/child.vmdk", "any", -ENOENT, "among the 1 files");
	run("mv base.vmdk out; ln -s ../out/base.vmdk in/link.vmdk");
	REFUSED("in/child.vmdk", NULL, -ENOENT, "among the 2 files", "1 of which are refused");
	run("sed -i s,../flat,../flat, out/base.vmdk");
	cr_assert_eq(first_byte("in/child.vmdk", "any"), 'B');
	run("mv out/base.vmdk in; rm in/link.vmdk");
	REFUSED("in/child.vmdk", "none", -EPERM, "--references none");
	REFUSED("in/child.vmdk", "/usr", -ENOENT, "2 of which are refused");
	cr_assert_eq(first_byte("in/child.vmdk", "any"), 'B');
}

/* A file of the folder is that, whatever its name looks like. */
Test(parent, odd_names)
{
	static const char *const names[] = { "nbd:base.vmdk", "c:\\base.vmdk", "\\\\server\\base.vmdk",
					     "json:{}", "file:base" };

	make_child("child.vmdk", UUID("parent", "1"));
	for (size_t i = 0; i < COUNT(names); i++) {
		make_base(names[i], 'B', UUID("image", "1"));
		cr_assert_eq(first_byte("child.vmdk", NULL), 'B', "%s", names[i]);
		cr_assert_eq(unlink(names[i]), 0);
	}
}

Test(parent, uuid_of_itself)
{
	make_child("a.vmdk", UUID("image", "1") UUID("parent", "1"));
	REFUSED("a.vmdk", NULL, -ELOOP, "'a.vmdk'", "never end");
	make_child("a.vmdk", UUID("image", "1") UUID("parent", "2"));
	make_child("b.vmdk", UUID("image", "2") UUID("parent", "1"));
	REFUSED("a.vmdk", NULL, -ELOOP, "'a.vmdk'", "never end");
}

Test(parent, too_many_files)
{
	make_base("base.vmdk", 'B', UUID("image", "1"));
	make_child("child.vmdk", UUID("parent", "1"));
	run("seq 4093 | xargs touch");
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
	run("touch one-more");
	REFUSED("child.vmdk", NULL, -E2BIG, "more than 4096 files");
}

/* A descriptor may be long, or say that it is. */
Test(parent, long_descriptors)
{
	make_child("child.vmdk", UUID("parent", "1"));
	make_base("base.vmdk", 'B', UUID("image", "1"));
	run("{ cat base.vmdk; yes '# words' | head -c 500000; } > x && mv x base.vmdk");
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
	run("cp child.vmdk bad1.vmdk; printf '\\377\\377\\377\\377\\377\\377\\377\\177' | "
	    "dd of=bad1.vmdk bs=1 seek=36 conv=notrunc status=none");
	run("cp child.vmdk bad2.vmdk; printf '\\377\\377\\377\\377\\377\\377\\377\\377' | "
	    "dd of=bad2.vmdk bs=1 seek=28 conv=notrunc status=none");
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
}

/* VirtualBox's children have no content ID of their parent: the modification UUID tells. */
Test(parent, changed_since)
{
	make_base("base.vmdk", 'B', UUID("image", "1") UUID("modification", "5"));
	make_child("child.vmdk", UUID("parent", "1") UUID("parentmodification", "5"));
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
	make_base("base.vmdk", 'B', UUID("image", "1") UUID("modification", "6"));
	REFUSED("child.vmdk", NULL, -EUCLEAN, "changed since", "000000000006", "000000000005");
}

/* ---- By name and identity ---- */

static void make_named_child(const char *hint, const char *cid)
{
	char keys[512];

	make_child("child.vmdk", UUID("parent", "1"));
	snprintf(keys, sizeof(keys), "%sparentFileNameHint=\"%s\"\n", UUID("parent", "1"), hint);
	make_child("child.vmdk", keys);
	if (cid) {
		snprintf(keys, sizeof(keys), "sed -i 's/parentCID=ffffffff/parentCID=%s/' child.vmdk", cid);
		run(keys);
	}
}

Test(parent, hint_then_uuid)
{
	char *found;

	make_base("base.vmdk", 'B', UUID("image", "1"));
	make_base("other.vmdk", 'o', UUID("image", "2"));
	make_named_child("base.vmdk", NULL);
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
	/* the hint decides between two */
	run("cp base.vmdk copy.vmdk");
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
	run("rm copy.vmdk");
	/* it leads to another disk, to nothing, to no disk, out of the folder */
	for (size_t i = 0; i < 4; i++) {
		static const char *const hints[] = { "other.vmdk", "gone.vmdk", "flat-o", "/etc/passwd" };

		make_named_child(hints[i], NULL);
		cr_assert_eq(first_byte("child.vmdk", NULL), 'B', "%s", hints[i]);
		found = report("child.vmdk", 0, "full-backing-filename");
		cr_assert_str_eq(found, "base.vmdk");
		free(found);
		found = report("child.vmdk", 0, "backing-filename");
		cr_assert_str_eq(found, hints[i]);
		free(found);
	}
	run("rm base.vmdk");
	make_named_child("other.vmdk", NULL);
	REFUSED("child.vmdk", NULL, -ENOENT, "'other.vmdk': its UUID is "
					     "00000000-0000-4000-8000-000000000002",
		"no image of UUID 00000000-0000-4000-8000-000000000001");
	make_named_child("/etc/passwd", NULL);
	REFUSED("child.vmdk", NULL, -EPERM, "'/etc/passwd'", "--references any", "no image of UUID");
	make_named_child("gone.vmdk", NULL);
	REFUSED("child.vmdk", NULL, -ENOENT, "Could not open 'gone.vmdk': No such file or directory");
}

/* A disk of no UUID is judged by its content ID, unless the folder has the one that is sought. */
Test(parent, hint_to_no_uuid)
{
	make_base("plain.vmdk", 'p', "");
	make_named_child("plain.vmdk", "00000007");
	cr_assert_eq(first_byte("child.vmdk", NULL), 'p');
	make_named_child("plain.vmdk", "00000008");
	REFUSED("child.vmdk", NULL, -EUCLEAN, "CID is 00000007, expected 00000008");
	make_base("base.vmdk", 'B', UUID("image", "1"));
	make_named_child("plain.vmdk", NULL);
	cr_assert_eq(first_byte("child.vmdk", NULL), 'B');
}

/* ---- Several names ---- */

Test(parent, names_in_order)
{
	char *found;

	KIN("first", 1, "", "", '1');
	KIN("second", 1, "", "", '2');
	KIN("child", 5, "1", "C:\\base\0../out\0second\0first\0", 0);
	cr_assert_eq(first_byte("child", NULL), '2');
	found = report("child", 0, "full-backing-filename");
	cr_assert_str_eq(found, "second");
	free(found);
	KIN("child", 5, "1", "first\0second\0", 0);
	cr_assert_eq(first_byte("child", NULL), '1');
	/* one of another identity is passed over, and two may be allowed */
	KIN("first", 3, "", "", '1');
	cr_assert_eq(first_byte("child", NULL), '2');
	KIN("child", 5, "13", "first\0second\0", 0);
	cr_assert_eq(first_byte("child", NULL), '1');
	KIN("child", 5, "31", "second\0first\0", 0);
	cr_assert_eq(first_byte("child", NULL), '2');
	/* no names are right: whoever has the identity */
	KIN("child", 5, "3", "second\0nothing\0", 0);
	cr_assert_eq(first_byte("child", NULL), '1');
	KIN("child", 5, "78", "second\0nothing\0C:\\base\0", 0);
	REFUSED("child", NULL, -ENOENT, "'second': its UUID is "
					"00000000-0000-0000-0000-000000000001",
		"'nothing': Could not open 'nothing'", "'C:\\base'", "path of Windows",
		"no image of UUID 00000000-0000-0000-0000-000000000007 or "
		"00000000-0000-0000-0000-000000000008 among the 3 files");
	/* without an identity the first that is there */
	KIN("child", 5, "", "nothing\0second\0first\0", 0);
	cr_assert_eq(first_byte("child", NULL), '2');
	KIN("child", 5, "", "nothing\0/etc/passwd\0", 0);
	REFUSED("child", NULL, -ENOENT, "'nothing'", "'/etc/passwd'", "outside of the image's folder");
}

/* VirtualBox makes children on disks of other formats. */
Test(parent, of_another_format)
{
	static const char id[] = "\0\0\0\0\0\0\0\x40\x80\0\0\0\0\0\0\1";
	int fd;

	KIN("base.kin", 1, "", "", 'k');
	fd = open("base.kin", O_WRONLY | O_CLOEXEC);
	cr_assert_eq(pwrite(fd, id, 16, 4), 16);
	close(fd);
	make_child("child.vmdk", UUID("parent", "1"));
	cr_assert_eq(first_byte("child.vmdk", NULL), 'k');
}

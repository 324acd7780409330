/*
 * Images that are folders: which file is opened, what it may name, and what is said of a folder that no driver knows.
 */
#include "tests/image/kin.h"

TestSuite(folder, .init = folder_make, .fini = folder_remove, .timeout = 30);

static char first_byte(const char *name)
{
	struct img *img = must_open(name, NULL, 0);
	char byte = 0;

	cr_assert_eq(img_read(img, 0, &byte, 1, NULL), 0);
	must_close(img);
	return byte;
}

Test(folder, main_file)
{
	const char *format = NULL;
	struct img *img;

	run("mkdir disk.hdd");
	KIN("disk.hdd/main.kin", 1, "", "", 'm');
	cr_assert_eq(first_byte("disk.hdd"), 'm');
	cr_assert_eq(first_byte("disk.hdd/"), 'm');
	cr_assert_eq(first_byte("./disk.hdd"), 'm');
	cr_assert_eq(first_byte("json:{\"driver\":\"kin\",\"file\":{\"filename\":\"disk.hdd\"}}"), 'm');
	run("ln -s disk.hdd link");
	cr_assert_eq(first_byte("link"), 'm');
	run("cd disk.hdd && true");
	cr_assert_eq(img_probe("disk.hdd", &format, NULL), 0);
	cr_assert_str_eq(format, "kin");
	img = must_open("disk.hdd", "kin", 0);
	cr_assert_str_eq(img_name(img), "disk.hdd/main.kin");
	must_close(img);
	cr_assert_eq(chdir("disk.hdd"), 0);
	cr_assert_eq(first_byte("."), 'm');
	cr_assert_eq(chdir(".."), 0);
}

/* A format that knows no folders does not take the file in one for its image. */
Test(folder, of_another_format)
{
	const char *sentence;

	run("mkdir disk.hdd");
	KIN("disk.hdd/main.kin", 1, "", "", 'm');
	cr_assert_eq(must_fail("disk.hdd", &(struct img_open_options){ .format = "raw" }, &sentence), -EISDIR);
	cr_assert(strstr(sentence, "Is a directory"), "%s", sentence);
	cr_assert_eq(must_fail("json:{\"driver\":\"raw\",\"file\":{\"filename\":\"disk.hdd\"}}", NULL,
			       NULL),
		     -EISDIR);
}

/* What it names lies in the folder. */
Test(folder, names_inside)
{
	const char *sentence;

	run("mkdir disk.hdd");
	KIN("disk.hdd/base", 1, "", "", 'i');
	KIN("outside", 2, "", "", 'o');
	KIN("disk.hdd/main.kin", 3, "", "base\0", 0);
	cr_assert_eq(first_byte("disk.hdd"), 'i');
	KIN("disk.hdd/main.kin", 3, "1", "", 0);
	cr_assert_eq(first_byte("disk.hdd"), 'i');
	KIN("disk.hdd/main.kin", 3, "", "../outside\0", 0);
	cr_assert_eq(must_fail("disk.hdd", NULL, &sentence), -EPERM);
	cr_assert(strstr(sentence, "outside of the image's folder"), "%s", sentence);
	/* nor is its main file a way out */
	run("rm disk.hdd/main.kin; ln -s ../outside disk.hdd/main.kin");
	cr_assert_eq(must_fail("disk.hdd", NULL, &sentence), -EPERM, "%s", sentence);
	cr_assert(strstr(sentence, "main.kin"), "%s", sentence);
	run("rm disk.hdd/main.kin; mkfifo disk.hdd/main.kin");
	cr_assert_eq(must_fail("disk.hdd", NULL, &sentence), -EPERM, "%s", sentence);
}

Test(folder, given_as_a_backing_file)
{
	static const char text[] = "driver=kin,file.filename=over,backing.file.filename=disk.hdd";
	struct img_node *node;
	struct img *img;
	char byte = 0;

	run("mkdir disk.hdd");
	KIN("disk.hdd/main.kin", 1, "", "", 'm');
	KIN("over", 2, "", "gone\0", 0);
	cr_assert_eq(img_node_parse_options(text, &node, NULL), 0);
	cr_assert_eq(img_open_node(node, NULL, &img, NULL), 0);
	cr_assert_eq(img_read(img, 0, &byte, 1, NULL), 0);
	cr_assert_eq(byte, 'm');
	must_close(img);
	img_node_free(node);
	/* an image names files, no folders */
	KIN("over", 2, "", "disk.hdd\0", 0);
	cr_assert_eq(must_fail("over", NULL, NULL), -EPERM);
}

Test(folder, of_nobody)
{
	const char *sentence;

	run("mkdir disk.hdd; echo text > disk.hdd/other");
	cr_assert_eq(must_fail("disk.hdd", NULL, &sentence), -EISDIR);
	cr_assert(strstr(sentence, "Could not open 'disk.hdd': Is a directory"), "%s", sentence);
	cr_assert(strstr(sentence, "main.kin (kin)"), "%s", sentence);
	cr_assert_eq(img_probe("disk.hdd", NULL, NULL), -EISDIR);
	run("echo text > disk.hdd/main.kin; truncate -s 1k disk.hdd/main.kin");
	struct img_open_options o = { .format = "kin" };

	cr_assert_eq(must_fail("disk.hdd", &o, NULL), -EMEDIUMTYPE);
}

/* ---- States of one file, each the parent of the next ---- */

static size_t depth(const char *name, const char *view)
{
	char text[100];
	struct img_node *node;
	struct img *img;
	size_t n = 0;
	char byte = 0;

	snprintf(text, sizeof(text), "driver=kin,file.filename=%s%s%s", name, view ? ",snapshot.id=" : "",
		 view ? view : "");
	cr_assert_eq(img_node_parse_options(text, &node, NULL), 0);
	cr_assert_eq(img_open_node(node, NULL, &img, NULL), 0);
	cr_assert_eq(img_read(img, 0, &byte, 1, NULL), 0);
	cr_assert_eq(byte, 'm');
	for (const struct img *i = img; i; i = img_backing(i))
		n++;
	must_close(img);
	img_node_free(node);
	return n;
}

Test(folder, states)
{
	struct img_open_options o = { .format = "kin" };
	const char *sentence;

	run("mkdir disk.hdd");
	KIN("disk.hdd/main.kin", 1, "", "@cba", 'm');
	cr_assert_eq(depth("disk.hdd", NULL), 4);
	cr_assert_eq(depth("disk.hdd/main.kin", "c"), 3);
	cr_assert_eq(depth("disk.hdd", "a"), 1);
	/* also under an image that names it */
	KIN("over", 2, "", "disk.hdd/main.kin\0", 0);
	cr_assert_eq(depth("over", NULL), 5);
	/* one that leads back to itself ends */
	KIN("disk.hdd/main.kin", 1, "", "@cbc", 'm');
	cr_assert_eq(must_fail("disk.hdd", &o, &sentence), -ELOOP);
	cr_assert(strstr(sentence, "already part of the chain"), "%s", sentence);
	o.flags = IMG_OPEN_NO_BACKING;
	must_close(must_open("disk.hdd", "kin", o.flags));
}

/*
 * Zeroing and discarding a part of a cluster: in the room that it has, where that is this image's
 * alone; never the rest of the cluster, and never anything that a backing image would show.
 */
#include "tests/image/folder.h"

TestSuite(part, .init = folder_make, .fini = folder_remove, .timeout = 60);

enum {
	MIB = 1 << 20,
	CLUSTER = 2 * MIB,
};

static struct img *make(const char *name, const char *options, const char *backing)
{
	const char *list[] = { options, NULL };
	struct img_create_options o = { .format = "qcow2",
					.size = 4 * CLUSTER,
					.have_size = true,
					.options = list,
					.backing_name = backing,
					.backing_format = backing ? "qcow2" : NULL };

	cr_assert_eq(img_create(name, &o, NULL), 0);
	return must_open(name, "qcow2", IMG_OPEN_WRITE);
}

static void fill(struct img *img, int byte, uint64_t off, size_t len)
{
	uint8_t *buf = malloc(len);

	memset(buf, byte, len);
	cr_assert_eq(img_write(img, off, buf, len, NULL), 0);
	free(buf);
}

/* Do all of [off, off + len) read as byte? */
static bool reads_as(struct img *img, int byte, uint64_t off, size_t len)
{
	uint8_t *buf = malloc(len);
	bool same = true;

	cr_assert_eq(img_read(img, off, buf, len, NULL), 0);
	for (size_t i = 0; i < len; i++)
		same &= buf[i] == (uint8_t)byte;
	free(buf);
	return same;
}

static int64_t occupied(const char *name)
{
	struct stat st;

	cr_assert_eq(stat(name, &st), 0);
	return (int64_t)st.st_blocks * 512;
}

static void close_checked(struct img *img)
{
	struct img_check_result r;

	cr_assert_eq(img_check(img, 0, NULL, NULL, &r, NULL), 0);
	cr_assert_eq(r.corruptions + r.leaks, 0);
	cr_assert_eq(img_close(img, NULL), 0);
}

Test(part, of_a_cluster_is_given_back)
{
	struct img *img = make("a.qcow2", "cluster_size=2M", NULL);
	int64_t before;

	fill(img, 1, 0, CLUSTER);
	cr_assert_eq(img_flush(img, NULL), 0);
	before = occupied("a.qcow2");
	cr_assert_eq(img_discard(img, MIB / 2, MIB, NULL), 0);
	cr_assert_leq(occupied("a.qcow2"), before - MIB);
	cr_assert_eq(img_zero(img, 0, 512, NULL), 0);
	cr_assert_eq(img_zero(img, CLUSTER - 700, 700, NULL), 0);
	cr_assert(reads_as(img, 0, 0, 512));
	cr_assert(reads_as(img, 1, 512, MIB / 2 - 512));
	cr_assert(reads_as(img, 0, MIB / 2, MIB));
	cr_assert(reads_as(img, 1, MIB / 2 + MIB, MIB / 2 - 700));
	cr_assert(reads_as(img, 0, CLUSTER - 700, 700));
	close_checked(img);
}

static void over_a_base(const char *options)
{
	struct img *base = make("base.qcow2", "cluster_size=2M", NULL), *img;

	fill(base, 2, 0, 4 * CLUSTER);
	cr_assert_eq(img_close(base, NULL), 0);
	img = make("top.qcow2", options, "base.qcow2");
	fill(img, 3, CLUSTER, CLUSTER);
	cr_assert_eq(img_discard(img, 4096, MIB, NULL), 0);
	cr_assert(reads_as(img, 2, 0, CLUSTER), "what is not here cannot be given back");
	cr_assert_eq(img_discard(img, CLUSTER + 4096, MIB, NULL), 0);
	cr_assert(reads_as(img, 3, CLUSTER, 4096));
	cr_assert(reads_as(img, 0, CLUSTER + 4096, MIB));
	cr_assert(reads_as(img, 3, CLUSTER + 4096 + MIB, MIB - 4096));
	cr_assert_eq(img_zero(img, 2 * CLUSTER + 4096, MIB, NULL), 0);
	cr_assert(reads_as(img, 2, 2 * CLUSTER, 4096));
	cr_assert(reads_as(img, 0, 2 * CLUSTER + 4096, MIB));
	cr_assert(reads_as(img, 2, 2 * CLUSTER + 4096 + MIB, MIB - 4096));
	/* the end of one cluster, all of the next, the begin of a third */
	cr_assert_eq(img_zero(img, CLUSTER + 3 * MIB / 2, MIB / 2 + CLUSTER + 4096, NULL), 0);
	cr_assert(reads_as(img, 3, CLUSTER + MIB + 4096, MIB / 2 - 4096));
	cr_assert(reads_as(img, 0, CLUSTER + 3 * MIB / 2, MIB / 2 + CLUSTER + 4096));
	cr_assert(reads_as(img, 2, 3 * CLUSTER + 4096, CLUSTER - 4096));
	close_checked(img);
}

Test(part, of_a_cluster_over_a_base)
{
	over_a_base("cluster_size=2M");
}

Test(part, of_a_cluster_over_a_base_with_subclusters)
{
	over_a_base("cluster_size=2M,extended_l2=on");
}

Test(part, of_a_cluster_over_a_base_in_version_2)
{
	over_a_base("cluster_size=2M,compat=0.10");
}

/*
 * streamOptimized disks from a pipe: as each writer lays them out, in any order of grains; and what
 * is cut short, contradicts itself or leads elsewhere is refused.
 */
#include <fcntl.h>
#include <pthread.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "tests/formats/vmdk/bench.h"

enum {
	GRAIN = VMDK_GRAIN_BYTES, /* unless a plan says otherwise */
	GRAIN_MAX = 2 << 20,
	FRONT_SECTORS = 64,
	TABLE_BYTES = VMDK_TABLE_ENTRIES * 4,
};

enum tables {
	NO_TABLES,
	TABLES_IN_FRONT,
	TABLES_BEHIND,
	TABLES_OF_XO, /* Xen Orchestra: behind, twice, and markers that tell no lengths */
};

/* A stream to be made: grains[] in their order in it, up to one of -1. */
struct plan {
	uint64_t size, grain;
	int grains[16];
	enum tables tables;
	bool no_end, no_footer, cut_last;
	unsigned progress; /* markers of it behind each grain, as vSphere writes */
	size_t padding;	   /* zeroes before the tables */
	const char *more;  /* lines in the descriptor */
};

struct made {
	uint8_t *bytes;
	size_t len;
	size_t grain_at[16]; /* marker of each, in order */
};

static void append(struct made *m, const void *bytes, size_t len)
{
	m->bytes = realloc(m->bytes, m->len + len + VMDK_SECTOR);
	cr_assert(m->bytes);
	memcpy(m->bytes + m->len, bytes, len);
	m->len += len;
}

static void pad(struct made *m)
{
	uint8_t zeroes[VMDK_SECTOR] = { 0 };

	append(m, zeroes, round_up_u64(m->len, VMDK_SECTOR) - m->len);
}

static void append_marker(struct made *m, uint32_t type, uint64_t sectors)
{
	uint8_t marker[VMDK_SECTOR];

	vmdk_encode_marker(type, sectors, marker);
	append(m, marker, sizeof(marker));
}

static size_t grain_of(const struct plan *p)
{
	return p->grain ? p->grain : GRAIN;
}

static void fill(int g, size_t bytes, uint8_t *grain)
{
	for (size_t i = 0; i < bytes; i++)
		grain[i] = (uint8_t)(i % 64 < 32 ? i % 8 + (size_t)g
						 : (i + 77) * (size_t)(g + 1) * 2654435761u >> 24);
}

static void append_grain(struct made *m, const struct plan *p, int g)
{
	static uint8_t plain[GRAIN_MAX], packed[2 * GRAIN_MAX];
	uint8_t marker[VMDK_GRAIN_MARKER_BYTES];
	size_t grain = grain_of(p), len;
	uint64_t off = (uint64_t)g * grain;
	size_t bytes = p->cut_last ? (size_t)min_u64(grain, p->size - off) : grain;

	fill(g, grain, plain);
	cr_assert_eq(img_codec_zlib.encode(plain, bytes, 0, packed, sizeof(packed), &len, NULL), 0);
	le64_store(marker, off / VMDK_SECTOR);
	le32_store(marker + 8, (uint32_t)len);
	append(m, marker, sizeof(marker));
	append(m, packed, len);
	pad(m);
}

static struct vmdk_header header_of(const struct plan *p)
{
	return (struct vmdk_header){
		.capacity = round_up_u64(p->size, grain_of(p)) / VMDK_SECTOR,
		.descriptor = 1,
		.descriptor_sectors = 4,
		.directory = p->tables == TABLES_IN_FRONT ? 10 : VMDK_DIRECTORY_AT_END,
		.overhead = FRONT_SECTORS,
		.stream = true,
	};
}

static void append_progress(struct made *m, int g)
{
	uint8_t marker[VMDK_SECTOR] = { 0 };

	vmdk_encode_marker(VMDK_MARKER_PROGRESS, (uint64_t)g % 2, marker);
	le64_store(marker + 16, (uint64_t)g);
	append(m, marker, sizeof(marker));
	if (g % 2)
		append(m, marker, sizeof(marker)); /* what follows it is anything */
}

static void append_xo_tables(struct made *m, const uint8_t *table, uint64_t *directory)
{
	uint8_t sector[VMDK_SECTOR] = { 0 };

	for (int i = 0; i < 2; i++) {
		append_marker(m, VMDK_MARKER_TABLE, 0);
		le32_store(sector, (uint32_t)(m->len / VMDK_SECTOR));
		append(m, table, TABLE_BYTES);
		append_marker(m, VMDK_MARKER_DIRECTORY, 0);
		*directory = m->len / VMDK_SECTOR;
		append(m, sector, sizeof(sector));
	}
}

static void append_footer(struct made *m, const struct plan *p, const struct vmdk_header *h,
			  uint64_t sectors)
{
	uint8_t footer[VMDK_SECTOR];

	append_marker(m, VMDK_MARKER_FOOTER, sectors);
	vmdk_encode_header(h, footer);
	le64_store(footer + 20, grain_of(p) / VMDK_SECTOR);
	append(m, footer, sizeof(footer));
}

/* One table is enough for all of these disks. */
static void make_stream(struct made *m, const struct plan *p)
{
	struct vmdk_header h = header_of(p);
	uint8_t front[FRONT_SECTORS * VMDK_SECTOR] = { 0 }, table[TABLE_BYTES] = { 0 };
	uint8_t directory[VMDK_SECTOR] = { 0 }, zeroes[VMDK_SECTOR] = { 0 };

	*m = (struct made){ 0 };
	vmdk_encode_header(&h, front);
	le64_store(front + 20, grain_of(p) / VMDK_SECTOR);
	snprintf((char *)front + VMDK_SECTOR, 2000,
		 "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n"
		 "createType=\"streamOptimized\"\n%s\nRW %" PRIu64 " SPARSE \"x.vmdk\"\n",
		 p->more ? p->more : "", p->size / VMDK_SECTOR);
	append(m, front, sizeof(front));
	for (size_t i = 0; p->grains[i] >= 0; i++) {
		m->grain_at[i] = m->len;
		le32_store(table + p->grains[i] * 4, (uint32_t)(m->len / VMDK_SECTOR));
		append_grain(m, p, p->grains[i]);
		for (unsigned k = 0; k < p->progress; k++)
			append_progress(m, p->grains[i]);
	}
	for (size_t i = 0; i < p->padding; i += sizeof(zeroes))
		append(m, zeroes, sizeof(zeroes));
	if (p->tables == TABLES_IN_FRONT) {
		le32_store(m->bytes + 10 * VMDK_SECTOR, 12);
		memcpy(m->bytes + 12 * VMDK_SECTOR, table, sizeof(table));
	} else if (p->tables == TABLES_BEHIND) {
		append_marker(m, VMDK_MARKER_TABLE, VMDK_TABLE_SECTORS);
		le32_store(directory, (uint32_t)(m->len / VMDK_SECTOR));
		append(m, table, sizeof(table));
		append_marker(m, VMDK_MARKER_DIRECTORY, 1);
		h.directory = m->len / VMDK_SECTOR;
		append(m, directory, sizeof(directory));
		if (!p->no_footer)
			append_footer(m, p, &h, 1);
	} else if (p->tables == TABLES_OF_XO) {
		append_xo_tables(m, table, &h.directory);
		append_footer(m, p, &h, 0);
	}
	if (!p->no_end)
		append_marker(m, VMDK_MARKER_END, 0);
}

/* ---- Through a pipe, in small pieces ---- */

struct feed {
	const uint8_t *bytes;
	size_t len;
	int fd;
};

static void *feed(void *arg)
{
	struct feed *f = arg;

	for (size_t at = 0; at < f->len;) {
		ssize_t n = write(f->fd, f->bytes + at, min_size(1000, f->len - at));

		if (n < 0)
			break;
		at += (size_t)n;
	}
	close(f->fd);
	return NULL;
}

/* Copy what comes into a raw image; malloc'd bytes, or NULL and the error. */
static uint8_t *copy(const uint8_t *bytes, size_t len, const char *format,
		     const struct img_copy_options *how, uint64_t *size, struct img_error *err)
{
	struct img_create_options create = { .format = "raw", .have_size = true };
	uint8_t *got = NULL;
	struct img_source_image *in;
	struct img *img = NULL;
	struct bench b;
	struct feed f = { bytes, len, -1 };
	pthread_t thread;
	int fds[2], rc;

	start(&b);
	signal(SIGPIPE, SIG_IGN);
	cr_assert_eq(pipe(fds), 0);
	f.fd = fds[1];
	cr_assert_eq(pthread_create(&thread, NULL, feed, &f), 0);
	rc = img_source_open(fds[0], "the pipe", format, NULL, &in, err);
	if (!rc) {
		img_source_size(in, &create.size);
		cr_assert_eq(img_create_begin(b.image, &create, &img, err), 0);
		rc = img_copy_source(in, img, how, err);
		img_source_close(in);
	}
	if (!rc) {
		*size = img_size(img);
		got = malloc(*size + 1);
		cr_assert_eq(img_read(img, 0, got, *size, err), 0);
	}
	close(fds[0]);
	pthread_join(thread, NULL);
	img_close(img, NULL);
	finish(&b);
	return got;
}

static void reads_as_planned(const struct plan *p, unsigned parallel)
{
	struct img_copy_options how = { .parallel = parallel, .target_is_zero = true };
	struct img_error *err = img_error_new();
	uint8_t *model = calloc(1, round_up_u64(p->size, grain_of(p)) + 1), *got;
	uint64_t size = 0;
	struct made m;

	make_stream(&m, p);
	for (size_t i = 0; p->grains[i] >= 0; i++)
		fill(p->grains[i], grain_of(p), model + (size_t)p->grains[i] * grain_of(p));
	got = copy(m.bytes, m.len, NULL, &how, &size, err);
	cr_assert(got, "%s", img_error_text(err));
	cr_assert_eq(size, p->size);
	cr_assert(!memcmp(got, model, size));
	free(got);
	free(model);
	free(m.bytes);
	img_error_free(err);
}

static void refused(const uint8_t *bytes, size_t len, int rc, const char *words)
{
	struct img_copy_options how = { .target_is_zero = true };
	struct img_error *err = img_error_new();
	uint64_t size;
	uint8_t *got = copy(bytes, len, "vmdk", &how, &size, err);

	cr_assert(!got, "not refused: %s", words);
	cr_assert_eq(img_error_code(err), rc, "%d: %s", img_error_code(err), img_error_text(err));
	cr_assert(strstr(img_error_text(err), words), "%s: %s", words, img_error_text(err));
	img_error_free(err);
}

static const uint64_t odd_size = 20 * (uint64_t)GRAIN + 1024;

Test(vmdk_source, every_layout)
{
	static const enum tables layouts[] = { NO_TABLES, TABLES_IN_FRONT, TABLES_BEHIND };

	for (size_t i = 0; i < IMG_ARRAY_LEN(layouts); i++) {
		for (unsigned n = 1; n < 9; n += 7) {
			struct plan p = {
				.size = odd_size,
				.grains = { 0, 1, 2, 5, 16, 17, 20, -1 },
				.tables = layouts[i],
				.cut_last = n == 1,
			};

			reads_as_planned(&p, n);
			reads_as_planned(&(struct plan){
						 .size = odd_size,
						 .grains = { -1 },
						 .tables = layouts[i],
					 },
					 n);
			/* In any order. */
			reads_as_planned(&(struct plan){
						 .size = odd_size,
						 .grains = { 20, 3, 17, 16, 0, 4, 18, 1, -1 },
						 .tables = layouts[i],
					 },
					 n);
		}
	}
	/* As open-vmdk and QEMU end them. */
	reads_as_planned(&(struct plan){
				 .size = odd_size,
				 .grains = { 3, 4, -1 },
				 .tables = TABLES_IN_FRONT,
				 .no_end = true,
			 },
			 1);
	reads_as_planned(&(struct plan){
				 .size = odd_size,
				 .grains = { 3, 4, -1 },
				 .tables = TABLES_BEHIND,
				 .no_end = true,
			 },
			 1);
}

Test(vmdk_source, other_grains)
{
	static const uint64_t grains[] = { 512, 4096, GRAIN_MAX };

	for (size_t i = 0; i < IMG_ARRAY_LEN(grains); i++) {
		struct plan p = {
			.size = 14 * grains[i] - (i ? 512 : 0),
			.grain = grains[i],
			.grains = { 0, 1, 5, 9, 8, 3, 13, -1 },
			.tables = TABLES_BEHIND,
		};

		reads_as_planned(&p, 0);
	}
}

/* Clusters that were compressed when only some of their grains had come. */
Test(vmdk_source, late_grains_of_compressed_clusters)
{
	const char *list[] = { "cluster_size=2M", NULL };
	struct plan p = {
		.size = 100 * GRAIN,
		.grains = { 40, 0, 99, 41, 33, 1, 31, 98, 39, -1 },
		.tables = TABLES_BEHIND,
	};
	struct img_create_options create = {
		.format = "qcow2",
		.have_size = true,
		.size = p.size,
		.options = list,
		.compress = true,
	};
	struct img_copy_options how = { .compress = true, .target_is_zero = true };
	uint8_t *model = calloc(1, p.size), *got = malloc(p.size);
	struct img_source_image *in;
	struct img *img;
	struct bench b;
	struct made m;
	FILE *f = tmpfile();

	make_stream(&m, &p);
	for (size_t i = 0; p.grains[i] >= 0; i++)
		fill(p.grains[i], GRAIN, model + (size_t)p.grains[i] * GRAIN);
	start(&b);
	cr_assert(f && fwrite(m.bytes, 1, m.len, f) == m.len && !fflush(f));
	rewind(f);
	cr_assert_eq(img_create_begin(b.image, &create, &img, NULL), 0);
	cr_assert_eq(img_source_open(fileno(f), "x", NULL, NULL, &in, NULL), 0);
	cr_assert_eq(img_copy_source(in, img, &how, NULL), 0);
	cr_assert_eq(img_read(img, 0, got, p.size, NULL), 0);
	cr_assert(!memcmp(got, model, p.size));
	img_source_close(in);
	img_close(img, NULL);
	fclose(f);
	free(m.bytes);
	free(model);
	free(got);
	finish(&b);
}

/* Into a stream grains must ascend; else there is no output. */
Test(vmdk_source, to_a_stream)
{
	static const uint64_t grains[] = { 4096, GRAIN, GRAIN_MAX };
	const char *list[] = { "subformat=streamOptimized", NULL };

	for (size_t i = 0; i < 2 * IMG_ARRAY_LEN(grains); i++) {
		bool ordered = i % 2;
		struct plan p = {
			.size = 500 * grains[i / 2],
			.grain = grains[i / 2],
			.grains = { 1, 2, 3, 499, -1 },
			.tables = TABLES_BEHIND,
		};
		struct img_create_options create = { .format = "vmdk", .have_size = true, .size = p.size, .options = list };
		struct img_error *err = img_error_new();
		uint8_t *got, *expected = malloc(grains[i / 2]);
		struct img_source_image *in;
		struct bench b;
		struct made m;
		FILE *f;
		int rc;

		if (!ordered) {
			p.grains[0] = 499;
			p.grains[3] = 1;
		}
		make_stream(&m, &p);
		start(&b);
		f = tmpfile();
		cr_assert(f && fwrite(m.bytes, 1, m.len, f) == m.len && !fflush(f));
		rewind(f);
		cr_assert_eq(img_source_open(fileno(f), "x", NULL, NULL, &in, err), 0);
		rc = img_copy_source_to_sink(in, b.image, -1, &create, NULL, err);
		/* Within a window any order will do. */
		cr_assert_eq(rc, ordered || p.size <= 1 << 20 ? 0 : -ESPIPE, "%s", img_error_text(err));
		cr_assert_eq(!access(b.image, F_OK), !rc);
		if (!rc) {
			got = read_all(b.image, p.size);
			for (int g = 0; g < 500; g++) {
				memset(expected, 0, p.grain);
				if ((g >= 1 && g <= 3) || g == 499)
					fill(g, p.grain, expected);
				cr_assert(!memcmp(got + (size_t)g * p.grain, expected, p.grain), "%d", g);
			}
			free(got);
		}
		img_source_close(in);
		free(expected);
		free(m.bytes);
		img_error_free(err);
		fclose(f);
		finish(&b);
	}
}

/* Over something that was there: zeroes where nothing comes. */
Test(vmdk_source, gaps_are_zeroes)
{
	struct plan p = { .size = odd_size, .grains = { 19, 2, -1 }, .tables = TABLES_BEHIND };
	struct img_create_options create = { .format = "raw", .have_size = true, .size = odd_size };
	uint8_t *model = calloc(1, odd_size + GRAIN), *got = malloc(odd_size);
	struct made m;

	make_stream(&m, &p);
	fill(2, GRAIN, model + 2 * GRAIN);
	fill(19, GRAIN, model + 19 * (size_t)GRAIN);
	for (int no_sparse = 0; no_sparse < 2; no_sparse++) {
		struct img_copy_options how = { .no_sparse = no_sparse };
		struct img_source_image *in;
		struct img *img;
		struct bench b;
		FILE *f;

		start(&b);
		f = tmpfile();
		cr_assert(f && fwrite(m.bytes, 1, m.len, f) == m.len && !fflush(f));
		rewind(f);
		cr_assert_eq(img_create_begin(b.image, &create, &img, NULL), 0);
		memset(got, 0x77, odd_size);
		cr_assert_eq(img_write(img, 0, got, odd_size, NULL), 0);
		cr_assert_eq(img_source_open(fileno(f), "x", "vmdk", NULL, &in, NULL), 0);
		cr_assert_eq(img_copy_source(in, img, &how, NULL), 0);
		cr_assert_eq(img_read(img, 0, got, odd_size, NULL), 0);
		cr_assert(!memcmp(got, model, odd_size));
		img_source_close(in);
		img_close(img, NULL);
		fclose(f);
		finish(&b);
	}
	free(got);
	free(model);
	free(m.bytes);
}

/* vSphere's markers of progress, Xen Orchestra's layout and its padding. */
Test(vmdk_source, other_writers)
{
	static const enum tables layouts[] = { TABLES_IN_FRONT, TABLES_BEHIND, TABLES_OF_XO };

	for (size_t i = 0; i < IMG_ARRAY_LEN(layouts); i++)
		for (unsigned progress = 0; progress < 5; progress += 2) {
			struct plan p = {
				.size = odd_size,
				.grains = { 0, 1, 2, 7, 20, -1 },
				.tables = layouts[i],
				.progress = progress,
			};

			reads_as_planned(&p, 2);
			if (layouts[i] == TABLES_IN_FRONT)
				continue;
			p.padding = 512;
			reads_as_planned(&p, 2);
			p.padding = 1 << 20;
			reads_as_planned(&p, 2);
		}
}

/* Behind the end of a stream that is known to be complete there may be anything. */
Test(vmdk_source, something_behind)
{
	static const enum tables layouts[] = { TABLES_IN_FRONT, TABLES_BEHIND, TABLES_OF_XO };

	for (size_t i = 0; i < IMG_ARRAY_LEN(layouts); i++) {
		struct plan p = {
			.size = odd_size,
			.grains = { 0, 1, -1 },
			.tables = layouts[i],
		};
		struct img_copy_options how = { .target_is_zero = true };
		struct img_error *err = img_error_new();
		uint8_t *got, plain[GRAIN];
		struct made m, other;
		uint64_t size;

		make_stream(&m, &p);
		make_stream(&other, &p);
		append(&m, other.bytes, other.len - 7);
		got = copy(m.bytes, m.len, NULL, &how, &size, err);
		cr_assert(got, "%zu: %s", i, img_error_text(err));
		fill(1, GRAIN, plain);
		cr_assert_eq(size, p.size);
		cr_assert(!memcmp(got + GRAIN, plain, GRAIN));
		free(got);
		free(m.bytes);
		free(other.bytes);
		img_error_free(err);
	}
}

Test(vmdk_source, cut_anywhere)
{
	static const enum tables layouts[] = { TABLES_IN_FRONT, TABLES_BEHIND, TABLES_OF_XO };

	for (size_t i = 0; i < IMG_ARRAY_LEN(layouts); i++) {
		struct plan p = {
			.size = odd_size,
			.grains = { 0, 1, 7, -1 },
			.tables = layouts[i],
		};
		struct made m;
		size_t enough;

		make_stream(&m, &p);
		/* Without the end marker nothing is missing that matters. */
		enough = m.len - VMDK_SECTOR;
		for (size_t len = 0; len < enough; len += 7 * VMDK_SECTOR)
			refused(m.bytes, len, len < 4 ? -EMEDIUMTYPE : -EUCLEAN, "");
		for (size_t len = enough - 1; len < m.len; len += 100)
			if (len != enough)
				refused(m.bytes, len, -EUCLEAN, "truncated");
		free(m.bytes);
	}
}

/* One change to a stream that is sound. */
static void refused_with(const struct plan *p, size_t grain, int at, uint32_t value, int rc,
			 const char *words)
{
	struct made m;

	make_stream(&m, p);
	le32_store(m.bytes + m.grain_at[grain] + at, value);
	refused(m.bytes, m.len, rc, words);
	free(m.bytes);
}

Test(vmdk_source, damaged)
{
	struct plan front = {
		.size = odd_size,
		.grains = { 0, 1, 7, -1 },
		.tables = TABLES_IN_FRONT,
	};
	struct plan behind = {
		.size = odd_size,
		.grains = { 0, 1, 7, -1 },
		.tables = TABLES_BEHIND,
	};
	struct plan none = { .size = odd_size, .grains = { 0, 1, 7, -1 }, .tables = NO_TABLES };
	struct plan xo = { .size = odd_size, .grains = { 0, 1, 7, -1 }, .tables = TABLES_OF_XO };
	struct made m;

	refused_with(&none, 1, 0, 127, -EUCLEAN, "sector is 127, expected multiples of 128");
	refused_with(&none, 1, 0, 21 * 128, -EUCLEAN, "sector is 2688");
	refused_with(&none, 1, 4, 1, -EUCLEAN, "sector is 4294967424");
	refused_with(&none, 1, 0, 0, -EUCLEAN, "twice");
	refused_with(&none, 1, 8, 2 * GRAIN, -EUCLEAN, "compressed size is 131072 bytes");
	refused_with(&none, 1, 12, 0, -EUCLEAN, "the data of guest offset 65536");
	refused_with(&front, 1, 0, 2 * 128, -EUCLEAN, "which are not these");
	make_stream(&m, &behind);
	le32_store(m.bytes + m.len - 5 * 512 - TABLE_BYTES, 65); /* in the table */
	refused(m.bytes, m.len, -EUCLEAN, "which are not these");
	free(m.bytes);
	make_stream(&m, &behind);
	m.bytes[m.len - 2 * 512 + 20]++; /* the footer's grain size */
	refused(m.bytes, m.len, -EUCLEAN, "footer");
	free(m.bytes);
	make_stream(&m, &xo);
	le32_store(m.bytes + m.len - 6 * 512 - TABLE_BYTES, 65); /* in the second tables */
	refused(m.bytes, m.len, -EUCLEAN, "save it to a file first");
	free(m.bytes);
	make_stream(&m, &none);
	m.bytes[m.len - 512 + 12] = 9; /* the end marker's type */
	refused(m.bytes, m.len, -EUCLEAN, "type is 9");
	free(m.bytes);
	make_stream(&m, &none);
	append(&m, "trailer", 7);
	refused(m.bytes, m.len, -EUCLEAN, "behind the end marker");
	free(m.bytes);
}

Test(vmdk_source, not_alone)
{
	static const struct {
		const char *more, *words;
	} cases[] = {
		{ "ddb.uuid.parent=\"11111111-0000-0000-0000-000000000000\"", "child" },
		{ "RW 100 FLAT \"other\" 0", "another extent" },
		{ "encryption.keySafe=\"x\"", "encrypted" },
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(cases); i++) {
		struct plan p = {
			.size = odd_size,
			.grains = { 0, -1 },
			.tables = NO_TABLES,
			.more = cases[i].more,
		};
		struct made m;

		make_stream(&m, &p);
		refused(m.bytes, m.len, -ENOTSUP, cases[i].words);
		free(m.bytes);
	}
}

Test(vmdk_source, other_kinds)
{
	static const char *const kinds[] = { "subformat=monolithicSparse", "subformat=monolithicFlat" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(kinds); i++) {
		struct bench b;
		uint64_t size;
		uint8_t *bytes;

		start(&b);
		must_make(b.image, 1 << 20, kinds[i], NULL);
		size = size_of(b.image);
		bytes = malloc(size);
		read_at(b.image, 0, bytes, size);
		refused(bytes, size, -ENOTSUP, "pipe");
		free(bytes);
		finish(&b);
	}
}

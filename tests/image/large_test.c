/*
 * Requests of more than 1 GiB, more than a system call takes, and places above 2 TiB, through files, a
 * disk of zeroes and NBD: against a model of a few marks on a disk of zeroes.
 */
#include "folder.h"

#include "tests/storage/nbd_server.h"

enum { MARK_BYTES = 65536,
       BUFFER_BYTES = 1 << 20,
       MARKS = 6 };
#define GIB (UINT64_C(1) << 30)
#define TIB (UINT64_C(1) << 40)
#define SIZE (3 * TIB)

static void init(void)
{
	folder_make();
	snprintf(server_path, sizeof(server_path), "%s/s", folder);
	signal(SIGPIPE, SIG_IGN);
}

TestSuite(large, .init = init, .fini = folder_remove, .timeout = 120);

static const uint64_t marks[MARKS] = { 0,
				       GIB - 512,
				       2 * TIB - 32768, /* across 2 TiB */
				       2 * TIB + GIB,
				       2 * TIB + 2 * GIB - 4096,
				       SIZE - MARK_BYTES };

/* A long list of buffers, all of them the same one but the first and the last, which are looked at. */
struct list {
	struct iovec iov[2048];
	int count;
	uint8_t *first, *last, *between;
};

static struct list list_of(uint64_t len)
{
	struct list l = { .first = calloc(1, BUFFER_BYTES),
			  .last = calloc(1, BUFFER_BYTES),
			  .between = calloc(1, BUFFER_BYTES) };

	for (uint64_t at = 0; at < len; at += BUFFER_BYTES) {
		bool end = at + BUFFER_BYTES >= len;

		l.iov[l.count++] = (struct iovec){ !at ? l.first : end ? l.last
								       : l.between,
						   end ? (size_t)(len - at) : BUFFER_BYTES };
	}
	return l;
}

static void list_free(struct list *l)
{
	free(l->first);
	free(l->last);
	free(l->between);
}

static void done(void *user, int rc, const struct img_error *err)
{
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	*(bool *)user = true;
}

static void wait_for(struct img_queue *q, const bool *what)
{
	while (!*what)
		img_queue_run(q, true);
}

/* Read len bytes; what is between the first and the last MiB is not looked at. */
static void read_long(struct img *img, struct img_queue *q, uint64_t off, uint64_t len,
		      uint8_t *first, uint8_t *last)
{
	struct list l = list_of(len);
	bool is_done = false;

	memset(l.first, 0xaa, BUFFER_BYTES);
	memset(l.last, 0xaa, BUFFER_BYTES);
	cr_assert_eq(img_submit_readv(q, img, off, l.iov, l.count, 0, done, &is_done, NULL), 0);
	wait_for(q, &is_done);
	memcpy(first, l.first, BUFFER_BYTES);
	memcpy(last, l.last, BUFFER_BYTES);
	list_free(&l);
}

static bool is_all(const uint8_t *bytes, uint8_t what, size_t len)
{
	return bytes[0] == what && !memcmp(bytes, bytes + 1, len - 1);
}

static void mark_is(struct img *img, unsigned i, uint64_t from, uint64_t to, uint8_t what)
{
	uint8_t bytes[MARK_BYTES];

	cr_assert_eq(img_read(img, marks[i] + from, bytes, to - from, NULL), 0);
	cr_assert(is_all(bytes, what, to - from), "mark %u of %s", i, img_name(img));
}

/* keeps: what is written is there afterwards. */
static void try_large(struct img *img, bool keeps)
{
	uint8_t bytes[MARK_BYTES], *first = malloc(BUFFER_BYTES), *last = malloc(BUFFER_BYTES);
	uint64_t len = GIB + 300 * (uint64_t)BUFFER_BYTES + 512;
	bool zeroed = false, discarded = false;
	struct img_queue *q;

	cr_assert_eq(img_size(img), SIZE);
	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	for (unsigned i = 0; i < MARKS; i++) {
		memset(bytes, (int)i + 1, sizeof(bytes));
		cr_assert_eq(img_write(img, marks[i], bytes, sizeof(bytes), NULL), 0);
	}
	for (unsigned i = 0; i < MARKS && keeps; i++)
		mark_is(img, i, 0, MARK_BYTES, (uint8_t)(i + 1));
	read_long(img, q, marks[2] + 32768, len, first, last);
	cr_assert(!keeps || is_all(first, 3, MARK_BYTES - 32768));
	cr_assert(is_all(first + MARK_BYTES - 32768, 0, BUFFER_BYTES - MARK_BYTES + 32768));
	/* Both end inside marks: what is beyond them stays. */
	cr_assert_eq(img_submit_zero(q, img, marks[2] + 1000, marks[3] + 500 - marks[2] - 1000,
				     IMG_SUBMIT_MAY_UNMAP, done, &zeroed, NULL),
		     0);
	wait_for(q, &zeroed);
	cr_assert_eq(img_submit_discard(q, img, 0, marks[1] + 4096, 0, done, &discarded, NULL), 0);
	wait_for(q, &discarded);
	if (keeps) {
		mark_is(img, 2, 0, 1000, 3);
		mark_is(img, 2, 1000, MARK_BYTES, 0);
		mark_is(img, 3, 0, 500, 0);
		mark_is(img, 3, 500, MARK_BYTES, 4);
		mark_is(img, 1, 4096, MARK_BYTES, 2);
		mark_is(img, 4, 0, MARK_BYTES, 5);
		mark_is(img, 5, 0, MARK_BYTES, 6);
	}
	cr_assert_eq(img_flush(img, NULL), 0);
	img_queue_free(q);
	free(first);
	free(last);
}

static void write_long(struct img *img)
{
	uint64_t len = GIB + 300 * (uint64_t)BUFFER_BYTES + 512;
	struct list l = list_of(len);
	struct img_queue *q;
	bool is_done = false;

	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	cr_assert_eq(img_submit_writev(q, img, 2 * TIB - GIB, l.iov, l.count, 0, done, &is_done, NULL), 0);
	wait_for(q, &is_done);
	img_queue_free(q);
	list_free(&l);
}

Test(large, files)
{
	static const char *const formats[] = { "raw", "qcow2" };

	for (size_t i = 0; i < COUNT(formats); i++) {
		struct img *img;

		make_image("large", formats[i], SIZE, NULL, NULL);
		img = must_open("large", formats[i], IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
		try_large(img, true);
		must_close(img);
	}
}

Test(large, a_file_that_takes_little)
{
	struct img *img;

	make_image("large", "qcow2", SIZE, NULL, NULL);
	img = must_open("json:{'driver':'qcow2','file':{'driver':'blkdebug','max-transfer':65536,"
			"'max-write-zero':1048576,'image':{'driver':'file','filename':'large'}}}",
			NULL, IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	try_large(img, true);
	must_close(img);
}

Test(large, zeroes)
{
	struct img *img = must_open("json:{'driver':'raw','file':{'driver':'null-co','size':'3T'}}", NULL,
				    IMG_OPEN_WRITE);

	try_large(img, false);
	write_long(img);
	must_close(img);
}

static void on_server(const char *arguments, bool keeps, bool writes)
{
	pid_t server = serve(arguments);
	char name[256];
	struct img *img;

	snprintf(name, sizeof(name), "json:{'driver':'raw','file':{'driver':'nbd','path':'%s'}}",
		 server_path);
	img = must_open(name, NULL, IMG_OPEN_WRITE | IMG_OPEN_UNMAP);
	try_large(img, keeps);
	if (writes)
		write_long(img);
	must_close(img);
	end(server);
}

Test(large, nbd)
{
	on_server("memory 3T", true, false);
	on_server("null 3T", false, true);
}

Test(large, nbd_of_4k_blocks)
{
	on_server("--filter=blocksize-policy memory 3T blocksize-minimum=4096 "
		  "blocksize-preferred=64k blocksize-maximum=1M blocksize-error-policy=error",
		  true, false);
}

/*
 * Images on NBD exports: what a slow server holds up, and what not. Skipped where nbdkit is not
 * installed.
 */
#include "folder.h"

#include "tests/storage/nbd_server.h"

static void init(void)
{
	folder_make();
	snprintf(server_path, sizeof(server_path), "%s/s", folder);
	signal(SIGPIPE, SIG_IGN);
}

TestSuite(nbd, .init = init, .fini = folder_remove, .timeout = 60);

static struct img *open_export(const char *more, unsigned flags)
{
	char name[256];

	snprintf(name, sizeof(name), "json:{'driver':'raw','file':{'driver':'nbd','path':'%s'%s}}",
		 server_path, more);
	return must_open(name, NULL, flags);
}

static void count(void *user, int rc, const struct img_error *err)
{
	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	++*(unsigned *)user;
}

static void count_map(void *user, int rc, const struct img_map_entry *e, size_t n,
		      const struct img_error *err)
{
	(void)rc;
	(void)e;
	(void)n;
	(void)err;
	++*(unsigned *)user;
}

/*
 * More questions for block status than there are threads for what waits, to a server that takes its
 * time; a file beside it, on the same queue and by blocking calls, is not held up.
 */
static void slow_block_status(const char *filter, const char *setting)
{
	enum { ASKED = 300 };
	char arguments[160];
	unsigned mapped = 0, done = 0;
	struct img *slow, *file;
	struct img_queue *q;
	uint8_t bytes[4096] = { 1 };
	struct iovec iov = { bytes, sizeof(bytes) };
	double begun;
	pid_t server;

	snprintf(arguments, sizeof(arguments), "--filter=delay %s memory 1G delay-extents=4 %s", filter,
		 setting);
	server = serve(arguments);
	make_image("a.qcow2", "qcow2", 1 << 20, NULL, NULL);
	slow = open_export(",'reconnect-delay':0", 0);
	file = must_open("a.qcow2", "qcow2", IMG_OPEN_WRITE);
	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	begun = seconds();
	for (unsigned i = 0; i < ASKED; i++)
		cr_assert_eq(img_submit_map(q, slow, i << 16, 1 << 16, IMG_MAP_DEEP, 1, count_map, &mapped,
					    NULL),
			     0);
	img_queue_run(q, false);
	cr_assert_eq(img_submit_writev(q, file, 0, &iov, 1, IMG_SUBMIT_FUA, count, &done, NULL), 0);
	while (!done)
		img_queue_run(q, true);
	cr_assert_eq(img_write(file, 1 << 19, bytes, sizeof(bytes), NULL), 0);
	cr_assert_eq(img_flush(file, NULL), 0);
	cr_assert_lt(seconds() - begun, 3.5);
	cr_assert_eq(mapped, 0);
	end(server); /* enough */
	while (mapped < ASKED)
		img_queue_run(q, true);
	img_queue_free(q);
	must_close(file);
	must_close(slow);
}

Test(nbd, block_status_holds_nothing_else_up)
{
	slow_block_status("-t 300", "");
}

Test(nbd, block_status_by_one_connection_holds_nothing_else_up)
{
	slow_block_status("--filter=multi-conn -t 300", "multi-conn-mode=disable");
}

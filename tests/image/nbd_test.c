/*
 * Images on NBD exports: what a slow server holds up, and what not. Skipped where nbdkit is not
 * installed.
 */
#include "folder.h"

#include <pthread.h>
#include <stdatomic.h>

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
		cr_assert_eq(img_submit_map(q, slow, i << 16, 1 << 16, IMG_MAP_DEEP, 1, count_map,
					    &mapped, NULL),
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

/* ---- A map in flight beside changes of the chain ---- */

struct mapper {
	struct img *img;
	_Atomic bool submitted, done;
	size_t count;
	bool zero;
};

static void keep_map(void *user, int rc, const struct img_map_entry *e, size_t n,
		     const struct img_error *err)
{
	struct mapper *m = user;

	cr_assert_eq(rc, 0, "%s", img_error_text(err));
	m->count = n;
	m->zero = e->zero;
	for (size_t i = 0; i < n; i++)
		cr_assert(!e[i].file || strlen(e[i].file));
	m->done = true;
}

static void *map_on(void *arg)
{
	struct mapper *m = arg;
	struct img_queue *q;

	cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
	cr_assert_eq(img_submit_map(q, m->img, 0, img_size(m->img), IMG_MAP_DEEP, 100, keep_map, m,
				    NULL),
		     0);
	img_queue_run(q, false);
	m->submitted = true;
	while (!m->done)
		img_queue_run(q, true);
	img_queue_free(q);
	return NULL;
}

enum change { CHANGE_BACKING,
	      CHANGE_ROLE,
	      CHANGE_SIZE };

static int change_chain(struct img *top, enum change how, struct img **removed)
{
	switch (how) {
	case CHANGE_BACKING:
		return img_set_backing(top, NULL, removed, NULL);
	case CHANGE_ROLE:
		return img_set_writable(top, false, NULL);
	case CHANGE_SIZE:
		return img_resize(top, img_size(top) / 2, IMG_PREALLOCATE_OFF, NULL);
	}
	return -EINVAL;
}

/* An image without data over an export whose server takes a second to tell of holes. */
static struct img *open_over_export(void)
{
	char name[256];

	make_image("top.qcow2", "qcow2", 1 << 20, NULL, NULL);
	snprintf(name, sizeof(name),
		 "json:{'driver':'qcow2','file.filename':'top.qcow2','backing':{'driver':'raw',"
		 "'file':{'driver':'nbd','path':'%s'}}}",
		 server_path);
	return must_open(name, NULL, IMG_OPEN_WRITE);
}

/*
 * Its tables are in memory: what the other thread asks for next comes to the server at once. A map that still
 * waits for a table does not count as begun, and may be answered after the change.
 */
Test(nbd, a_map_in_flight_is_waited_for)
{
	for (enum change how = CHANGE_BACKING; how <= CHANGE_SIZE; how++) {
		pid_t server = serve("--filter=delay memory 1M delay-extents=1");
		struct img *top = open_over_export(), *removed = NULL;
		struct img_map_entry own;
		struct mapper m = { .img = top };
		pthread_t thread;

		cr_assert_eq(img_map(top, 0, 1 << 20, false, &own, NULL), 0);
		cr_assert_eq(pthread_create(&thread, NULL, map_on, &m), 0);
		while (!m.submitted)
			usleep(1000);
		cr_assert_eq(change_chain(top, how, &removed), 0, "%d", (int)how);
		/* A change of the role does not mind reading; done() runs on a thread of its own. */
		for (int n = 0; n < 300 && !m.done && how != CHANGE_ROLE; n++)
			usleep(1000);
		if (how != CHANGE_ROLE)
			cr_assert(m.done, "%d", (int)how);
		if (removed)
			must_close(removed);
		pthread_join(thread, NULL);
		cr_assert(m.count == 1 && m.zero);
		must_close(top);
		end(server);
	}
}

Test(nbd, a_map_of_the_same_thread_is_in_the_way)
{
	for (enum change how = CHANGE_BACKING; how <= CHANGE_SIZE; how++) {
		pid_t server = serve("--filter=delay memory 1M delay-extents=1");
		struct img *top = open_over_export(), *removed = NULL;
		struct mapper m = { .img = top };
		struct img_queue *q;

		cr_assert_eq(img_queue_new(IMG_IO_AUTO, &q, NULL), 0);
		cr_assert_eq(img_submit_map(q, top, 0, 1 << 20, IMG_MAP_DEEP, 100, keep_map, &m,
					    NULL),
			     0);
		img_queue_run(q, false);
		if (how != CHANGE_ROLE)
			cr_assert_eq(change_chain(top, how, &removed), -EDEADLK, "%d", (int)how);
		while (!m.done)
			img_queue_run(q, true);
		cr_assert_eq(change_chain(top, how, &removed), 0, "%d", (int)how);
		img_queue_free(q);
		if (removed)
			must_close(removed);
		must_close(top);
		end(server);
	}
}

/*
 * The module "nbd": a disk that an NBD server exports, by libnbd; holes are asked for and never read.
 * Where the server says that there may be several connections, each queue that uses the disk has some,
 * and drives them itself. Otherwise all requests go to the storage's own queue, which a thread of its
 * own runs; so do the blocking ones always.
 */
#include "libimg/storage/nbd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/base/secrets.h"
#include "libimg/storage/ioq_attach.h"
#include "libimg/storage/ioq_private.h"

enum {
	MAX_CONNECTIONS = 2,	   /* of a queue: more gain nothing */
	ENOUGH_BYTES = 256 * 1024, /* for one; below, another only costs system calls */
	EXTENTS_AT_ONCE = 1 << 30, /* bytes that the server is asked about */
	CHANGE_BYTES = 1 << 20,	   /* read, changed and written back at a time */
	LEAST_ANSWER = 256 * 1024, /* about holes: a server that says less is not asked byte by byte */
};

#define DEFAULT_PORT "10809"

struct nbd {
	struct img_storage base;
	struct img_nbd_export export;
	char *texts[8]; /* what export points to */
	size_t text_count;
	struct img_ioq *q;		  /* its own, and its thread's */
	struct img_nbd_connection *first; /* q's */
	_Atomic uint64_t changes;	  /* grows with each request that changed something */

	pthread_mutex_t change_lock; /* one at a time: blocks that are read, changed and written back */

	pthread_mutex_t thread_lock; /* guards the thread's start */
	bool running;
	_Atomic bool stop;
	pthread_t thread;

	pthread_mutex_t lock;				    /* guards the rest */
	struct img_nbd_extent extents[IMG_NBD_MAX_EXTENTS]; /* what the server last said */
	size_t extent_count;
	uint64_t extent_changes; /* of changes, when it was asked */
};

static struct nbd *nbd_of(struct img_storage *s)
{
	return IMG_CONTAINER(s, struct nbd, base);
}

/* ---- The storage's own queue ---- */

static void *run_queue(void *user)
{
	struct nbd *n = user;

	while (!atomic_load(&n->stop))
		img_ioq_run(n->q, true);
	return NULL;
}

static void begin_posted(struct img_post *post)
{
	struct img_nbd_request *r = IMG_CONTAINER(post, struct img_nbd_request, post);

	img_nbd_request(r->connection, r);
}

/* From any thread. -EAGAIN: no thread could be started. */
static int request_on_own_queue(struct nbd *n, struct img_nbd_request *r)
{
	int rc = 0;

	pthread_mutex_lock(&n->thread_lock);
	if (!n->running)
		rc = pthread_create(&n->thread, NULL, run_queue, n) ? -EAGAIN : 0;
	n->running = !rc;
	pthread_mutex_unlock(&n->thread_lock);
	if (rc)
		return rc;
	r->connection = n->first;
	r->post.fn = begin_posted;
	img_ioq_post(n->q, &r->post);
	return 0;
}

static void stop_posted(struct img_post *post)
{
	(void)post; /* it woke the thread */
}

static void stop_queue(struct nbd *n)
{
	struct img_post post = { .fn = stop_posted };

	if (n->running) {
		atomic_store(&n->stop, true);
		img_ioq_post(n->q, &post);
		pthread_join(n->thread, NULL);
	}
	img_nbd_connection_free(n->first);
	img_ioq_free(n->q);
}

/* ---- A queue's connections ---- */

struct connections {
	struct img_nbd_connection *all[MAX_CONNECTIONS];
	unsigned count;
};

static int disk_attach(struct img_storage *s, struct img_ioq *q, void **state)
{
	struct connections *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	/* each connects when it gets its first request */
	while (c->count < MAX_CONNECTIONS &&
	       !img_nbd_connection_new(&nbd_of(s)->export, q, &c->all[c->count]))
		c->count++;
	*state = c;
	if (c->count)
		return 0;
	free(c);
	return -ENOMEM;
}

static void disk_detach(struct img_storage *s, struct img_ioq *q, void *state)
{
	struct connections *c = state;

	(void)s;
	(void)q;
	for (unsigned i = 0; i < c->count; i++)
		img_nbd_connection_free(c->all[i]);
	free(c);
}

/* The one with the least to do, or the first that has little. NULL: the server allows none. */
static struct img_nbd_connection *choose(const struct connections *c)
{
	struct img_nbd_connection *best = NULL;

	for (unsigned i = 0; i < c->count && (!best || img_nbd_load(best) >= ENOUGH_BYTES); i++)
		if (!img_nbd_is_refused(c->all[i]) &&
		    (!best || img_nbd_load(c->all[i]) < img_nbd_load(best)))
			best = c->all[i];
	return best;
}

/* ---- Requests ---- */

static bool is_change(enum img_io_op op)
{
	return op == IMG_IO_WRITE || op == IMG_IO_ZERO || op == IMG_IO_PUNCH;
}

/* What of a request lies behind the end of the disk: zeroes to read, no space to write. */
static int clip(const struct nbd *n, const struct img_io *io, uint64_t *len)
{
	uint64_t size = n->export.size;
	uint64_t in = io->off < size ? min_u64(io->len, size - io->off) : 0;
	struct img_cursor c = { .iov = io->iov, .iovcnt = io->iovcnt };

	*len = io->op == IMG_IO_SYNC ? 0 : io->len;
	if (io->op == IMG_IO_SYNC || in == io->len)
		return 0;
	if (io->op == IMG_IO_WRITE || io->op == IMG_IO_ZERO)
		return -ENOSPC;
	if (io->op == IMG_IO_READ) {
		img_cursor_advance(&c, in);
		img_cursor_zero(&c, io->len - in);
	}
	*len = in;
	return 0;
}

/*
 * A change counts from when it is done: a flush, or an answer about holes, that began before need not
 * know of it.
 */
static void change_completed(struct nbd *n, const struct img_io *io, int rc)
{
	if (!is_change(io->op))
		return;
	atomic_fetch_add(&n->changes, 1);
	if (rc || !(io->flags & IMG_IO_FUA))
		atomic_store(&n->base.unsynced, true);
}

static bool is_aligned(const struct nbd *n, uint64_t off, uint64_t len)
{
	return is_aligned_u64(off | len, n->export.block_bytes);
}

/* io has been answered; elsewhere: by the storage's own queue. */
static void answered(struct img_io *io, int rc, bool elsewhere)
{
	io->rc = rc;
	if (elsewhere)
		img_ioq_finish(io->ioq, io);
	else
		img_ioq_complete(io->ioq, io);
}

/* By the queue's own connection, or by the storage's. */
static int request(struct nbd *n, struct img_ioq *q, struct img_nbd_request *r)
{
	struct img_nbd_connection *c;
	void *connections;
	int rc;

	if (!n->export.can_multi_conn)
		return request_on_own_queue(n, r);
	rc = img_ioq_attach(q, &n->base, &connections);
	if (rc)
		return rc;
	c = choose(connections);
	if (!c)
		return request_on_own_queue(n, r);
	img_nbd_request(c, r);
	return 0;
}

/* Has it gone to another connection, since the server lets no more in? Else *rc is how it ended. */
static bool was_passed_on(struct img_nbd_request *r, struct img_io *io, int *rc)
{
	if (!r->refused)
		return false;
	*rc = request(nbd_of(io->storage), io->ioq, r);
	return !*rc;
}

static void submitted_done(struct img_nbd_request *r, int rc)
{
	struct img_io *io = r->io;

	if (was_passed_on(r, io, &rc))
		return;
	change_completed(nbd_of(io->storage), io, rc);
	answered(io, rc, r->connection);
	free(r);
}

/* ---- Where there are holes, on a queue ---- */

struct extents_request {
	struct img_nbd_request request;
	struct img_io *io;
	struct img_nbd_extent extents[IMG_NBD_MAX_EXTENTS];
};

/* A server that says next to nothing is not asked byte by byte: some of the rest counts as data. */
static void complete_answer(struct img_nbd_request *r)
{
	size_t n = r->extent_count;
	uint64_t end = n ? r->extents[n - 1].off + r->extents[n - 1].len : r->off;
	uint64_t least = r->off + min_u64(r->len, LEAST_ANSWER);

	if (end >= least)
		return;
	if (n == IMG_NBD_MAX_EXTENTS)
		end = r->extents[--n].off;
	r->extents[n] = (struct img_nbd_extent){ end, least - end, false };
	r->extent_count = n + 1;
}

/* What the server said, of what io asks about. Of the rest it need not say anything: data, then. */
static void give_extents(const struct img_nbd_request *r, struct img_io *io)
{
	uint64_t at = io->off, end = io->off + io->len;
	struct img_io_extents *out = io->extents;

	for (size_t i = 0; i < r->extent_count && out->count < IMG_ARRAY_LEN(out->at); i++) {
		const struct img_nbd_extent *x = &r->extents[i];
		uint64_t to = min_u64(x->off + x->len, end);

		if (to <= at)
			continue;
		out->at[out->count].kind = x->hole ? IMG_STORAGE_HOLE : IMG_STORAGE_DATA;
		out->at[out->count++].len = to - at;
		at = to;
	}
	if (!out->count) {
		out->at[0].kind = IMG_STORAGE_DATA;
		out->at[0].len = min_u64(io->len, atomic_load(&io->storage->size) - io->off);
		out->count = 1;
	}
}

static void extents_done(struct img_nbd_request *r, int rc)
{
	struct extents_request *x = IMG_CONTAINER(r, struct extents_request, request);

	if (was_passed_on(r, x->io, &rc))
		return;
	if (!rc) {
		complete_answer(r);
		give_extents(r, x->io);
	}
	answered(x->io, rc, r->connection);
	free(x);
}

static void submit_extents(struct nbd *n, struct img_ioq *q, struct img_io *io)
{
	uint64_t block = n->export.block_bytes, from = align_down_u64(io->off, block);
	uint64_t most = min_u64(n->export.size - from, EXTENTS_AT_ONCE);
	struct extents_request *x = n->export.can_extents ? malloc(sizeof(*x)) : NULL;
	int rc = -ENOMEM;

	if (!n->export.can_extents) {
		give_extents(&(struct img_nbd_request){ 0 }, io);
		answered(io, 0, false);
		return;
	}
	if (x) {
		x->io = io;
		x->request = (struct img_nbd_request){
			.off = from,
			.len = min_u64(round_up_u64(io->off - from + io->len, block), most),
			.extents = x->extents,
			.finished = extents_done,
		};
		rc = request(n, q, &x->request);
	}
	if (rc) {
		free(x);
		answered(io, rc, false);
	}
}

static void disk_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	struct nbd *n = nbd_of(s);
	struct img_nbd_request *r;
	uint64_t len;
	int rc;

	if (io->op == IMG_IO_EXTENTS) {
		submit_extents(n, q, io);
		return;
	}
	io->rc = clip(n, io, &len);
	if (io->rc || (!len && io->op != IMG_IO_SYNC)) {
		img_ioq_complete(q, io);
		return;
	}
	if (!is_aligned(n, io->off, len)) {
		img_ioq_offload(q, io);
		return;
	}
	r = calloc(1, sizeof(*r));
	if (r) {
		r->io = io;
		r->off = io->op == IMG_IO_SYNC ? 0 : io->off;
		r->len = len;
		r->finished = submitted_done;
	}
	rc = r ? request(n, q, r) : -ENOMEM;
	if (rc) {
		free(r);
		change_completed(n, io, rc);
		answered(io, rc, false);
	}
}

/* ---- Blocking ---- */

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool done;
	int rc;
};

static void waiter_done(struct img_nbd_request *r, int rc)
{
	struct waiter *w = r->user;

	pthread_mutex_lock(&w->lock);
	w->rc = rc;
	w->done = true;
	pthread_cond_signal(&w->changed);
	pthread_mutex_unlock(&w->lock);
}

static int ask_and_wait(struct nbd *n, struct img_nbd_request *r)
{
	struct waiter w = { .lock = PTHREAD_MUTEX_INITIALIZER,
			    .changed = PTHREAD_COND_INITIALIZER };
	int rc;

	r->finished = waiter_done;
	/* cppcheck-suppress autoVariables ; w is there until r has finished: see below */
	r->user = &w;
	rc = request_on_own_queue(n, r);
	if (!rc) {
		pthread_mutex_lock(&w.lock);
		while (!w.done)
			pthread_cond_wait(&w.changed, &w.lock);
		pthread_mutex_unlock(&w.lock);
	}
	r->user = NULL;
	return rc ? rc : w.rc;
}

static int aligned_io(struct nbd *n, struct img_io *io, uint64_t off, uint64_t len)
{
	struct img_nbd_request r = { .io = io, .off = off, .len = len };
	int rc;

	rc = ask_and_wait(n, &r);
	change_completed(n, io, rc);
	return rc;
}

static int aligned_buffer(struct nbd *n, enum img_io_op op, uint8_t *buf, uint64_t off, size_t len,
			  unsigned flags)
{
	struct img_io io = { .storage = &n->base,
			     .op = op,
			     .flags = flags,
			     .off = off,
			     .len = len,
			     .iovcnt = 1 };

	io.one = (struct iovec){ buf, len };
	io.iov = &io.one;
	return aligned_io(n, &io, off, len);
}

/* Through whole blocks: what the server does not take as it is. c: the caller's bytes (not ZERO). */
static int through_blocks(struct nbd *n, enum img_io_op op, struct img_cursor *c, uint64_t off,
			  uint64_t len, unsigned flags)
{
	uint32_t block = n->export.block_bytes;
	uint8_t *buf = malloc(CHANGE_BYTES);
	int rc = buf ? 0 : -ENOMEM;

	while (len && !rc) {
		uint64_t from = align_down_u64(off, block);
		uint64_t end = min_u64(off + len, from + CHANGE_BYTES);
		size_t whole = (size_t)(round_up_u64(end, block) - from),
		       part = (size_t)(end - off);
		uint8_t *at = buf + (off - from);

		if (op != IMG_IO_READ)
			pthread_mutex_lock(&n->change_lock);
		rc = aligned_buffer(n, IMG_IO_READ, buf, from, whole, 0);
		if (!rc && op == IMG_IO_READ)
			img_cursor_scatter(c, at, part);
		else if (!rc && op == IMG_IO_WRITE)
			img_cursor_gather(c, at, part);
		else if (!rc)
			memset(at, 0, part);
		if (!rc && op != IMG_IO_READ)
			rc = aligned_buffer(n, IMG_IO_WRITE, buf, from, whole, flags & IMG_IO_FUA);
		if (op != IMG_IO_READ)
			pthread_mutex_unlock(&n->change_lock);
		off = end;
		len -= part;
	}
	free(buf);
	return rc;
}

/* Zeroes whose ends lie inside blocks: what is whole goes to the server as such. */
static int zero_unaligned(struct nbd *n, struct img_io *io, uint64_t len)
{
	uint32_t block = n->export.block_bytes;
	uint64_t end = io->off + len, first = round_up_u64(io->off, block);
	uint64_t last = align_down_u64(end, block);
	int rc;

	if (first >= last)
		return through_blocks(n, IMG_IO_ZERO, NULL, io->off, len, io->flags);
	rc = through_blocks(n, IMG_IO_ZERO, NULL, io->off, first - io->off, io->flags);
	if (!rc)
		rc = aligned_io(n, io, first, last - first);
	return rc ? rc : through_blocks(n, IMG_IO_ZERO, NULL, last, end - last, io->flags);
}

static int disk_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		   uint64_t off, uint64_t len, unsigned flags)
{
	struct nbd *n = nbd_of(s);
	struct img_io io = { .storage = s,
			     .op = op,
			     .flags = flags,
			     .iov = (struct iovec *)(uintptr_t)iov,
			     .iovcnt = iovcnt,
			     .off = off,
			     .len = len };
	struct img_cursor c = { .iov = iov, .iovcnt = iovcnt };
	int rc = clip(n, &io, &len);

	if (rc || (!len && op != IMG_IO_SYNC))
		return rc;
	if (op == IMG_IO_SYNC || is_aligned(n, off, len))
		return aligned_io(n, &io, op == IMG_IO_SYNC ? 0 : off, len);
	return op == IMG_IO_ZERO || op == IMG_IO_PUNCH ? zero_unaligned(n, &io, len)
						       : through_blocks(n, op, &c, off, len, flags);
}

/* ---- Where there are holes, blocking ---- */

/* In what the server last said; false: off is not in there. */
static bool find_extent(const struct nbd *n, uint64_t off, uint64_t len,
			enum img_storage_extent *kind, uint64_t *run)
{
	for (size_t i = 0; i < n->extent_count; i++) {
		const struct img_nbd_extent *x = &n->extents[i];

		if (off < x->off || off >= x->off + x->len)
			continue;
		*kind = x->hole ? IMG_STORAGE_HOLE : IMG_STORAGE_DATA;
		*run = min_u64(len, x->off + x->len - off);
		return true;
	}
	return false;
}

static int disk_extent(struct img_storage *s, uint64_t off, uint64_t len,
		       enum img_storage_extent *kind, uint64_t *run)
{
	struct nbd *n = nbd_of(s);
	uint64_t from = align_down_u64(off, n->export.block_bytes), changes;
	struct img_nbd_request r = { .off = from,
				     .len = min_u64(n->export.size - from, EXTENTS_AT_ONCE) };
	bool known;
	int rc;

	*kind = IMG_STORAGE_DATA;
	*run = min_u64(len, n->export.size - off);
	if (!n->export.can_extents)
		return 0;
	changes = atomic_load(&n->changes);
	pthread_mutex_lock(&n->lock);
	known = n->extent_changes == changes && find_extent(n, off, len, kind, run);
	pthread_mutex_unlock(&n->lock);
	if (known)
		return 0;
	r.extents = malloc(IMG_NBD_MAX_EXTENTS * sizeof(*r.extents));
	rc = r.extents ? ask_and_wait(n, &r) : -ENOMEM;
	if (!rc) {
		complete_answer(&r);
		pthread_mutex_lock(&n->lock);
		memcpy(n->extents, r.extents, r.extent_count * sizeof(*r.extents));
		n->extent_count = r.extent_count;
		n->extent_changes = changes;
		find_extent(n, off, len, kind, run); /* it need not say: data then */
		pthread_mutex_unlock(&n->lock);
	}
	free(r.extents);
	return rc;
}

static int disk_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	(void)how;
	return size <= nbd_of(s)->export.size ? 0 : -ENOTSUP;
}

static void disk_close(struct img_storage *s)
{
	struct nbd *n = nbd_of(s);

	stop_queue(n);
	for (size_t i = 0; i < n->text_count; i++)
		free(n->texts[i]);
	pthread_mutex_destroy(&n->export.lock);
	pthread_mutex_destroy(&n->thread_lock);
	pthread_mutex_destroy(&n->change_lock);
	pthread_mutex_destroy(&n->lock);
	free(s->identity);
	free(s->name);
	free(n);
}

static int disk_set_writable(struct img_storage *s, bool writable, struct img_error *err)
{
	const struct nbd *n = nbd_of(s);

	if (writable && n->export.read_only)
		return img_fail(err, -EROFS, "'%s' cannot be opened for writing: the server exports it "
					     "read-only",
				s->name);
	return 0;
}

static const struct img_storage_ops disk_ops = {
	.submit = disk_submit,
	.io = disk_io,
	.resize = disk_resize,
	.attach = disk_attach,
	.detach = disk_detach,
	.extent = disk_extent,
	.set_writable = disk_set_writable,
	.close = disk_close,
};

/* ---- Opening ---- */

/* A copy of an option's value that lives as long as n; NULL: not given. */
static const char *keep(struct nbd *n, const char *value, bool *ok)
{
	if (!value)
		return NULL;
	n->texts[n->text_count] = strdup(value);
	*ok = *ok && n->texts[n->text_count];
	return n->texts[n->text_count++];
}

static const char *either(const struct img_options *o, const char *key, const char *old_key)
{
	const char *value = img_options_string(o, key);

	return value ? value : img_options_string(o, old_key);
}

static char *identify(const struct img_options *o)
{
	const char *path = either(o, "server.path", "path"), *host = either(o, "server.host", "host");
	const char *port = either(o, "server.port", "port"), *name = img_options_string(o, "export");
	char *text;

	if (asprintf(&text, "nbd %s:%s/%s", path ? "unix" : host ? host
								 : "",
		     path   ? path
		     : port ? port
			    : DEFAULT_PORT,
		     name ? name : "") < 0)
		return NULL;
	return text;
}

/* Certificates or keys by the id of an object, or straight from the name. */
static int parse_tls(struct nbd *n, const struct img_module_opening *o, bool *ok,
		     struct img_error *err)
{
	const char *id = img_options_string(o->options, "tls-creds");
	const char *user = img_options_string(o->options, "tls-username");
	const char *psk = img_options_string(o->options, "tls-psk-file");
	const char *dir = img_options_string(o->options, "tls-certificates"), *type = NULL;
	char *file = NULL;

	n->export.tls = img_options_bool(o->options, "tls") || id;
	n->export.tls_verify = true;
	if (id) {
		type = img_secrets_type(o->secrets, id);
		if (!type)
			return img_fail(err, -EINVAL, "No TLS credentials with id '%s'", id);
		if (strcmp(type, "tls-creds-x509") && strcmp(type, "tls-creds-psk"))
			return img_fail(err, -EINVAL, "tls-creds '%s': object type is %s, "
						      "expected tls-creds-x509 or tls-creds-psk",
					id, type);
		dir = img_secrets_property(o->secrets, id, "dir");
		user = img_secrets_property(o->secrets, id, "username");
		if (!strcmp(type, "tls-creds-psk")) {
			if (dir && asprintf(&file, "%s/keys.psk", dir) < 0)
				*ok = false;
			psk = file;
			dir = NULL;
			user = user ? user : "qemu";
		} else {
			const char *verify = img_secrets_property(o->secrets, id, "verify-peer");

			n->export.tls_verify = !verify || strcmp(verify, "off") != 0;
		}
	}
	n->export.tls_username = keep(n, user, ok);
	n->export.tls_psk_file = keep(n, psk, ok);
	n->export.tls_certificates = keep(n, dir, ok);
	free(file);
	return 0;
}

static int parse_options(struct nbd *n, const struct img_module_opening *o, struct img_error *err)
{
	const char *type = img_options_string(o->options, "server.type");
	const char *path = either(o->options, "server.path", "path");
	const char *host = either(o->options, "server.host", "host");
	const char *port = either(o->options, "server.port", "port");
	bool unix_socket = type ? !strcmp(type, "unix") : path != NULL, ok = true;
	struct img_nbd_export *e = &n->export;
	int rc;

	if (unix_socket && !path)
		return img_fail(err, -EINVAL, "nbd: a Unix socket needs its path (server.path)");
	if (!unix_socket && !host)
		return img_fail(err, -EINVAL, "nbd: one of path and host must be specified");
	if (unix_socket ? host || port : path != NULL)
		return img_fail(err, -EINVAL,
				"nbd: path and host may not be used at the same time");
	e->path = keep(n, path, &ok);
	e->host = keep(n, host, &ok);
	e->port = unix_socket ? NULL : keep(n, port ? port : DEFAULT_PORT, &ok);
	e->export_name = keep(n, img_options_string(o->options, "export"), &ok);
	e->connect_seconds = (unsigned)img_options_number(o->options, "open-timeout");
	e->reconnect_seconds = (unsigned)img_options_number(o->options, "reconnect-delay");
	e->request_seconds = (unsigned)img_options_number(o->options, "timeout");
	if (!e->connect_seconds || !e->request_seconds ||
	    img_options_number(o->options, "open-timeout") > 86400 ||
	    img_options_number(o->options, "reconnect-delay") > 86400 ||
	    img_options_number(o->options, "timeout") > 86400)
		return img_fail(err, -EINVAL, "nbd: open-timeout and timeout are 1 to 86400 seconds, "
					      "reconnect-delay 0 to 86400");
	rc = parse_tls(n, o, &ok, err);
	if (rc)
		return rc;
	if (unix_socket
		    ? asprintf(&n->base.name, "nbd%s+unix:///%s?socket=%s", e->tls ? "s" : "",
			       e->export_name ? e->export_name : "", e->path) < 0
		    : asprintf(&n->base.name, strchr(e->host, ':') ? "nbd%s://[%s]:%s%s%s" : "nbd%s://%s:%s%s%s",
			       e->tls ? "s" : "", e->host, e->port, e->export_name ? "/" : "",
			       e->export_name ? e->export_name : "") < 0)
		n->base.name = NULL;
	n->base.identity = identify(o->options);
	ok = ok && n->base.name && n->base.identity;
	e->name = n->base.name;
	return ok ? 0 : img_fail(err, -ENOMEM, "out of memory");
}

static int disk_open(const struct img_module_opening *o, struct img_storage **out,
		     struct img_error *err)
{
	struct nbd *n = calloc(1, sizeof(*n));
	int rc;

	if (!n)
		return img_fail(err, -ENOMEM, "out of memory");
	n->base.ops = &disk_ops;
	n->base.protocol = "nbd";
	pthread_mutex_init(&n->export.lock, NULL);
	img_list_init(&n->export.connections);
	pthread_mutex_init(&n->thread_lock, NULL);
	pthread_mutex_init(&n->change_lock, NULL);
	pthread_mutex_init(&n->lock, NULL);
	rc = img_nbd_library(&n->export.lib, err);
	if (!rc)
		rc = parse_options(n, o, err);
	if (!rc)
		rc = img_ioq_new(IMG_IO_THREADS, &n->q, err);
	if (!rc)
		rc = img_nbd_connect(&n->export, n->q, &n->first, err);
	if (!rc && (o->flags & IMG_STORAGE_WRITE) && n->export.read_only)
		rc = img_fail(err, -EROFS, "Could not open '%s': the server exports it read-only",
			      n->base.name);
	if (rc) {
		disk_close(&n->base);
		return rc;
	}
	n->base.writable = o->flags & IMG_STORAGE_WRITE;
	n->base.limits = (struct img_storage_limits){
		.io_align = n->export.block_bytes,
		.mem_align = 1,
		.max_bytes = n->export.max_bytes,
		.max_zero = n->export.can_zero ? IMG_NBD_MAX_ZERO : n->export.max_bytes,
		.optimal_bytes = n->export.best_bytes,
		.discard_align = n->export.can_zero ? n->export.block_bytes : 0,
		.fua = n->export.can_fua,
		.fast_zero = n->export.can_fast_zero,
		.rotational = n->export.is_rotational,
	};
	n->base.device = true;
	atomic_init(&n->base.size, n->export.size);
	*out = &n->base;
	return 0;
}

static const struct img_option options[] = {
	{ "server.type", IMG_OPTION_STRING, "Kind of socket", NULL, "inet,unix" },
	{ "server.host", IMG_OPTION_STRING, "Host of the server", NULL, NULL },
	{ "server.port", IMG_OPTION_STRING, "Its port (10809)", NULL, NULL },
	{ "server.path", IMG_OPTION_STRING, "Path of its Unix socket", NULL, NULL },
	{ "host", IMG_OPTION_STRING, "Same as server.host", NULL, NULL },
	{ "port", IMG_OPTION_STRING, "Same as server.port", NULL, NULL },
	{ "path", IMG_OPTION_STRING, "Same as server.path", NULL, NULL },
	{ "export", IMG_OPTION_STRING, "Name of the export (the server's default)", NULL, NULL },
	{ "tls", IMG_OPTION_BOOL, "Insist on TLS", "off", NULL },
	{ "tls-creds", IMG_OPTION_STRING, "Object with certificates or keys", NULL, NULL },
	{ "tls-username", IMG_OPTION_STRING, "Whose pre-shared key", NULL, NULL },
	{ "tls-psk-file", IMG_OPTION_STRING, "File of pre-shared keys", NULL, NULL },
	{ "tls-certificates", IMG_OPTION_STRING, "Folder of certificates", NULL, NULL },
	{ "open-timeout", IMG_OPTION_NUMBER, "Seconds for connecting", "30", NULL },
	{ "reconnect-delay", IMG_OPTION_NUMBER, "Seconds to wait for a server that went away", "5",
	  NULL },
	{ "timeout", IMG_OPTION_NUMBER, "Seconds that a server may keep silent", "60", NULL },
	{ 0 },
};
static const char *const schemes[] = { "nbd", "nbd+tcp", "nbd+unix", "nbds",
				       "nbds+tcp", "nbds+unix", NULL };

const struct img_module img_module_nbd = {
	.name = "nbd",
	.schemes = schemes,
	.options = options,
	.parse_name = img_nbd_parse_name,
	.identify = identify,
	.open = disk_open,
};

/*
 * One connection to an NBD server, driven by the I/O queue that it belongs to: the queue watches
 * libnbd's socket, and a deadline, and all of this runs on its thread. Each request goes to the server
 * in parts of a size that the server takes. When the server goes away, what was not answered is sent
 * again once it is back, or fails when it stays away.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/ioq_watch.h"
#include "libimg/storage/nbd.h"

enum {
	MAX_PARTS = 64,		      /* in flight on one connection */
	GATHER_BYTES = 256 * 1024,    /* of small buffers that are sent as one part */
	LEAST_ALONE = 64 * 1024,      /* a buffer of this size is a part of its own */
	DEFAULT_MAX_BYTES = 32 << 20, /* what servers take that say nothing */
	RETRY_MS = 250,
	MAX_LOSSES = 5,	     /* connections lost in a row with no request done */
	FURTHER_SECONDS = 2, /* a server that answers one connection answers another within this, or not */
};

struct img_nbd_connection {
	struct img_nbd_export *export;
	struct img_watch watch;
	struct nbd_handle *handle;  /* NULL: not connected, nor connecting */
	bool ready;		    /* the handshake is over */
	bool was_ready;		    /* it was, at some time */
	bool refused;		    /* it never was, and will not be */
	struct img_list active;	    /* requests that are at work */
	uint64_t load;		    /* their bytes */
	unsigned parts;		    /* unanswered, of all of them */
	struct img_list unanswered; /* struct part */
	unsigned losses;

	/* For other connections' flushes. */
	struct img_list link;  /* in export->connections */
	int fd;		       /* its socket; -1: not connected */
	_Atomic uint64_t last; /* of its changes that were answered: the number of the last; 0: none */

	/* Times of now_ms(); 0: none. */
	int64_t heard;	     /* when the server last said something */
	int64_t connect_by;  /* when the attempt under way is given up */
	int64_t retry_at;    /* when the next one begins */
	int64_t retry_until; /* how long attempts go on */
	int64_t deadline;    /* what the watch's is set to, or earlier than that is needed */
};

/* What went to the server in one command. */
struct part {
	struct img_list link; /* in c->unanswered */
	struct img_nbd_connection *c;
	struct img_nbd_request *request;
	uint8_t *gathered; /* its bytes, if they are no part of the caller's buffers */
	uint64_t at;	   /* READ into gathered: where in the request they belong */
	size_t bytes;
	size_t came; /* READ: bytes that the server has sent of them */
};

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- Connecting ---- */

static int fail(const struct img_nbd_export *e, int rc, const char *what, struct img_error *err)
{
	const char *why = e->lib->get_error();

	return img_fail(err, rc, "Could not open '%s': %s: %s", e->name, what,
			why ? why : strerrordesc_np(-rc));
}

static int set_up(const struct img_nbd_export *e, struct nbd_handle *h, struct img_error *err)
{
	const struct img_nbd_library *lib = e->lib;

	if (lib->set_export_name(h, e->export_name ? e->export_name : "") ||
	    lib->add_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION))
		return fail(e, -EINVAL, "the export's name", err);
	if (!e->tls)
		return 0;
	if (lib->set_tls(h, LIBNBD_TLS_REQUIRE) || lib->set_tls_verify_peer(h, e->tls_verify) ||
	    (e->tls_username && lib->set_tls_username(h, e->tls_username)) ||
	    (e->tls_psk_file && lib->set_tls_psk_file(h, e->tls_psk_file)) ||
	    (e->tls_certificates && lib->set_tls_certificates(h, e->tls_certificates)))
		return fail(e, -EINVAL, "TLS", err);
	return 0;
}

/* Wait for the server, until what libnbd wants to do can be done, and do it. 0, -ETIMEDOUT. */
static int step(const struct img_nbd_library *lib, struct nbd_handle *h, int64_t deadline)
{
	unsigned direction = lib->aio_get_direction(h);
	struct pollfd p = { .fd = lib->aio_get_fd(h),
			    .events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
					      (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT
										      : 0)) };
	int64_t left = deadline - now_ms();

	if (left <= 0)
		return -ETIMEDOUT;
	if (poll(&p, 1, (int)left) <= 0)
		return 0; /* looked at again: it may be time */
	if ((p.revents & (POLLIN | POLLHUP | POLLERR)) && (direction & LIBNBD_AIO_DIRECTION_READ))
		lib->aio_notify_read(h);
	else
		lib->aio_notify_write(h);
	return 0;
}

/* A handle that is connecting. */
static int begin_connect(const struct img_nbd_export *e, struct nbd_handle **out,
			 struct img_error *err)
{
	const struct img_nbd_library *lib = e->lib;
	struct nbd_handle *h = lib->create();
	int rc;

	if (!h)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = set_up(e, h, err);
	if (!rc && (e->path ? lib->aio_connect_unix(h, e->path)
			    : lib->aio_connect_tcp(h, e->host, e->port)))
		rc = fail(e, -ECONNREFUSED, "no connection", err);
	if (rc)
		lib->close(h);
	else
		*out = h;
	return rc;
}

static bool is_gone(const struct img_nbd_library *lib, struct nbd_handle *h)
{
	return lib->aio_is_dead(h) || lib->aio_is_closed(h);
}

/* A handle that is connected. */
static int connect_handle(const struct img_nbd_export *e, struct nbd_handle **out,
			  struct img_error *err)
{
	const struct img_nbd_library *lib = e->lib;
	int64_t deadline = now_ms() + (int64_t)e->connect_seconds * 1000;
	struct nbd_handle *h = NULL;
	int rc = begin_connect(e, &h, err);

	if (rc)
		return rc;
	while (!rc && !lib->aio_is_ready(h) && !is_gone(lib, h))
		rc = step(lib, h, deadline);
	if (rc == -ETIMEDOUT)
		rc = img_fail(err, rc, "Could not open '%s': the server did not answer within %u s",
			      e->name, e->connect_seconds);
	else if (rc || !lib->aio_is_ready(h))
		rc = fail(e, -ECONNREFUSED, "no connection", err);
	if (rc)
		lib->close(h);
	else
		*out = h;
	return rc;
}

/* What the server says of the export; checked, as everything that comes from outside. */
static int learn(struct img_nbd_export *e, struct nbd_handle *h, struct img_error *err)
{
	const struct img_nbd_library *lib = e->lib;
	int64_t size = lib->get_size(h), most, least, best;

	if (size < 0)
		return fail(e, -EPROTO, "its size", err);
	if (size > INT64_MAX - 511)
		return img_fail(err, -EFBIG, "Could not open '%s': its size of %" PRId64 " bytes is above the largest of a disk, %" PRId64,
				e->name, size, INT64_MAX - 511);
	least = lib->get_block_size(h, LIBNBD_SIZE_MINIMUM);
	most = lib->get_block_size(h, LIBNBD_SIZE_MAXIMUM);
	if (least > 65536 || (least > 1 && !is_pow2_u64((uint64_t)least)))
		return img_fail(err, -EPROTO, "Could not open '%s': its smallest block is "
					      "%" PRId64 " bytes, expected a power of two up to "
					      "65536",
				e->name, least);
	if (most > 0 && (most < 512 || most < least))
		return img_fail(err, -EPROTO, "Could not open '%s': its largest request is "
					      "%" PRId64 " bytes, expected at least 512 and its "
					      "block of %" PRId64,
				e->name, most, least);
	best = lib->get_block_size(h, LIBNBD_SIZE_PREFERRED);
	e->best_bytes = best > 0 && best <= 32 << 20 ? (uint64_t)best : 0;
	e->size = (uint64_t)size;
	e->block_bytes = least > 1 ? (uint32_t)least : 1;
	e->max_bytes = min_u64(most > 0 ? (uint64_t)most : DEFAULT_MAX_BYTES, DEFAULT_MAX_BYTES);
	e->max_bytes = align_down_u64(e->max_bytes, e->block_bytes);
	e->read_only = lib->is_read_only(h) != 0;
	e->can_flush = lib->can_flush(h) > 0;
	e->can_fua = lib->can_fua(h) > 0;
	e->is_rotational = lib->is_rotational(h) > 0;
	e->can_zero = lib->can_zero(h) > 0;
	e->can_fast_zero = e->can_zero && lib->can_fast_zero(h) > 0;
	e->can_multi_conn = lib->can_multi_conn(h) > 0;
	e->can_extents = lib->can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
	return 0;
}

/* ---- Parts ---- */

static void free_part(struct part *p)
{
	img_list_del(&p->link);
	free(p->gathered);
	free(p);
}

/* libnbd: some of what is read has come; which is as much as there is only if the server is honest. */
static int count_bytes(void *user, const void *bytes, size_t count, uint64_t off, unsigned status,
		       int *error)
{
	struct part *p = user;

	(void)bytes;
	(void)off;
	(void)error;
	if (status != LIBNBD_READ_ERROR)
		p->came += count;
	return 0;
}

/* libnbd calls this from inside its functions: the server has answered, or never will. */
static int part_done(void *user, int *error)
{
	struct part *p = user;
	struct img_nbd_request *r = p->request;

	if (*error && !r->rc)
		r->rc = -*error;
	else if (r->io && r->io->op == IMG_IO_READ && p->came < p->bytes && !r->rc)
		r->rc = -EPROTO; /* a short answer */
	if (!*error && p->gathered && r->io && r->io->op == IMG_IO_READ) {
		struct img_cursor at = { .iov = r->io->iov, .iovcnt = r->io->iovcnt };

		img_cursor_advance(&at, p->at);
		img_cursor_scatter(&at, p->gathered, p->bytes);
	}
	p->c->heard = now_ms();
	p->c->parts--;
	r->parts--;
	free_part(p);
	return 1; /* libnbd need not remember it */
}

/* libnbd: what the server says of a range, as pairs of a length and flags. */
static int take_extents(void *user, const char *context, uint64_t off, uint32_t *entries,
			size_t count, int *error)
{
	struct img_nbd_request *r = ((struct part *)user)->request;

	(void)error;
	if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
		return 0;
	for (size_t i = 0; i + 1 < count && r->extent_count < IMG_NBD_MAX_EXTENTS; i += 2) {
		struct img_nbd_extent *next = &r->extents[r->extent_count];
		bool hole = entries[i + 1] & LIBNBD_STATE_ZERO;

		if (r->extent_count && next[-1].hole == hole &&
		    next[-1].off + next[-1].len == off) {
			next[-1].len += entries[i];
		} else {
			*next = (struct img_nbd_extent){ off, entries[i], hole };
			r->extent_count++;
		}
		off += entries[i];
	}
	return 0;
}

static bool has_data(const struct img_nbd_request *r)
{
	return r->io && (r->io->op == IMG_IO_READ || r->io->op == IMG_IO_WRITE);
}

/* Zeroes are sent as data to a server that knows no other way. */
static bool sends_zeroes(const struct img_nbd_connection *c, const struct img_nbd_request *r)
{
	return r->io && (r->io->op == IMG_IO_ZERO || r->io->op == IMG_IO_PUNCH) &&
	       !c->export->can_zero;
}

/*
 * The bytes of the next part of a request with data: those of the caller's buffer at the cursor, or
 * gathered. NULL: out of memory.
 */
static uint8_t *buffer_of_part(const struct img_nbd_connection *c, struct img_cursor *at,
			       struct part *p, uint64_t left, bool reading)
{
	struct iovec first;
	uint64_t most = min_u64(left, c->export->max_bytes);

	if (img_cursor_window(at, &first, 1) &&
	    (first.iov_len >= left || first.iov_len >= LEAST_ALONE)) {
		p->bytes = (size_t)min_u64(first.iov_len, most);
		/* what follows a part must begin at a block of the server's too */
		if (p->bytes < left)
			p->bytes = (size_t)align_down_u64(p->bytes, c->export->block_bytes);
		if (p->bytes)
			return first.iov_base;
	}
	p->bytes = (size_t)min_u64(most, max_u64(GATHER_BYTES, c->export->block_bytes));
	p->gathered = malloc(p->bytes);
	if (p->gathered && !reading)
		img_cursor_gather(at, p->gathered, p->bytes);
	return p->gathered;
}

static bool is_fua(const struct img_nbd_request *r)
{
	return r->io && (r->io->flags & IMG_IO_FUA);
}

/* LIBNBD_CMD_FLAG_* of a change. */
static uint32_t command_flags(const struct img_nbd_connection *c, const struct img_nbd_request *r)
{
	uint32_t flags = is_fua(r) ? LIBNBD_CMD_FLAG_FUA : 0;

	if (r->io->op == IMG_IO_WRITE || sends_zeroes(c, r))
		return flags;
	if (r->io->flags & IMG_IO_KEEP_ALLOCATED)
		flags |= LIBNBD_CMD_FLAG_NO_HOLE;
	if (r->io->flags & IMG_IO_FAST)
		flags |= LIBNBD_CMD_FLAG_FAST_ZERO;
	return flags;
}

/* One more command for r. 0, or why there can be none. */
static int issue_part(struct img_nbd_connection *c, struct img_nbd_request *r)
{
	const struct img_nbd_library *lib = c->export->lib;
	struct part *p = calloc(1, sizeof(*p));
	uint64_t left = r->len - r->issued;
	uint64_t off = r->off + r->issued;
	nbd_completion_callback done = { .callback = part_done, .user_data = p };
	uint8_t *buffer = NULL;
	int64_t cookie;

	if (r->io && (r->io->flags & IMG_IO_FAST) && !c->export->can_fast_zero) {
		free(p);
		return -ENOTSUP;
	}
	if (!p)
		return -ENOMEM;
	img_list_init(&p->link);
	img_list_add_tail(&c->unanswered, &p->link);
	p->c = c;
	p->request = r;
	p->at = r->issued;
	if (has_data(r)) {
		struct img_cursor at = { .iov = r->io->iov, .iovcnt = r->io->iovcnt };

		img_cursor_advance(&at, r->issued);
		buffer = buffer_of_part(c, &at, p, left, r->io->op == IMG_IO_READ);
	} else if (sends_zeroes(c, r)) {
		p->bytes = (size_t)min_u64(left, min_u64(c->export->max_bytes, 1 << 20));
		buffer = p->gathered = calloc(1, p->bytes);
	} else {
		p->bytes = (size_t)min_u64(left, IMG_NBD_MAX_ZERO);
	}
	if ((has_data(r) || sends_zeroes(c, r)) && !buffer) {
		free_part(p);
		return -ENOMEM;
	}
	c->parts++; /* the answer may come from inside the call */
	r->parts++;
	r->issued += p->bytes;
	if (!r->io)
		cookie = lib->aio_block_status(
			c->handle, p->bytes, off,
			(nbd_extent_callback){ .callback = take_extents, .user_data = p }, done, 0);
	else if (r->io->op == IMG_IO_READ)
		cookie = lib->aio_pread_structured(
			c->handle, buffer, p->bytes, off,
			(nbd_chunk_callback){ .callback = count_bytes, .user_data = p }, done, 0);
	else if (r->io->op == IMG_IO_SYNC)
		cookie = lib->aio_flush(c->handle, done, 0);
	else if (buffer)
		cookie = lib->aio_pwrite(c->handle, buffer, p->bytes, off, done,
					 command_flags(c, r));
	else
		cookie = lib->aio_zero(c->handle, p->bytes, off, done, command_flags(c, r));
	if (cookie >= 0)
		return 0;
	/* refused before it was sent; the callback is not called then */
	c->parts--;
	r->parts--;
	free_part(p);
	return -EINVAL;
}

/* ---- Requests ---- */

/*
 * A flush was answered. It is good for what other connections wrote if it was the same server's that
 * answered them: one that went away has closed them, which they may not have noticed yet.
 */
static void check_others(struct img_nbd_connection *c, uint64_t flushed)
{
	struct img_nbd_export *e = c->export;

	pthread_mutex_lock(&e->lock);
	for (struct img_list *n = e->connections.next; n != &e->connections; n = n->next) {
		struct img_nbd_connection *other = IMG_CONTAINER(n, struct img_nbd_connection, link);
		struct pollfd p = { .fd = other->fd, .events = POLLRDHUP };

		if (other != c && atomic_load(&other->last) > flushed && poll(&p, 1, 0) > 0 &&
		    (p.revents & (POLLRDHUP | POLLHUP | POLLERR)))
			atomic_store(&e->lost_writes, true);
	}
	pthread_mutex_unlock(&e->lock);
}

static void set_socket(struct img_nbd_connection *c, int fd)
{
	pthread_mutex_lock(&c->export->lock);
	c->fd = fd;
	pthread_mutex_unlock(&c->export->lock);
}

static void finish(struct img_nbd_connection *c, struct img_nbd_request *r)
{
	struct img_nbd_export *e = c->export;

	img_list_del(&r->link);
	c->load -= r->len;
	if (!r->rc)
		c->losses = 0;
	if (r->io && r->io->op == IMG_IO_SYNC) {
		if (!r->rc)
			check_others(c, atomic_load(&e->flushed));
		if (!r->rc && atomic_load(&e->lost_writes))
			r->rc = -EIO;
		if (!r->rc && atomic_load(&e->flushed) < r->written)
			atomic_store(&e->flushed, r->written);
	} else if (r->io && r->io->op != IMG_IO_READ && (r->rc || !is_fua(r))) {
		atomic_store(&c->last, atomic_fetch_add(&e->written, 1) + 1);
	}
	r->finished(r, r->rc);
}

static bool is_issued(const struct img_nbd_request *r)
{
	return r->rc || (r->begun && r->issued >= r->len);
}

static void begin(struct img_nbd_connection *c, struct img_nbd_request *r)
{
	r->begun = true;
	r->written = atomic_load(&c->export->written);
	if (r->io && r->io->op == IMG_IO_SYNC && !c->export->can_flush)
		return; /* such a server has nothing that is not durable, or does not care */
	do {
		int rc = issue_part(c, r);

		if (rc && !r->rc)
			r->rc = rc;
	} while (!is_issued(r) && c->parts < MAX_PARTS);
}

/* Send what there is room for, in the order in which it came. */
static void issue(struct img_nbd_connection *c)
{
	for (struct img_list *n = c->active.next; n != &c->active && c->parts < MAX_PARTS; n = n->next) {
		struct img_nbd_request *r = IMG_CONTAINER(n, struct img_nbd_request, link);

		if (!is_issued(r))
			begin(c, r);
	}
}

/* An answer about holes may be short; it is one all the same. */
static void finish_answered(struct img_nbd_connection *c)
{
	struct img_list *n = c->active.next;

	while (n != &c->active) {
		struct img_nbd_request *r = IMG_CONTAINER(n, struct img_nbd_request, link);

		n = n->next;
		if (!r->parts && is_issued(r))
			finish(c, r);
	}
}

static void fail_all(struct img_nbd_connection *c, int rc)
{
	struct img_list *n;

	while ((n = c->active.next) != &c->active) {
		struct img_nbd_request *r = IMG_CONTAINER(n, struct img_nbd_request, link);

		r->rc = rc;
		finish(c, r);
	}
}

/* ---- The connection ---- */

static void close_handle(struct img_nbd_connection *c)
{
	img_watch_set(&c->watch, -1, 0);
	set_socket(c, -1);
	if (c->handle)
		c->export->lib->close(c->handle);
	c->handle = NULL;
	c->ready = false;
}

/* The server is gone: nothing is in flight any more, and all requests begin anew. */
static void disconnect(struct img_nbd_connection *c)
{
	struct img_nbd_export *e = c->export;
	struct img_list *n;

	close_handle(c);
	while ((n = c->unanswered.next) != &c->unanswered)
		free_part(IMG_CONTAINER(n, struct part, link));
	c->parts = 0;
	if (atomic_load(&c->last) > atomic_load(&e->flushed))
		atomic_store(&e->lost_writes, true);
	for (n = c->active.next; n != &c->active; n = n->next) {
		struct img_nbd_request *r = IMG_CONTAINER(n, struct img_nbd_request, link);

		r->begun = false;
		r->issued = 0;
		r->parts = 0;
		r->rc = 0;
		r->extent_count = 0;
	}
}

/* The server lets no more in: nothing was sent, and other connections can take the requests. */
static void refuse_all(struct img_nbd_connection *c)
{
	struct img_list *n;

	c->refused = true;
	while ((n = img_list_pop(&c->active))) {
		struct img_nbd_request *r = IMG_CONTAINER(n, struct img_nbd_request, link);

		c->load -= r->len;
		r->refused = true;
		r->finished(r, -ENOTCONN);
	}
}

/* An attempt came to nothing. Others follow for some time; then nobody waits for nothing. */
static void attempt_failed(struct img_nbd_connection *c, int rc)
{
	int64_t now = now_ms();

	close_handle(c);
	if (!c->was_ready && rc != -ESTALE) {
		refuse_all(c);
		return;
	}
	if (rc != -ESTALE && now + RETRY_MS <= c->retry_until) {
		c->retry_at = now + RETRY_MS;
		return;
	}
	c->retry_at = c->retry_until = 0;
	fail_all(c, rc == -ESTALE || rc == -ETIMEDOUT ? rc : -ENOTCONN);
}

/* Begin an attempt, if there is work and it is time. */
static void connect_again(struct img_nbd_connection *c)
{
	int64_t now = now_ms();
	int rc;

	if (img_list_empty(&c->active) || c->retry_at > now)
		return;
	c->retry_at = 0;
	if (!c->retry_until)
		c->retry_until = now + (int64_t)c->export->reconnect_seconds * 1000;
	c->connect_by = now + (int64_t)(c->was_ready ? c->export->connect_seconds
						     : min_u64(c->export->connect_seconds, FURTHER_SECONDS)) *
				      1000;
	rc = begin_connect(c->export, &c->handle, NULL);
	if (rc)
		attempt_failed(c, rc);
}

/* Is the server there, and is it the same export? What was written and never flushed may be gone. */
static void check_attempt(struct img_nbd_connection *c)
{
	struct img_nbd_export *e = c->export;

	if (!e->lib->aio_is_ready(c->handle)) {
		if (now_ms() >= c->connect_by)
			attempt_failed(c, -ETIMEDOUT);
		return;
	}
	if (e->lib->get_size(c->handle) != (int64_t)e->size ||
	    (e->lib->is_read_only(c->handle) != 0) != e->read_only) {
		attempt_failed(c, -ESTALE);
		return;
	}
	set_socket(c, e->lib->aio_get_fd(c->handle));
	c->ready = c->was_ready = true;
	c->retry_until = 0;
	c->heard = now_ms();
}

static void lost(struct img_nbd_connection *c)
{
	if (!c->ready) {
		attempt_failed(c, -ENOTCONN);
		return;
	}
	disconnect(c);
	if (!img_list_empty(&c->active) && ++c->losses > MAX_LOSSES) {
		c->losses = 0;
		fail_all(c, -EPROTO);
	}
}

/* Is the server silent, with requests unanswered? */
static bool is_silent(const struct img_nbd_connection *c)
{
	return c->parts && now_ms() - c->heard > (int64_t)c->export->request_seconds * 1000;
}

/* Nobody may have run the queue for a while: take what has come meanwhile. False: nothing has. */
static bool take_answers(struct img_nbd_connection *c)
{
	const struct img_nbd_library *lib = c->export->lib;
	struct pollfd p = { .fd = lib->aio_get_fd(c->handle), .events = POLLIN };

	if (!(lib->aio_get_direction(c->handle) & LIBNBD_AIO_DIRECTION_READ) || poll(&p, 1, 0) <= 0)
		return false;
	lib->aio_notify_read(c->handle);
	return true;
}

static unsigned wanted_events(const struct img_nbd_connection *c)
{
	unsigned direction = c->export->lib->aio_get_direction(c->handle);

	return (direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
	       (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0);
}

static void wait_for_more(struct img_nbd_connection *c)
{
	int64_t next = c->retry_at, now;

	if (c->handle) {
		img_watch_set(&c->watch, c->export->lib->aio_get_fd(c->handle), wanted_events(c));
		next = c->connect_by;
	}
	if (c->ready)
		next = c->parts ? c->heard + (int64_t)c->export->request_seconds * 1000 + 1 : 0;
	if (next && (!c->deadline || next < c->deadline)) {
		now = now_ms();
		img_watch_set_deadline(&c->watch,
				       next > now ? (uint64_t)(next - now) * 1000000 : 1);
		c->deadline = next;
	}
}

/* Do what can be done now. */
static void drive(struct img_nbd_connection *c)
{
	const struct img_nbd_library *lib = c->export->lib;

	for (bool again = true; again;) {
		again = false;
		if (!c->handle)
			connect_again(c);
		if (c->handle && !c->ready && !is_gone(lib, c->handle))
			check_attempt(c);
		if (c->ready)
			issue(c);
		if (c->handle && is_gone(lib, c->handle)) {
			lost(c);
			again = !c->retry_at && !img_list_empty(&c->active);
		} else if (c->ready && is_silent(c)) {
			again = take_answers(c);
			if (!again) {
				disconnect(c);
				fail_all(c, -ETIMEDOUT);
			}
		} else if (c->ready) {
			finish_answered(c);
		}
	}
	wait_for_more(c);
}

static void ready(struct img_watch *w, unsigned events)
{
	struct img_nbd_connection *c = IMG_CONTAINER(w, struct img_nbd_connection, watch);
	const struct img_nbd_library *lib = c->export->lib;

	if (!events)
		c->deadline = 0;
	if (c->handle && (events & (POLLIN | POLLHUP | POLLERR)) && (wanted_events(c) & POLLIN))
		lib->aio_notify_read(c->handle);
	if (c->handle && (events & (POLLOUT | POLLHUP | POLLERR)) && (wanted_events(c) & POLLOUT))
		lib->aio_notify_write(c->handle);
	drive(c);
}

/* ---- For the storage ---- */

int img_nbd_connection_new(struct img_nbd_export *export, struct img_ioq *q,
			   struct img_nbd_connection **out)
{
	struct img_nbd_connection *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->export = export;
	c->fd = -1;
	img_list_init(&c->active);
	img_list_init(&c->unanswered);
	c->watch.fn = ready;
	img_watch_add(q, &c->watch);
	pthread_mutex_lock(&export->lock);
	img_list_init(&c->link);
	img_list_add_tail(&export->connections, &c->link);
	pthread_mutex_unlock(&export->lock);
	*out = c;
	return 0;
}

int img_nbd_connect(struct img_nbd_export *export, struct img_ioq *q,
		    struct img_nbd_connection **out, struct img_error *err)
{
	struct img_nbd_connection *c = NULL;
	int rc = img_nbd_connection_new(export, q, &c);

	if (rc)
		return img_fail(err, rc, "Could not open '%s': %s", export->name,
				strerrordesc_np(-rc));
	rc = connect_handle(export, &c->handle, err);
	if (!rc)
		rc = learn(export, c->handle, err);
	c->ready = c->was_ready = !rc;
	if (!rc)
		set_socket(c, export->lib->aio_get_fd(c->handle));
	if (rc)
		img_nbd_connection_free(c);
	else
		*out = c;
	return rc;
}

void img_nbd_connection_free(struct img_nbd_connection *c)
{
	if (!c)
		return;
	if (c->ready)
		c->export->lib->aio_disconnect(c->handle, 0);
	close_handle(c);
	img_watch_remove(&c->watch);
	pthread_mutex_lock(&c->export->lock);
	img_list_del(&c->link);
	pthread_mutex_unlock(&c->export->lock);
	free(c);
}

void img_nbd_request(struct img_nbd_connection *c, struct img_nbd_request *r)
{
	r->begun = false;
	r->issued = 0;
	r->parts = 0;
	r->rc = 0;
	r->refused = false;
	img_list_init(&r->link);
	if (!c->parts)
		c->heard = now_ms();
	img_list_add_tail(&c->active, &r->link);
	c->load += r->len;
	drive(c);
}

bool img_nbd_is_refused(const struct img_nbd_connection *c)
{
	return c->refused;
}

uint64_t img_nbd_load(const struct img_nbd_connection *c)
{
	return c->load;
}

/*
 * One connection to an NBD server, and the thread that serves it: it alone calls libnbd for it.
 * Requests come by a list and an eventfd; each goes to the server in parts of a size that the server
 * takes. When the server goes away, what was not answered is sent again once it is back, or fails
 * when it stays away.
 */
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/nbd.h"

enum {
	MAX_PARTS = 64,		      /* in flight on one connection */
	MAX_ZERO_BYTES = 1 << 30,     /* of one write-zeroes or block-status request: 32 bits hold them */
	GATHER_BYTES = 256 * 1024,    /* of small buffers that are sent as one part */
	LEAST_ALONE = 64 * 1024,      /* a buffer of this size is a part of its own */
	DEFAULT_MAX_BYTES = 32 << 20, /* what servers take that say nothing */
	RETRY_MS = 250,
	MIN_TIMEOUT_MS = 10,
};

struct img_nbd_connection {
	struct img_nbd_export *export;
	struct nbd_handle *handle; /* NULL: not connected. The thread's, once there is one */
	int wake_fd;
	struct img_list active;	    /* requests that are at work */
	unsigned parts;		    /* unanswered, of all of them */
	struct img_list unanswered; /* struct part */
	int64_t heard_ms;	    /* when the server last said something */

	pthread_mutex_t lock; /* guards the rest */
	struct img_list incoming;
	unsigned load;
	bool running, stop;
	pthread_t thread;
};

/* What went to the server in one command. */
struct part {
	struct img_list link; /* in c->unanswered */
	struct img_nbd_connection *c;
	struct img_nbd_request *request;
	uint8_t *gathered; /* its bytes, if they are no part of the caller's buffers */
	uint64_t at;	   /* READ into gathered: where in the request they belong */
	size_t bytes;
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
					      (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0)) };
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

/* A handle that is connected. */
static int connect_handle(const struct img_nbd_export *e, struct nbd_handle **out,
			  struct img_error *err)
{
	const struct img_nbd_library *lib = e->lib;
	int64_t deadline = now_ms() + (int64_t)e->connect_seconds * 1000;
	struct nbd_handle *h = lib->create();
	int rc;

	if (!h)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = set_up(e, h, err);
	if (rc)
		goto out;
	rc = e->path ? lib->aio_connect_unix(h, e->path)
		     : lib->aio_connect_tcp(h, e->host, e->port);
	while (!rc && !lib->aio_is_ready(h) && !lib->aio_is_dead(h) && !lib->aio_is_closed(h))
		rc = step(lib, h, deadline);
	if (rc == -ETIMEDOUT)
		rc = img_fail(err, rc, "Could not open '%s': the server did not answer within %u s",
			      e->name, e->connect_seconds);
	else if (rc || !lib->aio_is_ready(h))
		rc = fail(e, -ECONNREFUSED, "no connection", err);
out:
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
	int64_t size = lib->get_size(h), most, least;

	if (size < 0)
		return fail(e, -EPROTO, "its size", err);
	if (size > INT64_MAX - 511)
		return img_fail(err, -EFBIG, "Could not open '%s': its size of %" PRId64 " bytes is above the largest of a disk, %" PRId64,
				e->name, size, INT64_MAX - 511);
	least = lib->get_block_size(h, LIBNBD_SIZE_MINIMUM);
	most = lib->get_block_size(h, LIBNBD_SIZE_MAXIMUM);
	if (least > 65536 || (least > 1 && !is_pow2_u64((uint64_t)least)))
		return img_fail(err, -EPROTO, "Could not open '%s': its smallest block is %" PRId64 " bytes, allowed are powers of two up to 65536",
				e->name, least);
	if (most > 0 && (most < 512 || most < least))
		return img_fail(err, -EPROTO, "Could not open '%s': its largest request is %" PRId64 " bytes, allowed are at least 512 and its block of %" PRId64,
				e->name, most, least);
	e->size = (uint64_t)size;
	e->block_bytes = least > 1 ? (uint32_t)least : 1;
	e->max_bytes = min_u64(most > 0 ? (uint64_t)most : DEFAULT_MAX_BYTES, DEFAULT_MAX_BYTES);
	e->max_bytes = align_down_u64(e->max_bytes, e->block_bytes);
	e->read_only = lib->is_read_only(h) != 0;
	e->can_flush = lib->can_flush(h) > 0;
	e->can_zero = lib->can_zero(h) > 0;
	e->can_multi_conn = lib->can_multi_conn(h) > 0;
	e->can_extents = lib->can_meta_context(h, LIBNBD_CONTEXT_BASE_ALLOCATION) > 0;
	return 0;
}

/* The server is back: is it the same export? What was written and never flushed may be gone. */
static int reconnect_once(struct img_nbd_connection *c)
{
	struct img_nbd_export *e = c->export;
	struct nbd_handle *h = NULL;
	int rc = connect_handle(e, &h, NULL);

	if (rc)
		return rc;
	if (e->lib->get_size(h) != (int64_t)e->size ||
	    (e->lib->is_read_only(h) != 0) != e->read_only) {
		e->lib->close(h);
		return -ESTALE;
	}
	c->handle = h;
	c->heard_ms = now_ms();
	return 0;
}

/* ---- Parts ---- */

static void free_part(struct part *p)
{
	img_list_del(&p->link);
	free(p->gathered);
	free(p);
}

/* libnbd calls this on the connection's thread: the server has answered, or never will. */
static int part_done(void *user, int *error)
{
	struct part *p = user;
	struct img_nbd_request *r = p->request;

	if (*error && !r->rc)
		r->rc = -*error;
	if (!*error && p->gathered && r->io && r->io->op == IMG_IO_READ) {
		struct img_cursor at = { .iov = r->io->iov, .iovcnt = r->io->iovcnt };

		img_cursor_advance(&at, p->at);
		img_cursor_scatter(&at, p->gathered, p->bytes);
	}
	p->c->heard_ms = now_ms();
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
		struct img_nbd_extent *last =
			r->extent_count ? &r->extents[r->extent_count - 1] : NULL;
		bool hole = entries[i + 1] & LIBNBD_STATE_ZERO;

		if (last && last->hole == hole && last->off + last->len == off)
			last->len += entries[i];
		else
			r->extents[r->extent_count++] =
				(struct img_nbd_extent){ off, entries[i], hole };
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
		p->bytes = (size_t)min_u64(left, MAX_ZERO_BYTES);
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
		cookie = lib->aio_pread(c->handle, buffer, p->bytes, off, done, 0);
	else if (r->io->op == IMG_IO_SYNC)
		cookie = lib->aio_flush(c->handle, done, 0);
	else if (buffer)
		cookie = lib->aio_pwrite(c->handle, buffer, p->bytes, off, done, 0);
	else
		cookie = lib->aio_zero(c->handle, p->bytes, off, done, 0);
	if (cookie >= 0)
		return 0;
	/* refused before it was sent; the callback is not called then */
	c->parts--;
	r->parts--;
	free_part(p);
	return -EINVAL;
}

/* ---- The thread ---- */

static void finish(struct img_nbd_connection *c, struct img_nbd_request *r)
{
	struct img_nbd_export *e = c->export;

	img_list_del(&r->link);
	pthread_mutex_lock(&c->lock);
	c->load--;
	pthread_mutex_unlock(&c->lock);
	if (r->io && r->io->op == IMG_IO_SYNC) {
		if (!r->rc && atomic_load(&e->lost_writes))
			r->rc = -EIO;
		if (!r->rc && atomic_load(&e->flushed) < r->written)
			atomic_store(&e->flushed, r->written);
	} else if (r->io && r->io->op != IMG_IO_READ) {
		atomic_fetch_add(&e->written, 1);
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

/* The server is gone: nothing is in flight any more, and all requests begin anew. */
static void disconnect(struct img_nbd_connection *c)
{
	struct img_nbd_export *e = c->export;
	struct img_list *n;

	if (c->handle)
		e->lib->close(c->handle);
	c->handle = NULL;
	while ((n = c->unanswered.next) != &c->unanswered)
		free_part(IMG_CONTAINER(n, struct part, link));
	c->parts = 0;
	if (atomic_load(&e->written) != atomic_load(&e->flushed))
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

/* Try again until it works or has gone on for too long; then nobody waits for nothing. */
static void reconnect(struct img_nbd_connection *c)
{
	int64_t deadline = now_ms() + (int64_t)c->export->reconnect_seconds * 1000;
	int rc;

	for (;;) {
		rc = reconnect_once(c);
		if (!rc || rc == -ESTALE || now_ms() + RETRY_MS > deadline)
			break;
		poll(NULL, 0, RETRY_MS);
	}
	if (rc)
		fail_all(c, rc == -ESTALE || rc == -ETIMEDOUT ? rc : -ENOTCONN);
}

static bool is_lost(const struct img_nbd_connection *c)
{
	return c->export->lib->aio_is_dead(c->handle) || c->export->lib->aio_is_closed(c->handle);
}

/* Wait for an answer, a new request, or the end of patience. */
static void wait_for_more(struct img_nbd_connection *c)
{
	const struct img_nbd_library *lib = c->export->lib;
	unsigned direction = c->handle ? lib->aio_get_direction(c->handle) : 0;
	int64_t left = c->heard_ms + (int64_t)c->export->request_seconds * 1000 - now_ms();
	struct pollfd fds[2] = {
		{ .fd = c->wake_fd, .events = POLLIN },
		{ .fd = c->handle ? lib->aio_get_fd(c->handle) : -1,
		  .events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
				    (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0)) },
	};
	int timeout = -1;
	uint64_t count;

	if (c->parts)
		timeout = left > MIN_TIMEOUT_MS ? (int)left : MIN_TIMEOUT_MS;
	if (poll(fds, 2, timeout) < 0)
		return;
	if (fds[0].revents && read(c->wake_fd, &count, sizeof(count)) < 0)
		return;
	if (!c->handle || !fds[1].revents)
		return;
	if ((fds[1].revents & (POLLIN | POLLHUP | POLLERR)) &&
	    (direction & LIBNBD_AIO_DIRECTION_READ))
		lib->aio_notify_read(c->handle);
	else
		lib->aio_notify_write(c->handle);
}

static bool take_incoming(struct img_nbd_connection *c)
{
	bool stop;

	if (img_list_empty(&c->active))
		c->heard_ms = now_ms();
	pthread_mutex_lock(&c->lock);
	img_list_splice(&c->active, &c->incoming);
	stop = c->stop;
	pthread_mutex_unlock(&c->lock);
	return !stop || !img_list_empty(&c->active);
}

static void *serve(void *user)
{
	struct img_nbd_connection *c = user;

	while (take_incoming(c)) {
		if (c->handle && is_lost(c))
			disconnect(c);
		if (!c->handle && !img_list_empty(&c->active))
			reconnect(c);
		if (c->handle) {
			issue(c);
			if (!is_lost(c))
				finish_answered(c);
			else
				continue;
			if (c->parts && now_ms() - c->heard_ms > (int64_t)c->export->request_seconds * 1000) {
				disconnect(c);
				fail_all(c, -ETIMEDOUT);
			}
		}
		wait_for_more(c);
	}
	return NULL;
}

/* ---- For the storage ---- */

int img_nbd_connection_new(struct img_nbd_export *export, struct img_nbd_connection **out)
{
	struct img_nbd_connection *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (c->wake_fd < 0) {
		free(c);
		return -EMFILE;
	}
	c->export = export;
	img_list_init(&c->active);
	img_list_init(&c->incoming);
	img_list_init(&c->unanswered);
	pthread_mutex_init(&c->lock, NULL);
	*out = c;
	return 0;
}

int img_nbd_connect(struct img_nbd_export *export, struct img_nbd_connection **out,
		    struct img_error *err)
{
	struct img_nbd_connection *c = NULL;
	int rc = img_nbd_connection_new(export, &c);

	if (rc)
		return img_fail(err, rc, "Could not open '%s': %s", export->name,
				strerrordesc_np(-rc));
	rc = connect_handle(export, &c->handle, err);
	if (!rc)
		rc = learn(export, c->handle, err);
	if (rc)
		img_nbd_connection_free(c);
	else
		*out = c;
	return rc;
}

static void wake(struct img_nbd_connection *c)
{
	uint64_t one = 1;

	/* cannot fail for long: the counter is read whenever the thread wakes */
	while (write(c->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

void img_nbd_connection_free(struct img_nbd_connection *c)
{
	if (!c)
		return;
	if (c->running) {
		pthread_mutex_lock(&c->lock);
		c->stop = true;
		pthread_mutex_unlock(&c->lock);
		wake(c);
		pthread_join(c->thread, NULL);
	}
	if (c->handle) {
		c->export->lib->aio_disconnect(c->handle, 0);
		c->export->lib->close(c->handle);
	}
	close(c->wake_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int img_nbd_request(struct img_nbd_connection *c, struct img_nbd_request *r)
{
	int rc = 0;

	r->connection = c;
	r->begun = false;
	r->issued = 0;
	r->parts = 0;
	r->rc = 0;
	img_list_init(&r->link);
	pthread_mutex_lock(&c->lock);
	if (!c->running) {
		rc = pthread_create(&c->thread, NULL, serve, c) ? -EAGAIN : 0;
		c->running = !rc;
	}
	if (!rc) {
		img_list_add_tail(&c->incoming, &r->link);
		c->load++;
	}
	pthread_mutex_unlock(&c->lock);
	if (!rc)
		wake(c);
	return rc;
}

unsigned img_nbd_load(struct img_nbd_connection *c)
{
	unsigned load;

	pthread_mutex_lock(&c->lock);
	load = c->load;
	pthread_mutex_unlock(&c->lock);
	return load;
}

/*
 * Storage in memory: a table of chunks, of which those never written do not exist and read as
 * zeroes. Asynchronous requests are done at once and completed through the queue.
 */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/storage/storage.h"

enum { CHUNK_BYTES = 64 * 1024 };

struct memory {
	struct img_storage base;
	uint64_t limit;
	pthread_mutex_t lock; /* guards the rest */
	uint8_t **chunks;     /* capacity of them; NULL: zeroes */
	size_t capacity;
	uint64_t chunk_count; /* of those that are not NULL */
};

static struct memory *memory_of(struct img_storage *s)
{
	return IMG_CONTAINER(s, struct memory, base);
}

/* The chunk that holds off, made if it is not there; NULL: out of memory. */
static uint8_t *make_chunk(struct memory *m, uint64_t off)
{
	uint64_t i = off / CHUNK_BYTES, capacity;
	uint8_t **chunks;

	if (i >= m->capacity) {
		capacity = max_u64(i + 1, m->capacity * 2);
		if (capacity > SIZE_MAX / sizeof(*chunks))
			return NULL;
		chunks = realloc(m->chunks, capacity * sizeof(*chunks));
		if (!chunks)
			return NULL;
		memset(chunks + m->capacity, 0, (capacity - m->capacity) * sizeof(*chunks));
		m->chunks = chunks;
		m->capacity = capacity;
	}
	if (!m->chunks[i]) {
		m->chunks[i] = calloc(1, CHUNK_BYTES);
		m->chunk_count += m->chunks[i] != NULL;
	}
	return m->chunks[i];
}

/* NULL: zeroes. */
static uint8_t *find_chunk(const struct memory *m, uint64_t off)
{
	return off / CHUNK_BYTES < m->capacity ? m->chunks[off / CHUNK_BYTES] : NULL;
}

/* Bytes past the end of the file are zero in the chunks too: reads need not look at the size. */
static void read_range(const struct memory *m, uint8_t *to, uint64_t off, size_t len)
{
	while (len) {
		size_t within = off % CHUNK_BYTES;
		size_t n = min_size(len, CHUNK_BYTES - within);
		const uint8_t *chunk = find_chunk(m, off);

		if (chunk)
			memcpy(to, chunk + within, n);
		else
			memset(to, 0, n);
		to += n;
		off += n;
		len -= n;
	}
}

static int write_range(struct memory *m, const uint8_t *from, uint64_t off, size_t len)
{
	while (len) {
		size_t within = off % CHUNK_BYTES;
		size_t n = min_size(len, CHUNK_BYTES - within);
		uint8_t *chunk = make_chunk(m, off);

		if (!chunk)
			return -ENOMEM;
		memcpy(chunk + within, from, n);
		from += n;
		off += n;
		len -= n;
	}
	return 0;
}

static void zero_range(struct memory *m, uint64_t off, uint64_t len)
{
	uint64_t end = min_u64(off + len, (uint64_t)m->capacity * CHUNK_BYTES);

	while (off < end) {
		uint64_t within = off % CHUNK_BYTES;
		uint64_t n = min_u64(end - off, CHUNK_BYTES - within);
		uint8_t **chunk = &m->chunks[off / CHUNK_BYTES];

		if (*chunk && n == CHUNK_BYTES) {
			free(*chunk);
			*chunk = NULL;
			m->chunk_count--;
		} else if (*chunk) {
			memset(*chunk + within, 0, n);
		}
		off += n;
	}
}

static int transfer(struct memory *m, enum img_io_op op, const struct iovec *iov, int iovcnt,
		    uint64_t off, uint64_t len)
{
	int rc = 0;

	for (int i = 0; i < iovcnt && len && !rc; i++) {
		size_t n = min_size(iov[i].iov_len, len);

		if (op == IMG_IO_READ)
			read_range(m, iov[i].iov_base, off, n);
		else
			rc = write_range(m, iov[i].iov_base, off, n);
		off += n;
		len -= n;
	}
	return rc;
}

static int memory_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		     uint64_t off, uint64_t len, unsigned flags)
{
	struct memory *m = memory_of(s);
	uint64_t size, end = off + len;
	int rc = 0;

	if (op == IMG_IO_SYNC)
		return 0;
	pthread_mutex_lock(&m->lock);
	size = atomic_load(&s->size);
	if ((op == IMG_IO_WRITE || op == IMG_IO_ZERO) && end > size && end > m->limit) {
		rc = -ENOSPC;
	} else if (op == IMG_IO_ZERO || op == IMG_IO_PUNCH) {
		zero_range(m, off, len);
	} else {
		rc = transfer(m, op, iov, iovcnt, off, len);
		if (rc && end > size) /* the bytes past the end stay zero */
			zero_range(m, max_u64(off, size), end - max_u64(off, size));
	}
	if (!rc && op != IMG_IO_READ) {
		if (op != IMG_IO_PUNCH && end > size)
			atomic_store(&s->size, end);
		if (!(flags & IMG_IO_FUA))
			atomic_store(&s->unsynced, true);
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

static void memory_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	io->rc = io->op == IMG_IO_EXTENTS
			 ? img_storage_extents(s, io->off, io->len, io->extents)
			 : memory_io(s, io->op, io->iov, io->iovcnt, io->off, io->len, io->flags);
	img_ioq_complete(q, io);
}

static int memory_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	struct memory *m = memory_of(s);
	uint64_t now;
	int rc = 0;

	(void)how; /* all there is to reserve is address space */
	pthread_mutex_lock(&m->lock);
	now = atomic_load(&s->size);
	if (size > now && size > m->limit) {
		rc = -ENOSPC;
	} else {
		if (size < now)
			zero_range(m, size, now - size);
		atomic_store(&s->size, size);
		atomic_store(&s->unsynced, true);
	}
	pthread_mutex_unlock(&m->lock);
	return rc;
}

static int memory_replace(struct img_storage *s, const void *bytes, size_t len, bool sync,
			  struct img_error *err)
{
	struct memory *m = memory_of(s);
	uint64_t now;
	int rc = 0;

	pthread_mutex_lock(&m->lock);
	now = atomic_load(&s->size);
	if (len > m->limit)
		rc = -ENOSPC;
	if (!rc)
		rc = write_range(m, bytes, 0, len);
	if (!rc) {
		if (len < now)
			zero_range(m, len, now - len);
		atomic_store(&s->size, len);
		if (!sync)
			atomic_store(&s->unsynced, true);
	}
	pthread_mutex_unlock(&m->lock);
	return rc ? img_fail(err, rc, "%s: %s", s->name, strerrordesc_np(-rc)) : 0;
}

static int memory_extent(struct img_storage *s, uint64_t off, uint64_t len,
			 enum img_storage_extent *kind, uint64_t *run)
{
	struct memory *m = memory_of(s);
	uint64_t end = off + len, at = off - off % CHUNK_BYTES;
	bool data;

	if (end < off)
		end = UINT64_MAX;
	pthread_mutex_lock(&m->lock);
	data = find_chunk(m, at) != NULL;
	while (at < end && (find_chunk(m, at) != NULL) == data) {
		if (at / CHUNK_BYTES >= m->capacity)
			at = end; /* nothing but zeroes from here */
		else
			at += CHUNK_BYTES;
	}
	pthread_mutex_unlock(&m->lock);
	*kind = data ? IMG_STORAGE_DATA : IMG_STORAGE_HOLE;
	*run = min_u64(at, end) - off;
	return 0;
}

static uint64_t memory_allocated(struct img_storage *s)
{
	struct memory *m = memory_of(s);
	uint64_t count;

	pthread_mutex_lock(&m->lock);
	count = m->chunk_count;
	pthread_mutex_unlock(&m->lock);
	return count * CHUNK_BYTES;
}

static void memory_close(struct img_storage *s)
{
	struct memory *m = memory_of(s);

	for (size_t i = 0; i < m->capacity; i++)
		free(m->chunks[i]);
	free(m->chunks);
	pthread_mutex_destroy(&m->lock);
	free(s->identity);
	free(s->name);
	free(m);
}

static int memory_set_writable(struct img_storage *s, bool writable, struct img_error *err)
{
	(void)s;
	(void)writable;
	(void)err;
	return 0;
}

static const struct img_storage_ops memory_ops = {
	.submit = memory_submit,
	.io = memory_io,
	.resize = memory_resize,
	.replace = memory_replace,
	.extent = memory_extent,
	.allocated = memory_allocated,
	.set_writable = memory_set_writable,
	.close = memory_close,
};

int img_storage_memory(const char *name, uint64_t size, uint64_t limit, struct img_storage **out)
{
	struct memory *m = calloc(1, sizeof(*m));

	if (m)
		m->base.name = strdup(name);
	if (!m || !m->base.name) {
		free(m);
		return -ENOMEM;
	}
	m->base.ops = &memory_ops;
	m->base.writable = true;
	m->base.limits.fua = true;
	m->base.limits.zero_fill = true;
	m->base.limits.fast_zero = true;
	m->base.limits.io_align = m->base.limits.mem_align = 1;
	m->base.limits.discard_align = CHUNK_BYTES;
	atomic_init(&m->base.size, size);
	m->limit = limit;
	pthread_mutex_init(&m->lock, NULL);
	*out = &m->base;
	return 0;
}

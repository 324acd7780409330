/*
 * Requests on a file. img_file_io() is the whole truth, blocking; the asynchronous form puts what
 * is plain into the ring and gives everything odd (the end of the file, what needs a bounce, what
 * the file system refuses) to a worker thread that calls img_file_io() for the rest.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/iovec.h"
#include "libimg/storage/posix_file.h"
#include "libimg/storage/ioq_private.h"

enum {
	MIN_RESERVE = 128 * 1024,
	MIN_SPARE = 1 << 20,
	MAX_SPARE = 16 << 20,
	WINDOW = 256, /* buffers in one system call; 4 KiB of stack */
	ZERO_BYTES = 64 * 1024,
	DEVICE_ALIGN = 4096, /* no block device has larger logical blocks */
	MAX_BOUNCE = 1 << 20,
	MAX_RETRIES = 1000, /* of a call that says "not now", a millisecond apart */
};

/* The file reaches to end, and what is known of its holes is old. */
static void mark_written(struct img_file *f, uint64_t end)
{
	if (!f->base.device)
		raise_u64(&f->base.size, end);
	atomic_fetch_add(&f->changes, 1);
}

void img_file_changed(struct img_file *f, uint64_t end)
{
	mark_written(f, end);
	atomic_store(&f->base.unsynced, true);
}

/*
 * A read at off got nothing. 1: that is past the end, where zeroes are; 0: the file has grown
 * meanwhile, try again; -EIO: the file was cut.
 */
static int judge_end(struct img_file *f, uint64_t off)
{
	uint64_t size = atomic_load(&f->base.size);
	struct stat st;

	if (off >= size)
		return 1;
	if (f->base.device || fstat(f->fd, &st))
		return -EIO;
	return (uint64_t)st.st_size > off ? 0 : -EIO;
}

/* What a write is told by io->flags. */
static int write_flags(unsigned flags)
{
	return flags & IMG_IO_FUA ? RWF_DSYNC : 0;
}

/* Bytes written or a negative errno. */
static int64_t write_guarded(struct img_file *f, const struct iovec *iov, int iovcnt, uint64_t off,
			     uint64_t len, int rw_flags)
{
	struct img_file_range range = { .off = off, .end = off + len };
	bool guard = f->buffered_fd >= 0;
	int64_t n;

	/* O_DIRECT: whole blocks keep away from those who read and rewrite parts of them */
	if (guard)
		img_file_range_lock(f, &range);
	n = pwritev2(f->fd, iov, iovcnt, (off_t)off, rw_flags);
	if (n < 0)
		n = -errno;
	if (guard)
		img_file_range_unlock(f, &range);
	return n;
}

static int64_t transfer_step(struct img_file *f, enum img_io_op op, struct img_cursor *c,
			     uint64_t off, uint64_t len, int rw_flags)
{
	struct iovec window[WINDOW];
	int count = img_cursor_window(c, window, WINDOW);
	int64_t n;

	if (!img_file_is_aligned(f, window, count, off, len))
		return img_file_bounce(f, op, c, off, len, rw_flags);
	if (op == IMG_IO_WRITE) {
		n = write_guarded(f, window, count, off, len, rw_flags);
	} else {
		n = preadv(f->fd, window, count, (off_t)off);
		if (n < 0)
			n = -errno;
	}
	if (n > 0)
		img_cursor_advance(c, (uint64_t)n);
	return n;
}

/* READ or WRITE. */
static int transfer(struct img_file *f, enum img_io_op op, const struct iovec *iov, int iovcnt,
		    uint64_t off, uint64_t len, int rw_flags)
{
	static const struct timespec pause = { .tv_nsec = 1000 * 1000 };
	struct img_cursor cursor = { .iov = iov, .iovcnt = iovcnt };
	int retries = 0;

	while (len) {
		int64_t n = transfer_step(f, op, &cursor, off, len, rw_flags);

		if (n == -EINTR)
			continue;
		if (n == -EAGAIN && ++retries < MAX_RETRIES) {
			nanosleep(&pause, NULL);
			continue;
		}
		if (n < 0)
			return (int)n;
		if (n == 0) {
			int end = op == IMG_IO_READ ? judge_end(f, off) : -EIO;

			if (end < 0 || ++retries >= MAX_RETRIES)
				return -EIO;
			if (end) {
				img_cursor_zero(&cursor, len);
				return 0;
			}
		}
		off += (uint64_t)n;
		len -= (uint64_t)n;
	}
	return 0;
}

bool img_file_read_cached(struct img_storage *s, uint64_t off, void *buf, size_t len)
{
	struct img_file *f = img_file_of(s);
	struct iovec iov = { buf, len };
	ssize_t n;

	/* O_DIRECT goes past the cache; what of an unfinished file is kept back is not in it */
	if (f->buffered_fd >= 0 || f->unfinished || atomic_load(&f->no_cached_read))
		return false;
	n = preadv2(f->fd, &iov, 1, (off_t)off, RWF_NOWAIT);
	if (n < 0 && errno == EOPNOTSUPP)
		atomic_store(&f->no_cached_read, true);
	return n == (ssize_t)len;
}

/* Does a failed fallocate() mean that this file has no such operation? */
static bool is_unsupported(int rc)
{
	return rc == -EOPNOTSUPP || rc == -ENOSYS || rc == -EINVAL || rc == -ENODEV;
}

static int try_fallocate(struct img_file *f, int mode, uint64_t off, uint64_t len)
{
	struct img_file_range range = { .off = off, .end = off + len, .exclusive = true };
	int rc;

	if (f->buffered_fd >= 0) { /* its edges are rewritten like ours */
		range.off = align_down_u64(off, f->base.limits.io_align);
		range.end = round_up_u64(off + len, f->base.limits.io_align);
		img_file_range_lock(f, &range);
	}
	do {
		rc = fallocate(f->fd, mode, (off_t)off, (off_t)len) ? -errno : 0;
	} while (rc == -EINTR);
	if (f->buffered_fd >= 0)
		img_file_range_unlock(f, &range);
	return rc;
}

/* Is it for want of space that a write failed, so that it may be tried again? */
static bool is_out_of_space(int rc)
{
	return rc == -ENOSPC || rc == -EDQUOT || rc == -EFBIG;
}

/*
 * A write of [off, end) has ended. If it failed, a part of it may be in the file all the same: past
 * the end, where others count on zeroes, that is taken back as far as the file system lets us. A
 * durable one that failed may have been told of other writes that were lost, as a sync is.
 */
static void write_completed(struct img_file *f, uint64_t off, uint64_t end, int rc, bool durable)
{
	uint64_t from = max_u64(off, atomic_load(&f->base.size));

	if (rc && from < end && !f->base.device)
		try_fallocate(f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, from, end - from);
	if (rc && durable && !is_out_of_space(rc))
		img_storage_sync_end(&f->base, rc);
	if (!rc && durable)
		mark_written(f, end);
	else
		img_file_changed(f, rc ? 0 : end);
}

/*
 * Large writes into ext4's page cache. It prepares delayed allocation block by block while a write
 * is copied; with the range allocated in one go beforehand such a write costs half (847 MB: 80 ms
 * for 137 ms, and no more until it is synced). Exactly the range, so that nothing is left over.
 *
 * They are done by a worker thread, one after the other. In the ring, too, no two would be done at
 * once, but the next one's allocation waits for its turn by spinning: that took a third of the
 * processor time of unpacking a disk.
 */
static bool is_large(const struct img_file *f, uint64_t len)
{
	return f->reserve && f->buffered_fd < 0 && len >= MIN_RESERVE;
}

/*
 * O_DIRECT writes that lengthen the file go one by one, each through the file system's journal;
 * writes into space that is there go side by side (4 KiB into new clusters of 64 KiB, ext4: 21,000 a
 * second for 55,000). So the file is lengthened by more than is asked for, where that is allowed;
 * what is left is cut off at the end. Past a limit on file sizes there is a signal, not an error.
 */
static bool reserve_ahead(struct img_file *f, uint64_t off, uint64_t len, struct img_ioq_reserve *r)
{
	uint64_t end = off + len, known = atomic_load(&f->reserved_end), from, to;
	struct rlimit limit;

	if (!f->base.may_grow_ahead || f->buffered_fd < 0 || end <= known ||
	    end <= atomic_load(&f->base.size))
		return false;
	from = max_u64(known, atomic_load(&f->base.size));
	to = end + max_u64(MIN_SPARE, min_u64(MAX_SPARE, end / 4));
	if (getrlimit(RLIMIT_FSIZE, &limit) || to > limit.rlim_cur ||
	    !atomic_compare_exchange_strong(&f->reserved_end, &known, to))
		return false;
	*r = (struct img_ioq_reserve){ 0, from, to - from };
	return true;
}

/* Is there something to allocate before a write? That it fails is for the write to say. */
static bool reserve_before(struct img_file *f, uint64_t off, uint64_t len, struct img_ioq_reserve *r)
{
	*r = (struct img_ioq_reserve){ FALLOC_FL_KEEP_SIZE, off, len };
	return is_large(f, len) || reserve_ahead(f, off, len, r);
}

void img_file_trim(struct img_file *f)
{
	uint64_t size = atomic_load(&f->base.size);

	if (atomic_exchange(&f->reserved_end, 0) > size && ftruncate(f->fd, (off_t)size))
		img_file_changed(f, 0); /* it stays longer, which is allowed */
}

static int file_write(struct img_file *f, const struct iovec *iov, int iovcnt, uint64_t off,
		      uint64_t len, unsigned flags)
{
	struct img_ioq_reserve r;
	int rc;

	if (reserve_before(f, off, len, &r))
		fallocate(f->fd, r.mode, (off_t)r.off, (off_t)r.len);
	rc = transfer(f, IMG_IO_WRITE, iov, iovcnt, off, len, write_flags(flags));
	write_completed(f, off, off + len, rc, flags & IMG_IO_FUA);
	return rc;
}

int img_file_write_zeroes(struct img_file *f, uint64_t off, uint64_t len)
{
	static uint8_t zeroes[ZERO_BYTES] __attribute__((aligned(4096)));
	struct iovec iov[16];
	int rc = 0;

	while (len && !rc) {
		uint64_t bytes = 0;
		int n;

		for (n = 0; n < (int)IMG_ARRAY_LEN(iov) && bytes < len; n++) {
			iov[n].iov_base = zeroes;
			iov[n].iov_len = (size_t)min_u64(len - bytes, sizeof(zeroes));
			bytes += iov[n].iov_len;
		}
		rc = file_write(f, iov, n, off, bytes, 0);
		off += bytes;
		len -= bytes;
	}
	return rc;
}

/* ZERO or PUNCH of a range that lies inside the file. */
static int zero_inside(struct img_file *f, enum img_io_op op, uint64_t off, uint64_t len,
		       unsigned flags)
{
	const int zero = FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE;
	const int punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	int rc = -EOPNOTSUPP;

	if (op == IMG_IO_ZERO && !atomic_load(&f->no_zero_range)) {
		rc = try_fallocate(f, zero, off, len);
		if (is_unsupported(rc))
			atomic_store(&f->no_zero_range, true);
	}
	if (is_unsupported(rc) && !(flags & IMG_IO_KEEP_ALLOCATED) &&
	    !atomic_load(&f->no_punch_hole)) {
		rc = try_fallocate(f, punch, off, len);
		if (is_unsupported(rc))
			atomic_store(&f->no_punch_hole, true);
	}
	if (is_unsupported(rc) && op == IMG_IO_PUNCH && !atomic_load(&f->no_zero_range)) {
		rc = try_fallocate(f, zero, off, len);
		if (is_unsupported(rc))
			atomic_store(&f->no_zero_range, true);
	}
	if (!is_unsupported(rc))
		return rc;
	return flags & IMG_IO_FAST ? -ENOTSUP : img_file_write_zeroes(f, off, len);
}

/* A block device zeroes whole blocks only; the rest is written. */
static int zero_device(struct img_file *f, enum img_io_op op, uint64_t off, uint64_t len,
		       unsigned flags)
{
	uint64_t end = off + len;
	uint64_t from = round_up_u64(off, DEVICE_ALIGN), to = align_down_u64(end, DEVICE_ALIGN);
	int rc;

	if (end > atomic_load(&f->base.size))
		return -ENOSPC;
	/* for zeroes that are to stay allocated the kernel may write them, and does not say */
	if ((flags & IMG_IO_FAST) && (op == IMG_IO_ZERO || from >= to))
		return -ENOTSUP;
	if (from >= to)
		return img_file_write_zeroes(f, off, len);
	rc = off < from ? img_file_write_zeroes(f, off, from - off) : 0;
	if (!rc)
		rc = zero_inside(f, op, from, to - from, flags);
	if (!rc && to < end)
		rc = img_file_write_zeroes(f, to, end - to);
	return rc;
}

/*
 * Let the file, of size bytes, end at end at least, without touching what is there. Not ftruncate(): it
 * would cut off what another request may be writing behind end at this moment.
 */
static int extend(struct img_file *f, uint64_t size, uint64_t end, unsigned flags)
{
	uint64_t from = flags & IMG_IO_KEEP_ALLOCATED ? size : end - 1;
	int rc = try_fallocate(f, 0, from, end - from);

	if (!is_unsupported(rc))
		return rc;
	if ((flags & IMG_IO_FAST) && end - from > 1)
		return -ENOTSUP;
	return img_file_write_zeroes(f, from, end - from);
}

static int file_sync(struct img_file *f)
{
	int rc;

	do {
		rc = fdatasync(f->fd) ? -errno : 0;
	} while (rc == -EINTR);
	return rc;
}

static int file_zero(struct img_file *f, enum img_io_op op, uint64_t off, uint64_t len,
		     unsigned flags)
{
	uint64_t end = off + len, size, inside;
	struct stat st;
	int rc = 0;

	if (f->base.device) {
		rc = zero_device(f, op, off, len, flags);
	} else {
		if (fstat(f->fd, &st))
			return -errno;
		size = (uint64_t)st.st_size;
		inside = off < size ? min_u64(len, size - off) : 0;
		if (inside)
			rc = zero_inside(f, op, off, inside, flags);
		if (!rc && op == IMG_IO_ZERO && end > size)
			rc = extend(f, max_u64(size, off), end, flags);
	}
	img_file_changed(f, rc || op == IMG_IO_PUNCH ? 0 : end);
	if (rc || !(flags & IMG_IO_FUA))
		return rc;
	rc = img_storage_sync_begin(&f->base);
	return img_storage_sync_end(&f->base, rc ? rc : file_sync(f));
}

int img_file_io(struct img_file *f, enum img_io_op op, const struct iovec *iov, int iovcnt,
		uint64_t off, uint64_t len, unsigned flags)
{
	switch (op) {
	case IMG_IO_READ:
		return transfer(f, op, iov, iovcnt, off, len, 0);
	case IMG_IO_WRITE:
		return file_write(f, iov, iovcnt, off, len, flags);
	case IMG_IO_ZERO:
	case IMG_IO_PUNCH:
		return file_zero(f, op, off, len, flags);
	case IMG_IO_SYNC:
		return file_sync(f);
	case IMG_IO_EXTENTS: /* by file_extent() */
		break;
	}
	return -EINVAL;
}

/* ---- Asynchronous ---- */

/*
 * An O_DIRECT write in the ring holds its range, in io->range. False: somebody is rewriting a
 * part of it (or there is no memory): a worker has to wait for that.
 */
static bool try_lock_range(struct img_file *f, struct img_io *io)
{
	struct img_file_range *range;

	if (f->buffered_fd < 0 || io->op != IMG_IO_WRITE || io->range)
		return true;
	range = malloc(sizeof(*range));
	if (!range)
		return false;
	*range = (struct img_file_range){ .off = io->off, .end = io->off + io->len };
	if (!img_file_range_try(f, range)) {
		free(range);
		return false;
	}
	io->range = range;
	return true;
}

static void release_range(struct img_file *f, struct img_io *io)
{
	if (!io->range)
		return;
	img_file_range_unlock(f, io->range);
	free(io->range);
	io->range = NULL;
}

/*
 * A request with O_DIRECT that is not aligned goes to the ring by a buffer that is: reads of any place,
 * writes of whole blocks. (Writes of parts of blocks have to read first: a worker does them.) In the
 * ring the request is that of the buffer; what it was before is kept here.
 */
struct bounce {
	struct iovec *iov, one;
	int iovcnt;
	uint64_t off, len, transferred;
	uint8_t bytes[];
};

static uint8_t *bounce_buffer(const struct img_file *f, const struct bounce *d)
{
	size_t align = max_u64(f->base.limits.mem_align, f->base.limits.io_align);

	return (uint8_t *)(((uintptr_t)d->bytes + align - 1) & ~(uintptr_t)(align - 1));
}

static bool begin_bounce(struct img_file *f, struct img_io *io, uint64_t off, uint64_t len)
{
	uint32_t block = f->base.limits.io_align;
	uint64_t from = align_down_u64(off, block), bytes = round_up_u64(off + len, block) - from;
	struct bounce *d;

	if (bytes > MAX_BOUNCE || (io->op == IMG_IO_WRITE && bytes != len))
		return false;
	d = malloc(sizeof(*d) + bytes + max_u64(f->base.limits.mem_align, block));
	if (!d)
		return false;
	d->iov = io->iov;
	d->iovcnt = io->iovcnt;
	d->off = io->off;
	d->len = io->len;
	d->transferred = io->transferred;
	d->one = (struct iovec){ bounce_buffer(f, d), bytes };
	if (io->op == IMG_IO_WRITE) {
		struct img_cursor cursor = { .iov = io->iov, .iovcnt = io->iovcnt };

		img_cursor_gather(&cursor, d->one.iov_base, (size_t)len);
	}
	io->iov = &d->one;
	io->iovcnt = 1;
	io->off = from;
	io->len = bytes;
	io->transferred = 0;
	io->bounce = d;
	return true;
}

/* io is again what it was; res: what it has transferred of its own, or the error. */
static int end_bounce(struct img_file *f, struct img_io *io, int res)
{
	struct bounce *d = io->bounce;
	uint64_t head = d->off + d->transferred - io->off, left = d->len - d->transferred, n;

	io->iov = d->iov;
	io->iovcnt = d->iovcnt;
	io->off = d->off;
	io->len = d->len;
	io->transferred = d->transferred;
	io->bounce = NULL;
	if (res > 0) {
		n = (uint64_t)res <= head ? 0 : min_u64((uint64_t)res - head, left);
		if (io->op == IMG_IO_READ) {
			struct img_cursor cursor = { .iov = io->iov, .iovcnt = io->iovcnt };

			img_cursor_scatter(&cursor, bounce_buffer(f, d) + head, (size_t)n);
		}
		res = (int)n;
	}
	free(d);
	return res;
}

static void offload(struct img_file *f, struct img_io *io)
{
	if (io->bounce)
		end_bounce(f, io, 0);
	release_range(f, io); /* the worker takes what it needs */
	if (io->op == IMG_IO_WRITE && is_large(f, io->len - io->transferred))
		img_ioq_offload_ordered(io->ioq, io);
	else
		img_ioq_offload(io->ioq, io);
}

static bool ring_transfer(struct img_file *f, struct img_io *io)
{
	uint64_t off = io->off + io->transferred, len = io->len - io->transferred;

	if (!try_lock_range(f, io))
		return false;
	if (!img_file_is_aligned(f, io->iov, io->iovcnt, off, len) &&
	    !begin_bounce(f, io, off, len))
		return false;
	if (io->op == IMG_IO_WRITE) {
		struct img_ioq_reserve r;
		bool before;

		if (is_large(f, len)) /* see there */
			return false;
		before = reserve_before(f, off, len, &r);
		return img_ioq_ring_write(io->ioq, io, f->fd, write_flags(io->flags),
					  f->buffered_fd < 0, before ? &r : NULL);
	}
	return img_ioq_ring_read(io->ioq, io, f->fd, f->buffered_fd < 0);
}

/* A range inside the file, if nothing else is to be done about it. */
static bool ring_zero(struct img_file *f, struct img_io *io)
{
	bool zero = io->op == IMG_IO_ZERO;
	int mode;

	if (f->base.device || f->buffered_fd >= 0 || (io->flags & IMG_IO_FUA) ||
	    io->off + io->len > atomic_load(&f->base.size) ||
	    atomic_load(zero ? &f->no_zero_range : &f->no_punch_hole))
		return false;
	mode = FALLOC_FL_KEEP_SIZE | (zero ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE);
	return img_ioq_ring_fallocate(io->ioq, io, f->fd, mode, io->len);
}

void img_file_submit(struct img_storage *s, struct img_ioq *q, struct img_io *io)
{
	struct img_file *f = img_file_of(s);
	bool taken = false;

	if (img_ioq_kind(q) == IMG_IO_URING) {
		switch (io->op) {
		case IMG_IO_READ:
		case IMG_IO_WRITE:
			taken = ring_transfer(f, io);
			break;
		case IMG_IO_ZERO:
		case IMG_IO_PUNCH:
			taken = ring_zero(f, io);
			break;
		case IMG_IO_SYNC:
			taken = img_ioq_ring_sync(q, io, f->fd);
			break;
		case IMG_IO_EXTENTS: /* lseek() may take as long as any request */
			break;
		}
	}
	if (!taken)
		offload(f, io);
}

static void finish(struct img_file *f, struct img_io *io, int rc)
{
	release_range(f, io);
	if (io->op == IMG_IO_WRITE)
		write_completed(f, io->off, io->off + io->len, rc, io->flags & IMG_IO_FUA);
	else if (io->op == IMG_IO_ZERO || io->op == IMG_IO_PUNCH)
		img_file_changed(f, rc || io->op == IMG_IO_PUNCH ? 0 : io->off + io->len);
	io->rc = rc;
	img_ioq_complete(io->ioq, io);
}

/* Take n bytes off the front of the request's buffers, which are its own to change. */
static void consume(struct img_io *io, uint64_t n)
{
	io->transferred += n;
	for (int i = 0; i < io->iovcnt && n; i++) {
		size_t part = (size_t)min_u64(n, io->iov[i].iov_len);

		io->iov[i].iov_base = (uint8_t *)io->iov[i].iov_base + part;
		io->iov[i].iov_len -= part;
		n -= part;
	}
}

void img_file_completed(struct img_storage *s, struct img_io *io, int res)
{
	struct img_file *f = img_file_of(s);

	if (io->bounce)
		res = end_bounce(f, io, res);
	/* canceled: whose request it was has ended, or no kernel thread could be had for it */
	if (res == -EINTR || res == -EAGAIN || res == -ECANCELED) {
		offload(f, io);
	} else if (io->op == IMG_IO_SYNC) {
		finish(f, io, res);
	} else if (io->op == IMG_IO_ZERO || io->op == IMG_IO_PUNCH) {
		if (is_unsupported(res))
			offload(f, io);
		else
			finish(f, io, res);
	} else if (res < 0) {
		finish(f, io, res);
	} else if ((uint64_t)res >= io->len - io->transferred) {
		finish(f, io, 0);
	} else {
		consume(io, (uint64_t)res);
		/* nothing came: the end of the file, for the blocking code to judge */
		if (!res || !ring_transfer(f, io))
			offload(f, io);
	}
}

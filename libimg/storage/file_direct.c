/*
 * O_DIRECT. A request whose offset, length and memory are aligned goes to the file as it is. All
 * others go through an aligned buffer: reads read more than was asked; writes read the blocks at
 * their edges, change them and write them back, and keep every other write out of these blocks
 * meanwhile. The last block of a file whose size is not a multiple of the block is written through
 * a second descriptor without O_DIRECT, because the file must not grow beyond what was asked.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/storage/posix_file.h"

enum {
	BOUNCE_BYTES = 1024 * 1024,
	DEFAULT_ALIGN = 4096,
	MAX_ALIGN = 64 * 1024, /* anything above is nonsense for O_DIRECT */
};

/* STATX_DIOALIGN (Linux 6.1), by the offsets of the kernel's struct: the C library may be older. */
enum {
	DIOALIGN_MASK = 0x2000,
	DIOALIGN_MEM_OFF = 0x98,
	DIOALIGN_OFFSET_OFF = 0x9c,
};

/* What the kernel says about alignment; false: it says nothing. 0 in *io: O_DIRECT is impossible. */
static bool query_alignment(int fd, uint32_t *io, uint32_t *mem)
{
	struct statx st;

	memset(&st, 0, sizeof(st));
	if (statx(fd, "", AT_EMPTY_PATH, DIOALIGN_MASK, &st) || !(st.stx_mask & DIOALIGN_MASK))
		return false;
	memcpy(mem, (const uint8_t *)&st + DIOALIGN_MEM_OFF, sizeof(*mem));
	memcpy(io, (const uint8_t *)&st + DIOALIGN_OFFSET_OFF, sizeof(*io));
	return true;
}

int img_file_direct_init(struct img_file *f)
{
	uint32_t io = DEFAULT_ALIGN, mem = DEFAULT_ALIGN;
	int flags = fcntl(f->fd, F_GETFL), sector, again;

	if (!query_alignment(f->fd, &io, &mem) && f->base.device &&
	    !ioctl(f->fd, BLKSSZGET, &sector) && sector > 0)
		io = mem = (uint32_t)sector;
	if (!is_pow2_u64(io) || !is_pow2_u64(mem) || io > MAX_ALIGN || mem > MAX_ALIGN)
		return -EINVAL;
	again = img_file_reopen(f->fd, NULL, flags & O_ACCMODE);
	if (again < 0)
		return again;
	if (flags < 0 || fcntl(f->fd, F_SETFL, flags | O_DIRECT)) {
		int rc = -errno;

		close(again);
		return rc;
	}
	f->buffered_fd = again;
	f->base.limits.io_align = io;
	f->base.limits.mem_align = mem;
	return 0;
}

bool img_file_is_aligned(const struct img_file *f, const struct iovec *iov, int iovcnt,
			 uint64_t off, uint64_t len)
{
	if (f->buffered_fd < 0)
		return true;
	if (!is_aligned_u64(off | len, f->base.limits.io_align))
		return false;
	for (int i = 0; i < iovcnt; i++) {
		if (!is_aligned_u64((uintptr_t)iov[i].iov_base, f->base.limits.mem_align) ||
		    !is_aligned_u64(iov[i].iov_len, f->base.limits.io_align))
			return false;
	}
	return true;
}

/* Called with the lock held. */
static bool is_free(const struct img_file *f, const struct img_file_range *r)
{
	for (struct img_list *l = f->ranges.next; l != &f->ranges; l = l->next) {
		const struct img_file_range *o = IMG_CONTAINER(l, struct img_file_range, link);

		if ((r->exclusive || o->exclusive) &&
		    ranges_overlap(r->off, r->end - r->off, o->off, o->end - o->off))
			return false;
	}
	return true;
}

void img_file_range_lock(struct img_file *f, struct img_file_range *r)
{
	pthread_mutex_lock(&f->lock);
	while (!is_free(f, r))
		pthread_cond_wait(&f->range_freed, &f->lock);
	img_list_add_tail(&f->ranges, &r->link);
	pthread_mutex_unlock(&f->lock);
}

bool img_file_range_try(struct img_file *f, struct img_file_range *r)
{
	bool got;

	pthread_mutex_lock(&f->lock);
	got = is_free(f, r);
	if (got)
		img_list_add_tail(&f->ranges, &r->link);
	pthread_mutex_unlock(&f->lock);
	return got;
}

void img_file_range_unlock(struct img_file *f, struct img_file_range *r)
{
	pthread_mutex_lock(&f->lock);
	img_list_del(&r->link);
	pthread_cond_broadcast(&f->range_freed);
	pthread_mutex_unlock(&f->lock);
}

/* Fill [at, at + len) of the buffer's block range, all aligned; what lies past the end is zero. */
static int read_blocks(struct img_file *f, uint8_t *to, size_t len, uint64_t at)
{
	ssize_t n = pread(f->fd, to, len, (off_t)at);

	if (n < 0)
		return -errno;
	memset(to + n, 0, len - (size_t)n);
	return 0;
}

static int64_t bounce_read(struct img_file *f, uint8_t *buf, struct img_cursor *c, uint64_t off,
			   uint64_t len)
{
	uint64_t from = align_down_u64(off, f->base.limits.io_align);
	uint64_t to = round_up_u64(off + len, f->base.limits.io_align), head = off - from;
	ssize_t n = pread(f->fd, buf, (size_t)min_u64(to - from, BOUNCE_BYTES), (off_t)from);

	if (n < 0)
		return -errno;
	if ((uint64_t)n <= head)
		return 0;
	len = min_u64(len, (uint64_t)n - head);
	img_cursor_scatter(c, buf + head, (size_t)len);
	return (int64_t)len;
}

/* Bytes [off, off + len) inside the file's last, partial block. */
static int64_t write_tail(struct img_file *f, uint8_t *buf, struct img_cursor *c, uint64_t off,
			  uint64_t len, int rw_flags)
{
	struct img_cursor at = *c;
	struct iovec iov = { .iov_base = buf, .iov_len = (size_t)len };
	ssize_t n;

	img_cursor_gather(&at, buf, (size_t)len);
	n = pwritev2(f->buffered_fd, &iov, 1, (off_t)off, rw_flags);
	if (n < 0)
		return -errno;
	img_cursor_advance(c, (uint64_t)n);
	return n;
}

/* Called with the blocks of [off, off + len) held. Their number fits the buffer. */
static int64_t rewrite_blocks(struct img_file *f, uint8_t *buf, struct img_cursor *c, uint64_t off,
			      uint64_t len, int rw_flags)
{
	uint32_t block = f->base.limits.io_align;
	uint64_t from = align_down_u64(off, block), end = off + len, to = round_up_u64(end, block);
	struct img_cursor at = *c;
	struct iovec iov;
	struct stat st;
	int64_t n;
	int rc = 0;

	if (fstat(f->fd, &st))
		return -errno;
	if (to > end && !f->base.device && to > (uint64_t)st.st_size) {
		if (align_down_u64(end, block) <= off)
			return write_tail(f, buf, c, off, len, rw_flags);
		to = end = align_down_u64(end, block); /* the tail is the next step */
		len = end - off;
	}
	if (from < off)
		rc = read_blocks(f, buf, block, from);
	if (!rc && end < to && (to - block > from || from == off))
		rc = read_blocks(f, buf + (to - block - from), block, to - block);
	if (rc)
		return rc;
	img_cursor_gather(&at, buf + (off - from), (size_t)len);
	iov = (struct iovec){ .iov_base = buf, .iov_len = (size_t)(to - from) };
	n = pwritev2(f->fd, &iov, 1, (off_t)from, rw_flags);
	if (n < 0)
		return -errno;
	if ((uint64_t)n <= off - from)
		return 0;
	n = (int64_t)min_u64((uint64_t)n - (off - from), len);
	img_cursor_advance(c, (uint64_t)n);
	return n;
}

static int64_t bounce_write(struct img_file *f, uint8_t *buf, struct img_cursor *c, uint64_t off,
			    uint64_t len, int rw_flags)
{
	uint32_t block = f->base.limits.io_align;
	struct img_file_range range = { .off = align_down_u64(off, block), .exclusive = true };
	int64_t n;

	len = min_u64(len, BOUNCE_BYTES - (off - range.off));
	range.end = round_up_u64(off + len, block);
	img_file_range_lock(f, &range);
	n = rewrite_blocks(f, buf, c, off, len, rw_flags);
	img_file_range_unlock(f, &range);
	return n;
}

int64_t img_file_bounce(struct img_file *f, enum img_io_op op, struct img_cursor *c, uint64_t off,
			uint64_t len, int rw_flags)
{
	/* mapped, not allocated: aligned, and a worker that never allocates has no malloc arena */
	uint32_t block = f->base.limits.io_align;
	size_t bytes = (size_t)min_u64(BOUNCE_BYTES,
				       round_up_u64(min_u64(len, BOUNCE_BYTES), block) + block);
	uint8_t *buf = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
			    0);
	int64_t n;

	if (buf == MAP_FAILED)
		return -ENOMEM;
	n = op == IMG_IO_READ ? bounce_read(f, buf, c, off, len)
			      : bounce_write(f, buf, c, off, len, rw_flags);
	munmap(buf, bytes);
	return n;
}

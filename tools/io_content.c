/* io: bytes for requests. */
#include "tools/io_content.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
	COMPARED_BYTES = 4096, /* at a time */
};

/* ---- Random ---- */

/* A permutation of 64 bits that leaves no pattern of its argument (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t x)
{
	x ^= x >> 30;
	x *= 0xbf58476d1ce4e5b9u;
	x ^= x >> 27;
	x *= 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

/* The disk is a row of 64-bit words, least significant byte first. */
static void fill_random(uint64_t seed, uint64_t off, uint8_t *buf, size_t n)
{
	const uint64_t step = 0x9e3779b97f4a7c15u;
	uint64_t key = mix(seed + step), word = mix(key + off / 8 * step) >> (off % 8 * 8);
	size_t i;

	for (i = 0; i < n; i++, word >>= 8) {
		if (i && (off + i) % 8 == 0)
			word = mix(key + (off + i) / 8 * step);
		buf[i] = (uint8_t)word;
	}
}

/* ---- Files ---- */

bool io_content_open_file(struct io_content *c, const char *path)
{
	struct stat st;
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0 || fstat(fd, &st)) {
		fprintf(stderr, "%s: %s\n", path, strerror(errno));
		if (fd >= 0)
			close(fd);
		return false;
	}
	if (S_ISREG(st.st_mode) && !st.st_size) {
		fprintf(stderr, "%s: file is empty\n", path);
		close(fd);
		return false;
	}
	*c = (struct io_content){
		.kind = IO_CONTENT_FILE,
		.path = path,
		.fd = fd,
		.file_bytes = S_ISREG(st.st_mode) ? (uint64_t)st.st_size : 0,
	};
	return true;
}

void io_content_close(struct io_content *c)
{
	if (c->kind == IO_CONTENT_FILE)
		close(c->fd);
	*c = (struct io_content){ 0 };
}

static bool fill_from_file(const struct io_content *c, uint64_t at, uint8_t *buf, size_t n)
{
	uint64_t from;
	size_t want;
	ssize_t got;

	while (n) {
		want = n;
		if (c->file_bytes) {
			from = at % c->file_bytes;
			if (want > c->file_bytes - from)
				want = (size_t)(c->file_bytes - from);
			got = pread(c->fd, buf, want, (off_t)from);
		} else {
			got = read(c->fd, buf, want);
		}
		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0) {
			fprintf(stderr, "%s: %s\n", c->path,
				got ? strerror(errno) : "ends before the request does");
			return false;
		}
		buf += got;
		at += (uint64_t)got;
		n -= (size_t)got;
	}
	return true;
}

/* ---- All kinds ---- */

bool io_content_fill(const struct io_content *c, uint64_t off, uint64_t at, uint8_t *buf, size_t n)
{
	switch (c->kind) {
	case IO_CONTENT_RANDOM:
		fill_random(c->seed, off, buf, n);
		return true;
	case IO_CONTENT_FILE:
		return fill_from_file(c, at, buf, n);
	case IO_CONTENT_BYTE:
		break;
	}
	memset(buf, c->byte, n);
	return true;
}

bool io_content_compare(const struct io_content *c, uint64_t off, uint64_t at, const uint8_t *buf,
			size_t n, struct io_difference *d)
{
	uint8_t wanted[COMPARED_BYTES];
	size_t done, i, step;

	for (done = 0; done < n; done += step) {
		step = n - done < sizeof(wanted) ? n - done : sizeof(wanted);
		if (!io_content_fill(c, off + done, at + done, wanted, step))
			return false;
		if (!memcmp(buf + done, wanted, step))
			continue;
		for (i = 0; i < step; i++) {
			if (buf[done + i] == wanted[i])
				continue;
			if (!d->count++) {
				d->off = off + done + i;
				d->found = buf[done + i];
				d->wanted = wanted[i];
			}
		}
	}
	return true;
}

/*
 * Loaded before the C library (LD_PRELOAD) of a program that changes files: one of its calls to the kernel
 * fails, or ends the program. io_uring is denied, so that all are counted.
 *
 *	FAULT_CALLS	which are counted: letters of r (reads), w (writes, zeroing, resizing), s (syncs),
 *			n (names: link, rename)
 *	FAULT_AT	number of the one that fails, from 0
 *	FAULT_HOW	a number: errno; "kill", "int", "term": the signal, when the call was done
 *	FAULT_TOTAL	a file that gets the number of calls when the program ends
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

struct io_uring;
struct io_uring_params;

static atomic_long calls;

static const char *setting(const char *name)
{
	const char *value = getenv(name);

	return value ? value : "";
}

/* errno of this call, or 0; *after: a signal to be sent when it is done, or 0. */
static int count(char kind, int *after)
{
	const char *how = setting("FAULT_HOW");
	long n;

	*after = 0;
	if (!strchr(setting("FAULT_CALLS"), kind))
		return 0;
	n = atomic_fetch_add(&calls, 1);
	if (!*setting("FAULT_AT") || n != atol(setting("FAULT_AT")))
		return 0;
	if (!strcmp(how, "kill"))
		*after = SIGKILL;
	else if (!strcmp(how, "int"))
		*after = SIGINT;
	else if (!strcmp(how, "term"))
		*after = SIGTERM;
	return *after ? 0 : atoi(how);
}

/* The same for a file: pipes and the like are not counted. */
static int count_file(int fd, char kind, int *after)
{
	struct stat st;

	*after = 0;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode))
		return 0;
	return count(kind, after);
}

__attribute__((destructor)) static void write_total(void)
{
	FILE *f = *setting("FAULT_TOTAL") ? fopen(setting("FAULT_TOTAL"), "w") : NULL;

	if (!f)
		return;
	fprintf(f, "%ld\n", atomic_load(&calls));
	fclose(f);
}

/* The C library's own. */
#define NEXT(name) ((__typeof__(&(name)))dlsym(RTLD_NEXT, #name))

#define CALL(counted, name, ...) \
	do { \
		int after_, rc_ = (counted); \
\
		if (rc_) { \
			errno = rc_; \
			return -1; \
		} \
		__typeof__(name(__VA_ARGS__)) done_ = NEXT(name)(__VA_ARGS__); \
		if (after_) \
			raise_for_all(after_); \
		return done_; \
	} while (0)

static void raise_for_all(int sig)
{
	int kept = errno;

	kill(getpid(), sig);
	errno = kept;
}

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */

ssize_t pread64(int fd, void *buf, size_t len, off64_t off)
{
	CALL(count_file(fd, 'r', &after_), pread64, fd, buf, len, off);
}

ssize_t preadv64(int fd, const struct iovec *iov, int n, off64_t off)
{
	CALL(count_file(fd, 'r', &after_), preadv64, fd, iov, n, off);
}

ssize_t pwrite64(int fd, const void *buf, size_t len, off64_t off)
{
	CALL(count_file(fd, 'w', &after_), pwrite64, fd, buf, len, off);
}

ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t off, int flags)
{
	CALL(count_file(fd, 'w', &after_), pwritev64v2, fd, iov, n, off, flags);
}

int fallocate64(int fd, int mode, off64_t off, off64_t len)
{
	CALL(count_file(fd, 'w', &after_), fallocate64, fd, mode, off, len);
}

int ftruncate64(int fd, off64_t len)
{
	CALL(count_file(fd, 'w', &after_), ftruncate64, fd, len);
}

int fdatasync(int fd)
{
	CALL(count_file(fd, 's', &after_), fdatasync, fd);
}

int fsync(int fd)
{
	CALL(count('s', &after_), fsync, fd);
}

int linkat(int from, const char *old, int to, const char *new, int flags)
{
	CALL(count('n', &after_), linkat, from, old, to, new, flags);
}

int rename(const char *old, const char *new)
{
	CALL(count('n', &after_), rename, old, new);
}

int renameat(int from, const char *old, int to, const char *new)
{
	CALL(count('n', &after_), renameat, from, old, to, new);
}

/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */

int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p);
int io_uring_queue_init_params(unsigned entries, struct io_uring *ring, struct io_uring_params *p)
{
	(void)entries;
	(void)ring;
	(void)p;
	return -ENOSYS;
}

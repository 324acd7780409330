/*
 * Storage: a byte-addressed file. Local files and block devices, memory, and wrappers that inject
 * faults or record what was written. Formats and the engine know storage only by this header.
 *
 * The blocking calls are thread-safe; the asynchronous ones follow ioq.h. Offsets and lengths are
 * bytes and need no alignment: a storage opened with O_DIRECT aligns inside.
 */
#ifndef LIBIMG_STORAGE_STORAGE_H
#define LIBIMG_STORAGE_STORAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/storage/ioq.h"

struct stat;

/* What a file system may be told of a new file. */
struct img_file_attributes {
	bool nocow;		   /* btrfs: write in place */
	bool hint_given;	   /* by the user: it is set even where the file has another */
	uint32_t extent_size_hint; /* XFS: bytes to allocate at once; 0: none */
};

/*
 * What a kind of storage does. All but close may fail. Blocking calls: thread-safe. One of submit
 * and io may be NULL: it is made of the other then (a worker thread of the queue; a queue of its own).
 */
struct img_storage_ops {
	/*
	 * Never calls io->done(); io->storage is s, the range is sane, a write is allowed. Completes by
	 * img_ioq_complete(), or from any thread by img_ioq_finish().
	 */
	void (*submit)(struct img_storage *s, struct img_ioq *q, struct img_io *io);
	/* What the kernel answered to a request that s put in a ring; NULL: s puts none there. */
	void (*completed)(struct img_storage *s, struct img_io *io, int res);
	/* Blocking form of submit, for the same op and rules. */
	int (*io)(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		  uint64_t off, uint64_t len, unsigned flags);
	/* As img_storage_read_cached(); NULL: nothing can be had so. */
	bool (*read_cached)(struct img_storage *s, uint64_t off, void *buf, size_t len);
	int (*resize)(struct img_storage *s, uint64_t size, enum img_preallocate how);
	/*
	 * What s keeps for each queue that it is used on: a connection, a context that is not thread-safe.
	 * attach: on the queue's thread, when img_ioq_attach() first asks for it. detach: when s or the
	 * queue goes, whichever is first; nothing of s is in flight then, and no watch's function of the
	 * queue runs, but it may be on another thread than the queue's. It must not wait for a thread that
	 * runs a queue.
	 */
	int (*attach)(struct img_storage *s, struct img_ioq *q, void **state);
	void (*detach)(struct img_storage *s, struct img_ioq *q, void *state);
	/*
	 * EXTENTS, blocking and one at a time; off is before the end. NULL: the whole file is data, and
	 * submit is not asked either.
	 */
	int (*extent)(struct img_storage *s, uint64_t off, uint64_t len,
		      enum img_storage_extent *kind, uint64_t *run);
	/* The same, if that is known without asking anybody; never blocks. False: it is not. NULL: it never is. */
	bool (*known_extent)(struct img_storage *s, uint64_t off, uint64_t len,
			     enum img_storage_extent *kind, uint64_t *run);
	uint64_t (*allocated)(struct img_storage *s); /* NULL: not known */
	uint64_t (*modified)(struct img_storage *s);  /* NULL: not known */
	/* NULL: nothing to do. */
	int (*publish)(struct img_storage *s, bool durable, struct img_error *err);
	/* NULL: there are none. */
	void (*set_attributes)(struct img_storage *s, const struct img_file_attributes *a);
	/* See img_storage_replace(); NULL: not to be had. Sets size and identity. */
	int (*replace)(struct img_storage *s, const void *bytes, size_t len, bool sync,
		       struct img_error *err);
	/* As img_storage_set_writable(), which sets s->writable. NULL: its role cannot be changed. */
	int (*set_writable)(struct img_storage *s, bool writable, struct img_error *err);
	void (*close)(struct img_storage *s);
};

/* What keeps others away while a storage is open for writing. */
enum img_storage_lock {
	IMG_STORAGE_LOCK_NONE,
	IMG_STORAGE_LOCK_ADVISORY, /* whoever asks for it too (lock.c) */
};

/*
 * What a storage is like, stated by its module when it is opened. A filter has those of what it lies
 * over. Sizes are bytes. Requests of any size and alignment work all the same: the module aligns, and
 * what is longer than it takes is split before it gets it (ioq_submit.c).
 */
struct img_storage_limits {
	uint32_t io_align;	/* offsets and lengths that need no bounce; a power of two, 1: any */
	uint32_t mem_align;	/* the same for memory */
	uint64_t max_bytes;	/* of one READ or WRITE, a multiple of io_align; 0: any */
	uint64_t max_zero;	/* the same of ZERO and PUNCH */
	uint64_t optimal_bytes; /* multiples of this are answered best; 0: not known */
	uint32_t discard_align; /* PUNCH gives back whole multiples of this; 0: nothing, or not known */
	bool fua;		/* takes IMG_IO_FUA; where not, who wants it syncs afterwards */
	bool zero_fill;		/* growing it makes zeroes (regular files, memory) */
	bool fast_zero;		/* ZERO without KEEP_ALLOCATED writes no zeroes, as far as is known */
	bool stream_target;	/* can be written anew from front to end and published as a whole */
	bool rotational;	/* a disk that turns, as far as is known */
	enum img_storage_lock lock;
};

/* The smaller of two limits, of which 0 is none. */
static inline uint64_t img_lower_limit(uint64_t a, uint64_t b)
{
	return !a || (b && b < a) ? b : a;
}

struct img_storage {
	const struct img_storage_ops *ops;
	char *name;	      /* for messages; the path for files */
	const char *protocol; /* of a module that is neither for files nor devices: its name; else NULL */
	/*
	 * Whose bytes these are: storages with the same text are, from the same place on, the same bytes.
	 * NULL: nobody else's. identity_off: where byte 0 of this storage is in what the text names.
	 */
	char *identity;
	uint64_t identity_off;
	_Atomic uint64_t size; /* bytes; grows with writes past the end */
	bool writable;	       /* img_storage_set_writable() */
	bool device;	       /* a block device, or /dev/null: fixed size */
	bool may_grow_ahead;   /* set by who opened it: the file may be longer than `size`, by zeroes, while
				  it is open for writing, and after a crash */
	struct img_storage_limits limits;
	_Atomic bool unsynced;	 /* written, without IMG_IO_FUA, since the last successful sync began */
	_Atomic int sync_failed; /* what the first failed sync said; 0: none */
	_Atomic uint64_t due;	 /* the engine's: zeroes up to here count as there; the file has to be as
				  long before anything that says so is durable. 0: nothing is due */

	/* The queues' (ioq_attach.c). */
	struct img_attachment *attachments;
	unsigned detaching;
};

/* What a file begins with that was not complete when its writer ended. */
#define IMG_UNFINISHED_MARK \
	"Unfinished disk image: whoever wrote this file was interrupted. It is neither the image " \
	"that was here before nor the new one.\n"

enum {
	IMG_STORAGE_WRITE = 1 << 0,	 /* open read-write */
	IMG_STORAGE_DIRECT = 1 << 2,	 /* O_DIRECT; refused with the reason where impossible */
	IMG_STORAGE_NO_LOCK = 1 << 3,	 /* take no lock at all */
	IMG_STORAGE_SHARE = 1 << 4,	 /* force-share reader: deny writers nothing */
	IMG_STORAGE_TRY_DIRECT = 1 << 5, /* O_DIRECT if possible, else buffered */
	IMG_STORAGE_RANDOM = 1 << 7,	 /* no read-ahead by the kernel */
};

/*
 * Open a regular file or block device, or for reading /dev/null, which is an empty file; anything
 * else (directory, pipe, character device) is refused. Takes QEMU-compatible OFD locks for its role (lock.c): -EAGAIN 'Failed to get "write"
 * lock' when another process is in the way. Errors carry the path.
 */
int img_storage_open_file(const char *path, unsigned flags, struct img_storage **out,
			  struct img_error *err);
/* The same for a descriptor that is already open (a gate opened it); owns fd, also on failure. */
int img_storage_open_fd(int fd, const char *path, unsigned flags, struct img_storage **out,
			struct img_error *err);

/* Is this /dev/null, under whatever name? */
bool img_storage_is_null(const struct stat *st);

/*
 * Start a new file that will be called path: empty, locked, writable. Symbolic links are followed.
 * Where nothing is it has no name (O_TMPFILE) until it is published; where the file system has no
 * such files it is called PATH.unfinished-XXXXXX, and what a killed run left under such a name is
 * removed; where nothing else may be made in the folder it is called path at once.
 * A regular file that is there is written in place: inode, hard links, owner, mode and all other
 * attributes stay. So is a block device, whose size stays too. Nothing of the old content is lost
 * before the first change; then all of it is, and until it is published the file begins with
 * IMG_UNFINISHED_MARK, which probing knows (but where attributes are asked for that only an empty file
 * can be given: then it is empty for a moment). -EBUSY: this process has it open already, or is making a
 * file of that name, however it was given.
 */
int img_storage_create_file(const char *path, unsigned flags, struct img_storage **out,
			    struct img_error *err);
/* Before the first change of a created file. Where the file system has no such thing: nothing. */
void img_storage_set_attributes(struct img_storage *s, const struct img_file_attributes *a);
/*
 * The created file is complete: give it its name, atomically, or its first bytes. Until then closing
 * it leaves nothing behind, or of what was there the mark. durable: all that was written, and the name
 * in its folder, are on disk afterwards. Nothing may be in flight. No-op for other storages.
 */
int img_storage_publish(struct img_storage *s, bool durable, struct img_error *err);

/*
 * Have a storage that is open for reading open for writing too, or the other way round, without
 * letting go of it: its locks stay held in between. No change is in flight; reads may be. On failure
 * nothing has changed. -EAGAIN: locked by another process; -EACCES, -EROFS, ...: it may not be
 * written to; -ENOTSUP: this kind of storage has no such change; -EINVAL: it is shared with writers
 * (IMG_STORAGE_SHARE), or /dev/null; -EBUSY: it was created and is not published yet.
 */
int img_storage_set_writable(struct img_storage *s, bool writable, struct img_error *err);

/* The identity of the file or device that st is of. malloc'd; NULL: out of memory. */
char *img_storage_identify(const struct stat *st);

/* Memory, for tests and small images. size bytes of zeroes; grows on writes up to limit. */
int img_storage_memory(const char *name, uint64_t size, uint64_t limit, struct img_storage **out);

/*
 * Fault injection around inner (owned by the filter). Each request that counts (see
 * struct img_fault) advances a counter; the at'th fails with rc. With sticky all later ones of the
 * kind fail too.
 */
struct img_fault {
	unsigned ops; /* mask of 1u << enum img_io_op, and IMG_FAULT_* */
	uint64_t at;  /* 0: the first; UINT64_MAX: never */
	int rc;	      /* negative errno */
	bool sticky;
	_Atomic uint64_t count; /* requests seen so far */
};
enum {
	IMG_FAULT_RESIZE = 1u << 30,
	IMG_FAULT_SET_WRITABLE = 1u << 29,
};
/* fault is borrowed; storages may share it; it may be changed while nothing is in flight. */
int img_storage_fault(struct img_storage *inner, struct img_fault *fault, struct img_storage **out);

/*
 * Recording around inner (owned by the filter): each write, zero, punch, resize and sync is
 * appended, in order of completion for writes (a sync takes its place when it is submitted: it
 * covers only what completed before). What was done with IMG_IO_FUA is marked so.
 */
struct img_record_entry {
	enum img_record_kind {
		IMG_RECORD_WRITE,
		IMG_RECORD_ZERO,
		IMG_RECORD_RESIZE,
		IMG_RECORD_REPLACE, /* another file of len bytes took its place, wholly or not at all */
		IMG_RECORD_SYNC,
		IMG_RECORD_SYNC_FAILED /* what it was to cover may be lost, whatever comes later */
	} kind;
	bool fua;	   /* WRITE, ZERO: durable by itself */
	unsigned file;	   /* of those that share a record */
	uint64_t off, len; /* RESIZE: len is the new size */
	uint8_t *data;	   /* WRITE, REPLACE */
};
struct img_record;
struct img_record *img_record_new(void);
void img_record_free(struct img_record *r);
size_t img_record_count(const struct img_record *r);
const struct img_record_entry *img_record_at(const struct img_record *r, size_t i);
int img_storage_record(struct img_storage *inner, struct img_record *r, struct img_storage **out);
/* Several files in one record. */
int img_storage_record_file(struct img_storage *inner, struct img_record *r, unsigned file,
			    struct img_storage **out);

/*
 * A window: bytes [start, start + capacity) of inner as a storage of its own; inner is the window's from
 * then on. capacity UINT64_MAX: all that there is behind start, and what is added. Writes past the capacity are
 * -ENOSPC. -EINVAL: the window lies, wholly or in part, behind the end of inner.
 */
int img_storage_window(struct img_storage *inner, uint64_t start, uint64_t capacity,
		       struct img_storage **out, struct img_error *err);

/*
 * inner, which stays its owner's and outlives it, with other bytes in places: for reading only. Later
 * patches lie over earlier ones. Takes over the array (malloc'd; NULL: none), not the bytes that it
 * leads to. size: of the whole, if that is more than inner's. -ENOMEM.
 */
struct img_patch {
	uint64_t off, len;
	const uint8_t *bytes; /* NULL: zeroes */
};
int img_storage_patched(struct img_storage *inner, struct img_patch *patches, size_t count,
			uint64_t size, struct img_storage **out);

/* Are there bytes that belong to both? By identity; sizes as they are now. */
bool img_storage_overlap(const struct img_storage *a, const struct img_storage *b);

/*
 * Let the bytes be all that s holds, durably (unless sync is false): a power cut leaves the old content or the new. A
 * file is replaced by another one of its name, owner, mode and extended attributes, with the same locks; requests in
 * flight may be answered by either. -EMLINK: a file of several names, of which only one would be replaced;
 * -ENOTSUP: no regular file; -EPERM, ...: its owner cannot be kept, its folder not be written to.
 */
int img_storage_replace(struct img_storage *s, const void *bytes, size_t len, bool sync,
			struct img_error *err);

/* NULL is fine. Releases locks; removes an unpublished file. Nothing may be in flight. */
void img_storage_close(struct img_storage *s);

/*
 * Blocking I/O. read: see struct img_io on the end of the file. Errors name the file, what was
 * tried, and where.
 */
int img_storage_read(struct img_storage *s, uint64_t off, void *buf, size_t len,
		     struct img_error *err);
/*
 * Read len bytes at off, all of them in the file, if that needs no waiting: they are in memory. False:
 * not read, or only some; read them as usual.
 */
bool img_storage_read_cached(struct img_storage *s, uint64_t off, void *buf, size_t len);
int img_storage_write(struct img_storage *s, uint64_t off, const void *buf, size_t len,
		      struct img_error *err);
/* Afterwards the file ends at off + len at least, with no byte of [0, off) touched, len 0 or not. */
int img_storage_zero(struct img_storage *s, uint64_t off, uint64_t len, struct img_error *err);
int img_storage_punch(struct img_storage *s, uint64_t off, uint64_t len, struct img_error *err);
/*
 * Once a sync of s has failed, blocking or not, all later ones fail: the kernel, say, has marked what it could not
 * write as clean, so that a success would promise what is lost.
 */
int img_storage_sync(struct img_storage *s, struct img_error *err);
/* Cut or grow. A device: stays as it is; -ENOSPC above its own size, -ENOTSUP. -EFBIG, ... */
int img_storage_resize(struct img_storage *s, uint64_t size, enum img_preallocate how,
		       struct img_error *err);
/* Any op on several buffers: 0 or a negative errno, without a sentence. len is their sum; flags: IMG_IO_FUA, ... */
int img_storage_io(struct img_storage *s, enum img_io_op op, const struct iovec *iov, int iovcnt,
		   uint64_t off, uint64_t len, unsigned flags);
/*
 * Is [off, off + *run) data or a hole? 1 <= *run <= len. Where the file system cannot tell,
 * everything is data. Past the end: a hole.
 */
int img_storage_extent(struct img_storage *s, uint64_t off, uint64_t len,
		       enum img_storage_extent *kind, uint64_t *run);
/* The same, if it is known without asking the file system or anybody; never blocks. len > 0. False: it is not. */
bool img_storage_known_extent(struct img_storage *s, uint64_t off, uint64_t len,
			      enum img_storage_extent *kind, uint64_t *run);
/* The same, as many as there is space for: a request EXTENTS, blocking. */
int img_storage_extents(struct img_storage *s, uint64_t off, uint64_t len,
			struct img_io_extents *out);
/* Bytes that the file occupies (st_blocks * 512), or its size where unknown. */
uint64_t img_storage_allocated(struct img_storage *s);
bool img_storage_allocated_known(const struct img_storage *s);
/* When it was last written to, in nanoseconds since 1970; 0: not known. */
uint64_t img_storage_modified(struct img_storage *s);
/*
 * What surrounds each sync of s. Begin: what is written from now on is not covered by it; what an earlier one
 * failed with, or 0. End: rc is the sync's, or of a write that had to be durable (IMG_IO_FUA) and was not; what
 * to answer, or what an earlier one failed with.
 */
int img_storage_sync_begin(struct img_storage *s);
int img_storage_sync_end(struct img_storage *s, int rc);
/* The sentence for a failed asynchronous request; returns io->rc. */
int img_io_fail(const struct img_io *io, struct img_error *err);

#endif

/*
 * libimg: virtual disk images of every format behind one interface.
 *
 * Handles are opaque. A fallible function returns 0 or a negative errno and takes an error object
 * last (NULL: no sentence wanted), which serves one call at a time; out-parameters are untouched on
 * failure. Any call may also fail with -ENOMEM and errors of the files. Offsets, lengths and
 * sizes are bytes. An image may be used from several threads: the blocking calls are thread-safe,
 * a queue is for one thread at a time, whichever that is. The library never prints, never exits, and
 * installs no signal handler. Unknown flags and kinds, and reserved fields that are not 0, are
 * -EINVAL. A thread that is cancelled inside a call ends the call first.
 *
 * After fork() the child must not use what its parent opened: calls with such an image or queue are
 * -EPERM. It keeps none of the parent's locks, and may open images itself.
 */
#ifndef LIBIMG_IMG_H
#define LIBIMG_IMG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#ifdef __cplusplus
extern "C" {
#endif

struct img;
struct img_error;
struct img_source_image;
struct img_queue;
struct img_secrets;
struct img_value;

/* ---- Version ---- */

/* Of this header; the Makefile takes it from here for everything else. */
#define LIBIMG_VERSION "0.1.0"
#define LIBIMG_VERSION_NUMBER 0x000100 /* the same: a byte for each part */

const char *img_version(void);	   /* of the library that is linked: LIBIMG_VERSION */
unsigned img_version_number(void); /* LIBIMG_VERSION_NUMBER of it */

/* ---- Errors ---- */

struct img_error *img_error_new(void); /* NULL: out of memory (allowed below) */
void img_error_free(struct img_error *err);
const char *img_error_text(const struct img_error *err); /* one printable sentence, never NULL */
int img_error_code(const struct img_error *err);	 /* negative errno; 0: none */

/*
 * A copy of text, malloc'd, as a terminal may have it: control characters (line breaks too),
 * characters that hide or reorder others, and bytes that are not UTF-8 are \xNN. For names and
 * texts from images; error texts are so already. NULL: out of memory.
 */
char *img_printable(const char *text);

/*
 * ---- Text that people write ----
 *
 * As QEMU's tools read it. Any thread.
 */

/*
 * A size in bytes: decimal, perhaps with a fraction (rounded to a byte) and with one of b k M G T P E
 * behind it, in either case (powers of 1024); or 0x and hexadecimal digits alone. Blanks before it and
 * a plus sign are taken. *out: 0 to 2^64 - 1, untouched on failure. -EINVAL: not a size, or a fraction
 * of a byte; -ERANGE: a negative number, or too large.
 */
int img_parse_size(const char *text, uint64_t *out);

/*
 * A whole number: decimal, 0x hexadecimal, 0 octal; blanks and a sign as above. *out: 0 to 2^64 - 1,
 * untouched on failure. -EINVAL: not a number; -ERANGE.
 */
int img_parse_number(const char *text, uint64_t *out);

/*
 * Call fn for each of "KEY=VALUE,KEY=VALUE", in order, until it returns other than 0; returns that, or
 * -ENOMEM. A comma in a value is doubled. value is NULL for a key alone, and "off" for "noKEY" alone.
 * key and value are valid during the call. err may be NULL.
 */
typedef int img_keyval_fn(void *user, const char *key, const char *value, struct img_error *err);
int img_parse_keyval(const char *text, img_keyval_fn *fn, void *user, struct img_error *err);

/* ---- Reports: trees of named values ---- */

enum img_value_kind {
	IMG_VALUE_OBJECT, /* named members, in the order they were added */
	IMG_VALUE_ARRAY,
	IMG_VALUE_STRING,
	IMG_VALUE_INT,
	IMG_VALUE_UINT,
	IMG_VALUE_BOOL,
};

/*
 * The tree owns its members; strings are borrowed from it. A value that is NULL or of another kind
 * reads as NULL, 0 or false. Not thread-safe.
 */
void img_value_free(struct img_value *v); /* the root that a function gave; NULL is fine */
enum img_value_kind img_value_kind(const struct img_value *v);
size_t img_value_count(const struct img_value *v); /* members of an object or array */
const struct img_value *img_value_at(const struct img_value *v, size_t i);
const char *img_value_key_at(const struct img_value *v, size_t i);		   /* object: the name */
const struct img_value *img_value_get(const struct img_value *v, const char *key); /* or NULL */
const char *img_value_string(const struct img_value *v);
uint64_t img_value_uint(const struct img_value *v);
int64_t img_value_int(const struct img_value *v);
bool img_value_bool(const struct img_value *v);

/* ---- Formats ---- */

/* Names of all formats, NULL past the last. */
const char *img_format_at(size_t i);
/*
 * Names of all protocols: what holds an image's bytes, as "file.driver" of a description says it, and
 * mostly as URLs begin. NULL past the last.
 */
const char *img_protocol_at(size_t i);

enum {
	IMG_FORMAT_WRITE = 1 << 0, /* images can be opened for writing */
	IMG_FORMAT_CREATE = 1 << 1,
	IMG_FORMAT_BACKING = 1 << 2,
	IMG_FORMAT_COMPRESS = 1 << 3,
	IMG_FORMAT_CHECK = 1 << 4,
	IMG_FORMAT_RESIZE = 1 << 5,
	IMG_FORMAT_IDENTITY = 1 << 6,	   /* new images get identifiers: see img_create_options */
	IMG_FORMAT_COMPRESS_SINK = 1 << 7, /* some are written compressed by img_copy_to_sink() */
};
/*
 * Names of what compressed images can be packed with; NULL past the last. missing may be NULL; else: NULL, or
 * why the library that is linked cannot unpack it.
 */
const char *img_codec_at(size_t i, const char **missing);

/* IMG_FORMAT_* of a format; -ENOENT: no such format. */
int img_format_features(const char *format);

/*
 * What can be given at creation: an array of {name, type "string"|"bool"|"number"|"size", help,
 * file? (true: of the file, not the format), default?, choices?}. NULL: no such format, or out of
 * memory. For img_value_free().
 */
struct img_value *img_format_create_options(const char *format);
/* The same of img_amend(). NULL, also: images of that format are not amended. */
struct img_value *img_format_amend_options(const char *format);

/* The format of the file or folder at path by its content: a name from img_format_at(). Blocking. */
int img_probe(const char *path, const char **format, struct img_error *err);

/* ---- Opening ---- */

enum {
	IMG_OPEN_WRITE = 1 << 0,	 /* read-write */
	IMG_OPEN_PROBE_WRITE = 1 << 1,	 /* allow WRITE without a format: probe, and if that says raw,
					   refuse writes that would turn it into another format */
	IMG_OPEN_NO_BACKING = 1 << 2,	 /* this image alone; BACKING reads as zeroes */
	IMG_OPEN_SELF_ONLY = 1 << 3,	 /* open nothing that the image names: for info; cannot be read */
	IMG_OPEN_CHECK = 1 << 4,	 /* for img_check(): tolerate what a repair can correct */
	IMG_OPEN_SHARE = 1 << 5,	 /* also while another process has it open for writing */
	IMG_OPEN_DIRECT = 1 << 6,	 /* O_DIRECT */
	IMG_OPEN_TRY_DIRECT = 1 << 7,	 /* O_DIRECT where possible */
	IMG_OPEN_UNSAFE = 1 << 8,	 /* never sync: a crash may lose or damage the image */
	IMG_OPEN_UNMAP = 1 << 9,	 /* what is discarded, freed or zeroed is given back to the file
					    system */
	IMG_OPEN_WRITETHROUGH = 1 << 10, /* each write is durable when it completes */
	IMG_OPEN_NO_LOCK = 1 << 11,
	IMG_OPEN_NO_READ_AHEAD = 1 << 12,  /* read what is asked for and no more: the kernel's own
					     read-ahead is off, and of compressed units nothing is
					     kept for who reads on */
	IMG_OPEN_KEEP_ALLOCATED = 1 << 13, /* units that are discarded or zeroed stay allocated, so that
					 the file does not grow by later writes; qcow2 version 3 */
	IMG_OPEN_SALVAGE = 1 << 14,	   /* for reading what is there of a damaged image: a part that is
					     missing fails to be read, not to be opened; not with WRITE */
	IMG_OPEN_NO_DATA = 1 << 15,	   /* what the guest has is neither read nor written: an encrypted
					 image needs no passphrase; what would need it is -ENOKEY */
};

enum img_io_kind {
	IMG_IO_AUTO,
	IMG_IO_URING,
	IMG_IO_THREADS,
};

/* Zero-initialise; set what differs from the default. */
struct img_open_options {
	const char *format; /* NULL: probe */
	unsigned flags;	    /* IMG_OPEN_* */
	/*
	 * What files an image may name: "none", "folder" (its own folder and below; the default),
	 * "any" (regular files and block devices by plain path), or "DIR:DIR". NULL: the environment
	 * variable LIBIMG_REFERENCES, else "folder".
	 */
	const char *references;
	enum img_io_kind io;		   /* how the blocking calls do I/O */
	uint64_t cache_bytes;		   /* metadata cache; 0: 4 MiB */
	const struct img_secrets *secrets; /* what the description speaks of by id; NULL: nothing */
	/* How backing images are opened, if not as the top: IMG_OPEN_* without WRITE and CHECK. */
	bool have_backing_flags;
	unsigned backing_flags; /* 0 without have_backing_flags */
	uint64_t reserved[6];
};

/*
 * Open an image and its backing chain. name: a path, also of a folder that is an image; a URL of a protocol (file:, nbd://
 * ...); or json:{...}. A path with a colon is given as ./a:b. options may be NULL. Errors: -ENOENT,
 * -EACCES, ... of the file; -EMEDIUMTYPE: not of that format; -EUCLEAN: damaged; -ENOTSUP: a feature
 * that this library does not have; -EPERM: a reference that the policy refuses; -ELOOP: a chain that
 * loops or is deeper than 256; -ENOTUNIQ, -E2BIG: a parent by UUID that two files of the folder have, or that
 * is in a folder of too many files; -EAGAIN: locked by another process; -EINVAL: a name that makes no sense,
 * or flags that are unknown or contradict each other; -EPROTONOSUPPORT: a protocol that there is not.
 * Blocking. The image is for img_close().
 */
int img_open(const char *name, const struct img_open_options *options, struct img **out,
	     struct img_error *err);

/*
 * ---- Descriptions ----
 *
 * A tree of what to open, node by node: an image, and under it what holds its bytes ("file"), the
 * image below ("backing"), an external data file ("data-file"), a detached header ("header"). Settings have dotted keys, as those of
 * QEMU's --image-opts: "driver", "file.filename", "backing.driver", "cache.direct", of the driver raw
 * "offset" and "size", of images with snapshots inside "snapshot.name" and "snapshot.id". What a
 * description names is the user's: relative to the working directory, and no matter for references.
 */
struct img_node;

/* Any name that img_open() takes, as a description, which the caller frees. -EINVAL,
   -EPROTONOSUPPORT, -ENOMEM. */
int img_node_parse_name(const char *name, struct img_node **out, struct img_error *err);
/* "key=value,key=value", as img_parse_keyval() takes it apart; a key alone is "on". */
int img_node_parse_options(const char *text, struct img_node **out, struct img_error *err);
/*
 * Set one key, in place of what it had; value NULL: nothing (of "backing" alone: none is opened).
 * Whether a format or protocol has such a key is said when it is opened. -EINVAL: the key names a node
 * and not a setting of one, or leads deeper than any chain; -ENOMEM.
 */
int img_node_set(struct img_node *node, const char *key, const char *value,
		 struct img_error *err);
/* The value of a key; NULL: not given. */
const char *img_node_get(const struct img_node *node, const char *key);
void img_node_free(struct img_node *node); /* NULL is fine */
/* img_open() of a description, which may be used again. options->format goes before its driver. */
int img_open_node(const struct img_node *node, const struct img_open_options *options,
		  struct img **out, struct img_error *err);

/* ---- Secrets: what descriptions speak of by id ---- */

/*
 * Not thread-safe while objects are added. What is in it is cleared when it is freed. A program forbids core dumps
 * if none must have keys in it: OpenSSL has copies of those of open images in memory of its own, which it clears.
 */
struct img_secrets *img_secrets_new(void);    /* NULL: out of memory */
void img_secrets_free(struct img_secrets *s); /* NULL is fine */
/*
 * "secret,id=ID,data=TEXT|file=PATH[,format=raw|base64][,keyid=ID,iv=BASE64]",
 * "tls-creds-x509,id=ID,dir=PATH[,verify-peer=off]", "tls-creds-psk,id=ID,dir=PATH[,username=NAME]".
 * A secret's file is read here. keyid: it is encrypted, by AES-256-CBC with padding, with the 32 bytes of
 * that secret, which was added before. -EINVAL: no such type, a key that it does not have or lacks, an id
 * that is taken, what does not decrypt; -ENOENT: no secret called keyid; -EFBIG: a file above 64 KiB; errors
 * of the file; -ENOMEM. text is the caller's to wipe.
 */
int img_secrets_add(struct img_secrets *s, const char *text, struct img_error *err);

enum { IMG_SECRET_MAX = 4096 }; /* bytes of a passphrase that is asked for */

/* What a passphrase is wanted for. */
struct img_secret_request {
	const char *image;  /* the image's name */
	const char *option; /* whose value would be a secret's id: "encrypt.key-secret" */
	bool is_new;	    /* of an image that is being created */
	unsigned attempt;   /* 0; 1, 2: those given before were wrong */
	uint64_t reserved[4];
};
/*
 * Store the passphrase in buf, of size bytes, and its length in *len. Other than 0: there is none. On the
 * thread that opens or creates the image, which waits meanwhile. buf is neither swapped nor dumped, and is
 * wiped when the passphrase was used.
 */
typedef int img_secret_fn(void *user, const struct img_secret_request *request, void *buf,
			  size_t size, size_t *len);
/*
 * Ask fn for the passphrase of an encrypted image for which none is named, at most three times while it
 * is wrong. fn NULL: nobody is asked, as without this call.
 */
void img_secrets_set_callback(struct img_secrets *s, img_secret_fn *fn, void *user);

/*
 * Write everything out (unless IMG_OPEN_UNSAFE: durable) and close. NULL is fine. The handle is gone
 * also on failure, which means that something may not have reached the file; but not if this is
 * refused: -EBUSY: requests are in flight, or it is the backing image of another; -EDEADLK: called from
 * a request's done(); -EPERM: in a child after fork(). An image that img_create_begin() made and that
 * was not published disappears. Its backing chain is closed with it. Blocking.
 */
int img_close(struct img *img, struct img_error *err);

const char *img_name(const struct img *img);
const char *img_format(const struct img *img);
uint64_t img_size(const struct img *img);	/* guest bytes, a multiple of 512 */
uint64_t img_unit_bytes(const struct img *img); /* cluster, grain; 512 where there is none */
bool img_was_probed(const struct img *img);	/* the format was not given but guessed */
/*
 * What who uses this image should be told, though it is open: a sentence that begins with its name.
 * NULL: nothing. Lives as long as img. Of the chain call it on each img_backing().
 */
const char *img_warning(const struct img *img);
/*
 * What an image that was taken for a raw disk by guess looks like, if that is no disk: "xz-compressed
 * data". A phrase to go on after "it looks like". NULL: nothing of the kind.
 */
const char *img_guessed_content(const struct img *img);
/*
 * When the image's own file was last written to, in nanoseconds since 1970 (of split formats: the
 * file that was opened); 0: not known (a block device).
 */
uint64_t img_modified(const struct img *img);
bool img_is_writable(const struct img *img); /* open for writing, now */
/*
 * The image below img; NULL: none. It lives until img is closed or gets another one, and is not to be
 * closed itself (-EBUSY). All other calls may be made with it: it is an image like img.
 */
struct img *img_backing(const struct img *img);

/*
 * Is what name leads to (a path, a URL) a file or export that img or an image of its backing chain is
 * made of, under whatever name?
 */
bool img_depends_on(const struct img *img, const char *name);

/*
 * The image's report: an object with the keys of `qemu-img info --limits --output=json`, and "backing-uuid"
 * where its parent's is all that the image has of it. What that came to is reported if the chain is open. The
 * caller frees it. For the backing chain call it on each img_backing().
 */
int img_info(struct img *img, struct img_value **out, struct img_error *err);

/* The path that a backing name stored in an image at image_path means. malloc'd; NULL: no memory. */
char *img_resolve_name(const char *image_path, const char *backing_name);

/* ---- Creating ---- */

/* Zero-initialise. */
struct img_create_options {
	const char *format;
	uint64_t size;		  /* guest bytes; rounded up to 512 */
	bool have_size;		  /* false: the backing file's size */
	const char *backing_name; /* stored as given; relative: to the new image's folder */
	const char *backing_format;
	bool backing_unchecked;	    /* do not open the backing file */
	const char *const *options; /* "key=value,..." strings, NULL at the end; may be NULL */
	bool compress;		    /* what is written to it will be compressed: see img_submit_writev() */
	unsigned flags;		    /* IMG_OPEN_* for the handle: DIRECT, TRY_DIRECT, UNSAFE, UNMAP,
				       WRITETHROUGH, NO_LOCK; SHARE: for the backing image, which a
				       guest may be using */
	const char *references;	    /* see img_open_options; for backing_name */
	enum img_io_kind io;
	/*
	 * What identifiers that the format writes (UUIDs, content IDs) are derived from, so that the
	 * same disk made twice is the same bytes; 0, 0: random. See img_content_identity().
	 */
	uint64_t identity[2];
	/* What options, and a json: name of the backing image, speak of by id; NULL: nothing. */
	const struct img_secrets *secrets;
	uint64_t *new_size; /* NULL, or set to the size that the new disk has: formats round it */
	uint64_t reserved[4];
};

/*
 * What would be created: an object of all settings with a value, in the order that qemu-img prints
 * (fmt, options ...), after every check that needs no file made. The caller frees it.
 */
int img_create_prepare(const char *path, const struct img_create_options *options,
		       struct img_value **out, struct img_error *err);

/*
 * Create an image and open it for writing. A new file has its name only after img_publish(); closed before
 * that it leaves nothing behind. A file or block device that is there is written in place: what it held
 * is gone from the first change on, and until img_publish() it begins with a mark, which makes it no image.
 * -EINVAL: no name or format, flags that are not listed above, options that make no sense; -ENOENT: no such
 * format; -ENOTSUP: a format that cannot be created; -EBUSY: this process has the file open. Blocking.
 */
int img_create_begin(const char *path, const struct img_create_options *options, struct img **out,
		     struct img_error *err);
/*
 * Write out, durably (unless IMG_OPEN_UNSAFE), and give the image its name, or its first bytes in a file
 * that was there. It stays open. Once it is published: 0. -EDEADLK: as for img_resize(). Blocking.
 */
int img_publish(struct img *img, struct img_error *err);

/*
 * Begin, publish, close. Where a format keeps older states as backing images in the same folder, an image that is
 * its own backing file gets a new, empty state on top of what it holds; of that img_create_begin() is -ENOTSUP.
 */
int img_create(const char *path, const struct img_create_options *options, struct img_error *err);

/*
 * ---- Blocking I/O; thread-safe. off + len <= img_size() or -EINVAL ----
 *
 * Calls of several threads go side by side. A thread that has requests of its own in flight on a
 * queue must not call these on the same image: they may have to wait for those requests, which only
 * that thread can finish. Any alignment and length will do; nothing is done for len 0. -EROFS: a change to
 * an image that is not open for writing; -EUCLEAN: damaged there; -EPERM: fork(), IMG_OPEN_PROBE_WRITE.
 */

int img_read(struct img *img, uint64_t off, void *buf, size_t len, struct img_error *err);
int img_write(struct img *img, uint64_t off, const void *buf, size_t len, struct img_error *err);
int img_zero(struct img *img, uint64_t off, uint64_t len, struct img_error *err);
int img_discard(struct img *img, uint64_t off, uint64_t len, struct img_error *err);
/* All that was written before is durable when this returns; of an image that is open for reading: 0. */
int img_flush(struct img *img, struct img_error *err);
/* The same with IMG_SUBMIT_* flags (below), as img_submit_writev() and the others take them. */
int img_write_with(struct img *img, uint64_t off, const void *buf, size_t len, unsigned flags,
		   struct img_error *err);
int img_zero_with(struct img *img, uint64_t off, uint64_t len, unsigned flags,
		  struct img_error *err);
int img_discard_with(struct img *img, uint64_t off, uint64_t len, unsigned flags,
		     struct img_error *err);

/* ---- Asynchronous I/O ---- */

/*
 * kind: AUTO takes io_uring if it may. Requests go on only while their queue is run, by whatever thread:
 * one whose descriptor is readable should be run soon, also for the others' sake. A change to a unit
 * that another queue's change in flight allocates or rewrites, and all that waits for changes in flight
 * (resize, check, growth of tables), wait for that queue to be run; reads, flushes and other units do not.
 * The queue is for img_queue_close(). -EINVAL; -ENOSYS, -EPERM, ...: IMG_IO_URING that the kernel refuses.
 */
int img_queue_new(enum img_io_kind kind, struct img_queue **out, struct img_error *err);
/*
 * NULL is fine. Refused, with nothing done: -EBUSY: requests are in flight; -EDEADLK: called from a
 * done() of this queue; -EPERM: in a child after fork().
 */
int img_queue_close(struct img_queue *q, struct img_error *err);
void img_queue_free(struct img_queue *q); /* the same, for who knows that it is not refused */
/*
 * Readable (poll, epoll, also edge-triggered) when img_queue_run() has work; the queue's own. -EMFILE,
 * ...: it could not be made, when first asked for.
 */
int img_queue_fd(const struct img_queue *q);
/*
 * Submit what was gathered, run completions. wait: block until at least one request completed
 * (nothing in flight: returns 0 at once). Returns the number of requests completed, or -EDEADLK: called
 * from a done() of this queue; -EPERM: in a child after fork().
 */
int img_queue_run(struct img_queue *q, bool wait);
size_t img_queue_in_flight(const struct img_queue *q);
/*
 * Register memory that requests on this queue will use again and again, in place of what was
 * registered before (count 0: nothing): the kernel then need not look it up for each request, which
 * O_DIRECT gains by. It serves requests whose one buffer lies within one of these; all others work
 * as before, and so does everything if this fails. At most 1024, where each GiB of a larger one counts
 * for itself. The memory must stay until it is replaced or the queue is freed. The files that the
 * queue uses are registered from then on too; if the process is killed, the kernel closes them only
 * a moment later. Errors: -ENOMEM: above the limit of locked memory (ulimit -l); -EBUSY: requests are
 * in flight; -EINVAL; -EPERM: in a child after fork().
 */
int img_queue_set_buffers(struct img_queue *q, const struct iovec *iov, unsigned count,
			  struct img_error *err);

/*
 * Called on the queue's thread from img_queue_run(), once for each request. rc: 0 or a negative
 * errno; err: its sentence, borrowed until this returns, never NULL.
 */
typedef void img_done_fn(void *user, int rc, const struct img_error *err);

enum {
	IMG_SUBMIT_ORDERED = 1 << 0,  /* changes: allocate in the order of submission among such */
	IMG_SUBMIT_COMPRESS = 1 << 1, /* writev: store compressed; off a unit's start, len a unit */
	/*
	 * zero: what is allocated there may be given back, if the image was opened with IMG_OPEN_UNMAP
	 * (img_zero() always may). Else it stays allocated where the format can say that of zeroes.
	 */
	IMG_SUBMIT_MAY_UNMAP = 1 << 2,
	/*
	 * Changes: done, and all that leads to it, is durable, as after a flush, but of this request alone.
	 * Nothing else is synced where the storage can do that (files, NBD) and the metadata is durable
	 * already. With IMG_OPEN_UNSAFE nothing is.
	 */
	IMG_SUBMIT_FUA = 1 << 3,
	/*
	 * zero: no hole is made, and all of the range is allocated afterwards, what was not before too.
	 * Not with MAY_UNMAP.
	 */
	IMG_SUBMIT_KEEP_ALLOCATED = 1 << 4,
	/* zero: -ENOTSUP rather than writing zeroes; a part of the range may have been zeroed then */
	IMG_SUBMIT_FAST = 1 << 5,
};

/*
 * iov and its buffers are borrowed until done runs; the library may change the iovec array meanwhile,
 * the caller may not. 0, or an error with its sentence in err, and then done is not called: -ENOMEM;
 * -EINVAL: flags that this kind of request has not or that contradict each other, a range past the end,
 * or a compressed write that is not one unit; -EROFS: the image is not open for writing; -ENOTSUP: its
 * format has no compression; -EPERM: see IMG_OPEN_PROBE_WRITE, and fork(). Everything else comes by
 * done().
 */
int img_submit_readv(struct img_queue *q, struct img *img, uint64_t off, struct iovec *iov,
		     int iovcnt, unsigned flags, img_done_fn *done, void *user,
		     struct img_error *err);
int img_submit_writev(struct img_queue *q, struct img *img, uint64_t off, struct iovec *iov,
		      int iovcnt, unsigned flags, img_done_fn *done, void *user,
		      struct img_error *err);
int img_submit_zero(struct img_queue *q, struct img *img, uint64_t off, uint64_t len,
		    unsigned flags, img_done_fn *done, void *user, struct img_error *err);
int img_submit_discard(struct img_queue *q, struct img *img, uint64_t off, uint64_t len,
		       unsigned flags, img_done_fn *done, void *user, struct img_error *err);
int img_submit_flush(struct img_queue *q, struct img *img, img_done_fn *done, void *user,
		     struct img_error *err);

/* ---- What requests go best with ---- */

enum {
	IMG_LIMIT_FUA = 1 << 0,	       /* IMG_SUBMIT_FUA costs no flush where nothing is allocated */
	IMG_LIMIT_ROTATIONAL = 1 << 1, /* a file of the chain is a disk that turns, as far as is known */
	/*
	 * Zeroing multiples of zero_granularity writes no zeroes (without IMG_SUBMIT_KEEP_ALLOCATED), so
	 * that IMG_SUBMIT_FAST is not refused, as far as is known of the file system or server.
	 */
	IMG_LIMIT_FAST_ZERO = 1 << 2,
	/* Multiples of discard_granularity that were discarded read as zeroes. */
	IMG_LIMIT_DISCARD_ZEROES = 1 << 3,
};
/* Bytes. Requests of any alignment and length work: the library cuts them up. */
struct img_limits {
	uint32_t block;		   /* multiples of this take no bounce and no read-modify-write */
	uint32_t memory_align;	   /* the same of buffers */
	uint64_t optimal;	   /* multiples of this are best: what one write allocates */
	uint64_t zero_granularity; /* what is zeroed without writing zeroes, if it is at all */
	uint64_t discard_granularity;
	uint64_t max_transfer, max_zero, max_discard; /* what is one request to every file; 0: any */
	uint32_t flags;				      /* IMG_LIMIT_* */
};
/*
 * For img and the files of its whole backing chain, as they are now. bytes: sizeof(struct img_limits) as
 * the caller knows it: what is beyond is left out, what the library does not know is 0. -ENOMEM, -EPERM;
 * -EINVAL: opened with IMG_OPEN_SELF_ONLY.
 */
int img_get_limits(struct img *img, struct img_limits *out, size_t bytes, struct img_error *err);

/* ---- Where data is ---- */

struct img_map_entry {
	uint64_t start, length;
	uint32_t depth; /* 0: this image, +1 for each backing file */
	bool present;	/* allocated somewhere in the chain */
	bool zero;	/* reads as zeroes */
	bool data;	/* holds data */
	bool compressed;
	bool encrypted;
	bool has_offset; /* offset is where the bytes lie, as they are, in file */
	uint64_t offset;
	const char *file; /* lives as long as the image that it is of: img, or one below it */
	uint64_t reserved[4];
};
/*
 * What [off, off + len), len >= 1, is, from off on: entry->length >= 1. Blocking; thread-safe. Neighbours
 * may be alike: img_map_each() merges them. deep: descend into backing files, and into holes of plain
 * files; else this image alone (not present: BACKING). -EINVAL: no range of the disk, or an image that was
 * opened with IMG_OPEN_SELF_ONLY; -EUCLEAN: damaged there.
 */
int img_map(struct img *img, uint64_t off, uint64_t len, bool deep, struct img_map_entry *entry,
	    struct img_error *err);
/*
 * The same of all of [off, off + len), which may be nothing: fn is called for each entry, in order,
 * until it returns other than 0, which is then returned; neighbours that are alike are one. entry is
 * valid during the call. Memory does not grow with the number of entries. fn may use img.
 */
typedef int img_map_each_fn(void *user, const struct img_map_entry *entry);
int img_map_each(struct img *img, uint64_t off, uint64_t len, bool deep, img_map_each_fn *fn,
		 void *user, struct img_error *err);

enum {
	IMG_MAP_DEEP = 1 << 0, /* descend, as img_map() with deep */
};
/*
 * Called on the queue's thread from img_queue_run(). rc 0: count >= 1 entries, borrowed until this
 * returns: the first begins at the request's off, each where the one before ends, and neighbours
 * that are alike are one. They cover less than was asked about if there were more than max of them, or
 * if what follows could not be found out: who asks from there on is told.
 */
typedef void img_map_fn(void *user, int rc, const struct img_map_entry *entries, size_t count,
			const struct img_error *err);
/*
 * The same on a queue, of all of [off, off + len), len >= 1, at most max entries. The queue's thread
 * never waits, neither for metadata nor for a file system or server that is asked for holes; other
 * requests may be in flight. What a change in flight touches is as before or after it. Errors as
 * img_submit_readv(); -EINVAL, also: max is 0.
 */
int img_submit_map(struct img_queue *q, struct img *img, uint64_t off, uint64_t len, unsigned flags,
		   size_t max, img_map_fn *done, void *user, struct img_error *err);

/*
 * ---- Maintenance; blocking ----
 *
 * These wait for what other threads have in flight, and what comes meanwhile waits for them. -EDEADLK:
 * a queue of the calling thread has requests in flight.
 */

enum img_preallocate {
	IMG_PREALLOCATE_OFF,
	IMG_PREALLOCATE_METADATA, /* what the format says of the space, not the space */
	IMG_PREALLOCATE_FALLOC,	  /* reserve blocks */
	IMG_PREALLOCATE_FULL,	  /* write zeroes */
};
/*
 * Let the disk have size bytes, a multiple of 512 (raw: any). A new part reads as zeroes, and is durably
 * so before the file tells the new size. Shrinking throws data away: the caller asks first. -ENOTSUP: the
 * format, or this image, cannot; -EROFS; -EINVAL: no such size, preallocation of what does not grow, or a
 * backing file that is not open; -EFBIG: more than the format or the library has; -ENOSPC; -EDEADLK.
 */
int img_resize(struct img *img, uint64_t size, enum img_preallocate preallocation,
	       struct img_error *err);

struct img_measure_result {
	uint64_t required;	  /* bytes that the file takes with what is known to be in the disk */
	uint64_t fully_allocated; /* when all of the disk was written */
	uint64_t reserved[4];
};
/*
 * How large a new image would be: options as for img_create_begin(), with a size; nothing is made. -ENOTSUP: the format does
 * not tell; else errors of img_create_begin() before a file is made.
 */
int img_measure(const struct img_create_options *options, struct img_measure_result *out,
		struct img_error *err);

/* Zero-initialise. */
struct img_amend_options {
	const char *const *options; /* "key=value,..." strings, NULL at the end; may be NULL */
	bool force;		    /* also what cannot be undone: the last key slot is erased */
	/* What options speak of by id; NULL: nothing. */
	const struct img_secrets *secrets;
	uint64_t reserved[6];
};
/*
 * Change what was chosen when img was made, durably (img_format_amend_options()): LUKS has key slots added and
 * erased by it. -ENOTSUP: the format has nothing to amend, or this image cannot be; -EROFS; -EINVAL: options
 * that there are none of, or that cannot be done, or not without force; -EKEYREJECTED: a passphrase fits no
 * slot; -ENOSPC: no slot is free; -EDEADLK.
 */
int img_amend(struct img *img, const struct img_amend_options *options, struct img_error *err);

/*
 * Store another backing file's name in img's file, durably: relative to the image's own folder, or
 * NULL or "" for none any more. format NULL: none is stored. Only what the file says changes: the
 * chain that is open stays as it is until img_set_backing(), and what the guest sees afterwards is the caller's to
 * know. The file need not be there, unless the format stores what it is (VMDK: its content ID and UUID; it is
 * opened then, or taken from the open chain): the same name once more stores that anew. Other queues may read meanwhile. Dirty bitmaps inside the
 * image are marked as out of date, here and by img_make_empty(), as by any change. A power cut leaves the old
 * name or the new one. -EROFS; -ENOTSUP: the format, or this image, has no such thing; -ELOOP: it is
 * img itself, or built on it; -ENOSPC: no room for the name; -EINVAL; -EMLINK: a file of several names that would have
 * to be replaced (a VMDK's descriptor); errors of opening the file where it is opened; -EDEADLK: requests of this thread
 * are in flight.
 */
int img_set_backing_name(struct img *img, const char *name, const char *format,
			 struct img_error *err);
/*
 * Give up all content of img's present state, durably, so that everything reads as the backing image
 * does (without one: zeroes). Snapshots inside it stay. A failure or a power cut on the way leaves
 * each part of the disk as it was, or given up. -EROFS; -ENOTSUP: the format, or this image, cannot;
 * -EUCLEAN, -EDEADLK.
 */
int img_make_empty(struct img *img, struct img_error *err);

/*
 * ---- Changing an open chain; blocking ----
 *
 * What other threads have in flight on the image and on those above it is waited for or goes on
 * afterwards; they need to run their queues for that. -EDEADLK: a queue of the calling thread has
 * requests in flight there. On failure everything is as it was.
 */

/*
 * Let an image that is open for reading be written to, or only be read any more: img_open()'s, or
 * any img_backing() of it. It stays open all the time, and its locks stay held. To writable: as
 * img_open() with IMG_OPEN_WRITE would be refused, and -EAGAIN: another process, or another image of
 * this one, has the file open. Of an image whose format was guessed, writes that would turn it into another
 * format are refused (see IMG_OPEN_PROBE_WRITE). To read-only: everything is written out and durable
 * (unless IMG_OPEN_UNSAFE) as by img_close(); who had writes in flight that were not done yet gets
 * -EROFS. What it is already: 0. -EINVAL: it was opened with SHARE, CHECK, SALVAGE, SELF_ONLY, or as a
 * snapshot; -EBUSY: it is being created.
 */
int img_set_writable(struct img *img, bool writable, struct img_error *err);

/*
 * Let backing (NULL: none) be the image below img, which may be any image of a chain, from now on.
 * What the file of img says stays: call img_set_backing_name() before, since a format may compare the
 * two. What the guest sees afterwards is the caller's to know.
 *
 * backing is an image that img_open() gave, alone or with a chain of its own; it belongs to img from now
 * on. Or it is further down in the chain of img already: then the images between the two are taken out.
 * *removed: the images that are not below img any more, from the old img_backing() on, are one for the caller
 * to close, without what backing is; NULL: there are none. Of backing, and of the images that are taken
 * out, nobody else may be making calls or have requests in flight; of img and those above anybody may.
 *
 * -ENOTSUP: the format has no backing image; -ELOOP: backing is img, or one that is above it, or has a
 * file in common with these; the chain would be deeper than 256; -EBUSY: it is the backing image of
 * another; it is being created; -EINVAL: the format needs a backing image, or this is another one than
 * it is made for; img or backing was opened with CHECK, SALVAGE or SELF_ONLY.
 */
int img_set_backing(struct img *img, struct img *backing, struct img **removed, struct img_error *err);

struct img_check_result {
	uint64_t check_errors, corruptions, leaks, corruptions_fixed, leaks_fixed;
	uint64_t image_end, total_units, allocated_units, fragmented_units, compressed_units;
	uint64_t reserved[4];
};
enum {
	IMG_REPAIR_LEAKS = 1,
	IMG_REPAIR_ALL = 3,
	/* With REPAIR_ALL: what the file does not hold any more becomes zeroes. Ask the user first. */
	IMG_REPAIR_LOSS = 4,
};
/*
 * Check the image's own structures. repair: 0, IMG_REPAIR_LEAKS, or IMG_REPAIR_ALL with or without
 * IMG_REPAIR_LOSS: the image must be open with IMG_OPEN_WRITE | IMG_OPEN_CHECK. report: gets a line, without
 * a line break, for each of the first 65536 defects, and for what is
 * repaired; on this thread; may be NULL. -ENOTSUP: the format has nothing to check; -EROFS: a repair of
 * what is open for reading; -EINVAL; -EDEADLK. 0 also where defects are found: *out counts them.
 */
int img_check(struct img *img, unsigned repair, void (*report)(void *user, const char *line),
	      void *user, struct img_check_result *out, struct img_error *err);

/* ---- Jobs ---- */

/* Called now and then on the thread that runs the job; returning true ends it with -ECANCELED. */
typedef bool img_progress_fn(void *user, uint64_t done, uint64_t total);

/*
 * [off, off + len) of source cannot be read, and why (borrowed until this returns). On the thread
 * that runs the job, or on one of its own: never twice at a time.
 */
typedef void img_unreadable_fn(void *user, struct img *source, uint64_t off, uint64_t len,
			       const struct img_error *why);

/* Zero-initialise. */
struct img_copy_options {
	bool target_is_zero; /* an existing target reads as zeroes, which need not be written.
					  Believed of a device; of a file as far as its map says so */
	bool compress;
	bool out_of_order;	       /* writes may be issued in any order */
	uint64_t sparse_bytes;	       /* shortest run of zeroes to skip; 0: 4096 */
	bool no_sparse;		       /* write everything, zeroes too */
	unsigned parallel;	       /* chunks in flight; 0: as many as keep all cores busy */
	bool share_backing;	       /* what the source has from its backing images and the target
					  reads alike from its own is not copied; of images that are
					  not the same the content is compared */
	uint64_t rate;		       /* bytes to be read a second, holes not counted; 0: no limit */
	bool resize_target;	       /* img_copy_source() */
	bool salvage;		       /* what cannot be read is zeroes in the target */
	img_unreadable_fn *unreadable; /* salvage: told of each such range, in order; may be NULL */
	img_progress_fn *progress;     /* may be NULL */
	void *user;		       /* of both */
	enum img_io_kind io;
	uint64_t reserved[8];
};
/*
 * Copy all of the sources, one after the other, to target, which must be large enough; what it has
 * behind them stays. Into a new image (img_create_begin(), nothing written yet) zeroes need not be
 * written. Does not flush. -ENOSPC: target is too small; -EINVAL: share_backing with several.
 */
int img_copy(struct img *const *sources, size_t count, struct img *target,
	     const struct img_copy_options *options, struct img_error *err);

/*
 * Copy the sources, one after the other, into a new image that is written once from front to end,
 * compressed on all cores (options->parallel threads; 0: one more than there are cores). The same bytes
 * whatever their number. path: the new file, as img_create_begin() makes it. NULL: the pipe or file fd,
 * which stays the caller's. create->size: at least the sources' sum; target_is_zero, compress,
 * out_of_order and share_backing say nothing here; -EINVAL: sparse_bytes that the
 * output cannot leave out (0: as it is best). -ENOTSUP: the format, with these options, is not one of
 * those (streamOptimized VMDK; raw, into a pipe); nothing was written then.
 */
int img_copy_to_sink(struct img *const *sources, size_t count, const char *path, int fd,
		     const struct img_create_options *create, const struct img_copy_options *options,
		     struct img_error *err);

/*
 * ---- An image from a pipe: read once, from front to end ----
 *
 * A raw disk, or an image that was made to be sent (streamOptimized VMDK). What was read is gone, so
 * an input can be copied once, by one of the two below.
 */

/*
 * Begin to read from fd, which stays the caller's; up to 1 MiB is read here. name: for messages.
 * format NULL: found out by the first bytes. size: the bytes that the disk must have; NULL: as it
 * says itself, or as many as come. -ENOTSUP: a format that is read here and there. Errors as
 * img_open().
 */
int img_source_open(int fd, const char *name, const char *format, const uint64_t *size,
		    struct img_source_image **out, struct img_error *err);
void img_source_close(struct img_source_image *in); /* NULL is fine */
const char *img_source_format(const struct img_source_image *in);
const char *img_source_guessed_content(const struct img_source_image *in); /* see img_guessed_content() */
/* The size in bytes. False: only its end will tell. */
bool img_source_size(const struct img_source_image *in, uint64_t *size);
/*
 * Copy it to target. Of options, all but out_of_order (units are written as they come),
 * share_backing and salvage count. An input whose size is not known: target is
 * resized as data comes, if options->resize_target, and has the disk's size in the end. -EUCLEAN,
 * also: the input ends too early; the target is incomplete then.
 */
int img_copy_source(struct img_source_image *in, struct img *target, const struct img_copy_options *options,
		    struct img_error *err);
/* The same into a new image that is written in one go: see img_copy_to_sink(). Its size must be known. */
int img_copy_source_to_sink(struct img_source_image *in, const char *path, int fd,
			    const struct img_create_options *create,
			    const struct img_copy_options *options, struct img_error *err);

/*
 * An identity (see img_create_options) for the disk that the sources make, one after the other: a
 * digest of its size and of samples of its content, at most 64 MiB of which are read. The same for
 * the same content, whatever its format; very likely another for another disk, but not always for
 * another state of the same disk: where that matters, mix in img_modified().
 */
int img_content_identity(struct img *const *sources, size_t count, uint64_t identity[2],
			 struct img_error *err);

/* ---- Converting: all of it ---- */

/* Where a conversion was when it failed. */
enum img_convert_stage {
	IMG_CONVERT_CHECK,  /* before anything was made or written */
	IMG_CONVERT_READ,   /* looking at the sources, the same */
	IMG_CONVERT_CREATE, /* making the target, writing it in one go, or giving it its name */
	IMG_CONVERT_COPY,
	IMG_CONVERT_FINISH, /* the target has its name, but something may not have reached it */
};

/* Zero-initialise. Everything is borrowed until the call returns. */
struct img_convert_options {
	struct img *const *sources; /* one after the other; or */
	size_t source_count;
	struct img_source_image *input; /* a pipe, instead of them */

	/* One of the following. */
	const char *path;   /* a new image, as img_create_begin() makes it: a new file has its name
			       only when it is complete, and a failure leaves none. Or the name of
			       an export of a protocol (nbd://...), which is written into */
	struct img *target; /* one that is open for writing and large enough, and stays open: what
			       was written is durable after img_flush() or img_close() */
	bool to_fd;	    /* the pipe or file fd, from front to end */
	int fd;

	/* Of a new image; size and identity are made here. compress counts for target too. */
	struct img_create_options create;
	/*
	 * resize_target, compress and, of a new image, share_backing are made here: what the sources
	 * have in common with create.backing_name is not copied.
	 */
	struct img_copy_options copy;
	uint64_t sink_sparse_bytes; /* copy.sparse_bytes of what is written from front to end */
	/*
	 * A new image has the identifiers of the source, by which programs know the disk and children their
	 * parent: its UUID, and what else both formats have. create.options that name others count. -ENOTSUP:
	 * the source or the new image's format has no UUID; -EINVAL: there is not one source, or it is a pipe.
	 */
	bool keep_identifiers;
	uint64_t reserved[7];
};
/*
 * Convert. Refused before anything is written: a target that a source is made of (-EINVAL), or that is
 * too small (-ENOSPC); a backing image with several sources, or of unknown format (-EINVAL); an input of
 * unknown size where the target needs it beforehand (-EINVAL);
 * compression or backing images that the format has not (-ENOTSUP); non-zero reserved fields, no or
 * two targets or kinds of source (-EINVAL). Else errors as img_create_begin(), img_copy(),
 * img_copy_to_sink(), img_publish() and img_close(). stage: set, also on failure; may be NULL.
 * Blocking; a thread that has requests in flight on a source or target must not call it.
 */
int img_convert(const struct img_convert_options *options, enum img_convert_stage *stage,
		struct img_error *err);

/* ---- Commit and rebase ---- */

/* Zero-initialise. */
struct img_commit_options {
	struct img *base; /* below img, at any depth; NULL: directly */
	bool keep;	  /* do not empty img afterwards */
	uint64_t rate;	  /* bytes to be read a second; 0: no limit */
	img_progress_fn *progress;
	void *user;
	enum img_io_kind io;
	uint64_t reserved[8];
};
/*
 * Write what img and the images between it and base have to base, which becomes writable for that, if
 * it is not, and as large as img, if it is smaller. Then, if base is directly below img and its format
 * can, img is emptied. What img reads as does not change at any moment, a power cut included; what the
 * images between read as does. Where a format knows an image's parent by its content (VMDK, VHDX), it is
 * told of the new one; meanwhile it takes both. Where there is room for but one (VDI, a full descriptor of VMDK) and a
 * power cut hits just then, img_set_backing_name() with the same name puts that right.
 * Nobody else may write to these images meanwhile. When cancelled or failed, base has a part of it, and
 * img all that it had; it can be done once more. Blocking. Nothing is written if: -EINVAL: there is no backing
 * image, or base is none of them; -EROFS: img is to be emptied and not open for writing; -ENOTSUP: base
 * cannot grow, or be written to; -EAGAIN: it is used by others; and what img_set_writable() has.
 */
int img_commit(struct img *img, const struct img_commit_options *options, struct img_error *err);

/*
 * The image below img, at any depth, that name leads to: as an image of the chain stores it, or seen from
 * its folder; or whose ID as an older state of the same file it is. NULL: none.
 */
struct img *img_find_backing(const struct img *img, const char *name);

/* An image that is based on another one, see img_find_child(). */
struct img_child {
	char *path;   /* malloc'd */
	bool refuses; /* it will refuse the other one once that was written to (VMDK, VDI, VHDX) */
	uint64_t reserved[2];
};
/*
 * Is an image in the folder of img based on it, by its name or its UUID, besides those that are open above it?
 * Who refuses comes first. Before img is written to: the others read differently then. 1: *out. 0: none among the
 * first 64 images that were looked at, read-only and without a lock; also where the folder is not to be looked
 * at, or has more than 4096 files. What is no regular file is not opened. -ENOMEM.
 */
int img_find_child(const struct img *img, struct img_child *out, struct img_error *err);

/* Zero-initialise. Everything is borrowed until the call returns. */
struct img_rebase_options {
	const char *backing;	/* as img_set_backing_name() takes it; NULL or "": none any more */
	const char *format;	/* NULL: found out by its content, and not stored */
	bool unsafe;		/* only the name changes: the caller knows that both hold the same */
	bool compress;		/* what is copied is stored compressed; unsafe: nothing is */
	unsigned backing_flags; /* IMG_OPEN_* to open the new backing image by: SHARE, DIRECT,
				   TRY_DIRECT, UNSAFE, WRITETHROUGH, NO_LOCK */
	unsigned parallel;	/* see img_copy_options */
	const struct img_secrets *secrets;
	img_progress_fn *progress;
	void *user;
	enum img_io_kind io;
	uint64_t reserved[8];
};
/*
 * Give img, which is open for writing with its chain, another backing image. What it has from the old
 * one and would not have from the new one is copied to it before; the two may be of any formats and sizes. A power
 * cut leaves the old name or the new one, and img reads the same by both. Nobody else may write to img
 * meanwhile. Afterwards the new one is the one below img; unsafe: the open chain stays as it is, and
 * img may be open without one (IMG_OPEN_NO_BACKING, and IMG_OPEN_NO_DATA). Blocking. -EROFS, -ENOTSUP: as
 * img_set_backing_name(), also: no compression; -ELOOP; errors of opening the new one.
 */
int img_rebase(struct img *img, const struct img_rebase_options *options, struct img_error *err);

/* Zero-initialise. */
struct img_compare_options {
	bool strict; /* also sizes, before anything is read, and allocation */
	img_progress_fn *progress;
	void *user;
	enum img_io_kind io;
	uint64_t reserved[8];
};
struct img_compare_result {
	bool identical;
	bool size_differs;   /* strict: this alone makes them differ */
	bool status_differs; /* strict: allocation differs at offset */
	uint64_t offset;     /* of the first difference */
	uint64_t reserved[4];
};
/*
 * Do two disks read the same? What the longer one has beyond the other's end has to be zeroes. Blocking,
 * reading only; neither may be written to meanwhile. options may be NULL. *out: set when 0 is returned,
 * whatever the answer. Errors of reading; -ECANCELED.
 */
int img_compare(struct img *a, struct img *b, const struct img_compare_options *options,
		struct img_compare_result *out, struct img_error *err);

#ifdef __cplusplus
}
#endif

#endif

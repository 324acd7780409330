/*
 * The driver contract: what a format implements, and what the engine offers it. spec/drivers.md
 * explains it with examples.
 *
 * A driver translates; it never touches guest data. map(), plan_write(), commit(), drop(), last_use()
 * and release() work only on metadata in memory, with the image's metadata lock held, and never block:
 * a block that is missing is noted by img_meta_get() and the driver returns IMG_NEED_METADATA;
 * the engine fetches it and calls again from the start. So look everything up first, change state
 * last. All other entries are plain blocking code, with no lock held, one of them at a time. grow(),
 * extend(), resize(), set_backing(), accept_parent(), make_empty(), set_writable(), check() and finish()
 * have the image to themselves ("image quiesced"): nobody is in any other entry, no plan is in flight, and
 * nothing that map() said is in use. What may run beside the others is said there.
 */
#ifndef LIBIMG_ENGINE_DRIVER_H
#define LIBIMG_ENGINE_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/error.h"
#include "libimg/base/guid.h"
#include "libimg/base/options.h"
#include "libimg/base/value.h"
#include "libimg/crypto/cipher.h"
#include "libimg/engine/codec.h"
#include "libimg/storage/storage.h"

struct img;
struct img_req;
struct img_engine;
struct img_context;
struct img_driver;

/* Answers besides 0 and a negative errno. */
enum {
	IMG_NEED_METADATA = 1,	/* img_meta_get() gave NULL: fetch and call again */
	IMG_NEED_EXCLUSIVE = 2, /* plan_write: call grow() with the image quiesced, then plan again */
	IMG_NEED_WRITE = 3,	/* plan_write of ZERO: not by metadata; write zeroes instead (plan->length
				   bytes, if that is set: what follows can be done otherwise) */
};

/* ---- The image, as a driver sees it ---- */

/* A state of the disk that an image keeps besides the present one. Both NULL: the present one. */
struct img_view {
	const char *id, *name; /* of a snapshot inside the image (its number, a GUID); both given: both must fit */
};

struct img {
	const struct img_driver *driver;
	char *name;		  /* as the user named it; for messages */
	struct img_storage *file; /* the file that was opened; closed after the driver's close() */
	_Atomic bool writable;	  /* changes only while the image is quiesced: see set_writable() */
	bool unmap;		  /* opened so that discarded and freed space is punched */
	bool keep_allocated;	  /* opened so that what is discarded or zeroed stays allocated */
	bool unsafe;		  /* opened so that nothing needs to be durable: never sync */
	bool probed;		  /* the format was not given but guessed */
	bool created;		  /* by create(), just now: open() lets be what is written only once */
	bool content_stays;	  /* what is written changes nothing that it reads as: see first_write() */

	/* Set by open(). */
	void *state;	       /* the driver's; freed by its close() */
	_Atomic uint64_t size; /* guest bytes, a multiple of 512; resize() alone changes it */
	char *warning;	       /* malloc'd; what its user should know; NULL: nothing */
	uint64_t unit_bytes;   /* what one allocation covers: a multiple of 512 */
	char *backing_name;    /* malloc'd; as stored in the image; NULL: none */
	char *backing_format;  /* malloc'd; NULL: not stored */
	bool backing_required; /* a child that does not tell which its parent is is refused */
	/*
	 * Further names of the parent, in the order in which they are tried after backing_name: malloc'd,
	 * and each of them, too. UTF-8, with "/" in what is relative.
	 */
	char **backing_alternatives;
	size_t backing_alternative_count;
	/*
	 * The parent by its identity, as identify() tells it; with two, either will do. A name must then
	 * lead to such an image, and where none does it is sought in the image's own folder.
	 */
	uint8_t backing_uuids[2][IMG_GUID_BYTES]; /* in the order of guid.h */
	unsigned backing_uuid_count;		  /* 0: not stored */
	/*
	 * Or the parent is this very file, seen as another state (a folder's older snapshot): no name is
	 * needed then. The driver's, as long as the image is open.
	 */
	struct img_view backing_view;
	bool dirty; /* not closed cleanly */
	bool encrypted;
	uint64_t grain_bytes; /* the least that a write allocates in a unit; 0: all of it */
	/*
	 * For journal(): what one call takes, 0: anything. Counted in blocks of journal_block bytes (a
	 * power of two, >= 512) that a write touches, each write for itself; at least one.
	 */
	uint64_t journal_bytes;
	uint32_t journal_block;
	const struct img_codec *compress_codec; /* for WRITE_COMPRESSED; NULL: the format has none */
	int compress_level;			/* the codec's scale; 0: its default */

	struct img *_Atomic parent;  /* the open backing image; changes only while the image is quiesced */
	struct img_engine *engine;   /* the engine's own */
	struct img_context *context; /* the image floor's own */
};

/* ---- Reading: where guest bytes live ---- */

enum img_extent_kind {
	IMG_DATA,	/* plain bytes in storage at file_off */
	IMG_ZERO,	/* zeroes; storage non-NULL: room is allocated at file_off all the same */
	IMG_BACKING,	/* not in this image: ask the parent; without one, zeroes */
	IMG_COMPRESSED, /* one unit, compressed by codec: stored_bytes at file_off */
};

struct img_extent {
	enum img_extent_kind kind;
	uint64_t length;	     /* guest bytes from off that this is true for: 1..len */
	struct img_storage *storage; /* DATA, COMPRESSED */
	uint64_t file_off;	     /* DATA: of guest byte off. COMPRESSED: of the first stored byte */
	/*
	 * DATA: what of it lies past the end of the storage is zeroes. Else it is missing: the file was
	 * cut short, and who reads there gets -EUCLEAN (DATA and COMPRESSED alike).
	 */
	bool open_end;
	/* COMPRESSED only. */
	const struct img_codec *codec;
	uint32_t stored_bytes; /* at most this many; what follows the stream is ignored */
	uint32_t unit_bytes;   /* decoded length */
	uint32_t within;       /* of guest byte off in the decoded unit */
	uint32_t header_bytes; /* a unit's own header before the stream (VMDK's grain marker) */
	/* DATA only; NULL: clear text. The driver's, as long as the image is open. */
	struct img_cipher *cipher;
	uint64_t tweak; /* of guest byte off */
};

/* ---- Writing: plan, data, commit ---- */

enum img_op {
	IMG_OP_WRITE,
	IMG_OP_WRITE_COMPRESSED,
	IMG_OP_ZERO,
	IMG_OP_DISCARD,
};

enum img_plan_kind {
	IMG_PLAN_DATA,	  /* write [fill_start, fill_end) to storage at file_off, then commit */
	IMG_PLAN_META,	  /* nothing to write: commit alone does it */
	IMG_PLAN_ZERO,	  /* img_io ZERO of length bytes at file_off, then commit if asked */
	IMG_PLAN_PUNCH,	  /* img_io PUNCH, the same */
	IMG_PLAN_NOTHING, /* already so */
};

struct img_plan {
	enum img_plan_kind kind;
	uint64_t length; /* guest bytes from off that this plans: 1..len */
	/*
	 * DATA: the guest range that must be written, a superset of [off, off + length); what lies
	 * outside of it the engine fills with what the guest reads there now (the backing image, an
	 * old extent, zeroes). The range never reaches past img->size rounded up to a unit.
	 */
	uint64_t fill_start, fill_end;
	struct img_storage *storage;
	uint64_t file_off;	   /* of fill_start; ZERO, PUNCH: of off */
	bool fresh;		   /* the target reads as zeroes: zero fill need not be written */
	bool commit;		   /* false: in place; commit() and drop() are not called */
	struct img_cipher *cipher; /* NULL: clear text; else the fill range is whole sectors of it */
	uint64_t tweak;		   /* of fill_start */
	/*
	 * The guest range that no other plan may touch meanwhile: all that this one reads (to fill,
	 * or the bits of a bitmap that it will change) or makes reachable. 0, 0: the units that it
	 * touches if commit is set, else its fill range. What is less than a unit lets writes to the
	 * rest of the unit go side by side: commit() must then find what it changes by itself,
	 * since others commit in between.
	 */
	uint64_t claim_start, claim_end;
	uint64_t slot[12]; /* the driver's notes for commit() and drop() */
};

/* ---- What the engine offers map, plan_write, commit, drop and release ---- */

/*
 * Metadata lives in a cache of 16 KiB blocks (file offsets, per storage), valid by 512-byte
 * sector. A lookup must not cross a block: len bytes at file_off with both ends in one block.
 */
enum {
	IMG_META_BLOCK = 16384,
	IMG_META_SECTOR = 512,
};

/*
 * Ranks order metadata on disk: whatever has a lower rank, and all data written before, is durable
 * before a higher rank is written. Refcounts and the like are ALLOCATION; tables that point at
 * data are MAPPING; tables that point at those are ROOT; HEADER is last.
 */
enum img_rank {
	IMG_RANK_ALLOCATION,
	IMG_RANK_MAPPING,
	IMG_RANK_ROOT,
	IMG_RANK_HEADER,
	IMG_RANKS,
};

/*
 * Borrow len bytes of metadata; valid until the entry returns, and pinned for req: a commit() that
 * follows finds it. NULL: return IMG_NEED_METADATA. What lies past the end of the file is missing:
 * the request fails with -EUCLEAN.
 */
const uint8_t *img_meta_get(struct img_req *req, struct img_storage *s, uint64_t file_off,
			    size_t len);
/*
 * The same bytes for changing; they must have been got by this req (then it cannot fail) or made
 * by img_meta_new(). Written at the next write-out, in the order of ranks.
 */
uint8_t *img_meta_edit(struct img_req *req, struct img_storage *s, uint64_t file_off, size_t len,
		       enum img_rank rank);
/*
 * A new table of zeroes at [file_off, file_off + len), both multiples of 512, without reading it.
 * -ENOMEM.
 */
int img_meta_new(struct img_req *req, struct img_storage *s, uint64_t file_off, size_t len,
		 enum img_rank rank);

/* A piece of metadata on its way to disk. */
struct img_meta_write {
	struct img_storage *storage;
	uint64_t off;
	size_t len; /* a multiple of 512 */
	enum img_rank rank;
	uint8_t *data;
};

/* plan_write of ZERO: may the room be given back? Else what is allocated stays so. */
bool img_req_may_unmap(const struct img_req *req);
/*
 * plan_write of ZERO: afterwards all of it must be allocated, what is not yet too. Where metadata cannot
 * say that, and there is no room to be zeroed in place: IMG_NEED_WRITE.
 */
bool img_req_keep_allocated(const struct img_req *req);

/*
 * Free what img says of its backing image (backing_name to backing_required) and leave it saying
 * none. Where others may read these, the image is quiesced.
 */
void img_forget_backing(struct img *img);

/* Where a sentence goes. */
struct img_error *img_req_error(struct img_req *req);

/*
 * Give [file_off, file_off + len) back once its unlinking (made by this commit()) is durable and
 * every reader that started before is done: then the engine asks last_use(), punches what is free
 * if the image was opened so, and calls release(). Room for n calls must have been reserved in
 * plan_write (-ENOMEM).
 */
int img_free_reserve(struct img_req *req, size_t n);
void img_free_later(struct img_req *req, struct img_storage *s, uint64_t file_off, uint64_t len);

/* ---- What the engine offers blocking entries ---- */

/* Forget cached metadata of a range (freed, or written by blocking code). Nothing of it is dirty. */
void img_meta_forget(struct img *img, struct img_storage *s, uint64_t file_off, uint64_t len);

/* ---- Opening ---- */

/*
 * What is done with a passphrase: img_secret_use_fn of libimg/base/secrets.h. It is wiped afterwards.
 * -EKEYREJECTED: it is wrong; then use() may be called again, with another one.
 */
typedef int img_passphrase_fn(void *user, const uint8_t *bytes, size_t len, struct img_error *err);

/*
 * Handed to open(). Everything an image names goes through reference(), which asks the gate.
 */
struct img_opening {
	bool self_only;	      /* open no other file; give what info() needs from this one */
	bool for_check;	      /* tolerate what check() can repair */
	bool no_data;	      /* no passphrase is needed: without one map() and plan_write() fail; set with the two above */
	bool salvage;	      /* what is missing is an error where it is read, not here */
	bool own_file;	      /* set by the driver: reference() may lead to the image's own file, img->file */
	struct img_view view; /* with IMG_DRIVER_VIEWS: which state to show, read-only */
	/* Those of the driver's open_options that were given; NULL if it has none. Borrowed. */
	const struct img_options *options;
	/* What create() left in img_creating's handover; NULL: nothing. The driver sets what it takes to NULL. */
	void **handover;
	/*
	 * Let use() have the passphrase that `option`, one of open_options, is the id of; or where that
	 * is not given, one that the user is asked for. Not with no_data.
	 * What use() returns; -ENOENT, -ENOKEY: there is none.
	 */
	int (*passphrase)(struct img_opening *o, const char *option, img_passphrase_fn *use, void *user,
			  struct img_error *err);
	/*
	 * Open a file that the image names (relative names: from the image's own folder), read-write
	 * if the image is writable. The driver closes the storage in close(). what: "data file",
	 * "extent 3". Not to be called with self_only. Naming the image's own file is refused, unless
	 * own_file is set: then *out is img->file.
	 */
	int (*reference)(struct img_opening *o, const char *name, const char *what,
			 struct img_storage **out, struct img_error *err);
	/*
	 * The same for the one file that holds an image's data, which the user may have named: then
	 * that file is opened, whatever stored, the image's own name for it, says (NULL: nothing). With
	 * self_only nothing is opened, and *out is NULL.
	 */
	int (*data_file)(struct img_opening *o, const char *stored, struct img_storage **out,
			 struct img_error *err);
	/*
	 * The file that the user names for a header that is kept apart from its image: like data_file(), but with
	 * self_only as well; *out is NULL if none is named.
	 */
	int (*header)(struct img_opening *o, struct img_storage **out, struct img_error *err);
};

/* ---- Creating ---- */

struct img_creating {
	const char *name;	     /* the final path; for messages and names inside the image */
	struct img_storage *file;    /* empty (a device: with old content), writable */
	uint64_t size;		     /* guest bytes, a multiple of 512 */
	struct img_options *options; /* create_check() may set what was not given */
	enum img_preallocate preallocate;
	const char *backing_name;   /* NULL: none */
	const char *backing_format; /* NULL: not known */
	const struct img *backing;  /* that image, open; NULL: none, or it was not to be looked at */
	bool adds_state;	    /* the backing file is the image itself: see add_state() */
	bool pipe;		    /* for sink(): what comes out cannot be gone back to */
	bool device;		    /* file is, or will be, a block device */
	bool compress;		    /* what is written to the new image will be compressed */
	int compress_level;	    /* out, by create_check(): img->compress_level of the new image */
	uint64_t identity[2];	    /* for img_identity_bytes(): 0, 0: random */
	/* Create another file of the image, published together with it; the caller must not close it. */
	int (*create_file)(struct img_creating *c, const char *name, struct img_storage **out,
			   struct img_error *err);
	/*
	 * As img_opening's: `option` is one of create_options, of type SECRET, and of open_options as well. For
	 * create(), before it writes anything: what the file had is still there then.
	 */
	int (*passphrase)(struct img_creating *c, const char *option, img_passphrase_fn *use, void *user,
			  struct img_error *err);
	bool can_ask; /* for create_check(): there is somebody to ask for a passphrase that no option names */
	/*
	 * Out, by create(): what took long to compute (a cipher's keys), for the open() that follows at once.
	 * What that does not take free_handover() frees.
	 */
	void *handover;
	void (*free_handover)(void *handover);
};

/* ---- Amending ---- */

struct img_amending {
	const struct img_options *options; /* those of the driver's amend_options that were given */
	bool force;			   /* the user has been warned of what cannot be undone */
	/* As img_opening's; option: one of amend_options, of type SECRET. */
	int (*passphrase)(struct img_amending *a, const char *option, img_passphrase_fn *use, void *user,
			  struct img_error *err);
};

/* ---- Append-only output ---- */

/* Where a sink's bytes go, one after the other: a file or a pipe. */
struct img_byte_writer {
	/* All of it or an error. */
	int (*write)(struct img_byte_writer *a, const void *bytes, size_t len, struct img_error *err);
	uint64_t written; /* bytes so far: the offset of the next one */
};

/*
 * A format that is written once, in order (streamOptimized VMDK, raw into a pipe). Fed by the copy
 * pipeline; all blocking, one thread at a time.
 */
struct img_sink {
	/*
	 * The unit at guest offset off; offsets ascend, units of zeroes are left out (unless wants_all).
	 * bytes: the unit compressed by codec, or as it is without one (the last unit of a disk: cut at the
	 * disk's end).
	 */
	int (*put)(struct img_sink *s, uint64_t off, const uint8_t *bytes, size_t len,
		   struct img_error *err);
	/* Everything was put: write what ends the output. */
	int (*finish)(struct img_sink *s, struct img_error *err);
	void (*free)(struct img_sink *s);
	uint64_t unit_bytes;	       /* a power of two */
	const struct img_codec *codec; /* NULL: put() takes plain bytes */
	int level;		       /* the codec's scale; 0: its default */
	bool pad_last;		       /* the disk's last unit is compressed as a whole one, with zeroes */
	bool wants_all;		       /* zeroes are put too */
};

/* ---- Input that is read once, from front to end ---- */

/* Where a source's bytes come from: a pipe. */
struct img_byte_reader {
	const char *name; /* for messages */
	/* The next len bytes; *got is less only where the input ends. Blocking. -ECANCELED. */
	int (*read)(struct img_byte_reader *in, void *buf, size_t len, size_t *got,
		    struct img_error *err);
	uint64_t taken; /* bytes so far: the offset of the next one */
	bool sized;	/* the disk is known to have size bytes: the user says so */
	uint64_t size;
};

/* A piece of the disk as the input has it. */
struct img_source_unit {
	uint64_t off;		       /* guest offset, a multiple of the source's unit_bytes */
	uint32_t stored_bytes;	       /* of it in the input: 1 .. stored_max; 0: the input has ended */
	uint32_t bytes;		       /* decompressed: up to unit_bytes, a multiple of 512 */
	const struct img_codec *codec; /* NULL: plain; what is stored less than bytes are zeroes */
};

/* An image whose data can be taken as it comes. All blocking, one thread at a time. */
struct img_source {
	/*
	 * What comes next; the same until load() has taken it. Units may come in any order and be
	 * left out (then they are zeroes) unless `plain`. -EUCLEAN, also: the input ends too early.
	 */
	int (*next)(struct img_source *s, struct img_source_unit *unit, struct img_error *err);
	/* Its stored bytes. */
	int (*load)(struct img_source *s, uint8_t *buf, struct img_error *err);
	void (*free)(struct img_source *s);
	bool sized;	     /* size is known; else only when the input has ended */
	uint64_t size;	     /* guest bytes, a multiple of 512 */
	uint32_t unit_bytes; /* a power of two, >= 512 */
	uint32_t stored_max;
	bool plain; /* all units come, one behind the other */
};

/* ---- Checking ---- */

struct img_check {
	unsigned repair; /* in: IMG_REPAIR_* or 0 */
	/* in: one line of a defect or a repair, without newline; may be NULL */
	void (*report)(void *user, const char *line);
	void *user;
	bool quiet;			/* a further pass: defects are only counted */
	unsigned defects_reported;	/* by img_check_list() and img_check_defect() */
	struct img_check_result result; /* out */
};

/* How many defects are reported line by line: a small file can have 2^31 of them, and nobody reads more. */
enum { IMG_CHECK_DEFECTS_MAX = 65536 };

/* Report a defect that is counted elsewhere, unless c is quiet or so many were reported before. */
void img_check_list(struct img_check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Count a corruption, and report it likewise. */
void img_check_defect(struct img_check *c, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* One line: what is repaired or left, and the like. */
void img_check_report(struct img_check *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- Zeroing ---- */

/* How whole grains become zeroes that need not be allocated. */
enum img_zero_method {
	IMG_ZERO_WRITTEN,  /* by writing zeroes, sometimes at least */
	IMG_ZERO_IN_PLACE, /* by metadata, or IMG_PLAN_ZERO: as fast as that is where the image lies */
	IMG_ZERO_METADATA, /* by metadata alone */
};

struct img_zeroing {
	enum img_zero_method zero;
	bool discard; /* whole units that were discarded read as zeroes, whatever is below */
};

/* ---- Reports ---- */

/*
 * Add what requests to an image or a file go best with: io_align as told, memory as s, the file, has
 * it; zero_align, discard_align: what is zeroed or discarded without writing (0: nothing, or any).
 */
void img_report_limits(struct img_value *info, const struct img_storage *s, uint32_t io_align,
		       uint64_t zero_align, uint64_t discard_align);

/*
 * Add a node of a file to an image's children: name is what it is to the image ("extents.0"), size
 * counts where s, the open file, is NULL; 0: the file's length is not known.
 */
void img_report_file(struct img_value *children, const char *name, const char *path, uint64_t size,
		     struct img_storage *s);

/* ---- The driver ---- */

enum { IMG_PROBE_NEARLY = -1 };
enum { IMG_PROBE_TAIL = 1024 };
enum { IMG_IDENTIFY_BYTES_MAX = 128 << 10 };

enum {
	IMG_DRIVER_BACKING = 1 << 0,   /* images may have a backing file (create takes one) */
	IMG_DRIVER_COMPRESS = 1 << 1,  /* plan_write takes WRITE_COMPRESSED */
	IMG_DRIVER_READ_ONLY = 1 << 2, /* cannot be opened for writing */
	IMG_DRIVER_PLAIN = 1 << 3,     /* the file is the guest's bytes: its holes are the guest's */
	IMG_DRIVER_IDENTITY = 1 << 4,  /* create() gives images identifiers */
	/* Some are compressed by sink(); of the others create_check() refuses `compress`, or they
	   are written as they are. */
	IMG_DRIVER_COMPRESS_SINK = 1 << 5,
	IMG_DRIVER_KEEP_ALLOCATED = 1 << 6, /* heeds img->keep_allocated; open() refuses where it cannot */
	IMG_DRIVER_VIEWS = 1 << 7,	    /* open() heeds its view */
	/* set_backing() needs the image that is named, open: what stands in it is stored beside the name. */
	IMG_DRIVER_BACKING_KNOWN = 1 << 8,
	IMG_DRIVER_REPORT_DIRTY_ONLY = 1 << 9, /* the report has a dirty-flag where it is true, only */
	/* Images based on one of this format refuse it once its content was changed (parent_opened()). */
	IMG_DRIVER_STAMPED = 1 << 10,
	/* A view that another one is based on can be written to, as far as set_writable() takes it. */
	IMG_DRIVER_VIEWS_CHANGE = 1 << 11,
	/* What was not written to a new image reads as anything: zeroes are to be written, too. */
	IMG_DRIVER_NEW_UNDEFINED = 1 << 12,
};

struct img_driver {
	const char *name;
	const char *alias; /* another name that users may give; NULL: none */
	unsigned features; /* IMG_DRIVER_* */
	/*
	 * NULL, or images of this format can be folders, known by a file of this name in them: that one is
	 * opened in the folder's place, and what it names is relative to the folder.
	 */
	const char *folder_file;

	/*
	 * Is it ours? head: the first len bytes (up to 64 KiB). Pure. 0..100; 0: no. raw says 1.
	 * IMG_PROBE_NEARLY: not as it is, but it is not to be taken for a raw disk by guess.
	 * tail: the last IMG_PROBE_TAIL bytes (NULL if the file has less than 512; what it has not of them is zero,
	 * in front).
	 */
	int (*probe)(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size);

	/*
	 * Optional: what may be said of an image when it is opened, besides what is said of any: keys of a
	 * description ("encrypt.key-secret"). Ends with a NULL name.
	 */
	const struct img_option *open_options;
	/* Parse and validate, fill img. On failure nothing is kept. -EMEDIUMTYPE: not ours. */
	int (*open)(struct img *img, struct img_opening *o, struct img_error *err);
	/*
	 * Optional. The parent is open, whoever chose it, or another one has taken its place: does it fit
	 * (VMDK's parent CID)?
	 */
	int (*parent_opened)(struct img *img, struct img_error *err);
	/*
	 * Optional: formats whose children store an identity of their parent. Which one has the image in
	 * s? Blocking, from the file alone, reading at most IMG_IDENTIFY_BYTES_MAX: any file of a folder may be
	 * asked. -EMEDIUMTYPE: not ours; -ENODATA: it has none; -EUCLEAN, ...
	 */
	int (*identify)(struct img_storage *s, uint8_t out[IMG_GUID_BYTES], struct img_error *err);
	/*
	 * Optional: formats that give images identifiers. Blocking. Add those that img has to out, an object, as
	 * texts, each under the name of the create_options row that gives it to a new image: "uuid" is the one
	 * by which programs know the disk, in all formats; others are the format's own. -EUCLEAN, ...
	 */
	int (*identifiers)(const struct img *img, struct img_value *out, struct img_error *err);
	/*
	 * Optional, where children know the content of their parent. Blocking. What the image's content will be known
	 * by as soon as it is written to: the next first_write() gives it.
	 */
	int (*next_identity)(struct img *img, uint8_t out[IMG_GUID_BYTES], struct img_error *err);
	/*
	 * Optional. Blocking, image quiesced. The parent will be written to, by a job that keeps what img reads as:
	 * one of this identity is as good as the open one from now on, durably, until set_backing(). NULL: it
	 * cannot be told beforehand; a format that can take any does so, others do nothing.
	 */
	int (*accept_parent)(struct img *img, const uint8_t identity[IMG_GUID_BYTES],
			     struct img_error *err);
	/* Free state. Everything was written out before. */
	void (*close)(struct img *img);

	/*
	 * Optional. Once, before the first change to a writable image (autoclear bits, dirty marks).
	 * No plan is in flight, but others may be in map(). With img->content_stays, which a job sets (an image
	 * that was committed is emptied), a stamp by which children know the content stays as well;
	 * it runs again before what changes the content.
	 */
	int (*first_write)(struct img *img, struct img_error *err);
	/*
	 * Optional. At close of an image that was changed, or before it becomes read-only, after the last
	 * write-out: clear marks. Before the next change first_write() runs again.
	 */
	int (*finish)(struct img *img, struct img_error *err);
	/*
	 * Optional; needed where open() does more for an image that will be written to. Blocking, image
	 * quiesced. The open image has become writable, and so have its files: do what open() does then,
	 * and refuse what it refuses. Or (after finish()) it has become read-only: forget what only writing
	 * needs, which cannot fail; so it is too where becoming writable failed.
	 */
	int (*set_writable)(struct img *img, bool writable, struct img_error *err);

	/*
	 * Tell where guest bytes [off, off + len) live, in this image alone. len > 0, clipped to
	 * img->size. Runs that are contiguous should be answered in one piece. -EUCLEAN: the
	 * metadata contradicts itself (the sentence says where).
	 */
	int (*map)(struct img *img, struct img_req *req, uint64_t off, uint64_t len,
		   struct img_extent *out);

	/*
	 * Writable formats. Reserve what a change of [off, off + len) needs and say how to go about
	 * it. WRITE: any range. ZERO, DISCARD: whole units, or a part of one unit, in multiples of 512;
	 * the end of the image may cut the last unit. Where metadata cannot say it and the room is
	 * there, a part of a unit is ZERO or PUNCH in place; else IMG_NEED_WRITE, or NOTHING for
	 * DISCARD. WRITE_COMPRESSED: one unit, len is its stored length: the driver finds room for
	 * exactly that many bytes (plan->file_off) and sets fill_start = off, length = the unit.
	 * The engine sees to it that no two plans share what they claim (see there): one that was
	 * made but meets another's claim is dropped, and made again later. IMG_NEED_*; -ENOSPC.
	 */
	int (*plan_write)(struct img *img, struct img_req *req, enum img_op op, uint64_t off,
			  uint64_t len, struct img_plan *plan);
	/* The data is written: make it reachable. Cannot fail. */
	void (*commit)(struct img *img, struct img_req *req, const struct img_plan *plan);
	/* It was not: give the room back. Cannot fail. */
	void (*drop)(struct img *img, struct img_req *req, const struct img_plan *plan);
	/*
	 * Optional: what plan_write() makes of ZERO and DISCARD, with the parent as it is now. In memory; beside
	 * reading and writing. Without: WRITTEN, false.
	 */
	void (*zeroing)(const struct img *img, struct img_zeroing *out);
	/*
	 * Optional. For ranges given to img_free_later(): is this the last use of it (may it be
	 * punched)? If it is, nobody gets any of it until release(). Without: units have one user each.
	 */
	int (*last_use)(struct img *img, struct img_req *req, struct img_storage *s,
			uint64_t file_off, uint64_t len, bool *last);
	/* ... and: count it as free. */
	int (*release)(struct img *img, struct img_req *req, struct img_storage *s,
		       uint64_t file_off, uint64_t len);
	/*
	 * Blocking, image quiesced, everything written out: whatever plan_write of [off, off + len)
	 * asked for by IMG_NEED_EXCLUSIVE.
	 */
	int (*grow)(struct img *img, uint64_t off, uint64_t len, struct img_error *err);
	/*
	 * Optional: a format with a journal. Blocking, before a group of metadata writes goes to its
	 * place: make the group durable elsewhere. A group is of ascending ranks and fits
	 * journal_bytes; there may be several for one write-out, the higher ranks in later ones.
	 * Guest data that the group refers to, and all earlier groups in their places, are durable
	 * already: the journal may be used from its start. It may read and write storage; what is
	 * being changed in memory meanwhile is no part of the group. Other threads may be in map(),
	 * plan_write(), commit() and drop() at the same time, without the lock being held here, so it
	 * has state of its own; no other blocking entry runs, and no second journal(). The engine
	 * then writes the group in place, and syncs before the next one, or when it was asked to.
	 */
	int (*journal)(struct img *img, const struct img_meta_write *writes, size_t n,
		       struct img_error *err);

	/*
	 * Before a disk grows, in formats that could show something else than zeroes in its new part
	 * (a backing file, what was there before the disk was made smaller). Blocking, image quiesced.
	 * Have tables that reach that far and set img->size, but not the size that the file tells.
	 * The new part is then cleared by requests, and resize() called, or called with the old
	 * size, which takes back what was made beyond it.
	 */
	int (*extend)(struct img *img, uint64_t size, struct img_error *err);
	/* Blocking, image quiesced. Sets img->size; the file's own as the last step of growing. */
	int (*resize)(struct img *img, uint64_t size, enum img_preallocate how,
		      struct img_error *err);

	/*
	 * Optional. Blocking, image quiesced. Store another backing file's name (NULL: none any more) and
	 * format (NULL: not stored), durably, and set img's: until then, and where it fails, the old
	 * ones stay. What the guest sees is not looked at. backing: that image, open, if the driver is
	 * BACKING_KNOWN; else, or without a name: NULL. -ENOSPC: no room for the name.
	 */
	int (*set_backing)(struct img *img, const char *name, const char *format,
			   const struct img *backing, struct img_error *err);
	/*
	 * Optional. Blocking, image quiesced. Give up all of the present state's content, durably, so that
	 * map() says BACKING everywhere; the mapping goes first, and a crash leaves each part of the
	 * disk as it was or given up. Other states that the image keeps stay.
	 */
	int (*make_empty)(struct img *img, struct img_error *err);

	/*
	 * Options that create() takes; ends with a NULL name. size, backing_file and backing_fmt go
	 * without saying (and come first in reports), but may have rows to say where they are shown.
	 * "preallocation", where there is such a row, is what img_creating's preallocate comes from.
	 */
	const struct img_option *create_options;
	/* Optional: complete defaults that depend on others, refuse combinations, before any file is made. */
	int (*create_check)(struct img_creating *c, struct img_error *err);
	int (*create)(struct img_creating *c, struct img_error *err);
	/*
	 * Optional, after create_check(): how long the file of a new image is (bytes), whatever is in it, and when all of
	 * it is allocated.
	 */
	int (*measure)(const struct img_creating *c, uint64_t *required, uint64_t *fully_allocated,
		       struct img_error *err);
	/*
	 * Optional. Blocking, image quiesced: change what was chosen when the image was made, durably, in an order in
	 * which a power cut leaves it as it was or as it is to be. amend_options ends with a NULL name.
	 */
	const struct img_option *amend_options;
	int (*amend)(struct img *img, struct img_amending *a, struct img_error *err);
	/*
	 * Optional: formats whose present state can be based on one that the same image keeps. Blocking. img is the
	 * image that c names, open for writing, and its own backing file: its present state is to become an
	 * older one, and an empty one is to be based on it. Have c->create_file() make the files of that,
	 * and tell what the main file has to hold for it: *text, malloc'd, *len bytes. img stays as it is; who
	 * calls writes the text, as a whole, when the files are complete. Such a format has no other backing files.
	 */
	int (*add_state)(struct img *img, struct img_creating *c, char **text, size_t *len,
			 struct img_error *err);

	/*
	 * Optional. Create as a stream: is it one with these options? Then *out writes to `to`, which
	 * outlives it; else *out is NULL, and create() does it. c->file is NULL.
	 */
	int (*sink)(struct img_creating *c, struct img_byte_writer *to, struct img_sink **out,
		    struct img_error *err);

	/*
	 * Optional. Read an image as a stream: parse what comes first. `in` outlives *out.
	 * -EMEDIUMTYPE: not ours. -ENOTSUP: an image that must be gone back and forth in.
	 */
	int (*source)(struct img_byte_reader *in, struct img_source **out, struct img_error *err);

	/* Optional. Blocking, image quiesced. NULL: the format has nothing to check. */
	int (*check)(struct img *img, struct img_check *c, struct img_error *err);

	/*
	 * Optional. Add to the image's report: "cluster-size", and under "format-specific" the
	 * object {type, data}. top: the whole report; specific: the data object, added if not empty.
	 */
	int (*info)(struct img *img, struct img_value *top, struct img_value *specific,
		    struct img_error *err);
	/*
	 * Optional. Add the files that hold parts of the image besides its own (not the backing file),
	 * by img_report_file(), opened or not: who is asked to take an untrusted image looks for them.
	 */
	int (*other_files)(struct img *img, struct img_value *children, struct img_error *err);
};

/* formats/registry.c: all drivers, in probe order, raw last, NULL at the end. */
extern const struct img_driver *const img_drivers[];

/*
 * formats/signatures.c: what other formats begin or end with, so that an image of a format that has no
 * driver here is not taken for a raw disk. A row whose name has a driver is passed over. Ends with
 * a NULL name.
 */
struct img_signature {
	const char *name;
	uint32_t off; /* bytes from the start; from_end: from the end of the file */
	bool from_end;
	uint8_t len;
	uint8_t bytes[47];
	const char *suffix; /* a name that ends so says it already; NULL: none does */
};
extern const struct img_signature img_signatures[];
/*
 * The same for what a raw disk would hardly begin with: archives, compressed data. name is a phrase
 * ("a tar archive"), to go on after "it looks like".
 */
extern const struct img_signature img_content_signatures[];

#endif

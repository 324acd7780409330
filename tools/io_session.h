/*
 * io: the image that commands work on, and requests to it. All data goes through one queue, so that
 * requests that nobody waits for go on while another is waited for.
 */
#ifndef TOOLS_IO_SESSION_H
#define TOOLS_IO_SESSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/img.h"
#include "tools/io_content.h"

/* How an image is opened. Strings are borrowed. */
struct io_open {
	const char *name, *format, *references;
	bool image_opts, read_only;
	unsigned flags; /* IMG_OPEN_* beyond */
	enum img_io_kind io;
};

/* Zero-initialise. */
struct io_session {
	struct img *img; /* NULL: none is open; so is queue */
	struct img_queue *queue;
	bool writable;
	bool may_change; /* nothing is based on it, or that was reported */
	size_t buffered; /* bytes of buffers in flight */

	/* What the command line said for all. */
	const char *references;
	bool image_opts; /* `open` takes KEY=VALUE,... */
	bool misalign;	 /* buffers are 16 bytes off a page */
	bool force;	 /* also write what others are based on */

	bool quit; /* it was asked for */
};

/* Before the image is changed: does nothing that is based on it keep that from being done? False: reported. */
bool io_session_may_change(struct io_session *s);
/* Each returns the exit code, 0 or 1; what went wrong is reported. */
int io_session_open(struct io_session *s, const struct io_open *how);
int io_session_close(struct io_session *s); /* also if none is open */

/* Wait for all requests in flight. */
void io_session_drain(struct io_session *s);

/* ---- Requests ---- */

enum io_kind {
	IO_READ,
	IO_WRITE,
	IO_ZERO,
	IO_DISCARD,
	IO_FLUSH, /* off and len are 0 */
};

/*
 * One request, however long: it goes to the image in pieces, none of which starts before the last
 * is done, so that buffers stay small. Made by io_request_new(), set, then run or started.
 */
struct io_request {
	struct io_session *session;
	enum io_kind kind;
	const char *subject; /* of "SUBJECT failed: ..."; borrowed */
	const char *verb;    /* "wrote"; borrowed */
	uint64_t off, len;
	uint64_t *parts; /* buffers that together have len; owned; NULL: one */
	size_t part_count;

	/* Writes: what. Reads: what is compared, if that is wanted. */
	struct io_content content;
	bool compare;
	uint64_t compare_off, compare_len; /* which part, from off on */

	bool dump;	/* reads: print what was read */
	bool explain;	/* reads: say where the first difference is */
	bool quiet;	/* no report */
	bool machine;	/* the report is numbers only */
	unsigned flags; /* IMG_SUBMIT_* */

	/* While it runs. */
	bool alone; /* nobody waits: it reports and goes when it is done */
	bool finished, reported;
	int rc;
	uint64_t done;
	size_t piece; /* of done .. len, in flight */
	void *memory;
	uint8_t *buf; /* in memory */
	size_t buf_bytes;
	struct iovec *iov;
	double since, seconds;
	struct io_difference difference;
};

/* NULL: out of memory; reported. */
struct io_request *io_request_new(struct io_session *s, enum io_kind kind);
void io_request_free(struct io_request *r);

/* Wait for it, report, free it. Returns the exit code. */
int io_request_run(struct io_request *r);
/* Send it on its way: the rest happens while others are waited for. Returns the exit code so far. */
int io_request_start(struct io_request *r);

#endif

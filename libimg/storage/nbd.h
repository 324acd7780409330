/*
 * Inside the module "nbd": names (nbd_name.c), libnbd (nbd_library.h), one connection
 * (nbd_connection.c), and the storage made of them (nbd.c).
 */
#ifndef LIBIMG_STORAGE_NBD_H
#define LIBIMG_STORAGE_NBD_H

#include <pthread.h>

#include "libimg/storage/module.h"
#include "libimg/storage/nbd_library.h"

/* ---- nbd_name.c ---- */

int img_nbd_parse_name(const char *name, img_keyval_fn *set, void *user,
		       struct img_error *err);

/* ---- nbd_connection.c ---- */

/* What an export is and where, the same for all its connections. */
struct img_nbd_export {
	const struct img_nbd_library *lib;
	const char *name; /* for messages */
	const char *host, *port, *path, *export_name;
	bool tls, tls_verify;
	const char *tls_username, *tls_psk_file, *tls_certificates;
	unsigned connect_seconds;   /* how long one attempt may take */
	unsigned reconnect_seconds; /* how long attempts go on when the server went away */
	unsigned request_seconds;   /* how long the server may keep silent with requests in flight */

	/* What the first connection learnt. */
	uint64_t size;
	uint64_t max_bytes; /* of one request */
	uint32_t block_bytes;
	uint64_t best_bytes; /* multiples of this are answered best; 0: it does not say */
	bool read_only, can_flush, can_fua, can_zero, can_fast_zero, can_multi_conn, can_extents;
	bool is_rotational;

	/* Set when the server went away with writes that nobody had flushed: no later flush is true. */
	_Atomic bool lost_writes;
	_Atomic uint64_t written, flushed; /* changes that were answered; those of them before a flush */
	pthread_mutex_t lock;		   /* guards the list, and its connections' sockets */
	struct img_list connections;
};

/* A run of bytes of one kind. */
struct img_nbd_extent {
	uint64_t off, len;
	bool hole; /* reads as zeroes */
};

enum {
	IMG_NBD_MAX_ZERO = 1 << 30, /* bytes of one write-zeroes or block-status request: 32 bits hold them */
	IMG_NBD_MAX_EXTENTS = 512,  /* kept of one answer; what follows is asked for again */
};

/* One request, which goes to the server in parts. Its maker owns it until finished() runs. */
struct img_nbd_request {
	struct img_list link;
	struct img_io *io;		/* what to do, with whose buffers; NULL: say where there are holes */
	uint64_t off, len;		/* multiples of the export's block */
	struct img_nbd_extent *extents; /* IMG_NBD_MAX_EXTENTS of them, from off on */
	size_t extent_count;
	/* On the connection's queue, also from inside img_nbd_request(). May free the request. */
	void (*finished)(struct img_nbd_request *r, int rc);
	void *user;

	/* The storage's own, on the way to a connection of another thread. */
	struct img_post post;
	struct img_nbd_connection *connection;

	/* The connection's own. */
	bool begun;
	bool refused;	  /* finished, with nothing sent: to be given to another connection */
	uint64_t issued;  /* bytes of it that went to the server */
	uint64_t written; /* SYNC: of the export, when it was sent */
	unsigned parts;	  /* unanswered */
	int rc;
};

struct img_nbd_connection;

/*
 * Connect, and fill what export learns by that: blocks, and q's thread need not run yet. export is
 * borrowed. Errors: of connecting; -EPROTO: the server says what cannot be; -ETIMEDOUT.
 */
int img_nbd_connect(struct img_nbd_export *export, struct img_ioq *q,
		    struct img_nbd_connection **out, struct img_error *err);
/*
 * A further connection, which is made when the first request needs it. If the server lets it not in, its
 * requests finish as refused, and it is of no use any more. -ENOMEM.
 */
int img_nbd_connection_new(struct img_nbd_export *export, struct img_ioq *q,
			   struct img_nbd_connection **out);
/* Nothing may be in flight. NULL is fine. */
void img_nbd_connection_free(struct img_nbd_connection *c);
/* These two on the thread of the connection's queue. */
void img_nbd_request(struct img_nbd_connection *c, struct img_nbd_request *r);
bool img_nbd_is_refused(const struct img_nbd_connection *c);
/* How many bytes its requests have. */
uint64_t img_nbd_load(const struct img_nbd_connection *c);

#endif

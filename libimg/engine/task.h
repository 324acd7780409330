/*
 * Tasks and pieces: a task is what a user asked for; it is dealt out in pieces, each one extent
 * (reading) or one plan (writing), several in flight. Both belong to the thread of their queue,
 * except while a piece waits (then to who wakes it) or is at work in the pool. Private to
 * libimg/engine.
 */
#ifndef LIBIMG_ENGINE_TASK_H
#define LIBIMG_ENGINE_TASK_H

#include "libimg/engine/buffers.h"
#include "libimg/engine/core.h"
#include "libimg/engine/extent_cache.h"
#include "libimg/engine/request.h"
#include "libimg/engine/unit_cache.h"

struct img_piece;

typedef void img_task_done_fn(void *user, int rc, const struct img_error *err);

struct img_queue {
	struct img_ioq *ioq;
	struct img_list idle_link; /* in engine->blocking_idle */
	unsigned process;	   /* img_process_number() */
	bool blocking;		   /* behind blocking calls: no callback of the program's */
	size_t in_flight;	   /* tasks, fills not counted */
	size_t completed;	   /* since the present run began */
	size_t tasks, pieces;	   /* that were made, in use or free */
	struct img_list free_tasks, free_pieces;
	struct img_queue_epochs readers;
	bool running; /* img_engine_queue_run() is on its thread's stack */
	struct img_buffers buffers;
	struct img_extent_cache extents;
	struct img_unit_cache units;
	uint64_t decode_bytes;	   /* of compressed units that are being read and decoded (read.c) */
	struct img_list undecoded; /* img_piece.batch_link: they wait until that is less */
	struct img_list gathered;  /* img_piece.batch_link: for the pool (batch.c) */
	unsigned ngathered;
	struct img_list kept_back; /* img_piece.batch_link: writes that more may join (claims.c) */
	bool keep_nothing;
};

struct img_task {
	struct img *img;
	struct img_queue *queue;
	struct img_epoch_readers *readers; /* the queue's, of img */
	/* Find out where the piece's bytes live and see to them; ends in img_piece_done(). */
	void (*look)(struct img_piece *p);
	bool changes; /* it writes: */
	enum img_op op;
	bool ordered, compress, may_unmap, keep_allocated, fast;
	bool deep; /* looking up: */
	img_lookup_fn *found;
	void *found_user;
	bool fua;	   /* it is done only when durable: */
	bool sync;	   /* ... and is not yet: it takes a write-out */
	bool inner;	   /* made by a piece: done() may run inside img_task_start() */
	uint64_t off, end; /* guest bytes */
	uint64_t next;	   /* the first byte not dealt out yet */
	struct iovec *iov; /* borrowed; NULL: none; the cursor stands at next */
	int iovcnt, iov_at;
	size_t iov_within;
	unsigned pieces; /* in flight */
	bool looking;	 /* a piece is still finding out where next lives */
	bool starting;	 /* start_pieces() is on the stack */
	int rc;
	struct img_error err;
	struct img_reader reader;   /* in readers; not of an inner task */
	struct img_list order_link; /* in engine->ordered */
	struct img_list free_link;
	struct img_post post;
	img_task_done_fn *done;
	void *user;
};

struct img_piece {
	struct img_list free_link;
	struct img_waiter waiter;   /* for a block, or for the engine to change */
	struct img_list claim_link; /* engine->claims while claimed */
	struct img_task *task;
	struct img_queue *queue;
	enum img_op op;	   /* writing: of this piece, now */
	uint64_t off, len; /* guest bytes; len grows known with the look-up */
	struct img_req req;
	struct img_error err;
	struct img_io io;
	struct iovec *iov, small_iov[8]; /* the piece's slice of the task's buffers */
	int iovcnt;
	struct img_load load; /* the block that this piece is loading */
	struct img_engine *loading_engine;
	struct img_post post;
	struct img_work work;
	struct img_list batch_link; /* in queue->gathered, or among the pieces of a batch */
	void (*offload_run)(struct img_piece *p);
	void (*offload_done)(struct img_piece *p);
	int rc;	     /* of work in the pool */
	bool inside; /* entered readers: the look-up is in use */

	/* Reading. */
	struct img *level; /* the image of the chain that holds the extent */
	struct img_extent extent;
	struct img_buffer stored;	  /* COMPRESSED: as stored */
	struct img_cached_unit *decoding; /* others wait for what this piece decodes; NULL: nobody can */
	size_t decode_bytes;		  /* of queue->decode_bytes */
	struct img_buffer unit;		  /* decoded; as a cipher needs it; to be packed */

	struct img_lookups *lookups; /* lookup.c's; malloc'd, freed with the piece */

	/* Writing. */
	struct img_plan plan;
	bool plan_open;			 /* it is to be committed or dropped, and was not yet */
	uint64_t claim_start, claim_end; /* guest bytes; claimed while claim_link is in a list */
	struct img_piece *host;		 /* whose claim this piece has joined; NULL: none */
	bool joinable;			 /* others may write to what this plan fills */
	bool completed;			 /* written, but for those who have joined */
	bool kept_back;			 /* its write is not submitted yet: in queue->kept_back */
	struct img_buffer merged;	 /* struct iovec[]: its bytes and those that follow on them */
	unsigned joined;		 /* of them, still being written */
	struct img_list joiners;	 /* img_piece.claim_link: written, waiting for the commit */
	unsigned io_flags;		 /* IMG_IO_* of the plan's write, zero or punch */
	bool zeroes;			 /* the data is zeroes, not the task's buffers */
	/* Fill: what the image reads as around the piece; none: zeroes. head may hold both. */
	struct img_buffer head, tail;
	const uint8_t *tail_bytes;
	uint64_t head_len, tail_len; /* bytes of fill to be written */
	struct iovec fill_iov[2];
	unsigned fills; /* fill reads in flight */
	unsigned grows; /* times that this piece asked for growth */
	bool packing_tried;
	struct img_buffer compressed; /* WRITE_COMPRESSED: what to store; none: does not shrink */
	size_t compressed_len;
	struct img_buffer clear;	   /* with a cipher: all that is to be written, and encrypted in place */
	void (*send)(struct img_piece *p); /* do the write, when nobody can join it any more */
	uint64_t io_skip;		   /* bytes of the plan's range before the first written one */
};

/* q's readers of img; NULL: out of memory. */
struct img_epoch_readers *img_queue_epochs_of(struct img_queue *q, struct img *img);
/* A new task; the caller sets iov, op, ... before img_task_start(). NULL: out of memory. */
struct img_task *img_task_new(struct img_queue *q, struct img *img,
			      void (*look)(struct img_piece *), uint64_t off, uint64_t len);
/* done() follows; never from inside this, unless the task is an inner one. */
void img_task_start(struct img_task *t);
/* Is t first among those that allocate in turn? Under the lock. */
bool img_task_is_first(const struct img_task *t);

/* The piece's look-up is over: it covers len bytes. Takes its slice of the buffers. -ENOMEM. */
int img_piece_assign(struct img_piece *p, uint64_t len);
/* Done, with p->err if rc. The task goes on. */
void img_piece_done(struct img_piece *p, int rc);
/*
 * Fetch the block that p->req is missing. True: it is here already, look again; else p looks again when
 * it is, or has failed, and must not be touched.
 */
bool img_piece_fetch(struct img_piece *p);
/*
 * Before p looks up what it will use: true, or p looks again when it may and must not be touched.
 */
bool img_piece_enter(struct img_piece *p);
/* Nothing that was looked up is in use any more. Fine if p has not entered. */
void img_piece_leave(struct img_piece *p);
/* The same for what is over before the caller returns: false, if it may not be looked up now. */
bool img_task_enter(struct img_task *t);
void img_task_leave(struct img_task *t);
/* Look again when woken from waiters; the engine's lock is held. p must not be touched after. */
void img_piece_wait(struct img_piece *p, struct img_list *waiters);

#endif

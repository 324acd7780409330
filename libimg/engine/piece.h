/*
 * A piece: one extent being read or one plan being carried out. Private to request.c, read.c,
 * write.c.
 */
#ifndef LIBIMG_ENGINE_PIECE_H
#define LIBIMG_ENGINE_PIECE_H

#include "libimg/base/pool.h"
#include "libimg/engine/core.h"

struct img_queue {
	struct img_ioq *ioq;
	size_t in_flight;		/* tasks, fills not counted */
	size_t completed;		/* since the present run began */
	struct img_list free_tasks, free_pieces;
};

struct img_piece {
	struct img_list link;		/* engine->waiting, or the queue's free list */
	struct img_list claim_link;	/* engine->claims while claimed */
	struct img_task *task;
	struct img_queue *queue;
	enum img_op op;			/* writing */
	uint64_t off, len;		/* guest bytes; len grows known with the look-up */
	struct img_req req;
	struct img_error err;
	struct img_io io;
	struct iovec *iov, small_iov[8];	/* the piece's slice of the task's buffers */
	int iovcnt;
	struct img_meta_waiter waiter;	/* for a block */
	struct img_block *loading;	/* the block that this piece is loading */
	struct img_engine *loading_engine;
	struct img_post post;
	struct img_work work;
	int rc;				/* of work in the pool */

	/* Reading. */
	struct img *level;		/* the image of the chain that holds the extent */
	struct img_extent extent;
	uint8_t *stored, *unit;		/* COMPRESSED: as stored; decoded */

	/* Writing. */
	struct img_plan plan;
	uint64_t claim_start, claim_end;
	bool planned;			/* counted in engine->plans */
	bool zeroes;			/* the data is zeroes, not the task's buffers */
	uint8_t *head, *tail;		/* fill, read from the image; NULL: none or zeroes */
	uint64_t head_len, tail_len;	/* bytes of fill to be written */
	struct iovec fill_iov[2];
	unsigned fills;			/* fill reads in flight */
	unsigned grows;			/* times that this piece asked for growth */
	bool packing_tried;
	uint8_t *packed;		/* WRITE_COMPRESSED: what to store */
	size_t packed_len;
	uint8_t *cipher_copy;
	uint64_t io_skip;		/* bytes of the plan's range before the first written one */
};

/* request.c */
struct img_piece *img_piece_new(struct img_task *t);
/* The piece's look-up is over: it covers len bytes. Takes its slice of the buffers. */
int img_piece_take(struct img_piece *p, uint64_t len);
/* Done, with p->err if rc. The task goes on. */
void img_piece_done(struct img_piece *p, int rc);
/* Fetch the block that p->req is missing, then run p's look-up again. */
void img_piece_fetch(struct img_piece *p);
/* Run p's look-up again when it is woken from list; the engine's lock is held. */
void img_piece_wait(struct img_piece *p, struct img_list *list);
/* Take up to len bytes of iov's [within ...) as out[]; returns the number of entries used. */
int img_iov_slice(const struct iovec *iov, int iovcnt, uint64_t skip, uint64_t len,
		  struct iovec *out);

/* read.c */
void img_read_look(struct img_piece *p);
/* What is at off: 0, IMG_NEED_METADATA (req names it), or an error; *len is clipped. No I/O. */
int img_read_resolve(struct img *top, struct img_req *req, uint64_t off, uint64_t *len,
		     struct img_extent *out, struct img **level);

/* write.c */
void img_write_look(struct img_piece *p);

#endif

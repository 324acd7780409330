/*
 * Who reads an image. Two things are asked of them:
 *
 * - Space that was unlinked is not used again before all are done who may have looked it up
 *   (quarantine.c): every request is counted, from its start to its end, by the number under which
 *   it started.
 * - While a driver changes its structures nobody looks anything up, nor uses what was looked up
 *   (engine.c): whoever is about to look up enters, and leaves when the bytes have arrived.
 *
 * Both are counted for each queue and image, and hold for the image and all its backing images,
 * which are read through it. Only the queue's thread counts, so that starting and ending take no
 * lock. Private to libimg/engine.
 */
#ifndef LIBIMG_ENGINE_EPOCHS_H
#define LIBIMG_ENGINE_EPOCHS_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "libimg/base/list.h"

struct img_epoch_readers;

/* What an image keeps of those who read it, through its children too. */
struct img_epoch_domain {
	uint64_t id; /* never used twice */
	/* Under the common lock: */
	struct img_epoch_domain *below; /* of the backing image; NULL: there is none */
	struct img_list levels;		/* img_epoch_level.link */
	_Atomic bool closed;		/* nobody may enter */
};

/* What a queue keeps. Zero-initialise; then img_queue_epochs_init(). */
struct img_queue_epochs {
	struct img_list all; /* img_epoch_readers.queue_link; under the common lock */
	_Atomic pthread_t owner;
	struct {
		uint64_t id; /* of the image; 0: nothing */
		struct img_epoch_readers *readers;
	} recent[16]; /* the owner's */
};

/* That readers read an image, their own or one below it. */
struct img_epoch_level {
	struct img_list link;	      /* in img_epoch_domain.levels */
	struct img_list readers_link; /* in img_epoch_readers.levels, or an unused one */
	struct img_epoch_domain *domain;
	struct img_epoch_readers *readers;
};

/* A request. */
struct img_reader {
	struct img_list link; /* in img_epoch_readers.running */
	uint64_t since;
};

/* A queue's requests on one image. For the queue's own thread, but for what is atomic. */
struct img_epoch_readers {
	struct img_list queue_link;
	struct img_queue_epochs *queue;
	uint64_t id;
	struct img_list running;	    /* img_reader, in the order they started */
	_Atomic uint64_t oldest;	    /* since when the first of them runs; UINT64_MAX: there is none */
	_Atomic unsigned reading, changing; /* requests in flight; flushes change */
	_Atomic unsigned inside;	    /* entered and not left, or asking whether they may enter */
	_Atomic unsigned admitted;	    /* of those, who entered; counted for invariants only */
	_Atomic unsigned kept_out_by;	    /* images of the chain that are closed */
	struct img_list levels;		    /* the image's, its backing image's, ...; under the common lock */
};

void img_epoch_domain_init(struct img_epoch_domain *s);
/* Nothing may be in flight. */
void img_epoch_domain_destroy(struct img_epoch_domain *s);
void img_queue_epochs_init(struct img_queue_epochs *q);
void img_queue_epochs_destroy(struct img_queue_epochs *q);

/*
 * Let s be read through to below (NULL: nothing) from now on. There is nobody inside, and s is closed if
 * anybody may read it. -ENOMEM: nothing has changed; never for NULL.
 */
int img_epoch_domain_set_below(struct img_epoch_domain *s, struct img_epoch_domain *below);

/* The queue's readers of an image. NULL: not made yet; out of memory. On the queue's thread. */
struct img_epoch_readers *img_epoch_readers_find(struct img_queue_epochs *q, const struct img_epoch_domain *top);
struct img_epoch_readers *img_epoch_readers_new(struct img_queue_epochs *q, struct img_epoch_domain *top);

/* What is looked up after this stays in place until img_reader_end(). */
void img_reader_start(struct img_epoch_readers *r, struct img_reader *reader);
void img_reader_end(struct img_epoch_readers *r, struct img_reader *reader);

/* False: an image of the chain is closed; ask again when it is open. */
bool img_reader_enter(struct img_epoch_readers *r);
/* True: an image of the chain is closed, and who closed it may be waiting for this. */
bool img_reader_leave(struct img_epoch_readers *r);

/* A number that all who started before have less than. Thread-safe. */
uint64_t img_epoch_now(void);
/* Are there none left who started before now was asked for? Thread-safe. */
bool img_epoch_passed(struct img_epoch_domain *s, uint64_t now);
/* Let nobody enter, or let them in again. Thread-safe; one at a time for each image. */
void img_epoch_domain_close(struct img_epoch_domain *s);
void img_epoch_domain_open(struct img_epoch_domain *s);
/* Is none of those inside who were let in? For invariants. Thread-safe. */
bool img_epoch_domain_is_left(struct img_epoch_domain *s);
/* Is nobody inside, who is turned away included? Thread-safe. */
bool img_epoch_domain_empty(struct img_epoch_domain *s);
/*
 * Requests in flight (changing: of those that change the image), of all queues or (mine) of those
 * that belong to this thread. Thread-safe.
 */
size_t img_epoch_domain_in_flight(struct img_epoch_domain *s, bool changing, bool mine);

#endif

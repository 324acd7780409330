/*
 * Who may still be using what a look-up told: every request, from its start to its end. Space that
 * was unlinked is not used again before those who started earlier are done (quarantine.c). A queue
 * publishes the number under which the oldest of its requests started, so that starting and ending
 * one takes no lock. Private to libimg/engine.
 */
#ifndef LIBIMG_ENGINE_READERS_H
#define LIBIMG_ENGINE_READERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "libimg/base/list.h"

/* A request. */
struct img_reader {
	struct img_list link; /* in img_readers.running */
	uint64_t since;
};

/* A queue's; for its own thread, but for what is atomic. */
struct img_readers {
	struct img_list link;	 /* among all queues' */
	struct img_list running; /* img_reader, in the order they started */
	_Atomic uint64_t oldest; /* since when the first of them runs; UINT64_MAX: there is none */
};

void img_readers_init(struct img_readers *q);
void img_readers_destroy(struct img_readers *q);

/* What is looked up after this stays in place until img_reader_end(). */
void img_reader_start(struct img_readers *q, struct img_reader *r);
void img_reader_end(struct img_readers *q, struct img_reader *r);

/* A number that all who started before have less than. Thread-safe. */
uint64_t img_readers_now(void);
/* Are there none left who started before now was asked for? Thread-safe. */
bool img_readers_gone(uint64_t now);

#endif

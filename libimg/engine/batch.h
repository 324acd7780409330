/*
 * CPU work of pieces, in the worker pool a few pieces at a time: waking a thread, and being woken
 * by it, costs as much as unpacking a few KiB. Private to libimg/engine.
 */
#ifndef LIBIMG_ENGINE_BATCH_H
#define LIBIMG_ENGINE_BATCH_H

#include "libimg/engine/task.h"

/*
 * Have run(p) called on a pool thread, then done(p) on the queue's. together: how many pieces are
 * worth one wake-up; they wait for each other until img_batch_flush() at the latest.
 */
void img_batch_add(struct img_piece *p, unsigned together, void (*run)(struct img_piece *p),
		   void (*done)(struct img_piece *p));
/* Nothing more will be added now: start what was gathered. */
void img_batch_flush(struct img_queue *q);

#endif

/*
 * Writing, zeroing, discarding: plan, data, commit.
 */
#ifndef LIBIMG_ENGINE_WRITE_H
#define LIBIMG_ENGINE_WRITE_H

#include "libimg/engine/task.h"

/* The look of a task that changes the image; task->op says how. */
void img_write_piece(struct img_piece *p);

#endif

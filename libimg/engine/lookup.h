/*
 * Looking up where guest bytes live, for who does not read them: block status.
 */
#ifndef LIBIMG_ENGINE_LOOKUP_H
#define LIBIMG_ENGINE_LOOKUP_H

#include "libimg/engine/request.h"
#include "libimg/engine/task.h"

/* A look-up task's look: t->found gets what there is. */
void img_lookup_piece(struct img_piece *p);

#endif

/*
 * Worker threads. Threads are started when work first needs them, so that a program that never
 * submits any has none. Small stacks (256 KiB): work must not recurse deeply nor keep large
 * arrays on the stack.
 */
#ifndef LIBIMG_BASE_POOL_H
#define LIBIMG_BASE_POOL_H

#include "libimg/base/list.h"

struct img_pool;

/* One piece of work; owned by the submitter, who keeps it alive until run() was called. */
struct img_work {
	struct img_list link;
	void (*run)(struct img_work *work); /* on a worker thread; may free the work */
};

/* max_threads: at least 1. NULL: out of memory. */
struct img_pool *img_pool_new(unsigned max_threads);
/* Waits for all submitted work, then ends the threads. NULL is fine. */
void img_pool_free(struct img_pool *pool);
/*
 * Thread-safe. If no thread can be started and none is running, the work is run by the caller
 * before this returns.
 */
void img_pool_submit(struct img_pool *pool, struct img_work *work);

/*
 * The process-wide pools. Thread-safe. Never freed. One for what needs a processor, with a thread a
 * core; one for what waits, for disks above all: work there may take seconds without holding
 * anything else up.
 */
struct img_pool *img_pool_cpu(void);
struct img_pool *img_pool_waiting(void);
/* Cores that this process may use (affinity respected), at least 1. */
unsigned img_cpu_count(void);

#endif

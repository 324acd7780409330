/*
 * Requests sent to an image as fast as it answers, and the time they take. What the command line
 * said and what is printed is bench.c's.
 */
#ifndef TOOLS_BENCH_RUN_H
#define TOOLS_BENCH_RUN_H

#include <stdbool.h>
#include <stdint.h>

#include "libimg/img.h"
#include "tools/histogram.h"

enum bench_kind {
	BENCH_READ,
	BENCH_WRITE,
	BENCH_FLUSH,
	BENCH_KINDS,
};

/*
 * Sequential: request i goes to offset + i * step; what would reach past the end begins anew, at
 * the offset modulo the disk's size less a request's. Of several queues each takes its turn: queue
 * k of n has the requests k, k + n, k + 2n ...
 * Random: to offset + any multiple of bytes, drawn by a generator of each queue.
 */
struct bench_plan {
	uint64_t count;	  /* of reads and writes, over all queues; UINT64_MAX: as many as seconds allow */
	unsigned seconds; /* then nothing more is sent; 0: no limit */
	unsigned depth;	  /* in flight on each queue */
	unsigned queues;
	uint64_t offset, bytes, step;
	unsigned read_percent; /* 100: reads only, 0: writes only */
	uint8_t pattern;       /* what is written */
	bool random;
	uint64_t seed;
	uint64_t flush_interval; /* flush after so many requests of a queue; 0: never */
	bool drain;		 /* before the flush all that is in flight completes, and the flush
				    completes before more is sent */
	bool timed;		 /* measure how long each request takes */
	bool registered;	 /* the buffers are registered with each queue */
	enum img_io_kind io;
};

struct bench_result {
	double seconds;
	uint64_t requests[BENCH_KINDS];
	struct histogram latency[BENCH_KINDS]; /* nanoseconds; empty unless plan->timed */
	bool interrupted;		       /* by a signal: see signals.h */
};

/*
 * Carry the plan out. plan->offset + plan->bytes must be within the image, plan->queues >= 1,
 * plan->depth >= 1. False: it failed; *why is a malloc'd sentence, NULL if memory ran out. Nothing
 * is in flight then or afterwards.
 */
bool bench_execute(const struct bench_plan *plan, struct img *img, struct bench_result *out,
		   char **why);

#endif

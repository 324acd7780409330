/*
 * How far a job is: "    (12.34/100%)\r" on standard output with -p (on a terminal also the rate
 * and the time left), one line on standard error at SIGUSR1 without. Also how a job is told to
 * stop.
 */
#ifndef TOOLS_PROGRESS_H
#define TOOLS_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

struct progress {
	bool shown, terminal;
	bool begun;	/* something was printed */
	uint64_t total; /* bytes of the job */
	uint64_t started_ns, printed_ns;
	double percent, printed; /* now; when last printed */
};

/* shown: -p without -q. Installs the handlers of signals.h; the first step prints the first line. */
void progress_begin(struct progress *p, bool shown, uint64_t total);
/* An img_progress_fn; user is the struct progress. True: a signal asked to stop. */
bool progress_step(void *user, uint64_t done, uint64_t total);
/* The last percent, if the job succeeded. */
void progress_complete(struct progress *p);
/* The last line's end. */
void progress_end(struct progress *p);

#endif

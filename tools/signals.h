/* Signals while a long job runs. */
#ifndef TOOLS_SIGNALS_H
#define TOOLS_SIGNALS_H

#include <stdbool.h>

/*
 * From now on SIGINT, SIGTERM and SIGHUP (where they were not ignored) are noted and no longer end
 * the program by themselves: the job ends soon, cleans up, and signals_finish() passes the signal
 * on. A second one of the same kind ends it at once. SIGUSR1 asks for a line of progress.
 */
void signals_install(void);
/*
 * Before that: the first three shall go on to end the program at once, as there is nothing to clean
 * up and a job that waits for another program would not see them.
 */
void signals_leave_stops(void);

bool signals_stop(void);	  /* one of the first three came */
bool signals_report_wanted(void); /* SIGUSR1 came since the last call */

/* Die of the signal that came, as the caller's shell expects; return if none did. */
void signals_finish(void);

#endif

/*
 * What a process did to files, as strace saw it, done again to storages:
 *
 *	strace -f -y -xx -s 100000000 -o LOG -e trace=...
 *
 * (see tests/crash-recorded/run.sh for the calls).
 */
#ifndef TESTS_SUPPORT_CALLS_H
#define TESTS_SUPPORT_CALLS_H

#include "libimg/storage/storage.h"

/*
 * Writes, zeroing, changes of size and syncs of the files called name[] in folder (absolute, as the
 * kernel calls it), in the order in which they were done; syncs when they began. A file that takes the
 * place of one of them replaces it, durably when the folder is synced. Ends the program where the log has
 * what cannot be told again: other files of the folder that change, other names that change, a file that takes
 * another's place before it is durable, calls that fail.
 */
void calls_replay(const char *log, const char *folder, const char *const *name,
		  struct img_storage *const *file, unsigned nfiles);

#endif

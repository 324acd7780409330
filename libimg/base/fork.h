/*
 * fork(): a child has none of our threads, and rings and locks are its parent's. What was made before
 * is not to be used there; what it makes itself works. Thread-safe.
 */
#ifndef LIBIMG_BASE_FORK_H
#define LIBIMG_BASE_FORK_H

#include <pthread.h>

/*
 * A number that is another one in a child: what was made under one number is not to be used under
 * another.
 */
unsigned img_process_number(void);

/*
 * Once for each caller's static data: lock (NULL: none) is held while the process forks, and is free
 * in the child, where in_child (NULL: none) then runs. in_child may do what is async-signal-safe.
 */
void img_watch_forks(pthread_mutex_t *lock, void (*in_child)(void));

#endif

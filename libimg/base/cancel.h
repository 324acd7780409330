/*
 * Threads that are cancelled (pthread_cancel) inside the library would leave locks held and requests
 * in flight: it ends what it does first, and is no cancellation point but at the very beginning of a
 * call, before anything is held.
 */
#ifndef LIBIMG_BASE_CANCEL_H
#define LIBIMG_BASE_CANCEL_H

#include <pthread.h>

static inline int img_cancel_off(void)
{
	int before;

	pthread_testcancel();
	pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
	return before;
}

static inline void img_cancel_restore(const int *before)
{
	pthread_setcancelstate(*before, NULL);
}

/* At the begin of a function: up to its end the thread is not cancelled. */
#define IMG_NOT_CANCELLED \
	int img_cancel_before \
		__attribute__((cleanup(img_cancel_restore), unused)) = img_cancel_off()

#endif

/* The event that makes a queue's descriptor readable, and wakes who waits in it. */
#include <pthread.h>
#include <stdint.h>
#include <unistd.h>

#include "libimg/storage/ioq_private.h"

void img_ioq_signal_locked(struct img_ioq *q)
{
	uint64_t one = 1;

	if (q->signalled || q->awake)
		return;
	q->signalled = true;
	/* cannot fail: the counter is 0 or 1 */
	if (write(q->event_fd, &one, sizeof(one)) < 0)
		q->signalled = false;
}

void img_ioq_signal(struct img_ioq *q)
{
	pthread_mutex_lock(&q->lock);
	img_ioq_signal_locked(q);
	pthread_mutex_unlock(&q->lock);
}

void img_ioq_clear_signal_locked(struct img_ioq *q)
{
	uint64_t count;

	if (q->signalled && read(q->event_fd, &count, sizeof(count)) == sizeof(count))
		q->signalled = false;
}

void img_ioq_clear_signal(struct img_ioq *q)
{
	pthread_mutex_lock(&q->lock);
	img_ioq_clear_signal_locked(q);
	pthread_mutex_unlock(&q->lock);
}

/*
 * Storages and the queues that they are used on. A queue's list is walked by its thread at every
 * request, and so has the queue's own lock (that of its watches); a storage's list is only for its
 * end. A storage may be closed while a queue that it was used on runs, or goes, on another thread:
 * whoever takes an attachment out of its lists detaches it, and the other one waits for that.
 */
#include "libimg/storage/ioq_attach.h"

#include <errno.h>
#include <stdlib.h>

#include "libimg/storage/ioq_private.h"
#include "libimg/storage/storage.h"

struct img_attachment {
	struct img_attachment *next_of_queue, *next_of_storage;
	struct img_ioq *q;
	struct img_storage *s;
	void *state;
};

/* Guards storages' lists, and changes of queues' lists. A queue's own lock may be taken inside it. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t detached = PTHREAD_COND_INITIALIZER;

static struct img_attachment *find(struct img_ioq *q, const struct img_storage *s)
{
	struct img_attachment *a;

	pthread_mutex_lock(&q->watches.lock);
	for (a = q->attachments; a && a->s != s; a = a->next_of_queue)
		;
	pthread_mutex_unlock(&q->watches.lock);
	return a;
}

int img_ioq_attach(struct img_ioq *q, struct img_storage *s, void **state)
{
	struct img_attachment *a = find(q, s); /* stays: s is in use */
	int rc;

	if (!a) {
		a = calloc(1, sizeof(*a));
		if (!a)
			return -ENOMEM;
		a->q = q;
		a->s = s;
		rc = s->ops->attach(s, q, &a->state);
		if (rc) {
			free(a);
			return rc;
		}
		pthread_mutex_lock(&lock);
		a->next_of_storage = s->attachments;
		s->attachments = a;
		pthread_mutex_lock(&q->watches.lock);
		a->next_of_queue = q->attachments;
		q->attachments = a;
		pthread_mutex_unlock(&q->watches.lock);
		pthread_mutex_unlock(&lock);
	}
	*state = a->state;
	return 0;
}

/* Called with the lock, which is left meanwhile. */
static void detach(struct img_attachment *a)
{
	struct img_attachment **at = &a->s->attachments;
	struct img_ioq *q = a->q;

	while (*at != a)
		at = &(*at)->next_of_storage;
	*at = a->next_of_storage;
	pthread_mutex_lock(&q->watches.lock);
	for (at = &q->attachments; *at != a; at = &(*at)->next_of_queue)
		;
	*at = a->next_of_queue;
	pthread_mutex_unlock(&q->watches.lock);
	a->s->detaching++;
	q->detaching++;
	pthread_mutex_unlock(&lock);

	pthread_mutex_lock(&q->watches.lock);
	a->s->ops->detach(a->s, q, a->state);
	pthread_mutex_unlock(&q->watches.lock);

	pthread_mutex_lock(&lock);
	a->s->detaching--;
	q->detaching--;
	free(a);
	pthread_cond_broadcast(&detached);
}

void img_ioq_detach_storages(struct img_ioq *q)
{
	pthread_mutex_lock(&lock);
	while (q->attachments)
		detach(q->attachments);
	while (q->detaching)
		pthread_cond_wait(&detached, &lock);
	pthread_mutex_unlock(&lock);
}

void img_storage_detach(struct img_storage *s)
{
	pthread_mutex_lock(&lock);
	while (s->attachments)
		detach(s->attachments);
	while (s->detaching)
		pthread_cond_wait(&detached, &lock);
	pthread_mutex_unlock(&lock);
}

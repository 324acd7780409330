#include "libimg/engine/readers.h"

#include <pthread.h>

/* Grows each time that something is unlinked; all images count together. */
static _Atomic uint64_t clock_now = 1;

static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;
static struct img_list all = { &all, &all };

void img_readers_init(struct img_readers *q)
{
	img_list_init(&q->running);
	atomic_init(&q->oldest, UINT64_MAX);
	pthread_mutex_lock(&all_lock);
	img_list_add_tail(&all, &q->link);
	pthread_mutex_unlock(&all_lock);
}

void img_readers_destroy(struct img_readers *q)
{
	pthread_mutex_lock(&all_lock);
	img_list_del(&q->link);
	pthread_mutex_unlock(&all_lock);
}

void img_reader_start(struct img_readers *q, struct img_reader *r)
{
	r->since = atomic_load(&clock_now);
	if (img_list_empty(&q->running))
		atomic_store(&q->oldest, r->since); /* seen before anything that is looked up now */
	img_list_add_tail(&q->running, &r->link);
}

void img_reader_end(struct img_readers *q, struct img_reader *r)
{
	bool first = q->running.next == &r->link;
	uint64_t oldest = UINT64_MAX;

	img_list_del(&r->link);
	if (!first)
		return;
	if (!img_list_empty(&q->running))
		oldest = IMG_CONTAINER(q->running.next, struct img_reader, link)->since;
	atomic_store_explicit(&q->oldest, oldest, memory_order_release);
}

uint64_t img_readers_now(void)
{
	return atomic_fetch_add(&clock_now, 1) + 1;
}

bool img_readers_gone(uint64_t now)
{
	bool gone = true;

	pthread_mutex_lock(&all_lock);
	for (struct img_list *l = all.next; l != &all && gone; l = l->next)
		gone = atomic_load(&IMG_CONTAINER(l, struct img_readers, link)->oldest) >= now;
	pthread_mutex_unlock(&all_lock);
	return gone;
}

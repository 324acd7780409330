#include "libimg/engine/epochs.h"

#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/base/fork.h"
#include "libimg/base/invariant.h"

/* Grows each time that something is unlinked; all images count together. */
static _Atomic uint64_t clock_now = 1;
static _Atomic uint64_t last_id;

/* Guards which queue reads which image. */
static pthread_mutex_t common_lock = PTHREAD_MUTEX_INITIALIZER;

static void watch_forks(void)
{
	img_watch_forks(&common_lock, NULL);
}

void img_epoch_domain_init(struct img_epoch_domain *s)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, watch_forks);
	s->id = atomic_fetch_add(&last_id, 1) + 1;
	img_list_init(&s->levels);
	atomic_init(&s->closed, false);
}

static void free_readers(struct img_epoch_readers *r)
{
	IMG_INVARIANT(img_list_empty(&r->running) && atomic_load(&r->oldest) == UINT64_MAX);
	IMG_INVARIANT(!atomic_load(&r->reading) && !atomic_load(&r->changing) &&
		      !atomic_load(&r->inside));
	for (size_t i = 0; i < r->nlevels; i++)
		img_list_del(&r->level[i].link);
	img_list_del(&r->queue_link);
	free(r);
}

void img_epoch_domain_destroy(struct img_epoch_domain *s)
{
	struct img_list *node;

	pthread_mutex_lock(&common_lock);
	while ((node = img_list_pop(&s->levels))) {
		struct img_epoch_readers *r = IMG_CONTAINER(node, struct img_epoch_readers_level, link)->readers;

		img_list_init(node);
		if (r->id == s->id) /* else it reads a child, which may stay */
			free_readers(r);
	}
	pthread_mutex_unlock(&common_lock);
}

void img_queue_epochs_init(struct img_queue_epochs *q)
{
	img_list_init(&q->all);
	atomic_init(&q->owner, pthread_self());
}

void img_queue_epochs_destroy(struct img_queue_epochs *q)
{
	struct img_list *node;

	pthread_mutex_lock(&common_lock);
	while ((node = img_list_pop(&q->all))) {
		img_list_init(node);
		free_readers(IMG_CONTAINER(node, struct img_epoch_readers, queue_link));
	}
	pthread_mutex_unlock(&common_lock);
}

struct img_epoch_readers *img_epoch_readers_find(struct img_queue_epochs *q, const struct img_epoch_domain *top)
{
	size_t at = top->id % IMG_ARRAY_LEN(q->seen);
	struct img_epoch_readers *found = NULL;

	if (q->seen[at].id == top->id)
		return q->seen[at].readers;
	pthread_mutex_lock(&common_lock);
	for (struct img_list *l = q->all.next; l != &q->all && !found; l = l->next) {
		struct img_epoch_readers *r = IMG_CONTAINER(l, struct img_epoch_readers, queue_link);

		if (r->id == top->id)
			found = r;
	}
	pthread_mutex_unlock(&common_lock);
	if (found) {
		q->seen[at].id = top->id;
		q->seen[at].readers = found;
	}
	return found;
}

struct img_epoch_readers *img_epoch_readers_make(struct img_queue_epochs *q, struct img_epoch_domain *const *chain,
						 size_t n)
{
	struct img_epoch_readers *r = calloc(1, sizeof(*r) + n * sizeof(r->level[0]));
	unsigned closed = 0;

	if (!r)
		return NULL;
	r->queue = q;
	r->id = chain[0]->id;
	img_list_init(&r->running);
	atomic_init(&r->oldest, UINT64_MAX);
	r->nlevels = n;
	pthread_mutex_lock(&common_lock);
	img_list_add_tail(&q->all, &r->queue_link);
	for (size_t i = 0; i < n; i++) {
		r->level[i].readers = r;
		img_list_add_tail(&chain[i]->levels, &r->level[i].link);
		closed += atomic_load(&chain[i]->closed);
	}
	atomic_init(&r->kept_out_by, closed);
	pthread_mutex_unlock(&common_lock);
	return r;
}

void img_reader_start(struct img_epoch_readers *r, struct img_reader *reader)
{
	reader->since = atomic_load(&clock_now);
	if (img_list_empty(&r->running)) {
		IMG_INVARIANT(atomic_load(&r->oldest) == UINT64_MAX);
		atomic_store(&r->oldest, reader->since); /* seen before anything that is looked up now */
	}
	IMG_INVARIANT(atomic_load(&r->oldest) <= reader->since);
	img_list_add_tail(&r->running, &reader->link);
}

void img_reader_end(struct img_epoch_readers *r, struct img_reader *reader)
{
	bool first = r->running.next == &reader->link;
	uint64_t oldest = UINT64_MAX;

	IMG_INVARIANT(atomic_load(&r->oldest) <= reader->since);
	img_list_del(&reader->link);
	if (!first)
		return;
	if (!img_list_empty(&r->running))
		oldest = IMG_CONTAINER(r->running.next, struct img_reader, link)->since;
	atomic_store_explicit(&r->oldest, oldest, memory_order_release);
}

/* Who enters is seen before kept_out_by is asked, and who closes asks after setting it. */
bool img_reader_enter(struct img_epoch_readers *r)
{
	atomic_fetch_add(&r->inside, 1);
	if (!atomic_load(&r->kept_out_by))
		return true;
	atomic_fetch_sub(&r->inside, 1);
	return false;
}

bool img_reader_leave(struct img_epoch_readers *r)
{
	IMG_INVARIANT(atomic_load(&r->inside) > 0);
	atomic_fetch_sub(&r->inside, 1);
	return atomic_load(&r->kept_out_by);
}

uint64_t img_epoch_now(void)
{
	return atomic_fetch_add(&clock_now, 1) + 1;
}

static struct img_epoch_readers *readers_at(struct img_list *level)
{
	return IMG_CONTAINER(level, struct img_epoch_readers_level, link)->readers;
}

bool img_epoch_passed(struct img_epoch_domain *s, uint64_t now)
{
	bool gone = true;

	pthread_mutex_lock(&common_lock);
	for (struct img_list *l = s->levels.next; l != &s->levels && gone; l = l->next)
		gone = atomic_load(&readers_at(l)->oldest) >= now;
	pthread_mutex_unlock(&common_lock);
	return gone;
}

static void set_closed(struct img_epoch_domain *s, bool closed)
{
	pthread_mutex_lock(&common_lock);
	if (atomic_exchange(&s->closed, closed) != closed) {
		for (struct img_list *l = s->levels.next; l != &s->levels; l = l->next)
			atomic_fetch_add(&readers_at(l)->kept_out_by, closed ? 1u : -1u);
	}
	pthread_mutex_unlock(&common_lock);
}

void img_epoch_domain_close(struct img_epoch_domain *s)
{
	set_closed(s, true);
}

void img_epoch_domain_open(struct img_epoch_domain *s)
{
	set_closed(s, false);
}

bool img_epoch_domain_empty(struct img_epoch_domain *s)
{
	bool empty = true;

	pthread_mutex_lock(&common_lock);
	for (struct img_list *l = s->levels.next; l != &s->levels && empty; l = l->next)
		empty = !atomic_load(&readers_at(l)->inside);
	pthread_mutex_unlock(&common_lock);
	return empty;
}

size_t img_epoch_domain_in_flight(struct img_epoch_domain *s, bool changing, bool mine)
{
	pthread_t self = pthread_self();
	size_t n = 0;

	pthread_mutex_lock(&common_lock);
	for (struct img_list *l = s->levels.next; l != &s->levels; l = l->next) {
		struct img_epoch_readers *r = readers_at(l);

		if (mine && atomic_load(&r->queue->owner) != self)
			continue;
		n += atomic_load(&r->changing);
		if (!changing)
			n += atomic_load(&r->reading);
	}
	pthread_mutex_unlock(&common_lock);
	return n;
}

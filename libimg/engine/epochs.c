/*
 * Readers are counted for each queue and image, without a lock on the paths that serve requests;
 * who has to know the oldest, or wait for all, looks through the queues under a common lock.
 */
#include "libimg/engine/epochs.h"

#include <errno.h>
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
	s->below = NULL;
	img_list_init(&s->levels);
	atomic_init(&s->closed, false);
}

/* ---- Which queue reads which image ---- */

static struct img_epoch_level *level_of(struct img_list *link)
{
	return IMG_CONTAINER(link, struct img_epoch_level, link);
}

static struct img_epoch_level *level_in(struct img_list *readers_link)
{
	return IMG_CONTAINER(readers_link, struct img_epoch_level, readers_link);
}

static void free_level(struct img_epoch_level *l)
{
	img_list_del(&l->link);
	img_list_del(&l->readers_link);
	free(l);
}

static void free_levels(struct img_list *levels)
{
	while (!img_list_empty(levels))
		free_level(level_in(levels->next));
}

static void free_readers(struct img_epoch_readers *r)
{
	IMG_INVARIANT(img_list_empty(&r->running) && atomic_load(&r->oldest) == UINT64_MAX);
	IMG_INVARIANT(!atomic_load(&r->reading) && !atomic_load(&r->changing) &&
		      !atomic_load(&r->inside));
	free_levels(&r->levels);
	img_list_del(&r->queue_link);
	free(r);
}

/* n more that belong to nobody yet. False: out of memory. */
static bool alloc_levels(struct img_list *unused, size_t n)
{
	for (; n; n--) {
		struct img_epoch_level *l = calloc(1, sizeof(*l));

		if (!l)
			return false;
		img_list_init(&l->link);
		img_list_add_tail(unused, &l->readers_link);
	}
	return true;
}

static size_t chain_length(const struct img_epoch_domain *top)
{
	size_t n = 0;

	for (; top; top = top->below)
		n++;
	return n;
}

/* r reads the chain from top on too. */
static void add_levels(struct img_epoch_readers *r, struct img_epoch_domain *top, struct img_list *unused)
{
	for (; top; top = top->below) {
		struct img_epoch_level *l = level_in(unused->next);

		img_list_del(&l->readers_link);
		l->domain = top;
		l->readers = r;
		img_list_add_tail(&r->levels, &l->readers_link);
		img_list_add_tail(&top->levels, &l->link);
	}
}

static void count_closed(struct img_epoch_readers *r)
{
	unsigned closed = 0;

	for (struct img_list *l = r->levels.next; l != &r->levels; l = l->next)
		closed += atomic_load(&level_in(l)->domain->closed);
	atomic_store(&r->kept_out_by, closed);
}

int img_epoch_domain_set_below(struct img_epoch_domain *s, struct img_epoch_domain *below)
{
	struct img_list unused;
	size_t readers = 0;
	int rc = 0;

	img_list_init(&unused);
	pthread_mutex_lock(&common_lock);
	for (struct img_list *l = s->levels.next; l != &s->levels; l = l->next)
		readers++;
	if (!alloc_levels(&unused, readers * chain_length(below)))
		rc = -ENOMEM;
	for (struct img_list *l = s->levels.next; !rc && l != &s->levels; l = l->next) {
		struct img_epoch_level *at = level_of(l);
		struct img_epoch_readers *r = at->readers;

		while (at->readers_link.next != &r->levels)
			free_level(level_in(at->readers_link.next));
		add_levels(r, below, &unused);
		count_closed(r);
	}
	if (!rc)
		s->below = below;
	pthread_mutex_unlock(&common_lock);
	free_levels(&unused);
	return rc;
}

void img_epoch_domain_destroy(struct img_epoch_domain *s)
{
	pthread_mutex_lock(&common_lock);
	while (!img_list_empty(&s->levels)) {
		struct img_epoch_level *l = level_of(s->levels.next);

		if (l->readers->id == s->id) /* else it reads a child, which may stay */
			free_readers(l->readers);
		else
			free_level(l);
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
	size_t at = top->id % IMG_ARRAY_LEN(q->recent);
	struct img_epoch_readers *found = NULL;

	if (q->recent[at].id == top->id)
		return q->recent[at].readers;
	pthread_mutex_lock(&common_lock);
	for (struct img_list *l = q->all.next; l != &q->all && !found; l = l->next) {
		struct img_epoch_readers *r = IMG_CONTAINER(l, struct img_epoch_readers, queue_link);

		if (r->id == top->id)
			found = r;
	}
	pthread_mutex_unlock(&common_lock);
	if (found) {
		q->recent[at].id = top->id;
		q->recent[at].readers = found;
	}
	return found;
}

struct img_epoch_readers *img_epoch_readers_new(struct img_queue_epochs *q, struct img_epoch_domain *top)
{
	struct img_epoch_readers *r = calloc(1, sizeof(*r));
	struct img_list unused;

	if (!r)
		return NULL;
	r->queue = q;
	r->id = top->id;
	img_list_init(&r->running);
	img_list_init(&r->levels);
	img_list_init(&r->queue_link);
	atomic_init(&r->oldest, UINT64_MAX);
	img_list_init(&unused);
	pthread_mutex_lock(&common_lock);
	if (alloc_levels(&unused, chain_length(top))) {
		img_list_add_tail(&q->all, &r->queue_link);
		add_levels(r, top, &unused);
		count_closed(r);
	} else {
		free_levels(&unused);
		free(r);
		r = NULL;
	}
	pthread_mutex_unlock(&common_lock);
	return r;
}

/* ---- Counting ---- */

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
	if (!atomic_load(&r->kept_out_by)) {
		IMG_FOR_INVARIANT(atomic_fetch_add(&r->admitted, 1));
		return true;
	}
	atomic_fetch_sub(&r->inside, 1);
	return false;
}

bool img_reader_leave(struct img_epoch_readers *r)
{
	IMG_INVARIANT(atomic_load(&r->inside) > 0 && atomic_load(&r->admitted) > 0);
	IMG_FOR_INVARIANT(atomic_fetch_sub(&r->admitted, 1));
	atomic_fetch_sub(&r->inside, 1);
	return atomic_load(&r->kept_out_by);
}

uint64_t img_epoch_now(void)
{
	return atomic_fetch_add(&clock_now, 1) + 1;
}

static struct img_epoch_readers *readers_at(struct img_list *level)
{
	return level_of(level)->readers;
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

bool img_epoch_domain_is_left(struct img_epoch_domain *s)
{
	bool left = true;

	pthread_mutex_lock(&common_lock);
	for (struct img_list *l = s->levels.next; l != &s->levels && left; l = l->next)
		left = !atomic_load(&readers_at(l)->admitted);
	pthread_mutex_unlock(&common_lock);
	return left;
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

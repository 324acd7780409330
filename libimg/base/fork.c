/*
 * Forks: locks that are watched are held across a fork, so that the child finds what they guard
 * whole, and users are called in the child to forget what is the parent's.
 */
#include "libimg/base/fork.h"

#include <assert.h>
#include <stdatomic.h>
#include <stddef.h>

enum { MOST = 8 };

static struct {
	pthread_mutex_t *lock;
	void (*in_child)(void);
} watched[MOST];
static size_t count;
static pthread_mutex_t watched_lock = PTHREAD_MUTEX_INITIALIZER;
static _Atomic unsigned number;

static void prepare(void)
{
	pthread_mutex_lock(&watched_lock);
	for (size_t i = 0; i < count; i++)
		if (watched[i].lock)
			pthread_mutex_lock(watched[i].lock);
}

static void go_on(void)
{
	for (size_t i = count; i-- > 0;)
		if (watched[i].lock)
			pthread_mutex_unlock(watched[i].lock);
	pthread_mutex_unlock(&watched_lock);
}

static void begin_child(void)
{
	atomic_fetch_add(&number, 1);
	for (size_t i = 0; i < count; i++)
		if (watched[i].in_child)
			watched[i].in_child();
	go_on();
}

static void install(void)
{
	pthread_atfork(prepare, go_on, begin_child);
}

unsigned img_process_number(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, install);
	return atomic_load_explicit(&number, memory_order_relaxed);
}

void img_watch_forks(pthread_mutex_t *lock, void (*in_child)(void))
{
	img_process_number();
	pthread_mutex_lock(&watched_lock);
	assert(count < MOST);
	watched[count].lock = lock;
	watched[count++].in_child = in_child;
	pthread_mutex_unlock(&watched_lock);
}

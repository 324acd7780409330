/*
 * Worker threads: one list of work, one mutex. A thread is started when there is more work waiting
 * than there are idle threads to take it; idle threads stay.
 */
#include "libimg/base/pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "libimg/base/fork.h"

enum {
	STACK_BYTES = 256 * 1024,
	MAX_WAITING = 256, /* threads; each is started only when all others wait */
};

struct img_pool {
	pthread_mutex_t lock;
	pthread_cond_t wake;	 /* work was added, or ending was set */
	struct img_list waiting; /* struct img_work */
	size_t waiting_count;
	unsigned idle; /* threads in pthread_cond_wait() */
	unsigned threads, max_threads;
	bool ending;
	pthread_t handles[]; /* max_threads, the first threads of them in use */
};

struct img_pool *img_pool_new(unsigned max_threads)
{
	struct img_pool *pool;

	if (!max_threads)
		max_threads = 1;
	pool = calloc(1, sizeof(*pool) + max_threads * sizeof(pool->handles[0]));
	if (!pool)
		return NULL;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->wake, NULL);
	img_list_init(&pool->waiting);
	pool->max_threads = max_threads;
	return pool;
}

static void *worker(void *arg)
{
	struct img_pool *pool = arg;

	pthread_mutex_lock(&pool->lock);
	for (;;) {
		struct img_list *node = img_list_pop(&pool->waiting);

		if (node) {
			struct img_work *work = IMG_CONTAINER(node, struct img_work, link);

			pool->waiting_count--;
			pthread_mutex_unlock(&pool->lock);
			work->run(work);
			pthread_mutex_lock(&pool->lock);
		} else if (pool->ending) {
			break;
		} else {
			pool->idle++;
			pthread_cond_wait(&pool->wake, &pool->lock);
			pool->idle--;
		}
	}
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* Called with the lock held. Signals are the program's business: they stay on its own threads. */
static void start_thread(struct img_pool *pool)
{
	pthread_attr_t attr;
	sigset_t all, before;

	if (pthread_attr_init(&attr))
		return;
	pthread_attr_setstacksize(&attr, STACK_BYTES);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (!pthread_create(&pool->handles[pool->threads], &attr, worker, pool))
		pool->threads++;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
}

void img_pool_submit(struct img_pool *pool, struct img_work *work)
{
	pthread_mutex_lock(&pool->lock);
	img_list_add_tail(&pool->waiting, &work->link);
	pool->waiting_count++;
	if (pool->waiting_count > pool->idle && pool->threads < pool->max_threads)
		start_thread(pool);
	if (!pool->threads) {
		/* no thread can be had, so nobody else takes from the list */
		img_list_del(&work->link);
		pool->waiting_count--;
		pthread_mutex_unlock(&pool->lock);
		work->run(work);
		return;
	}
	pthread_cond_signal(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
}

void img_pool_free(struct img_pool *pool)
{
	if (!pool)
		return;
	pthread_mutex_lock(&pool->lock);
	pool->ending = true;
	pthread_cond_broadcast(&pool->wake);
	pthread_mutex_unlock(&pool->lock);
	for (unsigned i = 0; i < pool->threads; i++)
		pthread_join(pool->handles[i], NULL);
	pthread_cond_destroy(&pool->wake);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
}

static unsigned count_cpus(void)
{
	cpu_set_t set;
	long online;

	/* fails on machines with more than 1024 cores */
	if (!sched_getaffinity(0, sizeof(set), &set) && CPU_COUNT(&set) > 0)
		return (unsigned)CPU_COUNT(&set);
	online = sysconf(_SC_NPROCESSORS_ONLN);
	return online > 0 ? (unsigned)online : 1;
}

unsigned img_cpu_count(void)
{
	static _Atomic unsigned known; /* it is asked for with every batch of requests */
	unsigned count = atomic_load_explicit(&known, memory_order_relaxed);

	if (!count) {
		count = count_cpus();
		atomic_store_explicit(&known, count, memory_order_relaxed);
	}
	return count;
}

/* Takes the place of a pool where there is no memory for it: its work is run by the submitter. */
static struct img_pool no_pool = {
	.lock = PTHREAD_MUTEX_INITIALIZER,
	.wake = PTHREAD_COND_INITIALIZER,
	.waiting = { &no_pool.waiting, &no_pool.waiting },
};
static struct img_pool *cpu_pool, *waiting_pool;
static pthread_once_t pools_once = PTHREAD_ONCE_INIT;

/* The threads are the parent's: whoever needs a pool makes new ones. */
static void forget_pools(void)
{
	static const pthread_once_t again = PTHREAD_ONCE_INIT;

	pools_once = again;
}

static void watch_forks(void)
{
	img_watch_forks(&no_pool.lock, forget_pools);
}

static void make_pools(void)
{
	static pthread_once_t watch_once = PTHREAD_ONCE_INIT;

	pthread_once(&watch_once, watch_forks);
	cpu_pool = img_pool_new(img_cpu_count());
	waiting_pool = img_pool_new(MAX_WAITING);
	if (!cpu_pool)
		cpu_pool = &no_pool;
	if (!waiting_pool)
		waiting_pool = &no_pool;
}

struct img_pool *img_pool_cpu(void)
{
	pthread_once(&pools_once, make_pools);
	return cpu_pool;
}

struct img_pool *img_pool_waiting(void)
{
	pthread_once(&pools_once, make_pools);
	return waiting_pool;
}

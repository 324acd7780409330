/*
 * Worker threads.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/pool.h"

struct job {
	struct img_work work;
	struct img_pool *pool;
	struct job *next; /* submitted by this one */
	pthread_barrier_t *together;
	pthread_t ran_on;
	_Atomic bool ran;
};

static void run_job(struct img_work *work)
{
	struct job *job = IMG_CONTAINER(work, struct job, work);

	if (job->together)
		pthread_barrier_wait(job->together);
	if (job->next)
		img_pool_submit(job->pool, &job->next->work);
	job->ran_on = pthread_self();
	job->ran = true;
}

static int count_threads(void)
{
	DIR *dir = opendir("/proc/self/task");
	int n = 0;

	cr_assert_not_null(dir);
	for (struct dirent *d; (d = readdir(dir));)
		n += d->d_name[0] != '.';
	closedir(dir);
	return n;
}

Test(pool, starts_nothing_unasked)
{
	int before = count_threads();
	struct img_pool *pool = img_pool_new(8);

	cr_assert_eq(count_threads(), before);
	img_pool_free(pool);
	img_pool_free(NULL);
	cr_assert_geq(img_cpu_count(), 1);
	cr_assert_eq(img_pool_cpu(), img_pool_cpu());
	cr_assert_eq(count_threads(), before);
}

Test(pool, runs_all_before_it_is_freed)
{
	static struct job jobs[2000];
	struct img_pool *pool = img_pool_new(4);

	for (size_t i = 0; i < IMG_ARRAY_LEN(jobs); i++) {
		jobs[i].work.run = run_job;
		img_pool_submit(pool, &jobs[i].work);
	}
	img_pool_free(pool);
	for (size_t i = 0; i < IMG_ARRAY_LEN(jobs); i++)
		cr_assert(jobs[i].ran);
}

Test(pool, work_that_submits_work)
{
	static struct job jobs[500];
	struct img_pool *pool = img_pool_new(2);

	for (size_t i = 0; i < IMG_ARRAY_LEN(jobs); i++) {
		jobs[i].work.run = run_job;
		jobs[i].pool = pool;
		if (i + 1 < IMG_ARRAY_LEN(jobs))
			jobs[i].next = &jobs[i + 1];
	}
	img_pool_submit(pool, &jobs[0].work);
	img_pool_free(pool);
	for (size_t i = 0; i < IMG_ARRAY_LEN(jobs); i++)
		cr_assert(jobs[i].ran, "%zu", i);
}

/* Eight pieces of work that wait for each other need eight threads; one more would be too many. */
Test(pool, as_many_threads_as_work, .timeout = 20)
{
	struct job jobs[8] = { 0 };
	struct img_pool *pool = img_pool_new(8);
	pthread_barrier_t together;
	int before = count_threads();

	pthread_barrier_init(&together, NULL, IMG_ARRAY_LEN(jobs));
	for (size_t i = 0; i < IMG_ARRAY_LEN(jobs); i++) {
		jobs[i].work.run = run_job;
		jobs[i].together = &together;
		img_pool_submit(pool, &jobs[i].work);
	}
	cr_assert_leq(count_threads(), before + 8);
	img_pool_free(pool);
	for (size_t i = 0; i < IMG_ARRAY_LEN(jobs); i++)
		cr_assert(jobs[i].ran);
	pthread_barrier_destroy(&together);
}

static _Atomic int blocked;

static void look_at_signals(struct img_work *work)
{
	sigset_t set;

	(void)work;
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	blocked = sigismember(&set, SIGINT) && sigismember(&set, SIGTERM) &&
		  sigismember(&set, SIGCHLD);
}

Test(pool, signals_are_blocked_there_only)
{
	struct img_work work = { .run = look_at_signals };
	struct img_pool *pool = img_pool_new(1);
	sigset_t set;

	img_pool_submit(pool, &work);
	img_pool_free(pool);
	cr_assert(blocked);
	pthread_sigmask(SIG_SETMASK, NULL, &set);
	cr_assert_not(sigismember(&set, SIGINT));
}

Test(pool, without_threads_the_caller_works)
{
	struct rlimit limit;
	struct job job = { .work.run = run_job };
	struct img_pool *pool;

#ifdef __SANITIZE_ADDRESS__
	cr_skip_test("AddressSanitizer itself needs address space to start a thread");
#endif
	pool = img_pool_new(4);
	/* no room for a stack; a limit on processes would not bind root */
	getrlimit(RLIMIT_AS, &limit);
	limit.rlim_cur = 1;
	cr_assert_eq(setrlimit(RLIMIT_AS, &limit), 0);
	img_pool_submit(pool, &job.work);
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_AS, &limit);
	cr_assert(job.ran);
	cr_assert(pthread_equal(job.ran_on, pthread_self()));
	img_pool_free(pool);
}

Test(pool, what_waits_keeps_nobody_waiting)
{
	enum { MANY = 40 };
	static struct job waits[MANY], works;
	pthread_barrier_t together;

	cr_assert_neq(img_pool_waiting(), img_pool_cpu());
	pthread_barrier_init(&together, NULL, MANY + 1);
	for (int i = 0; i < MANY; i++) {
		waits[i] = (struct job){ .work.run = run_job, .together = &together };
		img_pool_submit(img_pool_waiting(), &waits[i].work);
	}
	works = (struct job){ .work.run = run_job };
	img_pool_submit(img_pool_cpu(), &works.work);
	while (!works.ran)
		usleep(1000);
	for (int i = 0; i < MANY; i++)
		cr_assert(!waits[i].ran);
	pthread_barrier_wait(&together); /* they all run at once, however many cores there are */
	for (int i = 0; i < MANY; i++)
		while (!waits[i].ran)
			usleep(1000);
}

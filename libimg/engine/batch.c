/*
 * Pieces with CPU work are gathered on their queue; a full batch, or what there is when the queue
 * has nothing else to do (shared out among the cores), becomes one job of the worker pool.
 */
#include "libimg/engine/batch.h"

/* On the queue's thread. A batch is a ring of its pieces. */
static void batch_over(struct img_post *post)
{
	struct img_piece *first = IMG_CONTAINER(post, struct img_piece, post);
	struct img_list *node;

	/* the first one last: it holds the ring */
	while ((node = img_list_pop(&first->batch_link))) {
		struct img_piece *p = IMG_CONTAINER(node, struct img_piece, batch_link);

		p->offload_done(p);
	}
	first->offload_done(first);
}

/* On a pool thread. */
static void run_batch(struct img_work *work)
{
	struct img_piece *first = IMG_CONTAINER(work, struct img_piece, work);
	struct img_list *node = &first->batch_link;

	do {
		struct img_piece *p = IMG_CONTAINER(node, struct img_piece, batch_link);

		p->offload_run(p);
		node = node->next;
	} while (node != &first->batch_link);
	first->post.fn = batch_over;
	img_ioq_post(first->queue->ioq, &first->post);
}

/* Start the first n of what was gathered. */
static void start(struct img_queue *q, unsigned n)
{
	struct img_piece *first = IMG_CONTAINER(img_list_pop(&q->gathered), struct img_piece,
						batch_link);

	q->ngathered -= n;
	while (--n)
		img_list_add_tail(&first->batch_link, img_list_pop(&q->gathered));
	first->work.run = run_batch;
	img_pool_submit(img_pool_cpu(), &first->work);
}

void img_batch_add(struct img_piece *p, unsigned together, void (*run)(struct img_piece *p),
		   void (*done)(struct img_piece *p))
{
	struct img_queue *q = p->queue;

	p->offload_run = run;
	p->offload_done = done;
	img_list_add_tail(&q->gathered, &p->batch_link);
	if (++q->ngathered >= together)
		start(q, q->ngathered);
}

void img_batch_flush(struct img_queue *q)
{
	unsigned cores = img_cpu_count(), each = (q->ngathered + cores - 1) / cores;

	while (q->ngathered)
		start(q, each < q->ngathered ? each : q->ngathered);
}

/*
 * Claims: what a plan reads in order to write it back, or is about to map anew. No two plans share a
 * byte of them; a request that meets a claim waits for its end. But where the claimed room is new and reads as zeroes, so that the plan
 * writes its own bytes only, requests of the same queue join: they write their part of it meanwhile,
 * and the plan's commit waits for them. Those that follow on the plan's own bytes before these were
 * handed to the kernel are written together with them: a guest's small writes, one after the other,
 * become one for each unit. Private to libimg/engine.
 */
#ifndef LIBIMG_ENGINE_CLAIMS_H
#define LIBIMG_ENGINE_CLAIMS_H

#include "libimg/engine/task.h"

/*
 * p has a plan: claim what it needs for itself. False: another plan is in the way, or was made
 * without a claim; p's is to be dropped. Under the lock.
 */
bool img_claim(struct img_piece *p);
/* p's plan is over. Under the lock. */
void img_unclaim(struct img_piece *p);
/* Who has claimed off? NULL: nobody; *len is shortened to what is not claimed. Under the lock. */
struct img_piece *img_claim_of(const struct img_engine *e, uint64_t off, uint64_t *len);
/*
 * May p, which is to write plain bytes, join c? Then p's plan is made, for up to len bytes. Under
 * the lock.
 */
bool img_claim_join(struct img_piece *p, struct img_piece *c, uint64_t len);

/*
 * Submit p->io, a write: at once; or, of a claim that can be joined, at img_claims_flush(); or as
 * part of the claim's that p has joined.
 */
void img_claim_write(struct img_piece *p);
/* Hand over what was kept back. */
void img_claims_flush(struct img_queue *q);

#endif

/*
 * What a storage keeps for each queue that it is used on (attach and detach in img_storage_ops).
 */
#ifndef LIBIMG_STORAGE_IOQ_ATTACH_H
#define LIBIMG_STORAGE_IOQ_ATTACH_H

struct img_ioq;
struct img_storage;

/*
 * The state of s for q, made at the first call. On q's thread. -ENOMEM, and what s->ops->attach() says:
 * then the next call tries again.
 */
int img_ioq_attach(struct img_ioq *q, struct img_storage *s, void **state);

/* The queue goes, or the storage: let go of all states. */
void img_ioq_detach_storages(struct img_ioq *q);
void img_storage_detach(struct img_storage *s);

#endif

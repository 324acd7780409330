/*
 * A failed sync stays failed: what the kernel could not write it forgets, and says of the next sync that all is
 * well. Whoever syncs, blocking or on a queue, begins and ends here.
 */
#include "libimg/storage/storage.h"

int img_storage_sync_begin(struct img_storage *s)
{
	atomic_store(&s->unsynced, false);
	return atomic_load(&s->sync_failed);
}

int img_storage_sync_end(struct img_storage *s, int rc)
{
	int none = 0;

	if (rc)
		atomic_compare_exchange_strong(&s->sync_failed, &none, rc);
	rc = atomic_load(&s->sync_failed);
	if (rc)
		atomic_store(&s->unsynced, true);
	return rc;
}

/*
 * Whether a target holds anything: known of files that we made, else asked of its tables.
 */
#include "libimg/jobs/target.h"

#include "libimg/engine/engine.h"
#include "libimg/image/context.h"

/* By the format's own tables; any doubt means no. */
static bool holds_nothing(struct img *target)
{
	struct img_map_entry x;

	for (uint64_t at = 0; at < target->size; at += x.length)
		if (img_map(target, at, target->size - at, false, &x, NULL) ||
		    (x.present && !x.zero))
			return false;
	return true;
}

enum img_target_state img_target_state(struct img *target, bool promised)
{
	bool device = target->file->device;

	if (target->parent)
		return promised ? IMG_TARGET_MAPPED : IMG_TARGET_USED;
	if (!(target->driver->features & IMG_DRIVER_NEW_UNDEFINED) &&
	    target->context->unpublished && !img_engine_is_changed(target) &&
	    (!device || holds_nothing(target)))
		return IMG_TARGET_ZERO;
	if (!promised)
		return IMG_TARGET_USED;
	return device ? IMG_TARGET_ZERO : IMG_TARGET_MAPPED;
}

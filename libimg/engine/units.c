#include "libimg/engine/units.h"

enum {
	MOST_BYTES = 4 << 20, /* of all kept */
};

struct img_unit *img_units_find(struct img_units *u, uint64_t version, const struct img_extent *x)
{
	for (size_t i = 0; i < IMG_UNITS_KEPT; i++) {
		struct img_unit *unit = &u->kept[i];

		if (unit->version == version && unit->storage == x->storage &&
		    unit->file_off == x->file_off) {
			unit->used = ++u->clock;
			return unit;
		}
	}
	return NULL;
}

static bool is_decoding(const struct img_unit *unit)
{
	return unit->version && !unit->bytes.at;
}

struct img_unit *img_units_begin(struct img_units *u, struct img_buffers *buffers, uint64_t version,
				 const struct img_extent *x)
{
	size_t most = MOST_BYTES / x->unit_bytes < IMG_UNITS_KEPT ? MOST_BYTES / x->unit_bytes
								  : IMG_UNITS_KEPT;
	struct img_unit *unit = NULL;

	for (size_t i = 0; i < most; i++) {
		struct img_unit *other = &u->kept[i];

		if (!is_decoding(other) && (!unit || other->used < unit->used))
			unit = other;
	}
	if (!unit)
		return NULL;
	img_buffer_put(buffers, &unit->bytes);
	img_list_init(&unit->waiting);
	unit->version = version;
	unit->storage = x->storage;
	unit->file_off = x->file_off;
	unit->used = ++u->clock;
	return unit;
}

void img_units_end(struct img_unit *unit, struct img_buffer *bytes, struct img_list *waiting)
{
	img_list_splice(waiting, &unit->waiting);
	unit->bytes = *bytes;
	*bytes = (struct img_buffer){ 0 };
	if (!unit->bytes.at)
		unit->version = 0;
}

void img_units_clear(struct img_units *u, struct img_buffers *buffers)
{
	for (size_t i = 0; i < IMG_UNITS_KEPT; i++)
		img_buffer_put(buffers, &u->kept[i].bytes);
}

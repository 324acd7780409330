/*
 * A raw disk that comes from a pipe: all of its bytes, one behind the other. Only its end tells how
 * large it is, unless the user does.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/raw/raw_source.h"
#include "libimg/base/arith.h"

enum {
	SECTOR = 512,
	UNIT = 65536,
};

struct raw_source {
	struct img_source base;
	struct img_byte_reader *in;
	bool have; /* what is in buf is to be loaded */
	uint64_t off;
	size_t len;
	uint8_t buf[UNIT];
};

static int fail_size(const struct raw_source *s, struct img_error *err)
{
	return img_fail(err, -EUCLEAN,
			"%s: the input %s %" PRIu64 " bytes, expected %" PRIu64 ", the size that "
			"was given for it",
			s->in->name, s->in->taken > s->in->size ? "goes on after" : "ends after",
			min_u64(s->in->taken, s->in->size), s->in->size);
}

static int source_next(struct img_source *base, struct img_source_unit *unit, struct img_error *err)
{
	struct raw_source *s = (struct raw_source *)base;
	int rc = 0;

	if (!s->have) {
		s->off = s->in->taken;
		rc = s->in->read(s->in, s->buf, UNIT, &s->len, err);
		if (!rc && s->in->sized &&
		    (s->in->taken > s->in->size || (!s->len && s->in->taken < s->in->size)))
			rc = fail_size(s, err);
		if (!rc && !s->len && !s->off && !s->in->sized)
			rc = img_fail(err, -EUCLEAN,
				      "%s: the input is empty: whatever should have written it "
				      "has failed",
				      s->in->name);
		if (!rc && s->off > (uint64_t)INT64_MAX - 2 * UNIT)
			rc = img_fail(err, -EFBIG, "%s: more bytes than a disk can have",
				      s->in->name);
		if (rc)
			return rc;
		s->have = s->len;
	}
	*unit = (struct img_source_unit){
		.off = s->off,
		.stored_bytes = (uint32_t)s->len,
		.bytes = (uint32_t)round_up_u64(s->len, SECTOR),
	};
	return 0;
}

static int source_load(struct img_source *base, uint8_t *buf, struct img_error *err)
{
	struct raw_source *s = (struct raw_source *)base;

	(void)err;
	memcpy(buf, s->buf, s->len);
	s->have = false;
	return 0;
}

static void source_free(struct img_source *base)
{
	free(base);
}

int raw_source(struct img_byte_reader *in, struct img_source **out, struct img_error *err)
{
	struct raw_source *s = malloc(sizeof(*s));

	if (!s)
		return img_fail(err, -ENOMEM, "out of memory");
	s->base = (struct img_source){
		.next = source_next,
		.load = source_load,
		.free = source_free,
		.sized = in->sized,
		.size = in->sized ? round_up_u64(in->size, SECTOR) : 0,
		.unit_bytes = UNIT,
		.stored_max = UNIT,
		.plain = true,
	};
	s->in = in;
	s->have = false;
	*out = &s->base;
	return 0;
}

/*
 * Units are encoded on a worker's thread into room for twice as much, and put in order later.
 */
#include "libimg/jobs/encoder.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/jobs/zero.h"

int img_encoder_new(struct img_encoder *p, struct img_sink *sink, size_t room, struct img_error *err)
{
	*p = (struct img_encoder){
		.sink = sink,
		.bytes = sink->codec ? malloc(2 * room) : NULL,
		.len = calloc(room / sink->unit_bytes, sizeof(*p->len)),
	};
	if (!p->len || (sink->codec && !p->bytes))
		return img_fail(err, -ENOMEM, "out of memory for copying");
	return 0;
}

void img_encoder_free(struct img_encoder *p)
{
	free(p->bytes);
	free(p->len);
}

int img_encoder_encode(struct img_encoder *p, uint8_t *data, size_t len, struct img_error *err)
{
	const struct img_sink *s = p->sink;
	size_t unit = (size_t)s->unit_bytes;
	int rc = 0;

	for (size_t i = 0; i * unit < len && !rc; i++) {
		uint8_t *from = data + i * unit;
		size_t n = min_size(unit, len - i * unit);

		p->len[i] = 0;
		if (!s->wants_all && img_is_zero(from, n))
			continue;
		p->len[i] = n;
		if (!s->codec)
			continue;
		if (s->pad_last && n < unit) {
			memset(from + n, 0, unit - n);
			n = unit;
		}
		rc = s->codec->encode(from, n, s->level, p->bytes + 2 * i * unit, 2 * unit,
				      &p->len[i], err);
	}
	return rc;
}

int img_encoder_put(struct img_encoder *p, uint64_t off, const uint8_t *data, size_t len,
		    struct img_error *err)
{
	struct img_sink *s = p->sink;
	size_t unit = (size_t)s->unit_bytes;
	int rc = 0;

	for (size_t i = 0; i * unit < len && !rc; i++)
		if (p->len[i])
			rc = s->put(s, off + i * unit,
				    s->codec ? p->bytes + 2 * i * unit : data + i * unit, p->len[i],
				    err);
	return rc;
}

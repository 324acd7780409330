/*
 * Mistyped names. The distance is the number of letters that are missing, in excess, wrong, or
 * changed places with their neighbours (optimal string alignment).
 */
#include "tools/suggest.h"

#include <string.h>

#include "libimg/img.h"
#include "tools/report.h"

enum { MAX_NAME = 32 }; /* letters; no known name is longer */

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

static size_t distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
	/* d[i % 3][j]: between the first i letters of a and the first j of b. */
	size_t d[3][MAX_NAME + 1], i, j;

	for (j = 0; j <= b_len; j++)
		d[0][j] = j;
	for (i = 1; i <= a_len; i++) {
		size_t *row = d[i % 3];
		const size_t *last = d[(i + 2) % 3], *before = d[(i + 1) % 3];

		row[0] = i;
		for (j = 1; j <= b_len; j++) {
			row[j] = least(last[j - 1] + (a[i - 1] != b[j - 1]),
				       least(last[j], row[j - 1]) + 1);
			if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
				row[j] = least(row[j], before[j - 2] + 1);
		}
	}
	return d[a_len % 3][b_len];
}

void suggest_begin(struct suggestion *s, const char *given, size_t len)
{
	*s = (struct suggestion){ .given = given, .len = len, .distance = MAX_NAME };
}

/* One letter in three may be wrong. */
void suggest_offer(struct suggestion *s, const char *name)
{
	size_t len = strlen(name), d;

	if (s->len < 2 || s->len > MAX_NAME || len > MAX_NAME)
		return;
	d = distance(s->given, s->len, name, len);
	if (d < s->distance && d * 3 <= (len > s->len ? len : s->len)) {
		s->best = name;
		s->distance = d;
	}
}

void suggest_print(const struct suggestion *s, const char *prefix)
{
	if (s->best && is_imgtool())
		report_detail("Did you mean '%s%s'?", prefix, s->best);
}

void suggest_format(const char *given)
{
	struct suggestion s;
	const char *name;
	size_t i;

	if (img_format_features(given) >= 0)
		return;
	suggest_begin(&s, given, strlen(given));
	for (i = 0; (name = img_format_at(i)); i++)
		suggest_offer(&s, name);
	suggest_print(&s, "");
}

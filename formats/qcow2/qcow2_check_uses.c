/*
 * What all parts of a scan do: saying what is found, reading pieces of tables, and counting that a range
 * of the file is used, with whatever that shows: ranges past the end, metadata that lies in other
 * metadata, guest data that lies where a table is. spec/qcow2.md, "Checking".
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

#include "formats/qcow2/qcow2_check.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	WORDS = QCOW2_SCAN_WORDS,
};

void qcow2_scan_report(struct qcow2_scan *s, const char *fmt, ...)
{
	char line[512];
	va_list ap;

	if (s->flags & QCOW2_SCAN_QUIET)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	for (char *p = line; *p; p++) { /* names from the image may hold anything */
		if (iscntrl((unsigned char)*p))
			*p = '?';
	}
	img_check_list(s->check, "%s", line);
}

bool qcow2_scan_repairs(const struct qcow2_scan *s, unsigned what)
{
	return (s->check->repair & what) == what;
}

const char *qcow2_scan_verb(const struct qcow2_scan *s)
{
	return qcow2_scan_repairs(s, IMG_REPAIR_ALL) ? "Repairing" : "ERROR";
}

bool qcow2_scan_read(struct qcow2_scan *s, uint64_t off, void *buf, size_t len, const char *what)
{
	if (!img_storage_read(s->img->file, off, buf, len, NULL))
		return true;
	s->errors++;
	qcow2_scan_report(s, "ERROR: I/O error reading the %s at offset %" PRIu64, what, off);
	return false;
}

int qcow2_scan_words(struct qcow2_scan *s, uint64_t off, uint64_t n, const char *what,
		     int (*fn)(struct qcow2_scan *s, void *arg, uint64_t i, uint64_t word,
			       struct img_error *err),
		     void *arg, struct img_error *err)
{
	uint64_t i = 0;

	while (i < n && off + i * 8 < s->file_bytes) {
		uint64_t at = off + i * 8, run = 0, count = min_u64(n - i, WORDS);
		enum img_storage_extent kind;

		if (!img_storage_extent(s->img->file, at, (n - i) * 8, &kind, &run) &&
		    kind == IMG_STORAGE_HOLE && run >= 8) {
			i += run / 8;
			continue;
		}
		if (!qcow2_scan_read(s, at, s->words, count * 8, what))
			return 0;
		for (uint64_t k = 0; k < count; k++) {
			int rc = s->words[k] ? fn(s, arg, i + k, be64toh(s->words[k]), err) : 0;

			if (rc)
				return rc;
		}
		i += count;
	}
	return 0;
}

/* ---- Counting uses ---- */

bool qcow2_beyond_end(const struct qcow2_scan *s, uint64_t off, uint64_t len)
{
	return off + len > s->file_bytes &&
	       off + len - s->file_bytes >= s->geometry.cluster_bytes;
}

bool qcow2_in_table(const struct qcow2_scan *s, uint64_t cluster)
{
	return qcow2_counts_marked(&s->refs, cluster, QCOW2_MARK_FIXED) ||
	       qcow2_counts_marked(&s->refs, cluster, QCOW2_MARK_L2);
}

uint64_t qcow2_scan_uses(const struct qcow2_scan *s, uint64_t cluster)
{
	return min_u64(qcow2_counts_get(&s->refs, cluster), s->geometry.refcount_max);
}

int qcow2_scan_count(struct qcow2_scan *s, uint64_t off, uint64_t len, uint64_t uses, bool *inside,
		     struct img_error *err)
{
	unsigned bits = s->geometry.cluster_bits;
	uint64_t max = s->geometry.refcount_max, end;
	bool beyond;

	if (!len)
		return 0;
	beyond = !add_u64(off, len, &end);
	if (beyond || qcow2_beyond_end(s, off, len)) {
		s->lost_from = min_u64(s->lost_from, off);
		s->corruptions += uses;
		qcow2_scan_report(
			s,
			"ERROR: counting reference for region exceeding the end of the file by one "
			"cluster or more: offset 0x%" PRIx64 " size 0x%" PRIx64,
			off, len);
		return 0;
	}
	for (uint64_t c = off >> bits; c <= (end - 1) >> bits; c++) {
		uint64_t now = qcow2_counts_get(&s->refs, c), next = now;

		if (now && inside)
			*inside = true;
		if (!add_u64(now, uses, &next))
			next = UINT64_MAX;
		if (next > max) {
			s->corruptions += next - max_u64(now, max);
			qcow2_scan_report(s, "ERROR: overflow cluster offset=0x%" PRIx64, c << bits);
		}
		if (qcow2_counts_set(&s->refs, c, next))
			return img_fail(err, -ENOMEM, "%s: out of memory for counting clusters",
					s->img->name);
	}
	return 0;
}

void qcow2_scan_need(struct qcow2_scan *s, uint64_t off, uint64_t len, uint64_t all, const char *what)
{
	if (!len || range_in(off, len, s->file_bytes))
		return;
	s->lost_data++;
	s->lost_from = min_u64(s->lost_from, off);
	if (qcow2_beyond_end(s, off, all))
		return;
	s->corruptions++;
	qcow2_scan_report(s,
			  "ERROR the %s at offset 0x%" PRIx64 " size 0x%" PRIx64
			  " is cut off by the end of the file at 0x%" PRIx64,
			  what, off, len, s->file_bytes);
}

void qcow2_scan_add_overlap(struct qcow2_scan *s, uint64_t cluster, const char *what)
{
	if (s->noverlaps < IMG_ARRAY_LEN(s->overlaps))
		s->overlaps[s->noverlaps++] = (struct qcow2_overlap){ cluster, what };
}

void qcow2_scan_mark_fixed(struct qcow2_scan *s, uint64_t off, uint64_t len, const char *what)
{
	unsigned bits = s->geometry.cluster_bits;

	if (!len || !range_in(off, len, s->refs.clusters << bits))
		return;
	for (uint64_t c = off >> bits; c <= (off + len - 1) >> bits; c++) {
		if (qcow2_in_table(s, c)) {
			s->mixed = true;
			qcow2_scan_add_overlap(s, c, what);
		}
		qcow2_counts_mark(&s->refs, c, QCOW2_MARK_FIXED, true);
	}
}

void qcow2_scan_check_apart(struct qcow2_scan *s, uint64_t off, uint64_t len)
{
	unsigned bits = s->geometry.cluster_bits;

	if (!len || !range_in(off, len, s->refs.clusters << bits))
		return;
	for (uint64_t c = off >> bits; c <= (off + len - 1) >> bits; c++)
		if (qcow2_in_table(s, c)) {
			s->in_tables++;
			qcow2_scan_add_overlap(s, c, "guest data");
			return;
		}
}

int qcow2_scan_count_fixed(struct qcow2_scan *s, uint64_t off, uint64_t len, const char *what,
			   struct img_error *err)
{
	int rc = qcow2_scan_count(s, off, len, 1, NULL, err);

	if (rc || !len)
		return rc;
	qcow2_scan_need(s, off, len, len, what);
	s->lost |= !range_in(off, len, s->file_bytes);
	qcow2_scan_mark_fixed(s, off, len, what);
	return 0;
}

int qcow2_scan_count_table(struct qcow2_scan *s, uint64_t off, uint64_t len, const char *what,
			   bool *walk, struct img_error *err)
{
	bool inside = false;
	int rc = qcow2_scan_count(s, off, len, 1, &inside, err);

	if (!rc && len) {
		qcow2_scan_need(s, off, len, len, what);
		s->lost |= !range_in(off, len, s->file_bytes);
		qcow2_scan_mark_fixed(s, off, len, what);
	}
	*walk = !rc;
	if (rc || !inside)
		return rc;
	if (len > s->overlap_left) {
		s->errors++;
		s->tangled = true;
		qcow2_scan_report(s,
				  "ERROR: the %s at offset %" PRIu64
				  " lies inside other things, as too many do",
				  what, off);
		*walk = false;
		return 0;
	}
	s->overlap_left -= len;
	return 0;
}

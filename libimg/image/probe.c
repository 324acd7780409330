/*
 * Which format is this file? Each driver says how sure it is; raw takes what no other does, unless
 * the file carries the mark of a format that has no driver: then it is refused, since taking it
 * for a raw disk would give its guest, or whoever reads the copy, nonsense.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#include "libimg/base/arith.h"
#include "libimg/image/context.h"
#include "libimg/image/folder.h"

enum {
	HEAD_BYTES = 65536,
	TAIL_LEAST = 512,
	GUARDED_BYTES = 512,
};

/* What probing looks at. */
struct sample {
	const uint8_t *head;
	size_t len;
	const uint8_t *tail; /* see img_driver.probe(); NULL, also: not looked at */
	uint64_t file_size;
};

/* The signature of a format that no driver reads; NULL: none. */
static const struct img_signature *find_signature(const struct sample *s)
{
	for (const struct img_signature *k = img_signatures; k->name; k++) {
		if (img_driver_named(k->name))
			continue;
		if (k->from_end) {
			if (s->tail && k->off <= IMG_PROBE_TAIL && k->len <= k->off &&
			    !memcmp(s->tail + IMG_PROBE_TAIL - k->off, k->bytes, k->len))
				return k;
		} else if (range_in(k->off, k->len, s->len) &&
			   !memcmp(s->head + k->off, k->bytes, k->len)) {
			return k;
		}
	}
	return NULL;
}

/*
 * The surest driver, in *rival another that is just as sure, or NULL, and in *nearly one that has
 * something like its own before it, or NULL.
 */
static const struct img_driver *probe_drivers(const struct sample *s, const struct img_driver **rival,
					      const struct img_driver **nearly)
{
	const struct img_driver *best = NULL;
	int best_score = 0;

	*rival = *nearly = NULL;
	for (size_t i = 0; img_drivers[i]; i++) {
		const struct img_driver *d = img_drivers[i];
		int score = d->probe(s->head, s->len, s->tail, s->file_size);

		if (score > best_score) {
			best = d;
			best_score = score;
			*rival = NULL;
		} else if (score && score == best_score) {
			*rival = d;
		} else if (score == IMG_PROBE_NEARLY) {
			*nearly = d;
		}
	}
	return best;
}

static int decide(const struct sample *s, const char *name, const struct img_driver **out,
		  struct img_error *err)
{
	const struct img_driver *best, *rival, *nearly;
	const struct img_signature *known;

	if (s->len > strlen(IMG_UNFINISHED_MARK) &&
	    !memcmp(s->head, IMG_UNFINISHED_MARK, strlen(IMG_UNFINISHED_MARK)))
		return img_fail(err, -EUCLEAN,
				"'%s' is not complete: its creation was interrupted, and has to "
				"be repeated",
				name);
	best = probe_drivers(s, &rival, &nearly);
	if (rival)
		return img_fail(err, -EINVAL,
				"'%s' looks like a %s image and like a %s image; give its format "
				"(-f)",
				name, best->name, rival->name);
	if (!best || (best->features & IMG_DRIVER_PLAIN)) {
		known = find_signature(s);
		if (known || !best)
			return img_fail(err, -EINVAL,
					"'%s' looks like a %s image, which this version cannot "
					"read; give -f raw to take it as a raw disk",
					name, known ? known->name : "unknown");
		if (nearly)
			return img_fail(err, -EINVAL,
					"'%s' is nearly a %s image, but not quite; give -f %s to take it as "
					"one or learn what is wrong, or -f raw to take it as a raw disk",
					name, nearly->name, nearly->name);
	}
	*out = best;
	return 0;
}

static bool ends_in(const char *name, const char *suffix)
{
	size_t len = strlen(name), end;

	if (!suffix)
		return false;
	end = strlen(suffix);
	return len >= end && !strcasecmp(name + len - end, suffix);
}

const char *img_probe_content(const uint8_t *head, size_t len, const char *name)
{
	static const uint8_t boot_mark[] = { 0x55, 0xaa };

	/* A boot sector may hold anything, and is one of a disk. */
	if (len >= 512 && !memcmp(head + 510, boot_mark, sizeof(boot_mark)))
		return NULL;
	for (const struct img_signature *k = img_content_signatures; k->name; k++)
		if (range_in(k->off, k->len, len) && !memcmp(head + k->off, k->bytes, k->len) &&
		    !ends_in(name, k->suffix))
			return k->name;
	return NULL;
}

const char *img_guessed_content(const struct img *img)
{
	size_t len = (size_t)min_u64(img->file->size, HEAD_BYTES);
	const char *content = NULL;
	uint8_t *head;

	if (!img->probed || !(img->driver->features & IMG_DRIVER_PLAIN))
		return NULL;
	head = malloc(HEAD_BYTES);
	if (head && !img_storage_read(img->file, 0, head, len, NULL))
		content = img_probe_content(head, len, img->name);
	free(head);
	return content;
}

int img_probe_head(const uint8_t *head, size_t len, uint64_t size, const char *name,
		   const struct img_driver **out, struct img_error *err)
{
	struct sample sample = { .head = head, .len = len, .file_size = size };

	return decide(&sample, name, out, err);
}

int img_probe_storage(struct img_storage *s, const char *name, const struct img_driver **out,
		      struct img_error *err)
{
	uint64_t size = s->size;
	struct sample sample = { .len = (size_t)min_u64(size, HEAD_BYTES), .file_size = size };
	size_t tail_len = (size_t)min_u64(size, IMG_PROBE_TAIL);
	uint8_t tail[IMG_PROBE_TAIL] = { 0 };
	uint8_t *head = malloc(HEAD_BYTES);
	int rc;

	if (!head)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_storage_read(s, 0, head, sample.len, err);
	sample.head = head;
	if (!rc && size >= TAIL_LEAST) {
		rc = img_storage_read(s, size - tail_len, tail + IMG_PROBE_TAIL - tail_len,
				      tail_len, err);
		sample.tail = tail;
	}
	if (!rc)
		rc = decide(&sample, name, out, err);
	free(head);
	return rc;
}

int img_probe(const char *path, const char **format, struct img_error *err)
{
	const struct img_driver *driver = NULL;
	struct img_storage *s;
	struct stat st;
	int rc;

	if (!strncmp(path, "file:", 5))
		path += 5;
	if (!stat(path, &st) && S_ISDIR(st.st_mode))
		rc = img_folder_open(path, NULL, IMG_STORAGE_SHARE, &s, err);
	else
		rc = img_storage_open_file(path, IMG_STORAGE_SHARE, &s, err);
	if (rc)
		return rc;
	rc = img_probe_storage(s, path, &driver, err);
	img_storage_close(s);
	if (!rc)
		*format = driver->name;
	return rc;
}

int img_guard_write(struct img *img, uint64_t off, const struct iovec *iov, int iovcnt,
		    struct img_error *err)
{
	uint8_t head[GUARDED_BYTES] = { 0 };
	struct sample sample = { .head = head, .len = sizeof(head), .file_size = img->size };
	const struct img_driver *best, *rival, *nearly;
	const struct img_signature *known;
	uint64_t at = off;
	int rc;

	if (!img->probed || !(img->driver->features & IMG_DRIVER_PLAIN) || off >= GUARDED_BYTES)
		return 0;
	rc = img_storage_read(img->file, 0, head, sizeof(head), err);
	if (rc)
		return rc;
	for (int i = 0; i < iovcnt && at < GUARDED_BYTES; i++) {
		size_t n = min_size(iov[i].iov_len, (size_t)(GUARDED_BYTES - at));

		memcpy(head + at, iov[i].iov_base, n);
		at += n;
	}
	best = probe_drivers(&sample, &rival, &nearly);
	known = find_signature(&sample);
	if (best == img->driver && !rival && !known && !nearly)
		return 0;
	return img_fail(err, -EPERM,
			"%s: this write to the first sector would make the disk look "
			"like a %s image; the format %s was guessed, and giving it (-f %s) lifts "
			"this restriction",
			img->name,
			best && best != img->driver ? best->name
			: rival			    ? rival->name
			: known			    ? known->name
			: nearly		    ? nearly->name
						    : "unknown",
			img->driver->name, img->driver->name);
}

int img_guard_zero(struct img *img, uint64_t off, uint64_t len, struct img_error *err)
{
	uint8_t zeroes[GUARDED_BYTES] = { 0 };
	struct iovec iov = { zeroes, (size_t)min_u64(len, GUARDED_BYTES) };

	return img_guard_write(img, off, &iov, 1, err);
}

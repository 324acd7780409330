/*
 * The format extension: one cluster with sections. Of those we know dirty bitmaps, which tell a
 * backup program what was written since: whoever writes without recording that makes them untrue,
 * so the first write removes them. Sections that are not known say by their flags what is to be
 * done.
 */
#include <errno.h>
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <string.h>

#include "formats/parallels/parallels_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	PIECE_BYTES = 64 << 10,
	SECTIONS_MAX = 1024,
	KEPT_BYTES_MAX = 1 << 20, /* of sections that are carried on where others are removed */
};

static uint64_t extension_at(const struct parallels_file *p)
{
	return p->header.extension_off * PARALLELS_SECTOR;
}

/* ---- Checksum ---- */

/* The MD5 of bytes and then of zeroes, up to the cluster's end. */
static int digest_zeroed(const struct parallels_file *p, const uint8_t *bytes, size_t len,
			 uint8_t out[PARALLELS_MD5_BYTES])
{
	static const uint8_t zero[4096];
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool good = md && EVP_DigestInit_ex(md, EVP_md5(), NULL) == 1 &&
		    EVP_DigestUpdate(md, bytes, len) == 1;
	uint64_t left = p->cluster_bytes - PARALLELS_EXTENSION_BYTES - len;

	for (uint64_t n; good && left; left -= n) {
		n = min_u64(left, sizeof(zero));
		good = EVP_DigestUpdate(md, zero, n) == 1;
	}
	good = good && EVP_DigestFinal_ex(md, out, NULL) == 1;
	EVP_MD_CTX_free(md);
	return good ? 0 : -ENOMEM;
}

static int digest_file(const struct parallels_file *p, uint8_t out[PARALLELS_MD5_BYTES],
		       struct img_error *err)
{
	uint8_t *piece = malloc(PIECE_BYTES);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	bool good = piece && md && EVP_DigestInit_ex(md, EVP_md5(), NULL) == 1;
	uint64_t at = extension_at(p) + PARALLELS_EXTENSION_BYTES;
	uint64_t end = extension_at(p) + p->cluster_bytes;
	int rc = 0;

	for (uint64_t n; good && !rc && at < end; at += n) {
		n = min_u64(end - at, PIECE_BYTES);
		rc = img_storage_read(p->storage, at, piece, n, err);
		if (!rc)
			good = EVP_DigestUpdate(md, piece, n) == 1;
	}
	if (!rc && !(good && EVP_DigestFinal_ex(md, out, NULL) == 1))
		rc = img_fail(err, -ENOMEM, "out of memory");
	EVP_MD_CTX_free(md);
	free(piece);
	return rc;
}

/* ---- Sections ---- */

typedef int section_fn(void *user, const struct parallels_section *s, uint64_t at,
		       struct img_error *err);

static int each_section(struct parallels_file *p, section_fn *each, void *user,
			struct img_error *err)
{
	uint64_t at = extension_at(p) + PARALLELS_EXTENSION_BYTES,
		 end = extension_at(p) + p->cluster_bytes;

	for (int i = 0; i < SECTIONS_MAX; i++) {
		uint8_t bytes[PARALLELS_SECTION_BYTES];
		struct parallels_section s;
		int rc;

		if (end - at < sizeof(bytes))
			return img_fail(
				err, -EUCLEAN,
				"%s: format extension: found no section that ends it before %" PRIu64,
				p->name, end);
		rc = img_storage_read(p->storage, at, bytes, sizeof(bytes), err);
		if (rc)
			return rc;
		parallels_parse_section(bytes, &s);
		if (s.magic == PARALLELS_SECTION_END)
			return 0;
		at += sizeof(bytes);
		if (s.bytes > end - at || round_up_u64(s.bytes, 8) > end - at)
			return img_fail(err, -EUCLEAN,
					"%s: format extension: section at %" PRIu64
					": found %" PRIu32
					" bytes, and the cluster ends at %" PRIu64,
					p->name, at - sizeof(bytes), s.bytes, end);
		rc = each(user, &s, at, err);
		if (rc)
			return rc;
		at += round_up_u64(s.bytes, 8);
	}
	return img_fail(err, -EUCLEAN, "%s: format extension: found more than %d sections", p->name,
			SECTIONS_MAX);
}

static int count_section(void *user, const struct parallels_section *s, uint64_t at,
			 struct img_error *err)
{
	(void)s;
	(void)at;
	(void)err;
	(*(unsigned *)user)++;
	return 0;
}

int parallels_check_extension(struct parallels_file *p, struct img_error *err)
{
	uint64_t at = extension_at(p);
	uint8_t head[PARALLELS_EXTENSION_BYTES], md5[PARALLELS_MD5_BYTES];
	unsigned count = 0;
	int rc;

	if (p->header.extension_off > INT64_MAX / PARALLELS_SECTOR || at < p->data_start ||
	    !range_in(at, p->cluster_bytes, p->storage->size) || at % p->cluster_bytes != p->base ||
	    p->cluster_bytes < PARALLELS_EXTENSION_BYTES + PARALLELS_SECTION_BYTES)
		return img_fail(err, -EUCLEAN,
				"%s: format extension: found it at sector %" PRIu64
				", allowed a whole aligned cluster inside the file's %" PRIu64
				" bytes",
				p->name, p->header.extension_off, (uint64_t)p->storage->size);
	rc = img_storage_read(p->storage, at, head, sizeof(head), err);
	if (rc)
		return rc;
	if (le64_load(head) != PARALLELS_EXTENSION_MAGIC)
		return img_fail(err, -EUCLEAN,
				"%s: format extension at %" PRIu64 ": magic: found %#" PRIx64
				", expected %#" PRIx64,
				p->name, at, le64_load(head), PARALLELS_EXTENSION_MAGIC);
	rc = digest_file(p, md5, err);
	if (!rc && memcmp(md5, head + 8, sizeof(md5)) != 0)
		rc = img_fail(err, -EUCLEAN,
			      "%s: format extension at %" PRIu64 ": its MD5 does not match",
			      p->name, at);
	return rc ? rc : each_section(p, count_section, &count, err);
}

/* ---- Writing beside it ---- */

struct judgement {
	const struct parallels_file *p;
	size_t kept; /* bytes */
};

static bool is_kept(const struct parallels_section *s)
{
	return s->magic != PARALLELS_SECTION_BITMAP && s->flags & PARALLELS_SECTION_TRANSIT;
}

static size_t section_bytes(const struct parallels_section *s)
{
	return PARALLELS_SECTION_BYTES + round_up_u64(s->bytes, 8);
}

static int fail_too_long(const struct parallels_file *p, struct img_error *err)
{
	return img_fail(err, -ENOTSUP,
			"%s: format extension: found more than %d bytes of sections to be kept",
			p->name, KEPT_BYTES_MAX);
}

static int judge_section(void *user, const struct parallels_section *s, uint64_t at,
			 struct img_error *err)
{
	struct judgement *j = user;

	if (s->magic != PARALLELS_SECTION_BITMAP && s->flags & PARALLELS_SECTION_NECESSARY)
		return img_fail(
			err, -ENOTSUP,
			"%s: format extension: section at %" PRIu64 ": found kind %#" PRIx64
			", which is not known, and without which the image must not be written to",
			j->p->name, at - PARALLELS_SECTION_BYTES, s->magic);
	if (!is_kept(s))
		return 0;
	if (section_bytes(s) > KEPT_BYTES_MAX - j->kept)
		return fail_too_long(j->p, err);
	j->kept += section_bytes(s);
	return 0;
}

int parallels_judge_extension(struct parallels_file *p, struct img_error *err)
{
	struct judgement j = { .p = p };
	int rc;

	if (p->marked) /* that has been done */
		return 0;
	p->extension = PARALLELS_EXTENSION_NONE;
	if (!p->header.extension_off)
		return 0;
	p->extension = PARALLELS_EXTENSION_DROPPED;
	/* Whoever left another mark did not keep it up to date. */
	if (p->header.in_use != PARALLELS_CLOSED)
		return 0;
	rc = parallels_check_extension(p, NULL);
	if (rc)
		return rc == -EUCLEAN ? 0
				      : img_fail(err, rc, "%s: format extension: %s", p->name,
						 strerror(-rc));
	rc = each_section(p, judge_section, &j, err);
	if (!rc && j.kept)
		p->extension = PARALLELS_EXTENSION_KEPT;
	return rc;
}

struct pruned {
	struct parallels_file *p;
	uint8_t *bytes; /* the cluster from its sections on */
	size_t len;
	bool removed;
};

static int keep_section(void *user, const struct parallels_section *s, uint64_t at,
			struct img_error *err)
{
	struct pruned *pruned = user;
	struct parallels_file *p = pruned->p;
	size_t len = section_bytes(s);
	int rc;

	if (!is_kept(s)) {
		pruned->removed = true;
		return 0;
	}
	if (len > KEPT_BYTES_MAX - pruned->len)
		return fail_too_long(p, err);
	rc = img_storage_read(p->storage, at - PARALLELS_SECTION_BYTES, pruned->bytes + pruned->len,
			      len, err);
	pruned->len += len;
	return rc;
}

int parallels_prune_extension(struct parallels_file *p, struct img_error *err)
{
	uint8_t head[PARALLELS_EXTENSION_BYTES];
	struct pruned pruned = { .p = p, .bytes = malloc(KEPT_BYTES_MAX) };
	uint64_t at = extension_at(p);
	int rc = pruned.bytes ? each_section(p, keep_section, &pruned, err)
			      : parallels_no_memory(p, err);

	if (rc || !pruned.removed)
		goto out;
	le64_store(head, PARALLELS_EXTENSION_MAGIC);
	rc = digest_zeroed(p, pruned.bytes, pruned.len, head + 8);
	if (rc) {
		rc = parallels_no_memory(p, err);
		goto out;
	}
	/* While the image is marked as in use nobody trusts what is here. */
	rc = img_storage_zero(p->storage, at, p->cluster_bytes, err);
	if (!rc)
		rc = img_storage_write(p->storage, at + sizeof(head), pruned.bytes, pruned.len,
				       err);
	if (!rc)
		rc = img_storage_write(p->storage, at, head, sizeof(head), err);
	if (!rc)
		rc = parallels_sync(p, err);
out:
	free(pruned.bytes);
	return rc;
}

int parallels_outdate_extension(struct parallels_file *p, struct img_error *err)
{
	struct parallels_header h = p->header;
	int rc = parallels_judge_extension(p, err);

	if (rc || p->extension == PARALLELS_EXTENSION_NONE)
		return rc;
	if (p->extension == PARALLELS_EXTENSION_DROPPED)
		h.extension_off = 0;
	else
		h.in_use = PARALLELS_OPEN; /* nobody trusts it while it is changed */
	rc = parallels_write_header(p, &h, err);
	if (!rc)
		rc = parallels_sync(p, err);
	if (!rc && h.extension_off)
		rc = parallels_prune_extension(p, err);
	h.in_use = PARALLELS_CLOSED;
	if (!rc && h.extension_off)
		rc = parallels_write_header(p, &h, err);
	if (!rc)
		rc = parallels_sync(p, err);
	img_meta_forget(p->img, p->storage, 0, IMG_META_SECTOR);
	return rc;
}

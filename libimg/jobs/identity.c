/*
 * What tells a disk from others: a digest of its size and of samples of its content. Blocks of
 * zeroes count for nothing, whether they are stored or not, so that the same disk gives the same
 * answer in every format.
 */
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/img.h"
#include "libimg/jobs/concat.h"
#include "libimg/jobs/zero.h"

enum {
	BLOCK = 65536,
	FIRST_BLOCKS = 32,   /* taken from the start on: 2 MiB */
	SPREAD_BLOCKS = 64,  /* taken at even distances */
	READS_MAX = 1024,    /* blocks that are looked at in all: a disk full of stored zeroes ends */
	LOOKS_MAX = 1 << 20, /* extents that are looked at */
};

struct sampler {
	struct img_concat sources;
	uint64_t end; /* of all */
	unsigned reads, looks;
	EVP_MD_CTX *sha;
	uint8_t *block;
	struct img_error *err;
};

static bool exhausted(const struct sampler *s)
{
	return s->reads >= READS_MAX || s->looks >= LOOKS_MAX;
}

/* From the block at *off on, the first one that may hold data; s->end: none. */
static int skip_holes(struct sampler *s, uint64_t *off)
{
	while (*off < s->end && !exhausted(s)) {
		struct img_map_entry x;
		uint64_t within, at = *off, stop = min_u64(at + BLOCK, s->end), known;
		struct img *source = img_concat_at(&s->sources, at, &within);
		int rc;

		s->looks++;
		rc = img_map(source, within, img_size(source) - within, true, &x, s->err);
		if (rc)
			return rc;
		if (!x.zero)
			return 0;
		known = at + x.length;
		if (known >= stop) {
			*off = known >= s->end ? s->end : align_down_u64(known, BLOCK);
			continue;
		}
		return 0; /* it goes on with something else: reading tells */
	}
	return 0;
}

static int read_block(struct sampler *s, uint64_t off, size_t len)
{
	size_t at = 0;

	s->reads++;
	while (at < len) {
		uint64_t within;
		struct img *source = img_concat_at(&s->sources, off + at, &within);
		size_t n = (size_t)min_u64(len - at, img_size(source) - within);
		int rc = img_read(source, within, s->block + at, n, s->err);

		if (rc)
			return rc;
		at += n;
	}
	return 0;
}

/* Take the first block at or behind *off that is not all zeroes; *off: the block behind it. */
static int sample(struct sampler *s, uint64_t *off)
{
	while (!exhausted(s)) {
		uint8_t place[8];
		size_t len;
		int rc = skip_holes(s, off);

		if (rc || *off >= s->end || exhausted(s))
			return rc;
		len = (size_t)min_u64(BLOCK, s->end - *off);
		rc = read_block(s, *off, len);
		if (rc)
			return rc;
		le64_store(place, *off);
		*off += BLOCK;
		if (img_is_zero(s->block, len))
			continue;
		if (EVP_DigestUpdate(s->sha, place, sizeof(place)) != 1 ||
		    EVP_DigestUpdate(s->sha, s->block, len) != 1)
			return img_fail(s->err, -ENOMEM, "SHA-256 of a sample: out of memory");
		return 0;
	}
	return 0;
}

static int sample_all(struct sampler *s, uint8_t digest[EVP_MAX_MD_SIZE])
{
	uint64_t off = 0, stride = s->end / SPREAD_BLOCKS;
	uint8_t size[8];
	int rc = 0;

	le64_store(size, s->end);
	if (EVP_DigestInit_ex(s->sha, EVP_sha256(), NULL) != 1 ||
	    EVP_DigestUpdate(s->sha, size, sizeof(size)) != 1)
		return img_fail(s->err, -ENOMEM, "SHA-256: out of memory");
	for (unsigned i = 0; !rc && i < FIRST_BLOCKS && off < s->end; i++)
		rc = sample(s, &off);
	for (unsigned i = 0; !rc && i < SPREAD_BLOCKS; i++) {
		off = max_u64(off, align_down_u64(i * stride, BLOCK));
		if (off >= s->end)
			break;
		rc = sample(s, &off);
	}
	if (!rc && EVP_DigestFinal_ex(s->sha, digest, NULL) != 1)
		rc = img_fail(s->err, -ENOMEM, "SHA-256: out of memory");
	return rc;
}

int img_content_identity(struct img *const *sources, size_t count, uint64_t identity[2],
			 struct img_error *err)
{
	struct sampler s = { .err = err };
	uint8_t digest[EVP_MAX_MD_SIZE];
	int rc = img_concat_init(&s.sources, sources, count, err);

	if (rc)
		return rc;
	s.end = s.sources.size;
	s.sha = EVP_MD_CTX_new();
	s.block = aligned_alloc(4096, BLOCK); /* as O_DIRECT wants it */
	rc = s.sha && s.block ? 0 : img_fail(err, -ENOMEM, "out of memory");
	if (!rc)
		rc = sample_all(&s, digest);
	EVP_MD_CTX_free(s.sha);
	free(s.block);
	if (rc)
		return rc;
	identity[0] = le64_load(digest) | 1; /* 0, 0 would mean random */
	identity[1] = le64_load(digest + 8);
	return 0;
}

/*
 * hash FORMAT FILE sha256|sparse4k [PASSPHRASE]: print the digest of an image's guest content, by the library
 * alone. FORMAT -: probe.
 *
 * sha256: of the whole content. sparse4k: of (little-endian block number, bytes) of each block of
 * 4 KiB that is not all zero, in order; for images too large to be read through.
 */
#include <inttypes.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/img.h"
#include "tests/support/passphrase.h"

enum {
	CHUNK = 1 << 20,
	BLOCK = 4096,
};

static const uint8_t zeroes[CHUNK];

static void add_blocks(EVP_MD_CTX *md, uint64_t off, const uint8_t *data, size_t len)
{
	for (size_t at = 0; at < len; at += BLOCK) {
		size_t n = len - at < BLOCK ? len - at : BLOCK;
		uint8_t number[8], last[BLOCK] = { 0 };

		if (!memcmp(data + at, zeroes, n))
			continue;
		le64_store(number, (off + at) / BLOCK);
		memcpy(last, data + at, n);
		EVP_DigestUpdate(md, number, sizeof(number));
		EVP_DigestUpdate(md, last, BLOCK);
	}
}

/* Chunks that are zeroes by the map are not read. */
static int hash_image(struct img *img, EVP_MD_CTX *md, bool blocks, uint8_t *buf,
		      struct img_error *err)
{
	uint64_t size = img_size(img);

	for (uint64_t off = 0; off < size;) {
		struct img_map_entry entry;
		int rc = img_map(img, off, size - off, true, &entry, err);

		if (rc)
			return rc;
		if (entry.length == 0 || entry.length > size - off) {
			fprintf(stderr, "hash: img_map() says %" PRIu64 " bytes at %" PRIu64 "\n",
				entry.length, off);
			return -1;
		}
		/* Whole blocks only, so that each has its number. */
		if (entry.zero && blocks && off % BLOCK == 0 && entry.length >= BLOCK) {
			off += entry.length - entry.length % BLOCK;
			continue;
		}
		size_t len = (size_t)min_u64(CHUNK - off % CHUNK, size - off);

		if (entry.zero && entry.length >= len) {
			if (!blocks)
				EVP_DigestUpdate(md, zeroes, len);
		} else {
			rc = img_read(img, off, buf, len, err);
			if (rc)
				return rc;
			if (blocks)
				add_blocks(md, off, buf, len);
			else
				EVP_DigestUpdate(md, buf, len);
		}
		off += len;
	}
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 4 && argc != 5) {
		fprintf(stderr, "usage: hash FORMAT|- FILE sha256|sparse4k [PASSPHRASE]\n");
		return 2;
	}
	struct img_secrets *secrets = argc > 4 && *argv[4] ? one_passphrase(argv[4]) : NULL;
	struct img_open_options options = { .format = strcmp(argv[1], "-") ? argv[1] : NULL,
					    .secrets = secrets };
	bool blocks = !strcmp(argv[3], "sparse4k");
	struct img_error *err = img_error_new();
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	uint8_t *buf = malloc(CHUNK), digest[EVP_MAX_MD_SIZE];
	unsigned digest_len = 0;
	struct img *img = NULL;
	int rc;

	if (!md || !buf || !EVP_DigestInit_ex(md, EVP_sha256(), NULL)) {
		fprintf(stderr, "hash: out of memory\n");
		free(buf);
		return 2;
	}
	rc = img_open(argv[2], &options, &img, err);
	if (rc == 0)
		rc = hash_image(img, md, blocks, buf, err);
	if (rc) {
		fprintf(stderr, "hash: %s\n", img_error_text(err));
	} else {
		EVP_DigestFinal_ex(md, digest, &digest_len);
		printf("%" PRIu64 " ", img_size(img));
		for (unsigned i = 0; i < digest_len; i++)
			printf("%02x", digest[i]);
		printf("\n");
	}
	img_close(img, NULL);
	EVP_MD_CTX_free(md);
	free(buf);
	img_error_free(err);
	img_secrets_free(secrets);
	return rc ? 1 : 0;
}

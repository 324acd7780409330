/* The bytes of a header of LUKS version 2: spec/luks.md. Private to libimg/crypto. */
#ifndef LIBIMG_CRYPTO_LUKS2_LAYOUT_H
#define LIBIMG_CRYPTO_LUKS2_LAYOUT_H

#include <stddef.h>
#include <stdint.h>

#include "libimg/crypto/luks_state.h"

enum {
	IMG_LUKS2_BYTES = 4096,		 /* of the binary part; the JSON follows */
	IMG_LUKS2_HEADER_MIN = 16 << 10, /* of both; a power of two */
	IMG_LUKS2_HEADER_MAX = 4 << 20,
	IMG_LUKS2_JSON_DEPTH_MAX = 16,	    /* cryptsetup writes 5 */
	IMG_LUKS2_JSON_MEMBERS_MAX = 20000, /* of arrays and objects together; 32 key slots have 700 */
};

struct img_luks2_header {
	uint64_t bytes; /* with the JSON */
	uint64_t sequence;
	uint64_t off; /* where it says that it is */
	char uuid[40];
};

/*
 * The binary part of the first copy, or the second. -EMEDIUMTYPE: it is none; -ENOTSUP: of another version, or
 * with another checksum than SHA-256; -EUCLEAN.
 */
int img_luks2_parse(const uint8_t bytes[IMG_LUKS2_BYTES], bool second, struct img_luks2_header *out,
		    struct img_error *err);
/* The checksum, of all h->bytes. -EUCLEAN: it is another one. */
int img_luks2_check_sum(const uint8_t *bytes, const struct img_luks2_header *h, struct img_error *err);
/*
 * What the JSON says, into l: cipher, payload, digest, slots. text: len bytes, ended by a NUL among them.
 * l->area says what the payload may be; header_bytes: of one copy. -EUCLEAN, -ENOTSUP, -ENOMEM.
 */
int img_luks2_parse_json(struct img_luks *l, uint64_t header_bytes, const char *text, size_t len,
			 struct img_error *err);

#endif

/* Headers of LUKS version 2 as bytes, for tests: sound but for the passphrase, which none is. */
#ifndef TESTS_CRYPTO_LUKS2_HEADER_H
#define TESTS_CRYPTO_LUKS2_HEADER_H

#include <openssl/evp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum { HEADER = 16 << 10 };

#define KDF \
	"{\"type\":\"pbkdf2\",\"hash\":\"sha256\",\"iterations\":1000,\"salt\":\"AAAAAAAAAAAAAAAAAAAAAA==\"}"
#define AREA \
	"{\"type\":\"raw\",\"offset\":\"32768\",\"size\":\"258048\"," \
	"\"encryption\":\"aes-xts-plain64\",\"key_size\":64}"
#define AF "{\"type\":\"luks1\",\"stripes\":4000,\"hash\":\"sha256\"}"
#define SLOT "{\"type\":\"luks2\",\"key_size\":64,\"af\":" AF ",\"area\":" AREA ",\"kdf\":" KDF "}"
#define SEGMENT \
	"{\"type\":\"crypt\",\"offset\":\"1048576\",\"size\":\"dynamic\",\"iv_tweak\":\"0\"," \
	"\"encryption\":\"aes-xts-plain64\",\"sector_size\":4096}"
#define DIGEST \
	"{\"type\":\"pbkdf2\",\"keyslots\":[\"0\"],\"segments\":[\"0\"],\"hash\":\"sha256\"," \
	"\"iterations\":1000,\"salt\":\"AAAAAAAAAAAAAAAAAAAAAA==\"," \
	"\"digest\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\"}"
#define WHOLE \
	"{\"keyslots\":{\"0\":" SLOT "},\"tokens\":{},\"segments\":{\"0\":" SEGMENT "}," \
	"\"digests\":{\"0\":" DIGEST "},\"config\":{\"json_size\":\"12288\"}}"

/* One copy; the JSON is cut where it does not fit. */
static inline void luks2_copy(uint8_t bytes[HEADER], bool second, uint64_t sequence, const char *json,
			      size_t len)
{
	unsigned n;

	memset(bytes, 0, HEADER);
	memcpy(bytes, second ? "SKUL\xba\xbe" : "LUKS\xba\xbe", 6);
	be16_store(bytes + 6, 2);
	be64_store(bytes + 8, HEADER);
	be64_store(bytes + 16, sequence);
	memcpy(bytes + 72, "sha256", 6);
	memcpy(bytes + 168, second ? "second" : "first", second ? 6 : 5);
	be64_store(bytes + 256, second ? HEADER : 0);
	memcpy(bytes + 4096, json, min_size(len, HEADER - 4096));
	EVP_Digest(bytes, HEADER, bytes + 448, &n, EVP_sha256(), NULL);
}

#endif

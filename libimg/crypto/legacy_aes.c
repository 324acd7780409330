/* The key is made by nothing but copying. */
#include "libimg/crypto/legacy_aes.h"

#include <string.h>

#include "libimg/base/secret_memory.h"

enum { KEY_BYTES = 16 };

int img_legacy_aes_cipher(const uint8_t *password, size_t len, struct img_cipher **out,
			  struct img_error *err)
{
	static const struct img_cipher_spec spec = {
		.algorithm = IMG_CIPHER_AES_128,
		.mode = IMG_CIPHER_CBC,
		.ivgen = IMG_IV_PLAIN64,
	};
	uint8_t key[KEY_BYTES] = { 0 };
	int rc;

	memcpy(key, password, strnlen((const char *)password, len < KEY_BYTES ? len : KEY_BYTES));
	rc = img_cipher_new(&spec, key, sizeof(key), 512, out, err);
	img_secret_wipe(key, sizeof(key));
	return rc;
}

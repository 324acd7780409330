/* What the parts of both versions of LUKS stand on: an open header's memory, ciphers as headers name them. */
#include "libimg/crypto/luks_state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/error.h"
#include "libimg/base/secret_memory.h"

/* ---- Ciphers as headers name them ---- */

int img_luks_parse_cipher(const char *family, const char *mode, size_t key_bytes,
			  struct img_cipher_spec *out, struct img_error *err)
{
	struct img_cipher_spec spec = { .ivgen = IMG_IV_PLAIN };
	char text[32], *ivgen, *hash;

	snprintf(text, sizeof(text), "%s", mode);
	ivgen = strchr(text, '-');
	if (!ivgen)
		return img_fail(err, -EUCLEAN, "cipher mode is '%s', expected one such as xts-plain64",
				text);
	*ivgen++ = '\0';
	hash = strchr(ivgen, ':');
	if (hash)
		*hash++ = '\0';
	if (!img_cipher_mode_by_name(text, &spec.mode))
		return img_fail(err, -ENOTSUP, "cipher mode %s is not supported", text);
	if (!img_iv_generator_by_name(ivgen, &spec.ivgen))
		return img_fail(err, -ENOTSUP, "IV generator %s is not supported", ivgen);
	spec.ivgen_hash = hash ? img_hash_by_name(hash) : IMG_HASH_NONE;
	if (hash && !spec.ivgen_hash)
		return img_fail(err, -ENOTSUP, "hash %s of the IV generator is not supported", hash);
	if (!img_cipher_is_family(family))
		return img_fail(err, -ENOTSUP, "cipher %s is not supported", family);
	if (!img_cipher_by_family(family, spec.mode == IMG_CIPHER_XTS ? key_bytes / 2 : key_bytes,
				  &spec.algorithm) ||
	    img_cipher_key_bytes(spec.algorithm, spec.mode) != key_bytes)
		return img_fail(err, -EUCLEAN,
				"key is %zu bytes, which cipher %s has not in mode %s", key_bytes,
				family, text);
	*out = spec;
	return img_cipher_check(&spec, err);
}

void img_luks_print_mode(const struct img_cipher_spec *spec, char out[32])
{
	snprintf(out, 32, "%s-%s%s%s", img_cipher_mode_name(spec->mode),
		 img_iv_generator_name(spec->ivgen), spec->ivgen_hash ? ":" : "",
		 spec->ivgen_hash ? img_hash_name(spec->ivgen_hash) : "");
}

/* ---- An open header ---- */

struct img_luks *img_luks_new(const struct img_luks_area *area)
{
	struct img_luks *l = calloc(1, sizeof(*l));

	if (!l)
		return NULL;
	l->area = *area;
	l->area.name = l->name = strdup(area->name);
	if (l->name)
		return l;
	free(l);
	return NULL;
}

void img_luks_free(struct img_luks *l)
{
	if (!l)
		return;
	img_secret_free(l->key);
	free(l->name);
	free(l);
}

/*
 * A cipher keeps its key, and contexts of the library that are set up with it: as many as there are threads
 * that use it at the same time. A thread takes one for a call, which may be megabytes.
 */
#include "libimg/crypto/cipher.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/base/error.h"
#include "libimg/base/secret_memory.h"
#include "libimg/crypto/block_cipher.h"
#include "libimg/crypto/xts.h"

enum {
	IV_UNIT = 512,	/* sectors are numbered by this, however large they are */
	TOGETHER = 128, /* initialisation vectors made at once */
	BLOCK_MAX = IMG_CIPHER_BLOCK_BYTES_MAX,
};

/* ---- Names ---- */

static const struct algorithm {
	const char *name, *family;
	uint8_t key_bytes, block_bytes;
	const struct img_block_cipher_ops *ops;
} algorithms[IMG_CIPHER_ALGORITHMS] = {
	[IMG_CIPHER_AES_128] = { "aes-128", "aes", 16, 16, &img_block_cipher_openssl },
	[IMG_CIPHER_AES_192] = { "aes-192", "aes", 24, 16, &img_block_cipher_openssl },
	[IMG_CIPHER_AES_256] = { "aes-256", "aes", 32, 16, &img_block_cipher_openssl },
	[IMG_CIPHER_3DES] = { "3des", "des3_ede", 24, 8, &img_block_cipher_openssl },
	[IMG_CIPHER_CAST5_128] = { "cast5-128", "cast5", 16, 8, &img_block_cipher_nettle },
	[IMG_CIPHER_SERPENT_128] = { "serpent-128", "serpent", 16, 16, &img_block_cipher_nettle },
	[IMG_CIPHER_SERPENT_192] = { "serpent-192", "serpent", 24, 16, &img_block_cipher_nettle },
	[IMG_CIPHER_SERPENT_256] = { "serpent-256", "serpent", 32, 16, &img_block_cipher_nettle },
	[IMG_CIPHER_TWOFISH_128] = { "twofish-128", "twofish", 16, 16, &img_block_cipher_nettle },
	[IMG_CIPHER_TWOFISH_192] = { "twofish-192", "twofish", 24, 16, &img_block_cipher_nettle },
	[IMG_CIPHER_TWOFISH_256] = { "twofish-256", "twofish", 32, 16, &img_block_cipher_nettle },
	[IMG_CIPHER_SM4] = { "sm4", "sm4", 16, 16, &img_block_cipher_openssl },
};
static const char *const modes[IMG_CIPHER_MODES] = {
	[IMG_CIPHER_ECB] = "ecb",
	[IMG_CIPHER_CBC] = "cbc",
	[IMG_CIPHER_XTS] = "xts",
	[IMG_CIPHER_CTR] = "ctr",
};
static const char *const generators[IMG_IV_GENERATORS] = {
	[IMG_IV_PLAIN] = "plain",
	[IMG_IV_PLAIN64] = "plain64",
	[IMG_IV_ESSIV] = "essiv",
};

const char *img_cipher_algorithm_name(enum img_cipher_algorithm algorithm)
{
	return algorithms[algorithm].name;
}

const char *img_cipher_mode_name(enum img_cipher_mode mode)
{
	return modes[mode];
}

const char *img_iv_generator_name(enum img_iv_generator ivgen)
{
	return generators[ivgen];
}

bool img_cipher_algorithm_by_name(const char *name, enum img_cipher_algorithm *out)
{
	for (int i = 0; i < IMG_CIPHER_ALGORITHMS; i++)
		if (!strcmp(algorithms[i].name, name)) {
			*out = (enum img_cipher_algorithm)i;
			return true;
		}
	return false;
}

bool img_cipher_mode_by_name(const char *name, enum img_cipher_mode *out)
{
	for (int i = 0; i < IMG_CIPHER_MODES; i++)
		if (!strcmp(modes[i], name)) {
			*out = (enum img_cipher_mode)i;
			return true;
		}
	return false;
}

bool img_iv_generator_by_name(const char *name, enum img_iv_generator *out)
{
	for (int i = 0; i < IMG_IV_GENERATORS; i++)
		if (!strcmp(generators[i], name)) {
			*out = (enum img_iv_generator)i;
			return true;
		}
	return false;
}

const char *img_cipher_family(enum img_cipher_algorithm algorithm)
{
	return algorithms[algorithm].family;
}

bool img_cipher_by_family(const char *family, size_t key_bytes, enum img_cipher_algorithm *out)
{
	for (int i = 0; i < IMG_CIPHER_ALGORITHMS; i++)
		if (!strcmp(algorithms[i].family, family) && algorithms[i].key_bytes == key_bytes) {
			*out = (enum img_cipher_algorithm)i;
			return true;
		}
	return false;
}

bool img_cipher_is_family(const char *family)
{
	for (int i = 0; i < IMG_CIPHER_ALGORITHMS; i++)
		if (!strcmp(algorithms[i].family, family))
			return true;
	return false;
}

size_t img_cipher_key_bytes(enum img_cipher_algorithm algorithm, enum img_cipher_mode mode)
{
	return algorithms[algorithm].key_bytes * (mode == IMG_CIPHER_XTS ? 2u : 1u);
}

size_t img_cipher_block_bytes(enum img_cipher_algorithm algorithm)
{
	return algorithms[algorithm].block_bytes;
}

/* The algorithm that encrypts the numbers: of the family, with a key as long as the digest. */
static bool essiv_algorithm(const struct img_cipher_spec *spec, enum img_cipher_algorithm *out)
{
	return img_cipher_by_family(algorithms[spec->algorithm].family,
				    img_hash_bytes(spec->ivgen_hash), out);
}

static bool uses_essiv(const struct img_cipher_spec *spec)
{
	return spec->mode != IMG_CIPHER_ECB && spec->ivgen == IMG_IV_ESSIV;
}

int img_cipher_check(const struct img_cipher_spec *spec, struct img_error *err)
{
	const struct algorithm *a = &algorithms[spec->algorithm];
	enum img_cipher_algorithm iv;

	if (spec->mode == IMG_CIPHER_XTS && a->block_bytes != 16)
		return img_fail(err, -ENOTSUP,
				"cipher mode xts needs blocks of 16 bytes, %s has blocks of %d",
				a->name, a->block_bytes);
	if (spec->ivgen == IMG_IV_ESSIV && spec->ivgen_hash == IMG_HASH_NONE)
		return img_fail(err, -EINVAL, "IV generator essiv needs a hash algorithm");
	if (spec->ivgen == IMG_IV_ESSIV && !essiv_algorithm(spec, &iv))
		return img_fail(err, -ENOTSUP,
				"IV generator essiv with hash %s needs a key of %zu bytes, which "
				"cipher %s has not",
				img_hash_name(spec->ivgen_hash), img_hash_bytes(spec->ivgen_hash),
				a->family);
	return 0;
}

/* ---- The cipher ---- */

/* What one thread works with. */
struct context {
	struct context *next;
	void *data, *tweak, *essiv; /* tweak: of XTS; essiv: of that alone */
};

struct cipher {
	struct img_cipher face;
	struct img_cipher_spec spec;
	const struct algorithm *algorithm;
	enum img_cipher_algorithm essiv;
	uint8_t *key, *essiv_key; /* secret memory */
	pthread_mutex_t lock;
	struct context *idle;
};

static void context_free(const struct cipher *c, struct context *x)
{
	const struct img_block_cipher_ops *ops = c->algorithm->ops;

	ops->close(x->data);
	ops->close(x->tweak);
	ops->close(x->essiv);
	free(x);
}

static int context_new(const struct cipher *c, struct context **out, struct img_error *err)
{
	const struct algorithm *a = c->algorithm;
	bool xts = c->spec.mode == IMG_CIPHER_XTS;
	struct context *x = calloc(1, sizeof(*x));
	int rc;

	if (!x)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = a->ops->open(c->spec.algorithm, xts ? IMG_CIPHER_ECB : c->spec.mode, c->key, &x->data,
			  err);
	if (!rc && xts)
		rc = a->ops->open(c->spec.algorithm, IMG_CIPHER_ECB, c->key + a->key_bytes,
				  &x->tweak, err);
	if (!rc && uses_essiv(&c->spec))
		rc = a->ops->open(c->essiv, IMG_CIPHER_ECB, c->essiv_key, &x->essiv, err);
	if (rc) {
		context_free(c, x);
		return rc;
	}
	*out = x;
	return 0;
}

static int context_take(struct cipher *c, struct context **out)
{
	struct context *x;

	pthread_mutex_lock(&c->lock);
	x = c->idle;
	if (x)
		c->idle = x->next;
	pthread_mutex_unlock(&c->lock);
	if (!x)
		return context_new(c, out, NULL);
	*out = x;
	return 0;
}

static void context_give(struct cipher *c, struct context *x)
{
	pthread_mutex_lock(&c->lock);
	x->next = c->idle;
	c->idle = x;
	pthread_mutex_unlock(&c->lock);
}

/* The initialisation vectors of n sectors, a block's length each. */
static int make_ivs(const struct cipher *c, struct context *x, uint64_t number, uint8_t *ivs, size_t n)
{
	uint32_t step = c->face.sector_bytes / IV_UNIT;
	size_t block = c->algorithm->block_bytes;

	memset(ivs, 0, n * block);
	for (size_t i = 0; i < n; i++, number += step) {
		if (c->spec.ivgen == IMG_IV_PLAIN)
			le32_store(ivs + i * block, (uint32_t)number);
		else
			le64_store(ivs + i * block, number);
	}
	return x->essiv ? c->algorithm->ops->run(x->essiv, true, NULL, ivs, n * block) : 0;
}

static int run_sectors(const struct cipher *c, struct context *x, bool encrypt, uint64_t number,
		       uint8_t *data, size_t n)
{
	const struct img_block_cipher_ops *ops = c->algorithm->ops;
	uint32_t sector = c->face.sector_bytes;
	uint8_t ivs[TOGETHER * BLOCK_MAX];
	int rc = make_ivs(c, x, number, ivs, n);

	if (!rc && c->spec.mode == IMG_CIPHER_XTS)
		return img_xts(ops, x->data, x->tweak, encrypt, ivs, data, sector, n);
	for (size_t i = 0; !rc && i < n; i++)
		rc = ops->run(x->data, encrypt, ivs + i * c->algorithm->block_bytes,
			      data + i * sector, sector);
	return rc;
}

static int run(struct img_cipher *face, bool encrypt, uint64_t tweak, uint8_t *data, size_t len)
{
	struct cipher *c = (struct cipher *)face;
	uint32_t sector = face->sector_bytes;
	struct context *x;
	int rc;

	assert(tweak % sector == 0 && len % sector == 0);
	rc = context_take(c, &x);
	if (rc)
		return rc;
	while (!rc && len) {
		size_t n = min_size(len / sector, TOGETHER);

		rc = run_sectors(c, x, encrypt, tweak / IV_UNIT, data, n);
		tweak += n * sector;
		data += n * sector;
		len -= n * sector;
	}
	context_give(c, x);
	return rc;
}

static int decrypt(struct img_cipher *c, uint64_t tweak, uint8_t *data, size_t len)
{
	return run(c, false, tweak, data, len);
}

static int encrypt(struct img_cipher *c, uint64_t tweak, uint8_t *data, size_t len)
{
	return run(c, true, tweak, data, len);
}

void img_cipher_free(struct img_cipher *c)
{
	struct cipher *own = (struct cipher *)c;

	if (!c)
		return;
	while (own->idle) {
		struct context *next = own->idle->next;

		context_free(own, own->idle);
		own->idle = next;
	}
	pthread_mutex_destroy(&own->lock);
	img_secret_free(own->key);
	img_secret_free(own->essiv_key);
	free(own);
}

static int set_keys(struct cipher *c, const uint8_t *key, size_t key_bytes, struct img_error *err)
{
	size_t half = key_bytes / 2;

	if (c->spec.mode == IMG_CIPHER_XTS && img_secret_equal(key, key + half, half))
		return img_fail(err, -EINVAL, "the two halves of the key are the same, which mode "
					      "xts does not allow");
	c->key = img_secret_copy(key, key_bytes);
	if (!c->key)
		return img_fail(err, -ENOMEM, "out of memory");
	if (!uses_essiv(&c->spec))
		return 0;
	c->essiv_key = img_secret_alloc(IMG_HASH_BYTES_MAX);
	if (!c->essiv_key)
		return img_fail(err, -ENOMEM, "out of memory");
	return img_hash_digest(c->spec.ivgen_hash, key, key_bytes, NULL, 0, c->essiv_key, err);
}

int img_cipher_new(const struct img_cipher_spec *spec, const uint8_t *key, size_t key_bytes,
		   uint32_t sector_bytes, struct img_cipher **out, struct img_error *err)
{
	size_t needed = img_cipher_key_bytes(spec->algorithm, spec->mode);
	int rc = img_cipher_check(spec, err);
	struct context *first;
	struct cipher *c;

	assert(is_pow2_u64(sector_bytes) && sector_bytes >= IV_UNIT && sector_bytes <= 4096);
	if (rc)
		return rc;
	if (key_bytes != needed)
		return img_fail(err, -EINVAL,
				"the key of cipher %s in mode %s is %zu bytes, expected %zu",
				algorithms[spec->algorithm].name, modes[spec->mode], key_bytes,
				needed);
	c = calloc(1, sizeof(*c));
	if (!c)
		return img_fail(err, -ENOMEM, "out of memory");
	c->face = (struct img_cipher){ .sector_bytes = sector_bytes,
				       .decrypt = decrypt,
				       .encrypt = encrypt };
	c->spec = *spec;
	c->algorithm = &algorithms[spec->algorithm];
	if (uses_essiv(spec))
		essiv_algorithm(spec, &c->essiv);
	pthread_mutex_init(&c->lock, NULL);
	rc = set_keys(c, key, key_bytes, err);
	if (!rc)
		rc = context_new(c, &first, err);
	if (rc) {
		img_cipher_free(&c->face);
		return rc;
	}
	context_give(c, first);
	*out = &c->face;
	return 0;
}

/*
 * Secrets and TLS credentials: each object is parsed from its text when it is added; a passphrase
 * in a file is read then, once. Passphrases are in memory that is not swapped and is wiped before it
 * is freed.
 */
#include "libimg/base/secrets.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "libimg/base/arith.h"
#include "libimg/base/base64.h"
#include "libimg/base/error.h"
#include "libimg/base/options.h"
#include "libimg/base/secret_memory.h"

enum {
	MAX_BYTES = 64 * 1024, /* of a secret's file; a passphrase has a few dozen */
	KEY_BYTES = 32,	       /* of the secret that another one is encrypted with: AES-256-CBC */
	BLOCK_BYTES = 16,
	MAX_ATTEMPTS = 3, /* at a passphrase that somebody is asked for */
};

struct object {
	struct object *next;
	const struct kind *kind;
	struct img_options *options;
	uint8_t *bytes; /* of a secret, in secret memory */
	size_t len;
};

struct img_secrets {
	struct object *first;
	img_secret_fn *ask; /* NULL: nobody is asked */
	void *user;
};

static const struct img_option secret_options[] = {
	{ "id", IMG_OPTION_STRING, "Name to speak of it by", NULL, NULL },
	{ "data", IMG_OPTION_STRING, "The secret itself", NULL, NULL },
	{ "file", IMG_OPTION_STRING, "File that holds it", NULL, NULL },
	{ "format", IMG_OPTION_STRING, "How it is written", "raw", "raw,base64" },
	{ "keyid", IMG_OPTION_STRING, "Secret that it is encrypted with", NULL, NULL },
	{ "iv", IMG_OPTION_STRING, "Initialization vector, base64", NULL, NULL },
	{ 0 },
};
static const struct img_option x509_options[] = {
	{ "id", IMG_OPTION_STRING, "Name to speak of it by", NULL, NULL },
	{ "dir", IMG_OPTION_STRING, "Folder of the certificates", NULL, NULL },
	{ "endpoint", IMG_OPTION_STRING, "Whose they are", "client", "client" },
	{ "verify-peer", IMG_OPTION_BOOL, "Check the other side's", "on", NULL },
	{ 0 },
};
static const struct img_option psk_options[] = {
	{ "id", IMG_OPTION_STRING, "Name to speak of it by", NULL, NULL },
	{ "dir", IMG_OPTION_STRING, "Folder of keys.psk", NULL, NULL },
	{ "username", IMG_OPTION_STRING, "Whose key", "qemu", NULL },
	{ "endpoint", IMG_OPTION_STRING, "Whose it is", "client", "client" },
	{ 0 },
};

static const struct kind {
	const char *type;
	const struct img_option *options;
} kinds[] = {
	{ "secret", secret_options },
	{ "tls-creds-x509", x509_options },
	{ "tls-creds-psk", psk_options },
};

struct img_secrets *img_secrets_new(void)
{
	return calloc(1, sizeof(struct img_secrets));
}

static void free_object(struct object *o)
{
	img_options_free(o->options);
	img_secret_free(o->bytes);
	free(o);
}

void img_secrets_free(struct img_secrets *s)
{
	if (!s)
		return;
	while (s->first) {
		struct object *next = s->first->next;

		free_object(s->first);
		s->first = next;
	}
	free(s);
}

static int fail_file(const char *path, const char *what, int code, struct img_error *err)
{
	return img_fail(err, code, "Could not %s the secret's file '%s': %s", what, path,
			strerrordesc_np(-code));
}

/* Unbuffered, so that nothing of it stays elsewhere. */
static int read_file(const char *path, uint8_t *bytes, size_t *len, struct img_error *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = 1;
	int rc = 0;

	if (fd < 0)
		return fail_file(path, "open", -errno, err);
	for (*len = 0; n > 0 && *len <= MAX_BYTES;) {
		n = read(fd, bytes + *len, MAX_BYTES + 1 - *len);
		if (n > 0)
			*len += (size_t)n;
		else if (n < 0 && errno == EINTR)
			n = 1;
		else if (n < 0)
			rc = fail_file(path, "read", -errno, err);
	}
	close(fd);
	if (!rc && *len > MAX_BYTES)
		rc = img_fail(err, -EFBIG, "the secret's file '%s' has more than %d bytes", path,
			      MAX_BYTES);
	return rc;
}

/* What is given, as it is given. */
static int load_given(struct object *o, struct img_error *err)
{
	const char *data = img_options_string(o->options, "data");
	const char *file = img_options_string(o->options, "file");

	if (!data == !file)
		return img_fail(err, -EINVAL,
				data ? "'file' and 'data' are mutually exclusive" : "Must provide 'file' or 'data'");
	o->len = file ? MAX_BYTES + 1 : strlen(data);
	o->bytes = img_secret_alloc(o->len);
	if (!o->bytes)
		return img_fail(err, -ENOMEM, "out of memory");
	if (file)
		return read_file(file, o->bytes, &o->len, err);
	memcpy(o->bytes, data, o->len);
	img_options_forget(o->options, "data");
	return 0;
}

static const struct object *find(const struct img_secrets *s, const char *id);

static int find_key(const struct img_secrets *s, const struct object *o, const uint8_t **key,
		    struct img_error *err)
{
	const char *id = img_options_string(o->options, "id");
	const char *keyid = img_options_string(o->options, "keyid");
	const struct object *master = find(s, keyid);

	if (!master || !master->bytes)
		return img_fail(err, -ENOENT, "secret '%s': keyid: No secret with id '%s'", id, keyid);
	if (master->len != KEY_BYTES)
		return img_fail(err, -EINVAL,
				"secret '%s': keyid: the key '%s' has %zu bytes, expected %d", id,
				keyid, master->len, KEY_BYTES);
	*key = master->bytes;
	return 0;
}

static int parse_iv(const struct object *o, uint8_t iv[BLOCK_BYTES], struct img_error *err)
{
	const char *id = img_options_string(o->options, "id");
	const char *text = img_options_string(o->options, "iv");
	uint8_t bytes[64];
	size_t len = text ? strlen(text) : 0;

	if (!text)
		return img_fail(err, -EINVAL, "secret '%s': IV is required to decrypt secret", id);
	if (len > sizeof(bytes))
		return img_fail(err, -EINVAL, "secret '%s': iv has %zu characters, expected at most %zu",
				id, len, sizeof(bytes));
	memcpy(bytes, text, len);
	if (!img_base64_decode(bytes, &len))
		return img_fail(err, -EINVAL, "secret '%s': iv: not base64", id);
	if (len != BLOCK_BYTES)
		return img_fail(err, -EINVAL, "secret '%s': iv has %zu bytes, expected %d", id, len,
				BLOCK_BYTES);
	memcpy(iv, bytes, BLOCK_BYTES);
	return 0;
}

/* AES-256-CBC, padded as PKCS#7 says, in place. */
static int decrypt(const struct img_secrets *s, struct object *o, struct img_error *err)
{
	const char *id = img_options_string(o->options, "id");
	EVP_CIPHER_CTX *context = NULL;
	uint8_t iv[BLOCK_BYTES], *clear = NULL;
	const uint8_t *key = NULL;
	int rc, len = 0, last = 0;

	rc = find_key(s, o, &key, err);
	if (!rc)
		rc = parse_iv(o, iv, err);
	if (rc)
		return rc;
	context = EVP_CIPHER_CTX_new();
	clear = img_secret_alloc(o->len + BLOCK_BYTES);
	if (!context || !clear)
		rc = img_fail(err, -ENOMEM, "out of memory");
	else if (!EVP_DecryptInit_ex(context, EVP_aes_256_cbc(), NULL, key, iv))
		rc = img_fail(err, -ENOTSUP, "secret '%s': AES-256-CBC is not available", id);
	else if (!EVP_DecryptUpdate(context, clear, &len, o->bytes, (int)o->len) ||
		 !EVP_DecryptFinal_ex(context, clear + len, &last))
		rc = img_fail(err, -EINVAL,
			      "secret '%s': %zu bytes do not decrypt to anything with a proper padding: "
			      "the key, iv or data is wrong",
			      id, o->len);
	EVP_CIPHER_CTX_free(context);
	if (rc) {
		img_secret_free(clear);
		return rc;
	}
	img_secret_free(o->bytes);
	o->bytes = clear;
	o->len = (size_t)len + (size_t)last;
	return 0;
}

static int load_secret(const struct img_secrets *s, struct object *o, struct img_error *err)
{
	const char *id = img_options_string(o->options, "id");
	bool base64 = !strcmp(img_options_string(o->options, "format"), "base64");
	int rc = load_given(o, err);

	if (!rc && base64 && !img_base64_decode(o->bytes, &o->len))
		rc = img_fail(err, -EINVAL, "secret '%s': not base64", id);
	if (rc)
		return rc;
	if (img_options_has(o->options, "keyid"))
		return decrypt(s, o, err);
	return img_options_has(o->options, "iv")
		       ? img_fail(err, -EINVAL,
				  "secret '%s': iv is of no use without keyid, the key", id)
		       : 0;
}

static const struct object *find(const struct img_secrets *s, const char *id)
{
	for (const struct object *o = s ? s->first : NULL; o; o = o->next)
		if (!strcmp(img_options_string(o->options, "id"), id))
			return o;
	return NULL;
}

/* A key that there is not may be what stands behind a comma of a secret: it is not repeated. */
static int parse(struct object *o, const char *rest, struct img_error *err)
{
	struct img_error why = { 0 };
	int rc = img_options_parse(o->options, rest, &why);

	if (rc && img_options_has(o->options, "data") && why.text &&
	    !strncmp(why.text, "Invalid parameter", strlen("Invalid parameter")))
		img_fail(err, rc,
			 "secret: Invalid parameter behind 'data' (a comma in the data itself is doubled)");
	else if (rc)
		img_fail(err, rc, "%s", img_error_text(&why));
	img_error_clear(&why);
	return rc;
}

static int fill(struct img_secrets *s, struct object *o, const char *rest, struct img_error *err)
{
	const char *id;
	int rc = parse(o, rest, err);

	if (rc)
		return rc;
	id = img_options_string(o->options, "id");
	if (!id || !*id)
		return img_fail(err, -EINVAL, "Parameter 'id' is missing");
	if (find(s, id))
		return img_fail(err, -EINVAL, "attempt to add duplicate property '%s' to object: an "
					      "object of that id exists",
				id);
	return o->kind->options == secret_options ? load_secret(s, o, err) : 0;
}

int img_secrets_add(struct img_secrets *s, const char *text, struct img_error *err)
{
	size_t n = strcspn(text, ",");
	const char *type = !strncmp(text, "qom-type=", 9) ? text + 9 : text;
	const struct kind *kind = NULL;
	struct object *o;
	int rc;

	n -= (size_t)(type - text);
	if (n > strcspn(type, "="))
		n = strcspn(type, "=");
	for (size_t i = 0; i < IMG_ARRAY_LEN(kinds); i++)
		if (strlen(kinds[i].type) == n && !strncmp(kinds[i].type, type, n))
			kind = &kinds[i];
	if (!kind)
		return img_fail(err, -EINVAL, "invalid object type: %.*s", (int)(n < 64 ? n : 64),
				type);
	o = calloc(1, sizeof(*o));
	if (o)
		o->options = img_options_new(kind->options);
	if (!o || !o->options) {
		free(o);
		return img_fail(err, -ENOMEM, "out of memory");
	}
	o->kind = kind;
	rc = fill(s, o, type[n] ? type + n + 1 : "", err);
	if (rc) {
		free_object(o);
		return rc;
	}
	o->next = s->first;
	s->first = o;
	return 0;
}

const char *img_secrets_type(const struct img_secrets *s, const char *id)
{
	const struct object *o = find(s, id);

	return o ? o->kind->type : NULL;
}

const char *img_secrets_property(const struct img_secrets *s, const char *id, const char *key)
{
	const struct object *o = find(s, id);

	for (const struct img_option *row = o ? o->kind->options : NULL; row && row->name; row++)
		if (!strcmp(row->name, key))
			return img_options_string(o->options, key);
	return NULL;
}

int img_secrets_bytes(const struct img_secrets *s, const char *id, const uint8_t **bytes,
		      size_t *len, struct img_error *err)
{
	const struct object *o = find(s, id);

	if (!o || !o->bytes)
		return img_fail(err, -ENOENT, "No secret with id '%s'", id);
	*bytes = o->bytes;
	*len = o->len;
	return 0;
}

void img_secrets_set_callback(struct img_secrets *s, img_secret_fn *fn, void *user)
{
	s->ask = fn;
	s->user = user;
}

bool img_secrets_can_ask(const struct img_secrets *s)
{
	return s && s->ask;
}

static int fail_missing(const struct img_secret_request *r, struct img_error *err)
{
	return img_fail(err, -ENOKEY,
			"%s: Parameter '%s' is required for cipher: it is the id of the secret (--object "
			"secret,id=ID,file=FILE) that holds the passphrase",
			r->image, r->option);
}

/* Whoever is asked may mistype it. */
static int ask(const struct img_secrets *s, const struct img_secret_request *request,
	       img_secret_use_fn *use, void *user, struct img_error *err)
{
	struct img_secret_request r = *request;
	uint8_t *bytes = img_secret_alloc(IMG_SECRET_MAX);
	int rc = -EKEYREJECTED;

	if (!bytes)
		return img_fail(err, -ENOMEM, "out of memory");
	for (; rc == -EKEYREJECTED && r.attempt < MAX_ATTEMPTS; r.attempt++) {
		size_t len = 0;

		if (s->ask(s->user, &r, bytes, IMG_SECRET_MAX, &len) || len > IMG_SECRET_MAX) {
			rc = r.attempt ? rc : fail_missing(&r, err);
			break;
		}
		rc = use(user, bytes, len, err);
	}
	img_secret_free(bytes);
	return rc;
}

int img_secrets_use(const struct img_secrets *s, const char *id,
		    const struct img_secret_request *request, img_secret_use_fn *use, void *user,
		    struct img_error *err)
{
	const uint8_t *bytes = NULL;
	size_t len = 0;
	int rc;

	if (!id)
		return img_secrets_can_ask(s) ? ask(s, request, use, user, err)
					      : fail_missing(request, err);
	rc = img_secrets_bytes(s, id, &bytes, &len, err);
	return rc ? img_error_prefix(err, rc, "%s: %s", request->image, request->option)
		  : use(user, bytes, len, err);
}

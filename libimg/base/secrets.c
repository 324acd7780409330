/*
 * Secrets and TLS credentials: each object is parsed from its text when it is added; a passphrase
 * in a file is read then, once. What held a passphrase is cleared before it is freed.
 */
#include "libimg/base/secrets.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"
#include "libimg/base/options.h"

enum {
	MAX_BYTES = 64 * 1024, /* of a secret's file; a passphrase has a few dozen */
};

struct object {
	struct object *next;
	const struct kind *kind;
	struct img_options *options;
	uint8_t *bytes; /* of a secret */
	size_t len;
};

struct img_secrets {
	struct object *first;
};

static const struct img_option secret_options[] = {
	{ "id", IMG_OPTION_STRING, "Name to speak of it by", NULL, NULL },
	{ "data", IMG_OPTION_STRING, "The secret itself", NULL, NULL },
	{ "file", IMG_OPTION_STRING, "File that holds it", NULL, NULL },
	{ "format", IMG_OPTION_STRING, "How it is written", "raw", "raw,base64" },
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
	if (o->bytes)
		explicit_bzero(o->bytes, o->len);
	free(o->bytes);
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

static int base64_digit(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (int)(at - digits) : -1;
}

/* In place; white space between is left out. False: no base64. */
static bool decode_base64(uint8_t *bytes, size_t *len)
{
	uint32_t bits = 0;
	unsigned digits = 0, pads = 0;
	size_t out = 0;

	for (size_t i = 0; i < *len; i++) {
		char c = (char)bytes[i];
		int digit = base64_digit(c);

		if (c == '\n' || c == '\r' || c == ' ' || c == '\t')
			continue;
		if (c == '=' && digits % 4 >= 2 && pads < 2) {
			pads++;
			continue;
		}
		if (digit < 0 || pads)
			return false;
		bits = bits << 6 | (uint32_t)digit;
		if (digits++ % 4)
			bytes[out++] = (uint8_t)(bits >> (6 - 2 * ((digits - 1) % 4)));
	}
	*len = out;
	return digits % 4 != 1 && (!pads || (digits + pads) % 4 == 0);
}

static int read_file(const char *path, uint8_t **out, size_t *len, struct img_error *err)
{
	FILE *file = fopen(path, "rbe");
	uint8_t *bytes;
	size_t n;
	int rc = 0;

	if (!file)
		return img_fail(err, -errno, "Could not open the secret's file '%s': %s", path,
				strerrordesc_np(errno));
	bytes = malloc(MAX_BYTES + 1);
	n = bytes ? fread(bytes, 1, MAX_BYTES + 1, file) : 0;
	if (!bytes)
		rc = img_fail(err, -ENOMEM, "out of memory");
	else if (ferror(file))
		rc = img_fail(err, -EIO, "Could not read the secret's file '%s'", path);
	else if (n > MAX_BYTES)
		rc = img_fail(err, -EFBIG, "the secret's file '%s' has more than %d bytes", path,
			      MAX_BYTES);
	fclose(file);
	if (rc) {
		free(bytes);
		return rc;
	}
	*out = bytes;
	*len = n;
	return 0;
}

static int load_secret(struct object *o, struct img_error *err)
{
	const char *data = img_options_string(o->options, "data");
	const char *file = img_options_string(o->options, "file");
	int rc = 0;

	if (!data == !file)
		return img_fail(err, -EINVAL, data ? "'file' and 'data' are mutually exclusive" : "Must provide 'file' or 'data'");
	if (file) {
		rc = read_file(file, &o->bytes, &o->len, err);
	} else {
		o->len = strlen(data);
		o->bytes = malloc(o->len + 1);
		if (o->bytes)
			memcpy(o->bytes, data, o->len + 1);
		else
			rc = img_fail(err, -ENOMEM, "out of memory");
	}
	if (!rc && !strcmp(img_options_string(o->options, "format"), "base64") &&
	    !decode_base64(o->bytes, &o->len))
		rc = img_fail(err, -EINVAL, "secret '%s': not base64",
			      img_options_string(o->options, "id"));
	return rc;
}

static const struct object *find(const struct img_secrets *s, const char *id)
{
	for (const struct object *o = s ? s->first : NULL; o; o = o->next)
		if (!strcmp(img_options_string(o->options, "id"), id))
			return o;
	return NULL;
}

static int fill(struct img_secrets *s, struct object *o, const char *rest, struct img_error *err)
{
	const char *id;
	int rc = img_options_parse(o->options, rest, err);

	if (rc)
		return rc;
	id = img_options_string(o->options, "id");
	if (!id || !*id)
		return img_fail(err, -EINVAL, "Parameter 'id' is missing");
	if (find(s, id))
		return img_fail(err, -EINVAL, "attempt to add duplicate property '%s' to object: an "
					      "object of that id exists",
				id);
	return o->kind->options == secret_options ? load_secret(o, err) : 0;
}

int img_secrets_add(struct img_secrets *s, const char *text, struct img_error *err)
{
	size_t n = strcspn(text, ",");
	const char *type = !strncmp(text, "qom-type=", 9) ? text + 9 : text;
	const struct kind *kind = NULL;
	struct object *o;
	int rc;

	n -= (size_t)(type - text);
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

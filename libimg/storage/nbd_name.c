/*
 * Names of NBD exports, taken apart into the options of the module:
 *
 *   nbd://HOST[:PORT]/[EXPORT]	also nbd+tcp://, and nbds://, nbds+tcp:// with TLS
 *   nbd+unix:///[EXPORT]?socket=PATH	also nbds+unix://
 *   nbd:HOST:PORT[:exportname=EXPORT], nbd:unix:PATH[:exportname=EXPORT]	as QEMU has it
 *
 * With TLS a user's name before '@' and ?tls-psk-file= or ?tls-certificates= as libnbd has them.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/parse.h"
#include "libimg/storage/nbd.h"

static int fail_name(const char *name, const char *why, struct img_error *err)
{
	return img_fail(err, -EINVAL, "Invalid NBD name '%s': %s", name, why);
}

/* %XX becomes the byte it stands for, in place. False: not two digits, or a zero byte. */
static bool decode(char *text)
{
	char *to = text;

	for (; *text; text++) {
		if (*text != '%') {
			*to++ = *text;
			continue;
		}
		int high = img_hex_digit(text[1]), low = high < 0 ? -1 : img_hex_digit(text[2]);

		if (low < 0 || !(high | low))
			return false;
		*to++ = (char)(high << 4 | low);
		text += 2;
	}
	*to = '\0';
	return true;
}

/* "HOST:PORT", "[::1]:PORT", "HOST", ""; host and port are cut out of text. */
static bool split_authority(char *text, char **host, char **port)
{
	char *colon;

	*host = text;
	*port = NULL;
	if (*text == '[') {
		colon = strchr(text, ']');
		if (!colon || (colon[1] && colon[1] != ':'))
			return false;
		*host = text + 1;
		*colon++ = '\0';
	} else {
		colon = strchr(text, ':');
	}
	if (colon && *colon == ':') {
		*colon = '\0';
		*port = colon + 1;
	}
	return true;
}

struct target {
	img_keyval_fn *set;
	void *user;
};

static int give(const struct target *t, const char *key, const char *value, struct img_error *err)
{
	return value && *value ? t->set(t->user, key, value, err) : 0;
}

/* Of ?a=b&c=d, each of which must be known. */
static int give_query(const struct target *t, const char *name, char *query, bool unix_socket,
		      bool tls, struct img_error *err)
{
	char *save = NULL;

	for (char *part = strtok_r(query, "&", &save); part; part = strtok_r(NULL, "&", &save)) {
		char *value = strchr(part, '=');
		const char *key = NULL;
		int rc;

		if (value)
			*value++ = '\0';
		if (!strcmp(part, "socket") && unix_socket)
			key = "server.path";
		else if ((!strcmp(part, "tls-psk-file") || !strcmp(part, "tls-certificates")) && tls)
			key = part;
		if (!key || !value || !decode(value))
			return fail_name(name, "a parameter behind '?' that is not known there", err);
		rc = give(t, key, value, err);
		if (rc)
			return rc;
	}
	return 0;
}

/* copy: what follows "SCHEME://". */
static int parse_url(const struct target *t, const char *name, char *copy, bool unix_socket,
		     bool tls, struct img_error *err)
{
	char *query = strchr(copy, '?'), *path, *at, *host = copy, *port = NULL;
	int rc;

	if (query)
		*query++ = '\0';
	path = strchr(copy, '/');
	if (path)
		*path++ = '\0';
	at = strrchr(copy, '@');
	if (at) {
		*at = '\0';
		host = at + 1;
		if (!tls || !decode(copy))
			return fail_name(name, "a user's name is for TLS", err);
	}
	if (unix_socket ? *host : !split_authority(host, &host, &port) || !*host)
		return fail_name(name, unix_socket ? "nbd+unix:// has no host" : "no host", err);
	if ((path && !decode(path)) || !decode(host))
		return fail_name(name, "a '%' without two digits", err);
	rc = t->set(t->user, "server.type", unix_socket ? "unix" : "inet", err);
	if (!rc && !unix_socket)
		rc = give(t, "server.host", host, err);
	if (!rc)
		rc = give(t, "server.port", port, err);
	if (!rc)
		rc = give(t, "export", path, err);
	if (!rc && tls)
		rc = t->set(t->user, "tls", "on", err);
	if (!rc && at)
		rc = give(t, "tls-username", copy, err);
	return rc || !query ? rc : give_query(t, name, query, unix_socket, tls, err);
}

/* copy: what follows "nbd:". */
static int parse_old(const struct target *t, const char *name, char *copy, struct img_error *err)
{
	static const char marker[] = ":exportname=";
	char *export_name = strstr(copy, marker), *host, *port;
	int rc;

	if (export_name) {
		*export_name = '\0';
		export_name += strlen(marker);
	}
	if (!strncmp(copy, "unix:", 5)) {
		rc = t->set(t->user, "server.type", "unix", err);
		if (!rc)
			rc = give(t, "server.path", copy + 5, err);
	} else {
		if (!split_authority(copy, &host, &port) || !*host || !port || !*port)
			return fail_name(name, "neither HOST:PORT nor unix:PATH", err);
		rc = t->set(t->user, "server.type", "inet", err);
		if (!rc)
			rc = give(t, "server.host", host, err);
		if (!rc)
			rc = give(t, "server.port", port, err);
	}
	return rc ? rc : give(t, "export", export_name, err);
}

int img_nbd_parse_name(const char *name, img_keyval_fn *set, void *user, struct img_error *err)
{
	const struct target t = { set, user };
	const char *rest = strchr(name, ':') + 1;
	bool tls = !strncmp(name, "nbds", 4), url = !strncmp(rest, "//", 2);
	bool unix_socket = !strncmp(name + (tls ? 4 : 3), "+unix:", 6);
	char *copy;
	int rc;

	if (!url && strncmp(name, "nbd:", 4) != 0)
		return fail_name(name, "'://' is missing", err);
	copy = strdup(url ? rest + 2 : rest);
	if (!copy)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = url ? parse_url(&t, name, copy, unix_socket, tls, err)
		 : parse_old(&t, name, copy, err);
	free(copy);
	return rc;
}

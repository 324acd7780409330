/* Names, option strings and json: names. */
#include "tools/description.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tools/args.h"
#include "tools/say.h"
#include "tools/size.h"

enum {
	JSON_LEVELS = 64, /* far more than anybody nests; bounds the recursion over a json: name */
};

static struct description *new_description(void)
{
	return args_memory(calloc(1, sizeof(struct description)));
}

void description_free(struct description *d)
{
	while (d) {
		struct description *below = d->below;

		free(d->path);
		free(d->format);
		free(d->data_file);
		free(d->file_driver);
		free(d);
		d = below;
	}
}

/* ---- Names ---- */

/* "proto:..." with the colon before any slash; 0: a plain path. Else the protocol's length. */
static size_t protocol_length(const char *name)
{
	size_t len = strcspn(name, ":/");

	return name[len] == ':' ? len : 0;
}

const char *description_path(const char *name, const char *subject)
{
	static const char *const elsewhere[] = { "nbd", "nbd+tcp", "nbd+unix", "nbds",
						 "http", "https", "ftp", "ftps",
						 "ssh", "iscsi", "iser", "nfs",
						 "rbd", "nvme", "fat", "blkdebug",
						 "blkverify", "null-co", "null-aio", "host_cdrom",
						 "quorum", "json" };
	const char *colon = subject ? ": " : "";
	size_t len = protocol_length(name), i;

	subject = subject ? subject : "";
	if (!len)
		return name;
	if (!strncmp(name, "file:", 5))
		return name + 5;
	if (!strncmp(name, "host_device:", 12))
		return name + 12;
	for (i = 0; i < sizeof(elsewhere) / sizeof(elsewhere[0]); i++) {
		if (strlen(elsewhere[i]) == len && !strncmp(name, elsewhere[i], len)) {
			say_error("%s%sProtocol '%.*s' is not supported", subject, colon, (int)len,
				  name);
			return NULL;
		}
	}
	say_error("%s%sUnknown protocol '%.*s'", subject, colon, (int)(len < 64 ? len : 64), name);
	say_more("If it is the name of a file, give it as './%s'.", name);
	return NULL;
}

/* ---- Options ---- */

/* Each sets one thing from value; NULL, or the values that would be taken. */
typedef const char *set_option(struct description *d, const char *value);

static const char *set_text(char **to, const char *value)
{
	free(*to);
	*to = args_memory(strdup(value));
	return NULL;
}

/* A value is a path as it stands; the library takes "file:" off one that begins so. */
static const char *set_file_name(char **to, const char *value)
{
	char *path;

	if (strncmp(value, "file:", 5))
		return set_text(to, value);
	if (asprintf(&path, "./%s", value) < 0)
		args_memory(NULL);
	free(*to);
	*to = path;
	return NULL;
}

static const char *set_driver(struct description *d, const char *value)
{
	return set_text(&d->format, value);
}

static const char *set_path(struct description *d, const char *value)
{
	return set_file_name(&d->path, value);
}

static const char *set_data_path(struct description *d, const char *value)
{
	return set_file_name(&d->data_file, value);
}

/* raw between a format and its file: the file as it is. */
static const char *set_file_driver(struct description *d, const char *value)
{
	if (!strcmp(value, "raw"))
		return NULL;
	if (strcmp(value, "file") && strcmp(value, "host_device"))
		return "file, host_device, raw";
	return set_text(&d->file_driver, value);
}

static const char *set_data_driver(struct description *d, const char *value)
{
	static const char *const names[] = { "file", "host_device", "raw" };

	(void)d;
	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(value, names[i]))
			return NULL;
	return "file, host_device, raw";
}

/* null in JSON: the image alone. */
static const char *set_backing(struct description *d, const char *value)
{
	if (*value)
		return "nothing (no backing image), backing.file.filename";
	d->flags |= IMG_OPEN_NO_BACKING;
	return NULL;
}

/* on/off, true/false, yes/no; on says which. */
static const char *parse_switch(const char *value, bool *on)
{
	*on = !strcmp(value, "on") || !strcmp(value, "true") || !strcmp(value, "yes");
	if (*on || !strcmp(value, "off") || !strcmp(value, "false") || !strcmp(value, "no"))
		return NULL;
	return "on, off";
}

static const char *set_flag(struct description *d, const char *value, unsigned flag)
{
	bool on;
	const char *allowed = parse_switch(value, &on);

	if (allowed)
		return allowed;
	d->flags = on ? d->flags | flag : d->flags & ~flag;
	d->cleared = on ? d->cleared & ~flag : d->cleared | flag;
	return NULL;
}

static const char *set_read_only(struct description *d, const char *value)
{
	return parse_switch(value, &d->read_only);
}

/* Whether an image that cannot be written to is opened for reading: it is of no use then. */
static const char *set_auto_read_only(struct description *d, const char *value)
{
	bool on;

	(void)d;
	return parse_switch(value, &on);
}

static const char *set_cache_direct(struct description *d, const char *value)
{
	return set_flag(d, value, IMG_OPEN_DIRECT);
}

static const char *set_cache_no_flush(struct description *d, const char *value)
{
	return set_flag(d, value, IMG_OPEN_UNSAFE);
}

static const char *set_force_share(struct description *d, const char *value)
{
	return set_flag(d, value, IMG_OPEN_SHARE);
}

static const char *set_keep_room(struct description *d, const char *value)
{
	return set_flag(d, value, IMG_OPEN_KEEP_ROOM);
}

static const char *set_discard(struct description *d, const char *value)
{
	if (!strcmp(value, "unmap"))
		value = "on";
	else if (!strcmp(value, "ignore"))
		value = "off";
	return set_flag(d, value, IMG_OPEN_UNMAP) ? "unmap, ignore" : NULL;
}

/* Zeroes are looked for where a copy is made, not behind a writer's back. */
static const char *set_detect_zeroes(struct description *d, const char *value)
{
	(void)d;
	return strcmp(value, "off") ? "off" : NULL;
}

/* auto is what the library does. */
static const char *set_locking(struct description *d, const char *value)
{
	if (!strcmp(value, "auto"))
		return NULL;
	if (strcmp(value, "off"))
		return "auto, off";
	d->flags |= IMG_OPEN_NO_LOCK;
	return NULL;
}

static const char *set_aio(struct description *d, const char *value)
{
	if (!strcmp(value, "threads"))
		d->io = IMG_IO_THREADS_KIND;
	else if (!strcmp(value, "io_uring"))
		d->io = IMG_IO_URING_KIND;
	else
		return "threads, io_uring";
	return NULL;
}

static const char *set_cache_size(struct description *d, const char *value)
{
	return size_parse(value, &d->cache_bytes) || !d->cache_bytes ? "a size in bytes" : NULL;
}

/* By this name others refer to the node. There are none here. */
static const char *set_node_name(struct description *d, const char *value)
{
	(void)d;
	return *value ? NULL : "a name";
}

/* Where a key has its place: with the format, with its file; and whether in images below too. */
enum {
	IN_FORMAT = 1,
	IN_FILE = 2,
	TOP_ONLY = 4,
};

static const struct {
	const char *key;
	unsigned place;
	set_option *set;
} options[] = {
	{ "driver", IN_FORMAT, set_driver },
	{ "driver", IN_FILE, set_file_driver },
	{ "filename", IN_FORMAT | IN_FILE, set_path },
	{ "locking", IN_FORMAT | IN_FILE, set_locking },
	{ "aio", IN_FORMAT | IN_FILE | TOP_ONLY, set_aio },
	{ "backing", IN_FORMAT, set_backing },
	{ "data-file.driver", IN_FORMAT, set_data_driver },
	{ "data-file.filename", IN_FORMAT, set_data_path },
	{ "data-file.file.driver", IN_FORMAT, set_data_driver },
	{ "data-file.file.filename", IN_FORMAT, set_data_path },
	{ "node-name", IN_FORMAT | IN_FILE, set_node_name },
	{ "read-only", IN_FORMAT | IN_FILE, set_read_only },
	{ "auto-read-only", IN_FORMAT | IN_FILE, set_auto_read_only },
	{ "force-share", IN_FORMAT | IN_FILE, set_force_share },
	{ "discard", IN_FORMAT | IN_FILE, set_discard },
	{ "discard-no-unref", IN_FORMAT, set_keep_room },
	{ "detect-zeroes", IN_FORMAT | IN_FILE, set_detect_zeroes },
	{ "cache.direct", IN_FORMAT | IN_FILE, set_cache_direct },
	{ "cache.no-flush", IN_FORMAT | IN_FILE, set_cache_no_flush },
	{ "cache-size", IN_FORMAT | TOP_ONLY, set_cache_size },
	{ "l2-cache-size", IN_FORMAT | TOP_ONLY, set_cache_size },
};

/* Take "prefix." off *key, if it begins so. */
static bool take(const char **key, const char *prefix)
{
	size_t len = strlen(prefix);

	if (strncmp(*key, prefix, len) || (*key)[len] != '.')
		return false;
	*key += len + 1;
	return true;
}

static bool set(struct description *d, const char *key, const char *value, const char *subject)
{
	unsigned place = IN_FORMAT;
	const char *rest = key, *allowed;
	bool top = true;

	while (take(&rest, "backing")) {
		if (!d->below)
			d->below = new_description();
		d = d->below;
		top = false;
	}
	while (take(&rest, "file"))
		place = IN_FILE;
	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
		if (strcmp(rest, options[i].key) || !(options[i].place & place) ||
		    (!top && (options[i].place & TOP_ONLY)))
			continue;
		allowed = options[i].set(d, value);
		if (allowed)
			say_error("%s: Option '%s' is '%s', supported: %s", subject, key, value,
				  allowed);
		return !allowed;
	}
	if (!strcmp(rest, "file") || !strcmp(rest, "data-file"))
		say_error("%s: Cannot find device='%s' nor node-name='%s'", subject, value, value);
	else
		say_error("%s: Option '%s' is not supported", subject, key);
	return false;
}

/* "key=value,key=value", with commas in values doubled. A key alone is on. */
static bool parse_options(struct description *d, const char *name, const char *subject)
{
	char *copy = args_memory(strdup(name)), *from = copy;
	bool sound = true;

	if (!strchr(name, '=')) {
		/* qemu's tools take the name of a block device here; there is none in this program. */
		say_error("%s: Cannot find device='%s' nor node-name='%s'", subject, name, name);
		sound = false;
	}
	while (sound && *from) {
		char *key = from, *value = NULL, *to, *end = from + strcspn(from, "=,");

		if (*end == '=') {
			*end++ = '\0';
			value = to = end;
			while (*end && (*end != ',' || end[1] == ',')) {
				end += *end == ',';
				*to++ = *end++;
			}
			from = *end ? end + 1 : end;
			*to = '\0';
		} else {
			from = *end ? end + 1 : end;
			*end = '\0';
		}
		sound = set(d, key, value ? value : "on", subject);
	}
	free(copy);
	return sound;
}

/* ---- json: ---- */

/* Objects in objects become keys with dots. What has no text (arrays, null) is refused as "". */
static bool flatten(struct description *d, json_t *object, const char *prefix, unsigned level,
		    const char *subject)
{
	void *at;
	bool sound = true;

	for (at = json_object_iter(object); at && sound; at = json_object_iter_next(object, at)) {
		json_t *value = json_object_iter_value(at);
		char *key, number[32];

		if (asprintf(&key, "%s%s%s", prefix, *prefix ? "." : "", json_object_iter_key(at)) <
		    0)
			args_memory(NULL);
		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT,
			 json_integer_value(value));
		if (json_is_object(value) && level < JSON_LEVELS)
			sound = flatten(d, value, key, level + 1, subject);
		else if (json_is_string(value))
			sound = set(d, key, json_string_value(value), subject);
		else if (json_is_boolean(value))
			sound = set(d, key, json_is_true(value) ? "on" : "off", subject);
		else
			sound = set(d, key, json_is_integer(value) ? number : "", subject);
		free(key);
	}
	return sound;
}

/*
 * The same JSON with strings in "", where they may also be in '' (as scripts write them, whose own
 * strings are in ""). malloc'd.
 */
static char *double_quotes(const char *text)
{
	char *out = args_memory(malloc(2 * strlen(text) + 1)), *to = out;
	char quote = '\0'; /* what ends the string that we are in */

	for (; *text; text++) {
		if (!quote && (*text == '"' || *text == '\'')) {
			quote = *text;
			*to++ = '"';
		} else if (quote && *text == quote) {
			quote = '\0';
			*to++ = '"';
		} else if (quote && *text == '\\' && text[1] == '\'') {
			*to++ = *++text;
		} else if (quote && *text == '\\' && text[1]) {
			*to++ = *text++;
			*to++ = *text;
		} else {
			if (quote == '\'' && *text == '"')
				*to++ = '\\';
			*to++ = *text;
		}
	}
	*to = '\0';
	return out;
}

static bool parse_json(struct description *d, const char *name, const char *subject)
{
	json_error_t why;
	char *text = double_quotes(name + strlen("json:"));
	json_t *root = json_loads(text, JSON_REJECT_DUPLICATES, &why);
	bool sound = false;

	if (!root)
		say_error("%s: Could not parse the JSON options: %d:%d: %s", subject, why.line,
			  why.column, why.text);
	else if (!json_is_object(root))
		say_error("%s: Invalid JSON object given", subject);
	else if (!json_object_size(root))
		say_error("%s: Must specify either driver or file", subject);
	else
		sound = flatten(d, root, "", 0, subject);
	json_decref(root);
	free(text);
	return sound;
}

/* ---- All of it ---- */

struct description *description_read(const char *name, bool image_opts, const char *subject)
{
	struct description *d = new_description();
	const char *path;
	bool sound;

	if (image_opts) {
		sound = parse_options(d, name, subject);
	} else if (!strncmp(name, "json:", 5)) {
		sound = parse_json(d, name, subject);
	} else {
		path = description_path(name, subject);
		sound = path;
		if (path)
			set_text(&d->path, path);
	}
	if (sound)
		return d;
	description_free(d);
	return NULL;
}

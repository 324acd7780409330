/* From what the user wrote to an open image. */
#include "tools/open.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/image/img.h"
#include "tools/args.h"
#include "tools/say.h"

/* Far more than anybody nests; bounds the recursion over a json: name. */
enum {
	JSON_LEVELS = 16,
};

/* What a name says, option by option. Strings are owned. */
struct source {
	char *path, *format, *backing_name, *backing_format;
	char *file_driver;
	char *subject; /* what errors begin with */
	bool read_only;
	unsigned flags, cleared; /* IMG_OPEN_* that are on, that are off whatever else was said */
	enum img_io_kind io;
};

static const char *default_references;

void open_set_default_references(const char *policy)
{
	default_references = policy;
}

const char *open_references(const char *given)
{
	return given ? given : default_references;
}

static void source_free(struct source *s)
{
	free(s->path);
	free(s->format);
	free(s->backing_name);
	free(s->backing_format);
	free(s->file_driver);
	free(s->subject);
}

/* ---- Names ---- */

/* "proto:..." with the colon before any slash; 0: a plain path. Else the protocol's length. */
static size_t protocol_length(const char *name)
{
	size_t len = strcspn(name, ":/");

	return name[len] == ':' ? len : 0;
}

/*
 * The path that a name means, or NULL, then what is wrong goes to why. A file whose name has a
 * colon is given as ./NAME.
 */
static const char *plain_path(const char *name, char *why, size_t size)
{
	static const char *const elsewhere[] = { "nbd", "nbd+tcp", "nbd+unix", "nbds",
						 "http", "https", "ftp", "ftps",
						 "ssh", "iscsi", "iser", "nfs",
						 "rbd", "nvme", "fat", "blkdebug",
						 "blkverify", "null-co", "null-aio", "host_cdrom",
						 "quorum", "json" };
	size_t len = protocol_length(name), i;

	if (!len)
		return name;
	if (!strncmp(name, "file:", 5))
		return name + 5;
	if (!strncmp(name, "host_device:", 12))
		return name + 12;
	for (i = 0; i < sizeof(elsewhere) / sizeof(elsewhere[0]); i++) {
		if (strlen(elsewhere[i]) == len && !strncmp(name, elsewhere[i], len)) {
			snprintf(why, size, "Protocol '%.*s' is not supported", (int)len, name);
			return NULL;
		}
	}
	snprintf(why, size, "Unknown protocol '%.*s'", (int)(len < 64 ? len : 64), name);
	return NULL;
}

const char *open_new_path(const char *name, const char *subject)
{
	char why[128];
	const char *path = plain_path(name, why, sizeof(why));

	if (!path)
		say_error("%s%s%s", subject ? subject : "", subject ? ": " : "", why);
	return path;
}

/* ---- Options ---- */

/* Each sets one thing from value; NULL, or the values that would be taken. */
typedef const char *source_option(struct source *s, const char *value);

static const char *set_text(char **to, const char *value)
{
	free(*to);
	*to = args_memory(strdup(value));
	return NULL;
}

static const char *set_driver(struct source *s, const char *value)
{
	return set_text(&s->format, value);
}

static const char *set_path(struct source *s, const char *value)
{
	return set_text(&s->path, value);
}

static const char *set_file_driver(struct source *s, const char *value)
{
	if (strcmp(value, "file") && strcmp(value, "host_device"))
		return "file, host_device";
	return set_text(&s->file_driver, value);
}

static const char *set_backing_path(struct source *s, const char *value)
{
	return set_text(&s->backing_name, value);
}

static const char *set_backing_driver(struct source *s, const char *value)
{
	return set_text(&s->backing_format, value);
}

static const char *set_backing_file_driver(struct source *s, const char *value)
{
	(void)s;
	return strcmp(value, "file") && strcmp(value, "host_device") ? "file, host_device" : NULL;
}

/* null in JSON: the image alone. */
static const char *set_backing(struct source *s, const char *value)
{
	if (*value)
		return "nothing (no backing image), backing.file.filename";
	s->flags |= IMG_OPEN_NO_BACKING;
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

static const char *set_flag(struct source *s, const char *value, unsigned flag)
{
	bool on;
	const char *allowed = parse_switch(value, &on);

	if (allowed)
		return allowed;
	s->flags = on ? s->flags | flag : s->flags & ~flag;
	s->cleared = on ? s->cleared & ~flag : s->cleared | flag;
	return NULL;
}

static const char *set_read_only(struct source *s, const char *value)
{
	return parse_switch(value, &s->read_only);
}

static const char *set_cache_direct(struct source *s, const char *value)
{
	return set_flag(s, value, IMG_OPEN_DIRECT);
}

static const char *set_cache_no_flush(struct source *s, const char *value)
{
	return set_flag(s, value, IMG_OPEN_UNSAFE);
}

static const char *set_force_share(struct source *s, const char *value)
{
	return set_flag(s, value, IMG_OPEN_SHARE);
}

static const char *set_discard(struct source *s, const char *value)
{
	if (!strcmp(value, "unmap"))
		value = "on";
	else if (!strcmp(value, "ignore"))
		value = "off";
	return set_flag(s, value, IMG_OPEN_UNMAP) ? "unmap, ignore" : NULL;
}

/* auto is what the library does. */
static const char *set_locking(struct source *s, const char *value)
{
	if (!strcmp(value, "auto"))
		return NULL;
	if (strcmp(value, "off"))
		return "auto, off";
	s->flags |= IMG_OPEN_NO_LOCK;
	return NULL;
}

static const char *set_aio(struct source *s, const char *value)
{
	if (!strcmp(value, "threads"))
		s->io = IMG_IO_THREADS_KIND;
	else if (!strcmp(value, "io_uring"))
		s->io = IMG_IO_URING_KIND;
	else
		return "threads, io_uring";
	return NULL;
}

static const struct {
	const char *key;
	source_option *set;
} source_options[] = {
	{ "driver", set_driver },
	{ "file.driver", set_file_driver },
	{ "file.filename", set_path },
	{ "file.locking", set_locking },
	{ "file.aio", set_aio },
	{ "filename", set_path },
	{ "locking", set_locking },
	{ "aio", set_aio },
	{ "backing", set_backing },
	{ "backing.driver", set_backing_driver },
	{ "backing.file.driver", set_backing_file_driver },
	{ "backing.file.filename", set_backing_path },
	{ "read-only", set_read_only },
	{ "force-share", set_force_share },
	{ "discard", set_discard },
	{ "file.discard", set_discard },
	{ "cache.direct", set_cache_direct },
	{ "file.cache.direct", set_cache_direct },
	{ "cache.no-flush", set_cache_no_flush },
	{ "file.cache.no-flush", set_cache_no_flush },
};

static bool source_set(struct source *s, const char *key, const char *value)
{
	const char *allowed;
	size_t i;

	for (i = 0; i < sizeof(source_options) / sizeof(source_options[0]); i++) {
		if (strcmp(key, source_options[i].key))
			continue;
		allowed = source_options[i].set(s, value);
		if (allowed)
			say_error("%s: Option '%s' is '%s', supported: %s", s->subject, key, value,
				  allowed);
		return !allowed;
	}
	say_error("%s: Option '%s' is not supported", s->subject, key);
	return false;
}

/* "key=value,key=value", with commas in values doubled. A key alone is on. */
static bool parse_options(struct source *s, const char *name)
{
	char *copy = args_memory(strdup(name)), *from = copy;
	bool sound = true;

	if (!strchr(name, '=')) {
		/* qemu's tools take the name of a block device here; there is none in this program. */
		say_error("%s: Cannot find device='%s' nor node-name='%s'", s->subject, name, name);
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
		sound = source_set(s, key, value ? value : "on");
	}
	free(copy);
	return sound;
}

/* Objects in objects become keys with dots. What has no text (arrays, null) is refused as "". */
static bool flatten_json(struct source *s, json_t *object, const char *prefix, unsigned level)
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
			sound = flatten_json(s, value, key, level + 1);
		else if (json_is_string(value))
			sound = source_set(s, key, json_string_value(value));
		else if (json_is_boolean(value))
			sound = source_set(s, key, json_is_true(value) ? "on" : "off");
		else
			sound = source_set(s, key, json_is_integer(value) ? number : "");
		free(key);
	}
	return sound;
}

static bool parse_json(struct source *s, const char *name)
{
	json_error_t why;
	json_t *root = json_loads(name + strlen("json:"), JSON_REJECT_DUPLICATES, &why);
	bool sound = false;

	if (!root)
		say_error("%s: Could not parse the JSON options: %d:%d: %s", s->subject, why.line,
			  why.column, why.text);
	else if (!json_is_object(root))
		say_error("%s: Invalid JSON object given", s->subject);
	else if (!json_object_size(root))
		say_error("%s: Must specify either driver or file", s->subject);
	else
		sound = flatten_json(s, root, "", 0);
	json_decref(root);
	return sound;
}

/* ---- Opening ---- */

static bool read_name(const struct open_request *r, struct source *s)
{
	char why[128];
	const char *path;

	if (r->image_opts)
		return parse_options(s, r->name);
	if (!strncmp(r->name, "json:", 5))
		return parse_json(s, r->name);
	path = plain_path(r->name, why, sizeof(why));
	if (!path) {
		say_error("%s: %s", s->subject, why);
		return false;
	}
	s->path = args_memory(strdup(path));
	return true;
}

/* What the name says, completed by what other options say. */
static bool settle_source(const struct open_request *r, struct source *s)
{
	if (!read_name(r, s))
		return false;
	if (!s->path) {
		say_error("%s: A block device must be specified for \"file\"", s->subject);
		return false;
	}
	if (!*s->path) {
		say_error("%s: The 'file' block driver requires a file name", s->subject);
		return false;
	}
	/* The bare file: its bytes are the disk, which is what raw means. */
	if (s->format && (!strcmp(s->format, "file") || !strcmp(s->format, "host_device")))
		set_driver(s, "raw");
	if (r->format)
		set_driver(s, r->format);
	if (s->format && img_format_features(s->format) < 0) {
		say_error("%s: Unknown driver '%s'", s->subject, s->format);
		return false;
	}
	if (s->read_only && (r->flags & IMG_OPEN_WRITE)) {
		say_error("%s: Block node is read-only", s->subject);
		return false;
	}
	if ((s->flags & IMG_OPEN_SHARE) && (r->flags & IMG_OPEN_WRITE)) {
		say_error("%s: force-share=on can only be used with read-only images", s->subject);
		return false;
	}
	return true;
}

/*
 * What callers know about a lock that somebody else holds: no file's name before it, and the hint on
 * a line of its own.
 */
static bool say_lock(const char *subject, const char *text)
{
	const char *file = strstr(text, "Could not open '"), *lock = strstr(text, "Failed to get");
	const char *hint = strstr(text, ". Is another process using");

	if (!lock || !hint || lock > hint)
		return false;
	if (!file || file > lock)
		file = lock;
	say_error("%s: %.*s%.*s\n%s", subject, (int)(file - text), text, (int)(hint - lock), lock,
		  hint + 2);
	return true;
}

void open_say_error(const char *subject, const struct img_error *err)
{
	if (img_error_code(err) != -EAGAIN || !say_lock(subject, img_error_text(err)))
		say_error("%s: %s", subject, img_error_text(err));
}

static void warn_if_guessed_raw(const struct img *img)
{
	if (!img_was_probed(img) || strcmp(img_format(img), "raw"))
		return;
	fprintf(stderr,
		"WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
		"         Automatically detecting the format is dangerous for raw images, write "
		"operations on block 0 will be restricted.\n"
		"         Specify the 'raw' format explicitly to remove the restrictions.\n",
		img_name(img));
}

struct img *open_image(const struct open_request *r)
{
	struct source s = { 0 };
	struct img_open_options options = { .references = open_references(r->references) };
	struct img_error *err = img_error_new();
	struct img *img = NULL;

	if (r->subject)
		s.subject = args_memory(strdup(r->subject));
	else if (asprintf(&s.subject, "Could not open '%s'", r->name) < 0)
		args_memory(NULL);
	if (!settle_source(r, &s))
		goto out;
	options.format = s.format;
	options.flags = (r->flags & ~s.cleared) | s.flags;
	options.backing_name = s.backing_name;
	options.backing_format = s.backing_format;
	options.io = s.io;
	if (r->io && s.io != IMG_IO_AUTO_KIND)
		*r->io = s.io;
	if (img_open(s.path, &options, &img, err))
		open_say_error(s.subject, err);
	else if (r->warn_if_probed)
		warn_if_guessed_raw(img);
	for (const struct img *i = img; i; i = img_backing(i))
		if (img_warning(i))
			say_warning("%s", img_warning(i));
out:
	img_error_free(err);
	source_free(&s);
	return img;
}

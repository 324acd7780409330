/*
 * Reading a node: each key has a function that sets its field, or says which values there are; keys
 * that no function takes are the format's or the protocol's, or refused.
 */
#include "libimg/image/level.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/options.h"
#include "libimg/base/parse.h"
#include "libimg/storage/module.h"

/* ---- Keys that every node may have ---- */

/* Sets one thing from value; NULL, or the values that would be taken. */
typedef const char *set_key(struct img_level *l, const char *value);

static const char *set_flag(struct img_level *l, const char *value, unsigned flag)
{
	bool on;

	if (img_parse_bool(value, &on))
		return "on, off";
	l->on = on ? l->on | flag : l->on & ~flag;
	l->off = on ? l->off & ~flag : l->off | flag;
	return NULL;
}

static const char *set_read_only(struct img_level *l, const char *value)
{
	return img_parse_bool(value, &l->read_only) ? "on, off" : NULL;
}

/* Whether an image that cannot be written to is opened for reading: it is of no use then. */
static const char *set_auto_read_only(struct img_level *l, const char *value)
{
	bool on;

	(void)l;
	return img_parse_bool(value, &on) ? "on, off" : NULL;
}

static const char *set_force_share(struct img_level *l, const char *value)
{
	return set_flag(l, value, IMG_OPEN_SHARE);
}

static const char *set_cache_direct(struct img_level *l, const char *value)
{
	return set_flag(l, value, IMG_OPEN_DIRECT);
}

static const char *set_cache_no_flush(struct img_level *l, const char *value)
{
	return set_flag(l, value, IMG_OPEN_UNSAFE);
}

static const char *set_discard(struct img_level *l, const char *value)
{
	if (!strcmp(value, "unmap"))
		value = "on";
	else if (!strcmp(value, "ignore"))
		value = "off";
	return set_flag(l, value, IMG_OPEN_UNMAP) ? "unmap, ignore" : NULL;
}

/* Zeroes are looked for where a copy is made, not behind a writer's back. */
static const char *set_detect_zeroes(struct img_level *l, const char *value)
{
	(void)l;
	return strcmp(value, "off") ? "off" : NULL;
}

static const char *set_aio(struct img_level *l, const char *value)
{
	if (!strcmp(value, "threads"))
		l->io = IMG_IO_THREADS;
	else if (!strcmp(value, "io_uring"))
		l->io = IMG_IO_URING;
	else
		return "threads, io_uring";
	return NULL;
}

/* By this name others refer to the node. There are none here. */
static const char *set_node_name(struct img_level *l, const char *value)
{
	(void)l;
	return *value ? NULL : "a name";
}

/* ---- Keys of images ---- */

static const char *set_keep_allocated(struct img_level *l, const char *value)
{
	return set_flag(l, value, IMG_OPEN_KEEP_ALLOCATED);
}

static const char *set_cache_size(struct img_level *l, const char *value)
{
	return img_parse_size(value, &l->cache_bytes) || !l->cache_bytes ||
			       l->cache_bytes > INT64_MAX
		       ? "a size in bytes"
		       : NULL;
}

static const char *set_view_id(struct img_level *l, const char *value)
{
	l->view.id = value;
	return *value ? NULL : "the ID of a snapshot";
}

static const char *set_view_name(struct img_level *l, const char *value)
{
	l->view.name = value;
	return *value ? NULL : "the name of a snapshot";
}

struct key {
	const char *name;
	set_key *set;
};

static const struct key any_node[] = {
	{ "node-name", set_node_name },
	{ "read-only", set_read_only },
	{ "auto-read-only", set_auto_read_only },
	{ "force-share", set_force_share },
	{ "discard", set_discard },
	{ "detect-zeroes", set_detect_zeroes },
	{ "cache.direct", set_cache_direct },
	{ "cache.no-flush", set_cache_no_flush },
	{ "aio", set_aio },
	{ NULL, NULL },
};
static const struct key any_image[] = {
	{ "discard-no-unref", set_keep_allocated },
	{ "cache-size", set_cache_size },
	{ "l2-cache-size", set_cache_size },
	{ "snapshot.id", set_view_id },
	{ "snapshot.name", set_view_name },
	{ NULL, NULL },
};

static const struct key *find_key(const struct key *keys, const char *name)
{
	for (; keys->name; keys++)
		if (!strcmp(keys->name, name))
			return keys;
	return NULL;
}

/* *taken: it was one of keys. */
static int read_setting(struct img_level *l, const struct key *keys,
			const struct img_node_setting *s, bool *taken, struct img_error *err)
{
	const struct key *key = find_key(keys, s->key);
	const char *allowed = key ? key->set(l, s->value) : NULL;

	*taken = key;
	return allowed ? img_fail(err, -EINVAL, "Option '%s' is '%s', supported: %s", s->key, s->value,
				  allowed)
		       : 0;
}

/* ---- An image ---- */

/* The format whose images are their file as it is. */
static const struct img_driver *plain_driver(void)
{
	for (size_t i = 0; img_drivers[i]; i++)
		if (img_drivers[i]->features & IMG_DRIVER_PLAIN)
			return img_drivers[i];
	return NULL;
}

static bool is_plain(const char *driver)
{
	const struct img_driver *d = driver ? img_driver_named(driver) : NULL;

	return d && (d->features & IMG_DRIVER_PLAIN);
}

/* Keys of a window, which a node of the plain format can be. */
static bool is_window_key(const char *key)
{
	return !strcmp(key, "offset") || !strcmp(key, "size");
}

static bool has_window(const struct img_node *node)
{
	return img_node_get(node, "offset") || img_node_get(node, "size");
}

static int fail_key(const char *driver, bool protocol, const char *key, struct img_error *err)
{
	if (!driver && !strcmp(key, "filename"))
		return img_fail(err, -EINVAL, "Must specify either driver or file");
	if (!driver)
		return img_fail(err, -EINVAL, "Option '%s' is not supported", key);
	return img_fail(err, -EINVAL, "Block %s '%s' does not support the option '%s'",
			protocol ? "protocol" : "format", driver, key);
}

/* How the nodes under an image are to be opened is said of the image too. */
static int read_below(struct img_level *l, struct img_error *err)
{
	int rc = 0;

	for (const struct img_node *n = l->file; n && !rc;
	     n = n->child[IMG_NODE_FILE] ? n->child[IMG_NODE_FILE] : n->child[IMG_NODE_IMAGE]) {
		const char *driver = img_node_get(n, "driver");

		if (driver && img_driver_named(driver) && !is_plain(driver))
			break; /* an image of its own */
		for (size_t i = 0; i < n->count && !rc; i++) {
			bool taken;

			rc = read_setting(l, any_node, &n->settings[i], &taken, err);
		}
	}
	return rc;
}

/* ---- What drivers take besides ---- */

static bool has_option(const struct img_driver *d, const char *key)
{
	for (const struct img_option *row = d->open_options; row && row->name; row++)
		if (!strcmp(row->name, key))
			return true;
	return false;
}

bool img_level_is_driver_option(const char *key)
{
	for (size_t i = 0; img_drivers[i]; i++)
		if (has_option(img_drivers[i], key))
			return true;
	return false;
}

int img_level_options(const struct img_node *node, const struct img_driver *driver,
		      struct img_options **out, struct img_error *err)
{
	struct img_options *o = driver->open_options ? img_options_new(driver->open_options) : NULL;
	int rc = driver->open_options && !o ? img_fail(err, -ENOMEM, "out of memory") : 0;

	for (size_t i = 0; node && i < node->count && !rc; i++) {
		const struct img_node_setting *s = &node->settings[i];

		if (has_option(driver, s->key))
			rc = img_options_set(o, s->key, s->value, err);
		else if (img_level_is_driver_option(s->key))
			rc = fail_key(driver->name, false, s->key, err);
	}
	if (rc)
		img_options_free(o);
	else
		*out = o;
	return rc;
}

int img_level_read(const struct img_node *node, struct img_level *out, struct img_error *err)
{
	const char *driver = img_node_get(node, "driver");
	struct img_level l = { .file = node->child[IMG_NODE_FILE],
			       .backing = node->child[IMG_NODE_BACKING],
			       .data_file = node->child[IMG_NODE_DATA_FILE],
			       .header = node->child[IMG_NODE_HEADER],
			       .no_backing = node->no_backing };
	bool module = driver && img_module_named(driver);
	int rc = 0;

	if (driver && !module) {
		l.driver = img_driver_named(driver);
		if (!l.driver)
			return img_fail(err, -ENOTSUP, "Unknown driver '%s'", driver);
	}
	if (module || (is_plain(driver) && has_window(node))) {
		l.driver = plain_driver(); /* what lies there is the disk */
		l.file = node;
	} else if (node->child[IMG_NODE_IMAGE]) {
		return fail_key(driver, false, "image", err);
	}
	if (module && (l.backing || l.data_file || l.header))
		return fail_key(driver, true,
				l.backing     ? "backing"
				: l.data_file ? "data-file"
					      : "header",
				err);
	for (size_t i = 0; i < node->count && !rc && l.file != node; i++) {
		const struct img_node_setting *s = &node->settings[i];
		bool taken = !strcmp(s->key, "driver");

		if (!taken)
			rc = read_setting(&l, any_node, s, &taken, err);
		if (!rc && !taken)
			rc = read_setting(&l, any_image, s, &taken, err);
		if (rc || taken)
			continue;
		if (l.driver ? has_option(l.driver, s->key) : img_level_is_driver_option(s->key))
			l.options = node;
		else
			rc = fail_key(driver, false, s->key, err);
	}
	if (!rc)
		rc = read_below(&l, err);
	if (!rc)
		*out = l;
	return rc;
}

/* ---- What lies under it ---- */

static int open_node(const struct img_node *node, const struct img_node_opening *o,
		     struct img_storage **out, struct img_error *err);

/* The driver of a node that need not say it: a file. NULL: said, with the reason. */
static const char *driver_of(const struct img_node *node, struct img_error *err)
{
	const char *driver = img_node_get(node, "driver");

	if (driver)
		return driver;
	if (img_node_get(node, "filename"))
		return "file";
	if (node->child[IMG_NODE_FILE])
		return plain_driver()->name;
	img_fail(err, -EINVAL, "Must specify either driver or file");
	return NULL;
}

static bool is_item(const struct img_module *m, const char *key)
{
	for (const char *const *list = m->lists; list && *list; list++)
		if (!strncmp(key, *list, strlen(*list)))
			return true;
	return false;
}

/* A module's options of a node. *out is the caller's to free. */
static int module_options(const struct img_module *m, const struct img_node *node,
			  struct img_options **out, struct img_error *err)
{
	struct img_options *o = img_options_new(m->options);
	int rc = o ? 0 : img_fail(err, -ENOMEM, "out of memory");

	for (size_t i = 0; i < node->count && !rc; i++) {
		const struct img_node_setting *s = &node->settings[i];
		const struct img_option *row = m->options;

		if (!strcmp(s->key, "driver") || find_key(any_node, s->key) || is_item(m, s->key))
			continue;
		while (row->name && strcmp(row->name, s->key) != 0)
			row++;
		rc = row->name ? img_options_set(o, s->key, s->value, err)
			       : fail_key(m->name, true, s->key, err);
	}
	if (rc)
		img_options_free(o);
	else
		*out = o;
	return rc;
}

/* The settings that belong to a module's lists. malloc'd; NULL: none, or (count) out of memory. */
static struct img_module_item *module_items(const struct img_module *m, const struct img_node *node,
					    size_t *count)
{
	struct img_module_item *items;

	*count = 0;
	for (size_t i = 0; i < node->count; i++)
		*count += is_item(m, node->settings[i].key);
	items = *count ? calloc(*count, sizeof(*items)) : NULL;
	for (size_t i = 0, n = 0; items && i < node->count; i++)
		if (is_item(m, node->settings[i].key))
			items[n++] = (struct img_module_item){ node->settings[i].key,
							       node->settings[i].value };
	return items;
}

static int open_module(const struct img_module *m, const struct img_node *node,
		       const struct img_node_opening *o, struct img_storage **out, struct img_error *err)
{
	const struct img_node *inner = node->child[IMG_NODE_IMAGE] ? node->child[IMG_NODE_IMAGE]
								   : node->child[IMG_NODE_FILE];
	struct img_module_opening opening = { .flags = o->flags, .secrets = o->secrets };
	struct img_module_item *items = NULL;
	struct img_options *options = NULL;
	int rc;

	if (inner && !m->filter)
		return fail_key(m->name, true, inner == node->child[IMG_NODE_FILE] ? "file" : "image",
				err);
	if (!inner && m->filter)
		return img_fail(err, -EINVAL, "A block device must be specified for \"image\"");
	rc = module_options(m, node, &options, err);
	if (rc)
		return rc;
	items = module_items(m, node, &opening.item_count);
	opening.items = items;
	opening.options = options;
	if (opening.item_count && !items)
		rc = img_fail(err, -ENOMEM, "out of memory");
	if (!rc && inner)
		rc = open_node(inner, o, &opening.inner, err);
	if (!rc)
		rc = m->open(&opening, out, err);
	if (rc && opening.inner)
		img_storage_close(opening.inner);
	free(items);
	img_options_free(options);
	return rc;
}

static int parse_window(const struct img_node *node, uint64_t *start, uint64_t *room,
			struct img_error *err)
{
	uint64_t *bytes;

	for (size_t i = 0; i < node->count; i++) {
		const struct img_node_setting *s = &node->settings[i];

		if (!strcmp(s->key, "driver") || find_key(any_node, s->key))
			continue;
		if (!is_window_key(s->key))
			return fail_key(plain_driver()->name, false, s->key, err);
		bytes = *s->key == 'o' ? start : room;
		if (img_parse_size(s->value, bytes) || *bytes > INT64_MAX)
			return img_fail(err, -EINVAL,
					"Parameter '%s' expects a non-negative number below 2^64, "
					"not '%s'",
					s->key, s->value);
	}
	if (*room != UINT64_MAX && *room % 512)
		return img_fail(err, -EINVAL, "a window of %" PRIu64 " bytes: its size must be a "
					      "multiple of 512",
				*room);
	return 0;
}

/* A node of the plain format: what lies under it, or a range of that. */
static int open_window(const struct img_node *node, const struct img_node_opening *o,
		       struct img_storage **out, struct img_error *err)
{
	uint64_t start = 0, room = UINT64_MAX;
	struct img_storage *inner = NULL;
	int rc = parse_window(node, &start, &room, err);

	if (!rc && !node->child[IMG_NODE_FILE])
		rc = img_fail(err, -EINVAL, "A block device must be specified for \"file\"");
	if (!rc)
		rc = open_node(node->child[IMG_NODE_FILE], o, &inner, err);
	if (rc)
		return rc;
	if (!has_window(node)) {
		*out = inner;
		return 0;
	}
	rc = img_storage_window(inner, start, room, out, err);
	if (rc)
		img_storage_close(inner);
	return rc;
}

/* True recursion: as deep as a tree of nodes can be. */
static int open_node(const struct img_node *node, const struct img_node_opening *o,
		     struct img_storage **out, struct img_error *err)
{
	const char *driver = driver_of(node, err);
	const struct img_module *module;

	if (!driver)
		return -EINVAL;
	module = img_module_named(driver);
	if (module)
		return open_module(module, node, o, out, err);
	if (is_plain(driver))
		return open_window(node, o, out, err);
	if (!img_driver_named(driver))
		return img_fail(err, -ENOTSUP, "Unknown driver '%s'", driver);
	return o->image(node, o, out, err);
}

int img_node_open_storage(const struct img_node *node, const struct img_node_opening *o,
			  struct img_storage **out, struct img_error *err)
{
	return open_node(node, o, out, err);
}

char *img_node_identify(const struct img_node *node)
{
	const char *driver = driver_of(node, NULL);
	const struct img_module *module = driver ? img_module_named(driver) : NULL;
	struct img_options *options = NULL;
	char *identity = NULL;

	if ((is_plain(driver) || (module && module->filter)) && node->child[IMG_NODE_FILE])
		return img_node_identify(node->child[IMG_NODE_FILE]);
	if (module && module->filter && node->child[IMG_NODE_IMAGE])
		return img_node_identify(node->child[IMG_NODE_IMAGE]);
	if (!module || !module->identify || module_options(module, node, &options, NULL))
		return NULL;
	identity = module->identify(options);
	img_options_free(options);
	return identity;
}

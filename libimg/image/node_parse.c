/*
 * From text to a tree of nodes: paths, URLs, json: names, and "key=value" strings.
 */
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/parse.h"
#include "libimg/image/node.h"
#include "libimg/storage/module.h"

enum {
	MAX_TEXT = 1 << 20, /* bytes of a description; far more than any that was written by hand */
};

/* ---- json: names ---- */

/*
 * JSON with strings in single quotes made into JSON proper: '...' becomes "...", with quotes inside
 * turned round. malloc'd; NULL: out of memory.
 */
static char *double_quoted(const char *text)
{
	char *out = malloc(2 * strlen(text) + 1), *to = out;
	char quote = 0;

	if (!out)
		return NULL;
	for (; *text; text++) {
		if (!quote) {
			if (*text == '"' || *text == '\'')
				quote = *text;
			*to++ = *text == '\'' ? '"' : *text;
		} else if (*text == quote) {
			quote = 0;
			*to++ = '"';
		} else if (*text == '\\' && text[1]) {
			if (text[1] != '\'')
				*to++ = '\\';
			*to++ = *++text;
		} else {
			if (*text == '"')
				*to++ = '\\';
			*to++ = *text;
		}
	}
	*to = '\0';
	return out;
}

/* What is given twice in one json: name (nested here, dotted there) is refused: which one counts? */
static int set_once(struct img_node *node, const char *key, const char *value,
		    struct img_error *err)
{
	if (img_node_get(node, key))
		return img_fail(err, -EINVAL, "'%s' is given twice", key);
	return img_node_set(node, key, value, err);
}

static int add_json(struct img_node *node, const char *key, const json_t *value,
		    struct img_error *err);

static int add_json_at(struct img_node *node, const char *prefix, const char *name,
		       const json_t *value, struct img_error *err)
{
	char *key;
	int rc;

	if (asprintf(&key, "%s%s%s", prefix, *prefix ? "." : "", name) < 0)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = add_json(node, key, value, err);
	free(key);
	return rc;
}

/* True recursion: jansson has refused what is nested too deep. */
static int add_json(struct img_node *node, const char *key, const json_t *value,
		    struct img_error *err)
{
	char number[48];
	int rc = 0;

	if (json_is_object(value)) {
		const char *name;
		json_t *member;

		json_object_foreach((json_t *)(uintptr_t)value, name, member)
		{
			rc = add_json_at(node, key, name, member, err);
			if (rc)
				break;
		}
		return rc;
	}
	if (json_is_array(value)) {
		for (size_t i = 0; i < json_array_size(value) && !rc; i++) {
			snprintf(number, sizeof(number), "%zu", i);
			rc = add_json_at(node, key, number, json_array_get(value, i), err);
		}
		return rc;
	}
	if (json_is_string(value))
		return set_once(node, key, json_string_value(value), err);
	if (json_is_boolean(value))
		return set_once(node, key, json_is_true(value) ? "on" : "off", err);
	if (json_is_null(value))
		return set_once(node, key, NULL, err);
	if (json_is_integer(value))
		snprintf(number, sizeof(number), "%" JSON_INTEGER_FORMAT, json_integer_value(value));
	else
		snprintf(number, sizeof(number), "%.17g", json_real_value(value));
	return set_once(node, key, number, err);
}

static int parse_json(struct img_node *node, const char *text, struct img_error *err)
{
	char *proper = double_quoted(text);
	json_error_t why;
	json_t *root;
	int rc;

	if (!proper)
		return img_fail(err, -ENOMEM, "out of memory");
	root = json_loads(proper, JSON_REJECT_DUPLICATES, &why);
	free(proper);
	if (!root)
		return img_fail(err, -EINVAL, "Could not parse the JSON options: %d:%d: %s", why.line,
				why.column, why.text);
	if (!json_is_object(root))
		rc = img_fail(err, -EINVAL, "Invalid JSON object given");
	else if (!json_object_size(root))
		rc = img_fail(err, -EINVAL, "Must specify either driver or file");
	else
		rc = add_json(node, "", root, err);
	json_decref(root);
	return rc;
}

/* ---- key=value ---- */

static int set_parsed(void *user, const char *key, const char *value, struct img_error *err)
{
	return img_node_set(user, key, value ? value : "on", err);
}

static int parse_options(struct img_node *node, const char *text, struct img_error *err)
{
	if (!strchr(text, '=')) /* what QEMU takes for the name of a device, of which there is none */
		return img_fail(err, -EINVAL, "Cannot find device='%s' nor node-name='%s'", text,
				text);
	return img_parse_keyval(text, set_parsed, node, err);
}

/* ---- Names ---- */

static int set_under_file(void *user, const char *key, const char *value, struct img_error *err)
{
	struct img_node *node = user;
	char *whole;
	int rc;

	if (asprintf(&whole, "file.%s", key) < 0)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = img_node_set(node, whole, value, err);
	free(whole);
	return rc;
}

/* "PROTOCOL:...", with the colon before any slash; 0: a plain path. Else the protocol's length. */
static size_t protocol_length(const char *name)
{
	size_t len = strcspn(name, ":/");

	return name[len] == ':' ? len : 0;
}

static int parse_name(struct img_node *node, const char *name, struct img_error *err)
{
	size_t len = protocol_length(name);
	const struct img_module *module;
	int rc;

	if (!len)
		return img_node_set(node, "file.filename", name, err);
	if (!strncmp(name, "json:", 5))
		return parse_json(node, name + 5, err);
	module = img_module_of_name(name, len);
	if (!module)
		return img_fail(err, -EPROTONOSUPPORT, "Unknown protocol '%.*s'",
				(int)(len < 64 ? len : 64), name);
	rc = img_node_set(node, "file.driver", module->name, err);
	return rc ? rc : module->parse_name(name, set_under_file, node, err);
}

typedef int parse_fn(struct img_node *node, const char *text, struct img_error *err);

static int parse(parse_fn *fn, const char *text, struct img_node **out, struct img_error *err)
{
	struct img_node *node;
	int rc;

	if (strlen(text) > MAX_TEXT)
		return img_fail(err, -EINVAL, "the description has %zu bytes, expected at most %d",
				strlen(text), MAX_TEXT);
	node = img_node_new();
	rc = node ? fn(node, text, err) : img_fail(err, -ENOMEM, "out of memory");
	if (rc)
		img_node_free(node);
	else
		*out = node;
	return rc;
}

int img_node_parse_name(const char *name, struct img_node **out, struct img_error *err)
{
	return parse(parse_name, name, out, err);
}

int img_node_parse_options(const char *text, struct img_node **out, struct img_error *err)
{
	return parse(parse_options, text, out, err);
}

/*
 * From what a user wrote to a tree of nodes.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/image/node.h"

typedef int parse_fn(const char *text, struct img_node **out, struct img_error *err);

/* The errno of a text that is refused; why must be in the sentence. */
static void refused(parse_fn *parse, const char *text, const char *why)
{
	struct img_node *node = NULL;
	struct img_error err = { 0 };

	cr_assert_eq(parse(text, &node, &err), -EINVAL, "%s", text);
	cr_assert_null(node);
	cr_assert(strstr(img_error_text(&err), why), "%s: %s", text, img_error_text(&err));
	img_error_clear(&err);
}

static struct img_node *parsed(parse_fn *parse, const char *text)
{
	struct img_node *node = NULL;
	struct img_error err = { 0 };

	cr_assert_eq(parse(text, &node, &err), 0, "%s: %s", text, img_error_text(&err));
	return node;
}

static void has(const struct img_node *node, const char *key, const char *value)
{
	const char *found = img_node_get(node, key);

	if (value)
		cr_assert_str_eq(found ? found : "(none)", value, "%s", key);
	else
		cr_assert_null(found, "%s", key);
}

Test(node, paths_and_protocols)
{
	struct img_node *node = parsed(img_node_parse_name, "a/b:c");

	has(node, "file.filename", "a/b:c");
	has(node, "file.driver", NULL);
	img_node_free(node);
	node = parsed(img_node_parse_name, "file:a:b");
	has(node, "file.filename", "a:b");
	has(node, "file.driver", "file");
	img_node_free(node);
	node = parsed(img_node_parse_name, "host_device:/dev/x");
	has(node, "file.filename", "/dev/x");
	has(node, "file.driver", "host_device");
	img_node_free(node);
	node = parsed(img_node_parse_name, "null-co://");
	has(node, "file.driver", "null-co");
	img_node_free(node);
	node = NULL;
	cr_assert_eq(img_node_parse_name("nosuch:x", &node, NULL), -EPROTONOSUPPORT);
	cr_assert_null(node);
	refused(img_node_parse_name, "null-co://x", "only allowed filename");
}

Test(node, json_nested_dotted_and_in_single_quotes)
{
	static const char *const same[] = {
		"json:{\"driver\":\"qcow2\",\"file\":{\"driver\":\"file\",\"filename\":\"it's\"},"
		"\"backing\":{\"file\":{\"filename\":\"b\"}},\"read-only\":true,\"l2-cache-size\":4096}",
		"json:{'driver':'qcow2','file.driver':'file','file.filename':'it\\'s',"
		"'backing.file.filename':'b','read-only':true,'l2-cache-size':4096}",
		"json:{'driver':'qcow2', 'file.driver':'file', 'file':{\"filename\":\"it's\"}, "
		"'backing':{'file.filename':'b'}, 'read-only':'on', 'l2-cache-size':'4096'}",
	};

	for (size_t i = 0; i < IMG_ARRAY_LEN(same); i++) {
		struct img_node *node = parsed(img_node_parse_name, same[i]);

		has(node, "driver", "qcow2");
		has(node, "file.driver", "file");
		has(node, "file.filename", "it's");
		has(node, "backing.file.filename", "b");
		has(node, "read-only", "on");
		has(node, "l2-cache-size", "4096");
		cr_assert_eq(node->count, 3);
		cr_assert_not(node->no_backing);
		img_node_free(node);
	}
}

Test(node, json_lists_null_and_text_with_quotes)
{
	struct img_node *node = parsed(img_node_parse_name,
				       "json:{'file':{'filename':'a\"b\\\\c'},'backing':null,"
				       "'inject-error':[{'event':'x'},{'event':'y'}]}");

	has(node, "file.filename", "a\"b\\c");
	has(node, "inject-error.0.event", "x");
	has(node, "inject-error.1.event", "y");
	cr_assert(node->no_backing);
	img_node_free(node);
}

Test(node, json_that_is_refused)
{
	refused(img_node_parse_name, "json:", "Could not parse the JSON options");
	refused(img_node_parse_name, "json:{'a':", "Could not parse the JSON options");
	refused(img_node_parse_name, "json:{'a':'b'} x", "Could not parse the JSON options");
	refused(img_node_parse_name, "json:{'driver':'raw','driver':'qcow2'}", "duplicate");
	refused(img_node_parse_name, "json:{'file.filename':'a','file':{'filename':'b'}}",
		"'file.filename' is given twice");
	refused(img_node_parse_name, "json:[1]", "Invalid JSON object given");
	refused(img_node_parse_name, "json:{}", "Must specify either driver or file");
	refused(img_node_parse_name, "json:{'file':'x'}", "nor node-name='x'");
	refused(img_node_parse_name, "json:{'file':null}", "'file' is described by its own keys");
	refused(img_node_parse_name, "json:{'size':null}", "'size' is null");
	refused(img_node_parse_name, "json:{'backing':null,'backing.driver':'raw'}",
		"is null, and has keys of its own");
	refused(img_node_parse_name, "json:{'backing.driver':'raw','backing':null}",
		"is null, and has keys of its own");
	refused(img_node_parse_name, "json:{'file.':'x'}", "a key has no name");
}

Test(node, options_with_doubled_commas_and_keys_alone)
{
	struct img_node *node = parsed(img_node_parse_options,
				       "driver=raw,file.filename=a,,b=c,read-only,driver=qcow2,"
				       "backing=,discard=unmap,,,x=,");

	has(node, "driver", "qcow2"); /* the last one counts */
	has(node, "file.filename", "a,b=c");
	has(node, "read-only", "on");
	has(node, "discard", "unmap,");
	has(node, "x", "");
	cr_assert(node->no_backing);
	img_node_free(node);
	refused(img_node_parse_options, "disk.qcow2", "nor node-name='disk.qcow2'");
	refused(img_node_parse_options, "file=x", "nor node-name='x'");
	refused(img_node_parse_options, "=x", "a key has no name");
}

Test(node, descriptions_without_end_are_refused)
{
	enum { LEVELS = 5000 };
	char *text = malloc(LEVELS * 16 + 64), *to = text;

	cr_assert(text);
	for (int i = 0; i < LEVELS; i++)
		to += sprintf(to, "backing.");
	sprintf(to, "driver=raw");
	refused(img_node_parse_options, text, "nested deeper than");

	to = text + sprintf(text, "json:");
	for (int i = 0; i < LEVELS; i++)
		to += sprintf(to, "{'file':");
	refused(img_node_parse_name, text, "Could not parse the JSON options");
	free(text);

	text = malloc((2 << 20) + 1);
	cr_assert(text);
	memset(text, 'x', 2 << 20);
	text[2 << 20] = '\0';
	refused(img_node_parse_name, text, "the description has 2097152 bytes");
	free(text);
}

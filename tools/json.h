/*
 * Reports as JSON, laid out as qemu-img does (four spaces a level, an empty object or array over
 * two lines: line-based callers rely on it), and as indented text for people.
 */
#ifndef TOOLS_JSON_H
#define TOOLS_JSON_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

struct img_value;

/* Zero-initialise, set out. Members are written as they are given. */
struct json {
	FILE *out;
	const char *hidden; /* json_put_value() leaves members of this name out; NULL: none */
	unsigned depth;
	bool more; /* a comma is due before the next member */
};

/* key NULL: an element of an array, or the whole. */
void json_open(struct json *j, const char *key, char bracket); /* '{' or '[' */
void json_close(struct json *j, char bracket);		       /* '}' or ']'; ends the line at last */
void json_put_string(struct json *j, const char *key, const char *text);
void json_put_uint(struct json *j, const char *key, uint64_t n);
void json_put_fixed(struct json *j, const char *key, double n, int decimals); /* n: finite */
void json_put_bool(struct json *j, const char *key, bool b);
void json_put_value(struct json *j, const char *key, const struct img_value *v);

/*
 * text as a JSON string with its quotes. Pure ASCII comes out; what is not UTF-8 becomes U+FFFD,
 * so that a name from an image cannot spoil the document.
 */
void json_quote(FILE *out, const char *text);

/*
 * A tree for people: "key: value" lines, indent times four spaces in front, dashes in keys as
 * spaces, elements of arrays as "[N]:".
 */
void json_value_human(const struct img_value *v, unsigned indent);

#endif

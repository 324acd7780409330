/* Reports as JSON and as indented text. */
#include "tools/json.h"

#include <inttypes.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/report.h"

/*
 * The code point at *text, which is moved past it; -1: what is there is not UTF-8 (too long a form,
 * a surrogate, no character, above U+10FFFF, cut off), and *text is moved past what belonged to it.
 */
static int32_t decode_utf8(const unsigned char **text)
{
	static const int32_t least[] = { 0, 0x80, 0x800, 0x10000 };
	unsigned lead = *(*text)++, more = 0, i;
	uint32_t code;

	if (lead < 0x80)
		return (int32_t)lead;
	if (lead < 0xc0 || lead > 0xfd)
		return -1;
	while (lead & (0x40u >> more)) /* 11110xxx: three more bytes; once there were five */
		more++;
	code = lead & (0x3fu >> more);
	for (i = 0; i < more; i++) {
		if ((**text & 0xc0) != 0x80)
			return -1;
		code = code << 6 | (*(*text)++ & 0x3fu);
	}
	if (more > 3 || code > 0x10ffff || (int32_t)code < least[more])
		return -1;
	if ((code >= 0xd800 && code < 0xe000) || (code >= 0xfdd0 && code <= 0xfdef) ||
	    (code & 0xfffe) == 0xfffe)
		return -1;
	return (int32_t)code;
}

void json_quote(FILE *out, const char *text)
{
	static const char plain[] = "\"\\\b\f\n\r\t", letters[] = "\"\\bfnrt";
	const unsigned char *at = (const unsigned char *)text;

	fputc('"', out);
	while (*at) {
		int32_t code = decode_utf8(&at);
		const char *known;

		if (code < 0)
			code = 0xfffd;
		known = code && code < 0x80 ? strchr(plain, code) : NULL;
		if (known)
			fprintf(out, "\\%c", letters[known - plain]);
		else if (code > 0xffff)
			fprintf(out, "\\u%04" PRIX32 "\\u%04" PRIX32, 0xd800 + ((code - 0x10000) >> 10),
				0xdc00 + ((code - 0x10000) & 0x3ff));
		else if (code < 0x20 || code >= 0x7f)
			fprintf(out, "\\u%04" PRIX32, code);
		else
			fputc(code, out);
	}
	fputc('"', out);
}

/* Whatever comes before a value: the comma, the line's end and indentation, the key. */
static void begin_member(struct json *j, const char *key)
{
	if (j->more)
		fputc(',', j->out);
	if (j->depth)
		fprintf(j->out, "\n%*s", (int)(4 * j->depth), "");
	if (key) {
		json_quote(j->out, key);
		fputs(": ", j->out);
	}
	j->more = true;
}

void json_open(struct json *j, const char *key, char bracket)
{
	begin_member(j, key);
	fputc(bracket, j->out);
	j->depth++;
	j->more = false;
}

void json_close(struct json *j, char bracket)
{
	j->depth--;
	j->more = true;
	fprintf(j->out, "\n%*s%c", (int)(4 * j->depth), "", bracket);
	if (!j->depth)
		fputc('\n', j->out);
}

void json_put_string(struct json *j, const char *key, const char *text)
{
	begin_member(j, key);
	json_quote(j->out, text);
}

void json_put_uint(struct json *j, const char *key, uint64_t n)
{
	begin_member(j, key);
	fprintf(j->out, "%" PRIu64, n);
}

void json_put_fixed(struct json *j, const char *key, double n, int decimals)
{
	begin_member(j, key);
	fprintf(j->out, "%.*f", decimals, n);
}

void json_put_bool(struct json *j, const char *key, bool b)
{
	begin_member(j, key);
	fputs(b ? "true" : "false", j->out);
}

/* Recursion ends with the tree, which the library built: it is a few levels deep. */
void json_put_value(struct json *j, const char *key, const struct img_value *v)
{
	bool object = img_value_kind(v) == IMG_VALUE_OBJECT;
	size_t i;

	switch (img_value_kind(v)) {
	case IMG_VALUE_OBJECT:
	case IMG_VALUE_ARRAY:
		json_open(j, key, object ? '{' : '[');
		for (i = 0; i < img_value_count(v); i++) {
			const char *member = object ? img_value_key_at(v, i) : NULL;

			if (!member || !j->hidden || strcmp(member, j->hidden))
				json_put_value(j, member, img_value_at(v, i));
		}
		json_close(j, object ? '}' : ']');
		break;
	case IMG_VALUE_STRING:
		json_put_string(j, key, img_value_string(v));
		break;
	case IMG_VALUE_INT:
		begin_member(j, key);
		fprintf(j->out, "%" PRId64, img_value_int(v));
		break;
	case IMG_VALUE_UINT:
		json_put_uint(j, key, img_value_uint(v));
		break;
	case IMG_VALUE_BOOL:
		json_put_bool(j, key, img_value_bool(v));
		break;
	}
}

static void human_scalar(const struct img_value *v)
{
	switch (img_value_kind(v)) {
	case IMG_VALUE_STRING:
		print_escaped(img_value_string(v));
		break;
	case IMG_VALUE_INT:
		printf("%" PRId64, img_value_int(v));
		break;
	case IMG_VALUE_UINT:
		printf("%" PRIu64, img_value_uint(v));
		break;
	default:
		fputs(img_value_bool(v) ? "true" : "false", stdout);
	}
}

void json_value_human(const struct img_value *v, unsigned indent)
{
	bool object = img_value_kind(v) == IMG_VALUE_OBJECT;
	size_t i;

	for (i = 0; i < img_value_count(v); i++) {
		const struct img_value *member = img_value_at(v, i);
		const char *key;

		printf("%*s", (int)(4 * indent), "");
		if (!object)
			printf("[%zu]", i);
		else
			for (key = img_value_key_at(v, i); *key; key++)
				putchar(*key == '-' ? ' ' : *key);
		putchar(':');
		if (img_value_kind(member) == IMG_VALUE_OBJECT ||
		    img_value_kind(member) == IMG_VALUE_ARRAY) {
			putchar('\n');
			json_value_human(member, indent + 1);
		} else {
			putchar(' ');
			human_scalar(member);
			putchar('\n');
		}
	}
}

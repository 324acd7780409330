/*
 * The text descriptor: lines of "key=value", extent lines, comments. spec/vmdk.md, "Descriptor".
 *
 * Lines end with LF, CR LF or CR. Keys are compared without regard to case; of a key given twice
 * the first counts, as in QEMU. Lines that are neither are passed over: writers put all kinds of
 * things there, and none of them changes where data is.
 */
#include "formats/vmdk/vmdk_descriptor.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "libimg/base/arith.h"
#include "libimg/base/parse.h"

static const struct {
	const char *name;
	bool has_file, has_offset;
} types[] = {
	[VMDK_TYPE_FLAT] = { "FLAT", true, true },
	[VMDK_TYPE_SPARSE] = { "SPARSE", true, false },
	[VMDK_TYPE_ZERO] = { "ZERO", false, false },
	[VMDK_TYPE_VMFS] = { "VMFS", true, true },
	[VMDK_TYPE_VMFSSPARSE] = { "VMFSSPARSE", true, false },
	[VMDK_TYPE_VMFSRDM] = { "VMFSRDM", true, true },
	[VMDK_TYPE_VMFSRAW] = { "VMFSRAW", true, true },
	[VMDK_TYPE_SESPARSE] = { "SESPARSE", true, false },
};

static const char *const accesses[] = {
	[VMDK_RW] = "RW",
	[VMDK_RDONLY] = "RDONLY",
	[VMDK_NOACCESS] = "NOACCESS",
};

const char *vmdk_extent_type_name(enum vmdk_extent_type type)
{
	return types[type].name;
}

static bool is_blank(char c)
{
	return c == ' ' || c == '\t';
}

static bool is_line_end(char c)
{
	return c == '\n' || c == '\r';
}

static struct vmdk_text trim(struct vmdk_text t)
{
	while (t.len && is_blank(t.at[0])) {
		t.at++;
		t.len--;
	}
	while (t.len && is_blank(t.at[t.len - 1]))
		t.len--;
	return t;
}

static bool text_is(struct vmdk_text t, const char *word)
{
	return t.len == strlen(word) && !strncasecmp(t.at, word, t.len);
}

static bool text_begins(struct vmdk_text t, const char *word)
{
	return t.len >= strlen(word) && !strncasecmp(t.at, word, strlen(word));
}

static bool text_has(struct vmdk_text t, const char *word)
{
	for (; t.len; t.at++, t.len--)
		if (text_begins(t, word))
			return true;
	return false;
}

char *vmdk_plain_name(const char *name, size_t len)
{
	struct vmdk_text t = { name, len };
	size_t first = 0;
	bool plain, drive;
	char *out;

	while (first < len && name[first] != '/' && name[first] != ':')
		first++;
	drive = first == 1 && len > 2 && (name[2] == '\\' || name[2] == '/');
	plain = first == len || name[first] == '/' || drive || text_begins(t, "file:") ||
		text_begins(t, "json:");
	if (asprintf(&out, "%s%.*s", plain ? "" : "./", (int)len, name) < 0)
		return NULL;
	return out;
}

bool vmdk_text_same(struct vmdk_text a, struct vmdk_text b)
{
	return a.at && b.at && a.len == b.len && !strncasecmp(a.at, b.at, a.len);
}

/* The next line from *at on, without its end and outer blanks. False: the text is over. */
static bool next_line(const char *text, size_t len, size_t *at, struct vmdk_text *line)
{
	size_t end = *at;

	if (end >= len || !text[end])
		return false;
	while (end < len && text[end] && !is_line_end(text[end]))
		end++;
	*line = trim((struct vmdk_text){ text + *at, end - *at });
	if (end + 1 < len && text[end] == '\r' && text[end + 1] == '\n')
		end++;
	*at = end < len && text[end] ? end + 1 : end;
	return true;
}

/* Cut the first word off *rest; the rest begins after the blanks that follow it. */
static struct vmdk_text cut_word(struct vmdk_text *rest)
{
	struct vmdk_text word = { rest->at, 0 };

	while (word.len < rest->len && !is_blank(rest->at[word.len]))
		word.len++;
	*rest = trim((struct vmdk_text){ rest->at + word.len, rest->len - word.len });
	return word;
}

static bool parse_decimal(struct vmdk_text t, uint64_t *out)
{
	uint64_t n = 0;

	if (!t.len)
		return false;
	for (size_t i = 0; i < t.len; i++)
		if (t.at[i] < '0' || t.at[i] > '9' || !mul_u64(n, 10, &n) ||
		    !add_u64(n, (uint64_t)(t.at[i] - '0'), &n))
			return false;
	*out = n;
	return true;
}

/*
 * A content ID: hexadecimal digits, perhaps with 0x in front. Xen Orchestra writes its numbers in
 * decimal, with up to ten digits: everybody reads them as hexadecimal and takes the low 32 bits.
 * last: the up to 8 digits that these are.
 */
static bool parse_cid(struct vmdk_text t, uint32_t *out, struct vmdk_text *last)
{
	uint32_t n = 0;

	if (text_begins(t, "0x")) {
		t.at += 2;
		t.len -= 2;
	}
	for (size_t i = 0; i < t.len; i++) {
		int digit = img_hex_digit(t.at[i]);

		if (digit < 0)
			return false;
		n = n << 4 | (uint32_t)digit;
	}
	if (!t.len)
		return false;
	*out = n;
	last->len = min_size(t.len, 8);
	last->at = t.at + t.len - last->len;
	return true;
}

/* Of ours alone: while the parent's content changes, a child stores what it is known by afterwards. */
static const char key_parent_next[] = "ddb.uuid.parentnext";

/* Is this an extent line, and with what access? */
static bool extent_access(struct vmdk_text line, enum vmdk_access *out)
{
	struct vmdk_text word = cut_word(&line);

	for (size_t i = 0; i < IMG_ARRAY_LEN(accesses); i++)
		if (text_is(word, accesses[i])) {
			*out = (enum vmdk_access)i;
			return true;
		}
	return false;
}

/*
 * Cut a file name off *rest: in quotes, or a word without them. It may be empty (FreeBSD's mkimg
 * gives the file that the descriptor is embedded in no name).
 */
static int cut_name(struct vmdk_text *rest, size_t number, struct vmdk_text *out,
		    struct img_error *err)
{
	bool quoted = rest->at[0] == '"';
	const char *end = quoted ? memchr(rest->at + 1, '"', rest->len - 1) : NULL;

	if (quoted && !end)
		return img_fail(err, -EUCLEAN,
				"descriptor line %zu: the file name of %zu bytes has no closing "
				"quote",
				number, rest->len - 1);
	if (quoted) {
		*out = (struct vmdk_text){ rest->at + 1, (size_t)(end - rest->at) - 1 };
		*rest = trim((struct vmdk_text){ end + 1, rest->len - out->len - 2 });
	} else {
		*out = cut_word(rest);
	}
	if (out->len > VMDK_NAME_BYTES_MAX)
		return img_fail(err, -EUCLEAN,
				"descriptor line %zu: the file name has %zu bytes, expected at "
				"most %d",
				number, out->len, VMDK_NAME_BYTES_MAX);
	return 0;
}

/*
 * ACCESS SECTORS TYPE ["FILE" [OFFSET]]. What Fusion writes after the offset (partitionUUID,
 * deviceIdentifier) tells VMware which device is meant; the file says that already.
 */
static int parse_extent(struct vmdk_text text, struct vmdk_line *line, struct img_error *err)
{
	struct vmdk_text rest = text, word;
	size_t type = 0;
	int rc;

	cut_word(&rest);
	word = cut_word(&rest);
	if (!parse_decimal(word, &line->sectors))
		return img_fail(err, -EUCLEAN,
				"descriptor line %zu: the number of sectors is \"%.*s\", expected "
				"a decimal number",
				line->number, (int)min_size(word.len, 40), word.at);
	word = cut_word(&rest);
	while (type < IMG_ARRAY_LEN(types) && !text_is(word, types[type].name))
		type++;
	if (type == IMG_ARRAY_LEN(types))
		return img_fail(err, -ENOTSUP,
				"descriptor line %zu: extent type is \"%.*s\", expected FLAT, "
				"SPARSE, ZERO, VMFS, VMFSSPARSE, VMFSRDM, VMFSRAW, SESPARSE",
				line->number, (int)min_size(word.len, 40), word.at);
	line->type = (enum vmdk_extent_type)type;

	if (!rest.len && (!types[type].has_file || line->access == VMDK_NOACCESS))
		return 0;
	if (!types[type].has_file && rest.at[0] != '"')
		return 0; /* ZERO and something else */
	if (!rest.len || rest.at[0] == '#')
		return img_fail(err, -EUCLEAN,
				"descriptor line %zu: no file name after %s",
				line->number, types[type].name);
	rc = cut_name(&rest, line->number, &word, err);
	if (rc)
		return rc;
	if (types[type].has_file)
		line->file = word;
	if (!rest.len)
		return 0;

	/* An offset, or already Fusion's words. */
	word = cut_word(&rest);
	if (word.at[0] < '0' || word.at[0] > '9')
		return 0;
	if (!parse_decimal(word, &line->file_sector) ||
	    (line->file_sector && !types[type].has_offset))
		return img_fail(err, -EUCLEAN,
				"descriptor line %zu: the offset is \"%.*s\", expected %s",
				line->number, (int)min_size(word.len, 40), word.at,
				types[type].has_offset ? "a number of sectors" : "0 for this type");
	return 0;
}

int vmdk_next_extent(const char *text, size_t len, struct vmdk_cursor *c, struct vmdk_line *out,
		     struct img_error *err)
{
	struct vmdk_text line;

	while (next_line(text, len, &c->at, &line)) {
		struct vmdk_line found = { 0 };
		int rc;

		found.number = ++c->number;
		if (!extent_access(line, &found.access))
			continue;
		rc = parse_extent(line, &found, err);
		if (rc)
			return rc;
		*out = found;
		return 1;
	}
	return 0;
}

bool vmdk_is_descriptor(const char *text, size_t len)
{
	struct vmdk_text line;
	size_t at = 0;

	if (text_begins((struct vmdk_text){ text, len }, "# Disk DescriptorFile"))
		return true;
	/* Without that first line: as QEMU, comments and then the version. */
	while (next_line(text, len, &at, &line)) {
		if (!line.len || line.at[0] == '#')
			continue;
		return text_is(line, "version=1") || text_is(line, "version=2") ||
		       text_is(line, "version=3");
	}
	return false;
}

/* A line that nothing but a descriptor has. */
static bool is_descriptor_line(struct vmdk_text line)
{
	static const char *const keys[] = { "createType", "parentCID", "parentFileNameHint", "ddb." };
	struct vmdk_line extent = { 0 };

	if (text_begins(line, "# Disk Descriptor"))
		return true;
	for (size_t i = 0; i < IMG_ARRAY_LEN(keys); i++)
		if (text_begins(line, keys[i]) && memchr(line.at, '=', line.len))
			return true;
	return extent_access(line, &extent.access) && !parse_extent(line, &extent, NULL);
}

bool vmdk_is_nearly_descriptor(const char *text, size_t len, bool *utf16)
{
	enum { PROBE_BYTES = 4096 };
	char plain[PROBE_BYTES];
	struct vmdk_text line;
	size_t n = min_size(len, PROBE_BYTES), kept = 0, at = 0, from = 0;

	bool mark = n >= 2 && (!memcmp(text, "\xff\xfe", 2) || !memcmp(text, "\xfe\xff", 2));

	/* In UTF-16 one half of each character of ASCII is 0. */
	*utf16 = mark || (n >= 2 && !text[0] != !text[1]);
	if (mark)
		from = 2;
	else if (n >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
		from = 3;
	for (size_t i = from; i < n; i++)
		if (text[i] || !*utf16)
			plain[kept++] = text[i];
	while (next_line(plain, kept, &at, &line)) {
		for (size_t i = 0; i < line.len; i++)
			if ((unsigned char)line.at[i] < ' ' && line.at[i] != '\t')
				return false; /* no text */
		if (is_descriptor_line(line))
			return true;
	}
	return false;
}

/* VirtualBox writes a UUID of zeroes for "none". */
static struct vmdk_text uuid_or_none(struct vmdk_text value)
{
	for (size_t i = 0; i < value.len; i++)
		if (value.at[i] != '0' && value.at[i] != '-')
			return value;
	return (struct vmdk_text){ 0 };
}

static int bad_value(struct vmdk_text key, struct vmdk_text value, size_t number,
		     const char *allowed, struct img_error *err)
{
	return img_fail(err, -EUCLEAN, "descriptor line %zu: %.*s is \"%.*s\", expected %s",
			number, (int)min_size(key.len, 40), key.at, (int)min_size(value.len, 40),
			value.at, allowed);
}

/* Without its quotes, and without a comment behind them. */
static struct vmdk_text plain_value(struct vmdk_text value)
{
	struct vmdk_text rest;
	const char *end;

	if (!value.len || value.at[0] != '"')
		return value;
	end = memchr(value.at + 1, '"', value.len - 1);
	if (!end)
		return value;
	rest = trim((struct vmdk_text){ end + 1, value.len - (size_t)(end - value.at) - 1 });
	if (!rest.len || rest.at[0] == '#')
		return (struct vmdk_text){ value.at + 1, (size_t)(end - value.at) - 1 };
	if (value.at[value.len - 1] == '"') /* quotes within */
		return (struct vmdk_text){ value.at + 1, value.len - 2 };
	return value;
}

/* Of a number: what follows it is a comment. */
static struct vmdk_text first_word(struct vmdk_text value)
{
	struct vmdk_text word = cut_word(&value);
	const char *comment = word.len ? memchr(word.at, '#', word.len) : NULL;

	if (comment)
		word.len = (size_t)(comment - word.at);
	return word;
}

/* What parse_key() has seen, besides what is in the descriptor. */
struct seen {
	bool version, parent_cid;
};

static int parse_key(struct vmdk_text line, size_t number, struct vmdk_descriptor *d,
		     struct seen *seen, struct img_error *err)
{
	const char *equals = memchr(line.at, '=', line.len);

	if (!equals)
		return 0;

	struct vmdk_text key = trim((struct vmdk_text){ line.at, (size_t)(equals - line.at) });
	struct vmdk_text value = trim((struct vmdk_text){
		equals + 1, line.len - (size_t)(equals - line.at) - 1 });

	value = plain_value(value);
	if (text_is(key, "version") && !seen->version) {
		uint64_t version;

		if (!parse_decimal(first_word(value), &version) || !version)
			return bad_value(key, value, number, "a number from 1", err);
		if (version > VMDK_DESCRIPTOR_VERSION_MAX)
			return img_fail(err, -ENOTSUP,
					"descriptor line %zu: version is %" PRIu64 ", expected 1 "
					"to %d",
					number, version, VMDK_DESCRIPTOR_VERSION_MAX);
		d->version = (uint32_t)version;
		seen->version = true;
	} else if (text_is(key, "CID") && !d->has_cid) {
		if (!parse_cid(first_word(value), &d->cid, &d->cid_digits))
			return bad_value(key, value, number, "hexadecimal digits", err);
		d->has_cid = true;
	} else if (text_is(key, "ddb.longContentID") && !d->long_cid.at) {
		d->long_cid = value;
	} else if (text_is(key, "parentCID") && !seen->parent_cid) {
		struct vmdk_text digits;

		if (!parse_cid(first_word(value), &d->parent_cid, &digits))
			return bad_value(key, value, number, "hexadecimal digits", err);
		seen->parent_cid = true;
	} else if (text_is(key, "createType") && !d->create_type.at) {
		d->create_type = value;
	} else if (text_is(key, "parentFileNameHint") && !d->parent_hint.at && value.len) {
		if (value.len > VMDK_NAME_BYTES_MAX)
			return img_fail(err, -EUCLEAN,
					"descriptor line %zu: parentFileNameHint has %zu bytes, "
					"expected at most %d",
					number, value.len, VMDK_NAME_BYTES_MAX);
		d->parent_hint = value;
	} else if (text_is(key, "ddb.uuid.image") && !d->uuid_image.at) {
		d->uuid_image = uuid_or_none(value);
	} else if (text_is(key, "ddb.uuid.modification") && !d->uuid_modification.at) {
		d->uuid_modification = value;
	} else if (text_is(key, "ddb.uuid.parentmodification") && !d->uuid_parent_modification.at) {
		d->uuid_parent_modification = value;
	} else if (text_is(key, "ddb.uuid.parent") && !d->uuid_parent.at) {
		d->uuid_parent = uuid_or_none(value);
	} else if (text_is(key, key_parent_next) && !d->uuid_parent_next.at) {
		d->uuid_parent_next = uuid_or_none(value);
	} else if (text_has(key, "keySafe") || text_begins(key, "encryption.") ||
		   (text_is(key, "ddb.iofilters") && text_has(value, "crypt"))) {
		d->encrypted = true;
	}
	return 0;
}

/* Comments, too, tell how far the text goes. */
static void parse_title(struct vmdk_text line, struct vmdk_descriptor *d)
{
	d->extents_title |= text_begins(line, "# Extent description");
	d->database |= text_begins(line, "# The Disk Data Base") || text_begins(line, "#DDB") ||
		       text_begins(line, "ddb.");
}

int vmdk_parse_descriptor(const char *text, size_t len, struct vmdk_descriptor *out,
			  struct img_error *err)
{
	struct vmdk_descriptor d = { .version = 1, .parent_cid = VMDK_NO_PARENT };
	struct seen seen = { 0 };
	struct vmdk_text line;
	size_t at = 0, number = 0;

	while (next_line(text, len, &at, &line)) {
		struct vmdk_line extent = { 0 };
		int rc;

		extent.number = ++number;

		d.line_cut = !is_line_end(text[at - 1]);
		parse_title(line, &d);
		if (!line.len || line.at[0] == '#')
			continue;
		if (!extent_access(line, &extent.access)) {
			rc = parse_key(line, number, &d, &seen, err);
			if (rc)
				return rc;
			continue;
		}
		rc = parse_extent(line, &extent, err);
		if (rc)
			return rc;
		if (++d.extents > VMDK_EXTENTS_MAX)
			return img_fail(err, -ENOTSUP,
					"descriptor line %zu: more than %d extents",
					number, VMDK_EXTENTS_MAX);
		if (!add_u64(d.sectors, extent.sectors, &d.sectors) ||
		    d.sectors > INT64_MAX / 512)
			return img_fail(err, -EUCLEAN,
					"descriptor line %zu: the extents have more than %" PRIu64 " "
					"sectors, the most of a disk",
					number, (uint64_t)INT64_MAX / 512);
	}
	*out = d;
	return 0;
}

/* ---- Another parent ---- */

enum parent_key { KEY_NONE,
		  KEY_PARENT_CID,
		  KEY_HINT,
		  KEY_UUID,
		  KEY_MODIFICATION,
		  KEY_NEXT };

static enum parent_key parent_key(struct vmdk_text line)
{
	const char *equals = line.len && line.at[0] != '#' ? memchr(line.at, '=', line.len) : NULL;
	struct vmdk_text key;

	if (!equals)
		return KEY_NONE;
	key = trim((struct vmdk_text){ line.at, (size_t)(equals - line.at) });
	return text_is(key, "parentCID")		     ? KEY_PARENT_CID
	       : text_is(key, "parentFileNameHint")	     ? KEY_HINT
	       : text_is(key, "ddb.uuid.parent")	     ? KEY_UUID
	       : text_is(key, "ddb.uuid.parentmodification") ? KEY_MODIFICATION
	       : text_is(key, key_parent_next)		     ? KEY_NEXT
							     : KEY_NONE;
}

/* What is written of the parent, and what of it has been. */
struct writing {
	FILE *out;
	const struct vmdk_new_parent *parent;
	const char *end; /* of a line */
	int end_len;
	bool has_cid, has_hint;
};

static void put_cid(struct writing *w)
{
	if (!w->has_cid)
		fprintf(w->out, "parentCID=%08" PRIx32 "%.*s", w->parent->cid, w->end_len, w->end);
	w->has_cid = true;
}

static void put_hint(struct writing *w)
{
	if (!w->has_hint && w->parent->hint)
		fprintf(w->out, "parentFileNameHint=\"%s\"%.*s", w->parent->hint, w->end_len, w->end);
	w->has_hint = true;
}

static void put_uuid(const struct writing *w, const char *key, const char *value)
{
	fprintf(w->out, "%s=\"%s\"%.*s", key, value ? value : "00000000-0000-0000-0000-000000000000",
		w->end_len, w->end);
}

char *vmdk_replace_parent(const char *text, size_t len, const struct vmdk_new_parent *parent,
			  size_t *out_len)
{
	struct writing w = { .parent = parent, .end = "\n", .end_len = 1 };
	struct vmdk_text line;
	enum vmdk_access access;
	char *out = NULL;
	size_t at = 0, from = 0;

	w.out = open_memstream(&out, out_len);
	if (!w.out)
		return NULL;
	for (; next_line(text, len, &at, &line); from = at) {
		size_t n = at - from;

		while (n && is_line_end(text[from + n - 1]))
			n--;
		if (!from && from + n < at) { /* all lines end as the first one does */
			w.end = text + n;
			w.end_len = (int)(at - n);
		}
		switch (parent_key(line)) {
		case KEY_PARENT_CID:
			put_cid(&w);
			put_hint(&w);
			break;
		case KEY_HINT:
			put_cid(&w);
			put_hint(&w);
			break;
		case KEY_UUID:
			put_uuid(&w, "ddb.uuid.parent", parent->uuid);
			break;
		case KEY_MODIFICATION:
			put_uuid(&w, "ddb.uuid.parentmodification", parent->modification);
			break;
		case KEY_NEXT:
			break;
		case KEY_NONE:
			/* where it was not there, behind the other keys of the header */
			if (extent_access(line, &access) || text_begins(line, "# Extent")) {
				put_cid(&w);
				put_hint(&w);
			}
			fwrite(text + from, 1, at - from, w.out);
			break;
		}
	}
	/* the last line may have no end */
	if (!w.has_cid && from && !is_line_end(text[from - 1]))
		fprintf(w.out, "%.*s", w.end_len, w.end);
	put_cid(&w);
	put_hint(&w);
	if (fclose(w.out)) {
		free(out);
		return NULL;
	}
	return out;
}

char *vmdk_add_next_parent(const char *text, size_t len, const char *uuid, size_t *out_len)
{
	struct vmdk_text line;
	size_t at = 0, from = 0;
	char *out = NULL;
	FILE *stream = open_memstream(&out, out_len);

	if (!stream)
		return NULL;
	for (; next_line(text, len, &at, &line); from = at)
		if (parent_key(line) != KEY_NEXT)
			fwrite(text + from, 1, at - from, stream);
	if (from && !is_line_end(text[from - 1]))
		fputc('\n', stream);
	fprintf(stream, "%s=\"%s\"\n", key_parent_next, uuid);
	if (fclose(stream)) {
		free(out);
		return NULL;
	}
	return out;
}

/* ---- Another size ---- */

/* The value of a line "key = "value"" with this key, a number; 0: it is another line, or no number. */
static uint64_t number_of(struct vmdk_text line, const char *key)
{
	const char *equals = line.len && line.at[0] != '#' ? memchr(line.at, '=', line.len) : NULL;
	struct vmdk_text value;
	uint64_t number;

	if (!equals ||
	    !text_is(trim((struct vmdk_text){ line.at, (size_t)(equals - line.at) }), key))
		return 0;
	value = trim((struct vmdk_text){ equals + 1, line.len - (size_t)(equals + 1 - line.at) });
	if (value.len >= 2 && value.at[0] == '"' && value.at[value.len - 1] == '"')
		value = (struct vmdk_text){ value.at + 1, value.len - 2 };
	return parse_decimal(value, &number) ? number : 0;
}

/* The digits of the first number behind from, before end. */
static struct vmdk_text digits_in(const char *from, const char *end)
{
	struct vmdk_text t = { from, 0 };

	while (t.at < end && (*t.at < '0' || *t.at > '9'))
		t.at++;
	while (t.at + t.len < end && t.at[t.len] >= '0' && t.at[t.len] <= '9')
		t.len++;
	return t;
}

static void put_number(FILE *out, struct vmdk_text place, const char **from, uint64_t number)
{
	fwrite(*from, 1, (size_t)(place.at - *from), out);
	fprintf(out, "%" PRIu64, number);
	*from = place.at + place.len;
}

char *vmdk_replace_size(const char *text, size_t len, uint64_t extent_sectors, uint64_t disk_sectors,
			size_t *out_len)
{
	struct vmdk_text line, size = { NULL, 0 }, cylinders = { NULL, 0 };
	uint64_t heads = 0, sectors = 0, number;
	const char *from = text;
	size_t at = 0;
	char *out = NULL;
	FILE *stream;

	len = strnlen(text, len);
	while (next_line(text, len, &at, &line)) {
		struct vmdk_line extent = { 0 };

		if (extent_access(line, &extent.access) && !parse_extent(line, &extent, NULL) &&
		    extent.sectors)
			size = digits_in(line.at, line.at + line.len);
		number = number_of(line, "ddb.geometry.heads");
		heads = number ? number : heads;
		number = number_of(line, "ddb.geometry.sectors");
		sectors = number ? number : sectors;
		if (number_of(line, "ddb.geometry.cylinders"))
			cylinders = digits_in(memchr(line.at, '=', line.len), line.at + line.len);
	}
	stream = open_memstream(&out, out_len);
	if (!stream)
		return NULL;
	number = 0;
	if (heads && sectors && heads <= 255 && sectors <= 255)
		number = max_u64(disk_sectors / (heads * sectors), 1);
	if (cylinders.at && number && cylinders.at < size.at)
		put_number(stream, cylinders, &from, number);
	if (size.at)
		put_number(stream, size, &from, extent_sectors);
	if (cylinders.at && number && cylinders.at > size.at)
		put_number(stream, cylinders, &from, number);
	fwrite(from, 1, len - (size_t)(from - text), stream);
	if (fclose(stream)) {
		free(out);
		return NULL;
	}
	return out;
}

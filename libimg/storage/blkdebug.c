/*
 * The module "blkdebug": a filter that makes requests fail by rules, as QEMU's of that name.
 *
 *   inject-error.N.event	what fails: none (any request), read_aio, write_aio, pwritev, pwritev_zero,
 *				flush_to_os, flush_to_disk; QEMU's other events are of its own drivers
 *   inject-error.N.iotype	read, write, write-zeroes, discard, flush: only these
 *   inject-error.N.sector	only requests that touch this sector of 512 bytes
 *   inject-error.N.errno	what they fail with (5: EIO)
 *   inject-error.N.once	the rule goes when it has been used
 *   inject-error.N.state	only in this state (0: in any)
 *   set-state.N.event, .state, .new_state	go to a state when that happens; it begins as 1
 *   config			a file of such rules, in sections [inject-error] and [set-state]
 *   max-transfer			bytes that a read or write has at most: what is longer comes in parts
 *   max-write-zero, max-discard	the same of zeroes and discards, of which the smaller counts for both
 *
 * blkdebug:CONFIG:PATH is a name for it; CONFIG may be empty.
 */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/options.h"
#include "libimg/base/parse.h"
#include "libimg/storage/ioq.h"
#include "libimg/storage/module.h"
#include "libimg/storage/filter.h"

enum {
	MAX_RULES = 1024,
	MAX_LINE = 4096,
};

#define READS (1u << IMG_IO_READ)
#define WRITES (1u << IMG_IO_WRITE)
#define ZEROES (1u << IMG_IO_ZERO)
#define DISCARDS (1u << IMG_IO_PUNCH)
#define SYNCS (1u << IMG_IO_SYNC)

struct rule {
	bool sets_state;
	unsigned long index;	      /* N, and which section it is of a file */
	unsigned event_ops, type_ops; /* masks of 1u << enum img_io_op */
	bool has_event, has_sector, once, spent;
	uint64_t sector;
	int rc;
	uint64_t state, new_state;
};

struct debugged {
	struct img_filter filter;
	pthread_mutex_t lock; /* guards the rest */
	struct rule *rules;
	size_t count;
	uint64_t state;
	uint64_t max_transfer, max_zero; /* as given; 0: not */
};

static struct debugged *debugged_of(struct img_storage *s)
{
	return IMG_CONTAINER(img_filter_of(s), struct debugged, filter);
}

/* ---- Requests ---- */

static bool applies(const struct rule *r, uint64_t state, enum img_io_op op, uint64_t off,
		    uint64_t len)
{
	uint64_t at = r->sector * 512;

	if (r->spent || !(r->event_ops & r->type_ops & 1u << op) || (r->state && r->state != state))
		return false;
	return !r->has_sector || (op != IMG_IO_SYNC && off < at + 512 && at < off + len);
}

/* What a request is to fail with; 0: nothing. */
static int check(struct img_filter *w, enum img_io_op op, uint64_t off, uint64_t len)
{
	struct debugged *d = debugged_of(&w->base);
	uint64_t state, most = img_io_has_data(op)			 ? d->max_transfer
			       : op == IMG_IO_ZERO || op == IMG_IO_PUNCH ? d->max_zero
									 : 0;
	int rc = 0;

	if (most && len > most) /* nobody may ask for so much */
		return -EMSGSIZE;
	pthread_mutex_lock(&d->lock);
	state = d->state;
	for (size_t i = 0; i < d->count; i++) {
		struct rule *r = &d->rules[i];

		if (!applies(r, state, op, off, len))
			continue;
		if (r->sets_state) {
			d->state = r->new_state;
		} else if (!rc) {
			rc = r->rc;
			r->spent = r->once;
		}
	}
	pthread_mutex_unlock(&d->lock);
	return rc;
}

static int debug_resize(struct img_storage *s, uint64_t size, enum img_preallocate how)
{
	struct debugged *d = debugged_of(s);
	int rc = img_storage_resize(d->filter.inner, size, how, NULL);

	img_filter_refresh(&d->filter);
	return rc;
}

static void debug_close(struct img_storage *s)
{
	struct debugged *d = debugged_of(s);

	img_filter_destroy(&d->filter);
	pthread_mutex_destroy(&d->lock);
	free(d->rules);
	free(d);
}

static const struct img_storage_ops debug_ops = {
	.submit = img_filter_checked_submit,
	.io = img_filter_checked_io,
	.resize = debug_resize,
	.extent = img_filter_extent,
	.allocated = img_filter_allocated,
	.set_writable = img_filter_set_writable,
	.close = debug_close,
};

/* ---- Rules ---- */

struct word {
	const char *name;
	unsigned ops;
};

/* 0: no such word. */
static unsigned find_word(const struct word *words, const char *name)
{
	for (; words->name; words++)
		if (!strcmp(words->name, name))
			return words->ops;
	return 0;
}

static const struct word events[] = {
	{ "none", READS | WRITES | ZEROES | DISCARDS | SYNCS },
	{ "read_aio", READS },
	{ "write_aio", WRITES },
	{ "pwritev", WRITES },
	{ "pwritev_zero", ZEROES },
	{ "flush_to_os", SYNCS },
	{ "flush_to_disk", SYNCS },
	{ NULL, 0 },
};
static const struct word types[] = {
	{ "read", READS },
	{ "write", WRITES },
	{ "write-zeroes", ZEROES },
	{ "discard", DISCARDS },
	{ "flush", SYNCS },
	{ NULL, 0 },
};

static int set_error_key(struct rule *r, const char *key, const char *value, uint64_t number,
			 bool is_number)
{
	bool flag;

	if (!strcmp(key, "errno") && is_number && number && number < 4096)
		r->rc = -(int)number;
	else if (!strcmp(key, "sector") && is_number && number <= INT64_MAX / 512)
		r->has_sector = true, r->sector = number;
	else if (!strcmp(key, "iotype"))
		r->type_ops = find_word(types, value);
	else if (!strcmp(key, "once") && !img_parse_bool(value, &flag))
		r->once = flag;
	else if (strcmp(key, "immediately") != 0 || img_parse_bool(value, &flag))
		return -EINVAL; /* a request that fails does so at once or a moment later, as it likes */
	return r->type_ops ? 0 : -EINVAL;
}

static int set_key(struct rule *r, const char *key, const char *value, struct img_error *err)
{
	uint64_t number = 0;
	bool is_number = !img_parse_number(value, &number);
	int rc = 0;

	if (!strcmp(key, "event")) {
		r->has_event = true;
		r->event_ops = find_word(events, value);
		rc = r->event_ops ? 0 : -EINVAL;
	} else if (!strcmp(key, "state") && is_number) {
		r->state = number;
	} else if (r->sets_state) {
		rc = !strcmp(key, "new_state") && is_number && number ? 0 : -EINVAL;
		r->new_state = number;
	} else {
		rc = set_error_key(r, key, value, number, is_number);
	}
	return rc ? img_fail(err, rc, "blkdebug: a rule has no '%s' of '%s'", key, value) : 0;
}

/* The rule of that list and number, made if it is not there; NULL: out of memory, or too many. */
static struct rule *find_rule(struct debugged *d, bool sets_state, unsigned long index)
{
	struct rule *more;

	for (size_t i = 0; i < d->count; i++)
		if (d->rules[i].sets_state == sets_state && d->rules[i].index == index)
			return &d->rules[i];
	if (d->count == MAX_RULES)
		return NULL;
	more = reallocarray(d->rules, d->count + 1, sizeof(*more));
	if (!more)
		return NULL;
	d->rules = more;
	more[d->count] = (struct rule){ .sets_state = sets_state,
					.index = index,
					.type_ops = READS | WRITES | ZEROES | DISCARDS | SYNCS,
					.rc = -EIO };
	return &more[d->count++];
}

/* "inject-error.0.event", "set-state.2.new_state". */
static int parse_item(struct debugged *d, const struct img_module_item *item, struct img_error *err)
{
	bool sets_state = !strncmp(item->key, "set-state.", 10);
	const char *number = strchr(item->key, '.') + 1;
	char *end;
	unsigned long index = strtoul(number, &end, 10);
	struct rule *r = NULL;

	if (!isdigit((unsigned char)*number) || *end != '.' || index >= MAX_RULES)
		return img_fail(err, -EINVAL, "blkdebug: '%s': expected a number below %d behind "
					      "the first dot",
				item->key, MAX_RULES);
	r = find_rule(d, sets_state, index);
	return r ? set_key(r, end + 1, item->value, err) : img_fail(err, -ENOMEM, "out of memory");
}

static char *strip(char *text)
{
	size_t len;

	text += strspn(text, " \t");
	len = strlen(text);
	while (len && strchr(" \t\r\n", text[len - 1]))
		text[--len] = '\0';
	return text;
}

/* [inject-error], then lines of: event = "read_aio". Sections count from MAX_RULES on. */
static int read_config(struct debugged *d, const char *path, struct img_error *err)
{
	FILE *file = fopen(path, "re");
	unsigned long index = MAX_RULES, line_number = 0;
	struct rule *r = NULL;
	char buffer[MAX_LINE];
	int rc = 0;

	if (!file)
		return img_fail(err, -errno, "Could not read blkdebug config file: '%s': %s", path,
				strerrordesc_np(errno));
	while (!rc && fgets(buffer, sizeof(buffer), file)) {
		char *line = strip(buffer), *value;
		size_t len;

		line_number++;
		if (!*line || *line == '#')
			continue;
		if (!strcmp(line, "[inject-error]") || !strcmp(line, "[set-state]")) {
			r = find_rule(d, line[1] == 's', index++);
			rc = r ? 0 : img_fail(err, -EINVAL, "%s: more than %d rules", path, MAX_RULES);
			continue;
		}
		value = strchr(line, '=');
		if (!r || !value) {
			rc = img_fail(err, -EINVAL, "%s: line %lu: neither a section nor KEY = \"VALUE\"",
				      path, line_number);
			break;
		}
		*value++ = '\0';
		value = strip(value);
		len = strlen(value);
		if (len >= 2 && *value == '"' && value[len - 1] == '"') {
			value[len - 1] = '\0';
			value++;
		}
		rc = set_key(r, strip(line), value, err);
		if (rc)
			img_error_prefix(err, rc, "%s: line %lu", path, line_number);
	}
	fclose(file);
	return rc;
}

static int check_rules(const struct debugged *d, struct img_error *err)
{
	for (size_t i = 0; i < d->count; i++) {
		const struct rule *r = &d->rules[i];

		if (!r->has_event)
			return img_fail(err, -EINVAL, "blkdebug: a rule has no event");
		if (r->sets_state && !r->new_state)
			return img_fail(err, -EINVAL, "blkdebug: set-state has no new_state");
	}
	return 0;
}

/* A size of whole sectors, in place of *limit if it is smaller. */
static int parse_limit(const struct img_options *o, const char *key, uint64_t *limit,
		       struct img_error *err)
{
	uint64_t bytes = img_options_number(o, key);

	if (bytes % 512 || bytes > INT32_MAX)
		return img_fail(err, -EINVAL, "blkdebug: %s: found %" PRIu64 ", expected a multiple of 512 "
					      "below 2 GiB",
				key, bytes);
	if (bytes && (!*limit || bytes < *limit))
		*limit = bytes;
	return 0;
}

/* What it states beyond what is below it. */
static int parse_limits(struct debugged *d, const struct img_options *o, struct img_error *err)
{
	int rc = parse_limit(o, "max-transfer", &d->max_transfer, err);

	if (!rc)
		rc = parse_limit(o, "max-write-zero", &d->max_zero, err);
	return rc ? rc : parse_limit(o, "max-discard", &d->max_zero, err);
}

static int debug_open(const struct img_module_opening *o, struct img_storage **out,
		      struct img_error *err)
{
	const char *config = img_options_string(o->options, "config");
	struct debugged *d = calloc(1, sizeof(*d));
	struct img_storage_limits *limits;
	int rc = 0;

	if (!d)
		return img_fail(err, -ENOMEM, "out of memory");
	d->state = 1;
	if (config && *config)
		rc = read_config(d, config, err);
	for (size_t i = 0; i < o->item_count && !rc; i++)
		rc = parse_item(d, &o->items[i], err);
	if (!rc)
		rc = check_rules(d, err);
	if (!rc)
		rc = parse_limits(d, o->options, err);
	if (!rc && img_filter_init(&d->filter, &debug_ops, o->inner))
		rc = img_fail(err, -ENOMEM, "out of memory");
	if (rc) {
		free(d->rules);
		free(d);
		return rc;
	}
	pthread_mutex_init(&d->lock, NULL);
	d->filter.check = check;
	limits = &d->filter.base.limits;
	limits->max_bytes = img_lower_limit(limits->max_bytes, d->max_transfer);
	limits->max_zero = img_lower_limit(limits->max_zero, d->max_zero);
	*out = &d->filter.base;
	return 0;
}

/* "blkdebug:CONFIG:PATH" */
static int debug_parse(const char *name, img_keyval_fn *set, void *user, struct img_error *err)
{
	const char *config = strchr(name, ':') + 1, *path = strchr(config, ':');
	char *copy;
	int rc;

	if (!path || !path[1])
		return img_fail(err, -EINVAL,
				"blkdebug requires a file name: '%s', expected "
				"blkdebug:CONFIG:PATH",
				name);
	copy = strndup(config, (size_t)(path - config));
	if (!copy)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = *copy ? set(user, "config", copy, err) : 0;
	free(copy);
	return rc ? rc : set(user, "image.filename", path + 1, err);
}

static const struct img_option table[] = {
	{ "config", IMG_OPTION_STRING, "File of rules", NULL, NULL },
	{ "max-transfer", IMG_OPTION_SIZE, "Largest read or write", "0", NULL },
	{ "max-write-zero", IMG_OPTION_SIZE, "Largest request to zero", "0", NULL },
	{ "max-discard", IMG_OPTION_SIZE, "Largest request to discard", "0", NULL },
	{ 0 },
};
static const char *const schemes[] = { "blkdebug", NULL };
static const char *const lists[] = { "inject-error.", "set-state.", NULL };

const struct img_module img_module_blkdebug = {
	.name = "blkdebug",
	.schemes = schemes,
	.options = table,
	.lists = lists,
	.filter = true,
	.parse_name = debug_parse,
	.open = debug_open,
};

/* One passphrase is got inside of the use of the other, for both are at hand only that long. */
#include "libimg/crypto/luks_amend.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"

enum { NAME = 64 };

struct amendment {
	struct img_luks *l;
	const struct img_luks_amending *a;
	struct img_luks_change change;
};

static const char *name_of(const struct img_luks_amending *a, const char *option, char name[NAME])
{
	snprintf(name, NAME, "%s%s", a->prefix, option);
	return name;
}

static int with_new(void *user, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	struct amendment *m = user;

	m->change.new_passphrase = passphrase;
	m->change.new_bytes = len;
	return img_luks_change_slots(m->l, &m->change, err);
}

static int change_slots(struct amendment *m, struct img_error *err)
{
	const struct img_luks_amending *a = m->a;
	char name[NAME];

	if (img_options_has(a->options, name_of(a, "new-secret", name)))
		return a->passphrase(a->context, name, with_new, m, err);
	return img_luks_change_slots(m->l, &m->change, err);
}

static int with_old(void *user, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	struct amendment *m = user;

	m->change.old_passphrase = passphrase;
	m->change.old_bytes = len;
	return change_slots(m, err);
}

int img_luks_amend(struct img_luks *l, const struct img_luks_amending *a, struct img_error *err)
{
	const struct img_options *o = a->options;
	struct amendment m = { .l = l, .a = a, .change = { .keyslot = -1, .force = a->force } };
	uint64_t iter_time;
	char name[NAME];

	if (!img_options_has(o, name_of(a, "state", name)))
		return img_fail(err, -EINVAL, "Parameter '%s' is missing", name);
	m.change.active = !strcmp(img_options_string(o, name), "active");
	if (img_options_has(o, name_of(a, "keyslot", name)))
		m.change.keyslot = (int)min_u64(img_options_number(o, name), INT32_MAX);
	if (img_options_has(o, name_of(a, "iter-time", name))) {
		iter_time = img_options_number(o, name);
		m.change.iter_time_ms = &iter_time;
	}
	if (img_options_has(o, name_of(a, "old-secret", name)))
		return a->passphrase(a->context, name, with_old, &m, err);
	return change_slots(&m, err);
}

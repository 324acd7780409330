/* Changing what was chosen when an image was made. */
#include <errno.h>

#include "libimg/base/cancel.h"
#include "libimg/base/secrets.h"
#include "libimg/engine/engine.h"
#include "libimg/image/arguments.h"
#include "libimg/image/context.h"
#include "libimg/image/option_list.h"

struct img_value *img_format_amend_options(const char *format)
{
	const struct img_driver *d = img_driver_named(format);

	return d && d->amend ? img_option_list(d->amend_options, NULL, NULL) : NULL;
}

struct amending {
	struct img_amending base;
	const struct img *img;
	const struct img_secrets *secrets;
};

static int give_passphrase(struct img_amending *base, const char *option, img_passphrase_fn *use,
			   void *user, struct img_error *err)
{
	const struct amending *a = (const struct amending *)base;
	const struct img_secret_request request = { .image = a->img->name, .option = option };

	return img_secrets_use(a->secrets, img_options_string(base->options, option), &request, use,
			       user, err);
}

static int parse(struct img_options *options, const char *const *lists, struct img_error *err)
{
	int rc = 0;

	for (; lists && *lists && !rc; lists++)
		rc = img_options_parse(options, *lists, err);
	return rc;
}

int img_amend(struct img *img, const struct img_amend_options *o, struct img_error *err)
{
	IMG_NOT_CANCELLED;
	struct amending a = { .base = { .force = o->force, .passphrase = give_passphrase },
			      .img = img,
			      .secrets = o->secrets };
	struct img_options *options;
	int rc = img_context_is_ours(img, err);

	if (!rc)
		rc = img_check_reserved("img_amend_options", o->reserved,
					sizeof(o->reserved) / sizeof(o->reserved[0]), err);
	if (rc)
		return rc;
	if (!img->driver->amend)
		return img_fail(err, -ENOTSUP, "Format driver '%s' does not support option amendment",
				img->driver->name);
	if (!img->writable)
		return img_fail(err, -EROFS, "%s: opened for reading only", img->name);
	options = img_options_new(img->driver->amend_options);
	if (!options)
		return img_fail(err, -ENOMEM, "out of memory");
	rc = parse(options, o->options, err);
	a.base.options = options;
	if (!rc)
		rc = img_engine_quiesce(img, IMG_QUIESCE_FOR_CHANGING, err);
	if (!rc) {
		rc = img->driver->amend(img, &a.base, err);
		img_engine_resume(img);
	}
	img_options_free(options);
	return rc;
}

/*
 * Key slots changed as QEMU's options say: state, new-secret, old-secret, keyslot, iter-time. The same for
 * LUKS disks and for images that hold a LUKS header.
 */
#ifndef LIBIMG_CRYPTO_LUKS_AMEND_H
#define LIBIMG_CRYPTO_LUKS_AMEND_H

#include "libimg/base/options.h"
#include "libimg/base/secrets.h"
#include "libimg/crypto/luks.h"

/* Rows of a table of options; prefix: text before the names. */
#define IMG_LUKS_AMEND_OPTIONS(prefix) \
	{ prefix "state", IMG_OPTION_STRING, \
	  "Select new state of affected keyslots (active/inactive)", NULL, "active,inactive" }, \
		{ prefix "new-secret", IMG_OPTION_SECRET, "New secret to set in the matching keyslots", \
		  NULL, NULL }, \
		{ prefix "old-secret", IMG_OPTION_SECRET, \
		  "Select all keyslots that match this password", NULL, NULL }, \
		{ prefix "keyslot", IMG_OPTION_NUMBER, \
		  "Select a single keyslot to modify explicitly", NULL, NULL }, \
	{ \
		prefix "iter-time", IMG_OPTION_NUMBER, "Time to spend in PBKDF in milliseconds", NULL, NULL \
	}

struct img_luks_amending {
	const struct img_options *options;
	const char *prefix;
	bool force;
	/* Let use() have the passphrase whose id is the value of option. */
	int (*passphrase)(void *context, const char *option, img_secret_use_fn *use, void *user,
			  struct img_error *err);
	void *context;
};

/* Errors of img_luks_change_slots() and passphrase(). */
int img_luks_amend(struct img_luks *l, const struct img_luks_amending *a, struct img_error *err);

#endif

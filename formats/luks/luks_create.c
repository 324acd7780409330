/* New LUKS disks (version 1), and changes of key slots. */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/luks/luks_state.h"
#include "libimg/base/arith.h"
#include "libimg/crypto/luks_amend.h"

/* In qemu-img's words. */
const struct img_option luks_create_options[] = {
	{ "size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL },
	{ "key-secret", IMG_OPTION_SECRET, "ID of the secret that provides the keyslot passphrase",
	  NULL, NULL },
	{ "cipher-alg", IMG_OPTION_STRING, "Name of encryption cipher algorithm", NULL, NULL },
	{ "cipher-mode", IMG_OPTION_STRING, "Name of encryption cipher mode", NULL, NULL },
	{ "ivgen-alg", IMG_OPTION_STRING, "Name of IV generator algorithm", NULL, NULL },
	{ "ivgen-hash-alg", IMG_OPTION_STRING, "Name of IV generator hash algorithm", NULL, NULL },
	{ "hash-alg", IMG_OPTION_STRING, "Name of encryption hash algorithm", NULL, NULL },
	{ "iter-time", IMG_OPTION_NUMBER, "Time to spend in PBKDF in milliseconds", NULL, NULL },
	{ "detached-header", IMG_OPTION_BOOL, "Create a detached LUKS header", NULL, NULL },
	{ "preallocation", IMG_OPTION_STRING,
	  "Preallocation mode (allowed values: off, falloc, full)", NULL, NULL },
	{ 0 },
};

const struct img_option luks_amend_options[] = { IMG_LUKS_AMEND_OPTIONS(""), { 0 } };

/* ---- Creating ---- */

int luks_create_check(struct img_creating *c, struct img_error *err)
{
	struct img_luks_parameters p;
	int rc = img_luks_parameters(c->options, "", &p, err);

	if (rc)
		return img_error_prefix(err, rc, "%s", c->name);
	if (!img_options_has(c->options, "key-secret") && !c->can_ask)
		return img_fail(err, -EINVAL, "%s: Parameter 'key-secret' is required for cipher",
				c->name);
	if (c->preallocate == IMG_PREALLOCATE_METADATA)
		return img_fail(err, -EINVAL, "Unsupported preallocation mode: metadata");
	if (c->preallocate != IMG_PREALLOCATE_OFF && img_options_bool(c->options, "detached-header"))
		return img_fail(err, -EINVAL,
				"%s: preallocation: a detached header has no disk to allocate", c->name);
	if (c->compress)
		return img_fail(err, -ENOTSUP, "%s: Compression not supported for this file format",
				c->name);
	if (c->size > LUKS_MAX_SIZE - img_luks_header_bytes(&p))
		return img_fail_range(err, -EFBIG, c->size, 0,
				      LUKS_MAX_SIZE - img_luks_header_bytes(&p), "%s: size", c->name);
	return 0;
}

int luks_measure(const struct img_creating *c, uint64_t *required, uint64_t *fully_allocated,
		 struct img_error *err)
{
	struct img_luks_parameters p;
	int rc = img_luks_parameters(c->options, "", &p, err);

	if (rc)
		return rc;
	*required = img_luks_header_bytes(&p);
	if (!img_options_bool(c->options, "detached-header"))
		*required += c->size;
	*fully_allocated = *required;
	return 0;
}

struct new_disk {
	struct img_creating *c;
	struct img_luks_parameters parameters;
	struct img_luks *header; /* out */
};

static int make_header(void *user, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	struct new_disk *n = user;
	struct img_creating *c = n->c;
	bool detached = img_options_bool(c->options, "detached-header");
	uint64_t bytes = img_luks_header_bytes(&n->parameters);
	const struct img_luks_area area = { .storage = c->file,
					    .name = c->name,
					    .bytes = bytes,
					    .detached = detached };
	int rc = img_storage_resize(c->file, detached ? bytes : bytes + c->size, c->preallocate,
				    err);

	if (!rc && c->device) /* key material of what was there before, above all */
		rc = img_storage_zero(c->file, 0, bytes, err);
	return rc ? rc
		  : img_luks_create(&area, &n->parameters, passphrase, len, &n->header, err);
}

static void free_header(void *header)
{
	img_luks_free(header);
}

int luks_create(struct img_creating *c, struct img_error *err)
{
	struct new_disk n = { .c = c };
	int rc = img_luks_parameters(c->options, "", &n.parameters, err);

	if (!rc)
		rc = c->passphrase(c, "key-secret", make_header, &n, err);
	if (rc)
		return rc;
	c->handover = n.header;
	c->free_handover = free_header;
	return 0;
}

/* ---- Changing key slots ---- */

static int give_passphrase(void *context, const char *option, img_secret_use_fn *use, void *user,
			   struct img_error *err)
{
	struct img_amending *a = context;

	return a->passphrase(a, option, use, user, err);
}

int luks_amend(struct img *img, struct img_amending *a, struct img_error *err)
{
	const struct luks *l = img->state;
	const struct img_luks_amending how = {
		.options = a->options,
		.prefix = "",
		.force = a->force,
		.passphrase = give_passphrase,
		.context = a,
	};

	return img_luks_amend(l->header, &how, err);
}

/* ---- Checking ---- */

static void add_defect(void *user, const char *text)
{
	img_check_defect(user, "%s", text);
}

int luks_check(struct img *img, struct img_check *c, struct img_error *err)
{
	const struct luks *l = img->state;
	uint64_t sector = l->sector_bytes, left = (img->file->size - l->payload_off) % sector;

	(void)err;
	/* what contradicts itself did not open */
	c->result.image_end = l->header_file || l->payload_off ? l->payload_off + img->size
							       : atomic_load(&img->file->size);
	img_luks_check(l->header, add_defect, c);
	if (img->file->size < l->payload_off + img->size) /* version 2 may tell the disk's length */
		img_check_defect(c, "%s: truncated: ends at %" PRIu64 ", the disk at %" PRIu64 " needs %" PRIu64,
				 img->name, atomic_load(&img->file->size), l->payload_off,
				 l->payload_off + img->size);
	else if (left && l->payload_off)
		img_check_report(c, "%s: the last %" PRIu64 " bytes are no whole sector of %" PRIu64 " bytes: they are not used",
				 img->name, left, sector);
	return 0;
}

/*
 * Encryption of what the guest has: spec/qcow2.md, "Encryption". Tables, bitmaps and compressed clusters are
 * in clear text.
 */
#include <errno.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"

const struct img_option qcow2_open_options[] = {
	{ "encrypt.format", IMG_OPTION_STRING, "Which encryption the image is expected to have", NULL,
	  "aes,luks" },
	{ "encrypt.key-secret", IMG_OPTION_SECRET, "ID of secret providing the encryption key", NULL,
	  NULL },
	{ 0 },
};

static const char *method_name(const struct qcow2 *q)
{
	return q->header.crypt_method == QCOW2_CRYPT_AES ? "aes" : "luks";
}

int qcow2_check_encryption(const struct img *img, const struct img_opening *o, struct img_error *err)
{
	const char *format = img_options_string(o->options, "encrypt.format");

	if (!img->encrypted && format)
		return img_fail(err, -EINVAL,
				"%s: No encryption in image header, but options specified format '%s'",
				img->name, format);
	if (!img->encrypted && img_options_has(o->options, "encrypt.key-secret"))
		return img_fail(err, -EINVAL,
				"%s: No encryption in image header, but options specified a secret "
				"(encrypt.key-secret=%s)",
				img->name, img_options_string(o->options, "encrypt.key-secret"));
	if (format && strcmp(format, method_name(img->state)) != 0)
		return img_fail(err, -EINVAL,
				"%s: Header reported '%s' encryption format but options specify '%s'",
				img->name, method_name(img->state), format);
	return 0;
}

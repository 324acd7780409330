/* One passphrase for all encrypted images, as a program's callback gives it. */
#ifndef TESTS_SUPPORT_PASSPHRASE_H
#define TESTS_SUPPORT_PASSPHRASE_H

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/img.h"

static inline int answer_with(void *user, const struct img_secret_request *request, void *buf,
			      size_t size, size_t *len)
{
	*len = strlen(user);
	if (request->attempt || *len > size)
		return -EINVAL;
	memcpy(buf, user, *len);
	return 0;
}

/* For the program's whole life. */
static inline struct img_secrets *one_passphrase(const char *text)
{
	struct img_secrets *s = img_secrets_new();

	if (!s)
		abort();
	img_secrets_set_callback(s, answer_with, (void *)(uintptr_t)text);
	return s;
}

#endif

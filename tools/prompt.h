/* Passphrases from whoever sits at the terminal. */
#ifndef TOOLS_PROMPT_H
#define TOOLS_PROMPT_H

#include <stdbool.h>
#include <stddef.h>

struct img_secret_request;

/* Is somebody there, and not a script that stands in for another program's caller? */
bool prompt_is_possible(void);

/* An img_secret_fn: asks without echo; for a new image twice. */
int prompt_passphrase(void *user, const struct img_secret_request *request, void *buf, size_t size,
		      size_t *len);

#endif

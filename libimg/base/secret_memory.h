/*
 * Memory for keys, passphrases and what they are derived from: locked against swapping and left out
 * of core dumps, as far as the system's limits allow, and wiped before it is given back. Thread-safe.
 */
#ifndef LIBIMG_BASE_SECRET_MEMORY_H
#define LIBIMG_BASE_SECRET_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Zeroes, aligned to 64 bytes; pages of its own, so for few and rather large things. NULL: out of memory. */
void *img_secret_alloc(size_t bytes);
/* A copy of them, with a NUL behind it. NULL: out of memory. */
void *img_secret_copy(const void *bytes, size_t len);
/* Wipes all of it. NULL is fine. */
void img_secret_free(void *p);
/* Zeroes that no compiler leaves out: for what holds a secret for a moment. */
void img_secret_wipe(void *p, size_t bytes);
/* In a time that tells nothing about where they differ. */
bool img_secret_equal(const void *a, const void *b, size_t bytes);
/* Random bytes for keys and salts, from the kernel. -EIO, ... */
struct img_error;
int img_random_bytes(void *out, size_t bytes, struct img_error *err);

#endif

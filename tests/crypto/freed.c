/*
 * Loaded into a program (LD_PRELOAD): ends it by SIGABRT if memory is given back that still holds one of the byte
 * strings of FREED_SECRETS, which has them in hexadecimal, separated by colons.
 */
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
	SECRETS_MAX = 8,
	BYTES_MAX = 128,
};

extern void *__libc_malloc(size_t size);
extern void __libc_free(void *p);

static uint8_t secrets[SECRETS_MAX][BYTES_MAX];
static size_t lengths[SECRETS_MAX], count;

/* 16: it is none. */
static unsigned digit(char c)
{
	static const char digits[] = "0123456789abcdef";
	const char *at = c ? strchr(digits, c) : NULL;

	return at ? (unsigned)(at - digits) : 16;
}

__attribute__((constructor)) static void read_secrets(void)
{
	const char *at = getenv("FREED_SECRETS");

	while (at && *at && count < SECRETS_MAX) {
		size_t n = 0;

		while (digit(at[0]) < 16 && digit(at[1]) < 16 && n < BYTES_MAX) {
			secrets[count][n++] = (uint8_t)(digit(at[0]) << 4 | digit(at[1]));
			at += 2;
		}
		lengths[count] = n;
		count += n > 0;
		at += *at == ':' || *at;
	}
}

static void look(const void *p, size_t len)
{
	static const char found[] = "freed memory holds a secret\n";

	for (size_t i = 0; i < count; i++)
		if (memmem(p, len, secrets[i], lengths[i])) {
			if (write(STDERR_FILENO, found, sizeof(found) - 1) < 0)
				_exit(98);
			abort();
		}
}

/* NOLINTBEGIN(readability-inconsistent-declaration-parameter-name) */
void free(void *p)
{
	if (p)
		look(p, malloc_usable_size(p));
	__libc_free(p);
}

/* Always elsewhere, so that what is left behind is looked at. */
void *realloc(void *p, size_t size)
{
	size_t old = p ? malloc_usable_size(p) : 0;
	void *n;

	if (p && !size) {
		free(p);
		return NULL;
	}
	n = __libc_malloc(size);
	if (n && p) {
		memcpy(n, p, old < size ? old : size);
		free(p);
	}
	return n;
}
/* NOLINTEND(readability-inconsistent-declaration-parameter-name) */

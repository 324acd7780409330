/*
 * Loading libnbd: its functions are looked up once, when the first export is opened.
 */
#include "libimg/storage/nbd_library.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

static struct img_nbd_library library;
static const char *missing; /* a function that the library lacks; NULL: it is complete */
static bool loaded;

static void load_library(void)
{
	void *handle = dlopen("libnbd.so.0", RTLD_NOW | RTLD_LOCAL);

	if (!handle)
		return;
	loaded = true;
	/* POSIX has functions fit into what dlsym() gives; ISO C does not say so */
#define LOAD(name) \
	{ \
		union { \
			void *object; \
			__typeof__(library.name) function; \
		} u = { .object = dlsym(handle, "nbd_" #name) }; \
		library.name = u.function; \
		if (!u.object) \
			missing = "nbd_" #name; \
	}
	IMG_NBD_FUNCTIONS(LOAD)
#undef LOAD
}

int img_nbd_library(const struct img_nbd_library **out, struct img_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, load_library);
	if (!loaded)
		return img_fail(err, -ENOPKG, "NBD needs libnbd (libnbd.so.0), which is not installed");
	if (missing)
		return img_fail(err, -ENOPKG, "NBD needs libnbd 1.14 or newer: this one has no %s()",
				missing);
	*out = &library;
	return 0;
}

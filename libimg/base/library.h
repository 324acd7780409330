/*
 * Libraries that are loaded when something needs them, and not with the program: one that is not installed is then
 * missed by nobody else.
 */
#ifndef LIBIMG_BASE_LIBRARY_H
#define LIBIMG_BASE_LIBRARY_H

#include <dlfcn.h>

/*
 * library, a structure, has its member point to the function `name` of what dlopen() gave; `complete` stays true if there
 * is one. POSIX has functions fit into what dlsym() gives; ISO C does not say so.
 */
#define IMG_LIBRARY_LOAD(library, handle, member, name) \
	do { \
		union { \
			void *object; \
			__typeof__((library).member) function; \
		} u_ = { .object = dlsym(handle, name) }; \
		(library).member = u_.function; \
		(library).complete &= u_.object != NULL; \
	} while (0)

#endif

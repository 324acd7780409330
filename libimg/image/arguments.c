/*
 * Arguments of the public functions: unknown flags and reserved fields that are not zero are
 * refused.
 */
#include "libimg/image/arguments.h"

#include <errno.h>
#include <inttypes.h>

#include "libimg/base/arith.h"
#include "libimg/base/error.h"

enum {
	OPEN_FLAGS = IMG_OPEN_WRITE | IMG_OPEN_PROBE_WRITE | IMG_OPEN_NO_BACKING |
		     IMG_OPEN_SELF_ONLY | IMG_OPEN_CHECK | IMG_OPEN_SHARE | IMG_OPEN_DIRECT |
		     IMG_OPEN_TRY_DIRECT | IMG_OPEN_UNSAFE | IMG_OPEN_UNMAP |
		     IMG_OPEN_WRITETHROUGH | IMG_OPEN_NO_LOCK | IMG_OPEN_NO_READ_AHEAD |
		     IMG_OPEN_KEEP_ALLOCATED | IMG_OPEN_SALVAGE | IMG_OPEN_NO_DATA,
	/* What the handle of a new image may be asked for. */
	CREATE_FLAGS = IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT | IMG_OPEN_UNSAFE | IMG_OPEN_UNMAP |
		       IMG_OPEN_WRITETHROUGH | IMG_OPEN_NO_LOCK,
};

static int check_flags(const char *what, unsigned flags, unsigned allowed, struct img_error *err)
{
	static const struct {
		unsigned both;
		const char *names;
	} contrary[] = {
		{ IMG_OPEN_SHARE | IMG_OPEN_WRITE, "SHARE and WRITE" },
		{ IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT, "DIRECT and TRY_DIRECT" },
		{ IMG_OPEN_UNSAFE | IMG_OPEN_WRITETHROUGH, "UNSAFE and WRITETHROUGH" },
	};

	if (flags & ~allowed)
		return img_fail(err, -EINVAL, "%s: flags are %#x, of which %#x are unknown here", what,
				flags, flags & ~allowed);
	for (size_t i = 0; i < IMG_ARRAY_LEN(contrary); i++) {
		if ((flags & contrary[i].both) == contrary[i].both)
			return img_fail(err, -EINVAL, "%s: flags: %s contradict each other", what,
					contrary[i].names);
	}
	return 0;
}

int img_check_reserved(const char *what, const uint64_t *reserved, size_t n, struct img_error *err)
{
	for (size_t i = 0; i < n; i++) {
		if (reserved[i])
			return img_fail(err, -EINVAL,
					"%s: reserved[%zu] of the options is %" PRIu64 ", "
					"expected 0",
					what, i, reserved[i]);
	}
	return 0;
}

int img_check_io_kind(enum img_io_kind io, struct img_error *err)
{
	if ((unsigned)io <= IMG_IO_THREADS)
		return 0;
	return img_fail_range(err, -EINVAL, (unsigned)io, 0, IMG_IO_THREADS, "kind of I/O");
}

int img_check_open_options(const char *path, const struct img_open_options *o,
			   struct img_error *err)
{
	const char *what = path ? path : "an image";
	int rc;

	if (!o)
		return 0;
	rc = check_flags(what, o->flags, OPEN_FLAGS, err);
	if (!rc)
		rc = check_flags(what, o->backing_flags, OPEN_FLAGS, err);
	if (!rc &&
	    o->backing_flags & (o->have_backing_flags ? IMG_OPEN_WRITE | IMG_OPEN_CHECK : ~0u))
		rc = img_fail(err, -EINVAL, "%s: flags of the backing images: found %#x", what,
			      o->backing_flags);
	if (!rc)
		rc = img_check_reserved(what, o->reserved, IMG_ARRAY_LEN(o->reserved), err);
	return rc ? rc : img_check_io_kind(o->io, err);
}

int img_check_create_options(const char *path, const struct img_create_options *o,
			     struct img_error *err)
{
	unsigned flags = o->flags & ~(unsigned)IMG_OPEN_SHARE; /* that is for the backing image */
	int rc = path ? 0 : img_fail(err, -EINVAL, "an image to be created has no name");

	if (!rc)
		rc = check_flags(path, flags, CREATE_FLAGS, err);
	if (!rc)
		rc = img_check_reserved(path, o->reserved, IMG_ARRAY_LEN(o->reserved), err);
	return rc ? rc : img_check_io_kind(o->io, err);
}

int img_check_copy_options(const struct img_copy_options *o, struct img_error *err)
{
	int rc = img_check_reserved("copying", o->reserved, IMG_ARRAY_LEN(o->reserved), err);

	return rc ? rc : img_check_io_kind(o->io, err);
}

int img_check_compare_options(const struct img_compare_options *o, struct img_error *err)
{
	int rc = img_check_reserved("comparing", o->reserved, IMG_ARRAY_LEN(o->reserved), err);

	return rc ? rc : img_check_io_kind(o->io, err);
}

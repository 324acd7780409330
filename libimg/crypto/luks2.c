/* stub */
#include <errno.h>
#include "libimg/base/error.h"
#include "libimg/crypto/luks_state.h"
int img_luks2_open(struct img_luks *l, struct img_error *err)
{
	return img_fail(err, -ENOTSUP, "%s: LUKS version 2 is not supported", l->area.name);
}

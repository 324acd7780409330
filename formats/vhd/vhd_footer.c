/* The footer at the end of a file; of a short one, by Virtual PC before 2004, the last byte is missing. */
#include <errno.h>

#include "formats/vhd/vhd_state.h"

int vhd_find_tail(struct img_storage *s, struct vhd_footer *out, uint64_t *off, struct img_error *err)
{
	uint8_t bytes[VHD_FOOTER_BYTES + 1] = { 0 }; /* a short one has lost its last byte, a zero */
	uint64_t at;
	int rc;

	if (s->size < VHD_SHORT_FOOTER_BYTES)
		return -ENODATA;
	at = s->size - min_u64(s->size, VHD_FOOTER_BYTES);
	rc = img_storage_read(s, at, bytes, (size_t)(s->size - at), err);
	if (rc)
		return rc;
	*off = at;
	if (s->size - at == VHD_FOOTER_BYTES && !vhd_parse_footer(bytes, out, NULL))
		return 0;
	*off = s->size - VHD_SHORT_FOOTER_BYTES;
	return vhd_parse_footer(bytes + (*off - at), out, NULL) ? -ENODATA : 0;
}

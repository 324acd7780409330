/*
 * The two headers. The valid one with the higher sequence number counts; the other one is always
 * written first, so that one is whole at any time.
 */
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include "formats/vhdx/vhdx_state.h"
#include "libimg/base/arith.h"

static bool same_content(const struct vhdx_header *a, const struct vhdx_header *b)
{
	return img_guid_equal(a->file_write, b->file_write) &&
	       img_guid_equal(a->data_write, b->data_write) &&
	       img_guid_equal(a->log_guid, b->log_guid) && a->log_version == b->log_version &&
	       a->log_off == b->log_off && a->log_bytes == b->log_bytes;
}

static int check_log_range(const struct img *img, const struct vhdx_header *h,
			   struct img_error *err)
{
	if (!h->log_bytes || !is_aligned_u64(h->log_off | h->log_bytes, VHDX_MIB) ||
	    h->log_off < VHDX_MIB || !range_in(h->log_off, h->log_bytes, img->file->size))
		return img_fail(err, -EUCLEAN,
				"%s: the log is %" PRIu64 " bytes at %" PRIu64
				", expected whole MiB from 1 MiB on, inside the file's %" PRIu64
				" bytes",
				img->name, h->log_bytes, h->log_off, (uint64_t)img->file->size);
	if (!img_guid_is_zero(h->log_guid) && h->log_version)
		return img_fail(err, -ENOTSUP,
				"%s: the log, which has to be replayed: found version %u, "
				"known here is 0",
				img->name, h->log_version);
	return 0;
}

/* Both, those that are valid; at least one is. */
static int read_both(struct img_storage *s, struct vhdx_header h[2], bool valid[2],
		     struct img_error *err)
{
	struct img_error why[2] = { 0 };
	int rc = 0;

	for (unsigned i = 0; i < 2 && !rc; i++) {
		uint8_t bytes[VHDX_HEADER_BYTES];

		rc = img_storage_read(s, VHDX_HEADER_OFF(i), bytes, sizeof(bytes), err);
		if (!rc)
			valid[i] = !vhdx_parse_header(bytes, &h[i], &why[i]);
	}
	if (!rc && !valid[0] && !valid[1])
		rc = img_fail(err, -EUCLEAN,
			      "header 1 at %" PRIu64 ": %s; header 2 at %" PRIu64 ": %s",
			      VHDX_HEADER_OFF(0), img_error_text(&why[0]), VHDX_HEADER_OFF(1),
			      img_error_text(&why[1]));
	img_error_clear(&why[0]);
	img_error_clear(&why[1]);
	if (!rc && valid[0] && valid[1] && h[0].sequence == h[1].sequence &&
	    !same_content(&h[0], &h[1]))
		rc = img_fail(err, -EUCLEAN,
			      "found sequence number %" PRIu64
			      " in both headers, which differ otherwise",
			      h[0].sequence);
	return rc;
}

static unsigned choose(const struct vhdx_header h[2], const bool valid[2])
{
	return valid[0] && valid[1] ? h[1].sequence > h[0].sequence : valid[1];
}

int vhdx_current_header(struct img_storage *s, struct vhdx_header *out, struct img_error *err)
{
	struct vhdx_header h[2] = { 0 };
	bool valid[2];
	int rc = read_both(s, h, valid, err);

	if (!rc)
		*out = h[choose(h, valid)];
	return rc;
}

int vhdx_read_headers(struct img *img, struct vhdx *v, struct img_error *err)
{
	struct vhdx_header h[2] = { 0 };
	int rc = read_both(img->file, h, v->header_valid, err);

	if (rc)
		return img_error_prefix(err, rc, "%s", img->name);
	v->headers_alike = v->header_valid[0] && v->header_valid[1] && same_content(&h[0], &h[1]);
	v->current = choose(h, v->header_valid);
	v->header = h[v->current];
	return check_log_range(img, &v->header, err);
}

int vhdx_write_headers(struct img *img, struct vhdx *v, struct img_error *err)
{
	uint8_t bytes[VHDX_HEADER_BYTES];

	for (int i = 0; i < 2; i++) {
		unsigned other = !v->current;
		int rc;

		v->header.sequence++;
		vhdx_encode_header(&v->header, bytes);
		rc = img_storage_write(img->file, VHDX_HEADER_OFF(other), bytes, sizeof(bytes),
				       err);
		if (!rc)
			rc = vhdx_sync(img, err);
		if (rc)
			return rc;
		v->current = other;
		v->header_valid[other] = true;
	}
	v->headers_alike = true;
	return 0;
}

/*
 * The GUIDs of an image that was made just now are known to nobody: they stay, and what is random
 * elsewhere follows from them, so that the same image made twice is the same bytes.
 */
int vhdx_new_guid(const struct img *img, const char *label, uint8_t out[IMG_GUID_BYTES],
		  struct img_error *err)
{
	const struct vhdx *v = img->state;
	uint64_t identity[2] = { 0, 0 };

	if (img->created)
		memcpy(identity, v->header.data_write, sizeof(identity));
	return img_guid_new(identity, label, out, err);
}

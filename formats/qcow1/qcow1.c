/*
 * qcow version 1: spec/qcow.md. Opening, closing, encryption; the other files are listed in qcow1_state.h.
 *
 * header, backing file name, L1 table | L2 tables, clusters and compressed data
 */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow1/qcow1_state.h"
#include "libimg/base/arith.h"
#include "libimg/crypto/legacy_aes.h"

const struct img_option qcow1_open_options[] = {
	{ "encrypt.format", IMG_OPTION_STRING, "Which encryption the image is expected to have", NULL, "aes" },
	{ "encrypt.key-secret", IMG_OPTION_SECRET, "ID of secret providing the encryption key", NULL, NULL },
	{ 0 },
};

static int qcow1_probe(const uint8_t *head, size_t len, const uint8_t *tail, uint64_t file_size)
{
	(void)tail;
	(void)file_size;
	return qcow1_is_qcow1(head, len) ? 100 : 0;
}

/* ---- The header ---- */

static void place_tables(struct qcow1 *q)
{
	const struct qcow1_header *h = &q->header;

	q->tables.l1_off = h->l1_off;
	q->tables.l1_entries = qcow1_l1_entries(h, h->size);
	q->tables.name_off = h->name_off;
	q->tables.name_bytes = h->name_off ? h->name_bytes : 0;
}

int qcow1_write_header(struct img *img, const struct qcow1_header *h, struct img_error *err)
{
	struct qcow1 *q = img->state;
	uint8_t bytes[QCOW1_HEADER_BYTES];
	int rc;

	qcow1_encode_header(h, bytes);
	rc = img_tables_write(&q->tables, 0, bytes, sizeof(bytes), err);
	if (!rc)
		rc = img_tables_sync(&q->tables, err);
	if (rc)
		return rc;
	q->header = *h;
	place_tables(q);
	return 0;
}

static int l1_moved(struct img_tables *t, uint64_t off, struct img_error *err)
{
	struct qcow1 *q = t->img->state;
	struct qcow1_header h = q->header;

	h.l1_off = off;
	return qcow1_write_header(t->img, &h, err);
}

static int name_moved(struct img_tables *t, uint64_t off, struct img_error *err)
{
	struct qcow1 *q = t->img->state;
	struct qcow1_header h = q->header;

	h.name_off = off;
	return qcow1_write_header(t->img, &h, err);
}

/* ---- Opening ---- */

static int read_header(struct img *img, struct qcow1_header *h, struct img_error *err)
{
	uint8_t bytes[QCOW1_HEADER_BYTES];
	int rc;

	if (img->file->size < sizeof(bytes))
		return img_fail(err, -EMEDIUMTYPE, "%s: not a qcow image: it has %" PRIu64 " bytes", img->name,
				(uint64_t)img->file->size);
	rc = img_storage_read(img->file, 0, bytes, sizeof(bytes), err);
	if (rc)
		return rc;
	rc = qcow1_parse_header(bytes, sizeof(bytes), h, err);
	return rc ? img_error_prefix(err, rc, "%s: header", img->name) : 0;
}

static int check_places(const struct img *img, const struct qcow1_header *h, struct img_error *err)
{
	uint64_t entries = qcow1_l1_entries(h, h->size), size = img->file->size;

	if (!range_in(h->l1_off, entries * QCOW1_ENTRY_BYTES, size))
		return img_fail(err, -EUCLEAN, "%s: truncated: ends at %" PRIu64 ", the L1 table needs %" PRIu64,
				img->name, size, h->l1_off + entries * QCOW1_ENTRY_BYTES);
	return 0;
}

static int read_backing(struct img *img, const struct qcow1_header *h, struct img_error *err)
{
	char *name;
	int rc;

	if (!h->name_off || !h->name_bytes)
		return 0;
	if (!range_in(h->name_off, h->name_bytes, img->file->size))
		return img_fail(err, -EUCLEAN,
				"%s: header: backing file name is %" PRIu32 " bytes at %" PRIu64
				", expected inside the file's %" PRIu64 " bytes",
				img->name, h->name_bytes, h->name_off, (uint64_t)img->file->size);
	name = calloc(1, h->name_bytes + 1);
	if (!name)
		return qcow1_no_memory(img, err);
	rc = img_storage_read(img->file, h->name_off, name, h->name_bytes, err);
	if (!rc && strlen(name) != h->name_bytes)
		rc = img_fail(err, -EUCLEAN, "%s: backing file name at %" PRIu64 ": it has a zero byte",
			      img->name, h->name_off);
	if (rc)
		free(name);
	else
		img->backing_name = name;
	return rc;
}

static int check_encryption(const struct img *img, const struct img_opening *o, struct img_error *err)
{
	const char *format = img_options_string(o->options, "encrypt.format");

	if (!img->encrypted && format)
		return img_fail(err, -EINVAL,
				"%s: No encryption in image header, but options specified format '%s'",
				img->name, format);
	if (!img->encrypted && img_options_has(o->options, "encrypt.key-secret"))
		return img_fail(err, -EINVAL,
				"%s: No encryption in image header, but options specified a secret "
				"(encrypt.key-secret=%s)",
				img->name, img_options_string(o->options, "encrypt.key-secret"));
	return 0;
}

static int unlock(void *user, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	struct qcow1 *q = user;

	return img_legacy_aes_cipher(passphrase, len, &q->tables.cipher, err);
}

static int open_cipher(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct qcow1 *q = img->state;

	if (!img->encrypted || o->no_data)
		return 0;
	if (o->handover && *o->handover) {
		q->tables.cipher = *o->handover;
		*o->handover = NULL;
		return 0;
	}
	return o->passphrase(o, "encrypt.key-secret", unlock, q, err);
}

static void describe_tables(struct img *img, struct qcow1 *q)
{
	const struct qcow1_header *h = &q->header;
	unsigned len_shift = 63 - h->cluster_bits;

	q->tables = (struct img_tables){
		.img = img,
		.cluster_bytes = UINT64_C(1) << h->cluster_bits,
		.table_entries = UINT64_C(1) << h->l2_bits,
		.table_align = QCOW1_ENTRY_BYTES,
		.header_end = QCOW1_HEADER_BYTES,
		/* Compressed data has the fewest bits for its offset. */
		.limit = UINT64_C(1) << len_shift,
		.big_endian = true,
		.compressed = true,
		.len_shift = len_shift,
		.l1_moved = l1_moved,
		.name_moved = name_moved,
	};
	place_tables(q);
}

static int open_parts(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct qcow1 *q = img->state;
	const struct qcow1_header *h = &q->header;
	int rc = o->salvage ? 0 : check_places(img, h, err);

	if (!rc)
		rc = read_backing(img, h, err);
	if (rc)
		return rc;
	img->size = h->size;
	img->unit_bytes = UINT64_C(1) << h->cluster_bits;
	img->encrypted = h->crypt_method != QCOW1_CRYPT_NONE;
	/* Compressed clusters would be in clear text. */
	img->compress_codec = img->encrypted || img->unit_bytes > QCOW1_WINDOW_BYTES
				      ? NULL
				      : &img_codec_deflate;
	describe_tables(img, q);
	q->tables.for_check = o->for_check;
	rc = check_encryption(img, o, err);
	if (!rc)
		rc = open_cipher(img, o, err);
	if (!rc && img->writable && !o->for_check)
		rc = img_tables_load(&q->tables, err);
	return rc;
}

static void qcow1_close(struct img *img)
{
	struct qcow1 *q = img->state;

	img_tables_free(&q->tables);
	img_cipher_free(q->tables.cipher);
	free(q);
	img->state = NULL;
}

static int qcow1_open(struct img *img, struct img_opening *o, struct img_error *err)
{
	struct qcow1 *q = calloc(1, sizeof(*q));
	int rc = q ? read_header(img, &q->header, err) : qcow1_no_memory(img, err);

	if (rc) {
		free(q);
		return rc;
	}
	img->state = q;
	rc = open_parts(img, o, err);
	if (rc) {
		img_forget_backing(img);
		qcow1_close(img);
		return rc;
	}
	img->file->may_grow_ahead = img->writable; /* only the tables say what is used */
	return 0;
}

static int qcow1_set_writable(struct img *img, bool writable, struct img_error *err)
{
	struct qcow1 *q = img->state;
	int rc = 0;

	img_tables_free(&q->tables);
	if (writable && !q->tables.for_check)
		rc = img_tables_load(&q->tables, err);
	img->file->may_grow_ahead = writable && !rc;
	return rc;
}

/* ---- Reading and writing ---- */

static int check_unlocked(const struct img *img, struct img_req *req)
{
	const struct qcow1 *q = img->state;

	if (!img->encrypted || q->tables.cipher)
		return 0;
	return img_fail(img_req_error(req), -ENOKEY, "%s: it is encrypted, and was opened without its passphrase",
			img->name);
}

static int qcow1_map(struct img *img, struct img_req *req, uint64_t off, uint64_t len, struct img_extent *out)
{
	const struct qcow1 *q = img->state;
	int rc = check_unlocked(img, req);

	return rc ? rc : img_tables_map(&q->tables, req, off, len, &img_codec_deflate, out);
}

static int qcow1_plan_write(struct img *img, struct img_req *req, enum img_op op, uint64_t off, uint64_t len,
			    struct img_plan *plan)
{
	struct qcow1 *q = img->state;
	int rc = check_unlocked(img, req);

	return rc ? rc : img_tables_plan(&q->tables, req, op, off, len, plan);
}

static void qcow1_commit(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct qcow1 *q = img->state;

	img_tables_commit(&q->tables, req, plan);
}

static void qcow1_drop(struct img *img, struct img_req *req, const struct img_plan *plan)
{
	struct qcow1 *q = img->state;

	(void)req;
	img_tables_drop(&q->tables, plan);
}

static int qcow1_release(struct img *img, struct img_req *req, struct img_storage *s, uint64_t file_off,
			 uint64_t len)
{
	struct qcow1 *q = img->state;

	(void)req;
	(void)s;
	img_tables_release(&q->tables, file_off, len);
	return 0;
}

static void qcow1_zeroing(const struct img *img, struct img_zeroing *out)
{
	const struct qcow1 *q = img->state;

	img_tables_zeroing(&q->tables, out);
}

static int qcow1_make_empty(struct img *img, struct img_error *err)
{
	struct qcow1 *q = img->state;

	if (q->tables.for_check)
		return img_fail(err, -EINVAL, "%s: it was opened for a check only", img->name);
	return img_tables_make_empty(&q->tables, err);
}

static int qcow1_finish(struct img *img, struct img_error *err)
{
	struct qcow1 *q = img->state;

	return img_tables_finish(&q->tables, err);
}

static int qcow1_check(struct img *img, struct img_check *check, struct img_error *err)
{
	struct qcow1 *q = img->state;

	return img_tables_check(&q->tables, check, err);
}

static int qcow1_info(struct img *img, struct img_value *top, struct img_value *specific,
		      struct img_error *err)
{
	(void)specific;
	(void)err;
	img_value_add_uint(top, "cluster-size", img->unit_bytes);
	return 0;
}

const struct img_driver qcow1_driver = {
	.name = "qcow",
	.features = IMG_DRIVER_BACKING | IMG_DRIVER_COMPRESS,
	.probe = qcow1_probe,
	.open_options = qcow1_open_options,
	.open = qcow1_open,
	.close = qcow1_close,
	.set_writable = qcow1_set_writable,
	.finish = qcow1_finish,
	.map = qcow1_map,
	.plan_write = qcow1_plan_write,
	.commit = qcow1_commit,
	.drop = qcow1_drop,
	.zeroing = qcow1_zeroing,
	.release = qcow1_release,
	.extend = qcow1_extend,
	.resize = qcow1_resize,
	.set_backing = qcow1_set_backing,
	.make_empty = qcow1_make_empty,
	.create_options = qcow1_create_options,
	.create_check = qcow1_create_check,
	.create = qcow1_create,
	.check = qcow1_check,
	.info = qcow1_info,
};

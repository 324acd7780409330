/*
 * Making a qcow2 image: spec/qcow2.md, "A fresh image". All places are computed beforehand:
 *
 *	header | refcount table | refcount blocks | L1 table | LUKS header | [L2 table, its data clusters]...
 *
 * the last part only with preallocation (with a data file: without the data clusters). Without it, and
 * without LUKS, the file ends after the last L1 entry, and the L1 table is a hole. The header is written last.
 */
#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "formats/qcow2/qcow2_state.h"
#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

/* In the order in which qemu-img reports them. Those with a default are always reported. */
const struct img_option qcow2_create_options[] = {
	{ "encryption", IMG_OPTION_BOOL, "Encrypt the image with format 'aes'", NULL, NULL },
	{ "encrypt.format", IMG_OPTION_STRING, "Encrypt the image, format choices: 'aes', 'luks'",
	  NULL, "aes,luks" },
	{ "encrypt.key-secret", IMG_OPTION_SECRET, "ID of secret providing the encryption key",
	  NULL, NULL },
	{ "encrypt.cipher-alg", IMG_OPTION_STRING, "Name of encryption cipher algorithm", NULL,
	  NULL },
	{ "encrypt.cipher-mode", IMG_OPTION_STRING, "Name of encryption cipher mode", NULL,
	  NULL },
	{ "encrypt.ivgen-alg", IMG_OPTION_STRING, "Name of IV generator algorithm", NULL, NULL },
	{ "encrypt.ivgen-hash-alg", IMG_OPTION_STRING, "Name of IV generator hash algorithm",
	  NULL, NULL },
	{ "encrypt.hash-alg", IMG_OPTION_STRING, "Name of encryption hash algorithm", NULL,
	  NULL },
	{ "encrypt.iter-time", IMG_OPTION_NUMBER, "Time to spend in PBKDF in milliseconds", NULL,
	  NULL },
	{ "cluster_size", IMG_OPTION_SIZE, "qcow2 cluster size", "65536", NULL },
	{ "extended_l2", IMG_OPTION_BOOL, "Extended L2 tables", "off", NULL },
	{ "preallocation", IMG_OPTION_STRING, "Preallocation mode (off, metadata, falloc, full)",
	  NULL, "off,metadata,falloc,full" },
	{ "compression_type", IMG_OPTION_STRING,
	  "Compression method used for image cluster compression", "zlib", "zlib,zstd" },
	{ "compression_level", IMG_OPTION_NUMBER,
	  "How hard to compress: 1 to 12 with zlib, 1 to 22 with zstd; for convert -c", NULL,
	  NULL },
	{ "size", IMG_OPTION_SIZE, "Virtual disk size", NULL, NULL },
	{ "compat", IMG_OPTION_STRING, "Compatibility level (v2 [0.10] or v3 [1.1])", NULL,
	  "0.10,1.1,v2,v3" },
	{ "backing_file", IMG_OPTION_STRING, "File name of a base image", NULL, NULL },
	{ "backing_fmt", IMG_OPTION_STRING, "Image format of the base image", NULL, NULL },
	{ "data_file", IMG_OPTION_PATH, "File name of an external data file", NULL, NULL },
	{ "data_file_raw", IMG_OPTION_BOOL,
	  "The external data file must stay valid as a raw image", NULL, NULL },
	{ "lazy_refcounts", IMG_OPTION_BOOL, "Postpone refcount updates", "off", NULL },
	{ "refcount_bits", IMG_OPTION_NUMBER, "Width of a reference count entry in bits", "16",
	  NULL },
	{ 0 },
};

/* What is asked for, in the format's terms. */
struct parameters {
	struct qcow2_header header;
	struct qcow2_geometry geometry;
	const char *data_file; /* borrowed; NULL: none */
	bool raw;	       /* data_file_raw */
	bool mapped;	       /* all L2 tables are made */
	struct qcow2_encryption encryption;
};

/* Where things go, in clusters from the start of the file. */
struct plan {
	uint64_t refcount_table, refcount_table_clusters;
	uint64_t blocks, block_count;
	uint64_t l1, l1_clusters;
	uint64_t crypto, crypto_clusters; /* the LUKS header */
	uint64_t l2;			  /* the first L2 table; mapped only */
	uint64_t l2_stride;		  /* from one L2 table to the next */
	uint64_t l2_tables;		  /* = L1 entries in use */
	uint64_t data_clusters;		  /* of the guest */
	uint64_t total;
};

static bool is_v2(const struct img_options *o)
{
	const char *compat = img_options_string(o, "compat"); /* NULL: version 3 */

	return compat && (!strcmp(compat, "0.10") || !strcmp(compat, "v2"));
}

/* Options that need version 3. */
static int check_version(const struct img_options *o, struct img_error *err)
{
	static const char need[] =
		"supported with compatibility level 1.1 and above (use compat=1.1 or "
		"greater)";

	if (!is_v2(o))
		return 0;
	if (img_options_bool(o, "lazy_refcounts"))
		return img_fail(err, -EINVAL, "Lazy refcounts only %s", need);
	if (img_options_number(o, "refcount_bits") != 16)
		return img_fail(err, -EINVAL,
				"Different refcount widths than 16 bits are only %s", need);
	if (img_options_bool(o, "extended_l2"))
		return img_fail(err, -EINVAL, "Extended L2 entries are only %s", need);
	if (strcmp(img_options_string(o, "compression_type"), "zlib"))
		return img_fail(err, -EINVAL, "Non-zlib compression type is only %s", need);
	if (img_options_has(o, "data_file"))
		return img_fail(err, -EINVAL, "External data files are only %s", need);
	return 0;
}

/* Values alone and in company. */
static int check_options(const struct img_creating *c, struct img_error *err)
{
	const struct img_options *o = c->options;
	uint64_t cluster = img_options_number(o, "cluster_size");
	uint64_t refcount_bits = img_options_number(o, "refcount_bits");
	const char *data_file = img_options_string(o, "data_file");
	bool raw = img_options_bool(o, "data_file_raw"),
	     extended = img_options_bool(o, "extended_l2");

	if (!is_pow2_u64(cluster) || cluster < UINT64_C(1) << QCOW2_MIN_CLUSTER_BITS ||
	    cluster > UINT64_C(1) << QCOW2_MAX_CLUSTER_BITS)
		return img_fail(err, -EINVAL,
				"Cluster size must be a power of two between 512 and 2048k");
	if (!is_pow2_u64(refcount_bits) || refcount_bits > 64)
		return img_fail(err, -EINVAL,
				"Refcount width must be a power of two and may not exceed "
				"64 bits");
	if (extended && cluster < UINT64_C(1) << QCOW2_MIN_EXTENDED_BITS)
		return img_fail(err, -EINVAL,
				"Extended L2 entries are only supported with cluster sizes "
				"of at least 16384 bytes");
	if (raw && !data_file)
		return img_fail(err, -EINVAL, "data_file_raw requires data_file");
	if (data_file && !*data_file)
		return img_fail(err, -EINVAL, "data_file: the name is empty");
	if (raw && c->backing_name)
		return img_fail(err, -EINVAL,
				"Backing file and data_file_raw cannot be used at the same "
				"time");
	/* A preallocated cluster hides the backing file; unallocated subclusters do not. */
	if (c->backing_name && c->preallocate != IMG_PREALLOCATE_OFF && !extended)
		return img_fail(err, -EINVAL,
				"Backing file and preallocation can only be used at the same "
				"time if extended_l2 is on");
	if (c->backing_name && strlen(c->backing_name) > QCOW2_MAX_BACKING_NAME)
		return img_fail(err, -EINVAL, "Backing file name too long: %zu bytes, expected at "
					      "most %d",
				strlen(c->backing_name), QCOW2_MAX_BACKING_NAME);
	if (c->backing_format && strlen(c->backing_format) > QCOW2_MAX_BACKING_FORMAT)
		return img_fail(err, -EINVAL,
				"Backing format name too long: '%s', expected at most %d bytes",
				c->backing_format, QCOW2_MAX_BACKING_FORMAT);
	return 0;
}

/* The level is not stored: it matters to what is written right after. */
static int resolve_compression(struct img_creating *c, struct img_error *err)
{
	const struct img_options *o = c->options;
	const char *type = img_options_string(o, "compression_type");
	const struct img_codec *codec = strcmp(type, "zstd") ? &img_codec_deflate : &img_codec_zstd;
	uint64_t level = img_options_number(o, "compression_level");

	if (c->compress && img_options_string(o, "data_file"))
		return img_fail(err, -ENOTSUP,
				"Compression and data_file not supported at the same time: clusters "
				"in a data file lie where the guest has them");
	if (!img_options_has(o, "compression_level"))
		return 0;
	if (level < 1 || level > (uint64_t)codec->max_level)
		return img_fail_range(err, -EINVAL, level, 1, (uint64_t)codec->max_level,
				      "compression_level with %s", type);
	if (!c->compress)
		return img_fail(err, -EINVAL,
				"compression_level has no effect unless data is compressed while "
				"the image is created (convert -c): images do not store it");
	c->compress_level = (int)level;
	return 0;
}

static int make_parameters(const struct img_creating *c, struct parameters *w, struct img_error *err)
{
	const struct img_options *o = c->options;
	bool zstd = !strcmp(img_options_string(o, "compression_type"), "zstd");
	struct qcow2_header *h = &w->header;
	int rc;

	*w = (struct parameters){
		.data_file = img_options_string(o, "data_file"),
		.raw = img_options_bool(o, "data_file_raw"),
	};
	rc = qcow2_create_encryption(c, &w->encryption, err);
	if (rc)
		return rc;
	h->crypt_method = w->encryption.method;
	h->version = is_v2(o) ? 2 : 3;
	h->cluster_bits = log2_u64(img_options_number(o, "cluster_size"));
	h->refcount_order = log2_u64(img_options_number(o, "refcount_bits"));
	h->size = c->size;
	if (zstd) {
		h->compression = QCOW2_COMPRESSION_ZSTD;
		h->incompatible |= QCOW2_INCOMPATIBLE_COMPRESSION;
	}
	if (img_options_bool(o, "extended_l2"))
		h->incompatible |= QCOW2_INCOMPATIBLE_EXTENDED_L2;
	if (img_options_bool(o, "lazy_refcounts"))
		h->compatible |= QCOW2_COMPATIBLE_LAZY_REFCOUNTS;
	if (w->data_file)
		h->incompatible |= QCOW2_INCOMPATIBLE_DATA_FILE;
	if (w->raw)
		h->autoclear |= QCOW2_AUTOCLEAR_DATA_FILE_RAW;
	qcow2_geometry(h, &w->geometry);
	/* What the guest sees in a raw data file has to be mapped from the start. */
	w->mapped = w->raw || c->preallocate != IMG_PREALLOCATE_OFF;
	return 0;
}

/*
 * Places for everything, and the header's fields that say so. The refcounts count their own blocks
 * and table: grow them until they cover all. -EFBIG.
 */
static int make_plan(struct parameters *w, struct plan *p, struct img_error *err)
{
	const struct qcow2_geometry *g = &w->geometry;
	struct qcow2_header *h = &w->header;
	uint64_t tables = qcow2_l1_needed(g, h->size), rest;

	assert(g->cluster_bytes && g->block_entries); /* options were checked */
	if (tables > QCOW2_MAX_L1_BYTES / 8)
		goto too_large;
	*p = (struct plan){
		.refcount_table = 1,
		.l1_clusters = div_round_up_u64(tables * 8, g->cluster_bytes),
		.crypto_clusters = div_round_up_u64(w->encryption.header_bytes, g->cluster_bytes),
		.l2_tables = tables,
		.l2_stride = 1 + (w->data_file ? 0 : g->l2_entries),
		.data_clusters = div_round_up_u64(h->size, g->cluster_bytes),
		.refcount_table_clusters = 1,
		.block_count = 1,
	};
	/* At most 2^22 tables of 2^18 clusters: no overflow. */
	rest = 1 + p->l1_clusters + p->crypto_clusters;
	if (w->mapped)
		rest += tables + (w->data_file ? 0 : p->data_clusters);
	for (;;) {
		uint64_t blocks, clusters;

		p->total = rest + p->refcount_table_clusters + p->block_count;
		blocks = div_round_up_u64(p->total, g->block_entries);
		clusters = div_round_up_u64(blocks * 8, g->cluster_bytes);
		if (blocks <= p->block_count && clusters <= p->refcount_table_clusters)
			break;
		p->block_count = max_u64(blocks, p->block_count);
		p->refcount_table_clusters = max_u64(clusters, p->refcount_table_clusters);
	}
	if (p->refcount_table_clusters * g->cluster_bytes > QCOW2_MAX_REFTABLE_BYTES ||
	    p->total > (UINT64_C(1) << 56) / g->cluster_bytes)
		goto too_large;
	p->blocks = p->refcount_table + p->refcount_table_clusters;
	p->l1 = p->blocks + p->block_count;
	p->crypto = p->l1 + p->l1_clusters;
	p->l2 = p->crypto + p->crypto_clusters;
	h->l1_entries = (uint32_t)tables;
	h->l1_off = tables ? p->l1 * g->cluster_bytes : 0;
	h->refcount_table_off = p->refcount_table * g->cluster_bytes;
	h->refcount_table_clusters = (uint32_t)p->refcount_table_clusters;
	return 0;
too_large:
	img_fail(err, -EFBIG,
		 "The image size is too large for file format 'qcow2' (try using a larger cluster "
		 "size)");
	return -EFBIG;
}

/* The first cluster; the caller frees it. */
static int make_first(const struct img_creating *c, struct parameters *w, const struct plan *p,
		      uint8_t **out, struct img_error *err)
{
	struct qcow2_extensions x = { 0 };
	uint8_t *first = malloc(w->geometry.cluster_bytes);
	int rc;

	if (!first)
		return img_fail(err, -ENOMEM, "out of memory");
	if (c->backing_name && c->backing_format)
		memcpy(x.backing_format, c->backing_format, strlen(c->backing_format));
	if (w->data_file) {
		x.data_file = (const uint8_t *)w->data_file;
		x.data_file_bytes = (uint32_t)strlen(w->data_file);
	}
	if (p->crypto_clusters) {
		x.crypto_off = p->crypto * w->geometry.cluster_bytes;
		x.crypto_bytes = w->encryption.header_bytes;
	}
	rc = qcow2_encode_first(&w->header, &x, c->backing_name, first, err);
	if (rc) {
		free(first);
		return rc;
	}
	*out = first;
	return 0;
}

int qcow2_create_check(struct img_creating *c, struct img_error *err)
{
	struct parameters w;
	struct plan p = { 0 };
	uint8_t *first = NULL;
	int rc;

	rc = check_version(c->options, err);
	if (!rc)
		rc = check_options(c, err);
	if (!rc)
		rc = resolve_compression(c, err);
	if (!rc)
		rc = make_parameters(c, &w, err);
	if (!rc)
		rc = make_plan(&w, &p, err);
	if (!rc)
		rc = make_first(c, &w, &p, &first, err);
	if (!rc)
		free(first);
	return rc;
}

/* Write `count` big-endian offsets, `step` apart, from cluster `at` on, then zeroes. */
static int write_offsets(const struct img_creating *c, const struct parameters *w, uint64_t at,
			 uint64_t clusters, uint64_t count, uint64_t first, uint64_t step,
			 uint64_t flags, struct img_error *err)
{
	uint64_t bytes = w->geometry.cluster_bytes, per = bytes / 8;
	uint8_t *buf = malloc(bytes);
	int rc = 0;

	if (!buf)
		return img_fail(err, -ENOMEM, "out of memory");
	for (uint64_t n = 0; !rc && n < clusters; n++) {
		memset(buf, 0, bytes);
		for (uint64_t i = 0; i < per && n * per + i < count; i++)
			be64_store(buf + i * 8, (first + (n * per + i) * step) * bytes | flags);
		rc = img_storage_write(c->file, (at + n) * bytes, buf, bytes, err);
	}
	free(buf);
	return rc;
}

/* All clusters of the file are used once. */
static int write_refcounts(const struct img_creating *c, const struct parameters *w,
			   const struct plan *p, struct img_error *err)
{
	const struct qcow2_geometry *g = &w->geometry;
	uint8_t *block = malloc(g->cluster_bytes);
	int rc = 0;

	if (!block)
		return img_fail(err, -ENOMEM, "out of memory");
	for (uint64_t i = 0; i < g->block_entries; i++)
		qcow2_refcount_set(block, g->refcount_order, i, 1);
	for (uint64_t n = 0; !rc && n < p->block_count; n++) {
		uint64_t left = p->total > n * g->block_entries ? p->total - n * g->block_entries
								: 0;

		for (uint64_t i = left; i < g->block_entries; i++) /* the last one or two */
			qcow2_refcount_set(block, g->refcount_order, i, 0);
		rc = img_storage_write(c->file, (p->blocks + n) * g->cluster_bytes, block,
				       g->cluster_bytes, err);
	}
	free(block);
	return rc ? rc
		  : write_offsets(c, w, p->refcount_table, p->refcount_table_clusters,
				  p->block_count, p->blocks, 1, 0, err);
}

/* Fill L2 table n; data clusters follow it, or are in the data file where the guest has them. */
static void fill_l2(const struct parameters *w, const struct plan *p, uint64_t n, uint8_t *table)
{
	const struct qcow2_geometry *g = &w->geometry;
	uint64_t guest = n * g->l2_entries;
	uint64_t host = w->data_file ? guest : p->l2 + n * p->l2_stride + 1;

	memset(table, 0, g->cluster_bytes);
	for (uint64_t i = 0; i < g->l2_entries && guest + i < p->data_clusters; i++) {
		struct qcow2_entry e = {
			.kind = QCOW2_NORMAL,
			.host_off = (host + i) * g->cluster_bytes,
			.copied = true,
			/*
			 * Subclusters stay unallocated: zeroes, or the backing file. Only what
			 * a raw data file holds must be what the guest sees, whoever wrote it.
			 */
			.sub_alloc = w->raw ? UINT32_MAX : 0,
		};
		uint8_t *at = table + i * g->l2_entry_bytes;
		uint64_t word, bitmap;

		/* What is not written yet would decrypt to anything. */
		if (w->encryption.method != QCOW2_CRYPT_NONE && !g->extended)
			e = qcow2_zero_room(g, e.host_off);
		qcow2_encode_entry(g, &e, &word, &bitmap);
		be64_store(at, word);
		if (g->extended)
			be64_store(at + 8, bitmap);
	}
}

/* L1 and L2 tables of a mapped image, and, where the file has old content, zeroes for the data. */
static int write_mapping(const struct img_creating *c, const struct parameters *w, const struct plan *p,
			 struct img_error *err)
{
	const struct qcow2_geometry *g = &w->geometry;
	uint8_t *table = malloc(g->cluster_bytes);
	int rc = 0;

	if (!table)
		return img_fail(err, -ENOMEM, "out of memory");
	for (uint64_t n = 0; !rc && n < p->l2_tables; n++) {
		uint64_t at = (p->l2 + n * p->l2_stride) * g->cluster_bytes;
		uint64_t clusters = min_u64(g->l2_entries, p->data_clusters - n * g->l2_entries);

		fill_l2(w, p, n, table);
		rc = img_storage_write(c->file, at, table, g->cluster_bytes, err);
		if (!rc && !w->data_file && c->file->device)
			rc = img_storage_zero(c->file, at + g->cluster_bytes,
					      clusters * g->cluster_bytes, err);
	}
	free(table);
	return rc ? rc
		  : write_offsets(c, w, p->l1, p->l1_clusters, p->l2_tables, p->l2, p->l2_stride,
				  QCOW2_COPIED, err);
}

/* The file's length, with its blocks reserved or written if asked. */
static int size_file(const struct img_creating *c, const struct parameters *w, const struct plan *p,
		     struct img_error *err)
{
	uint64_t bytes = p->total * w->geometry.cluster_bytes;
	enum img_preallocate how = IMG_PREALLOCATE_OFF;

	if (w->mapped && !w->data_file && c->preallocate != IMG_PREALLOCATE_METADATA)
		how = c->preallocate;
	/* As far as the L1 table is used, not to the end of its cluster; others do so too. */
	if (!w->mapped && !p->crypto_clusters)
		bytes = p->l1 * w->geometry.cluster_bytes + p->l2_tables * 8;
	if (c->file->device && bytes > c->file->size)
		return img_fail(err, -ENOSPC,
				"%s: the device has %" PRIu64 " bytes, %" PRIu64 " are needed",
				c->name, (uint64_t)c->file->size, bytes);
	return c->file->device ? 0 : img_storage_resize(c->file, bytes, how, err);
}

/* An encrypted image: nothing is written before the passphrase is known. */
struct start {
	struct img_creating *c;
	const struct parameters *w;
	const struct plan *p;
};

static int begin_file(void *user, const uint8_t *passphrase, size_t len, struct img_error *err)
{
	const struct start *s = user;
	uint64_t cluster = s->w->geometry.cluster_bytes, off = s->p->crypto * cluster;
	int rc = size_file(s->c, s->w, s->p, err);

	/* A new file has nothing but zeroes behind the LUKS header; a device has something else there. */
	if (!rc && s->c->file->device && s->p->crypto_clusters)
		rc = img_storage_zero(s->c->file, off, s->p->crypto_clusters * cluster, err);
	return rc ? rc
		  : qcow2_create_cipher(s->c, &s->w->encryption, off, passphrase, len, err);
}

static int create_data_file(struct img_creating *c, const struct parameters *w, struct img_error *err)
{
	enum img_preallocate how = c->preallocate == IMG_PREALLOCATE_METADATA
					   ? IMG_PREALLOCATE_OFF
					   : c->preallocate;
	struct img_storage *data;
	int rc = c->create_file(c, w->data_file, &data, err);

	if (rc)
		return rc;
	if (!data->device)
		return img_storage_resize(data, c->size, how, err);
	if (data->size < c->size)
		return img_fail(err, -ENOSPC,
				"data file %s: the device has %" PRIu64 " bytes, %" PRIu64
				" are needed",
				w->data_file, (uint64_t)data->size, c->size);
	/* What lay there before would be the guest's. */
	return w->mapped ? img_storage_zero(data, 0, c->size, err) : 0;
}

int qcow2_create(struct img_creating *c, struct img_error *err)
{
	struct parameters w;
	struct plan p = { 0 };
	struct start start = { c, &w, &p };
	uint8_t *first = NULL;
	int rc = qcow2_create_check(c, err);

	if (!rc)
		rc = make_parameters(c, &w, err);
	if (!rc)
		rc = make_plan(&w, &p, err);
	if (!rc)
		rc = make_first(c, &w, &p, &first, err);
	if (!rc && w.encryption.method != QCOW2_CRYPT_NONE)
		rc = c->passphrase(c, "encrypt.key-secret", begin_file, &start, err);
	else if (!rc)
		rc = size_file(c, &w, &p, err);
	if (!rc && w.data_file)
		rc = create_data_file(c, &w, err);
	if (!rc)
		rc = write_refcounts(c, &w, &p, err);
	if (!rc && w.mapped)
		rc = write_mapping(c, &w, &p, err);
	/* A new file's hole is an empty L1 table; a device has something else there. */
	else if (!rc && c->file->device && p.l1_clusters)
		rc = img_storage_zero(c->file, p.l1 * w.geometry.cluster_bytes,
				      p.l1_clusters * w.geometry.cluster_bytes, err);
	if (!rc)
		rc = img_storage_write(c->file, 0, first, w.geometry.cluster_bytes, err);
	free(first);
	return rc;
}

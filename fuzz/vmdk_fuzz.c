/*
 * VMDK from any bytes: the first says which file of a disk the rest is.
 *
 * Even: a descriptor. Odd: a sparse extent (or a whole monolithic disk); its header, footer and
 * descriptor are parsed, the disk is opened over memory, every extent is looked up, and checked.
 * Then it is opened alone for writing: what is written is read back, and no header is overwritten. Last
 * it is repaired: what could be read before is the same afterwards.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "formats/vmdk/vmdk_state.h"
#include "libimg/base/arith.h"
#include "libimg/engine/engine.h"
#include "libimg/image/context.h"

extern const struct img_driver vmdk_driver;

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Lookups for one input: a map of few entries can be of many extents. */
enum { LOOKUPS_MAX = 2000 };

/* With another parent it says that one, and all else as before. */
static void fuzz_parent(const char *text, size_t len, const struct vmdk_descriptor *d, bool has)
{
	static const char uuid[] = "01234567-89ab-4cde-8f01-23456789abcd";
	struct vmdk_new_parent to = { .cid = VMDK_NO_PARENT };
	struct vmdk_descriptor next;
	size_t next_len;
	char *other;

	if (has)
		to = (struct vmdk_new_parent){ 0xabcdef01, "folder/name", uuid, NULL };
	other = vmdk_replace_parent(text, len, &to, &next_len);
	assert(other && !memchr(other, 0, next_len));
	assert(!vmdk_parse_descriptor(other, next_len, &next, NULL));
	assert(next.parent_cid == to.cid && next.cid == d->cid && next.extents == d->extents &&
	       next.sectors == d->sectors && next.encrypted == d->encrypted);
	assert(has ? next.parent_hint.len == 11 && !memcmp(next.parent_hint.at, to.hint, 11)
		   : !next.parent_hint.at);
	assert(!next.uuid_parent.at || (has && !memcmp(next.uuid_parent.at, uuid, 36)));
	free(other);
}

static void fuzz_descriptor(const char *text, size_t len)
{
	struct vmdk_descriptor d;
	struct vmdk_cursor c = { 0 };
	struct vmdk_line line;
	uint64_t sectors = 0;
	size_t n = 0;
	bool utf16;
	char *name;

	vmdk_is_descriptor(text, len);
	vmdk_is_nearly_descriptor(text, len, &utf16);
	if (vmdk_parse_descriptor(text, len, &d, NULL))
		return;
	while (vmdk_next_extent(text, len, &c, &line, NULL) == 1) {
		assert(!line.file.at ||
		       (line.file.at >= text && line.file.at + line.file.len <= text + len));
		name = line.file.at ? vmdk_plain_name(line.file.at, line.file.len) : NULL;
		assert(!name || strlen(name) <= line.file.len + 2);
		free(name);
		sectors += line.sectors;
		n++;
	}
	assert(n == d.extents && sectors == d.sectors && sectors <= INT64_MAX / 512);
	fuzz_parent(text, len, &d, true);
	fuzz_parent(text, len, &d, false);
}

/* As a file of a folder in which a parent is sought. */
static void fuzz_identify(const uint8_t *bytes, size_t len)
{
	uint8_t uuid[IMG_GUID_BYTES];
	struct img_storage *s;

	if (img_storage_memory("file", len, len + 512, &s))
		return;
	if (!img_storage_write(s, 0, bytes, len, NULL))
		vmdk_identify(s, uuid, NULL);
	img_storage_close(s);
}

static void fuzz_sparse(const uint8_t *bytes, size_t len)
{
	struct vmdk_sparse s;
	uint8_t slot[8] = { 0 };

	if (vmdk_parse_sparse(bytes, min_size(len, VMDK_HEADER_BYTES_MAX), len, &s, NULL))
		return;
	assert(is_pow2_u64(s.grain_bytes) && s.table_entries && s.capacity_bytes <= VMDK_BYTES_MAX);
	assert(s.at_end || range_in(s.directory_off, s.directory_entries * s.entry_bytes, len) ||
	       !s.capacity_bytes);
	for (size_t i = 512; i + 8 <= len && i < 2048; i += 8) {
		struct vmdk_entry e;

		memcpy(slot, bytes + i, 8);
		e = vmdk_directory_entry(&s, slot);
		assert(e.kind != VMDK_STORED || range_in(e.file_off, vmdk_table_bytes(&s), len));
		e = vmdk_table_entry(&s, slot, s.grain_bytes);
		assert(e.kind != VMDK_STORED || range_in(e.file_off, s.grain_bytes, len));
	}
}

/* An extent's file is 1 MiB of zeroes, the image's own, or missing: its name tells. */
struct fuzz_opening {
	struct img_opening base;
	struct img *img;
};

static int reference(struct img_opening *o, const char *name, const char *what,
		     struct img_storage **out, struct img_error *err)
{
	if (*name == 'm')
		return img_fail(err, -ENOENT, "%s is missing", what);
	if (*name == 'o' && o->own_file) {
		*out = ((struct fuzz_opening *)o)->img->file;
		return 0;
	}
	return img_storage_memory(name, 1 << 20, 1 << 20, out);
}

static void fuzz_image(const uint8_t *bytes, size_t len, bool salvage)
{
	struct fuzz_opening o = { .base = { .reference = reference, .salvage = salvage } };
	struct img_engine_config config = { .io = IMG_IO_THREADS };
	struct img_check check = { 0 };
	struct img img = { .driver = &vmdk_driver, .name = strdup("fuzz") };
	struct img_extent x;

	if (!img.name || img_storage_memory("fuzz", len, len, &img.file))
		abort();
	img_storage_write(img.file, 0, bytes, len, NULL);
	o.img = &img;
	if (!vmdk_driver.open(&img, &o.base, NULL)) {
		uint64_t off = 0;

		if (img_engine_new(&img, &config, NULL))
			abort();
		for (unsigned i = 0; i < LOOKUPS_MAX && off < img.size; i++) {
			/* Behind an error, and now and then behind a run, the next sectors. */
			if (img_engine_map(&img, off, img.size - off, &x, NULL)) {
				off += 65536 + 512;
				continue;
			}
			assert(x.length && x.length <= img.size - off);
			if (x.kind == IMG_DATA)
				assert(salvage || range_in(x.file_off, x.length,
							   round_up_u64(x.storage->size, 512)));
			if (x.kind == IMG_COMPRESSED)
				assert(range_in(x.file_off, x.stored_bytes, x.storage->size) &&
				       x.within < x.unit_bytes);
			off += i % 8 == 7 ? min_u64(x.length, 512) : x.length;
		}
		vmdk_driver.check(&img, &check, NULL);
		img_engine_free(&img);
		vmdk_driver.close(&img);
	}
	img_storage_close(img.file);
	free(img.backing_name);
	free(img.backing_format);
	free(img.warning);
	free(img.name);
}

/* Write to some places of the disk, and read them again. */
static void write_around(struct img *img)
{
	static uint8_t out[70000], in[70000];
	uint64_t size = img_size(img), step = size / 7 / 512 * 512 + 512;

	memset(out, 0x5a, sizeof(out));
	for (uint64_t off = 0, i = 0; off < size && i < 8; off += step, i++) {
		size_t len = (size_t)min_u64(i % 2 ? 1536 : sizeof(out), size - off);

		if (!img_write(img, off, out, len, NULL) && !img_read(img, off, in, len, NULL))
			assert(!memcmp(in, out, len));
		if (i % 3 == 1)
			img_discard(img, off, len, NULL);
		if (i % 3 == 2 && !img_zero(img, off, len, NULL) &&
		    !img_read(img, off, in, len, NULL))
			for (size_t k = 0; k < len; k++)
				assert(!in[k]);
	}
}

static void fuzz_writing(const uint8_t *bytes, size_t len)
{
	struct img_open_options options = {
		.format = "vmdk",
		.flags = IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING,
		.references = "none",
		.io = IMG_IO_THREADS,
	};
	uint8_t head[VMDK_SECTOR];
	struct img_storage *s;
	struct img *img;

	if (len < sizeof(head) || img_storage_memory("input", 0, UINT64_C(1) << 24, &s))
		return;
	if (img_storage_write(s, 0, bytes, len, NULL) ||
	    img_open_storage(s, "/nowhere/input", &options, &img, NULL))
		return;
	write_around(img);
	img_flush(img, NULL);
	/* All but the unclean mark. A descriptor begins with what may be its CID. */
	if (vmdk_sparse_kind(bytes, len) != VMDK_NOT_SPARSE &&
	    !img_storage_read(img->file, 0, head, sizeof(head), NULL))
		assert(!memcmp(head, bytes, VMDK_OFF_UNCLEAN) &&
		       !memcmp(head + VMDK_OFF_UNCLEAN + 1, bytes + VMDK_OFF_UNCLEAN + 1,
			       sizeof(head) - VMDK_OFF_UNCLEAN - 1));
	img_close(img, NULL);
}

static struct img *open_copy(const uint8_t *bytes, size_t len, unsigned flags)
{
	struct img_open_options options = {
		.format = "vmdk",
		.flags = flags | IMG_OPEN_NO_BACKING,
		.references = "none",
		.io = IMG_IO_THREADS,
	};
	struct img_storage *s;
	struct img *img;

	if (img_storage_memory("input", 0, UINT64_C(1) << 24, &s))
		return NULL;
	if (img_storage_write(s, 0, bytes, len, NULL)) {
		img_storage_close(s);
		return NULL;
	}
	return img_open_storage(s, "/nowhere/input", &options, &img, NULL) ? NULL : img;
}

enum { PLACES = 16,
       PLACE_BYTES = 4096 };

/* Which of some places can be read, and what is there. */
static unsigned read_places(struct img *img, uint8_t *out)
{
	uint64_t size = img_size(img), step = size / PLACES / 512 * 512;
	unsigned can = 0;

	for (unsigned i = 0; i < PLACES; i++)
		if (range_in(i * step, PLACE_BYTES, size) &&
		    !img_read(img, i * step, out + (size_t)i * PLACE_BYTES, PLACE_BYTES, NULL))
			can |= 1u << i;
	return can;
}

static void fuzz_repair(const uint8_t *bytes, size_t len)
{
	static uint8_t before[PLACES * PLACE_BYTES], after[PLACES * PLACE_BYTES];
	struct img *img = open_copy(bytes, len, 0);
	struct img_check_result r;
	unsigned could, can;
	uint8_t *repaired;
	uint64_t size;

	if (!img)
		return;
	size = img_size(img);
	could = read_places(img, before);
	img_close(img, NULL);
	img = open_copy(bytes, len, IMG_OPEN_WRITE | IMG_OPEN_CHECK);
	if (!img)
		return;
	img_check(img, IMG_REPAIR_ALL, NULL, NULL, &r, NULL);
	repaired = malloc(img->file->size + 1);
	len = img->file->size;
	if (!repaired || img_storage_read(img->file, 0, repaired, len, NULL))
		abort();
	img_close(img, NULL);
	img = open_copy(repaired, len, 0);
	assert(img && img_size(img) == size);
	can = read_places(img, after);
	for (unsigned i = 0; i < PLACES; i++)
		assert(!(could & 1u << i) ||
		       ((can & 1u << i) && !memcmp(before + (size_t)i * PLACE_BYTES,
						   after + (size_t)i * PLACE_BYTES, PLACE_BYTES)));
	img_close(img, NULL);
	free(repaired);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	if (data[0] % 2)
		fuzz_sparse(data + 1, size - 1);
	else
		fuzz_descriptor((const char *)data + 1, size - 1);
	fuzz_identify(data + 1, size - 1);
	fuzz_image(data + 1, size - 1, data[0] & 2);
	fuzz_repair(data + 1, size - 1);
	fuzz_writing(data + 1, size - 1);
	return 0;
}

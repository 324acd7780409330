/*
 * Damage to the tables of a sound image (its name's ending is its format: qcow2, vpc, vhdx, vdi, qed, qcow, parallels), and
 * what a check and a repair make of it:
 *
 *	repair IMAGE bits STEP FIRST QEMU [QEMU-IMG...]
 *	repair IMAGE bytes COUNT SEED QEMU [QEMU-IMG...]
 *	repair IMAGE entries COUNT SEED QEMU [QEMU-IMG...]
 *	repair IMAGE tables COUNT SEED QEMU [QEMU-IMG...]
 *
 * bits: each STEP'th bit of the header, the L1, L2 and refcount tables and blocks, snapshot table and
 * L1 tables of snapshots, beginning with bit FIRST; of a VHD the footers, header, table, bitmaps and locators; of a
 * VHDX headers, region tables, metadata, BAT and bitmaps; of a VDI and a Parallels image the header and the table; of QED and qcow
 * the header and the tables;
 * checksums made right every other time. bytes: COUNT times a few random bytes of the same. entries (not of a
 * qcow2): COUNT times some entries of the table of units lead elsewhere (to another's unit, beyond the end, into
 * metadata, to no unit's start, nowhere), counters are wrong, the file is cut short, or all of that.
 * tables: each table, and COUNT times two of them, are zeroes, ones, or junk as a whole.
 * Of each:
 * - what could be read before a repair of all (of the disk, and of each snapshot) reads the same after;
 * - where only what has a checksum or a copy was damaged: what could not be read, and can be after a repair, reads as
 *   it did in the sound image, and so does an image that could not be opened at all before (but to be checked);
 * - after a repair that leaves nothing the image is sound, and another repair changes nothing;
 * - a repair of what is left by a repair changes nothing;
 * - entries: what undamaged entries lead to is as it was before the damage; what the file does not hold cannot be
 *   read before that loss is accepted; once it is, the image is sound.
 * Every QEMU'th is also given to qemu-img (each that is named): it has to call the damaged image sound or
 * not as we do, the repaired one sound if we do, and to read the same content from that. Of a VHDX only the
 * latter, of a VDI, a QED and a Parallels image all but that what we call damaged is, of a VHD nothing: it goes neither
 * by bitmaps nor by parents; nor of a qcow, which it does not check.
 * The last line counts: N tried, N failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "formats/parallels/parallels_layout.h"
#include "formats/qcow1/qcow1_layout.h"
#include "formats/qcow2/qcow2_layout.h"
#include "formats/qed/qed_layout.h"
#include "formats/vdi/vdi_layout.h"
#include "formats/vhd/vhd_layout.h"
#include "formats/vhdx/vhdx_layout.h"
#include "libimg/base/arith.h"
#include "libimg/base/crc32c.h"
#include "libimg/base/endian.h"
#include "libimg/image/context.h"
#include "libimg/storage/storage.h"

#include "libimg/img.h"

enum {
	FILE_LIMIT = 64 << 20,
	MAX_DISK = 4 << 20, /* of a disk whose size was damaged, that much is looked at */
	MAX_VIEWS = 8,	    /* the disk and its snapshots */
	MAX_RANGES = 4096,
	MAX_ENTRIES = 8192,
	SECTOR = 512,
};

struct file {
	uint8_t *bytes;
	uint64_t len;
};

/* What a disk reads as, by pieces: whether each can be read, and what it is. */
struct content {
	uint64_t size, piece;
	uint8_t *bytes;
	bool *readable;
};

static const char *path; /* of the image, for what it names */
static const char *format;
static uint64_t tried, failed;
static char label[200];
static char **qemu;
static int nqemu;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s: %s\n", path, what, strerror(errno));
	exit(2);
}

static void bad(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void bad(const char *fmt, ...)
{
	char line[300];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	failed++;
	printf("%s: %s: %s\n", path, label, line);
}

static struct file load(const char *name)
{
	struct file f = { 0 };
	struct stat st;
	int fd = open(name, O_RDONLY);

	if (fd < 0 || fstat(fd, &st))
		die("open");
	f.len = (uint64_t)st.st_size;
	f.bytes = malloc(f.len);
	if (!f.bytes || read(fd, f.bytes, f.len) != (ssize_t)f.len)
		die("read");
	close(fd);
	return f;
}

static struct file copy_of(const struct file *f)
{
	struct file c = { malloc(f->len), f->len };

	if (!c.bytes)
		die("memory");
	memcpy(c.bytes, f->bytes, f->len);
	return c;
}

static void save(const char *name, const uint8_t *bytes, uint64_t len)
{
	FILE *f = fopen(name, "w");

	if (!f || fwrite(bytes, 1, len, f) != len || fclose(f))
		die("write");
}

/* NULL: it cannot be opened so. */
static struct img *open_file(const struct file *f, unsigned flags, struct img_storage **storage)
{
	struct img_open_options options = { .format = format, .flags = flags };
	struct img_storage *s;
	struct img *img;

	if (img_storage_memory(path, 0, FILE_LIMIT, &s) ||
	    img_storage_write(s, 0, f->bytes, f->len, NULL))
		die("memory");
	if (storage)
		*storage = s;
	return img_open_storage(s, path, &options, &img, NULL) ? NULL : img;
}

/* ---- Content ---- */

static struct content read_disk(const struct file *f)
{
	struct img *img = open_file(f, IMG_OPEN_CHECK, NULL);
	struct content c = { 0 };

	if (!img)
		return c;
	c.size = min_u64(img_size(img), MAX_DISK);
	c.piece = img_unit_bytes(img) % 4096 ? SECTOR : 4096;
	c.bytes = calloc(1, c.size + 1);
	c.readable = calloc(c.size / c.piece + 1, 1);
	if (!c.bytes || !c.readable)
		die("memory");
	/* all of it at once, as a rule */
	if (!img_read(img, 0, c.bytes, c.size, NULL)) {
		memset(c.readable, 1, c.size / c.piece + 1);
	} else {
		for (uint64_t at = 0; at < c.size; at += c.piece)
			c.readable[at / c.piece] = !img_read(img, at, c.bytes + at,
							     min_u64(c.piece, c.size - at), NULL);
	}
	img_close(img, NULL);
	return c;
}

/* The disk and its snapshots, each looked at as if it were the active one. */
static void read_views(const struct file *f, struct content views[MAX_VIEWS])
{
	uint64_t at = be64_load(f->bytes + QCOW2_OFF_SNAPSHOTS_OFF);
	uint32_t n = be32_load(f->bytes + QCOW2_OFF_SNAPSHOTS);

	memset(views, 0, MAX_VIEWS * sizeof(*views));
	views[0] = read_disk(f);
	if (strcmp(format, "qcow2") != 0)
		return;
	for (uint32_t i = 0; i < n && i + 1 < MAX_VIEWS; i++) {
		struct qcow2_snapshot s;
		struct file view;

		if (!range_in(at, QCOW2_SNAPSHOT_FIXED_BYTES, f->len) ||
		    !range_in(at, qcow2_snapshot_bytes(f->bytes + at), f->len) ||
		    qcow2_parse_snapshot(f->bytes + at, f->len - at, &s, NULL))
			return;
		view = copy_of(f);
		be32_store(view.bytes + QCOW2_OFF_L1_ENTRIES, s.l1_entries);
		be64_store(view.bytes + QCOW2_OFF_L1_OFF, s.l1_off);
		if (s.has_size)
			be64_store(view.bytes + QCOW2_OFF_SIZE, s.size);
		views[i + 1] = read_disk(&view);
		free(view.bytes);
		at += round_up_u64(qcow2_snapshot_bytes(f->bytes + at), 8);
	}
}

static void free_views(struct content views[MAX_VIEWS])
{
	for (int i = 0; i < MAX_VIEWS; i++) {
		free(views[i].bytes);
		free(views[i].readable);
	}
}

static bool kept(const struct content *before, const struct content *after, uint64_t *where)
{
	*where = 0;
	if (!before->bytes)
		return true;
	if (!after->bytes || after->size != before->size || after->piece != before->piece)
		return false;
	for (uint64_t at = 0; at < before->size; at += before->piece) {
		uint64_t i = at / before->piece, len = min_u64(before->piece, before->size - at);

		*where = at;
		if (before->readable[i] &&
		    (!after->readable[i] || memcmp(before->bytes + at, after->bytes + at, len)))
			return false;
	}
	return true;
}

static struct content sound_disk; /* of the image before it was damaged */
static bool noticeable;		  /* what was damaged has a checksum, which is wrong now */

static bool opens(const struct file *f)
{
	struct img *img = open_file(f, 0, NULL);

	if (img)
		img_close(img, NULL);
	return img;
}

/* What a repair brought back. */
static bool brought_back(const struct content *before, bool opened, const struct content *after,
			 uint64_t *where)
{
	*where = 0;
	if (!after->bytes)
		return true;
	if (after->size != sound_disk.size || after->piece != sound_disk.piece)
		return opened; /* a size that was damaged, and counted before */
	for (uint64_t at = 0; at < after->size; at += after->piece) {
		uint64_t i = at / after->piece, len = min_u64(after->piece, after->size - at);
		bool was = opened && before->size == after->size && before->readable[i];

		*where = at;
		if (!was && after->readable[i] &&
		    memcmp(after->bytes + at, sound_disk.bytes + at, len))
			return false;
	}
	return true;
}

static bool all_readable(const struct content *c)
{
	for (uint64_t at = 0; at < c->size; at += c->piece)
		if (!c->readable[at / c->piece])
			return false;
	return c->bytes;
}

/* ---- Check and repair ---- */

/* 0, or what opening or checking fails with. */
static int check(struct file *f, unsigned repair, struct img_check_result *r)
{
	struct img_storage *s;
	struct img *img = open_file(
		f, IMG_OPEN_CHECK | IMG_OPEN_NO_BACKING | (repair ? IMG_OPEN_WRITE : 0), &s);
	int rc;

	memset(r, 0, sizeof(*r));
	if (!img)
		return -EINVAL;
	rc = img_check(img, repair, NULL, NULL, r, NULL);
	if (repair) {
		free(f->bytes);
		f->len = s->size;
		f->bytes = malloc(f->len);
		if (!f->bytes || img_storage_read(s, 0, f->bytes, f->len, NULL))
			die("memory");
	}
	img_close(img, NULL);
	return rc;
}

static bool is_sound(const struct img_check_result *r)
{
	return !r->corruptions && !r->leaks && !r->check_errors;
}

static int run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static int run(const char *fmt, ...)
{
	char command[1000];
	va_list ap;
	int status;

	va_start(ap, fmt);
	vsnprintf(command, sizeof(command), fmt, ap);
	va_end(ap);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/*
 * Does QEMU take a VDI with such a header? No children, whose type alone does not tell, nor a block map between
 * sectors or sectors of another size than 512; and what extra data blocks have it passes over.
 */
static bool is_for_qemu(const struct file *f)
{
	static const uint8_t none[2 * IMG_GUID_BYTES];

	return f->len >= VDI_SECTOR && !memcmp(f->bytes + 0x1a8, none, sizeof(none)) &&
	       le32_load(f->bytes + 0x154) % 512 == 0 && le32_load(f->bytes + 0x168) == 512 &&
	       !le32_load(f->bytes + 0x17c);
}

/* qemu-img is asked about both files; name: of a scratch file beside the image. */
static void ask_qemu(const struct file *damaged, const struct img_check_result *found, int found_rc,
		     const struct file *repaired, bool sound, const struct content *before)
{
	char name[300], raw[300];

	if (!strcmp(format, "vpc") || !strcmp(format, "qcow"))
		return;
	if (!strcmp(format, "vdi") && !is_for_qemu(repaired))
		return;
	snprintf(name, sizeof(name), "%s.damaged", path);
	snprintf(raw, sizeof(raw), "%s.content", path);
	for (int i = 0; i < nqemu; i++) {
		bool ours = !found_rc && is_sound(found), theirs;
		int code;

		if (!strcmp(format, "vhdx")) {
			if (!sound || !all_readable(before))
				continue;
			save(name, repaired->bytes, repaired->len);
			save(raw, before->bytes, before->size);
			if (run("%s compare -f vhdx -F raw %s %s >/dev/null 2>&1", qemu[i], name,
				raw) == 1)
				bad("%s reads other content after the repair", qemu[i]);
			continue;
		}
		save(name, damaged->bytes, damaged->len);
		code = run("%s check -f %s %s >/dev/null 2>&1", qemu[i], format, name);
		theirs = code == 0;
		/*
		 * 1: it does not open the image, for what its backing file is called for instance. What
		 * cannot be read (here) may be damage of which its check knows nothing.
		 */
		if (code != 1 && ours != theirs &&
		    (ours || (!strcmp(format, "qcow2") && all_readable(before))))
			bad("%s says %s, we say %s (%" PRIu64 " corruptions, %" PRIu64 " leaks)",
			    qemu[i], theirs ? "sound" : "damaged", ours ? "sound" : "damaged",
			    found->corruptions, found->leaks);
		if (!sound)
			continue;
		save(name, repaired->bytes, repaired->len);
		if (run("%s check -f %s %s >/dev/null 2>&1", qemu[i], format, name))
			bad("%s finds damage after the repair", qemu[i]);
		if (!all_readable(before))
			continue;
		save(raw, before->bytes, before->size);
		if (run("%s compare -f %s -F raw %s %s >/dev/null 2>&1", qemu[i], format, name, raw))
			bad("%s reads other content after the repair", qemu[i]);
	}
	unlink(name);
	unlink(raw);
}

static void try_damage(const struct file *damaged, bool with_qemu)
{
	struct content before[MAX_VIEWS], after[MAX_VIEWS];
	struct file f = copy_of(damaged), again;
	struct img_check_result found, left, now;
	struct img *img;
	uint64_t where;
	int rc, repair_rc;

	tried++;
	read_views(damaged, before);
	rc = check(&f, 0, &found);
	repair_rc = check(&f, IMG_REPAIR_ALL, &left);
	read_views(&f, after);
	for (int i = 0; i < MAX_VIEWS; i++)
		if (!kept(&before[i], &after[i], &where))
			bad("%s %d: other content at %" PRIu64, i ? "snapshot" : "disk", i, where);
	if (noticeable && !repair_rc && is_sound(&left) &&
	    !brought_back(&before[0], opens(damaged), &after[0], &where))
		bad("disk: readable now, with other content at %" PRIu64, where);
	again = copy_of(&f);
	if (!repair_rc && is_sound(&left)) {
		if (check(&again, 0, &now) || !is_sound(&now))
			bad("%" PRIu64 " corruptions, %" PRIu64 " leaks after a repair of all",
			    now.corruptions, now.leaks);
		img = open_file(&f, IMG_OPEN_WRITE | IMG_OPEN_NO_BACKING, NULL);
		if (!img &&
		    (strcmp(format, "qcow2") != 0 || !be32_load(f.bytes + QCOW2_OFF_CRYPT_METHOD)))
			bad("cannot be opened for writing after a repair of all");
		if (img)
			img_close(img, NULL);
	}
	if (!repair_rc) {
		if (check(&again, IMG_REPAIR_ALL, &now))
			bad("a second repair fails");
		if (again.len != f.len || memcmp(again.bytes, f.bytes, f.len))
			bad("a second repair changes something");
	}
	if (with_qemu)
		ask_qemu(damaged, &found, rc, &f, !repair_rc && is_sound(&left), &before[0]);
	free(again.bytes);
	free(f.bytes);
	free_views(before);
	free_views(after);
}

/* ---- Where tables are ---- */

struct range {
	uint64_t off, len;
	const char *what;
};
static struct range ranges[MAX_RANGES];
static size_t nranges;

static void add(const struct file *f, uint64_t off, uint64_t len, const char *what)
{
	if (off >= f->len || !len || nranges == MAX_RANGES)
		return;
	for (size_t i = 0; i < nranges; i++)
		if (ranges[i].off == off)
			return;
	ranges[nranges++] = (struct range){ off, min_u64(len, f->len - off), what };
}

/* The part of a table that is in use, and a little more. */
static uint64_t used(const struct file *f, uint64_t off, uint64_t len)
{
	while (len && (off + len > f->len || !f->bytes[off + len - 1]))
		len--;
	return len + 16;
}

static void add_l1(const struct file *f, const struct qcow2_geometry *g, uint64_t off, uint64_t n,
		   const char *what)
{
	add(f, off, n * 8, what);
	for (uint64_t i = 0; i < n; i++) {
		uint64_t l2 = be64_load(f->bytes + off + i * 8) & QCOW2_OFFSET_MASK;

		if (l2)
			add(f, l2, min_u64(used(f, l2, g->cluster_bytes), g->cluster_bytes), "L2");
	}
}

/* The table of units, for entries: file offset of what an entry leads to: base + (value >> shift) * scale. */
static struct {
	uint64_t off, count;
	unsigned width; /* 4 or 8 bytes */
	bool big_endian;
	unsigned shift;
	uint64_t low; /* of each entry, below shift */
	uint64_t base, scale, unit;
	uint64_t nothing;     /* an entry that leads nowhere */
	bool child;	      /* of a lost unit the parent may have parts */
	uint64_t counters[4]; /* of 4 bytes each: where fields are that count or tell where */
	unsigned counter_count;
} unit_table;

static uint64_t entry(const struct file *f, uint64_t i)
{
	const uint8_t *at = f->bytes + unit_table.off + i * unit_table.width;

	if (unit_table.width == 8)
		return unit_table.big_endian ? be64_load(at) : le64_load(at);
	return unit_table.big_endian ? be32_load(at) : le32_load(at);
}

static void set_entry(struct file *f, uint64_t i, uint64_t value)
{
	uint8_t *at = f->bytes + unit_table.off + i * unit_table.width;

	if (unit_table.width == 8 && unit_table.big_endian)
		be64_store(at, value);
	else if (unit_table.width == 8)
		le64_store(at, value);
	else if (unit_table.big_endian)
		be32_store(at, (uint32_t)value);
	else
		le32_store(at, (uint32_t)value);
}

static bool leads_nowhere(uint64_t value)
{
	if (!strcmp(format, "vdi")) /* whose first block has number 0 */
		return !vdi_entry_is_index((uint32_t)value);
	return value == unit_table.nothing || !(value >> unit_table.shift) ||
	       (!strcmp(format, "qed") && value == QED_ENTRY_ZERO);
}

static uint64_t leads_to(uint64_t value)
{
	return unit_table.base + (value >> unit_table.shift) * unit_table.scale;
}

static void find_vdi(const struct file *f)
{
	struct vdi_header h;

	if (vdi_parse_header(f->bytes, VDI_SECTOR, &h, NULL))
		die("no image");
	/* not the texts */
	add(f, 64, 20, "signature and type");
	add(f, h.version0 ? 336 : 340, h.version0 ? 84 : 140, "header");
	add(f, h.map_off, (uint64_t)h.blocks * VDI_ENTRY_BYTES, "block map");
	unit_table.off = h.map_off;
	unit_table.count = h.blocks;
	unit_table.width = VDI_ENTRY_BYTES;
	unit_table.base = h.data_off;
	unit_table.scale = vdi_stride(&h);
	unit_table.unit = h.block_bytes;
	unit_table.nothing = VDI_ENTRY_FREE;
	unit_table.counters[unit_table.counter_count++] = vdi_allocated_off(&h);
}

static void find_parallels(const struct file *f)
{
	struct parallels_header h;

	if (parallels_parse_header(f->bytes, &h, NULL))
		die("no image");
	add(f, 0, PARALLELS_HEADER_BYTES, "header");
	add(f, PARALLELS_BAT_OFF, (uint64_t)h.entries * PARALLELS_ENTRY_BYTES, "BAT");
	unit_table.off = PARALLELS_BAT_OFF;
	unit_table.count = h.entries;
	unit_table.width = PARALLELS_ENTRY_BYTES;
	unit_table.scale = parallels_entry_scale(&h);
	unit_table.unit = parallels_cluster_bytes(&h);
	unit_table.counters[unit_table.counter_count++] = 44; /* in_use */
	unit_table.counters[unit_table.counter_count++] = 48; /* data_off */
	unit_table.counters[unit_table.counter_count++] = 52; /* flags */
}

/* The L1 table's first entry leads to the L2 table of all that the disk has. */
static void use_l2(const struct file *f, uint64_t l1_off, uint64_t table_off, uint64_t count, uint64_t cluster)
{
	add(f, l1_off, 16, "L1 table");
	add(f, table_off, count * 8, "L2 table");
	unit_table.off = table_off;
	unit_table.count = count;
	unit_table.width = 8;
	unit_table.scale = 1;
	unit_table.unit = cluster;
}

static void find_qed(const struct file *f)
{
	struct qed_header h;

	if (qed_parse_header(f->bytes, f->len, &h, NULL))
		die("no image");
	add(f, 0, QED_HEADER_BYTES, "header");
	use_l2(f, h.l1_off, le64_load(f->bytes + h.l1_off),
	       div_round_up_u64(h.size, h.cluster_bytes), h.cluster_bytes);
}

static void find_qcow(const struct file *f)
{
	struct qcow1_header h;

	if (qcow1_parse_header(f->bytes, f->len, &h, NULL))
		die("no image");
	add(f, 0, QCOW1_HEADER_BYTES, "header");
	unit_table.big_endian = true;
	use_l2(f, h.l1_off, be64_load(f->bytes + h.l1_off),
	       min_u64(UINT64_C(1) << h.l2_bits, h.size >> h.cluster_bits),
	       UINT64_C(1) << h.cluster_bits);
}

static void find_vhd(const struct file *f)
{
	uint8_t footer_bytes[VHD_FOOTER_BYTES];
	struct vhd_footer footer;
	struct vhd_header h;

	add(f, f->len - VHD_FOOTER_BYTES, 100, "footer");
	memcpy(footer_bytes, f->bytes + f->len - VHD_FOOTER_BYTES, sizeof(footer_bytes));
	if (vhd_parse_footer(footer_bytes, &footer, NULL))
		die("no image");
	if (footer.type == VHD_FIXED)
		return;
	if (vhd_parse_header(f->bytes + footer.header_off, footer.size, &h, NULL))
		die("no header");
	add(f, 0, 100, "footer's copy");
	add(f, footer.header_off, 64, "header");
	add(f, footer.header_off + VHD_OFF_LOCATORS, 24, "locator");
	add(f, h.table_off, vhd_blocks(footer.size, h.block_bytes) * VHD_ENTRY_BYTES, "table");
	unit_table.off = h.table_off;
	unit_table.count = vhd_blocks(footer.size, h.block_bytes);
	unit_table.width = VHD_ENTRY_BYTES;
	unit_table.big_endian = true;
	unit_table.scale = VHD_SECTOR;
	unit_table.unit = h.block_bytes;
	unit_table.nothing = VHD_ABSENT;
	unit_table.child = footer.type == VHD_DIFFERENCING;
	for (uint64_t i = 0; i < vhd_blocks(footer.size, h.block_bytes); i++) {
		uint32_t entry = be32_load(f->bytes + h.table_off + i * VHD_ENTRY_BYTES);

		if (entry != VHD_ABSENT && i < 4)
			add(f, (uint64_t)entry * VHD_SECTOR, 16, "bitmap");
	}
}

static void find_vhdx(const struct file *f)
{
	struct vhdx_item_range items[VHDX_ITEMS];
	struct vhdx_regions r;
	struct vhdx_geometry g;
	const uint8_t *bytes[VHDX_ITEMS], *metadata;
	uint64_t ratio;

	add(f, 0, VHDX_SIGNATURE_BYTES, "signature");
	if (vhdx_parse_regions(f->bytes + VHDX_REGION_TABLE_OFF(0), &r, NULL))
		die("no regions");
	for (unsigned i = 0; i < 2; i++) {
		add(f, VHDX_HEADER_OFF(i), 80, "header");
		add(f, VHDX_REGION_TABLE_OFF(i),
		    VHDX_REGION_HEADER_BYTES + 2 * VHDX_REGION_ENTRY_BYTES, "region table");
	}
	metadata = f->bytes + r.metadata.off;
	if (vhdx_parse_metadata(metadata, r.metadata.bytes, items, NULL))
		die("no metadata");
	add(f, r.metadata.off, 7 * VHDX_METADATA_ENTRY_BYTES, "metadata table");
	for (int i = 0; i < VHDX_ITEMS; i++) {
		bytes[i] = metadata + items[i].off;
		add(f, r.metadata.off + items[i].off, items[i].bytes, "item");
	}
	if (vhdx_parse_items(bytes, &g, NULL))
		die("no items");
	add(f, r.bat.off, vhdx_block_count(&g, g.size) * VHDX_BAT_ENTRY_BYTES, "BAT");
	unit_table.off = r.bat.off;
	unit_table.count = min_u64(vhdx_block_count(&g, g.size), vhdx_chunk_ratio(&g));
	unit_table.width = VHDX_BAT_ENTRY_BYTES;
	unit_table.shift = 20;
	unit_table.low = 6; /* fully present */
	unit_table.scale = 1 << 20;
	unit_table.unit = g.block_bytes;
	unit_table.child = g.has_parent;
	if (!g.has_parent)
		return;
	ratio = vhdx_chunk_ratio(&g);
	add(f, r.bat.off + ratio * VHDX_BAT_ENTRY_BYTES, VHDX_BAT_ENTRY_BYTES, "BAT, of bitmaps");
	add(f, vhdx_entry_off(le64_load(f->bytes + r.bat.off + ratio * VHDX_BAT_ENTRY_BYTES)), 32,
	    "bitmap");
}

static void find_tables(const struct file *f)
{
	struct qcow2_geometry g;
	struct qcow2_header h;
	uint64_t at, table;

	if (!strcmp(format, "vpc")) {
		find_vhd(f);
		return;
	}
	if (!strcmp(format, "vhdx")) {
		find_vhdx(f);
		return;
	}
	if (!strcmp(format, "vdi")) {
		find_vdi(f);
		return;
	}
	if (!strcmp(format, "qed")) {
		find_qed(f);
		return;
	}
	if (!strcmp(format, "qcow")) {
		find_qcow(f);
		return;
	}
	if (!strcmp(format, "parallels")) {
		find_parallels(f);
		return;
	}
	if (qcow2_parse_header(f->bytes, f->len, 0, &h, NULL))
		die("no image");
	qcow2_geometry(&h, &g);
	add(f, 0, h.header_bytes, "header");
	add_l1(f, &g, h.l1_off, h.l1_entries, "L1");
	table = h.refcount_table_off;
	add(f, table,
	    min_u64(used(f, table, (uint64_t)h.refcount_table_clusters << h.cluster_bits), 512),
	    "refcount table");
	for (uint64_t i = 0; i < ((uint64_t)h.refcount_table_clusters << h.cluster_bits) / 8; i++) {
		uint64_t block = be64_load(f->bytes + table + i * 8);

		if (block)
			add(f, block, min_u64(used(f, block, g.cluster_bytes), g.cluster_bytes),
			    "refcounts");
	}
	at = h.snapshots_off;
	for (uint32_t i = 0; i < h.snapshots; i++) {
		struct qcow2_snapshot s;

		if (qcow2_parse_snapshot(f->bytes + at, f->len - at, &s, NULL))
			die("snapshot");
		add(f, at, qcow2_snapshot_bytes(f->bytes + at), "snapshot table");
		add_l1(f, &g, s.l1_off, s.l1_entries, "snapshot's L1");
		at += round_up_u64(qcow2_snapshot_bytes(f->bytes + at), 8);
	}
}

/* CRC-32C of a structure of a VHDX, whose own bytes 4 to 7 count as zero. */
static void seal_vhdx(uint8_t *bytes, size_t len)
{
	le32_store(bytes + 4, 0);
	le32_store(bytes + 4, img_crc32c(0, bytes, len));
}

/* Checksums as they have to be. */
static void seal(struct file *f)
{
	uint64_t header;

	if (!strcmp(format, "vpc") && f->len >= 2048) {
		vhd_seal_footer(f->bytes + f->len - VHD_FOOTER_BYTES);
		header = be64_load(f->bytes + VHD_OFF_DATA);
		if (!memcmp(f->bytes, "conectix", 8))
			vhd_seal_footer(f->bytes);
		if (range_in(header, VHD_HEADER_BYTES, f->len) &&
		    !memcmp(f->bytes + header, "cxsparse", 8))
			vhd_seal_header(f->bytes + header);
	}
	for (unsigned i = 0; i < 2 && !strcmp(format, "vhdx"); i++) {
		seal_vhdx(f->bytes + VHDX_HEADER_OFF(i), VHDX_HEADER_BYTES);
		seal_vhdx(f->bytes + VHDX_REGION_TABLE_OFF(i), VHDX_REGION_TABLE_BYTES);
	}
}

static bool has_checksum(const struct range *r)
{
	bool sums = !strcmp(format, "vpc") || !strcmp(format, "vhdx");
	static const char *const names[] = { "footer", "footer's copy", "header", "locator", "region table" };

	for (size_t i = 0; i < IMG_ARRAY_LEN(names) && sums; i++)
		if (!strcmp(r->what, names[i]))
			return true;
	return false;
}

static void each_bit(const struct file *sound, uint64_t step, uint64_t first, uint64_t ask)
{
	uint64_t n = 0;

	for (size_t i = 0; i < nranges; i++)
		for (uint64_t bit = 0; bit < ranges[i].len * 8; bit++, n++) {
			struct file f;
			uint64_t at = ranges[i].off + bit / 8;

			if (n % step != first % step)
				continue;
			f = copy_of(sound);
			f.bytes[at] ^= (uint8_t)(0x80 >> bit % 8);
			snprintf(label, sizeof(label),
				 "%s: byte 0x%" PRIx64 " (0x%" PRIx64 " of it) 0x%02x -> 0x%02x",
				 ranges[i].what, at, bit / 8, sound->bytes[at], f.bytes[at]);
			noticeable = n / step % 2 == 0 && has_checksum(&ranges[i]);
			if (n / step % 2)
				seal(&f);
			try_damage(&f, ask && n / step % ask == 0);
			free(f.bytes);
		}
}

static uint64_t seed;

static uint64_t below(uint64_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return seed % n;
}

static void random_bytes(const struct file *sound, uint64_t count, uint64_t ask)
{
	for (uint64_t i = 0; i < count; i++) {
		struct file f = copy_of(sound);
		uint64_t n = 1 + below(4);
		int len = 0;

		noticeable = true;
		for (uint64_t k = 0; k < n; k++) {
			const struct range *r = &ranges[below(nranges)];
			uint64_t at = r->off + below(r->len);

			noticeable &= has_checksum(r);
			/* a byte of elsewhere is likelier to mean something than any */
			f.bytes[at] = below(2) ? (uint8_t)below(256)
					       : sound->bytes[r->off + below(r->len)];
			len += snprintf(label + len, sizeof(label) - (size_t)len,
					"%s 0x%" PRIx64 " = 0x%02x ", r->what, at, f.bytes[at]);
			len = (int)min_u64((uint64_t)len, sizeof(label) - 60);
		}
		if (strcmp(format, "qcow2") != 0 && below(4)) {
			noticeable = false;
			seal(&f);
		}
		try_damage(&f, ask && i % ask == 0);
		free(f.bytes);
	}
}

static void fill_table(struct file *f, const struct range *r, uint64_t how)
{
	for (uint64_t at = 0; at < r->len; at++)
		f->bytes[r->off + at] = how == 0 ? 0 : how == 1 ? 0xff
								: (uint8_t)below(256);
}

static void whole_tables(const struct file *sound, uint64_t pairs, uint64_t ask)
{
	static const char *const hows[] = { "zeroes", "ones", "junk" };

	for (uint64_t i = 0; i < nranges * 3 + pairs; i++) {
		struct file f = copy_of(sound);
		bool one = i < nranges * 3;
		const struct range *a = &ranges[one ? i / 3 : below(nranges)],
				   *b = one ? NULL : &ranges[below(nranges)];
		uint64_t how = one ? i % 3 : below(3), other = below(3);

		noticeable = has_checksum(a) && (!b || has_checksum(b));
		fill_table(&f, a, how);
		if (b)
			fill_table(&f, b, other);
		snprintf(label, sizeof(label), "%s at %" PRIu64 " is %s%s%s%s%s", a->what, a->off, hows[how],
			 b ? ", " : "", b ? b->what : "", b ? " is " : "", b ? hows[other] : "");
		try_damage(&f, ask && i % ask == 0);
		free(f.bytes);
	}
}

/* ---- Entries that lead elsewhere ---- */

/* Of each unit: what became of it. */
enum fate {
	AS_IT_WAS,
	DAMAGED,
	MISSING, /* the file does not hold it */
};
static enum fate fates[MAX_ENTRIES];

/* A value for entry i that leads elsewhere. */
static uint64_t elsewhere(const struct file *f, const struct file *sound, uint64_t i, const char **how)
{
	uint64_t end = f->len > unit_table.base ? (f->len - unit_table.base) / unit_table.scale : 0;
	uint64_t other = below(unit_table.count),
		 units = max_u64(unit_table.unit / unit_table.scale, 1), to;

	while (leads_nowhere(entry(sound, other)) && below(64))
		other = below(unit_table.count);
	switch (below(8)) {
	case 0:
	case 1:
		*how = "as another";
		return entry(sound, other);
	case 2:
		*how = "beyond the end";
		to = end + 1 + below(100 * units);
		break;
	case 3:
		*how = "at the end";
		to = end + (unit_table.base + end * unit_table.scale < f->len);
		break;
	case 4:
		*how = "partly beyond the end";
		to = end - min_u64(end, below(units) + 1);
		break;
	case 5:
		*how = "beside another";
		to = (entry(sound, other) >> unit_table.shift) +
		     (below(2) ? below(units) + 1 : UINT64_MAX);
		break;
	case 6:
		*how = "into metadata";
		to = below(leads_to(entry(sound, i)) / unit_table.scale % 64 + 2);
		break;
	default:
		*how = below(2) ? "nowhere" : "far away";
		if (**how == 'n')
			return unit_table.nothing;
		to = (unit_table.width == 8 ? UINT64_MAX >> 21 : UINT32_MAX - 16) - below(9);
		break;
	}
	return (to << unit_table.shift | unit_table.low) &
	       (unit_table.width == 8 ? UINT64_MAX : UINT32_MAX);
}

static void damage_entries(struct file *f, const struct file *sound)
{
	uint64_t n = 1 + below(3);
	int len = 0;

	memset(fates, 0, sizeof(fates));
	label[0] = 0;
	if (!below(4)) {
		uint64_t data = UINT64_MAX;

		for (uint64_t i = 0; i < unit_table.count; i++) {
			if (!leads_nowhere(entry(sound, i)))
				data = min_u64(data, leads_to(entry(sound, i)));
		}
		if (data < f->len) {
			f->len -= below(f->len - data);
			len += snprintf(label + len, sizeof(label) - (size_t)len, "cut to %" PRIu64 " ",
					f->len);
		}
	}
	if (unit_table.counter_count && !below(3)) {
		static const uint32_t values[] = { 0, 1, 2, 0x746f6e59, UINT32_MAX };
		uint64_t at = unit_table.counters[below(unit_table.counter_count)];
		uint32_t value = le32_load(sound->bytes + at);

		value = below(2) ? value + (uint32_t)below(7) - 3 : values[below(5)];
		le32_store(f->bytes + at, value);
		len += snprintf(label + len, sizeof(label) - (size_t)len, "%" PRIu64 ": %" PRIu32 " ", at,
				value);
	}
	for (uint64_t k = 0; k < n && below(8); k++) {
		uint64_t i = below(unit_table.count);
		const char *how = "";

		set_entry(f, i, elsewhere(f, sound, i, &how));
		fates[i] = DAMAGED;
		len += snprintf(label + len, sizeof(label) - (size_t)len, "%" PRIu64 " %s ", i, how);
		len = (int)min_u64((uint64_t)len, sizeof(label) - 60);
	}
	for (uint64_t i = 0; i < unit_table.count; i++) {
		uint64_t value = entry(f, i);

		if (leads_nowhere(value))
			continue;
		if (leads_to(value) >= f->len)
			fates[i] = unit_table.child ? DAMAGED : MISSING;
		else if (leads_to(value) + unit_table.unit + unit_table.scale > f->len &&
			 f->len < sound->len)
			fates[i] = DAMAGED;
	}
}

/* What is left of the disk that was sound. */
static void judge_units(const struct content *sound, const struct content *after, bool lossy)
{
	if (!after->bytes || after->size != sound->size) {
		bad("it cannot be opened after the repair");
		return;
	}
	for (uint64_t at = 0; at < sound->size; at += sound->piece) {
		enum fate fate = fates[at / unit_table.unit];
		bool readable = after->readable[at / after->piece];
		uint64_t len = min_u64(sound->piece, sound->size - at);

		if (fate == AS_IT_WAS &&
		    (!readable || memcmp(after->bytes + at, sound->bytes + at, len)))
			bad("%s an undamaged entry leads to at %" PRIu64, readable ? "changed: what" : "lost: what",
			    at);
		else if (fate == MISSING && readable && !lossy)
			bad("%" PRIu64 " can be read, which the file does not hold", at);
		else
			continue;
		break;
	}
}

/* Do more entries of a VDI name others' blocks than the file has blocks? Then no copies are made. */
static bool is_crowded(const struct file *f)
{
	uint64_t shared = 0;

	if (strcmp(format, "vdi") != 0)
		return false;
	for (uint64_t i = 0; i < unit_table.count; i++) {
		uint64_t value = entry(f, i), k = 0;

		while (k < i && entry(f, k) != value)
			k++;
		shared += k < i && !leads_nowhere(value);
	}
	return shared > f->len / unit_table.scale;
}

static void try_entries(const struct file *f, const struct content *sound, bool with_qemu)
{
	struct img_check_result left, now;
	struct content after;
	struct file repaired = copy_of(f), again;

	try_damage(f, with_qemu);
	if (check(&repaired, IMG_REPAIR_ALL, &left))
		bad("cannot be repaired");
	after = read_disk(&repaired);
	judge_units(sound, &after, false);
	free(after.bytes);
	free(after.readable);
	/* A differencing VHD has nothing that would say zeroes, and shows the parent nowhere else. */
	if (check(&repaired, IMG_REPAIR_ALL | IMG_REPAIR_LOSS, &left) ||
	    (!is_sound(&left) && !(unit_table.child && !strcmp(format, "vpc")) && !is_crowded(&repaired)))
		bad("%" PRIu64 " corruptions, %" PRIu64 " leaks though its loss is accepted", left.corruptions,
		    left.leaks);
	again = copy_of(&repaired);
	if (check(&again, IMG_REPAIR_ALL | IMG_REPAIR_LOSS, &now) ||
	    now.corruptions != left.corruptions || now.leaks != left.leaks || now.check_errors)
		bad("another repair finds %" PRIu64 " corruptions, %" PRIu64 " leaks", now.corruptions,
		    now.leaks);
	if (now.corruptions_fixed || now.leaks_fixed || again.len != repaired.len ||
	    memcmp(again.bytes, repaired.bytes, again.len))
		bad("another repair changes something: %" PRIu64 " corruptions, %" PRIu64
		    " leaks, %" PRIu64 " bytes of %" PRIu64,
		    now.corruptions_fixed, now.leaks_fixed, again.len, repaired.len);
	after = read_disk(&repaired);
	judge_units(sound, &after, true);
	if (with_qemu)
		ask_qemu(&repaired, &left, 0, &repaired, is_sound(&left), &after);
	free(after.bytes);
	free(after.readable);
	free(again.bytes);
	free(repaired.bytes);
}

static void damaged_entries(const struct file *sound, uint64_t count, uint64_t ask)
{
	struct content before = read_disk(sound);

	if (!unit_table.count || unit_table.count > MAX_ENTRIES)
		die("no table of units, or a large one");
	for (uint64_t i = 0; i < count; i++) {
		struct file f = copy_of(sound);

		damage_entries(&f, sound);
		try_entries(&f, &before, ask && i % ask == 0);
		free(f.bytes);
	}
	free(before.bytes);
	free(before.readable);
}

int main(int argc, char **argv)
{
	struct file f;
	uint64_t a, b, ask;

	if (argc < 6) {
		fprintf(stderr, "see the head of %s\n", __FILE__);
		return 2;
	}
	path = argv[1];
	format = strrchr(path, '.');
	format = format ? format + 1 : path;
	a = strtoull(argv[3], NULL, 10);
	b = strtoull(argv[4], NULL, 10);
	ask = strtoull(argv[5], NULL, 10);
	qemu = argv + 6;
	nqemu = argc - 6;
	f = load(path);
	find_tables(&f);
	label[0] = 0;
	sound_disk = read_disk(&f);
	try_damage(&f, true);
	if (!strcmp(argv[2], "bits"))
		each_bit(&f, max_u64(a, 1), b, ask);
	seed = b * UINT64_C(0x9e3779b97f4a7c15) + 1;
	if (!strcmp(argv[2], "bytes"))
		random_bytes(&f, a, ask);
	if (!strcmp(argv[2], "entries"))
		damaged_entries(&f, a, ask);
	if (!strcmp(argv[2], "tables"))
		whole_tables(&f, a, ask);
	free(f.bytes);
	printf("%" PRIu64 " tried, %" PRIu64 " failed\n", tried, failed);
	return failed != 0;
}

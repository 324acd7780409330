/*
 * An open UDIF image, and what the driver's files have for each other:
 *
 * dmg.c         opening, closing, reading
 * dmg_tables.c  finding the block tables, in the property list or the resource fork
 * dmg_check.c   checksums
 */
#ifndef FORMATS_DMG_STATE_H
#define FORMATS_DMG_STATE_H

#include "formats/dmg/dmg_layout.h"
#include "libimg/engine/driver.h"

enum {
	/* 32 bytes of memory each. hdiutil's have 256 KiB or 1 MiB, so that is a disk of 256 GiB or 1 TiB. */
	DMG_CHUNKS_MAX = 1 << 20,
	/* Of the property list, as in QEMU, and of the resource fork. */
	DMG_DESCRIPTION_BYTES_MAX = 16 << 20,
};

/* Sectors that are stored together. */
struct dmg_chunk {
	uint64_t first, sectors; /* of the disk */
	uint64_t file_off;
	uint32_t stored; /* bytes; of plain and zeroed ones 0 */
	uint32_t type;	 /* DMG_PLAIN, ...; DMG_ZEROES for ignored ones, too */
};

struct dmg {
	struct dmg_trailer trailer;
	struct dmg_chunk *chunks; /* in order, none of them empty, no two with the same sector */
	size_t count;
};

/* What an unpacked chunk of a type is packed by; NULL: not at all, or a type that is not known. */
const struct img_codec *dmg_codec(uint32_t type);

/* ---- dmg_tables.c ---- */

/* number: of the table, from 0 on. */
typedef int dmg_table_fn(void *user, unsigned number, const uint8_t *bytes, size_t len, struct img_error *err);
/* Call fn() for each block table, until it does not return 0. -EUCLEAN: also where there is none. */
int dmg_for_each_table(struct img *img, const struct dmg_trailer *t, dmg_table_fn *fn, void *user,
		       struct img_error *err);
/*
 * The table's numbers, and its entries' offsets as those of the file. -EUCLEAN, -ENOTSUP: the sentence names the
 * image and the table.
 */
int dmg_read_table(const struct img *img, const struct dmg_trailer *t, unsigned number, const uint8_t *bytes,
		   size_t len, struct dmg_table *out, struct img_error *err);
/* Entry i: what it says, with sector and off counted from the start of the disk, and of the file. */
int dmg_read_entry(const struct img *img, const struct dmg_table *table,
		   unsigned number, const uint8_t *bytes, uint32_t i, struct dmg_entry *out,
		   struct img_error *err);

/* ---- dmg_check.c ---- */

int dmg_check(struct img *img, struct img_check *check, struct img_error *err);

#endif

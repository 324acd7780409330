/*
 * Formats that are recognised so that they are not taken for raw disks. Sources: the pages of
 * spec/, and for formats without one the programs that write them.
 *
 * A fixed VHD is told only by its footer and is left out on purpose: its guest bytes are where a
 * raw disk has them, and programs rely on its being taken as raw.
 */
#include "libimg/engine/driver.h"

const struct img_signature img_known_signatures[] = {
	{ .name = "qcow", .len = 8, .bytes = "QFI\xfb\0\0\0\1" },
	{ .name = "qed", .len = 4, .bytes = "QED" },	  /* and a zero byte */
	{ .name = "vpc", .len = 8, .bytes = "conectix" }, /* a dynamic one: copy of the footer */
	{ .name = "vhdx", .len = 8, .bytes = "vhdxfile" },
	{ .name = "vdi", .len = 4, .bytes = "\x7f\x10\xda\xbe", .off = 0x40 },
	{ .name = "luks", .len = 6, .bytes = "LUKS\xba\xbe" },
	{ .name = "parallels", .len = 16, .bytes = "WithoutFreeSpace" },
	{ .name = "parallels", .len = 16, .bytes = "WithouFreSpacExt" },
	{ .name = "bochs", .len = 23, .bytes = "Bochs Virtual HD Image" },
	{ .name = "cloop", .len = 31, .bytes = "#!/bin/sh\n#V2.0 Format\nmodprobe" },
	{ .name = "asif", .len = 4, .bytes = "shdw" },
	/* The trailer: signature, version 4, its own length of 512. */
	{ .name = "dmg", .len = 12, .bytes = "koly\0\0\0\4\0\0\2", .off = 512, .from_end = true },
	{ 0 },
};

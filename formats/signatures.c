/*
 * Formats that are recognised so that they are not taken for raw disks. Sources: the pages of
 * spec/, and for formats without one the programs that write them.
 */
#include "libimg/engine/driver.h"

const struct img_signature img_signatures[] = {
	{ .name = "vhdx", .len = 8, .bytes = "vhdxfile" },
	{ 0 },
};

/*
 * Sources: the formats' own documents. No file systems: a raw disk may well be one without partitions.
 * A CD's is told where the name says that it is a disk, for it is attached as something else.
 */
const struct img_signature img_content_signatures[] = {
	{ .name = "gzip-compressed data", .len = 3, .bytes = "\x1f\x8b\x08" },
	{ .name = "xz-compressed data", .len = 6, .bytes = "\xfd"
							   "7zXZ\0" },
	{ .name = "zstd-compressed data", .len = 4, .bytes = "\x28\xb5\x2f\xfd" },
	/* Behind "BZh" and the level: the first block's mark; an empty one's. */
	{ .name = "bzip2-compressed data", .len = 6, .bytes = "1AY&SY", .off = 4 },
	{ .name = "bzip2-compressed data", .len = 6, .bytes = "\x17\x72\x45\x38\x50\x90", .off = 4 },
	{ .name = "lz4-compressed data", .len = 4, .bytes = "\x04\x22\x4d\x18" },
	{ .name = "lzop-compressed data", .len = 9, .bytes = "\x89LZO\0\r\n\x1a\n" },
	{ .name = "lzip-compressed data", .len = 5, .bytes = "LZIP\1" },
	{ .name = "a tar archive (as an OVA is)", .len = 5, .bytes = "ustar", .off = 257 },
	{ .name = "a Zip archive", .len = 4, .bytes = "PK\3\4" },
	{ .name = "a 7-Zip archive", .len = 6, .bytes = "7z\xbc\xaf\x27\x1c" },
	{ .name = "a RAR archive", .len = 6, .bytes = "Rar!\x1a\7" },
	{ .name = "a cpio archive", .len = 6, .bytes = "070701" },
	{ .name = "a xar archive", .len = 4, .bytes = "xar!" },
	{ .name = "a Windows imaging archive (WIM)", .len = 8, .bytes = "MSWIM\0\0\0" },
	{ .name = "a Proxmox backup (VMA)", .len = 4, .bytes = "VMA\0" },
	{ .name = "a CD or DVD (ISO 9660)",
	  .len = 5,
	  .bytes = "CD001",
	  .off = 0x8001,
	  .suffix = ".iso" },
	{ .name = "a web page", .len = 14, .bytes = "<!DOCTYPE html" },
	{ .name = "a web page", .len = 14, .bytes = "<!doctype html" },
	{ .name = "a web page", .len = 5, .bytes = "<html" },
	{ .name = "an XML file", .len = 5, .bytes = "<?xml" },
	{ 0 },
};

/* Folders whose DiskDescriptor.xml is written word by word. */
#ifndef TESTS_PARALLELS_XML_H
#define TESTS_PARALLELS_XML_H

#include "tests/formats/parallels/plain.h"

enum {
	SIZE = 3 * MIB,
};

#define NONE "{00000000-0000-0000-0000-000000000000}"
#define TOP "{5fbaabe3-6958-40ff-92a7-860e329aab41}"
#define OLD "{11111111-2222-3333-4444-555555555555}"
#define OLDEST "{AAAAAAAA-2222-3333-4444-555555555555}"

#define IMAGE(guid, type, file) \
	"<Image><GUID>" guid "</GUID><Type>" type "</Type><File>" file "</File></Image>"
#define STORAGE(start, end, images) \
	"<Storage><Start>" #start "</Start><End>" #end "</End><Blocksize>8</Blocksize>" images \
	"</Storage>"
#define SHOT(guid, parent) "<Shot><GUID>" guid "</GUID><ParentGUID>" parent "</ParentGUID></Shot>"
#define XML_OF(parameters, storages, snapshots) \
	"<?xml version='1.0' encoding='UTF-8'?>\n<Parallels_disk_image Version=\"1.0\">" \
	"<Disk_Parameters>" parameters "</Disk_Parameters>" \
	"<StorageData>" storages "</StorageData>" \
	"<Snapshots>" snapshots "</Snapshots></Parallels_disk_image>\n"
#define XML(storages, snapshots) XML_OF("<Disk_size> 6144 </Disk_size>", storages, snapshots)

static inline void descriptor(const char *xml)
{
	mkdir("d.hdd", 0700);
	make_file("d.hdd/DiskDescriptor.xml", xml, strlen(xml), (off_t)strlen(xml));
}

static inline void folder_reads(const struct img_open_options *o, const uint8_t *model)
{
	struct img_error *err = img_error_new();
	uint8_t *got = malloc(SIZE);
	struct img *img = NULL;

	cr_assert_eq(img_open("d.hdd", o, &img, err), 0, "%s", img_error_text(err));
	cr_assert_eq(img_size(img), SIZE);
	cr_assert_eq(img_read(img, 0, got, SIZE, err), 0, "%s", img_error_text(err));
	cr_assert(!memcmp(got, model, SIZE));
	must_close(img);
	free(got);
	img_error_free(err);
}

/* A file of the folder by itself. */
static inline void fill(const char *name, uint64_t off, size_t len, uint8_t value)
{
	struct img *img = must_open(name, "parallels", IMG_OPEN_WRITE);
	uint8_t *bytes = malloc(off + len);

	put(img, off, len, value, bytes);
	must_close(img);
	free(bytes);
}

#endif

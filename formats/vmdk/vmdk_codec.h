/*
 * The codec of a last grain that the end of the disk cuts.
 */
#ifndef FORMATS_VMDK_CODEC_H
#define FORMATS_VMDK_CODEC_H

#include "libimg/engine/codec.h"

/*
 * A zlib stream of which the first out_len bytes are wanted: it may hold the whole grain
 * (VirtualBox, open-vmdk) or end where the disk does (QEMU). More than the largest grain is
 * refused.
 */
extern const struct img_codec vmdk_codec_last_grain;

#endif

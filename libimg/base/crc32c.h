/*
 * CRC-32C (Castagnoli): what VHDX protects its structures with. Reflected, begun and ended with all
 * ones. Thread-safe.
 */
#ifndef LIBIMG_BASE_CRC32C_H
#define LIBIMG_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Go on from crc, the checksum of what comes before; 0: nothing does. */
uint32_t img_crc32c(uint32_t crc, const void *bytes, size_t len);

#endif

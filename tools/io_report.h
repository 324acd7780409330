/* io: numbers as its callers know them. */
#ifndef TOOLS_IO_REPORT_H
#define TOOLS_IO_REPORT_H

#include <stdbool.h>
#include <stdint.h>

enum { IO_SIZE_TEXT = 32 };
/* "64 KiB", "1.465 GiB", "512 bytes": three decimals, or none. text: IO_SIZE_TEXT bytes; returned. */
const char *io_size_text(double bytes, char *text);

double io_clock(void); /* seconds, from some moment on */

/* What one request did: two lines for people, or one of numbers. verb: "wrote". */
struct io_report {
	const char *verb;
	uint64_t off, len;
	double seconds;
	bool machine;
};
void io_report_print(const struct io_report *r);

/* Bytes [off, off + n) of the disk, in hex and as text: sixteen to a line. */
void io_dump(uint64_t off, const uint8_t *bytes, uint64_t n);

#endif

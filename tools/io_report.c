/* io: sizes, times and dumps on standard output. */
#include "tools/io_report.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/*
 * Decimals that begin with three zeroes are left out. Less than a KiB has six of them, for rates of
 * very slow requests.
 */
const char *io_size_text(double bytes, char *text)
{
	static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB" };
	char number[24], *round;
	size_t unit = 0;

	while (bytes >= 1024 && unit < sizeof(units) / sizeof(units[0]) - 1) {
		bytes /= 1024;
		unit++;
	}
	snprintf(number, sizeof(number), "%.*f", unit ? 3 : 6, bytes);
	round = strstr(number, ".000");
	if (round)
		*round = '\0';
	snprintf(text, IO_SIZE_TEXT, "%s %s", number, units[unit]);
	return text;
}

double io_clock(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* Less than a second: "00.25 sec"; else, or if always, hours, minutes and seconds. */
static void time_text(double seconds, bool always, char *text, size_t size)
{
	uint64_t whole = (uint64_t)seconds;

	if (whole || always)
		snprintf(text, size, "%" PRIu64 ":%02u:%05.2f", whole / 3600,
			 (unsigned)(whole / 60 % 60), seconds - (double)(whole - whole % 60));
	else
		snprintf(text, size, "%05.2f sec", seconds);
}

void io_report_print(const struct io_report *r)
{
	/* What the clock does not see took a nanosecond: nothing is divided by zero. */
	double seconds = r->seconds > 1e-9 ? r->seconds : 1e-9;
	char length[IO_SIZE_TEXT], rate[IO_SIZE_TEXT], time[40];

	time_text(r->seconds, r->machine, time, sizeof(time));
	if (r->machine) {
		printf("%" PRIu64 ",1,%s,%.3f,%.3f\n", r->len, time, (double)r->len / seconds,
		       1 / seconds);
		return;
	}
	printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", r->verb, r->len, r->len,
	       r->off);
	printf("%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n", io_size_text((double)r->len, length),
	       time, io_size_text((double)r->len / seconds, rate), 1 / seconds);
}

static void dump_line(uint64_t off, const uint8_t *bytes, size_t n)
{
	size_t i;

	printf("%08" PRIx64 ":  ", off);
	for (i = 0; i < n; i++)
		printf("%02x ", bytes[i]);
	putchar(' ');
	for (i = 0; i < n; i++)
		putchar(isascii(bytes[i]) && isalnum(bytes[i]) ? bytes[i] : '.');
	putchar('\n');
}

void io_dump(uint64_t off, const uint8_t *bytes, uint64_t n)
{
	uint64_t at;

	for (at = 0; at < n; at += 16)
		dump_line(off + at, bytes + at, n - at < 16 ? (size_t)(n - at) : 16);
}

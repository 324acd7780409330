/* Sizes for people: three digits and a unit. */
#include "tools/size.h"

#include <stdio.h>

char *size_format(uint64_t bytes, char *text)
{
	static const char *const units[] = { "", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei" };
	double value = (double)bytes;
	unsigned unit = 0;

	/* 1000 of a unit and more are better said in the next: three digits are enough for all. */
	while (value >= 1000 && unit < 6) {
		value /= 1024;
		unit++;
	}
	snprintf(text, SIZE_TEXT_BYTES, "%0.3g %sB", value, units[unit]);
	return text;
}

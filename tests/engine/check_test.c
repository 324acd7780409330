/* What a driver's check reports: which defects become lines. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "libimg/engine/driver.h"

static struct {
	unsigned count;
	char last[200];
} lines;

static void add(void *user, const char *line)
{
	cr_assert_eq(user, &lines);
	lines.count++;
	snprintf(lines.last, sizeof(lines.last), "%s", line);
}

Test(check, as_many_defects_are_listed_as_a_person_reads)
{
	struct img_check c = { .report = add, .user = &lines };

	for (int i = 0; i < IMG_CHECK_DEFECTS_MAX / 2; i++) {
		img_check_defect(&c, "defect %d", i);
		img_check_list(&c, "leak %d", i);
	}
	cr_assert_eq(c.result.corruptions, IMG_CHECK_DEFECTS_MAX / 2);
	cr_assert_eq(lines.count, IMG_CHECK_DEFECTS_MAX);
	cr_assert_str_eq(lines.last, "leak 32767");
	for (int i = 0; i < 1000; i++) {
		img_check_defect(&c, "more");
		img_check_list(&c, "more");
	}
	cr_assert_eq(c.result.corruptions, IMG_CHECK_DEFECTS_MAX / 2 + 1000);
	cr_assert_eq(lines.count, IMG_CHECK_DEFECTS_MAX + 1);
	cr_assert(strstr(lines.last, "more defects"));
	img_check_report(&c, "repaired");
	cr_assert_str_eq(lines.last, "repaired");
}

Test(check, a_further_pass_only_counts)
{
	struct img_check c = { .report = add, .user = &lines, .quiet = true };

	img_check_defect(&c, "defect");
	img_check_list(&c, "leak");
	cr_assert_eq(c.result.corruptions, 1);
	cr_assert_eq(lines.count, 0);
	c.quiet = false;
	img_check_list(&c, "leak");
	cr_assert_eq(lines.count, 1);
}

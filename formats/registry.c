/*
 * All formats, in the order in which they are probed. Adding one is a folder and a line here.
 */
#include "libimg/engine/driver.h"

extern const struct img_driver qcow2_driver, vmdk_driver, vhdx_driver, vhd_driver, vdi_driver,
	qcow1_driver, qed_driver, parallels_driver, bochs_driver, cloop_driver, dmg_driver,
	asif_driver, luks_driver, raw_driver;

const struct img_driver *const img_drivers[] = {
	&qcow2_driver,
	&vmdk_driver,
	&vhdx_driver,
	&vhd_driver,
	&vdi_driver,
	&qcow1_driver,
	&qed_driver,
	&parallels_driver,
	&bochs_driver,
	&cloop_driver,
	&dmg_driver,
	&asif_driver,
	&luks_driver,
	&raw_driver, /* last: it takes whatever no other does */
	NULL,
};

/* libnbd, loaded when the first NBD export is opened. */
#ifndef LIBIMG_STORAGE_NBD_LIBRARY_H
#define LIBIMG_STORAGE_NBD_LIBRARY_H

#include <libnbd.h>

#include "libimg/base/error.h"

/* The functions of libnbd that are used, each under its name without "nbd_". */
#define IMG_NBD_FUNCTIONS(X) \
	X(create) \
	X(close) \
	X(get_error) \
	X(set_export_name) \
	X(set_tls) \
	X(set_tls_certificates) \
	X(set_tls_verify_peer) \
	X(set_tls_username) \
	X(set_tls_psk_file) \
	X(add_meta_context) \
	X(get_size) \
	X(get_block_size) \
	X(is_read_only) \
	X(can_flush) \
	X(can_zero) \
	X(can_fast_zero) \
	X(can_fua) \
	X(is_rotational) \
	X(can_multi_conn) \
	X(can_meta_context) \
	X(aio_connect_tcp) \
	X(aio_connect_unix) \
	X(aio_disconnect) \
	X(aio_get_fd) \
	X(aio_get_direction) \
	X(aio_notify_read) \
	X(aio_notify_write) \
	X(aio_is_ready) \
	X(aio_is_processing) \
	X(aio_is_dead) \
	X(aio_is_closed) \
	X(aio_pread_structured) \
	X(aio_pwrite) \
	X(aio_zero) \
	X(aio_flush) \
	X(aio_block_status)

#define IMG_NBD_MEMBER(name) __typeof__ (&nbd_##name)(name);
struct img_nbd_library {
	IMG_NBD_FUNCTIONS(IMG_NBD_MEMBER)
};
#undef IMG_NBD_MEMBER

/* Loaded at the first call, for good. Thread-safe. -ENOPKG: not installed, or too old. */
int img_nbd_library(const struct img_nbd_library **out, struct img_error *err);

#endif

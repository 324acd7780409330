/*
 * Arguments that several subcommands share. What is wrong with one is reported here, in the words that
 * callers know.
 */
#ifndef TOOLS_ARGS_H
#define TOOLS_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* p as it is; NULL: says that memory ran out and exits. Only while no image is open for writing. */
void *args_memory(void *p);

/* --output human|json. False: neither; reported. */
bool args_output(const char *command, const char *text, bool *json);

/*
 * A size within [min, max]. what: "image size". False: no size, or out of range; reported.
 */
bool args_size(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out);

/* Why text, the value of a parameter, is no size; rc: what img_parse_size() returned. */
void args_report_bad_size(const char *parameter, const char *text, int rc);

/*
 * A plain number within [min, max]: decimal, or as 0x hex or 0 octal. what: "queue depth". False:
 * no number, or out of range; reported.
 */
bool args_number(const char *what, const char *text, uint64_t min, uint64_t max, uint64_t *out);

/*
 * A cache mode's IMG_OPEN_* flags: none, writeback, unsafe, directsync, writethrough, and of our own
 * try-none: none where that is possible, else writeback. what: "source cache", "cache". False: no
 * such mode; reported.
 */
bool args_cache(const char *what, const char *text, unsigned *flags);
/* The same, but nothing is reported. */
bool args_cache_flags(const char *text, unsigned *flags);

/* --image-opts together with -f. False: both; reported. */
bool args_one_way_to_open(bool image_opts, const char *format);

/* Strings of the command line, in order; NULL at the end. Zero-initialise. */
struct args_list {
	const char **items;
	size_t count;
};
void args_list_add(struct args_list *list, const char *text);
void args_list_free(struct args_list *list);

#endif

/* io: commands on the image as a whole. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/io_commands.h"
#include "tools/io_report.h"
#include "tools/json.h"
#include "tools/report.h"

/* ---- Open and close ---- */

bool io_parse_cache(const char *text, unsigned *flags)
{
	unsigned mode;

	if (!args_cache("cache", text, &mode))
		return false;
	*flags &= ~(unsigned)(IMG_OPEN_DIRECT | IMG_OPEN_UNSAFE | IMG_OPEN_WRITETHROUGH);
	*flags |= mode;
	return true;
}

bool io_parse_discard(const char *text, unsigned *flags)
{
	if (!strcmp(text, "unmap") || !strcmp(text, "on")) {
		*flags |= IMG_OPEN_UNMAP;
		return true;
	}
	if (!strcmp(text, "ignore") || !strcmp(text, "off")) {
		*flags &= ~(unsigned)IMG_OPEN_UNMAP;
		return true;
	}
	report_error("Invalid discard option: %s", text);
	return false;
}

bool io_parse_aio(const char *text, enum img_io_kind *io)
{
	if (!strcmp(text, "threads"))
		*io = IMG_IO_THREADS;
	else if (!strcmp(text, "io_uring"))
		*io = IMG_IO_URING;
	else if (!strcmp(text, "native"))
		report_refusal(NULL, "-i native", "threads and io_uring are");
	else
		report_error("Invalid aio option: %s", text);
	return *io != IMG_IO_AUTO;
}

/*
 * options and path as one list KEY=VALUE,...; a comma in the path is written twice. NULL: no memory.
 */
static char *join_options(const char *options, const char *path)
{
	static const char key[] = ",file.filename=";
	char *text = malloc(strlen(options) + sizeof(key) + 2 * (path ? strlen(path) : 0)), *to;

	if (!text)
		return NULL;
	to = stpcpy(text, options);
	if (path)
		to = stpcpy(to, key);
	for (; path && *path; path++) {
		if (*path == ',')
			*to++ = ',';
		*to++ = *path;
	}
	*to = '\0';
	return text;
}

/* False: reported. */
static bool read_open_options(const struct io_options *o, struct io_open *how)
{
	const char *const *given = o->given;

	if ((given['n'] && !io_parse_cache("none", &how->flags)) ||
	    (given['t'] && !io_parse_cache(given['t'], &how->flags)) ||
	    (given['d'] && !io_parse_discard(given['d'], &how->flags)) ||
	    (given['i'] && !io_parse_aio(given['i'], &how->io)))
		return false;
	how->flags |= given['U'] ? IMG_OPEN_SHARE : 0;
	how->read_only = given['r'];
	return true;
}

int io_run_open(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct io_open how = { .references = s->references, .flags = IO_OPEN_DEFAULT };
	struct io_options o;
	char *joined = NULL;
	int code;

	if (!io_parse_options(c, argc, argv, &o))
		return 1;
	if (o.operand_count > 1 || (!o.operand_count && !o.given['o']))
		return io_command_usage(c);
	if (s->img) {
		report_error("file open already, try 'help close'");
		return 1;
	}
	if (!read_open_options(&o, &how))
		return 1;
	how.name = o.operands[0];
	how.image_opts = s->image_opts;
	if (o.given['o']) {
		if (s->image_opts && how.name) {
			report_error("--image-opts and 'open -o' are mutually exclusive");
			return 1;
		}
		joined = join_options(o.given['o'], how.name);
		if (!joined) {
			report_error("out of memory");
			return 1;
		}
		how.name = joined;
		how.image_opts = true;
	}
	code = io_session_open(s, &how);
	free(joined);
	return code;
}

int io_run_close(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	(void)c, (void)argc, (void)argv;
	return io_session_close(s);
}

/* ---- Size ---- */

int io_run_length(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	char text[IO_SIZE_TEXT];

	(void)c, (void)argc, (void)argv;
	puts(io_size_text((double)img_size(s->img), text));
	return 0;
}

static bool parse_preallocation(const char *text, enum img_preallocate *out)
{
	static const char *const modes[] = {
		[IMG_PREALLOCATE_OFF] = "off",
		[IMG_PREALLOCATE_METADATA] = "metadata",
		[IMG_PREALLOCATE_FALLOC] = "falloc",
		[IMG_PREALLOCATE_FULL] = "full",
	};
	int i;

	for (i = 0; i < (int)(sizeof(modes) / sizeof(modes[0])); i++) {
		if (!strcmp(text, modes[i])) {
			*out = (enum img_preallocate)i;
			return true;
		}
	}
	report_error("Invalid preallocation mode '%s'", text);
	return false;
}

int io_run_truncate(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	enum img_preallocate preallocation = IMG_PREALLOCATE_OFF;
	int rc;
	struct img_error *err;
	struct io_options o;
	uint64_t size;

	if (!io_parse_options(c, argc, argv, &o))
		return 1;
	if (o.operand_count != 1)
		return io_command_usage(c);
	if ((o.given['m'] && !parse_preallocation(o.given['m'], &preallocation)) ||
	    !io_parse_size(o.operands[0], &size))
		return 1;
	if (!io_session_may_change(s))
		return 1;
	io_session_drain(s);
	err = img_error_new();
	rc = img_resize(s->img, size, preallocation, err);
	if (rc)
		report_error("%s", img_error_text(err));
	img_error_free(err);
	return rc ? 1 : 0;
}

/* ---- Reports ---- */

int io_run_info(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	struct img_error *err = img_error_new();
	struct img_value *report = NULL;
	const struct img_value *unit, *specific;
	char text[IO_SIZE_TEXT];
	int rc;

	(void)c, (void)argc, (void)argv;
	io_session_drain(s);
	rc = img_info(s->img, &report, err);
	if (rc) {
		report_error("%s", img_error_text(err));
	} else {
		unit = img_value_get(report, "cluster-size");
		specific = img_value_get(img_value_get(report, "format-specific"), "data");
		printf("format name: %s\n", img_format(s->img));
		printf("cluster size: %s\n",
		       io_size_text(unit ? (double)img_value_uint(unit) : 0, text));
		if (specific && img_value_count(specific)) {
			puts("Format specific information:");
			json_value_human(specific, 1);
		}
	}
	img_value_free(report);
	img_error_free(err);
	return rc ? 1 : 0;
}

/*
 * How far from off on the image itself (not its backing images) has something, or has nothing: at
 * most len > 0 bytes. False: the image is damaged; reported.
 */
static bool find_run(struct img *img, uint64_t off, uint64_t len, uint64_t *run, bool *present)
{
	struct img_error *err = img_error_new();
	struct img_map_entry e = { 0 };
	int rc = 0;

	for (*run = 0; *run < len; *run += e.length) {
		rc = img_map(img, off + *run, len - *run, false, &e, err);
		if (rc || (*run && e.present != *present))
			break;
		*present = e.present;
	}
	if (rc)
		report_error("%s", img_error_text(err));
	img_error_free(err);
	return !rc;
}

int io_run_alloc(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	uint64_t off, len = 512, run, at, allocated = 0, size;
	char text[IO_SIZE_TEXT];
	bool present = false;

	(void)c;
	if (!io_parse_size(argv[1], &off) || (argc > 2 && !io_parse_size(argv[2], &len)))
		return 1;
	io_session_drain(s);
	size = img_size(s->img);
	if (off > size)
		len = 0;
	else if (len > size - off)
		len = size - off;
	for (at = 0; at < len; at += run) {
		if (!find_run(s->img, off + at, len - at, &run, &present))
			return 1;
		if (present)
			allocated += run;
	}
	printf("%" PRIu64 "/%" PRIu64 " bytes allocated at offset %s\n", allocated, len,
	       io_size_text((double)off, text));
	return 0;
}

int io_run_map(struct io_session *s, const struct io_command *c, int argc, char **argv)
{
	char length[IO_SIZE_TEXT], start[IO_SIZE_TEXT];
	uint64_t off, run, size;
	bool present = false;

	(void)c, (void)argc, (void)argv;
	io_session_drain(s);
	size = img_size(s->img);
	for (off = 0; off < size; off += run) {
		if (!find_run(s->img, off, size - off, &run, &present))
			return 1;
		printf("%s (0x%" PRIx64 ") bytes %s allocated at offset %s (0x%" PRIx64 ")\n",
		       io_size_text((double)run, length), run, present ? "   " : "not",
		       io_size_text((double)off, start), off);
	}
	return 0;
}

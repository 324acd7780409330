/* From what the user wrote to an open image. */
#include "tools/open.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "libimg/img.h"
#include "tools/args.h"
#include "tools/options.h"
#include "tools/prompt.h"
#include "tools/report.h"
#include "tools/suggest.h"

static const char *default_references;
static struct img_secrets *objects; /* of the command line; NULL: none */

void open_set_default_references(const char *policy)
{
	default_references = policy;
}

const char *open_references(const char *given)
{
	return given ? given : default_references;
}

/*
 * OpenSSL keeps copies of keys in memory like any other. A limit of 1 byte is none for files, and stops
 * the kernel's piping to a program as well, which one of 0 does not.
 */
static void forbid_core_dump(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_CORE, &limit) || limit.rlim_cur <= 1)
		return;
	limit.rlim_cur = 1;
	setrlimit(RLIMIT_CORE, &limit);
}

static int ask(void *user, const struct img_secret_request *request, void *buf, size_t size, size_t *len)
{
	forbid_core_dump();
	return prompt_passphrase(user, request, buf, size, len);
}

static struct img_secrets *all_objects(void)
{
	if (!objects) {
		objects = args_memory(img_secrets_new());
		if (prompt_is_possible())
			img_secrets_set_callback(objects, ask, NULL);
	}
	return objects;
}

/* Others can read the command line as long as the program runs. */
static void hide_data(const char *text)
{
	char *at = strstr(text, ",data=");

	if (at)
		memset(at + strlen(",data="), '*', strlen(at + strlen(",data=")));
}

bool open_add_object(const char *text)
{
	struct img_error *err = img_error_new();
	bool ok;

	forbid_core_dump();
	ok = !img_secrets_add(all_objects(), text, err);
	hide_data(text);
	if (!ok)
		report_failure(err, "--object");
	img_error_free(err);
	return ok;
}

const struct img_secrets *open_objects(void)
{
	return all_objects();
}

void open_forget_objects(void)
{
	img_secrets_free(objects);
	objects = NULL;
}

bool open_option(struct open_request *r, int opt, const char *value)
{
	switch (opt) {
	case 'f':
		r->format = value;
		return true;
	case ARG_IMAGE_OPTS:
		r->image_opts = true;
		return true;
	case ARG_REFERENCES:
		r->references = value;
		return true;
	default:
		return open_add_object(value);
	}
}

/* A name with a colon may be that of a file. */
static void print_hint(const struct img_error *err, const char *name)
{
	if (img_error_code(err) == -EPROTONOSUPPORT)
		report_detail("If it is the name of a file, give it as './%s'.", name);
}

const char *open_new_path(const char *name, const char *subject, bool export_too)
{
	static const char *const plain[] = { "file:", "host_device:" };
	struct img_error *err = img_error_new();
	struct img_node *node = NULL;
	const char *path = NULL;
	size_t len = strcspn(name, ":/");

	for (size_t i = 0; i < sizeof(plain) / sizeof(plain[0]) && !path; i++)
		if (!strncmp(name, plain[i], strlen(plain[i])))
			path = name + strlen(plain[i]);
	if (!path && name[len] != ':')
		path = name;
	if (!path && img_node_parse_name(name, &node, err)) {
		if (subject)
			report_failure(err, "%s", subject);
		else
			report_error("%s", img_error_text(err));
		print_hint(err, name);
	} else if (!path && export_too && strncmp(name, "json:", 5) != 0) {
		path = name;
	} else if (!path) {
		report_error("%s%sProtocol '%.*s' cannot be created on", subject ? subject : "",
			     subject ? ": " : "", (int)len, name);
	}
	img_node_free(node);
	img_error_free(err);
	return path;
}

void open_warn_of_content(const char *name, const char *content)
{
	if (content)
		report_warning("'%s' is taken for a raw disk, but it looks like %s; -f raw says that it "
			       "is a disk",
			       name, content);
}

static void warn_if_guessed_raw(const struct img *img)
{
	char *name;

	if (!img_was_probed(img) || strcmp(img_format(img), "raw"))
		return;
	name = args_memory(img_printable(img_name(img)));
	fprintf(stderr,
		"WARNING: Image format was not specified for '%s' and probing guessed raw.\n"
		"         Automatically detecting the format is dangerous for raw images, write "
		"operations on block 0 will be restricted.\n"
		"         Specify the 'raw' format explicitly to remove the restrictions.\n",
		name);
	free(name);
}

/* What the name says of how to do I/O. */
static void read_io_kind(const struct img_node *node, enum img_io_kind *io)
{
	const char *aio = img_node_get(node, "aio");

	aio = aio ? aio : img_node_get(node, "file.aio");
	if (aio && !strcmp(aio, "threads"))
		*io = IMG_IO_THREADS;
	else if (aio && !strcmp(aio, "io_uring"))
		*io = IMG_IO_URING;
}

/* ---- Snapshots inside an image ---- */

static int add_snapshot_key(void *user, const char *key, const char *value, struct img_error *err)
{
	struct open_snapshot *s = user;
	char **to = NULL;

	(void)err;
	if (!strcmp(key, "snapshot.id"))
		to = &s->id;
	else if (!strcmp(key, "snapshot.name"))
		to = &s->name;
	if (!to) {
		report_error("Invalid parameter '%s'", key);
		return -EINVAL;
	}
	free(*to);
	*to = args_memory(strdup(value ? value : "on"));
	return 0;
}

bool open_parse_snapshot(const char *text, struct open_snapshot *out)
{
	open_snapshot_clear(out);
	if (strncmp(text, "snapshot.", strlen("snapshot.")) != 0) {
		out->any = text;
		return true;
	}
	if (img_parse_keyval(text, add_snapshot_key, out, NULL)) {
		report_error("Failed in parsing snapshot param '%s'", text);
		return false;
	}
	return true;
}

void open_snapshot_clear(struct open_snapshot *s)
{
	free(s->id);
	free(s->name);
	*s = (struct open_snapshot){ 0 };
}

/* What was said of one image, as a description; options->format may become another. */
static int parse_request(const struct open_request *r, struct img_open_options *options,
			 struct img_node **out, struct img_error *err)
{
	int rc = r->image_opts ? img_node_parse_options(r->name, out, err)
			       : img_node_parse_name(r->name, out, err);

	/* the bare file or device: its bytes are the disk */
	if (!rc && r->format && (!strcmp(r->format, "file") || !strcmp(r->format, "host_device"))) {
		options->format = "raw";
		if (!img_node_get(*out, "file.driver"))
			rc = img_node_set(*out, "file.driver", r->format, err);
	}
	return rc;
}

static int open_view(const struct open_request *r, const struct img_open_options *options,
		     const char *id, const char *name, struct img **out, struct img_error *err)
{
	struct img_open_options as = *options;
	struct img_node *node = NULL;
	int rc = parse_request(r, &as, &node, err);

	if (!rc && (img_node_get(node, "snapshot.id") || img_node_get(node, "snapshot.name"))) {
		report_error("Failed to load snapshot: '%s' is one already", r->name);
		rc = -ECANCELED;
	}
	if (!rc && id)
		rc = img_node_set(node, "snapshot.id", id, err);
	if (!rc && name)
		rc = img_node_set(node, "snapshot.name", name, err);
	as.format = options->format;
	if (!rc)
		rc = img_open_node(node, &as, out, err);
	img_node_free(node);
	return rc;
}

/* In place of *img, which could be opened: so what is not there now is the snapshot. */
static bool load_snapshot(const struct open_request *r, const struct img_open_options *options,
			  struct img **img)
{
	const struct open_snapshot *s = r->snapshot;
	struct img_open_options as = *options;
	const char *id = s->any ? s->any : s->id;
	struct img_error *err = args_memory(img_error_new());
	struct img *view = NULL;
	int rc = -ENOENT;

	as.format = img_format(*img);
	if ((!id || *id) && (!s->name || *s->name)) /* none is called "" */
		rc = open_view(r, &as, id, s->name, &view, err);
	if (rc == -ENOENT && s->any && *s->any)
		rc = open_view(r, &as, NULL, s->any, &view, err);
	/* Callers know these words. */
	if (rc == -ENOENT)
		report_error("Failed to load snapshot: Can't find snapshot");
	else if (rc == -ENOTSUP)
		report_error("Failed to load snapshot: Block format '%s' used by device '' does not "
			     "support temporarily loading internal snapshots",
			     as.format);
	else if (rc && rc != -ECANCELED)
		report_failure(err, "Failed to load snapshot");
	img_error_free(err);
	if (rc)
		return false;
	img_close(*img, NULL);
	*img = view;
	return true;
}

struct img *open_image(const struct open_request *r)
{
	struct img_open_options options = { .format = r->format,
					    .flags = r->flags,
					    .references = open_references(r->references),
					    .secrets = all_objects() };
	struct img_error *err = img_error_new();
	struct img_node *node = NULL;
	struct img *img = NULL;
	char *subject;
	int rc;

	if (r->backing_flags) {
		options.have_backing_flags = true;
		options.backing_flags = *r->backing_flags;
	}
	if (r->subject)
		subject = args_memory(strdup(r->subject));
	else if (asprintf(&subject, "Could not open '%s'", r->name) < 0)
		args_memory(NULL);
	rc = parse_request(r, &options, &node, err);
	if (!rc)
		rc = img_open_node(node, &options, &img, err);
	if (rc) {
		report_failure(err, "%s", subject);
		print_hint(err, r->name);
		if (r->format)
			suggest_format(r->format);
	}
	if (!rc && r->io)
		read_io_kind(node, r->io);
	if (!rc && r->warn_if_probed)
		warn_if_guessed_raw(img);
	for (const struct img *i = img; i; i = img_backing(i))
		if (img_warning(i))
			report_warning("%s", img_warning(i));
	if (!rc && r->snapshot && !load_snapshot(r, &options, &img)) {
		img_close(img, NULL);
		img = NULL;
	}
	img_node_free(node);
	img_error_free(err);
	free(subject);
	return img;
}

bool open_check_children(const struct img *img, bool force)
{
	bool ours = is_imgtool();
	struct img_error *err = args_memory(img_error_new());
	struct img_child child;
	bool go_on = true;
	int rc = img_find_child(img, &child, err);

	if (rc < 0) {
		report_failure(err, "Could not look for images based on '%s'", img_name(img));
		go_on = false;
	} else if (rc && child.refuses && ours && !force) {
		report_error("'%s': '%s' is based on it, and refuses it once it was written to, until its link is "
			     "repaired (rebase -u); --force writes nevertheless",
			     img_name(img), child.path);
		go_on = false;
	} else if (rc && child.refuses) {
		report_warning("'%s' is based on '%s', and refuses it once it was written to, until its link is "
			       "repaired (rebase -u)",
			       child.path, img_name(img));
	} else if (rc && ours) {
		report_warning("'%s' is based on '%s', and may read differently now", child.path, img_name(img));
	}
	if (rc > 0)
		free(child.path);
	img_error_free(err);
	return go_on;
}

void open_warn_replaced(const char *path, unsigned cache_flags)
{
	static const char *const formats[] = { NULL, "raw" }; /* a damaged image is a file still */
	struct img_open_options how = { .flags = IMG_OPEN_SELF_ONLY | IMG_OPEN_NO_BACKING |
						 IMG_OPEN_NO_LOCK | IMG_OPEN_SHARE };
	const unsigned direct = IMG_OPEN_DIRECT | IMG_OPEN_TRY_DIRECT;
	struct img_node *node = NULL;
	struct img *img = NULL;
	struct img_child child;
	char *name;

	if (asprintf(&name, "file:%s", path) < 0)
		args_memory(NULL);
	how.flags |= cache_flags & direct ? IMG_OPEN_TRY_DIRECT : 0u;
	img_node_parse_name(name, &node, NULL);
	for (size_t i = 0; node && i < sizeof(formats) / sizeof(formats[0]) && !img; i++) {
		how.format = formats[i];
		img_open_node(node, &how, &img, NULL);
	}
	if (img && img_find_child(img, &child, NULL) > 0) {
		report_warning("'%s' is based on '%s', which is replaced: it will read differently, or refuse "
			       "what is there then",
			       child.path, path);
		free(child.path);
	}
	img_close(img, NULL);
	img_node_free(node);
	free(name);
}

void open_warn_rounded(const char *name, uint64_t asked, uint64_t size)
{
	asked = (asked + 511) / 512 * 512;
	if (is_imgtool() && size && size != asked) /* 0: a header without its disk */
		report_warning("'%s' has %" PRIu64 " bytes in place of %" PRIu64
			       ", for its format has no disk of exactly that size",
			       name, size, asked);
}

int open_and_change(const struct open_request *request,
		    int (*work)(void *user, struct img *img, struct img_error *err), void *user)
{
	struct img *img = open_image(request);
	struct img_error *err;
	int rc;

	if (!img)
		return 1;
	err = args_memory(img_error_new());
	rc = work(user, img, err);
	if (img_close(img, err)) {
		if (!rc)
			report_failure(err, "Could not write '%s'", request->name);
		rc = 1;
	}
	img_error_free(err);
	return rc;
}

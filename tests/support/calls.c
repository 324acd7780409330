/* See calls.h. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "tests/support/calls.h"

enum {
	MAX_TASKS = 64,
};

struct calls {
	const char *log, *folder;
	const char *const *name;
	struct img_storage *const *file;
	unsigned nfiles;
	size_t line;
	struct successor { /* a new file that is to take the place of one of these */
		char path[4096], *bytes;
		size_t len;
		bool durable;
	} next;
	struct img_storage *renamed; /* which has got its name, in a folder that was not synced yet */
	struct task {
		unsigned long id;
		char *begun; /* a call that has not returned; malloc'd */
	} task[MAX_TASKS];
};

static void give_up(const struct calls *c, const char *what, const char *text)
{
	fprintf(stderr, "%s:%zu: %s: %.200s\n", c->log, c->line, what, text);
	exit(2);
}

static bool starts(const char *text, const char *with)
{
	return !strncmp(text, with, strlen(with));
}

/* Undo the escapes of a string up to the mark that ends it; what follows the mark. */
static const char *unescape(const struct calls *c, const char *text, char mark, char *to,
			    size_t room, size_t *len)
{
	while (*text && *text != mark) {
		unsigned value = (unsigned char)*text;
		int used = 1;

		if (text[0] == '\\' && (sscanf(text, "\\x%2x%n", &value, &used) != 1 || used != 4))
			give_up(c, "an unknown escape", text);
		if (*len == room)
			give_up(c, "more data than was written", text);
		to[(*len)++] = (char)value;
		text += used;
	}
	if (*text != mark)
		give_up(c, "a string without an end", text);
	return text + 1;
}

/* The path of a call's first argument, a descriptor; *args is moved behind it. False: it has none. */
static bool path_of(const struct calls *c, const char **args, char path[4096])
{
	const char *text = *args + strcspn(*args, "<,)");
	size_t len = 0;

	if (*text != '<')
		return false;
	*args = unescape(c, text + 1, '>', path, 4095, &len);
	path[len] = 0;
	return true;
}

/* Which of the files has that path, up to what is cut off of it? nfiles: none. */
static unsigned find(const struct calls *c, const char *path, const char *suffix)
{
	size_t folder = strlen(c->folder);
	const char *name = path + folder + 1;
	size_t len;

	if (strncmp(path, c->folder, folder) != 0 || path[folder] != '/')
		return c->nfiles;
	for (unsigned i = 0; i < c->nfiles; i++) {
		len = strlen(c->name[i]);
		if (!strncmp(name, c->name[i], len) &&
		    (*suffix ? starts(name + len, suffix) && !strchr(name + len, '/') : !name[len]))
			return i;
	}
	return c->nfiles;
}

/* A file that is to take the place of another: what img_storage_replace() makes. */
static bool is_successor(const struct calls *c, const char *path)
{
	return find(c, path, ".new-") < c->nfiles;
}

/* The file that a call's first argument, a descriptor, is of; *args is moved behind it. NULL: none of the folder's. */
static struct img_storage *file_of(const struct calls *c, const char **args)
{
	char path[4096];
	size_t folder = strlen(c->folder);
	unsigned i;

	if (!path_of(c, args, path) || strncmp(path, c->folder, folder) != 0 || path[folder] != '/' ||
	    strchr(path + folder + 1, '/'))
		return NULL;
	i = find(c, path, "");
	if (i == c->nfiles)
		give_up(c, "another file changes", path);
	return c->file[i];
}

/* Something is written to a successor, one at a time. */
static void add_to_successor(struct calls *c, const char *path, const char *args)
{
	struct successor *n = &c->next;

	if (strcmp(n->path, path) != 0) {
		free(n->bytes);
		*n = (struct successor){ .len = 0 };
		snprintf(n->path, sizeof(n->path), "%s", path);
	}
	n->durable = false;
	n->bytes = realloc(n->bytes, n->len + strlen(args) + 1);
	if (!n->bytes)
		abort();
	args += strcspn(args, "\"");
	unescape(c, args + (*args != 0), '"', n->bytes, n->len + strlen(args), &n->len);
}

static const char *next_string(const struct calls *c, const char *args, char path[4096])
{
	size_t len = 0;

	args += strcspn(args, "\"");
	args = unescape(c, args + (*args != 0), '"', path, 4095, &len);
	path[len] = 0;
	return args;
}

/* A successor takes the place of a file: which of the two a power cut leaves is open until the folder is synced. */
static void redo_rename(struct calls *c, const char *args)
{
	char from[4096], to[4096];
	unsigned i;

	args = next_string(c, args, from);
	next_string(c, args, to);
	i = find(c, to, "");
	if (i == c->nfiles || strcmp(from, c->next.path) != 0)
		give_up(c, "names change", from);
	if (!c->next.durable)
		give_up(c, "a file takes another's place before it is durable", from);
	if (img_storage_replace(c->file[i], c->next.bytes, c->next.len, false, NULL))
		give_up(c, "cannot be done again", from);
	c->renamed = c->file[i];
	c->next.path[0] = 0;
}

static void io(const struct calls *c, struct img_storage *s, enum img_io_op op, void *data,
	       uint64_t off, uint64_t len, unsigned flags)
{
	struct iovec iov = { .iov_base = data, .iov_len = data ? (size_t)len : 0 };

	if (img_storage_io(s, op, &iov, data ? 1 : 0, off, len, flags))
		give_up(c, "cannot be done again", "");
}

static void redo_write(const struct calls *c, struct img_storage *s, const char *name,
		       const char *args, uint64_t done)
{
	char *data = malloc(strlen(args) + 1);
	size_t room = strlen(args), len = 0;
	unsigned long long off;
	char rest[64] = "";

	if (!data)
		abort();
	if (!strcmp(name, "pwrite64")) {
		args += strcspn(args, "\"");
		args = unescape(c, args + (*args != 0), '"', data, room, &len);
	} else {
		for (const char *at; (at = strstr(args, "iov_base=\"")) != NULL;)
			args = unescape(c, at + strlen("iov_base=\""), '"', data, room, &len);
		args += strcspn(args, "]");
		args += *args != 0;
	}
	/* The rest of the arguments: how many (bytes, vectors), where, and flags. */
	if (sscanf(args, ", %*u, %llu%63[^)]", &off, rest) < 1 ||
	    (*rest && strcmp(rest, ", 0") != 0 && strcmp(rest, ", RWF_DSYNC") != 0))
		give_up(c, "an unknown kind of write", args);
	if (len < done)
		give_up(c, "data is missing", args);
	io(c, s, IMG_IO_WRITE, data, off, done, strcmp(rest, ", RWF_DSYNC") ? 0 : IMG_IO_FUA);
	free(data);
}

static void redo_fallocate(const struct calls *c, struct img_storage *s, const char *args)
{
	char mode[128];
	unsigned long long off, len;
	uint64_t size = atomic_load(&s->size);
	bool keep;

	if (sscanf(args, ", %127[^,], %llu, %llu", mode, &off, &len) != 3)
		give_up(c, "an unknown fallocate()", args);
	keep = strstr(mode, "KEEP_SIZE");
	if (strstr(mode, "PUNCH_HOLE"))
		io(c, s, IMG_IO_PUNCH, NULL, off, len, 0);
	else if (strstr(mode, "ZERO_RANGE")) {
		if (!keep || off < size)
			io(c, s, IMG_IO_ZERO, NULL, off, keep ? min_u64(len, size - off) : len, 0);
	} else if (!strcmp(mode, "0")) {
		if (off + len > size && img_storage_resize(s, off + len, IMG_PREALLOCATE_OFF, NULL))
			give_up(c, "cannot be done again", args);
	} else if (strcmp(mode, "FALLOC_FL_KEEP_SIZE") != 0) {
		give_up(c, "an unknown fallocate()", args);
	}
}

static void call_name(const char *call, char *name, size_t room)
{
	snprintf(name, room, "%.*s", (int)strcspn(call, "("), call);
}

static bool is_sync(const char *name)
{
	return !strcmp(name, "fdatasync") || !strcmp(name, "fsync");
}

/* A sync covers what was done when it began. */
static void begin(struct calls *c, const char *call)
{
	const char *args = call + strcspn(call, "("), *rest = args;
	char name[32], path[4096] = "";
	struct img_storage *s;

	call_name(call, name, sizeof(name));
	if (!is_sync(name))
		return;
	if (path_of(c, &rest, path) && is_successor(c, path)) {
		c->next.durable = !strcmp(c->next.path, path);
		return;
	}
	s = !strcmp(path, c->folder) ? c->renamed : file_of(c, &args);
	if (s)
		io(c, s, IMG_IO_SYNC, NULL, 0, 0, 0);
}

static void end(struct calls *c, const char *call)
{
	const char *args = call + strcspn(call, "("), *rest = args, *result = NULL;
	char name[32], path[4096] = "";
	struct img_storage *s;
	long long done;

	call_name(call, name, sizeof(name));
	for (const char *at = args; (at = strstr(at, " = ")) != NULL; at++)
		result = at + 3;
	if (!result || sscanf(result, "%lld", &done) != 1)
		give_up(c, "a call without a result", call);
	if (starts(name, "io_uring_") && done < 0)
		return;
	if (!strcmp(name, "rename") && !done) {
		redo_rename(c, args);
		return;
	}
	if (starts(name, "rename") || starts(name, "link") || starts(name, "unlink"))
		give_up(c, "names change", call);
	if (path_of(c, &rest, path) && is_successor(c, path)) {
		if (!strcmp(name, "write") && done > 0)
			add_to_successor(c, path, rest);
		else if (!is_sync(name) && strcmp(name, "sync_file_range") != 0)
			give_up(c, "an unknown call", call);
		return;
	}
	s = file_of(c, &args);
	if (!s)
		return;
	if (done < 0 && strcmp(name, "fallocate") != 0) /* what cannot be is done in another way */
		give_up(c, "a call that fails", call);
	if (done < 0 || is_sync(name) || !strcmp(name, "sync_file_range"))
		return;
	if (starts(name, "pwrite"))
		redo_write(c, s, name, args, (uint64_t)done);
	else if (!strcmp(name, "fallocate"))
		redo_fallocate(c, s, args);
	else if (strcmp(name, "ftruncate") != 0)
		give_up(c, "an unknown call", call);
	else if (img_storage_resize(s, strtoull(args + 1, NULL, 0), IMG_PREALLOCATE_OFF, NULL))
		give_up(c, "cannot be done again", call);
}

static struct task *task_of(struct calls *c, unsigned long id)
{
	for (unsigned i = 0; i < MAX_TASKS; i++) {
		if (c->task[i].id == id || !c->task[i].id) {
			c->task[i].id = id;
			return &c->task[i];
		}
	}
	give_up(c, "too many tasks", "");
	return NULL;
}

static void parse_line(struct calls *c, const char *line)
{
	static const char unfinished[] = " <unfinished ...>", resumed[] = " resumed>";
	char *call = NULL, *stop;
	struct task *t = task_of(c, strtoul(line, &stop, 10));

	line = stop + strspn(stop, " ");
	if (starts(line, "+++") || starts(line, "---"))
		return;
	if (starts(line, "<... ")) {
		const char *rest = strstr(line, resumed);

		if (!rest || !t->begun || asprintf(&call, "%s%s", t->begun, rest + strlen(resumed)) < 0)
			give_up(c, "the end of a call that did not begin", line);
		free(t->begun);
		t->begun = NULL;
	} else {
		call = strdup(line);
		if (!call)
			abort();
		stop = strstr(call, unfinished);
		if (stop)
			*stop = 0;
		begin(c, call);
		if (stop) {
			t->begun = call;
			return;
		}
	}
	end(c, call);
	free(call);
}

void calls_replay(const char *log, const char *folder, const char *const *name,
		  struct img_storage *const *file, unsigned nfiles)
{
	struct calls c = {
		.log = log,
		.folder = folder,
		.name = name,
		.file = file,
		.nfiles = nfiles,
	};
	FILE *in = fopen(log, "re");
	char *line = NULL;
	size_t room = 0;
	ssize_t len;

	if (!in) {
		perror(log);
		exit(2);
	}
	while ((len = getline(&line, &room, in)) > 0) {
		c.line++;
		line[len - 1] = 0;
		parse_line(&c, line);
	}
	for (unsigned i = 0; i < MAX_TASKS; i++) {
		if (c.task[i].begun)
			give_up(&c, "a call without an end", c.task[i].begun);
	}
	free(c.next.bytes);
	free(line);
	fclose(in);
}

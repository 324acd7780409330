/*
 * For the crash and fault suites: images in flat memory, a random workload whose effect is known
 * sector by sector, and the judgement of what an image holds after it was cut short.
 */
#ifndef TESTS_SUPPORT_WORKLOAD_H
#define TESTS_SUPPORT_WORKLOAD_H

#include "libimg/engine/driver.h"
#include "libimg/image/context.h"

enum {
	SECTOR = 512,
};

/* A file's bytes; grows as needed. Zero-initialise; free bytes. */
struct flat {
	uint8_t *bytes;
	size_t size, room;
};

void flat_copy(struct flat *to, const struct flat *from);
void flat_resize(struct flat *f, size_t size);
/* Read a file; ends the program where that fails. */
void flat_load(struct flat *f, const char *path);
void flat_save(const struct flat *f, const char *path);
/* What a recorded request did. SYNC: nothing. */
void flat_apply(struct flat *f, const struct img_record_entry *entry);
/* A storage in memory with a copy of the bytes. */
struct img_storage *flat_storage(const struct flat *f, const char *name);

uint64_t next_random(uint64_t *state);

/* A request of the workload, in the order of submission. */
struct deed {
	uint64_t off, len;
	uint64_t stamp; /* each 8 bytes of what was written; 0: zeroes */
	size_t mark;	/* entries in the record when it was submitted */
	size_t sure;	/* ... when it was done, if it was to be durable then; SIZE_MAX */
};

/* A flush that succeeded. */
struct durable {
	size_t mark;  /* entries in the record when it was done */
	size_t deeds; /* deeds that it covers: those before */
};

struct workload {
	uint64_t size;	  /* guest bytes */
	uint8_t *before;  /* guest content at first */
	uint8_t *flushed; /* judge()'s: content at the last flush before the cut */
	size_t applied;	  /* judge()'s: deeds that flushed has */
	size_t *last;	  /* judge()'s: of each sector, 1 + its last deed that is durable by itself */
	struct deed *deed;
	size_t deeds, deeds_room;
	struct durable *durable;
	size_t durables, durables_room;
	uint64_t refused; /* requests that failed */
	int rc;		  /* the first of the failures */
	char *sentence;	  /* of that; malloc'd */
	/* The caller's, after init(). */
	bool compress; /* some writes are compressed */
	bool churn;    /* few places, much that is freed and used again */
	bool trusting; /* a flush that succeeds counts, whatever flush failed before */
};

/* Learn what img holds. */
void workload_init(struct workload *w, struct img *img);
void workload_free(struct workload *w);

/*
 * Random writes, zeroes, discards and flushes, several in flight, count of them. Goes on after
 * failures unless stop.
 */
void workload_run(struct workload *w, struct img *img, const struct img_record *record,
		  uint64_t seed, size_t count, bool stop);

/* Nothing is in flight, and all that was done is durable, without a flush of the workload's own. */
void workload_all_durable(struct workload *w, const struct img_record *record);

/*
 * Is what img holds possible when only the first cut entries of the record were begun? Each sector
 * must be as at the last flush before, or as a later request with FUA made it that was done, or as one
 * later still made it. Cuts must not decrease
 * from call to call (workload_rewind() starts again). 0, or -EBADMSG with a sentence.
 */
int workload_judge(struct workload *w, struct img *img, size_t cut, struct img_error *err);
void workload_rewind(struct workload *w);

#define NOT_CLOSED "image was not closed correctly"

/* Collects the lines of a check. */
struct lines {
	char *text; /* malloc'd; NULL: none */
};
void lines_add(void *user, const char *line);
/*
 * How many of the corruptions are no more than files that were not closed, in a format that counts
 * those (Parallels, as qemu-img does).
 */
unsigned lines_not_closed(const struct lines *lines);

#endif

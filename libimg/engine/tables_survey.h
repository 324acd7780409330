/*
 * What is used in a file with tables of two levels: for tables_space.c and tables_compact.c.
 */
#ifndef LIBIMG_ENGINE_TABLES_SURVEY_H
#define LIBIMG_ENGINE_TABLES_SURVEY_H

#include <errno.h>

#include "libimg/engine/tables.h"

struct img_table_place {
	uint64_t index, off;
};

struct img_tables_survey {
	struct img_tables *t;
	struct img_range_map *metadata;
	struct img_use_map used;	 /* by cluster: all */
	struct img_sparse_bitset fixed;	 /* what is no cluster of data */
	struct img_sparse_bitset packed; /* of these: compressed data */
	struct img_table_place *tables;
	size_t table_count, table_max;
	uint64_t packed_end;
};

/* *l is to be freed, also on failure. -EUCLEAN: something is out of the file, or used twice. */
int img_tables_survey(struct img_tables *t, struct img_tables_survey *l, struct img_error *err);
void img_tables_survey_free(struct img_tables_survey *l);

int img_tables_write_raw(const struct img_tables *t, uint64_t off, uint64_t raw, struct img_error *err);

static inline int img_tables_no_memory(const struct img_tables *t, struct img_error *err)
{
	return img_fail(err, -ENOMEM, "%s: out of memory", t->img->name);
}

static inline uint64_t unit_of(const struct img_tables *t, uint64_t off)
{
	return off / t->cluster_bytes;
}

#endif

/*
 * The metadata cache. A block is found by hash of storage and index; clean, unpinned blocks are
 * evicted from the cold end of the list when the cache is over its budget. Dirty blocks leave only
 * through a write-out (writeout.c).
 */
#include "libimg/engine/meta.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/invariant.h"
#include "libimg/engine/core.h"

enum {
	BUCKETS = 1024,
	SPARSE_EVERY = 64, /* fetches, after which we look again whether a file is sparse */
	SECTORS = IMG_META_BLOCK / IMG_META_SECTOR,
};

_Static_assert(SECTORS == 32, "sector masks are 32 bits wide");

struct img_block {
	struct img_block *next; /* in its bucket */
	struct img_list lru;
	struct img_storage *storage;
	uint64_t index; /* file offset / IMG_META_BLOCK */
	struct img_engine *engine;
	uint32_t valid;		   /* sectors whose content is here */
	uint32_t made;		   /* of them, those that need not be in the file yet */
	uint32_t dirty[IMG_RANKS]; /* sectors to be written, at most one rank each */
	unsigned pins;
	bool writing;
	unsigned forgets;      /* counts forgetting: what was being read then may be stale */
	struct img_list loads; /* img_load.link */
	struct img_list waiters;
	uint8_t data[];
};

struct img_meta {
	struct img_block *bucket[BUCKETS];
	struct img_list lru; /* warm end first */
	size_t blocks, max_blocks;
	uint64_t dirty_sectors;
	struct img_storage *sparse; /* has holes that are worth looking for; NULL: none that we know of */
	unsigned fetches;
};

struct img_meta *img_meta_cache_new(uint64_t bytes)
{
	struct img_meta *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	img_list_init(&m->lru);
	m->max_blocks = (size_t)max_u64(bytes / IMG_META_BLOCK, 16);
	return m;
}

static struct img_block *lru_block(struct img_list *node)
{
	return IMG_CONTAINER(node, struct img_block, lru);
}

void img_meta_cache_free(struct img_meta *m)
{
	struct img_list *node;

	if (!m)
		return;
	while ((node = img_list_pop(&m->lru))) {
		struct img_block *b = lru_block(node);

		free(b);
	}
	free(m);
}

static size_t bucket_of(const struct img_storage *s, uint64_t index)
{
	uint64_t h = ((uint64_t)(uintptr_t)s >> 6) ^ (index * UINT64_C(0x9e3779b97f4a7c15));

	return (size_t)((h ^ (h >> 32)) % BUCKETS);
}

static struct img_block *find(const struct img_meta *m, const struct img_storage *s, uint64_t index)
{
	struct img_block *b = m->bucket[bucket_of(s, index)];

	while (b && (b->storage != s || b->index != index))
		b = b->next;
	return b;
}

static uint32_t dirty_mask(const struct img_block *b)
{
	uint32_t all = 0;

	for (unsigned r = 0; r < IMG_RANKS; r++)
		all |= b->dirty[r];
	return all;
}

static void evict(struct img_meta *m, struct img_block *b)
{
	struct img_block **at = &m->bucket[bucket_of(b->storage, b->index)];

	while (*at != b)
		at = &(*at)->next;
	*at = b->next;
	img_list_del(&b->lru);
	m->blocks--;
	free(b);
}

/* Bring the cache under its budget as far as pins and dirty sectors let it. */
static void trim(struct img_meta *m)
{
	struct img_list *node = m->lru.prev;

	for (unsigned tries = 0; m->blocks > m->max_blocks && tries < 64 && node != &m->lru;
	     tries++) {
		struct img_block *b = lru_block(node);

		node = node->prev;
		if (!b->pins && img_list_empty(&b->loads) && !b->writing && !dirty_mask(b))
			evict(m, b);
	}
}

static struct img_block *make(struct img_engine *e, struct img_storage *s, uint64_t index)
{
	struct img_meta *m = e->meta;
	struct img_block *b = malloc(sizeof(*b) + IMG_META_BLOCK); /* data: nothing is valid */
	size_t at = bucket_of(s, index);

	if (!b)
		return NULL;
	*b = (struct img_block){ .storage = s, .index = index, .engine = e };
	img_list_init(&b->waiters);
	img_list_init(&b->loads);
	b->next = m->bucket[at];
	m->bucket[at] = b;
	img_list_add_head(&m->lru, &b->lru);
	m->blocks++;
	b->pins = 1; /* not to be trimmed right away */
	trim(m);
	b->pins = 0;
	return b;
}

/* The sectors of a block that bytes [within, within + len) touch. */
static uint32_t sectors_of(uint64_t within, uint64_t len)
{
	unsigned first = (unsigned)(within / IMG_META_SECTOR);
	unsigned last = (unsigned)((within + len - 1) / IMG_META_SECTOR);

	return (UINT32_MAX >> (31 - (last - first))) << first;
}

void img_req_init(struct img_req *req, struct img_error *err)
{
	*req = (struct img_req){ .err = err };
	req->pins = req->few;
	req->max_pins = IMG_ARRAY_LEN(req->few);
}

static bool pin(struct img_req *req, struct img_block *b)
{
	for (unsigned i = req->npins; i-- > 0;)
		if (req->pins[i] == b)
			return true;
	if (req->npins == req->max_pins) {
		struct img_block **more = calloc(req->max_pins * 2u, sizeof(*more));

		if (!more) {
			req->out_of_memory = true;
			return false;
		}
		memcpy(more, req->pins, req->npins * sizeof(*more));
		if (req->pins != req->few)
			free(req->pins);
		req->pins = more;
		req->max_pins *= 2;
	}
	req->pins[req->npins++] = b;
	b->pins++;
	return true;
}

void img_req_unpin(struct img_req *req, struct img_engine *engine)
{
	unsigned kept = 0;

	for (unsigned i = 0; i < req->npins; i++) {
		if (req->pins[i]->engine == engine) {
			IMG_INVARIANT(req->pins[i]->pins > 0);
			req->pins[i]->pins--;
		} else {
			req->pins[kept++] = req->pins[i];
		}
	}
	req->npins = kept;
	if (req->engine == engine) {
		IMG_INVARIANT(engine->freed_reserved >= req->reserved);
		engine->freed_reserved -= req->reserved;
		req->reserved = 0;
	}
	if (!kept && req->pins != req->few) {
		free(req->pins);
		req->pins = req->few;
		req->max_pins = IMG_ARRAY_LEN(req->few);
	}
}

void img_req_release(struct img_req *req)
{
	while (req->npins) {
		struct img_engine *e = req->pins[0]->engine;

		pthread_mutex_lock(&e->lock);
		img_req_unpin(req, e);
		pthread_mutex_unlock(&e->lock);
	}
}

bool img_req_may_unmap(const struct img_req *req)
{
	return req->may_unmap;
}

bool img_req_keep_allocated(const struct img_req *req)
{
	return req->keep_allocated;
}

struct img_error *img_req_error(struct img_req *req)
{
	return req->err;
}

const uint8_t *img_meta_get(struct img_req *req, struct img_storage *s, uint64_t file_off,
			    size_t len)
{
	struct img_meta *m = req->engine->meta;
	uint64_t index = file_off / IMG_META_BLOCK, within = file_off % IMG_META_BLOCK;
	struct img_block *b = find(m, s, index);

	assert(len && within + len <= IMG_META_BLOCK);
	if (b) {
		uint32_t want = sectors_of(within, len);

		/* A block is read as a whole: what of it lies past the end is not there. */
		if ((b->valid & want) == want &&
		    (file_off + len <= atomic_load(&s->size) || (b->made & want) == want)) {
			if (!pin(req, b))
				return NULL;
			if (m->lru.next != &b->lru) {
				img_list_del(&b->lru);
				img_list_add_head(&m->lru, &b->lru);
			}
			return b->data + within;
		}
	}
	req->missing = s;
	req->missing_index = index;
	req->missing_off = file_off;
	req->missing_len = len;
	return NULL;
}

/* Take sectors out of every rank. */
static void make_clean(struct img_meta *m, struct img_block *b, uint32_t sectors)
{
	for (unsigned r = 0; r < IMG_RANKS; r++) {
		m->dirty_sectors -= (unsigned)__builtin_popcount(b->dirty[r] & sectors);
		b->dirty[r] &= ~sectors;
	}
}

static void make_dirty(struct img_meta *m, struct img_block *b, uint32_t sectors,
		       enum img_rank rank)
{
	make_clean(m, b, sectors);
	b->dirty[rank] |= sectors;
	m->dirty_sectors += (unsigned)__builtin_popcount(sectors);
}

uint8_t *img_meta_edit(struct img_req *req, struct img_storage *s, uint64_t file_off, size_t len,
		       enum img_rank rank)
{
	struct img_engine *e = req->engine;
	uint64_t within = file_off % IMG_META_BLOCK;
	struct img_block *b = find(e->meta, s, file_off / IMG_META_BLOCK);
	uint32_t sectors = sectors_of(within, len);

	assert(b && len && within + len <= IMG_META_BLOCK && (b->valid & sectors) == sectors);
	make_dirty(e->meta, b, sectors, rank);
	b->made |= sectors;
	img_engine_touch(e, s);
	return b->data + within;
}

int img_meta_new(struct img_req *req, struct img_storage *s, uint64_t file_off, size_t len,
		 enum img_rank rank)
{
	struct img_engine *e = req->engine;
	uint64_t end = file_off + len;

	assert(is_aligned_u64(file_off | len, IMG_META_SECTOR));
	/* All blocks first, so that failing changes nothing that matters. */
	for (uint64_t i = file_off / IMG_META_BLOCK; i * IMG_META_BLOCK < end; i++)
		if (!find(e->meta, s, i)) {
			struct img_block *b = make(e, s, i);

			if (!b || !pin(req, b))
				return -ENOMEM;
		}
	while (file_off < end) {
		uint64_t within = file_off % IMG_META_BLOCK;
		uint64_t run = min_u64(end - file_off, IMG_META_BLOCK - within);
		struct img_block *b = find(e->meta, s, file_off / IMG_META_BLOCK);
		uint32_t sectors = sectors_of(within, run);

		if (!b || !pin(req, b))
			return -ENOMEM;
		memset(b->data + within, 0, run);
		b->valid |= sectors;
		b->made |= sectors;
		make_dirty(e->meta, b, sectors, rank);
		file_off += run;
	}
	img_engine_touch(e, s);
	return 0;
}

static void forget(struct img_meta *m, struct img_block *b, uint64_t off, uint64_t end)
{
	uint64_t start = b->index * IMG_META_BLOCK;
	uint64_t from = max_u64(off, start), to = min_u64(end, start + IMG_META_BLOCK);

	if (from >= to)
		return;
	b->valid &= ~sectors_of(from - start, to - from);
	b->made &= b->valid;
	make_clean(m, b, sectors_of(from - start, to - from));
	b->forgets++;
}

static void forget_range(struct img_engine *e, struct img_storage *s, uint64_t file_off,
			 uint64_t len)
{
	uint64_t end = len > UINT64_MAX - file_off ? UINT64_MAX : file_off + len;
	struct img_meta *m = e->meta;

	if (len / IMG_META_BLOCK > m->blocks) {
		for (struct img_list *node = m->lru.next; node != &m->lru; node = node->next)
			if (lru_block(node)->storage == s)
				forget(m, lru_block(node), file_off, end);
		return;
	}
	for (uint64_t i = file_off / IMG_META_BLOCK; i * IMG_META_BLOCK < end; i++) {
		struct img_block *b = find(m, s, i);

		if (b)
			forget(m, b, file_off, end);
	}
}

void img_meta_forget(struct img *img, struct img_storage *s, uint64_t file_off, uint64_t len)
{
	if (!img->engine)
		return; /* still opening: nothing is cached */
	pthread_mutex_lock(&img->engine->lock);
	forget_range(img->engine, s, file_off, len);
	pthread_mutex_unlock(&img->engine->lock);
}

int img_meta_in_file(const struct img_req *req, struct img_error *err)
{
	struct img_storage *s = req->missing;
	uint64_t size = atomic_load(&s->size);

	if (range_in(req->missing_off, req->missing_len, size))
		return 0;
	return img_fail(err, -EUCLEAN,
			"%s: truncated: ends at %" PRIu64 ", the metadata at %" PRIu64 " needs "
			"%" PRIu64,
			s->name, size, req->missing_off, req->missing_off + req->missing_len);
}

/* Does loader read b already? */
static bool is_loading(const struct img_block *b, const void *loader)
{
	for (struct img_list *l = b->loads.next; l != &b->loads; l = l->next)
		if (IMG_CONTAINER(l, struct img_load, link)->loader == loader)
			return true;
	return false;
}

struct img_block *img_meta_request(struct img_req *req, const void *loader, struct img_load *load,
				   bool *must)
{
	struct img_engine *e = req->engine;
	struct img_block *b = find(e->meta, req->missing, req->missing_index);

	*must = false;
	if (!b)
		b = make(e, req->missing, req->missing_index);
	if (!b || !pin(req, b))
		return NULL;
	if (is_loading(b, loader))
		return b;
	*load = (struct img_load){
		.block = b,
		.loader = loader,
		.buffer = aligned_alloc(4096, IMG_META_BLOCK),
		.forgets = b->forgets,
	};
	if (!load->buffer)
		return NULL;
	img_list_add_tail(&b->loads, &load->link);
	*must = true;
	return b;
}

struct img_storage *img_meta_block_storage(const struct img_block *b, uint64_t *file_off)
{
	*file_off = b->index * IMG_META_BLOCK;
	return b->storage;
}

void img_meta_wait(struct img_block *b, struct img_waiter *w)
{
	img_list_add_tail(&b->waiters, &w->link);
}

static const uint8_t zeroes[IMG_META_BLOCK];

/* from: the block as the file has it. */
static void fill(struct img_block *b, const uint8_t *from)
{
	if (!b->valid)
		memcpy(b->data, from, IMG_META_BLOCK);
	for (unsigned i = 0; b->valid && i < SECTORS; i++)
		if (!(b->valid & (1u << i)))
			memcpy(b->data + (size_t)i * IMG_META_SECTOR,
			       from + (size_t)i * IMG_META_SECTOR, IMG_META_SECTOR);
	b->valid = UINT32_MAX;
}

void img_meta_loaded(struct img_load *load, int rc)
{
	struct img_block *b = load->block;

	if (!rc && b->forgets == load->forgets)
		fill(b, load->buffer);
	free(load->buffer);
	img_list_del(&load->link);
	img_wake_all(&b->waiters, rc, NULL);
}

/*
 * Tables of which little is used have holes, which need not be read: the kernel would fill its page cache with
 * zeroes. Where a file is full of data it is not worth asking.
 */
bool img_meta_may_be_hole(const struct img_req *req)
{
	struct img_engine *e = req->engine;
	struct img_storage *s = req->missing;
	struct img_meta *m = e->meta;
	bool may;

	if (!s->ops->known_extent)
		return false;
	pthread_mutex_lock(&e->lock);
	if (++m->fetches % SPARSE_EVERY == 0)
		m->sparse = img_storage_allocated(s) < atomic_load(&s->size) / 2 ? s : NULL;
	may = m->sparse == s;
	pthread_mutex_unlock(&e->lock);
	return may;
}

bool img_meta_fill_hole(struct img_req *req)
{
	struct img_engine *e = req->engine;
	struct img_storage *s = req->missing;
	uint64_t off = req->missing_index * IMG_META_BLOCK, size = atomic_load(&s->size), run;
	enum img_storage_extent kind;
	struct img_block *b;

	if (req->out_of_memory || off >= size)
		return false;
	pthread_mutex_lock(&e->lock);
	if (!img_storage_known_extent(s, off, IMG_META_BLOCK, &kind, &run) ||
	    kind != IMG_STORAGE_HOLE || run < min_u64(size - off, IMG_META_BLOCK)) {
		pthread_mutex_unlock(&e->lock);
		return false;
	}
	b = find(e->meta, s, req->missing_index);
	if (!b)
		b = make(e, s, req->missing_index);
	if (b && !pin(req, b))
		b = NULL;
	if (b)
		fill(b, zeroes);
	pthread_mutex_unlock(&e->lock);
	return b;
}

int img_meta_fetch(struct img_req *req)
{
	struct img_engine *e = req->engine;
	struct img_storage *s = req->missing;
	uint64_t file_off = req->missing_index * IMG_META_BLOCK;
	struct img_block *b = NULL;
	unsigned forgets = 0;
	uint8_t *buffer;
	int rc = img_meta_in_file(req, req->err);

	if (rc)
		return rc;
	if (img_meta_fill_hole(req))
		return 0;
	if (img_meta_may_be_hole(req)) {
		enum img_storage_extent kind;
		uint64_t run;

		if (!img_storage_extent(s, file_off, IMG_META_BLOCK, &kind, &run) &&
		    img_meta_fill_hole(req))
			return 0;
	}
	buffer = aligned_alloc(4096, IMG_META_BLOCK);
	if (buffer && !req->out_of_memory) {
		pthread_mutex_lock(&e->lock);
		b = find(e->meta, s, req->missing_index);
		if (!b)
			b = make(e, s, req->missing_index);
		if (b && !pin(req, b))
			b = NULL;
		if (b)
			forgets = b->forgets;
		pthread_mutex_unlock(&e->lock);
	}
	if (!b) {
		free(buffer);
		return img_fail(req->err, -ENOMEM, "%s: out of memory for metadata", e->img->name);
	}
	rc = img_storage_read(s, file_off, buffer, IMG_META_BLOCK, req->err);
	if (!rc) {
		pthread_mutex_lock(&e->lock);
		if (b->forgets == forgets)
			fill(b, buffer);
		pthread_mutex_unlock(&e->lock);
	}
	free(buffer);
	return rc;
}

uint64_t img_meta_dirty_bytes(const struct img_meta *m)
{
	return m->dirty_sectors * IMG_META_SECTOR;
}

#ifdef IMG_DEBUG
void img_meta_check(const struct img_meta *m, bool idle)
{
	size_t blocks = 0;
	uint64_t dirty = 0;

	for (struct img_list *node = m->lru.next; node != &m->lru; node = node->next) {
		const struct img_block *b = lru_block(node);
		uint32_t seen = 0;

		IMG_INVARIANT(find(m, b->storage, b->index) == b);
		for (unsigned r = 0; r < IMG_RANKS; r++) {
			IMG_INVARIANT(!(seen & b->dirty[r]));
			seen |= b->dirty[r];
		}
		IMG_INVARIANT(!(seen & ~b->valid) && !(b->made & ~b->valid));
		IMG_INVARIANT(!idle || (!b->pins && !b->writing && img_list_empty(&b->loads) &&
					img_list_empty(&b->waiters)));
		dirty += (unsigned)__builtin_popcount(seen);
		blocks++;
	}
	IMG_INVARIANT(blocks == m->blocks && dirty == m->dirty_sectors);
}
#else
void img_meta_check(const struct img_meta *m, bool idle)
{
	(void)m;
	(void)idle;
}
#endif

static int group_add(struct img_meta_group *g, enum img_rank rank, struct img_block *b,
		     unsigned first, unsigned count)
{
	uint64_t within = (uint64_t)first * IMG_META_SECTOR;
	size_t len = (size_t)count * IMG_META_SECTOR;
	uint64_t off = b->index * IMG_META_BLOCK + within;
	uint8_t *copy;

	if (g->n == g->max) {
		size_t max = g->max ? g->max * 2 : 16;
		struct img_meta_write *writes = realloc(g->writes, max * sizeof(*writes));

		if (!writes)
			return -ENOMEM;
		g->writes = writes;
		g->max = max;
	}
	copy = malloc(len);
	if (!copy)
		return -ENOMEM;
	memcpy(copy, b->data + within, len);
	g->writes[g->n++] = (struct img_meta_write){ b->storage, off, len, rank, copy };
	return 0;
}

static int by_offset(const void *a, const void *b)
{
	const struct img_meta_write *x = a, *y = b;

	if (x->storage != y->storage)
		return (uintptr_t)x->storage < (uintptr_t)y->storage ? -1 : 1;
	return x->off < y->off ? -1 : x->off > y->off;
}

static void group_free(struct img_meta_group *g)
{
	for (size_t i = 0; i < g->n; i++)
		free(g->writes[i].data);
	free(g->writes);
	*g = (struct img_meta_group){ 0 };
}

int img_meta_collect(struct img_meta *m, struct img_meta_group groups[IMG_RANKS])
{
	memset(groups, 0, IMG_RANKS * sizeof(*groups));
	img_meta_check(m, false);
	for (struct img_list *node = m->lru.next; node != &m->lru; node = node->next) {
		struct img_block *b = lru_block(node);

		for (unsigned r = 0; r < IMG_RANKS; r++) {
			uint32_t left = b->dirty[r];

			while (left) {
				unsigned first = (unsigned)__builtin_ctz(left);
				uint32_t above = ~(left >> first);
				unsigned count = above ? (unsigned)__builtin_ctz(above) : SECTORS;

				if (group_add(&groups[r], (enum img_rank)r, b, first, count)) {
					for (unsigned i = 0; i < IMG_RANKS; i++)
						group_free(&groups[i]);
					return -ENOMEM;
				}
				left &= ~sectors_of((uint64_t)first * IMG_META_SECTOR,
						    (uint64_t)count * IMG_META_SECTOR);
			}
		}
	}
	for (struct img_list *node = m->lru.next; node != &m->lru; node = node->next) {
		struct img_block *b = lru_block(node);

		if (dirty_mask(b)) {
			b->writing = true;
			make_clean(m, b, UINT32_MAX);
		}
	}
	for (unsigned r = 0; r < IMG_RANKS; r++)
		if (groups[r].n)
			qsort(groups[r].writes, groups[r].n, sizeof(*groups[r].writes), by_offset);
	return 0;
}

void img_meta_written(struct img_meta *m, struct img_meta_group groups[IMG_RANKS], int rc)
{
	for (unsigned r = 0; r < IMG_RANKS; r++) {
		struct img_meta_group *g = &groups[r];

		for (size_t i = 0; rc && i < g->n; i++) {
			uint64_t off = g->writes[i].off;
			struct img_block *b = find(m, g->writes[i].storage, off / IMG_META_BLOCK);
			uint32_t again;

			/* What was changed or forgotten meanwhile speaks for itself. */
			if (!b)
				continue;
			again = sectors_of(off % IMG_META_BLOCK, g->writes[i].len);
			again &= b->valid & ~dirty_mask(b);
			make_dirty(m, b, again, (enum img_rank)r);
		}
		group_free(g);
	}
	for (struct img_list *node = m->lru.next; node != &m->lru; node = node->next)
		lru_block(node)->writing = false;
	trim(m);
	img_meta_check(m, false);
}

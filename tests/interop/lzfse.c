/*
 * Packs by LZFSE, for images that no program here can make: standard input in chunks, each packed by itself and behind its
 * length (4 bytes, big-endian). Blocks have packed frequencies and plain ones in turn. Simple, not small.
 *
 *	lzfse CHUNK_BYTES <RAW >STREAMS
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"

enum {
	LITERALS_MAX = 39000,
	MATCHES_MAX = 9900,
	L_MAX = 315,
	M_MAX = 2359,
	D_MAX = 262139,
	HASH_BITS = 16,
	STATES_MAX = 1024,
	LITERAL = 3, /* kinds: L, M, D, literals */
};

static const unsigned symbols_of[] = { 20, 20, 64, 256 }, states_of[] = { 64, 64, 256, 1024 };

struct block {
	uint32_t value[3][MATCHES_MAX + 8]; /* L, M, D */
	uint8_t literal[LITERALS_MAX + L_MAX + 8];
	uint32_t matches, literals;
	uint32_t raw;
};

static struct block block;

/* ---- Symbols and extra bits ---- */

static uint32_t base_of(unsigned kind, unsigned symbol)
{
	static const uint32_t l[] = { 16, 20, 28, 60 }, m[] = { 16, 24, 56, 312 };
	uint32_t base = 0;

	if (kind < 2)
		return symbol < 16 ? symbol : kind == 0 ? l[symbol - 16]
							: m[symbol - 16];
	if (kind == LITERAL)
		return symbol;
	for (unsigned i = 0; i < symbol; i++)
		base += UINT32_C(1) << i / 4;
	return base;
}

static unsigned extra_of(unsigned kind, unsigned symbol)
{
	static const unsigned l[] = { 2, 3, 5, 8 }, m[] = { 3, 5, 8, 11 };

	if (kind == LITERAL || (kind < 2 && symbol < 16))
		return 0;
	return kind == 2 ? symbol / 4 : kind == 0 ? l[symbol - 16]
						  : m[symbol - 16];
}

static unsigned symbol_of(unsigned kind, uint32_t value)
{
	static uint32_t bases[4][256];
	unsigned low = 0, high = symbols_of[kind];

	if (kind == LITERAL)
		return value;
	if (!bases[kind][1])
		for (unsigned i = 0; i < high; i++)
			bases[kind][i] = base_of(kind, i);
	while (high - low > 1) {
		unsigned middle = (low + high) / 2;

		if (bases[kind][middle] <= value)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/* ---- Bits, the first ones lowest ---- */

struct bits {
	uint8_t bytes[128 << 10];
	size_t len;
	uint64_t word;
	unsigned count;
};

static void put_bits(struct bits *b, uint64_t value, unsigned n)
{
	b->word |= value << b->count;
	for (b->count += n; b->count >= 8; b->count -= 8, b->word >>= 8)
		b->bytes[b->len++] = (uint8_t)b->word;
}

/* How many bits of the last byte are not used. */
static unsigned end_bits(struct bits *b)
{
	unsigned unused = b->count ? 8 - b->count : 0;

	if (unused)
		put_bits(b, 0, unused);
	return unused;
}

/* ---- Finite state entropy, by the decoder's table the other way round ---- */

struct coder {
	uint16_t frequency[256], first[256]; /* first: of the symbol's states */
	uint16_t next[STATES_MAX];
	uint8_t bits[STATES_MAX];
	unsigned state;
};

static struct coder coders[4];

/* What there is, scaled to the number of states; nothing that there is may get none. */
static void scale(unsigned kind, const uint32_t *count, uint32_t total)
{
	uint16_t *f = coders[kind].frequency;
	unsigned sum = 0, largest = 0, states = states_of[kind];

	for (unsigned i = 0; i < symbols_of[kind]; i++) {
		f[i] = (uint16_t)(total ? (uint64_t)count[i] * states / total : 0);
		if (count[i] && !f[i])
			f[i] = 1;
		sum += f[i];
		if (f[i] > f[largest])
			largest = i;
	}
	while (sum > states) {
		for (unsigned i = 0; i < symbols_of[kind]; i++)
			if (f[i] > f[largest] || f[largest] < 2)
				largest = i;
		f[largest]--;
		sum--;
	}
	f[largest] = (uint16_t)(f[largest] + (total ? states - sum : 0));
}

static void make_coder(unsigned kind)
{
	struct coder *c = &coders[kind];
	unsigned at = 0, states = states_of[kind];

	for (unsigned s = 0; s < symbols_of[kind]; s++) {
		unsigned f = c->frequency[s], k, longer, less;

		c->first[s] = (uint16_t)at;
		if (!f)
			continue;
		for (k = 0; f << k < states; k++)
			;
		longer = (2 * states >> k) - f;
		less = k ? k - 1 : 0;
		for (unsigned i = 0; i < f; i++, at++) {
			c->bits[at] = (uint8_t)(i < longer ? k : less);
			c->next[at] = (uint16_t)(i < longer ? ((f + i) << k) - states
							    : (i - longer) << less);
		}
	}
	c->state = 0;
}

/* The state from which a symbol leads to `state`, which becomes that. */
static void code(unsigned kind, unsigned *state, uint32_t value, struct bits *b)
{
	const struct coder *c = &coders[kind];
	unsigned symbol = symbol_of(kind, value), extra = extra_of(kind, symbol),
		 from = c->first[symbol];

	while (*state < c->next[from] || *state >= c->next[from] + (1u << c->bits[from]))
		from++;
	put_bits(b, (uint64_t)(*state - c->next[from]) << extra | (value - base_of(kind, symbol)),
		 c->bits[from] + extra);
	*state = from;
}

/* ---- Blocks ---- */

static void put_frequency(struct bits *b, unsigned f)
{
	static const uint8_t codes[] = { 0, 2, 1, 5, 3, 11, 19, 27 },
			     lengths[] = { 2, 2, 3, 3, 5, 5, 5, 5 };

	if (f < 8)
		put_bits(b, codes[f], lengths[f]);
	else if (f < 24)
		put_bits(b, 7 | (f - 8) << 4, 8);
	else
		put_bits(b, 15 | (f - 24) << 4, 14);
}

static uint8_t *write_block(uint8_t *out, bool packed)
{
	static struct bits literal, lmd, table;
	static uint32_t count[4][256];
	unsigned states[4] = { 0 }, literal_unused, lmd_unused;
	size_t header = 772;

	memset(count, 0, sizeof(count));
	literal = lmd = table = (struct bits){ 0 };
	while (block.literals % 4)
		block.literal[block.literals++] = 0;
	for (uint32_t i = 0; i < block.literals; i++)
		count[LITERAL][block.literal[i]]++;
	for (unsigned kind = 0; kind < 3; kind++)
		for (uint32_t i = 0; i < block.matches; i++)
			count[kind][symbol_of(kind, block.value[kind][i])]++;
	for (unsigned kind = 0; kind < 4; kind++) {
		scale(kind, count[kind], kind == LITERAL ? block.literals : block.matches);
		make_coder(kind);
		for (unsigned i = 0; i < symbols_of[kind]; i++)
			put_frequency(&table, coders[kind].frequency[i]);
	}
	end_bits(&table);
	/* What is read first is written last. */
	for (uint32_t i = block.literals; i-- > 0;)
		code(LITERAL, &states[i % 4], block.literal[i], &literal);
	literal_unused = end_bits(&literal);
	lmd.len = 8; /* zeroes, which are read but not used */
	for (uint32_t i = block.matches; i-- > 0;)
		for (unsigned kind = 3; kind-- > 0;)
			code(kind, &coders[kind].state, block.value[kind][i], &lmd);
	lmd_unused = end_bits(&lmd);

	memcpy(out, packed ? "bvx2" : "bvx1", 4);
	le32_store(out + 4, block.raw);
	if (packed) {
		uint64_t w[3] = { block.literals | (uint64_t)literal.len << 20 |
					  (uint64_t)block.matches << 40 |
					  (uint64_t)(7 - literal_unused) << 60,
				  (uint64_t)lmd.len << 40 | (uint64_t)(7 - lmd_unused) << 60, 0 };

		header = 32 + table.len;
		for (unsigned i = 0; i < 4; i++)
			w[1] |= (uint64_t)states[i] << 10 * i;
		w[2] = header | (uint64_t)coders[0].state << 32 | (uint64_t)coders[1].state << 42 |
		       (uint64_t)coders[2].state << 52;
		for (unsigned i = 0; i < 3; i++)
			le64_store(out + 8 + 8 * i, w[i]);
		memcpy(out + 32, table.bytes, table.len);
	} else {
		size_t at = 50;

		memset(out + 8, 0, header - 8);
		le32_store(out + 8, (uint32_t)(literal.len + lmd.len));
		le32_store(out + 12, block.literals);
		le32_store(out + 16, block.matches);
		le32_store(out + 20, (uint32_t)literal.len);
		le32_store(out + 24, (uint32_t)lmd.len);
		le32_store(out + 28, 0u - literal_unused);
		for (unsigned i = 0; i < 4; i++)
			le16_store(out + 32 + 2 * i, (uint16_t)states[i]);
		le32_store(out + 40, 0u - lmd_unused);
		for (unsigned i = 0; i < 3; i++)
			le16_store(out + 44 + 2 * i, (uint16_t)coders[i].state);
		for (unsigned kind = 0; kind < 4; kind++)
			for (unsigned i = 0; i < symbols_of[kind]; i++, at += 2)
				le16_store(out + at, coders[kind].frequency[i]);
	}
	out += header;
	memcpy(out, literal.bytes, literal.len);
	memcpy(out + literal.len, lmd.bytes, lmd.len);
	block = (struct block){ 0 };
	return out + literal.len + lmd.len;
}

static void add(const uint8_t *literals, uint32_t l, uint32_t m, uint32_t d)
{
	memcpy(block.literal + block.literals, literals, l);
	block.literals += l;
	block.value[0][block.matches] = l;
	block.value[1][block.matches] = m;
	block.value[2][block.matches++] = d;
	block.raw += l + m;
}

static size_t pack(const uint8_t *in, size_t len, uint8_t *out)
{
	static uint32_t last[1 << HASH_BITS];
	uint8_t *to = out;
	size_t begin = 0, i = 0;
	unsigned blocks = 0;
	uint32_t before = 0;

	memset(last, 0xff, sizeof(last));
	while (i < len) {
		uint32_t word = 0, hash, n = 0, d = 0;
		bool far;

		if (len - i >= 4) {
			word = le32_load(in + i);
			hash = word * UINT32_C(2654435761) >> (32 - HASH_BITS);
			if (last[hash] != UINT32_MAX && i - last[hash] <= D_MAX)
				d = (uint32_t)(i - last[hash]);
			last[hash] = (uint32_t)i;
			while (d && n < M_MAX && i + n < len && in[i + n] == in[i + n - d])
				n++;
		}
		far = i - begin >= L_MAX;
		if (n < 4 && !far && i + 1 < len) {
			i++;
			continue;
		}
		if (n < 4) { /* of literals alone */
			n = 0;
			i += !far;
			d = 0;
		}
		add(in + begin, (uint32_t)(i - begin), n, n && d != before ? d : 0);
		before = n ? d : before;
		i += n;
		begin = i;
		if (block.literals >= LITERALS_MAX - L_MAX || block.matches >= MATCHES_MAX) {
			to = write_block(to, ++blocks % 4);
			before = 0;
		}
	}
	if (block.matches)
		to = write_block(to, ++blocks % 4);
	memcpy(to, "bvx$", 4);
	return (size_t)(to + 4 - out);
}

int main(int argc, char **argv)
{
	size_t chunk = argc > 1 ? strtoul(argv[1], NULL, 10) : 0, len;
	uint8_t *in = malloc(chunk + 1), *out = malloc(2 * chunk + (1 << 20)), bytes[4];

	if (!chunk || !in || !out)
		return 1;
	while ((len = fread(in, 1, chunk, stdin)) > 0) {
		size_t stored = pack(in, len, out);

		be32_store(bytes, (uint32_t)stored);
		if (fwrite(bytes, 1, 4, stdout) != 4 || fwrite(out, 1, stored, stdout) != stored)
			return 1;
	}
	free(in);
	free(out);
	return ferror(stdin) || fflush(stdout);
}

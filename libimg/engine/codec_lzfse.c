/*
 * LZFSE: a stream of blocks, each with a mark of four bytes.
 *
 *	bvx-	bytes as they are
 *	bvxn	LZVN: opcodes of one or more bytes
 *	bvx1, bvx2	literals, and triples of how many of them to take (L), how many bytes to copy then (M) and from
 *		how far back (D; 0: as far as before). All four are coded by their frequency, with finite state
 *		entropy: a state, at most 1024 of them, tells a symbol and how many bits lead to the next state.
 *		bvx2 has the table of frequencies packed.
 *	bvx$	the end
 *
 * Both bit streams of a block are read from their end to their begin. Nothing here trusts a number: what a block
 * says of itself is checked first, then each copy.
 */
#include "libimg/engine/codec.h"

#include <errno.h>
#include <stdbool.h>
#include <string.h>

#include "libimg/base/arith.h"
#include "libimg/base/endian.h"
#include "libimg/engine/lz_copy.h"

enum {
	L_SYMBOLS = 20,
	M_SYMBOLS = 20,
	D_SYMBOLS = 64,
	LITERAL_SYMBOLS = 256,
	FREQUENCIES = L_SYMBOLS + M_SYMBOLS + D_SYMBOLS + LITERAL_SYMBOLS,
	L_STATES = 64,
	M_STATES = 64,
	D_STATES = 256,
	LITERAL_STATES = 1024,
	LITERALS_MAX = 40000, /* of a block */
	MATCHES_MAX = 10000,
	V1_HEADER_BYTES = 772,
	V2_HEADER_BYTES = 32, /* and the packed frequencies */
};

/* ---- Where decoding is ---- */

struct stream {
	const uint8_t *in;
	size_t in_len, at; /* the next block */
	uint8_t *out;
	size_t out_len, got;
	struct img_error *err;
};

static int fail_at(const struct stream *s, const char *what)
{
	return img_fail(s->err, -EUCLEAN, "the lzfse stream %s in the block at byte %zu of %zu", what, s->at,
			s->in_len);
}

/* ---- Bits, from the end of a stream to its begin ---- */

struct bits {
	const uint8_t *begin, *at; /* at: of the lowest byte that is in word */
	uint64_t word;
	unsigned count; /* of bits in word */
};

static uint64_t low_bits(uint64_t word, unsigned n)
{
	return word & ((UINT64_C(1) << n) - 1);
}

/*
 * end: one beyond the stream's last byte. unused: bits of that which are not of the stream, and zero. Bytes in front of
 * the stream (of its block) are read but not used; begin is the first of those. False: no such stream.
 */
static bool begin_bits(struct bits *b, const uint8_t *begin, const uint8_t *end, unsigned unused)
{
	size_t bytes = unused ? 8 : 7;

	if ((size_t)(end - begin) < bytes)
		return false;
	b->begin = begin;
	b->at = end - bytes;
	b->word = 0;
	if (unused) {
		b->word = le64_load(b->at);
		b->count = 64 - unused;
	} else {
		for (unsigned i = 0; i < 7; i++)
			b->word |= (uint64_t)b->at[i] << (8 * i);
		b->count = 56;
	}
	return b->word >> b->count == 0;
}

/* At least 56 bits, as far as there are any. */
static inline bool refill_bits(struct bits *b)
{
	unsigned bytes = (63 - b->count) / 8;

	if (!bytes)
		return true;
	if ((size_t)(b->at - b->begin) < bytes)
		return false;
	b->at -= bytes;
	b->word = b->word << (8 * bytes) | low_bits(le64_load(b->at), 8 * bytes);
	b->count += 8 * bytes;
	return true;
}

static inline uint64_t take_bits(struct bits *b, unsigned n)
{
	uint64_t taken;

	b->count -= n;
	taken = b->word >> b->count;
	b->word = low_bits(b->word, b->count);
	return taken;
}

/* ---- Tables ---- */

struct literal_state {
	int16_t next; /* the next state is this and the bits' value */
	uint8_t bits, symbol;
};

struct value_state {
	int16_t next;
	uint8_t bits, extra; /* bits: with the extra ones, which are the lower ones and added to base */
	uint32_t base;
};

struct block {
	uint32_t raw_bytes, literals, matches, literal_bytes, lmd_bytes;
	unsigned literal_unused, lmd_unused; /* bits: see begin_bits() */
	uint16_t literal_state[4], l_state, m_state, d_state;
	uint16_t frequency[FREQUENCIES]; /* L, M, D, literals */
	size_t header_bytes;
	struct literal_state literal_table[LITERAL_STATES];
	struct value_state l_table[L_STATES], m_table[M_STATES], d_table[D_STATES];
	uint8_t literal[LITERALS_MAX + 64]; /* so that 64 can be copied at a time */
};

/* What a state of a symbol is: i-th of `frequency` of the symbol's, of all states. */
static void make_state(unsigned states, unsigned frequency, unsigned i, int16_t *next, uint8_t *bits)
{
	unsigned k = (unsigned)(__builtin_clz(frequency) - __builtin_clz(states));
	unsigned longer = (2 * states >> k) - frequency; /* so many of its states take k bits, the others one less */

	if (i < longer) {
		*bits = (uint8_t)k;
		*next = (int16_t)(((frequency + i) << k) - states);
	} else {
		*bits = (uint8_t)(k - 1);
		*next = (int16_t)((i - longer) << (k - 1));
	}
}

/* Do frequencies say whose each of the states is? */
static bool is_complete(const uint16_t *frequency, unsigned symbols, unsigned states)
{
	unsigned sum = 0;

	for (unsigned i = 0; i < symbols; i++)
		sum += frequency[i];
	return sum == states;
}

static void make_literal_table(struct literal_state *t, const uint16_t *frequency)
{
	for (unsigned symbol = 0; symbol < LITERAL_SYMBOLS; symbol++) {
		for (unsigned i = 0; i < frequency[symbol]; i++, t++) {
			make_state(LITERAL_STATES, frequency[symbol], i, &t->next, &t->bits);
			t->symbol = (uint8_t)symbol;
		}
	}
}

static void make_value_table(struct value_state *t, const uint16_t *frequency, unsigned symbols,
			     unsigned states, const uint8_t *extra, const uint32_t *base)
{
	for (unsigned symbol = 0; symbol < symbols; symbol++) {
		for (unsigned i = 0; i < frequency[symbol]; i++, t++) {
			make_state(states, frequency[symbol], i, &t->next, &t->bits);
			t->extra = extra[symbol];
			t->bits = (uint8_t)(t->bits + t->extra);
			t->base = base[symbol];
		}
	}
}

static const uint8_t l_extra[L_SYMBOLS] = { [16] = 2, 3, 5, 8 };
static const uint32_t l_base[L_SYMBOLS] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
					    10, 11, 12, 13, 14, 15, 16, 20, 28, 60 };
static const uint8_t m_extra[M_SYMBOLS] = { [16] = 3, 5, 8, 11 };
static const uint32_t m_base[M_SYMBOLS] = { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9,
					    10, 11, 12, 13, 14, 15, 16, 24, 56, 312 };

/* Distances: four symbols for each number of extra bits, one behind the other. */
static void make_distances(uint8_t extra[D_SYMBOLS], uint32_t base[D_SYMBOLS])
{
	uint32_t next = 0;

	for (unsigned i = 0; i < D_SYMBOLS; i++) {
		extra[i] = (uint8_t)(i / 4);
		base[i] = next;
		next += UINT32_C(1) << extra[i];
	}
}

static int make_tables(const struct stream *s, struct block *b)
{
	const uint16_t *l = b->frequency, *m = l + L_SYMBOLS, *d = m + M_SYMBOLS, *literal = d + D_SYMBOLS;
	uint8_t d_extra[D_SYMBOLS];
	uint32_t d_base[D_SYMBOLS];

	if (b->literals && !is_complete(literal, LITERAL_SYMBOLS, LITERAL_STATES))
		return fail_at(s, "has frequencies of literals whose sum is not 1024");
	if (b->matches &&
	    (!is_complete(l, L_SYMBOLS, L_STATES) || !is_complete(m, M_SYMBOLS, M_STATES) ||
	     !is_complete(d, D_SYMBOLS, D_STATES)))
		return fail_at(s, "has frequencies of L, M or D whose sum is not 64, 64 or 256");
	if (b->literals)
		make_literal_table(b->literal_table, literal);
	if (!b->matches)
		return 0;
	make_distances(d_extra, d_base);
	make_value_table(b->l_table, l, L_SYMBOLS, L_STATES, l_extra, l_base);
	make_value_table(b->m_table, m, M_SYMBOLS, M_STATES, m_extra, m_base);
	make_value_table(b->d_table, d, D_SYMBOLS, D_STATES, d_extra, d_base);
	return 0;
}

/* ---- Headers ---- */

/* A frequency of bvx2: 2 to 14 bits, the low ones of word. */
static unsigned unpack_frequency(uint32_t word, uint16_t *out)
{
	static const uint8_t bits[32] = {
		2,
		3,
		2,
		5,
		2,
		3,
		2,
		8,
		2,
		3,
		2,
		5,
		2,
		3,
		2,
		14,
		2,
		3,
		2,
		5,
		2,
		3,
		2,
		8,
		2,
		3,
		2,
		5,
		2,
		3,
		2,
		14,
	};
	static const uint8_t values[32] = {
		0,
		2,
		1,
		4,
		0,
		3,
		1,
		0,
		0,
		2,
		1,
		5,
		0,
		3,
		1,
		0,
		0,
		2,
		1,
		6,
		0,
		3,
		1,
		0,
		0,
		2,
		1,
		7,
		0,
		3,
		1,
		0,
	};
	unsigned n = bits[word & 31];

	*out = (uint16_t)(n == 8    ? 8 + (word >> 4 & 0xf)
			  : n == 14 ? 24 + (word >> 4 & 0x3ff)
				    : values[word & 31]);
	return n;
}

/* False: there are not so many bytes, or more than 7 bits are left over. */
static bool unpack_frequencies(struct block *b, const uint8_t *in, size_t len)
{
	uint32_t word = 0;
	unsigned bits = 0, n;
	size_t at = 0;

	if (!len) { /* nothing is coded */
		memset(b->frequency, 0, sizeof(b->frequency));
		return true;
	}
	for (unsigned i = 0; i < FREQUENCIES; i++) {
		while (bits <= 24 && at < len) {
			word |= (uint32_t)in[at++] << bits;
			bits += 8;
		}
		n = unpack_frequency(word, &b->frequency[i]);
		if (n > bits)
			return false;
		word >>= n;
		bits -= n;
	}
	return bits < 8 && at == len;
}

static unsigned field(uint64_t word, unsigned at, unsigned bits)
{
	return (unsigned)low_bits(word >> at, bits);
}

static bool read_v2_header(struct block *b, const uint8_t *in, size_t len)
{
	uint64_t w0, w1, w2;

	if (len < V2_HEADER_BYTES)
		return false;
	b->raw_bytes = le32_load(in + 4);
	w0 = le64_load(in + 8);
	w1 = le64_load(in + 16);
	w2 = le64_load(in + 24);
	b->literals = field(w0, 0, 20);
	b->literal_bytes = field(w0, 20, 20);
	b->matches = field(w0, 40, 20);
	b->literal_unused = 7 - field(w0, 60, 3);
	for (unsigned i = 0; i < 4; i++)
		b->literal_state[i] = (uint16_t)field(w1, 10 * i, 10);
	b->lmd_bytes = field(w1, 40, 20);
	b->lmd_unused = 7 - field(w1, 60, 3);
	b->header_bytes = field(w2, 0, 32);
	b->l_state = (uint16_t)field(w2, 32, 10);
	b->m_state = (uint16_t)field(w2, 42, 10);
	b->d_state = (uint16_t)field(w2, 52, 10);
	return b->header_bytes >= V2_HEADER_BYTES && b->header_bytes <= len &&
	       unpack_frequencies(b, in + V2_HEADER_BYTES, b->header_bytes - V2_HEADER_BYTES);
}

static bool read_v1_header(struct block *b, const uint8_t *in, size_t len)
{
	if (len < V1_HEADER_BYTES)
		return false;
	b->header_bytes = V1_HEADER_BYTES;
	b->raw_bytes = le32_load(in + 4);
	b->literals = le32_load(in + 12);
	b->matches = le32_load(in + 16);
	b->literal_bytes = le32_load(in + 20);
	b->lmd_bytes = le32_load(in + 24);
	b->literal_unused = 0u - le32_load(in + 28);
	for (size_t i = 0; i < 4; i++)
		b->literal_state[i] = le16_load(in + 32 + 2 * i);
	b->lmd_unused = 0u - le32_load(in + 40);
	b->l_state = le16_load(in + 44);
	b->m_state = le16_load(in + 46);
	b->d_state = le16_load(in + 48);
	for (size_t i = 0; i < FREQUENCIES; i++)
		b->frequency[i] = le16_load(in + 50 + 2 * i);
	return true;
}

static bool is_header_sound(const struct block *b, size_t len)
{
	for (unsigned i = 0; i < 4; i++)
		if (b->literal_state[i] >= LITERAL_STATES)
			return false;
	return b->literals <= LITERALS_MAX && b->literals % 4 == 0 && b->matches <= MATCHES_MAX &&
	       b->literal_unused < 8 && b->lmd_unused < 8 && b->l_state < L_STATES &&
	       b->m_state < M_STATES && b->d_state < D_STATES &&
	       range_in(b->header_bytes, (uint64_t)b->literal_bytes + b->lmd_bytes, len);
}

/* ---- bvx1, bvx2 ---- */

static inline uint8_t decode_literal(const struct literal_state *table, uint16_t *state, struct bits *bits)
{
	const struct literal_state t = table[*state];

	*state = (uint16_t)(t.next + (int)take_bits(bits, t.bits));
	return t.symbol;
}

static bool decode_literals(struct block *b, const uint8_t *in, const uint8_t *end)
{
	uint16_t s0 = b->literal_state[0], s1 = b->literal_state[1], s2 = b->literal_state[2],
		 s3 = b->literal_state[3];
	struct bits bits;

	if (!b->literals)
		return true;
	if (!begin_bits(&bits, in, end, b->literal_unused))
		return false;
	for (uint32_t i = 0; i < b->literals; i += 4) {
		if (!refill_bits(&bits)) /* four times up to 10 are taken */
			return false;
		b->literal[i] = decode_literal(b->literal_table, &s0, &bits);
		b->literal[i + 1] = decode_literal(b->literal_table, &s1, &bits);
		b->literal[i + 2] = decode_literal(b->literal_table, &s2, &bits);
		b->literal[i + 3] = decode_literal(b->literal_table, &s3, &bits);
	}
	return true;
}

static inline uint32_t decode_value(const struct value_state *table, uint16_t *state, struct bits *bits)
{
	const struct value_state t = table[*state];
	uint64_t taken = take_bits(bits, t.bits);

	*state = (uint16_t)(t.next + (int)(taken >> t.extra));
	return t.base + (uint32_t)low_bits(taken, t.extra);
}

static int copy_matches(struct stream *s, struct block *b, const uint8_t *in, const uint8_t *end)
{
	const uint8_t *literal = b->literal, *literals_end = literal + b->literals;
	uint8_t *out = s->out + s->got, *out_end = s->out + s->out_len;
	uint32_t back = 0;
	struct bits bits;

	if (b->matches && !begin_bits(&bits, in, end, b->lmd_unused))
		return fail_at(s, "has too few bits of L, M and D");
	for (uint32_t i = 0; i < b->matches; i++) {
		uint32_t l, m, d;

		if (!refill_bits(&bits)) /* up to 14, 17 and 23 are taken */
			return fail_at(s, "has too few bits of L, M and D");
		l = decode_value(b->l_table, &b->l_state, &bits);
		m = decode_value(b->m_table, &b->m_state, &bits);
		d = decode_value(b->d_table, &b->d_state, &bits);
		back = d ? d : back;
		if (l > (size_t)(literals_end - literal))
			return fail_at(s, "takes more literals than it has");
		if ((size_t)l + m > (size_t)(out_end - out))
			return fail_at(s, "has more than the expected bytes");
		if (l <= 64 && (size_t)(out_end - out) >= 64)
			memcpy(out, literal, 64);
		else
			memcpy(out, literal, l);
		literal += l;
		out += l;
		if (!m)
			continue;
		if (!back || back > (size_t)(out - s->out))
			return fail_at(s, "goes back to before its begin");
		img_lz_copy(out, back, m, out_end);
		out += m;
	}
	s->got = (size_t)(out - s->out);
	return 0;
}

static int decode_block(struct stream *s, bool v1)
{
	const uint8_t *in = s->in + s->at, *literals_end;
	size_t len = s->in_len - s->at, before = s->got;
	struct block b;
	int rc;

	if (!(v1 ? read_v1_header(&b, in, len) : read_v2_header(&b, in, len)) ||
	    !is_header_sound(&b, len))
		return fail_at(s, "has no valid header");
	rc = make_tables(s, &b);
	if (rc)
		return rc;
	literals_end = in + b.header_bytes + b.literal_bytes;
	if (!decode_literals(&b, in, literals_end))
		return fail_at(s, "has too few bits of literals");
	rc = copy_matches(s, &b, in, literals_end + b.lmd_bytes);
	if (rc)
		return rc;
	if (s->got - before != b.raw_bytes)
		return fail_at(s, "has other than the bytes that it tells");
	s->at += b.header_bytes + b.literal_bytes + b.lmd_bytes;
	return 0;
}

/* ---- bvxn ---- */

/* What an opcode of LZVN says. */
struct lzvn_op {
	unsigned bytes; /* of the opcode; 0: there is none such */
	unsigned l, m;
	unsigned d; /* 0: as far back as before */
};

/* The opcode at in, which may end in one; 3 bytes can be read. Not: 6, which ends it. */
static struct lzvn_op parse_lzvn(const uint8_t *in)
{
	unsigned op = in[0], l = op >> 6, m = (op >> 3 & 7) + 3, d;

	if (op >= 0xf0) /* 1111mmmm; 11110000 mmmmmmmm */
		return op == 0xf0 ? (struct lzvn_op){ 2, 0, in[1] + 16u, 0 }
				  : (struct lzvn_op){ 1, 0, op & 15, 0 };
	if (op >= 0xe0) /* 1110llll; 11100000 llllllll */
		return op == 0xe0 ? (struct lzvn_op){ 2, in[1] + 16u, 0, 0 }
				  : (struct lzvn_op){ 1, op & 15, 0, 0 };
	if (op >= 0xa0 && op < 0xc0) { /* 101llmmm ddddddmm dddddddd */
		d = le16_load(in + 1) >> 2;
		return (struct lzvn_op){ d ? 3 : 0, op >> 3 & 3, ((op & 7) << 2 | (in[1] & 3)) + 3,
					 d };
	}
	if ((op & 0xf0) == 0x70 || (op & 0xf0) == 0xd0)
		return (struct lzvn_op){ 0, 0, 0, 0 };
	if (op == 0x0e || op == 0x16) /* nothing */
		return (struct lzvn_op){ 1, 0, 0, 0 };
	switch (op & 7) {
	case 7: /* llmmm111 dddddddd dddddddd */
		d = le16_load(in + 1);
		return (struct lzvn_op){ d ? 3 : 0, l, m, d };
	case 6: /* llmmm110 */
		return (struct lzvn_op){ l ? 1 : 0, l, m, 0 };
	default: /* llmmmddd dddddddd */
		d = (op & 7) << 8 | in[1];
		return (struct lzvn_op){ d ? 2 : 0, l, m, d };
	}
}

static int decode_lzvn(struct stream *s)
{
	const uint8_t *in = s->in + s->at;
	size_t len = s->in_len - s->at, at = 12, end, before = s->got;
	uint8_t *out = s->out, *out_end = s->out + s->out_len;
	size_t back = 0;

	if (len < 12 || !range_in(12, le32_load(in + 8), len))
		return fail_at(s, "has no valid header");
	end = 12 + (size_t)le32_load(in + 8);
	for (;;) {
		uint8_t padded[3] = { 0 };
		struct lzvn_op op;

		if (at == end)
			return fail_at(s, "does not end");
		if (in[at] == 0x06)
			break;
		memcpy(padded, in + at, min_size(3, end - at));
		op = parse_lzvn(padded);
		if (!op.bytes)
			return fail_at(s, "has an opcode that is not defined");
		if (op.bytes > end - at || op.l > end - at - op.bytes)
			return fail_at(s, "is cut short");
		at += op.bytes;
		if ((size_t)op.l + op.m > s->out_len - s->got)
			return fail_at(s, "has more than the expected bytes");
		memcpy(out + s->got, in + at, op.l);
		at += op.l;
		s->got += op.l;
		if (op.d)
			back = op.d;
		if (!op.m)
			continue;
		if (!back || back > s->got)
			return fail_at(s, "goes back to before its begin");
		img_lz_copy(out + s->got, back, op.m, out_end);
		s->got += op.m;
	}
	if (s->got - before != le32_load(in + 4))
		return fail_at(s, "has other than the bytes that it tells");
	s->at += end;
	return 0;
}

/* ---- bvx- and the stream ---- */

static int decode_plain(struct stream *s)
{
	size_t left = s->in_len - s->at, bytes;

	if (left < 8 || !range_in(8, le32_load(s->in + s->at + 4), left))
		return fail_at(s, "is cut short");
	bytes = le32_load(s->in + s->at + 4);
	if (bytes > s->out_len - s->got)
		return fail_at(s, "has more than the expected bytes");
	memcpy(s->out + s->got, s->in + s->at + 8, bytes);
	s->got += bytes;
	s->at += 8 + bytes;
	return 0;
}

static int lzfse_decode(const uint8_t *in, size_t in_len, uint8_t *out, size_t out_len,
			struct img_error *err)
{
	struct stream s = {
		.in = in, .in_len = in_len, .out = out, .out_len = out_len, .err = err
	};
	int rc = 0;

	while (!rc) {
		if (in_len - s.at < 4)
			return fail_at(&s, "is cut short");
		if (!memcmp(in + s.at, "bvx$", 4))
			break;
		if (!memcmp(in + s.at, "bvx-", 4))
			rc = decode_plain(&s);
		else if (!memcmp(in + s.at, "bvxn", 4))
			rc = decode_lzvn(&s);
		else if (!memcmp(in + s.at, "bvx1", 4) || !memcmp(in + s.at, "bvx2", 4))
			rc = decode_block(&s, in[s.at + 3] == '1');
		else
			rc = fail_at(&s, "has no known mark");
	}
	if (!rc && s.got != out_len)
		rc = img_fail(err, -EUCLEAN, "the lzfse stream has %zu bytes, expected %zu", s.got, out_len);
	return rc;
}

const struct img_codec img_codec_lzfse = {
	.name = "lzfse",
	.decode = lzfse_decode,
};

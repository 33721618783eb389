/* Binary convolution: sums of products of signs, for 32 output channels at a time.
 *
 * A bit is set for -1. A filter is not a row of words whose bits are counted: each bit of a window
 * has a word of its own, with that bit of 32 filters, a lane each (binary_filters.py). The kernel
 * lists the bits of the window that are set, about half of them, and adds the words that they
 * choose. Lanes are counters whose bits lie in words, the planes: plane p has bit p of all 32. Full
 * adders of five logical operations add to them (Harley and Seal's carry-save adder), so nothing is
 * ever counted across a word, which costs most where no instruction does it.
 *
 * Let n be the products that count, s the set bits of the window, and c the set bits of the filter
 * among these. Let f be the set bits of the whole filter, and d those under taps outside the map,
 * where products don't count. Then the sum is n - 2 s + 2 T with T = 2 c + d - f, and U = T + n - s
 * is the number of products that are +1. So T may be counted modulo any power of two above U: the
 * planes start at -f, which is in flash, d is added at plane 0, and c at plane 1. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "signs.h"

typedef struct {
  uint16_t in_height, in_width;
  uint16_t pixel_bits;     /* of the input */
  uint16_t group_channels; /* input channels of a group */
  uint16_t channels;       /* of the output */
  uint16_t groups;
  uint16_t window_height, window_width;
  uint16_t stride_y, stride_x;
  int16_t top, left;
  uint16_t dilation_y, dilation_x;
  uint16_t pads_with_ones; /* outside the map is +1; otherwise it doesn't count */
  uint16_t planes;         /* bits of a counter: 5 to 15 */
} BinaryConvolution;

enum {
  ADDED_AT_ONCE = 16, /* words that `add_lanes` adds at a time */
  MOST_PLANES = 16,
  BORDERS = 3, /* for which counters are kept: at the left, inside, at the right */
  NO_ROW = -1
};

/* The taps inside the map: rows [ky, ky_end), columns [kx, kx_end). */
typedef struct {
  int16_t ky, ky_end, kx, kx_end;
} Taps;

/* Where all is in scratch memory. */
typedef struct {
  int32_t *row_in_slot; /* [slots] the input row that is listed there */
  uint32_t *counters;   /* [BORDERS, lane words, plane words] how counters start ... */
  Taps *borders;        /* [BORDERS] ... for these taps */
  int16_t *sums;        /* [lane words * 32] */
  uint16_t *set;        /* of the window: [bits + ADDED_AT_ONCE] */
  uint16_t *rows;       /* [slots, row_size] */
  size_t slots;         /* input rows, from the first of a window to its last */
  size_t row_size;      /* [groups, in_width + 1] starts, then the positions of bits that are set */
  size_t bits, words;   /* of a filter; of 32 filters */
  size_t lane_words;    /* of a group */
  size_t plane_words;   /* planes, and words of 0 up to 8 or 16 */
} BinaryScratch;

static BinaryScratch binary_scratch(const BinaryConvolution *c, uint32_t *scratch) {
  BinaryScratch s;
  s.bits = (size_t)c->window_height * c->window_width * c->group_channels;
  s.words = c->planes + s.bits + 1;
  s.lane_words = ((size_t)c->channels / c->groups + 31) / 32;
  s.plane_words = c->planes <= 8 ? 8 : MOST_PLANES;
  s.slots = (size_t)(c->window_height - 1) * c->dilation_y + 1;
  s.row_size = (size_t)c->groups * (c->in_width + 1u + (size_t)c->in_width * c->group_channels) + 4;
  s.row_in_slot = (int32_t *)scratch;
  s.counters = (uint32_t *)(s.row_in_slot + s.slots);
  s.borders = (Taps *)(s.counters + BORDERS * c->groups * s.lane_words * s.plane_words);
  s.sums = (int16_t *)(s.borders + BORDERS);
  s.set = (uint16_t *)(s.sums + c->channels + 32);
  s.rows = s.set + s.bits + ADDED_AT_ONCE;
  return s;
}

/* In each lane, a, b and `sum` are added: bit 0 stays in `sum`, bit 1 goes to `carry`. */
static inline void full_adder(uint32_t *carry, uint32_t *sum, uint32_t a, uint32_t b) {
  const uint32_t half = *sum ^ a;
  *carry = (*sum & a) | (half & b);
  *sum = half ^ b;
}

/* Adds the words of the filter at `n` places of `set`, a multiple of ADDED_AT_ONCE, to counters of
 * `planes` bits. */
#if defined(__ARM_FEATURE_MVE) && __ARM_FEATURE_MVE & 1
#include <arm_mve.h> /* Helium */

static inline uint32x4_t four_words(const uint32_t *filter, const uint16_t *set) {
  return vldrwq_gather_shifted_offset_u32(filter, vldrhq_u32(set));
}

static inline void full_adder_of_four(uint32x4_t *carry, uint32x4_t *sum, uint32x4_t a,
                                      uint32x4_t b) {
  const uint32x4_t half = *sum ^ a;
  *carry = (*sum & a) | (half & b);
  *sum = half ^ b;
}

/* Four vectors of words at a time; each quarter of the vectors has counters of its own, which are
 * added up in the end. */
static void add_lanes(uint32_t *counters, size_t planes, const uint32_t *filter,
                      const uint16_t *set, size_t n) {
  uint32_t parts[MOST_PLANES][4] = {{0}};
  uint32x4_t ones = vdupq_n_u32(0), twos = ones, two, other_two, carry;
  size_t part_planes = 0; /* that n / 4 words can reach */
  while (n / 4 >> part_planes) part_planes++;
  for (const uint16_t *end = set + n; set < end; set += ADDED_AT_ONCE) {
    full_adder_of_four(&two, &ones, four_words(filter, set), four_words(filter, set + 4));
    full_adder_of_four(&other_two, &ones, four_words(filter, set + 8),
                       four_words(filter, set + 12));
    full_adder_of_four(&carry, &twos, two, other_two);
    for (size_t p = 2; p < part_planes; p++) {
      const uint32x4_t part = vldrwq_u32(parts[p]);
      vstrwq_u32(parts[p], part ^ carry);
      carry &= part;
    }
  }
  vstrwq_u32(parts[0], ones);
  vstrwq_u32(parts[1], twos);
  for (size_t i = 0; i < 4; i++) {
    uint32_t word = 0;
    for (size_t p = 0; p < planes; p++) full_adder(&word, &counters[p], parts[p][i], word);
  }
}
#else
/* Adds a bit of weight 2^p to each counter. */
static inline void add_carry(uint32_t *counters, size_t p, size_t planes, uint32_t carry) {
  for (; p < planes; p++) {
    const uint32_t sum = counters[p] ^ carry;
    carry &= counters[p];
    counters[p] = sum;
  }
}

static void add_lanes(uint32_t *counters, size_t planes, const uint32_t *filter,
                      const uint16_t *set, size_t n) {
  uint32_t ones = counters[0], twos = counters[1], fours = counters[2], eights = counters[3];
  uint32_t two, other_two, four, other_four, eight, sixteen, other_sixteen = 0;
  int has_sixteen = 0; /* other_sixteen waits for the next one */
  for (const uint16_t *end = set + n; set < end; set += ADDED_AT_ONCE) {
#define ADD_FOUR(four, i)                                                    \
  full_adder(&two, &ones, filter[set[i]], filter[set[(i) + 1]]);             \
  full_adder(&other_two, &ones, filter[set[(i) + 2]], filter[set[(i) + 3]]); \
  full_adder(&four, &twos, two, other_two)
    ADD_FOUR(four, 0);
    ADD_FOUR(other_four, 4);
    full_adder(&eight, &fours, four, other_four);
    ADD_FOUR(four, 8);
    ADD_FOUR(other_four, 12);
    full_adder(&sixteen, &fours, four, other_four);
    full_adder(&sixteen, &eights, eight, sixteen);
#undef ADD_FOUR
    if (has_sixteen) {
      uint32_t carry;
      full_adder(&carry, &counters[4], other_sixteen, sixteen);
      add_carry(counters, 5, planes, carry);
    }
    other_sixteen = sixteen;
    has_sixteen = !has_sixteen;
  }
  if (has_sixteen) add_carry(counters, 4, planes, other_sixteen);
  counters[0] = ones, counters[1] = twos, counters[2] = fours, counters[3] = eights;
}
#endif

/* Fills the list up to a multiple of ADDED_AT_ONCE with the place of a word that is 0. */
static size_t filled_up(uint16_t *set, size_t n, size_t zero) {
  while (n % ADDED_AT_ONCE) set[n++] = (uint16_t)zero;
  return n;
}

/* The places of the bits of 4 that are set. */
static const uint16_t places_of_four[16][4] = {
    {0}, {0},    {1},    {0, 1},    {2},    {0, 2},    {1, 2},    {0, 1, 2},
    {3}, {0, 3}, {1, 3}, {0, 1, 3}, {2, 3}, {0, 2, 3}, {1, 2, 3}, {0, 1, 2, 3},
};
static const uint8_t ones_of_four[16] = {0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4};

/* Writes four numbers of 16 bits, each with `offset` added. */
static inline void shift_four(uint16_t *to, const uint16_t *from, uint32_t offset) {
#if defined(__x86_64__) || (defined(__ARM_FEATURE_UNALIGNED) && !defined(__ARM_BIG_ENDIAN))
  /* Two at a time, where a word may lie anywhere: no sum leaves its 16 bits but where a number
   * beyond a list is read, and that one is in the upper half. */
  const uint32_t offsets = offset * UINT32_C(0x10001);
  uint32_t two, other_two;
  memcpy(&two, from, sizeof two);
  memcpy(&other_two, from + 2, sizeof other_two);
  two += offsets;
  other_two += offsets;
  memcpy(to, &two, sizeof two);
  memcpy(to + 2, &other_two, sizeof other_two);
#else
  for (size_t i = 0; i < 4; i++) to[i] = (uint16_t)(from[i] + offset);
#endif
}

/* Appends the positions of the bits that are set. Writes up to 4 numbers beyond the list. */
static inline uint16_t *list_bits(uint16_t *list, uint32_t bits, size_t position) {
  for (; bits; bits >>= 4, position += 4) {
    shift_four(list, places_of_four[bits % 16], (uint32_t)position);
    list += ones_of_four[bits % 16];
  }
  return list;
}

/* Channels `first` to `first + n` of a pixel, at most 32. */
static inline uint32_t channel_bits(const uint32_t *map, size_t pixel, size_t pixel_bits,
                                    size_t first, size_t n) {
  uint32_t bits = pixel_word(map, pixel, pixel_bits, first / 32) >> (first % 32);
  if (first % 32 + n > 32)
    bits |= pixel_word(map, pixel, pixel_bits, first / 32 + 1) << (32 - first % 32);
  return n < 32 ? bits & ((UINT32_C(1) << n) - 1) : bits;
}

/* Lists the bits of an input row that are set. Channel c of a group of pixel x has the position
 * x * group_channels + c, so the bits of neighbouring pixels follow each other as those of
 * neighbouring taps do. */
static void list_row(const BinaryConvolution *c, const uint32_t *input, size_t row,
                     uint16_t *starts) {
  uint16_t *const list = starts + (size_t)c->groups * (c->in_width + 1u), *end = list;
  for (size_t group = 0; group < c->groups; group++) {
    for (size_t x = 0; x < c->in_width; x++) {
      *starts++ = (uint16_t)(end - list);
      for (size_t first = 0; first < c->group_channels; first += 32) {
        const size_t left = c->group_channels - first;
        const uint32_t bits =
            channel_bits(input, row * c->in_width + x, c->pixel_bits,
                         group * c->group_channels + first, left < 32 ? left : 32);
        end = list_bits(end, bits, x * c->group_channels + first);
      }
    }
    *starts++ = (uint16_t)(end - list);
  }
}

/* Lists the rows that the windows of an output row read; most of them are still there. */
static void list_rows(const BinaryConvolution *c, const BinaryScratch *s, const uint32_t *input,
                      int32_t y) {
  if (y == 0) {
    memset(s->row_in_slot, 0xff, s->slots * sizeof *s->row_in_slot); /* NO_ROW */
    for (size_t i = 0; i < BORDERS; i++) s->borders[i].ky = NO_ROW;
  }
  for (int32_t ky = 0; ky < c->window_height; ky++) {
    const int32_t row = y * c->stride_y - c->top + ky * c->dilation_y;
    if (row < 0 || row >= c->in_height) continue;
    const size_t slot = (size_t)row % s->slots;
    if (s->row_in_slot[slot] == row) continue;
    s->row_in_slot[slot] = row;
    list_row(c, input, (size_t)row, s->rows + slot * s->row_size);
  }
}

/* Appends the bits of an input row that a window reads, at their places in the filter. Reads and
 * writes up to 3 numbers beyond. */
static inline uint16_t *list_taps(uint16_t *list, const uint16_t *from, const uint16_t *end,
                                  int32_t offset) {
  for (; from < end; from += 4, list += 4) shift_four(list, from, (uint32_t)offset);
  return list - (from - end);
}

/* Lists the bits of the window that are set; returns how many there are. */
static size_t list_window(const BinaryConvolution *c, const BinaryScratch *s, int32_t y, int32_t x,
                          size_t group, Taps taps) {
  uint16_t *list = s->set;
  const int32_t left = x * c->stride_x - c->left, channels = c->group_channels;
  /* Taps that are neighbours of each other. */
  const int32_t run = c->dilation_x == 1 ? taps.kx_end - taps.kx : 1;
  for (int32_t ky = taps.ky; ky < taps.ky_end; ky++) {
    const int32_t row = y * c->stride_y - c->top + ky * c->dilation_y;
    const uint16_t *const slot = s->rows + (size_t)row % s->slots * s->row_size;
    const uint16_t *const starts = slot + group * (c->in_width + 1u);
    const uint16_t *const bits = slot + (size_t)c->groups * (c->in_width + 1u);
    for (int32_t kx = taps.kx; kx < taps.kx_end; kx += run) {
      const int32_t from = left + kx * c->dilation_x;
      const int32_t offset = (ky * c->window_width + kx - from) * channels;
      list = list_taps(list, bits + starts[from], bits + starts[from + run], offset);
    }
  }
  return (size_t)(list - s->set);
}

/* Lists all bits of the taps outside the map; returns how many there are. */
static size_t list_outside(const BinaryConvolution *c, const BinaryScratch *s, Taps taps) {
  uint16_t *list = s->set;
  size_t bit = 0;
  for (int32_t ky = 0; ky < c->window_height; ky++)
    for (int32_t kx = 0; kx < c->window_width; kx++) {
      const size_t end = bit + c->group_channels;
      if (ky >= taps.ky && ky < taps.ky_end && kx >= taps.kx && kx < taps.kx_end) bit = end;
      while (bit < end) *list++ = (uint16_t)bit++;
    }
  return (size_t)(list - s->set);
}

/* `ky` first: where it is NO_ROW, the others were never written. */
static inline int same_taps(const Taps *a, const Taps *b) {
  return a->ky == b->ky && a->ky_end == b->ky_end && a->kx == b->kx && a->kx_end == b->kx_end;
}

/* How counters start where these taps are inside the map, [groups, lane words, plane words]. */
static const uint32_t *counters_at(const BinaryConvolution *c, const BinaryScratch *s,
                                   const uint32_t *filters, Taps taps) {
  const size_t border = taps.kx > 0 ? 0 : taps.kx_end < c->window_width ? 2 : 1;
  const size_t lane_words = c->groups * s->lane_words;
  uint32_t *const counters = s->counters + border * lane_words * s->plane_words;
  if (same_taps(&s->borders[border], &taps)) return counters;
  s->borders[border] = taps;
  size_t n = c->pads_with_ones ? 0 : list_outside(c, s, taps);
  n = filled_up(s->set, n, s->bits);
  for (size_t i = 0; i < lane_words; i++, filters += s->words) {
    uint32_t *const start = counters + i * s->plane_words;
    for (size_t p = 0; p < s->plane_words; p++) start[p] = p < c->planes ? filters[p] : 0;
    add_lanes(start, c->planes, filters + c->planes, s->set, n);
  }
  return counters;
}

/* Exchanges the bits of `a` under the mask, shifted, with those of `b` under the mask. */
static inline void exchange(uint32_t *a, uint32_t *b, unsigned shift, uint32_t mask) {
  const uint32_t bits = ((*a >> shift) ^ *b) & mask;
  *b ^= bits;
  *a ^= bits << shift;
}

/* Eight words of bits become eight words of bytes: bit 8 j + k of word i becomes bit 8 j + i of
 * word k (Hacker's Delight, 7-3). */
static inline void transpose(uint32_t *words) {
  uint32_t a = words[0], b = words[1], c = words[2], d = words[3];
  uint32_t e = words[4], f = words[5], g = words[6], h = words[7];
  exchange(&a, &b, 1, UINT32_C(0x55555555)), exchange(&c, &d, 1, UINT32_C(0x55555555));
  exchange(&e, &f, 1, UINT32_C(0x55555555)), exchange(&g, &h, 1, UINT32_C(0x55555555));
  exchange(&a, &c, 2, UINT32_C(0x33333333)), exchange(&b, &d, 2, UINT32_C(0x33333333));
  exchange(&e, &g, 2, UINT32_C(0x33333333)), exchange(&f, &h, 2, UINT32_C(0x33333333));
  exchange(&a, &e, 4, UINT32_C(0x0f0f0f0f)), exchange(&b, &f, 4, UINT32_C(0x0f0f0f0f));
  exchange(&c, &g, 4, UINT32_C(0x0f0f0f0f)), exchange(&d, &h, 4, UINT32_C(0x0f0f0f0f));
  words[0] = a, words[1] = b, words[2] = c, words[3] = d;
  words[4] = e, words[5] = f, words[6] = g, words[7] = h;
}

/* The sums of `n` lanes or some more: 2 U - products with U = T + offset. */
static void sums_of_lanes(uint32_t *counters, size_t planes, size_t n, uint32_t products,
                          uint32_t offset, int16_t *sums) {
  const uint32_t bytes = UINT32_C(0x00ff00ff), two = UINT32_C(0x10001);
  const uint32_t mask = ((UINT32_C(1) << planes) - 1) * two, offsets = offset * two;
  transpose(counters);
  if (planes > 8) transpose(counters + 8);
  for (const int16_t *end = sums + n; sums < end; sums += 4, counters++) {
    const uint32_t low = counters[0], high = counters[8];
    uint32_t even = (low & bytes) | (high & bytes) << 8;
    uint32_t odd = (low >> 8 & bytes) | (high & ~bytes);
    even = ((even + offsets) & mask) << 1;
    odd = ((odd + offsets) & mask) << 1;
    sums[0] = (int16_t)((even & 0xffff) - products);
    sums[1] = (int16_t)((even >> 16) - products);
    sums[2] = (int16_t)((odd & 0xffff) - products);
    sums[3] = (int16_t)((odd >> 16) - products);
  }
}

static Taps taps_inside(const BinaryConvolution *c, int32_t y, int32_t x) {
  const int32_t row = y * c->stride_y - c->top, column = x * c->stride_x - c->left;
  Taps taps = {0, (int16_t)c->window_height, 0, (int16_t)c->window_width};
  while (taps.ky < taps.ky_end && row + taps.ky * c->dilation_y < 0) taps.ky++;
  while (taps.ky < taps.ky_end && row + (taps.ky_end - 1) * c->dilation_y >= c->in_height)
    taps.ky_end--;
  while (taps.kx < taps.kx_end && column + taps.kx * c->dilation_x < 0) taps.kx++;
  while (taps.kx < taps.kx_end && column + (taps.kx_end - 1) * c->dilation_x >= c->in_width)
    taps.kx_end--;
  return taps;
}

/* The sums of output pixel (y, x), of all output channels. Pixels are asked for row by row. They
 * are in scratch memory until the next one. */
static const int16_t *binary_sums(const BinaryConvolution *c, const uint32_t *filters,
                                  const uint32_t *input, int32_t y, int32_t x, uint32_t *scratch) {
  const BinaryScratch s = binary_scratch(c, scratch);
  if (x == 0) list_rows(c, &s, input, y);
  const Taps taps = taps_inside(c, y, x);
  const uint32_t *start = counters_at(c, &s, filters, taps);
  const int32_t inside = (taps.ky_end - taps.ky) * (taps.kx_end - taps.kx);
  const uint32_t products =
      c->pads_with_ones ? (uint32_t)s.bits : (uint32_t)inside * c->group_channels;
  const size_t channels = (size_t)c->channels / c->groups;
  int16_t *sums = s.sums;
  for (size_t group = 0; group < c->groups; group++, sums += channels) {
    const size_t set = list_window(c, &s, y, x, group, taps);
    const size_t n = filled_up(s.set, set, s.bits);
    for (size_t i = 0; i < channels; i += 32, start += s.plane_words, filters += s.words) {
      uint32_t counters[MOST_PLANES];
      memcpy(counters, start, 8 * sizeof *start);
      if (c->planes > 8)
        memcpy(counters + 8, start + 8, 8 * sizeof *start);
      else
        memset(counters + 8, 0, 8 * sizeof *start);
      add_lanes(counters + 1, c->planes - 1u, filters + c->planes, s.set, n);
      sums_of_lanes(counters, c->planes, channels - i < 32 ? channels - i : 32, products,
                    products - (uint32_t)set, sums + i);
    }
  }
  return s.sums;
}

/*
 * Ways to compute products of signs for one output pixel of a 3x3 convolution with as many output
 * as input channels. Between marks: each way for 16, 32, 64, 128 and 256 channels. The window's
 * words are there already for the first four; the last is the exported kernel as it is, from the
 * map to the sums, for all pixels of a map.
 */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "binary_convolution.h"
#include "measuring.h"

enum { WIDTHS = 5, MOST_CHANNELS = 256, MOST_WORDS = 72, SIDE = 8 };

/* Sums of 2, 4 and 8 neighbouring bits. */
static inline uint32_t twos_of(uint32_t x) { return x - (x >> 1 & 0x55555555u); }
static inline uint32_t fours_of(uint32_t x) {
  x = twos_of(x);
  return (x & 0x33333333u) + (x >> 2 & 0x33333333u);
}
static inline uint32_t eights_of(uint32_t x) {
  x = fours_of(x);
  return (x & 0x0f0f0f0fu) + (x >> 4 & 0x0f0f0f0fu);
}
static inline uint32_t bytes_of(uint32_t x) { return x * 0x01010101u >> 24; }

/* Each word for itself. */
static inline uint32_t classic(const uint32_t *a, const uint32_t *b, size_t words) {
  uint32_t n = 0;
  for (size_t i = 0; i < words; i++) n += bytes_of(eights_of(a[i] ^ b[i]));
  return n;
}

/* Sums of 4 bits of three words are added before they are summed further. */
static inline uint32_t merged(const uint32_t *a, const uint32_t *b, size_t words) {
  uint32_t n = 0;
  size_t i = 0;
  for (; i + 3 <= words; i += 3) {
    const uint32_t x =
        fours_of(a[i] ^ b[i]) + fours_of(a[i + 1] ^ b[i + 1]) + fours_of(a[i + 2] ^ b[i + 2]);
    n += bytes_of((x & 0x0f0f0f0fu) + (x >> 4 & 0x0f0f0f0fu));
  }
  return n + classic(a + i, b + i, words - i);
}

/* Harley and Seal: full adders make one word of weight 8 of eight words. */
static inline uint32_t harley_seal(const uint32_t *a, const uint32_t *b, size_t words) {
  uint32_t n = 0, ones = 0, twos = 0, fours = 0, two, other_two, four, other_four, eight;
  size_t i = 0;
  for (; i + 8 <= words; i += 8) {
    const uint32_t *c = a + i, *d = b + i;
    full_adder(&two, &ones, c[0] ^ d[0], c[1] ^ d[1]);
    full_adder(&other_two, &ones, c[2] ^ d[2], c[3] ^ d[3]);
    full_adder(&four, &twos, two, other_two);
    full_adder(&two, &ones, c[4] ^ d[4], c[5] ^ d[5]);
    full_adder(&other_two, &ones, c[6] ^ d[6], c[7] ^ d[7]);
    full_adder(&other_four, &twos, two, other_two);
    full_adder(&eight, &fours, four, other_four);
    n += 8 * bytes_of(eights_of(eight));
  }
  n += bytes_of(eights_of(ones) + 2 * eights_of(twos) + 4 * eights_of(fours));
  return n + merged(a + i, b + i, words - i);
}

/* The bits of each byte are read in a table. */
static uint8_t ones_of_byte[256];
static inline uint32_t table(const uint32_t *a, const uint32_t *b, size_t words) {
  uint32_t n = 0;
  for (size_t i = 0; i < words; i++) {
    const uint32_t x = a[i] ^ b[i];
    n += ones_of_byte[x & 0xff] + ones_of_byte[x >> 8 & 0xff];
    n += ones_of_byte[x >> 16 & 0xff] + ones_of_byte[x >> 24];
  }
  return n;
}

static uint32_t window[MOST_WORDS], filters[MOST_CHANNELS / 32 * (32 * MOST_WORDS + 32)];
static uint32_t map[SIDE * SIDE * MOST_CHANNELS / 32], scratch[16384];
static uint32_t differ[2][MOST_CHANNELS];

static uint32_t noise(void) {
  static uint32_t state = 1;
  state = state * 1664525u + 1013904223u;
  return state >> 16 ^ state << 11;
}

/* The number of words is known to the compiler. */
#define COUNT(way, to)                                               \
  do {                                                               \
    mark();                                                          \
    for (size_t o = 0; o < channels; o++) {                          \
      const uint32_t *filter = filters + o * words;                  \
      to[o] = words == 5    ? way(window, filter, 5)                 \
              : words == 9  ? way(window, filter, 9)                 \
              : words == 18 ? way(window, filter, 18)                \
              : words == 36 ? way(window, filter, 36)                \
                            : way(window, filter, 72);               \
    }                                                                \
    mark();                                                          \
    if (memcmp(to, differ[0], channels * sizeof *to) != 0) return 1; \
  } while (0)

int main(void) {
  for (size_t i = 0; i < 256; i++) ones_of_byte[i] = (uint8_t)bytes_of(eights_of((uint32_t)i));
  for (size_t i = 0; i < MOST_WORDS; i++) window[i] = noise();
  for (size_t i = 0; i < sizeof map / sizeof *map; i++) map[i] = noise();
  for (size_t i = 0; i < sizeof filters / sizeof *filters; i++) filters[i] = noise();
  mark(), mark(); /* what a pair of marks takes */
  for (size_t i = 0; i < WIDTHS; i++) {
    const size_t channels = (size_t)16 << i, words = (channels * 9 + 31) / 32;
    COUNT(classic, differ[0]);
    COUNT(merged, differ[1]);
    COUNT(harley_seal, differ[1]);
    COUNT(table, differ[1]);
    const uint16_t width = (uint16_t)channels;
    uint16_t planes = 0;
    while (9 * channels >> planes) planes++;
    const BinaryConvolution c = {.in_height = SIDE,
                                 .in_width = SIDE,
                                 .pixel_bits = width,
                                 .group_channels = width,
                                 .channels = width,
                                 .groups = 1,
                                 .window_height = 3,
                                 .window_width = 3,
                                 .stride_y = 1,
                                 .stride_x = 1,
                                 .top = 1,
                                 .left = 1,
                                 .dilation_y = 1,
                                 .dilation_x = 1,
                                 .planes = planes};
    mark();
    for (int32_t y = 0; y < SIDE; y++)
      for (int32_t x = 0; x < SIDE; x++) binary_sums(&c, filters, map, y, x, scratch);
    mark();
  }
  return 0;
}

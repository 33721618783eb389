/* Sums of products of signs. A product is -1 where the bits differ, so a sum of n products is
 * n - 2 * (number of bits that differ). */
#include <stddef.h>
#include <stdint.h>

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
} BinaryConvolution;

static inline uint32_t count_ones(uint32_t x) {
#if defined(__GNUC__) && !defined(__arm__)
  return (uint32_t)__builtin_popcount(x);
#else
  x -= (x >> 1) & UINT32_C(0x55555555);
  x = (x & UINT32_C(0x33333333)) + ((x >> 2) & UINT32_C(0x33333333));
  x = (x + (x >> 4)) & UINT32_C(0x0f0f0f0f);
  return (x * UINT32_C(0x01010101)) >> 24;
#endif
}

/* Up to 32 channels of a pixel, from `first` on. */
static inline uint32_t channel_bits(const uint32_t *map, size_t pixel, size_t pixel_bits,
                                    size_t first, size_t n) {
  uint32_t bits = pixel_word(map, pixel, pixel_bits, first / 32) >> (first % 32);
  if (first % 32 + n > 32)
    bits |= pixel_word(map, pixel, pixel_bits, first / 32 + 1) << (32 - first % 32);
  return n < 32 ? bits & ((UINT32_C(1) << n) - 1) : bits;
}

/* The sums of output pixel (y, x), of all output channels. `patch` has room for a word and a mask
 * of each 32 channels of each tap. */
static void binary_sums(const BinaryConvolution *c, const uint32_t *filters, const uint32_t *input,
                        int32_t y, int32_t x, uint32_t *patch, int32_t *sums) {
  const size_t words = (c->group_channels + 31u) / 32u;
  const size_t patch_words = words * c->window_height * c->window_width;
  uint32_t *masks = patch + patch_words;
  const uint16_t filters_of_group = (uint16_t)(c->channels / c->groups);
  for (uint16_t group = 0; group < c->groups; group++) {
    int32_t products = 0;
    size_t at = 0;
    for (uint16_t ky = 0; ky < c->window_height; ky++) {
      const int32_t iy = y * c->stride_y - c->top + ky * c->dilation_y;
      for (uint16_t kx = 0; kx < c->window_width; kx++) {
        const int32_t ix = x * c->stride_x - c->left + kx * c->dilation_x;
        const int inside = iy >= 0 && iy < c->in_height && ix >= 0 && ix < c->in_width;
        const int counts = inside || c->pads_with_ones;
        if (counts) products += c->group_channels;
        for (size_t w = 0; w < words; w++, at++) {
          const size_t left = c->group_channels - w * 32;
          const size_t n = left < 32 ? left : 32;
          masks[at] = counts ? UINT32_MAX : 0;
          patch[at] = inside ? channel_bits(input, (size_t)(iy * c->in_width + ix), c->pixel_bits,
                                            (size_t)group * c->group_channels + w * 32, n)
                             : 0;
        }
      }
    }
    for (uint16_t o = 0; o < filters_of_group; o++) {
      uint32_t differ = 0;
      for (size_t i = 0; i < patch_words; i++)
        differ += count_ones((patch[i] ^ *filters++) & masks[i]);
      *sums++ = products - 2 * (int32_t)differ;
    }
  }
}

/* Maps of signs: a bit a channel, set for -1, the lowest bit of a word first. A pixel has 8 or 16
 * bits, so that words hold several, or whole words. Words are read and written as words, so no byte
 * order matters. */
#include <stddef.h>
#include <stdint.h>

#include "helper.h"

/* The `word`-th word of a pixel; pixels of 8 or 16 bits have one. */
HELPER uint32_t pixel_word(const uint32_t *map, size_t pixel, size_t pixel_bits, size_t word) {
  if (pixel_bits >= 32) return map[pixel * (pixel_bits / 32) + word];
  const size_t bit = pixel * pixel_bits;
  return (map[bit / 32] >> (bit % 32)) & ((UINT32_C(1) << pixel_bits) - 1);
}

HELPER void put_pixel_word(uint32_t *map, size_t pixel, size_t pixel_bits, size_t word,
                           uint32_t bits) {
  if (pixel_bits >= 32) {
    map[pixel * (pixel_bits / 32) + word] = bits;
    return;
  }
  const size_t bit = pixel * pixel_bits;
  const uint32_t mask = ((UINT32_C(1) << pixel_bits) - 1) << (bit % 32);
  map[bit / 32] = (map[bit / 32] & ~mask) | (bits << (bit % 32));
}

HELPER size_t pixel_bits_of(size_t channels) {
  return channels <= 8 ? 8 : channels <= 16 ? 16 : (channels + 31) / 32 * 32;
}

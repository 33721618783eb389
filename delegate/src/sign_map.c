#include "sign_map.h"

#include <string.h>

#include "simd.h"

enum { kReadPastEnd = 64 };

static size_t pixel_bytes(int32_t channels) {
  if (channels <= 16) return 2;
  if (channels <= 32) return 4;
  return ((size_t)channels + 63) / 64 * 8;
}

bool sign_map_layout(SignMap* map) {
  if (map->height < 1 || map->width < 1 || map->channels < 1) return false;
  if (map->top < 0 || map->left < 0 || map->bottom < 0 || map->right < 0) return false;
  uint64_t rows = (uint64_t)map->height + (uint64_t)map->top + (uint64_t)map->bottom;
  uint64_t columns = (uint64_t)map->width + (uint64_t)map->left + (uint64_t)map->right;
  uint64_t pixel = pixel_bytes(map->channels);
  const uint64_t limit = (uint64_t)(PTRDIFF_MAX / 2);
  if (columns > limit / pixel || rows > (limit - kReadPastEnd) / (columns * pixel)) return false;
  map->pixel_bytes = (size_t)pixel;
  map->row_bytes = (size_t)(columns * pixel);
  map->bytes = (size_t)(rows * columns * pixel) + kReadPastEnd;
  return true;
}

void sign_map_clear(const SignMap* map, uint8_t* data) { memset(data, 0, map->bytes); }

size_t sign_map_offset(const SignMap* map, int32_t y, int32_t x) {
  return (size_t)(y + map->top) * map->row_bytes + (size_t)(x + map->left) * map->pixel_bytes;
}

/** Signs of 16 floats for each of `pixels` (1 or 4) pixels. */
ALWAYS_INLINE uint64_t signs_of_floats(const float* values, size_t stride, int pixels) {
  Mask8 masks[8];
  UNROLL
  for (int i = 0; i < 2 * pixels; i++) {
    const float* from = values + (size_t)(i / 2) * stride + (size_t)(i % 2) * 8;
    masks[i] = joined(load_floats(from) < 0.f, load_floats(from + 4) < 0.f);
  }
  return bits_of_masks(masks, pixels);
}

/** Signs of the last, fewer than 16 channels of a pixel. */
static uint16_t signs_of_rest(const float* values, int32_t count) {
  unsigned bits = 0;
  for (int32_t i = 0; i < count; i++) bits |= (unsigned)(values[i] < 0.f) << i;
  return (uint16_t)bits;
}

static void pack_pixel(const float* values, int32_t channels, uint8_t* data) {
  int32_t c = 0;
  for (; c + 64 <= channels; c += 64) {
    uint64_t bits = signs_of_floats(values + c, 16, 4);
    memcpy(data + c / 8, &bits, 8);
  }
  for (; c < channels; c += 16) {
    uint16_t bits = channels - c < 16 ? signs_of_rest(values + c, channels - c)
                                      : (uint16_t)signs_of_floats(values + c, 16, 1);
    memcpy(data + c / 8, &bits, 2);
  }
}

void sign_map_pack_floats(const SignMap* map, const float* values, uint8_t* data, int32_t first,
                          int32_t last) {
  const size_t channels = (size_t)map->channels;
  for (int32_t y = first; y < last; y++) {
    const float* row = values + (size_t)y * (size_t)map->width * channels;
    uint8_t* to = data + sign_map_offset(map, y, 0);
    int32_t x = 0;
    /* Pixels that fill their bytes lie as their floats do, one after the other. */
    const int32_t step = channels == 16 ? 4 : channels == 32 ? 2 : map->width + 1;
    for (; x + step <= map->width; x += step, row += 64, to += 8) {
      uint64_t bits = signs_of_floats(row, 16, 4);
      memcpy(to, &bits, 8);
    }
    for (; x < map->width; x++, row += channels, to += map->pixel_bytes)
      pack_pixel(row, map->channels, to);
  }
}

void sign_map_pack_int8(const SignMap* map, const int8_t* values, int32_t zero_point, uint8_t* data,
                        int32_t first, int32_t last) {
  for (int32_t y = first; y < last; y++) {
    const int8_t* row = values + (size_t)y * (size_t)map->width * (size_t)map->channels;
    uint8_t* to = data + sign_map_offset(map, y, 0);
    for (int32_t x = 0; x < map->width; x++, row += map->channels, to += map->pixel_bytes) {
      memset(to, 0, map->pixel_bytes);
      for (int32_t c = 0; c < map->channels; c++)
        to[c / 8] |= (uint8_t)((row[c] < zero_point) << (c % 8));
    }
  }
}

static size_t word_count(int32_t channels) { return ((size_t)channels + 31) / 32; }

/** The last word of a pixel without what lies beyond the channels: other writers may have left bits
 * there. */
static uint32_t without_rest(uint32_t word, int32_t channels, size_t k) {
  size_t left = (size_t)channels - 32 * k;
  return left < 32 ? word & ((UINT32_C(1) << left) - 1) : word;
}

void sign_map_pack_words(const SignMap* map, const int32_t* words, uint8_t* data, int32_t first,
                         int32_t last) {
  const size_t n = word_count(map->channels);
  for (int32_t y = first; y < last; y++) {
    const int32_t* from = words + (size_t)y * (size_t)map->width * n;
    uint8_t* to = data + sign_map_offset(map, y, 0);
    for (int32_t x = 0; x < map->width; x++, from += n, to += map->pixel_bytes)
      for (size_t k = 0; k < n; k++) {
        uint32_t word = without_rest((uint32_t)from[k], map->channels, k);
        memcpy(to + 4 * k, &word, map->pixel_bytes == 2 ? 2 : 4);
      }
  }
}

void sign_map_unpack_words(const SignMap* map, const uint8_t* data, int32_t* words, int32_t first,
                           int32_t last) {
  const size_t n = word_count(map->channels);
  for (int32_t y = first; y < last; y++) {
    const uint8_t* from = data + sign_map_offset(map, y, 0);
    int32_t* to = words + (size_t)y * (size_t)map->width * n;
    for (int32_t x = 0; x < map->width; x++, to += n, from += map->pixel_bytes)
      for (size_t k = 0; k < n; k++) {
        uint32_t word = 0;
        memcpy(&word, from + 4 * k, map->pixel_bytes == 2 ? 2 : 4);
        to[k] = (int32_t)word;
      }
  }
}

void dequantize_words_to_floats(const int32_t* words, float* values, size_t pixels,
                                int32_t channels) {
  for (size_t p = 0; p < pixels; p++, words += word_count(channels), values += channels)
    for (int32_t c = 0; c < channels; c++)
      values[c] = ((uint32_t)words[c / 32] >> (c % 32)) & 1 ? -1.f : 1.f;
}

void dequantize_words_to_int8(const int32_t* words, int8_t* values, size_t pixels, int32_t channels,
                              int8_t plus_one, int8_t minus_one) {
  for (size_t p = 0; p < pixels; p++, words += word_count(channels), values += channels)
    for (int32_t c = 0; c < channels; c++)
      values[c] = ((uint32_t)words[c / 32] >> (c % 32)) & 1 ? minus_one : plus_one;
}

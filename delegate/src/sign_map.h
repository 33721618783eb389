/** Maps of signs, one bit each, with a margin: what binary convolutions read.
 *
 * A bit is 1 for a negative value, as in Larq Compute Engine's files. Channel c of a pixel is bit c
 * % 8 of its byte c / 8. A pixel takes 2, 4 or a multiple of 8 bytes; bits beyond the channels and
 * those of the margin are 0 (+1). Words of several bytes are read as little-endian ones.
 */
#ifndef LARQ_ENSEMBLE_SIGN_MAP_H_
#define LARQ_ENSEMBLE_SIGN_MAP_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  int32_t height, width, channels;
  int32_t top, left, bottom, right; /* margin, in pixels */
  /* Derived by sign_map_layout. */
  size_t pixel_bytes, row_bytes;
  size_t
      bytes; /* all, with room for reads past the end: what the caller allocates, aligned to 16 */
} SignMap;

/** Derives the sizes from the other fields; false if those are negative or the bytes overflow. */
bool sign_map_layout(SignMap* map);

/** Zeroes everything. Once is enough: what writes a map leaves its margin alone. */
void sign_map_clear(const SignMap* map, uint8_t* data);

/** Where pixel (y, x) lies; both may be negative, down to the margin. */
size_t sign_map_offset(const SignMap* map, int32_t y, int32_t x);

/** Signs of rows [first, last) of a float map [height][width][channels]: 1 where x < 0, so -0.0 and
 * NaN give 0. */
void sign_map_pack_floats(const SignMap* map, const float* values, uint8_t* data, int32_t first,
                          int32_t last);

/** The same of int8 values: 1 where x < zero_point. */
void sign_map_pack_int8(const SignMap* map, const int8_t* values, int32_t zero_point, uint8_t* data,
                        int32_t first, int32_t last);

/** From and to Larq Compute Engine's packed tensors, int32 [height][width][ceil(channels / 32)]. */
void sign_map_pack_words(const SignMap* map, const int32_t* words, uint8_t* data, int32_t first,
                         int32_t last);
void sign_map_unpack_words(const SignMap* map, const uint8_t* data, int32_t* words, int32_t first,
                           int32_t last);

/** LceDequantize: +1 and -1 of rows of packed words. Values are [pixels][channels]. */
void dequantize_words_to_floats(const int32_t* words, float* values, size_t pixels,
                                int32_t channels);
void dequantize_words_to_int8(const int32_t* words, int8_t* values, size_t pixels, int32_t channels,
                              int8_t plus_one, int8_t minus_one);

#endif

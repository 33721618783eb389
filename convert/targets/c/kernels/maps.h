/* Numbers in memory, as floats. */
#include <stddef.h>
#include <stdint.h>

#include "float16.h"
#include "signs.h"

typedef enum { FORMAT_FLOAT32, FORMAT_FLOAT16, FORMAT_INT8, FORMAT_UINT8, FORMAT_SIGNS } Format;

/* How a step reads its input. */
typedef struct {
  uint16_t in_height, in_width, in_channels;
  uint16_t channels; /* of what it computes */
  uint16_t window_height, window_width;
  uint16_t stride_y, stride_x;
  int16_t top, left;
  uint16_t dilation_y, dilation_x;
  uint16_t groups;
  uint16_t first_channel; /* of the input */
} Geometry;

/* The row or column of the input that a tap reads; it may be outside. */
HELPER int32_t row_of_tap(const Geometry *g, int32_t y, int32_t ky) {
  return y * g->stride_y - g->top + ky * g->dilation_y;
}

HELPER int32_t column_of_tap(const Geometry *g, int32_t x, int32_t kx) {
  return x * g->stride_x - g->left + kx * g->dilation_x;
}

HELPER int is_inside(const Geometry *g, int32_t y, int32_t x) {
  return y >= 0 && y < g->in_height && x >= 0 && x < g->in_width;
}

/* `n` channels of a pixel as floats, from `first` on: where they lie, or else in `room`. */
HELPER const float *channels_at(const Geometry *g, Format format, const void *map, int32_t y,
                                int32_t x, size_t first, size_t n, float *room) {
  const size_t pixel = (size_t)(y * g->in_width + x);
  const size_t at = pixel * g->in_channels + first;
  if (format == FORMAT_FLOAT32) return (const float *)map + at;
  if (format == FORMAT_FLOAT16) {
    const uint16_t *from = (const uint16_t *)map + at;
    for (size_t i = 0; i < n; i++) room[i] = from_float16(from[i]);
  } else if (format == FORMAT_UINT8) {
    const uint8_t *from = (const uint8_t *)map + at;
    for (size_t i = 0; i < n; i++) room[i] = (float)from[i];
  } else {
    const size_t bits = pixel_bits_of(g->in_channels);
    for (size_t i = 0; i < n; i++) {
      const uint32_t word = pixel_word((const uint32_t *)map, pixel, bits, (first + i) / 32);
      room[i] = (word >> ((first + i) % 32)) & 1 ? -1.f : 1.f;
    }
  }
  return room;
}

/* As `channels_at`, but 0 outside the map. */
HELPER const float *padded_channels(const Geometry *g, Format format, const void *map, int32_t y,
                                    int32_t x, size_t first, size_t n, float *room) {
  if (is_inside(g, y, x)) return channels_at(g, format, map, y, x, first, n, room);
  memset(room, 0, n * sizeof *room);
  return room;
}

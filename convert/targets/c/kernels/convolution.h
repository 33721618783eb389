/* Convolutions of floats. */
#include <string.h>

#include "maps.h"

/* Number `i` of the filters. */
static inline float weight(Format format, const void *filters, size_t i) {
  if (format == FORMAT_FLOAT32) return ((const float *)filters)[i];
  if (format == FORMAT_FLOAT16) return from_float16(((const uint16_t *)filters)[i]);
  if (format == FORMAT_INT8) return (float)((const int8_t *)filters)[i];
  return (((const uint32_t *)filters)[i / 32] >> (i % 32)) & 1 ? -1.f : 1.f;
}

/* What the window of output pixel (y, x) reads of some channels: where it lies, or else in `patch`,
 * in the order [ky, kx, channel]. */
static inline const float *window_of(const Geometry *g, Format format, const void *input, int32_t y,
                                     int32_t x, size_t first, size_t n, float *patch) {
  if (g->window_height == 1 && g->window_width == 1)
    return padded_channels(g, format, input, row_of_tap(g, y, 0), column_of_tap(g, x, 0), first, n,
                           patch);
  float *room = patch;
  for (int32_t ky = 0; ky < g->window_height; ky++)
    for (int32_t kx = 0; kx < g->window_width; kx++, room += n) {
      const float *from = padded_channels(g, format, input, row_of_tap(g, y, ky),
                                          column_of_tap(g, x, kx), first, n, room);
      if (from != room) memcpy(room, from, n * sizeof *room);
    }
  return patch;
}

/* The sums of output pixel (y, x). Filters of a group come in fours, so that what they read is
 * loaded once: [channel / 4, tap, channel % 4]; those that are left, one after another. */
static inline void convolution_sums(const Geometry *g, Format input_format, Format filter_format,
                                    const void *input, const void *filters, int32_t y, int32_t x,
                                    float *patch, float *sums) {
  const size_t depth = g->in_channels / g->groups, filters_of_group = g->channels / g->groups;
  const size_t taps = depth * g->window_height * g->window_width;
  size_t at = 0;
  for (size_t group = 0; group < g->groups; group++) {
    const float *a = window_of(g, input_format, input, y, x, group * depth, depth, patch);
    for (size_t four = 0; four < filters_of_group / 4; four++, sums += 4) {
      float s0 = 0.f, s1 = 0.f, s2 = 0.f, s3 = 0.f;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 2 /* a tenth fewer instructions */
#endif
      for (size_t i = 0; i < taps; i++, at += 4) {
        s0 += a[i] * weight(filter_format, filters, at);
        s1 += a[i] * weight(filter_format, filters, at + 1);
        s2 += a[i] * weight(filter_format, filters, at + 2);
        s3 += a[i] * weight(filter_format, filters, at + 3);
      }
      sums[0] = s0;
      sums[1] = s1;
      sums[2] = s2;
      sums[3] = s3;
    }
    for (size_t rest = 0; rest < filters_of_group % 4; rest++, sums++) {
      float s = 0.f;
      for (size_t i = 0; i < taps; i++, at++) s += a[i] * weight(filter_format, filters, at);
      *sums = s;
    }
  }
}

/* Convolutions of floats of a single input channel each. */
#include "convolution.h"

/* The sums of output pixel (y, x); filters lie in the order [ky, kx, channel]. */
static inline void depthwise_sums(const Geometry *g, Format input_format, Format filter_format,
                                  const void *input, const void *filters, int32_t y, int32_t x,
                                  float *room, float *sums) {
  const size_t multiplier = g->channels / g->in_channels;
  for (size_t c = 0; c < g->channels; c++) sums[c] = 0.f;
  size_t tap = 0;
  for (int32_t ky = 0; ky < g->window_height; ky++)
    for (int32_t kx = 0; kx < g->window_width; kx++, tap += g->channels) {
      const int32_t iy = row_of_tap(g, y, ky), ix = column_of_tap(g, x, kx);
      if (!is_inside(g, iy, ix)) continue;
      const float *a = channels_at(g, input_format, input, iy, ix, 0, g->in_channels, room);
      size_t c = 0;
      for (size_t i = 0; i < g->in_channels; i++)
        for (size_t j = 0; j < multiplier; j++, c++)
          sums[c] += a[i] * weight(filter_format, filters, tap + c);
    }
}

/* The largest of signs: -1 where all are. */
#include "maps.h"

static inline void largest_signs(const Geometry *g, const uint32_t *input, int32_t y, int32_t x,
                                 uint32_t *output, size_t pixel) {
  const size_t bits = pixel_bits_of(g->channels);
  for (size_t word = 0; word < (bits + 31) / 32; word++) {
    uint32_t all = UINT32_MAX;
    for (int32_t ky = 0; ky < g->window_height; ky++)
      for (int32_t kx = 0; kx < g->window_width; kx++) {
        const int32_t iy = row_of_tap(g, y, ky), ix = column_of_tap(g, x, kx);
        if (is_inside(g, iy, ix))
          all &= pixel_word(input, (size_t)(iy * g->in_width + ix), bits, word);
      }
    put_pixel_word(output, pixel, bits, word, all);
  }
}

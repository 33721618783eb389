/* The largest number of a window, without what is outside the map. */
#include "maps.h"

static inline void largest_of_window(const Geometry *g, Format format, const void *input, int32_t y,
                                     int32_t x, float *room, float *largest) {
  int is_first = 1;
  for (int32_t ky = 0; ky < g->window_height; ky++)
    for (int32_t kx = 0; kx < g->window_width; kx++) {
      const int32_t iy = row_of_tap(g, y, ky), ix = column_of_tap(g, x, kx);
      if (!is_inside(g, iy, ix)) continue;
      const float *a = channels_at(g, format, input, iy, ix, 0, g->channels, room);
      for (size_t c = 0; c < g->channels; c++)
        if (is_first || a[c] > largest[c]) largest[c] = a[c];
      is_first = 0;
    }
}

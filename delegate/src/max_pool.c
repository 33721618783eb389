#include "max_pool.h"

#include <stddef.h>

/** -1 is a set bit, so the maximum is -1 where all bits are set. */
static int32_t maximum(const PoolShape* s, const int32_t* input, int32_t y, int32_t x, int32_t k) {
  const int64_t top = (int64_t)y * s->stride_height - s->padding_top;
  const int64_t left = (int64_t)x * s->stride_width - s->padding_left;
  int32_t bits = -1;
  for (int64_t i = top < 0 ? 0 : top; i < top + s->filter_height && i < s->input_height; i++)
    for (int64_t j = left < 0 ? 0 : left; j < left + s->filter_width && j < s->input_width; j++)
      bits &=
          input[((size_t)i * (size_t)s->input_width + (size_t)j) * (size_t)s->words + (size_t)k];
  return bits;
}

void max_pool_words(const PoolShape* shape, const int32_t* input, int32_t* output, int32_t first,
                    int32_t last) {
  output += (size_t)first * (size_t)shape->output_width * (size_t)shape->words;
  for (int32_t y = first; y < last; y++)
    for (int32_t x = 0; x < shape->output_width; x++)
      for (int32_t k = 0; k < shape->words; k++) *output++ = maximum(shape, input, y, x, k);
}

/** LceBMaxPool2d: the maximum of signs that lie packed. */
#ifndef LARQ_ENSEMBLE_MAX_POOL_H_
#define LARQ_ENSEMBLE_MAX_POOL_H_

#include <stdint.h>

typedef struct {
  int32_t input_height, input_width, words; /* int32 words a pixel */
  int32_t output_height, output_width;
  int32_t filter_height, filter_width, stride_height, stride_width, padding_top, padding_left;
} PoolShape;

/** Rows [first, last) of int32 [output_height][output_width][words]. Taps outside the image don't
 * count. */
void max_pool_words(const PoolShape* shape, const int32_t* input, int32_t* output, int32_t first,
                    int32_t last);

#endif

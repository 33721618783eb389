/** Shapes of tensors, with sizes that can't overflow. */
#ifndef LARQ_ENSEMBLE_SHAPE_H_
#define LARQ_ENSEMBLE_SHAPE_H_

#include <stdbool.h>
#include <stdint.h>

#include "tflite.h"

enum { kMaxRank = 8 };

typedef struct {
  int32_t rank;  // -1: unknown
  int32_t dims[kMaxRank];
} Shape;

/** The shape of a tensor; false unless all sizes are known, positive and together below 2^31. */
bool shape_of(const TfLiteTensor* tensor, Shape* shape);

/** Whether all sizes are positive and their product is below 2^31. */
bool shape_valid(const Shape* shape);

/** The number of elements. */
int32_t shape_elements(const Shape* shape);

/** The last size; 1 of a scalar. */
int32_t shape_last(const Shape* shape);

/** Whether only the last size may differ from 1, as of a value a channel. */
bool shape_is_vector(const Shape* shape);

bool shape_equal(const Shape* a, const Shape* b);

#endif

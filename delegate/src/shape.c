#include "shape.h"

#include <string.h>

bool shape_of(const TfLiteTensor* tensor, Shape* shape) {
  *shape = (Shape){.rank = -1};
  if (tensor->dims == NULL || tensor->dims->size < 0 || tensor->dims->size > kMaxRank) {
    return false;
  }
  shape->rank = tensor->dims->size;
  for (int i = 0; i < shape->rank; i++) {
    shape->dims[i] = tensor->dims->data[i];
  }
  return shape_valid(shape);
}

bool shape_valid(const Shape* shape) {
  int64_t elements = 1;
  if (shape->rank < 0) {
    return false;
  }
  for (int i = 0; i < shape->rank; i++) {
    if (shape->dims[i] <= 0) {
      return false;
    }
    elements *= shape->dims[i];
    if (elements > INT32_MAX) {
      return false;
    }
  }
  return true;
}

int32_t shape_elements(const Shape* shape) {
  int32_t elements = 1;
  for (int i = 0; i < shape->rank; i++) {
    elements *= shape->dims[i];
  }
  return elements;
}

int32_t shape_last(const Shape* shape) {
  return shape->rank == 0 ? 1 : shape->dims[shape->rank - 1];
}

bool shape_is_vector(const Shape* shape) { return shape_elements(shape) == shape_last(shape); }

bool shape_equal(const Shape* a, const Shape* b) {
  return a->rank == b->rank && memcmp(a->dims, b->dims, (size_t)a->rank * sizeof a->dims[0]) == 0;
}

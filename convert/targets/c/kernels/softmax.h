#include <math.h>
#include <stddef.h>

/* exp(x_k) / sum_j exp(x_j); `from` and `to` may be the same. */
static void softmax(const float *from, size_t classes, float *to) {
  float largest = from[0], sum = 0.f;
  for (size_t k = 1; k < classes; k++)
    if (from[k] > largest) largest = from[k];
  for (size_t k = 0; k < classes; k++) {
    to[k] = expf(from[k] - largest);
    sum += to[k];
  }
  for (size_t k = 0; k < classes; k++) to[k] /= sum;
}

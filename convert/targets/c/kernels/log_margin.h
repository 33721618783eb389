#include <stddef.h>

#include "logarithm.h"

/* ln p_first - ln p_second of the two most probable classes; 0 for a single class. */
static float log_margin(const float *probabilities, size_t classes) {
  float first = probabilities[0], second = probabilities[0];
  for (size_t k = 1; k < classes; k++) {
    const float p = probabilities[k];
    if (p > first) {
      second = first;
      first = p;
    } else if (k == 1 || p > second) {
      second = p;
    }
  }
  return logarithm(first) - logarithm(second);
}

#include "softmax.h"

static void add_logits(float *sums, const float *logits, float weight, size_t classes,
                       float *room) {
  (void)room;
  for (size_t k = 0; k < classes; k++) sums[k] += weight * logits[k];
}

/* The softmax of the members' mean logits. */
static void combine(const float *sums, float weights, size_t classes, float *probabilities) {
  for (size_t k = 0; k < classes; k++) probabilities[k] = sums[k] / weights;
  softmax(probabilities, classes, probabilities);
}

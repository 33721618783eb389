#include "softmax.h"

static void add_logits(float *sums, const float *logits, float weight, size_t classes,
                       float *room) {
  softmax(logits, classes, room);
  for (size_t k = 0; k < classes; k++) sums[k] += weight * room[k];
}

/* The mean of the members' softmaxes. */
static void combine(const float *sums, float weights, size_t classes, float *probabilities) {
  for (size_t k = 0; k < classes; k++) probabilities[k] = sums[k] / weights;
}

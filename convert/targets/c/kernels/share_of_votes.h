#include <stddef.h>

static void add_logits(float *sums, const float *logits, float weight, size_t classes,
                       float *room) {
  size_t vote = 0;
  (void)room;
  for (size_t k = 1; k < classes; k++)
    if (logits[k] > logits[vote]) vote = k;
  sums[vote] += weight;
}

/* Each class's share of the members' votes. */
static void combine(const float *sums, float weights, size_t classes, float *probabilities) {
  for (size_t k = 0; k < classes; k++) probabilities[k] = sums[k] / weights;
}

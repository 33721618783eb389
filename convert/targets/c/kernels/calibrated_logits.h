#include "logarithm.h"
#include "softmax.h"

/* softmax(ln p / temperature) */
static void calibrate(float *probabilities, float temperature, size_t classes) {
  for (size_t k = 0; k < classes; k++) probabilities[k] = logarithm(probabilities[k]) / temperature;
  softmax(probabilities, classes, probabilities);
}

#include <math.h>

/* Of a probability, and of the smallest normal float instead of 0. */
static inline float logarithm(float p) { return logf(p < 0x1p-126f ? 0x1p-126f : p); }

/** Memory for what is planned: zeros, which nobody need set. */
#ifndef LARQ_ENSEMBLE_ZEROED_H_
#define LARQ_ENSEMBLE_ZEROED_H_

#include <stddef.h>
#include <stdlib.h>

/** An array of zeros with room for one element more; NULL if there is no memory. */
static inline void* zeroed(int count, size_t size) { return calloc((size_t)count + 1, size); }

#endif

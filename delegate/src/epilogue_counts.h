/** What binary_convolution.c needs of epilogue.c: steps that start from popcounts.
 *
 * The value of a count is `scale * (center - count)`: 2 and half the number of signs, or 1 and all
 * of them where the counts are doubled because that number is odd.
 */
#ifndef LARQ_ENSEMBLE_EPILOGUE_COUNTS_H_
#define LARQ_ENSEMBLE_EPILOGUE_COUNTS_H_

#include "epilogue.h"

typedef struct {
  uint16_t center, limit; /* counts lie in [0, limit] */
  float scale;
} CountRange;

/** Counts lie in rows of pixels of that many, a multiple of 16. */
size_t epilogue_channel_stride(int32_t channels);

void epilogue_begin_counts(const Epilogue* epilogue, CountRange range, void* prepared);

/** Rows [first, last), from counts [last - first][count_width][count_stride], count_width being the
 * width or more. */
void epilogue_rows_of_counts(const Epilogue* epilogue, const void* prepared, const uint16_t* counts,
                             size_t count_width, size_t count_stride, int32_t first, int32_t last);

#endif

/** Convolutions of signs with signs: sums of XNOR by popcounts, and what follows them (epilogue.h).
 *
 *     BinaryConvolution c = {.shape = {...}, .input = map};
 *     if (!binary_convolution_layout(&c, &epilogue, &error)) ...
 *     binary_convolution_prepare(&c, filters, memory);                   once; memory:
 * c.memory_bytes binary_convolution_begin(&c, &epilogue, prepared);                 each run;
 * prepared: c.prepared_bytes binary_convolution_rows(&c, &epilogue, prepared, signs, scratch, 0,
 * output_height);  a thread: scratch_bytes
 *
 * Nothing here allocates. All memory is the caller's, aligned to 64 bytes.
 */
#ifndef LARQ_ENSEMBLE_BINARY_CONVOLUTION_H_
#define LARQ_ENSEMBLE_BINARY_CONVOLUTION_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epilogue.h"
#include "sign_map.h"

typedef struct {
  int32_t groups; /* 1; else input channels of a group are a multiple of 32 */
  int32_t filter_height, filter_width;
  int32_t stride_height, stride_width;
  int32_t dilation_height, dilation_width;
  int32_t padding_top, padding_left;
  bool pads_with_ones; /* a tap outside the image counts as +1; else as 0 */
  int32_t output_height, output_width, output_channels;
} ConvolutionShape;

typedef struct {
  ConvolutionShape shape;
  SignMap input; /* laid out; its margin covers every tap, see binary_convolution_margin */
  /* Derived by binary_convolution_layout. */
  size_t memory_bytes, prepared_bytes, scratch_bytes;
  int32_t taps;         /* filter_height * filter_width */
  int32_t sum_limit;    /* taps * input channels of a group: sums lie in [-sum_limit, sum_limit] */
  int32_t rows_at_once; /* of outputs, whose popcounts are in scratch memory */
  size_t runs, filters, rows, columns, corrections; /* where each lies in the memory */
  int32_t column_zones;
  const struct Kernels* kernels; /* for this processor */
  /* Set by binary_convolution_prepare. */
  const uint8_t* memory;
} BinaryConvolution;

/** Grows the margin of a map that isn't laid out yet, so that the convolution finds all its taps in
 * it. */
void binary_convolution_margin(const ConvolutionShape* shape, SignMap* map);

/** Chooses the kernel and derives the sizes; false with a message if the shape makes no sense or is
 * too large. The epilogue's height, width, channels and kinds of steps count here, no pointers. */
bool binary_convolution_layout(BinaryConvolution* convolution, const Epilogue* epilogue,
                               const char** error);

/** Packs filters, int32 [output_channels][filter_height][filter_width][ceil(input channels of a
 * group / 32)]. */
void binary_convolution_prepare(BinaryConvolution* convolution, const int32_t* filters,
                                void* memory);

/** Once a run, before its rows: epilogue_begin, and the thresholds if nothing but signs is asked
 * for. */
void binary_convolution_begin(const BinaryConvolution* convolution, const Epilogue* epilogue,
                              void* prepared);

/** Rows [first, last) of the output. Threads may take different rows, each with scratch memory of
 * its own. */
void binary_convolution_rows(const BinaryConvolution* convolution, const Epilogue* epilogue,
                             const void* prepared, const uint8_t* signs, void* scratch,
                             int32_t first, int32_t last);

/** LceBconv2d's bit-packed outputs: `popcount > threshold` is the sign of `sum + offset`, for a
 * step ADD. */
void offsets_from_thresholds(const BinaryConvolution* convolution, const int32_t* thresholds,
                             float* offsets);

#endif

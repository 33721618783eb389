/* Popcounts of XORs for some rows of outputs and one block of output channels: the inner loops.
 *
 * A word holds 2, 4 or 8 bytes of a pixel's signs. A vector holds the words of several filters;
 * each is compared with one word of the input. Popcounts of bytes add up in bytes, at most 31 words
 * of them.
 */
#ifndef LARQ_ENSEMBLE_BINARY_KERNELS_H_
#define LARQ_ENSEMBLE_BINARY_KERNELS_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { kMaxWordsOfBytes = 31 };

/* Output channels of a block, by the bytes of a word. */
static inline int32_t block_channels(size_t word_bytes) { return word_bytes == 8 ? 8 : 16; }

/* Output pixels that a kernel computes at once: it writes counts for a multiple of them. */
static inline int32_t block_pixels(size_t word_bytes) { return word_bytes == 2 ? 8 : 4; }

/* Words that lie one after the other. Their popcounts stay in bytes up to a run that is the last
 * one of a group, or of all. */
typedef struct {
  uint64_t offset; /* bytes from the first tap's first word */
  int32_t words;
  bool last;
} Run;

typedef struct {
  const uint8_t* signs; /* first tap of the first output pixel */
  size_t pixel_step;    /* bytes from the first tap of a pixel to that of the next one */
  size_t row_step;      /* bytes from the first tap of a row of outputs to that of the next one */
  size_t tap_step;      /* bytes between the rows of taps; for Kernels.columns */
  int32_t tap_rows;     /* for Kernels.columns */
  int32_t rows, pixels; /* of outputs; pixels is a multiple of block_pixels */
  const Run* runs;      /* for Kernels.runs */
  int32_t run_count;
  const uint8_t* filters; /* [words][channels of the block] */
  uint16_t* counts;       /* [rows][pixels][count_stride] */
  size_t count_stride;    /* a multiple of 8 */
} KernelJob;

typedef void (*Kernel)(const KernelJob* job);

typedef struct Kernels {
  Kernel runs[3];       /* any convolution; by words of 2, 4 and 8 bytes */
  Kernel columns[2][3]; /* filters 3 wide, strides 1 and 2, one word a pixel: taps of several pixels
                           share columns */
} Kernels;

/* The kernels that this processor has, the fastest ones at index 0; NULL after the last ones. */
const Kernels* usable_kernels(int index);

#endif

/** What happens to the values of a convolution before they reach memory: an ordered list of steps.
 *
 * Each step is one operator of the graph, computed in float32 and rounded as if it stood alone: a
 * multiplication and the addition after it aren't contracted. A list that starts with MULTIPLY and
 * ADD is LceBconv2d with float outputs.
 *
 * Sums are exact, and MULTIPLY takes the sum itself. Larq Compute Engine multiplies twice the
 * popcount and adds `bias + multiplier * weights` instead, so its last bits may differ. Steps that
 * change no value are left out (times 1, plus 0), so -0.0 may stay what plus 0 makes 0.0. Where
 * only signs are stored, the values of a channel rise or fall with its sum, and sums are compared
 * with the one where the sign changes; the result is the same.
 */
#ifndef LARQ_ENSEMBLE_EPILOGUE_H_
#define LARQ_ENSEMBLE_EPILOGUE_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "sign_map.h"

enum { kMaxSteps = 12 };

typedef enum {
  kStepMultiply,   /* x * values[c] */
  kStepAdd,        /* x + values[c] */
  kStepPrelu,      /* x < 0 ? x * values[c] : x */
  kStepClamp,      /* min(max(x, low), high); RELU is (0, INFINITY) */
  kStepAddMap,     /* x + map[y][x][c] */
  kStepStore,      /* output[y][x][c] = x; x goes on */
  kStepStoreInt8,  /* round half away from zero, saturate; x goes on */
  kStepStoreSigns, /* the sign of x into a sign map; x goes on */
} StepKind;

typedef struct {
  StepKind kind;
  /* MULTIPLY, ADD, PRELU: one value a channel, or one for all if `one_value`. Read by
   * epilogue_begin only. */
  const float* values;
  bool one_value;
  float low, high;         /* CLAMP */
  const float* map;        /* ADD_MAP: [height][width][channels]; may be what STORE writes */
  float* output;           /* STORE */
  int8_t* quantized;       /* STORE_INT8 */
  const SignMap* sign_map; /* STORE_SIGNS */
  uint8_t* signs;
} Step;

typedef struct {
  int32_t height, width, channels;
  int32_t step_count;
  Step steps[kMaxSteps];
} Epilogue;

/** Bytes that epilogue_begin fills, aligned to 16; 0 if a size isn't possible. */
size_t epilogue_bytes(const Epilogue* epilogue);

/** Once a run, before its rows, when all `values` are there: copies them into `prepared`. */
void epilogue_begin(const Epilogue* epilogue, void* prepared);

/** The steps for rows [first, last) of a float map [height][width][channels], without a
 * convolution.
 */
void epilogue_rows(const Epilogue* epilogue, const void* prepared, const float* input,
                   int32_t first, int32_t last);

#endif

/*
 * What an exported ensemble takes on a processor: instructions, which QEMU's plugin instructions.c
 * counts between two calls of `mark`, and bytes of stack, which it prints.
 *
 *     counting PIXELS
 */
#include <stdint.h>
#include <stdio.h>

#include "ensemble.h"
#include "measuring.h"

enum { MEMBERS = ENSEMBLE_MEMBERS > 1 ? 2 : 1 };

static uint64_t arena[(ENSEMBLE_ARENA_BYTES + 7) / 8];
static uint8_t image[ENSEMBLE_HEIGHT * ENSEMBLE_WIDTH * ENSEMBLE_CHANNELS];
static float outputs[ENSEMBLE_CLASSES];

/* The bytes of stack that a prediction takes; negative: an error. */
__attribute__((noinline)) static int stack_bytes(void) {
  paint_stack();
#if ENSEMBLE_HAS_CASCADE
  int members = ensemble_predict_adaptive(arena, image, MEMBERS, outputs);
#else
  int members = ensemble_predict(arena, image, MEMBERS, outputs);
#endif
  return members < 0 ? members : used_stack(__builtin_frame_address(0));
}

int main(int argc, char **argv) {
  FILE *pixels = argc == 2 ? fopen(argv[1], "rb") : NULL;
  if (!pixels || fread(image, 1, sizeof image, pixels) != sizeof image) return 2;

  mark(), mark(); /* what a pair of marks counts itself */
  mark();
  int error = ensemble_begin(arena, image);
  mark(), mark();
  if (!error) error = ensemble_member(arena, 0, outputs);
  mark();
  if (error) return 1;

  int stack = stack_bytes();
  printf("%d\n", stack);
  return stack < 0;
}

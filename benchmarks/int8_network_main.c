/*
 * Runs an int8 network of cmsis_nn.py on a board. It prints the bytes of scratch memory of the
 * kernels and of stack, and the logits of each image in the file that is its argument. QEMU's
 * plugin counts the instructions of the first image between two calls of `mark`.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "int8_network.h"
#include "measuring.h"

enum { SCRATCH = 65536 };

static _Alignas(16) int8_t arena[INT8_ARENA_BYTES];
static _Alignas(16) uint8_t scratch[SCRATCH];
static uint8_t image[INT8_PIXELS];
static float logits[INT8_CLASSES];

int main(int argc, char **argv) {
  FILE *images = argc == 2 ? fopen(argv[1], "rb") : NULL;
  const int32_t bytes = int8_scratch_bytes();
  if (images == NULL || bytes > SCRATCH) return 1;
  size_t number = 0;
  for (; fread(image, 1, sizeof image, images) == sizeof image; number++) {
    if (number == 0) {
      mark(), mark(); /* what a pair of marks counts itself */
      paint_stack();
      mark();
    }
    const int error = int8_network(arena, scratch, bytes, image, logits);
    if (number == 0) {
      mark();
      printf("%ld %d\n", (long)bytes, used_stack(__builtin_frame_address(0)));
    }
    if (error) return 1;
    for (int c = 0; c < INT8_CLASSES; c++) printf("%.9g ", (double)logits[c]);
    printf("\n");
  }
  return number == 0;
}

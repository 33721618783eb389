/*
 * Runs an exported ensemble on the images of a file, bytes, and writes the logits of each member,
 * image by image, as floats of this machine's byte order.
 *
 *     logits IMAGES LOGITS
 */
#include <stdint.h>
#include <stdio.h>

#include "ensemble.h"

static uint64_t arena[(ENSEMBLE_ARENA_BYTES + 7) / 8];
static uint8_t image[ENSEMBLE_HEIGHT * ENSEMBLE_WIDTH * ENSEMBLE_CHANNELS];
static float logits[ENSEMBLE_CLASSES];

int main(int argc, char **argv) {
  FILE *images = argc == 3 ? fopen(argv[1], "rb") : NULL;
  FILE *out = argc == 3 ? fopen(argv[2], "wb") : NULL;
  if (!images || !out) return 2;
  while (fread(image, 1, sizeof image, images) == sizeof image) {
    if (ensemble_begin(arena, image) != ENSEMBLE_OK) return 1;
    for (unsigned member = 0; member < ENSEMBLE_MEMBERS; member++) {
      if (ensemble_member(arena, member, logits) != ENSEMBLE_OK) return 1;
      if (fwrite(logits, sizeof logits, 1, out) != 1) return 1;
    }
  }
  return fclose(out) != 0;
}

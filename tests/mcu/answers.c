/*
 * Runs an exported ensemble on the images of a file and writes what it answers, as floats of this
 * machine's byte order, image by image:
 *
 *     the logits of each member, from the last to the first
 *     the probabilities of the first m members, for each m
 *     how many members ran adaptively, and their probabilities, if there is a cascade
 *
 *     answers IMAGES ANSWERS
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ensemble.h"

enum { GUARD = 256, GARBAGE = 0xa5, PIXELS = ENSEMBLE_HEIGHT * ENSEMBLE_WIDTH * ENSEMBLE_CHANNELS };

/* Room for two arenas, each with a guard on both sides. */
static uint64_t memory[2][(GUARD + ENSEMBLE_ARENA_BYTES + GUARD + 7) / 8];
static uint8_t images[2][PIXELS];
static FILE *out;

static void fail(const char *what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void *arena(int index) { return (uint8_t *)memory[index] + GUARD; }

static void put(const float *values) {
  if (fwrite(values, sizeof *values, ENSEMBLE_CLASSES, out) != ENSEMBLE_CLASSES) fail("write");
}

static void check_guards(void) {
  for (int index = 0; index < 2; index++) {
    const uint8_t *before = (const uint8_t *)memory[index];
    const uint8_t *after = before + GUARD + ENSEMBLE_ARENA_BYTES;
    for (int i = 0; i < GUARD; i++)
      if (before[i] != GARBAGE || after[i] != GARBAGE) fail("It wrote outside the arena.");
  }
}

/* What one image gives in one arena, while another image is in the other. */
static void answer(const uint8_t *image) {
  float values[ENSEMBLE_CLASSES];
  if (ensemble_begin(arena(0), image) != ENSEMBLE_OK) fail("begin");
  if (ensemble_begin(arena(1), images[1]) != ENSEMBLE_OK) fail("begin");
  for (unsigned member = ENSEMBLE_MEMBERS; member-- > 0;) {
    if (ensemble_member(arena(0), member, values) != ENSEMBLE_OK) fail("member");
    put(values);
  }
  if (ensemble_begin(arena(0), image) != ENSEMBLE_OK) fail("begin");
  for (int members = 1; members <= ENSEMBLE_MEMBERS; members++) {
    if (ensemble_next(arena(0), values) != members) fail("next");
    put(values);
  }
#if ENSEMBLE_HAS_CASCADE
  int ran = ensemble_predict_adaptive(arena(0), image, ENSEMBLE_MEMBERS, values);
  if (ran < 1) fail("predict_adaptive");
  float count[ENSEMBLE_CLASSES] = {(float)ran};
  put(count);
  put(values);
#endif
  if (ensemble_predict(arena(1), image, 1, values) != 1) fail("predict");
  check_guards();
}

int main(int argc, char **argv) {
  if (argc != 3) fail("answers IMAGES ANSWERS");
  FILE *in = fopen(argv[1], "rb");
  out = fopen(argv[2], "wb");
  if (!in || !out) fail("can't open a file");
  memset(memory, GARBAGE, sizeof memory);
  while (fread(images[0], 1, PIXELS, in) == PIXELS) {
    answer(images[0]);
    memcpy(images[1], images[0], PIXELS);
  }
  fclose(in);
  return fclose(out) ? 1 : 0;
}

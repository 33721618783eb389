/* An ensemble of binarized neural networks that share their filters.
 *
 * @summary@
 *
 *     #include "ensemble.h"
 *
 *     static uint64_t arena[ENSEMBLE_ARENA_BYTES / sizeof(uint64_t)];
 *     float probabilities[ENSEMBLE_CLASSES];
 *
 *     ensemble_predict(arena, image, ENSEMBLE_MEMBERS, probabilities);
 *
 * or member by member, as long as there is energy:
 *
 *     int members = ensemble_begin(arena, image);
 *     while (members >= 0 && members < ENSEMBLE_MEMBERS && there_is_energy())
 *       members = ensemble_next(arena, probabilities);
 *
 * All state is in the arena, so images may be classified at the same time in several arenas. There
 * is no global state, no allocation and no recursion. Written by larq-ensemble; don't edit. */
#ifndef ENSEMBLE_H
#define ENSEMBLE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* @sizes@ */

/* What the functions return: 0 or a number of members, or one of these. */
enum {
  ENSEMBLE_OK = 0,
  ENSEMBLE_BAD_ARENA = -1,     /* NULL, or not aligned to ENSEMBLE_ARENA_ALIGNMENT */
  ENSEMBLE_BAD_ARGUMENT = -2,  /* another pointer is NULL, or a number is out of range */
  ENSEMBLE_NOT_BEGUN = -3,     /* call ensemble_begin with this arena first */
  ENSEMBLE_NO_MEMBER_LEFT = -4 /* ensemble_next has run all members */
};

/* Computes what the members share.
 *
 * arena: ENSEMBLE_ARENA_BYTES of memory, aligned to ENSEMBLE_ARENA_ALIGNMENT. It holds all there is
 *     to know about this image until the next call with it; what it held before doesn't matter.
 * image: ENSEMBLE_HEIGHT x ENSEMBLE_WIDTH pixels from 0 to 255, in the order [row, column,
 *     channel]. With ENSEMBLE_KEEPS_IMAGE it must stay as it is until the last member has run.
 *
 * Returns ENSEMBLE_OK, ENSEMBLE_BAD_ARENA or ENSEMBLE_BAD_ARGUMENT: then no member runs. */
int ensemble_begin(void *arena, const uint8_t *image);

/* Runs one member, after ensemble_begin, in any order and as often as you like. It doesn't count
 * for ensemble_next.
 *
 * member: from 0 to ENSEMBLE_MEMBERS - 1.
 * logits: takes ENSEMBLE_CLASSES numbers.
 *
 * Returns ENSEMBLE_OK or an error. */
int ensemble_member(void *arena, unsigned member, float *logits);

/* Runs the next member, from 0 on, and combines it with those before.
 *
 * probabilities: takes ENSEMBLE_CLASSES numbers that sum to 1: the prediction of all members that
 *     have run since ensemble_begin.
 *
 * Returns how many that are, or an error. */
int ensemble_next(void *arena, float *probabilities);

/* ensemble_begin, and ensemble_next for some members.
 *
 * members: from 1 to ENSEMBLE_MEMBERS.
 *
 * Returns how many ran, which is `members`, or an error. */
int ensemble_predict(void *arena, const uint8_t *image, unsigned members, float *probabilities);

#if ENSEMBLE_HAS_CASCADE
/* As ensemble_predict, but stops as soon as the prediction is confident: when the log margin
 * between the two most probable classes reaches the threshold in the file for so many members.
 *
 * members: the most to run, from 1 to ENSEMBLE_MEMBERS.
 *
 * Returns how many ran, or an error. */
int ensemble_predict_adaptive(void *arena, const uint8_t *image, unsigned members,
                              float *probabilities);
#endif

#ifdef __cplusplus
}
#endif

#endif /* ENSEMBLE_H */

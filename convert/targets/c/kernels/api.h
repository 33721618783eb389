/* What lies in the arena behind the maps, between calls. */
typedef struct {
  union {
    const uint8_t *pointer;
    uint64_t room; /* as large on every machine */
  } image;
  uint32_t begun;
  uint32_t members; /* that `ensemble_next` has run */
  float weights;    /* the sum of theirs */
  float sums[ENSEMBLE_CLASSES];
} State;

enum { kBegun = 0x6e75424e }; /* unlikely to be there by chance */

static State *state_of(void *arena) { return at(arena, STATE_OFFSET); }

static int check(void *arena) {
  if (arena == NULL || (uintptr_t)arena % ENSEMBLE_ARENA_ALIGNMENT != 0) return ENSEMBLE_BAD_ARENA;
  return state_of(arena)->begun == kBegun ? ENSEMBLE_OK : ENSEMBLE_NOT_BEGUN;
}

int ensemble_begin(void *arena, const uint8_t *image) {
  if (check(arena) == ENSEMBLE_BAD_ARENA) return ENSEMBLE_BAD_ARENA;
  State *state = state_of(arena);
  memset(state, 0, sizeof *state); /* first, so that no member runs on the image before */
  if (image == NULL) return ENSEMBLE_BAD_ARGUMENT;
  state->image.pointer = image;
  shared_steps(arena, image);
  state->begun = kBegun;
  return ENSEMBLE_OK;
}

int ensemble_member(void *arena, unsigned member, float *logits) {
  const int error = check(arena);
  if (error != ENSEMBLE_OK) return error;
  if (member >= ENSEMBLE_MEMBERS || logits == NULL) return ENSEMBLE_BAD_ARGUMENT;
  member_steps(arena, state_of(arena)->image.pointer, member);
  memcpy(logits, at(arena, LOGITS_OFFSET), ENSEMBLE_CLASSES * sizeof *logits);
  return ENSEMBLE_OK;
}

int ensemble_next(void *arena, float *probabilities) {
  const int error = check(arena);
  if (error != ENSEMBLE_OK) return error;
  if (probabilities == NULL) return ENSEMBLE_BAD_ARGUMENT;
  State *state = state_of(arena);
  const uint32_t member = state->members;
  if (member >= ENSEMBLE_MEMBERS) return ENSEMBLE_NO_MEMBER_LEFT;
  member_steps(arena, state->image.pointer, member);
  const float *logits = at(arena, LOGITS_OFFSET);
  add_logits(state->sums, logits, WEIGHT_OF(member), ENSEMBLE_CLASSES, probabilities);
  state->weights += WEIGHT_OF(member);
  state->members++;
  combine(state->sums, state->weights, ENSEMBLE_CLASSES, probabilities);
  CALIBRATE(probabilities, member);
  return (int)state->members;
}

int ensemble_predict(void *arena, const uint8_t *image, unsigned members, float *probabilities) {
  if (members < 1 || members > ENSEMBLE_MEMBERS || probabilities == NULL)
    return ENSEMBLE_BAD_ARGUMENT;
  int count = ensemble_begin(arena, image);
  while (count >= 0 && (unsigned)count < members) count = ensemble_next(arena, probabilities);
  return count;
}

#if ENSEMBLE_HAS_CASCADE
int ensemble_predict_adaptive(void *arena, const uint8_t *image, unsigned members,
                              float *probabilities) {
  if (members < 1 || members > ENSEMBLE_MEMBERS || probabilities == NULL)
    return ENSEMBLE_BAD_ARGUMENT;
  int count = ensemble_begin(arena, image);
  while (count >= 0 && (unsigned)count < members) {
    count = ensemble_next(arena, probabilities);
    if (count > 0 && count < ENSEMBLE_MEMBERS &&
        log_margin(probabilities, ENSEMBLE_CLASSES) >= THRESHOLD_AFTER(count))
      break;
  }
  return count;
}
#endif

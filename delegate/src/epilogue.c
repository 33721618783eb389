#include "epilogue.h"

#include <math.h>
#include <string.h>

#include "epilogue_counts.h"
#include "simd.h"

/* Steps as they are computed: some of the caller's have cheaper forms for some values. */
enum {
  kPreluAsMaximum = kStepStoreSigns + 1, /* max(x, x * values[c]), for slopes in (0, 1] */
  kMaximum,                              /* max(x, low): a clamp without an upper end */
  kThresholds,                           /* (count > thresholds[c]) ^ flips[c] as signs: all there is */
  kEnd,
};

enum {
  kChunk = 16,                   /* channels that are computed at once */
  kMaxPrepared = kMaxSteps + 2, /* with the scale of counts and the end */
};

typedef struct {
  int32_t kind, from; /* kind; index in the epilogue */
  const float* values;
} PreparedStep;

typedef struct {
  int32_t count;
  uint16_t center;
  PreparedStep steps[kMaxPrepared];
  uint16_t *thresholds, *flips;
} Prepared;

/* A step with what it reads and writes: whole maps, for they are read at one index. */
typedef struct {
  int32_t kind;
  const float* values;
  float low, high;
  const float* map;
  float* output;
  int8_t* quantized;
  uint8_t* signs; /* pixel (0, 0) */
  size_t row_bytes, pixel_bytes;
} LoadedStep;

/* Pixels of a row that lie beside each other, and 16 channels or fewer of them. */
typedef struct {
  const uint16_t* counts; /* of the row; or NULL, */
  const float* input;     /* then this map */
  uint16_t center;
  size_t count_stride;
  size_t width, channels;
  size_t y, x, c;
  size_t n; /* channels from c on: the last chunk may be smaller */
} Tile;

size_t epilogue_channel_stride(int32_t channels) { return ((size_t)channels + kChunk - 1) / kChunk * kChunk; }

static size_t round_up(size_t n) { return (n + 63) & ~(size_t)63; }

static bool has_values(StepKind kind) { return kind == kStepMultiply || kind == kStepAdd || kind == kStepPrelu; }

size_t epilogue_bytes(const Epilogue* epilogue) {
  if (epilogue->height < 1 || epilogue->width < 1 || epilogue->channels < 1) return 0;
  if (epilogue->step_count < 0 || epilogue->step_count > kMaxSteps) return 0;
  const uint64_t limit = (uint64_t)(PTRDIFF_MAX / 64);
  uint64_t row = (uint64_t)epilogue->width * (uint64_t)epilogue->channels;
  if (row > limit || (uint64_t)epilogue->height > limit / row) return 0;
  /* A vector a step, one for the scale, one for thresholds and flips. */
  size_t vectors = (size_t)epilogue->step_count + 2;
  return round_up(sizeof(Prepared)) + vectors * epilogue_channel_stride(epilogue->channels) * sizeof(float);
}

/* -- a tile ------------------------------------------------------------------------------------------------------- */

ALWAYS_INLINE Float4 load_part(const float* from, size_t n) {
  float part[4] = {0};
  for (size_t i = 0; i < n; i++) part[i] = from[i];
  return load_floats(part);
}

ALWAYS_INLINE void store_part(float* to, Float4 v, size_t n) {
  float part[4];
  store_floats(part, v);
  for (size_t i = 0; i < n; i++) to[i] = part[i];
}

static int8_t rounded(float x) {
  if (!(x > -128.f)) return x == x ? -128 : 0;
  return x >= 127.f ? 127 : (int8_t)roundf(x);
}

/* `n` channels of each pixel, from 16 floats a pixel. */
static void store_rounded(int8_t* to, const float* values, const Tile* t, int pixels) {
  for (int p = 0; p < pixels; p++, to += t->channels, values += kChunk)
    for (size_t i = 0; i < t->n; i++) to[i] = rounded(values[i]);
}

/* All steps of a tile, whose values stay in registers. `pixels` (1 or 4) and `whole` (n is 16) are constants. */
ALWAYS_INLINE void run_tile(const LoadedStep* steps, const Tile* t, const int pixels, const bool whole,
                            const bool from_counts) {
  Float4 v[16];
  const size_t at = (t->y * t->width + t->x) * t->channels + t->c;
#define EACH UNROLL for (int i = 0; i < 4 * pixels; i++)
#define MAP_OFFSET (at + (size_t)(i / 4) * t->channels + (size_t)(i % 4) * 4)
#define PART (t->n < 4 * (size_t)(i % 4) ? 0 : t->n < 4 * (size_t)(i % 4) + 4 ? t->n - 4 * (size_t)(i % 4) : 4)
  if (from_counts) {
    UNROLL for (int i = 0; i < 2 * pixels; i++) {
      const size_t pixel = t->x + (size_t)(i / 2);
      Short8 counts = load_shorts(t->counts + pixel * t->count_stride + t->c + (size_t)(i % 2) * 8);
      v[2 * i] = centered(counts, 0, t->center);
      v[2 * i + 1] = centered(counts, 1, t->center);
    }
  } else {
    EACH v[i] = whole ? load_floats(t->input + MAP_OFFSET) : load_part(t->input + MAP_OFFSET, PART);
  }
  for (const LoadedStep* s = steps;; s++) {
    const float* values = s->values + t->c;
    switch (s->kind) {
      case kStepMultiply:
        EACH v[i] *= load_floats(values + 4 * (i % 4));
        break;
      case kStepAdd:
        EACH v[i] += load_floats(values + 4 * (i % 4));
        break;
      case kStepPrelu:
        EACH v[i] = select_floats(v[i] < 0.f, v[i] * load_floats(values + 4 * (i % 4)), v[i]);
        break;
      case kPreluAsMaximum:
        EACH v[i] = larger_number(v[i], v[i] * load_floats(values + 4 * (i % 4)));
        break;
      case kStepClamp: {
        const Float4 low = s->low - (Float4){0}, high = s->high - (Float4){0};
        EACH {
          v[i] = select_floats(v[i] < low, low, v[i]);
          v[i] = select_floats(v[i] > high, high, v[i]);
        }
        break;
      }
      case kMaximum: {
        const Float4 low = s->low - (Float4){0};
        EACH v[i] = select_floats(v[i] < low, low, v[i]);
        break;
      }
      case kStepAddMap:
        EACH v[i] += whole ? load_floats(s->map + MAP_OFFSET) : load_part(s->map + MAP_OFFSET, PART);
        break;
      case kStepStore:
        if (whole) {
          EACH store_floats(s->output + MAP_OFFSET, v[i]);
        } else {
          EACH store_part(s->output + MAP_OFFSET, v[i], PART);
        }
        break;
      case kStepStoreInt8: {
        float values[4 * kChunk];
        EACH store_floats(values + 4 * i, v[i]);
        store_rounded(s->quantized + at, values, t, pixels);
        break;
      }
      case kStepStoreSigns: {
        Mask8 masks[8];
        UNROLL for (int i = 0; i < 2 * pixels; i++) masks[i] = joined(v[2 * i] < 0.f, v[2 * i + 1] < 0.f);
        uint64_t bits = bits_of_masks(masks, pixels);
        if (!whole) bits &= (UINT64_C(1) << t->n) - 1;
        uint8_t* to = s->signs + t->y * s->row_bytes + t->x * s->pixel_bytes + t->c / 8;
        if (pixels == 4 && s->pixel_bytes == 2) {
          memcpy(to, &bits, 8);
        } else {
          UNROLL for (int p = 0; p < pixels; p++, to += s->pixel_bytes) {
            uint16_t word = (uint16_t)(bits >> (16 * p));
            memcpy(to, &word, 2);
          }
        }
        break;
      }
      default: /* kEnd */
        return;
    }
  }
#undef EACH
#undef MAP_OFFSET
#undef PART
}

/* Pixels [x, end) of a row, `pixels` at once. */
ALWAYS_INLINE void run_tiles(const LoadedStep* steps, Tile* t, size_t end, const int pixels, const bool from_counts) {
  for (; t->x + (size_t)pixels <= end; t->x += (size_t)pixels) {
    t->n = kChunk;
    for (t->c = 0; t->c + kChunk <= t->channels; t->c += kChunk) run_tile(steps, t, pixels, true, from_counts);
    if (t->c == t->channels) continue;
    t->n = t->channels - t->c;
    Tile part = *t;
    for (int p = 0; p < pixels; p++, part.x++) run_tile(steps, &part, 1, false, from_counts);
  }
}

/* -- rows --------------------------------------------------------------------------------------------------------- */

/* The prepared steps with the maps of this run. */
static void load_steps(const Epilogue* e, const Prepared* prepared, LoadedStep* steps) {
  for (int32_t i = 0; i < prepared->count; i++) {
    const PreparedStep* p = &prepared->steps[i];
    const Step* s = &e->steps[p->from < 0 ? 0 : p->from];
    steps[i] = (LoadedStep){.kind = p->kind, .values = p->values, .low = s->low, .high = s->high};
    steps[i].map = s->map;
    steps[i].output = s->output;
    steps[i].quantized = s->quantized;
    if (s->kind != kStepStoreSigns) continue;
    steps[i].signs = s->signs + sign_map_offset(s->sign_map, 0, 0);
    steps[i].row_bytes = s->sign_map->row_bytes;
    steps[i].pixel_bytes = s->sign_map->pixel_bytes;
  }
  steps[prepared->count].kind = kEnd;
}

static void run_row_of_counts(const LoadedStep* steps, Tile t) {
  run_tiles(steps, &t, t.width, 4, true);
  run_tiles(steps, &t, t.width, 1, true);
}

static void run_row_of_floats(const LoadedStep* steps, Tile t) {
  run_tiles(steps, &t, t.width, 4, false);
  run_tiles(steps, &t, t.width, 1, false);
}

/* Signs of a row by comparing counts. */
ALWAYS_INLINE void compare_tile(const Prepared* prepared, const uint16_t* counts, size_t stride, size_t c, uint8_t* to,
                                const int pixels, uint64_t mask) {
  Mask8 masks[8];
  UNROLL for (int i = 0; i < 2 * pixels; i++) {
    const size_t at = c + (size_t)(i % 2) * 8;
    const Short8 n = load_shorts(counts + (size_t)(i / 2) * stride + at);
    masks[i] = (Mask8)(n > load_shorts(prepared->thresholds + at)) ^ (Mask8)load_shorts(prepared->flips + at);
  }
  const uint64_t bits = bits_of_masks(masks, pixels) & mask;
  memcpy(to, &bits, pixels == 4 ? 8 : 2);
}

static void compare_row(const Prepared* prepared, const LoadedStep* step, const Tile* t) {
  const size_t rest = t->channels % kChunk;
  const uint64_t last = rest ? (UINT64_C(1) << rest) - 1 : UINT16_MAX;
  const uint16_t* counts = t->counts;
  uint8_t* to = step->signs + t->y * step->row_bytes;
  size_t x = 0;
  if (step->pixel_bytes == 2)
    for (; x + 4 <= t->width; x += 4, counts += 4 * t->count_stride, to += 8)
      compare_tile(prepared, counts, t->count_stride, 0, to, 4, last * UINT64_C(0x0001000100010001));
  for (; x < t->width; x++, counts += t->count_stride, to += step->pixel_bytes) {
    size_t c = 0;
    for (; c + kChunk < t->channels; c += kChunk)
      compare_tile(prepared, counts, t->count_stride, c, to + c / 8, 1, UINT16_MAX);
    compare_tile(prepared, counts, t->count_stride, c, to + c / 8, 1, last);
  }
}

static Tile tile_of(const Epilogue* e) { return (Tile){.width = (size_t)e->width, .channels = (size_t)e->channels}; }

void epilogue_rows(const Epilogue* epilogue, const void* prepared, const float* input, int32_t first, int32_t last) {
  LoadedStep steps[kMaxPrepared];
  load_steps(epilogue, prepared, steps);
  Tile t = tile_of(epilogue);
  t.input = input;
  for (t.y = (size_t)first; t.y < (size_t)last; t.y++) run_row_of_floats(steps, t);
}

void epilogue_rows_of_counts(const Epilogue* epilogue, const void* prepared, const uint16_t* counts,
                             size_t count_width, size_t count_stride, int32_t first, int32_t last) {
  LoadedStep steps[kMaxPrepared];
  load_steps(epilogue, prepared, steps);
  const Prepared* p = prepared;
  Tile t = tile_of(epilogue);
  t.counts = counts;
  t.count_stride = count_stride;
  t.center = p->center;
  for (t.y = (size_t)first; t.y < (size_t)last; t.y++, t.counts += count_width * count_stride) {
    if (steps[0].kind == kThresholds) {
      compare_row(p, steps, &t);
    } else {
      run_row_of_counts(steps, t);
    }
  }
}

/* -- a run -------------------------------------------------------------------------------------------------------- */

static bool all_are(const float* values, size_t n, float value) {
  for (size_t i = 0; i < n; i++)
    if (values[i] != value) return false;
  return true;
}

static bool all_within(const float* values, size_t n, float above, float upto) {
  for (size_t i = 0; i < n; i++)
    if (!(values[i] > above && values[i] <= upto)) return false;
  return true;
}

/* Appends step `from` with its vector, unless it changes nothing. Returns the free memory after it. */
static float* add_step(Prepared* prepared, const Epilogue* e, int32_t from, float scale, float* memory) {
  const Step* s = &e->steps[from];
  const size_t n = (size_t)e->channels;
  PreparedStep p = {.kind = (int32_t)s->kind, .from = from, .values = memory};
  if (s->kind == kStepClamp && s->high == INFINITY) p.kind = kMaximum;
  if (has_values(s->kind)) {
    for (size_t i = 0; i < n; i++) memory[i] = s->values[s->one_value ? 0 : i] * scale;
    for (size_t i = n; i < epilogue_channel_stride(e->channels); i++) memory[i] = 0.f;
    if (s->kind == kStepMultiply && all_are(memory, n, 1.f)) return memory;
    if (s->kind == kStepAdd && all_are(memory, n, 0.f)) return memory;
    if (s->kind == kStepPrelu && all_within(memory, n, 0.f, 1.f)) p.kind = kPreluAsMaximum;
    memory += epilogue_channel_stride(e->channels);
  }
  prepared->steps[prepared->count++] = p;
  return memory;
}

static float* add_scale(Prepared* prepared, const Epilogue* e, float scale, float* memory) {
  const size_t stride = epilogue_channel_stride(e->channels);
  for (size_t i = 0; i < stride; i++) memory[i] = scale;
  prepared->steps[prepared->count++] = (PreparedStep){.kind = kStepMultiply, .from = -1, .values = memory};
  return memory + stride;
}

static float* add_steps(Prepared* prepared, const Epilogue* e, float scale) {
  float* memory = (float*)((char*)prepared + round_up(sizeof *prepared));
  prepared->count = 0;
  prepared->center = 0;
  const bool multiplies = e->step_count > 0 && e->steps[0].kind == kStepMultiply;
  if (scale != 1.f && !multiplies) memory = add_scale(prepared, e, scale, memory);
  for (int32_t i = 0; i < e->step_count; i++)
    memory = add_step(prepared, e, i, i == 0 && multiplies ? scale : 1.f, memory);
  return memory;
}

void epilogue_begin(const Epilogue* epilogue, void* prepared) { add_steps(prepared, epilogue, 1.f); }

/* -- thresholds --------------------------------------------------------------------------------------------------- */

/* Whether the only result is signs of a function that rises or falls with the count. */
static bool only_signs(const Prepared* prepared, const Epilogue* e) {
  const int32_t last = prepared->count - 1;
  if (last < 0 || prepared->steps[last].kind != kStepStoreSigns) return false;
  for (int32_t i = 0; i < last; i++) {
    const PreparedStep* p = &prepared->steps[i];
    if (p->kind == kStepPrelu) {
      for (int32_t c = 0; c < e->channels; c++)
        if (!(p->values[c] >= 0.f)) return false;
    } else if (p->kind == kStepAddMap || p->kind == kStepStore || p->kind == kStepStoreInt8 ||
               p->kind == kStepStoreSigns) {
      return false;
    }
  }
  return true;
}

/* Evaluates the steps before the signs for 16 channels, each with its own count. */
static void values_of_counts(const LoadedStep* steps, Tile t, const Short8* counts, float* values) {
  t.counts = (const uint16_t*)counts - t.c;
  LoadedStep stored[kMaxPrepared];
  size_t n = 0;
  for (; steps[n].kind != kStepStoreSigns; n++) stored[n] = steps[n];
  stored[n] = (LoadedStep){.kind = kStepStore, .values = steps[n].values, .output = values - t.c};
  stored[n + 1] = (LoadedStep){.kind = kEnd};
  run_tile(stored, &t, 1, true, true);
}

static void signs_of_values(const float* values, Mask8* signs) {
  for (int k = 0; k < 2; k++)
    signs[k] = joined(load_floats(values + 8 * k) < 0.f, load_floats(values + 8 * k + 4) < 0.f);
}

static bool any_nan(const float* values) {
  bool nan = false;
  for (int i = 0; i < kChunk; i++) nan |= values[i] != values[i];
  return nan;
}

/* Finds, by bisection over counts, where the signs of 16 channels change; false if a value is NaN. */
static bool find_thresholds(Prepared* prepared, const LoadedStep* steps, Tile t, uint16_t limit) {
  float values[kChunk];
  Mask8 first[2], last[2], signs[2];
  Short8 low[2], high[2], middle[2];
  for (int k = 0; k < 2; k++) {
    low[k] = (Short8){0};
    high[k] = limit - (Short8){0};
  }
  values_of_counts(steps, t, low, values);
  if (any_nan(values)) return false;
  signs_of_values(values, first);
  values_of_counts(steps, t, high, values);
  if (any_nan(values)) return false;
  signs_of_values(values, last);
  /* Invariant: the sign at `low` is the first one, that at `high` isn't, if it changes at all. */
  for (uint32_t span = limit; span > 1; span = (span + 1) / 2) {
    for (int k = 0; k < 2; k++) middle[k] = low[k] + ((high[k] - low[k]) >> 1);
    values_of_counts(steps, t, middle, values);
    signs_of_values(values, signs);
    for (int k = 0; k < 2; k++) {
      const Mask8 changed = signs[k] ^ first[k];
      low[k] = select_shorts(changed, low[k], middle[k]);
      high[k] = select_shorts(changed, middle[k], high[k]);
    }
  }
  for (int k = 0; k < 2; k++) {
    const Short8 never = UINT16_MAX - (Short8){0};
    store_shorts(prepared->thresholds + t.c + (size_t)k * 8, select_shorts(first[k] ^ last[k], low[k], never));
    store_shorts(prepared->flips + t.c + (size_t)k * 8, (Short8)first[k]);
  }
  return true;
}

void epilogue_begin_counts(const Epilogue* epilogue, CountRange range, void* memory) {
  Prepared* prepared = memory;
  float* rest = add_steps(prepared, epilogue, range.scale);
  prepared->center = range.center;
  if (!only_signs(prepared, epilogue)) return;
  const size_t stride = epilogue_channel_stride(epilogue->channels);
  prepared->thresholds = (uint16_t*)rest;
  prepared->flips = prepared->thresholds + stride;
  LoadedStep steps[kMaxPrepared];
  load_steps(epilogue, prepared, steps);
  Tile t = {.center = range.center, .n = kChunk};
  for (t.c = 0; t.c < stride; t.c += kChunk)
    if (!find_thresholds(prepared, steps, t, range.limit)) return;
  prepared->steps[0] = (PreparedStep){.kind = kThresholds, .from = prepared->steps[prepared->count - 1].from};
  prepared->count = 1;
}

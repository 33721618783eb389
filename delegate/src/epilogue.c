#include "epilogue.h"

/* gcc computes all addresses of a tile ahead, more than it has registers for, unless it's kept from
 * that (measured with gcc 12: 5 % more instructions). */
#if defined(__GNUC__) && !defined(__clang__) && defined(__aarch64__)
#pragma GCC optimize("O2", "no-schedule-insns", "no-tree-pre", "no-code-hoisting", "no-ivopts")
#endif

#include <math.h>
#include <string.h>

#include "epilogue_counts.h"
#include "simd.h"

/* Steps as they are computed: some of the caller's have cheaper forms for some values. */
enum {
  kPreluAsMaximum = kStepStoreSigns + 1, /* max(x, x * values[c]), for slopes in (0, 1] */
  kMaximum,                              /* max(x, low): a clamp without an upper end */
  kThresholds, /* (count > thresholds[c]) ^ flips[c] as signs: all there is */
  kEnd,
};

enum {
  kChunk = 16,                  /* channels that are computed at once */
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
  uint16_t* thresholds; /* of each channel */
  uint16_t* flips;      /* a bit a channel */
} Prepared;

/* A step with what it reads or writes of the row that is being computed. */
typedef struct {
  int32_t kind;
  float low, high;
  const float* values;
  union {
    const float* map;
    float* output;
    int8_t* quantized;
    uint8_t* signs;
  } row;
  size_t pixel_bytes; /* of signs */
  size_t row_bytes;
} LoadedStep;

/* A row of values before the steps. */
typedef struct {
  const uint16_t* counts;
  size_t count_stride;
  uint16_t center;
  const float* floats; /* instead of counts */
  size_t width, channels;
} Row;

size_t epilogue_channel_stride(int32_t channels) {
  return ((size_t)channels + kChunk - 1) / kChunk * kChunk;
}

static size_t round_up(size_t n) { return (n + 63) & ~(size_t)63; }

static bool has_values(StepKind kind) {
  return kind == kStepMultiply || kind == kStepAdd || kind == kStepPrelu;
}

size_t epilogue_bytes(const Epilogue* epilogue) {
  if (epilogue->height < 1 || epilogue->width < 1 || epilogue->channels < 1) return 0;
  if (epilogue->step_count < 0 || epilogue->step_count > kMaxSteps) return 0;
  const uint64_t limit = (uint64_t)(PTRDIFF_MAX / 64);
  uint64_t row = (uint64_t)epilogue->width * (uint64_t)epilogue->channels;
  if (row > limit || (uint64_t)epilogue->height > limit / row) return 0;
  /* A vector a step, one for the scale, one for thresholds and flips. */
  size_t vectors = (size_t)epilogue->step_count + 2;
  return round_up(sizeof(Prepared)) +
         vectors * epilogue_channel_stride(epilogue->channels) * sizeof(float);
}

/* -- a tile ------------------------------------------------------------------------------------ */

/* How many of the four channels from `first` on are among n. */
ALWAYS_INLINE size_t part_of(size_t n, size_t first) {
  return n <= first ? 0 : n - first < 4 ? n - first : 4;
}

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
static void store_rounded(int8_t* to, const float* values, size_t stride, int pixels, size_t n) {
  for (int p = 0; p < pixels; p++, to += stride, values += kChunk)
    for (size_t i = 0; i < n; i++) to[i] = rounded(values[i]);
}

/* Bits of 16 channels of each pixel. */
ALWAYS_INLINE void store_bits(uint8_t* to, size_t pixel_bytes, uint64_t bits, const int pixels) {
  if (pixels == 4 && pixel_bytes == 2) {
    memcpy(to, &bits, 8);
    return;
  }
  UNROLL
  for (int p = 0; p < pixels; p++, to += pixel_bytes) {
    const uint16_t word = (uint16_t)(bits >> (16 * p));
    memcpy(to, &word, 2);
  }
}

#define NAME fours_of_counts
#define PIXELS 4
#define WHOLE true
#define FROM_COUNTS true
#include "epilogue_tiles.inc"

#define NAME ones_of_counts
#define PIXELS 1
#define WHOLE true
#define FROM_COUNTS true
#include "epilogue_tiles.inc"

#define NAME rest_of_counts
#define PIXELS 1
#define WHOLE false
#define FROM_COUNTS true
#include "epilogue_tiles.inc"

#define NAME fours_of_floats
#define PIXELS 4
#define WHOLE true
#define FROM_COUNTS false
#include "epilogue_tiles.inc"

#define NAME ones_of_floats
#define PIXELS 1
#define WHOLE true
#define FROM_COUNTS false
#include "epilogue_tiles.inc"

#define NAME rest_of_floats
#define PIXELS 1
#define WHOLE false
#define FROM_COUNTS false
#include "epilogue_tiles.inc"

/* -- rows -------------------------------------------------------------------------------------- */

/* The prepared steps with row y of this run's maps. */
static void load_steps(const Epilogue* e, const Prepared* prepared, int32_t y, LoadedStep* steps) {
  const size_t row = (size_t)e->width * (size_t)e->channels, at = (size_t)y * row;
  for (int32_t i = 0; i < prepared->count; i++) {
    const PreparedStep* p = &prepared->steps[i];
    const Step* s = &e->steps[p->from < 0 ? 0 : p->from];
    LoadedStep* l = &steps[i];
    *l = (LoadedStep){.kind = p->kind, .values = p->values, .low = s->low, .high = s->high};
    switch (p->from < 0 ? kStepMultiply : s->kind) {
      case kStepAddMap:
        l->row.map = s->map + at;
        l->row_bytes = row * sizeof(float);
        break;
      case kStepStore:
        l->row.output = s->output + at;
        l->row_bytes = row * sizeof(float);
        break;
      case kStepStoreInt8:
        l->row.quantized = s->quantized + at;
        l->row_bytes = row;
        break;
      case kStepStoreSigns:
        l->row.signs = s->signs + sign_map_offset(s->sign_map, y, 0);
        l->row_bytes = s->sign_map->row_bytes;
        l->pixel_bytes = s->sign_map->pixel_bytes;
        break;
      default:
        break;
    }
  }
  steps[prepared->count].kind = kEnd;
}

static void next_row(LoadedStep* steps) {
  for (LoadedStep* s = steps; s->kind != kEnd; s++)
    if (s->row_bytes) s->row.signs += s->row_bytes;
}

static void run_row_of_counts(const LoadedStep* steps, const Row* row) {
  ones_of_counts(steps, row, fours_of_counts(steps, row, 0));
  if (row->channels % kChunk) rest_of_counts(steps, row, 0);
}

static void run_row_of_floats(const LoadedStep* steps, const Row* row) {
  ones_of_floats(steps, row, fours_of_floats(steps, row, 0));
  if (row->channels % kChunk) rest_of_floats(steps, row, 0);
}

/* Four times 16 signs by comparing counts: `apiece` (1, 2 or 4) times 16 channels of each pixel. */
ALWAYS_INLINE void compare(const Prepared* prepared, const uint16_t* counts, size_t stride,
                           size_t c, uint8_t* to, const int apiece, uint64_t flips, uint64_t mask) {
  Mask8 masks[8];
  UNROLL
  for (int i = 0; i < 8; i++) {
    const size_t at = c + (size_t)(i % (2 * apiece)) * 8;
    const Short8 n = load_shorts(counts + (size_t)(i / (2 * apiece)) * stride + at);
    masks[i] = (Mask8)(n > load_shorts(prepared->thresholds + at));
  }
  const uint64_t bits = (bits_of_masks(masks, 4) ^ flips) & mask;
  memcpy(to, &bits, 8);
}

/* 16 channels of a pixel. */
static void compare_16(const Prepared* prepared, const uint16_t* counts, size_t c, uint8_t* to,
                       uint64_t mask) {
  Mask8 masks[2];
  for (size_t i = 0; i < 2; i++) {
    const Short8 n = load_shorts(counts + c + 8 * i);
    masks[i] = (Mask8)(n > load_shorts(prepared->thresholds + c + 8 * i));
  }
  const uint64_t flips = prepared->flips[c / kChunk];
  const uint16_t bits = (uint16_t)((bits_of_masks(masks, 1) ^ flips) & mask);
  memcpy(to, &bits, 2);
}

static void compare_row(const Prepared* prepared, const LoadedStep* step, const Row* row) {
  const size_t channels = row->channels, stride = row->count_stride, rest = channels % kChunk;
  const uint64_t last = rest ? (UINT64_C(1) << rest) - 1 : UINT16_MAX;
  const uint64_t four_times = UINT64_C(0x0001000100010001);
  const uint16_t *counts = row->counts, *flips = prepared->flips;
  uint8_t* to = step->row.signs;
  size_t x = 0;
  if (channels <= 16) {
    const uint64_t pixel = flips[0];
    for (; x + 4 <= row->width; x += 4, counts += 4 * stride, to += 8)
      compare(prepared, counts, stride, 0, to, 1, pixel * four_times, last * four_times);
  }
  if (channels == 32) {
    const uint64_t pixel = flips[0] | (uint64_t)flips[1] << 16;
    for (; x + 2 <= row->width; x += 2, counts += 2 * stride, to += 8)
      compare(prepared, counts, stride, 0, to, 2, pixel << 32 | pixel, UINT64_MAX);
  }
  for (; x < row->width; x++, counts += stride, to += step->pixel_bytes) {
    size_t c = 0;
    for (; c + 64 <= channels; c += 64) {
      uint64_t part;
      memcpy(&part, flips + c / kChunk, sizeof part);
      compare(prepared, counts, stride, c, to + c / 8, 4, part, UINT64_MAX);
    }
    for (; c < channels; c += kChunk)
      compare_16(prepared, counts, c, to + c / 8, channels - c < kChunk ? last : UINT16_MAX);
  }
}

void epilogue_rows(const Epilogue* epilogue, const void* prepared, const float* input,
                   int32_t first, int32_t last) {
  LoadedStep steps[kMaxPrepared];
  Row row = {.width = (size_t)epilogue->width, .channels = (size_t)epilogue->channels};
  row.floats = input + (size_t)first * row.width * row.channels;
  load_steps(epilogue, prepared, first, steps);
  for (int32_t y = first; y < last; y++, row.floats += row.width * row.channels, next_row(steps))
    run_row_of_floats(steps, &row);
}

void epilogue_rows_of_counts(const Epilogue* epilogue, const void* prepared, const uint16_t* counts,
                             size_t count_width, size_t count_stride, int32_t first, int32_t last) {
  LoadedStep steps[kMaxPrepared];
  const Prepared* p = prepared;
  Row row = {.counts = counts, .count_stride = count_stride, .center = p->center};
  row.width = (size_t)epilogue->width;
  row.channels = (size_t)epilogue->channels;
  load_steps(epilogue, p, first, steps);
  for (int32_t y = first; y < last;
       y++, row.counts += count_width * count_stride, next_row(steps)) {
    if (steps[0].kind == kThresholds) {
      compare_row(p, steps, &row);
    } else {
      run_row_of_counts(steps, &row);
    }
  }
}

/* -- a run ------------------------------------------------------------------------------------- */

static float value_of(const Step* s, size_t i) { return s->values[s->one_value ? 0 : i]; }

static bool all_are(const Step* s, size_t n, float scale, float value) {
  size_t i = 0;
  while (i < n && scale * value_of(s, i) == value) i++;
  return i == n;
}

/* Whether all values are in (0, 1]. */
static bool all_slopes(const float* values, size_t n) {
  Int4 slopes = {-1, -1, -1, -1};
  size_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const Float4 v = load_floats(values + i);
    slopes &= (v > 0.f) & (v <= 1.f);
  }
  bool all = (slopes[0] & slopes[1] & slopes[2] & slopes[3]) != 0;
  for (; i < n; i++) all = all && values[i] > 0.f && values[i] <= 1.f;
  return all;
}

/* Copies a step's values, multiplied by `scale`, with zeros up to the stride. */
static void copy_values(const Step* s, size_t n, float scale, float* to) {
  const size_t stride = epilogue_channel_stride((int32_t)n);
  size_t i = 0;
  if (!s->one_value)
    for (; i + 4 <= n; i += 4) store_floats(to + i, scale * load_floats(s->values + i));
  for (; i < n; i++) to[i] = scale * value_of(s, i);
  for (; i < stride; i++) to[i] = 0.f;
}

/* Appends step `from` with its vector, unless it changes nothing. Returns the free memory after it.
 */
static float* add_step(Prepared* prepared, const Epilogue* e, int32_t from, float scale,
                       float* memory) {
  const Step* s = &e->steps[from];
  PreparedStep p = {.kind = (int32_t)s->kind, .from = from, .values = memory};
  if (s->kind == kStepClamp && s->high == INFINITY) p.kind = kMaximum;
  if (has_values(s->kind)) {
    const size_t n = (size_t)e->channels;
    if (s->kind == kStepMultiply && all_are(s, n, scale, 1.f)) return memory;
    if (s->kind == kStepAdd && all_are(s, n, scale, 0.f)) return memory;
    copy_values(s, n, scale, memory);
    if (s->kind == kStepPrelu && all_slopes(memory, n)) p.kind = kPreluAsMaximum;
    memory += epilogue_channel_stride(e->channels);
  }
  prepared->steps[prepared->count++] = p;
  return memory;
}

static float* add_scale(Prepared* prepared, const Epilogue* e, float scale, float* memory) {
  const size_t stride = epilogue_channel_stride(e->channels);
  for (size_t i = 0; i < stride; i++) memory[i] = scale;
  prepared->steps[prepared->count++] =
      (PreparedStep){.kind = kStepMultiply, .from = -1, .values = memory};
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

void epilogue_begin(const Epilogue* epilogue, void* prepared) {
  add_steps(prepared, epilogue, 1.f);
}

/* -- thresholds -------------------------------------------------------------------------------- */

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

/* The steps before the signs, for 16 channels, each with its own count. */
typedef struct {
  LoadedStep steps[kMaxPrepared];
  size_t count;
  uint16_t center, limit;
} Function;

static void evaluate(Function* f, const uint16_t* counts, float* values) {
  const Row row = {.counts = counts, .center = f->center, .width = 1, .channels = kChunk};
  f->steps[f->count - 1].row.output = values;
  ones_of_counts(f->steps, &row, 0);
}

static void start_function(Function* f, const Epilogue* e, const Prepared* prepared,
                           uint16_t limit) {
  load_steps(e, prepared, 0, f->steps);
  f->count = (size_t)prepared->count;
  f->center = prepared->center;
  f->limit = limit;
  f->steps[f->count - 1].kind = kStepStore;
}

static void next_channels(Function* f) {
  for (size_t i = 0; i + 1 < f->count; i++) f->steps[i].values += kChunk;
}

/* Of 16 channels: the signs (as masks) at count 0 are `first`, also at `low`, but not at `high`;
 * where the signs don't change, low and high are 0. */
typedef struct {
  Short8 low[2], high[2], at[2], first[2];
  float values[kChunk];
} Search;

static Short8 signs_of(const float* values) {
  return (Short8)joined(load_floats(values) < 0.f, load_floats(values + 4) < 0.f);
}

/* Evaluates at `at` and takes it as a new bound, if it lies inside. Returns whether all bounds are
 * neighbours. */
static bool narrow(Function* f, Search* s) {
  Short8 apart = {0};
  evaluate(f, (const uint16_t*)s->at, s->values);
  for (int k = 0; k < 2; k++) {
    const Short8 at = s->at[k], same = ~(signs_of(s->values + 8 * k) ^ s->first[k]);
    const Short8 inside = (Short8)(at > s->low[k]) & (Short8)(at < s->high[k]);
    s->low[k] = select_shorts(inside & same, at, s->low[k]);
    s->high[k] = select_shorts(inside & ~same, at, s->high[k]);
    apart |= (Short8)(s->high[k] - s->low[k] > 1);
  }
  uint64_t halves[2];
  memcpy(halves, &apart, sizeof halves);
  return (halves[0] | halves[1]) == 0;
}

/* Where lines through the values of the counts 0 and `limit` cross 0; 0 where that isn't a number.
 */
static void guess(const float* lowest, const float* highest, uint16_t limit, uint16_t* counts) {
  for (int i = 0; i < kChunk; i++) {
    const float at = (float)limit * (lowest[i] / (lowest[i] - highest[i]));
    counts[i] = (uint16_t)(int32_t)(at > 0.f ? at < (float)limit ? at : (float)limit : 0.f);
  }
}

static bool any_nan(const float* values) {
  Int4 nan = {0};
  for (int i = 0; i < kChunk; i += 4) nan |= load_floats(values + i) != load_floats(values + i);
  return (nan[0] | nan[1] | nan[2] | nan[3]) != 0;
}

/* Where the signs of 16 channels change as counts rise: by a guess that is right for a line, its
 * neighbour, and bisection. Bits are (count > thresholds) ^ flips. False if a value is NaN. */
static bool find_thresholds(Function* f, uint16_t* thresholds, uint16_t* flips) {
  Search s = {.high = {f->limit - (Short8){0}, f->limit - (Short8){0}}};
  Short8 changes[2];
  float lowest[kChunk];
  evaluate(f, (const uint16_t*)s.low, lowest);
  evaluate(f, (const uint16_t*)s.high, s.values);
  if (any_nan(lowest) || any_nan(s.values)) return false;
  guess(lowest, s.values, f->limit, (uint16_t*)s.at);
  for (int k = 0; k < 2; k++) {
    s.first[k] = signs_of(lowest + 8 * k);
    changes[k] = s.first[k] ^ signs_of(s.values + 8 * k);
    s.high[k] &= changes[k];
  }
  narrow(f, &s);
  for (int k = 0; k < 2; k++)
    s.at[k] = select_shorts((Short8)(s.low[k] == s.at[k]), s.at[k] + 1, s.at[k] - 1);
  while (!narrow(f, &s))
    for (int k = 0; k < 2; k++) s.at[k] = s.low[k] + (s.high[k] - s.low[k]) / 2;
  for (int k = 0; k < 2; k++) store_shorts(thresholds + 8 * k, s.low[k] | ~changes[k]);
  *flips = (uint16_t)bits_of_masks((const Mask8*)s.first, 1);
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
  Function f;
  start_function(&f, epilogue, prepared, range.limit);
  for (size_t c = 0; c < stride; c += kChunk, next_channels(&f))
    if (!find_thresholds(&f, prepared->thresholds + c, prepared->flips + c / kChunk)) return;
  prepared->steps[0] =
      (PreparedStep){.kind = kThresholds, .from = prepared->steps[prepared->count - 1].from};
  prepared->count = 1;
}

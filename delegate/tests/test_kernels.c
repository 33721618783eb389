/* Tests of the kernels against plain loops, over random shapes. Prints the first failure and exits
 * with 1. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../src/binary_convolution.h"
#include "../src/binary_kernels.h"
#include "../src/max_pool.h"
#include "../src/threads.h"

static uint64_t state = 0x9E3779B97F4A7C15u;

static uint32_t random_bits(void) {
  state ^= state << 13;
  state ^= state >> 7;
  state ^= state << 17;
  return (uint32_t)(state >> 16);
}

static int32_t random_int(int32_t from, int32_t to) {
  return from + (int32_t)(random_bits() % (uint32_t)(to - from + 1));
}

static float random_float(void) { return (float)random_int(-1000, 1000) / 256.f; }

static int32_t pick(const int32_t* from, int32_t count) { return from[random_int(0, count - 1)]; }
#define PICK(...) \
  pick((const int32_t[]){__VA_ARGS__}, (int32_t)(sizeof((const int32_t[]){__VA_ARGS__}) / 4))

static void fail(const char* what, long a, long b, long c) {
  fprintf(stderr, "test_kernels: %s (%ld, %ld, %ld)\n", what, a, b, c);
  exit(1);
}

static void* take(size_t bytes) {
  void* p = aligned_alloc(64, (bytes + 64) & ~(size_t)63);
  if (p == NULL) fail("no memory", (long)bytes, 0, 0);
  memset(p, 0xA5, (bytes + 64) & ~(size_t)63);
  return p;
}

static float* take_floats(size_t n) {
  float* p = take(n * sizeof *p);
  for (size_t i = 0; i < n; i++) p[i] = random_float();
  return p;
}

/* -- the reference ----------------------------------------------------------------------------- */

typedef struct {
  BinaryConvolution convolution;
  Epilogue epilogue;
  SignMap target; /* of STORE_SIGNS */
  float *input, *vectors[kMaxSteps], *added, *stored;
  int8_t* quantized;
  uint8_t* signs;
  int8_t* weights; /* [output][tap][channel of the group] */
  int32_t* filters;
  int32_t* sums; /* expected: [y][x][output] */
} Case;

static size_t outputs(const Case* t) {
  const ConvolutionShape* s = &t->convolution.shape;
  return (size_t)s->output_height * (size_t)s->output_width * (size_t)s->output_channels;
}

/* The sum of one output, by the definition. */
static int32_t expected_sum(const Case* t, int32_t y, int32_t x, int32_t o) {
  const ConvolutionShape* s = &t->convolution.shape;
  const SignMap* map = &t->convolution.input;
  const int32_t channels = map->channels / s->groups, group = o / (s->output_channels / s->groups);
  int32_t sum = 0;
  for (int32_t ky = 0; ky < s->filter_height; ky++)
    for (int32_t kx = 0; kx < s->filter_width; kx++) {
      const int32_t iy = y * s->stride_height - s->padding_top + ky * s->dilation_height;
      const int32_t ix = x * s->stride_width - s->padding_left + kx * s->dilation_width;
      const bool outside = iy < 0 || ix < 0 || iy >= map->height || ix >= map->width;
      if (outside && !s->pads_with_ones) continue;
      for (int32_t c = 0; c < channels; c++) {
        const int32_t w =
            t->weights[((o * s->filter_height + ky) * s->filter_width + kx) * channels + c];
        const size_t at = ((size_t)iy * (size_t)map->width + (size_t)ix) * (size_t)map->channels;
        sum += outside || !(t->input[at + (size_t)(group * channels + c)] < 0.f) ? w : -w;
      }
    }
  return sum;
}

static int8_t expected_int8(float x) {
  const float r = roundf(x);
  return (int8_t)(r < -128.f ? -128 : r > 127.f ? 127 : r);
}

/* Applies the steps to one value and compares what each of them stored. */
static void check_value(const Case* t, size_t i, float x, const float* before) {
  const int32_t channels = t->epilogue.channels;
  const size_t c = i % (size_t)channels, pixel = i / (size_t)channels;
  for (int32_t k = 0; k < t->epilogue.step_count; k++) {
    const Step* s = &t->epilogue.steps[k];
    const volatile float v = s->values ? s->values[s->one_value ? 0 : c] : 0.f;
    volatile float r = x; /* each operation rounds */
    switch (s->kind) {
      case kStepMultiply:
        r = x * v;
        break;
      case kStepAdd:
        r = x + v;
        break;
      case kStepPrelu:
        r = x < 0.f ? x * v : x;
        break;
      case kStepClamp:
        r = x < s->low ? s->low : x > s->high ? s->high : x;
        break;
      case kStepAddMap:
        r = x + before[i];
        break;
      case kStepStore:
        if (!(s->output[i] == x)) fail("a stored value differs", (long)i, k, (long)c);
        break;
      case kStepStoreInt8:
        if (s->quantized[i] != expected_int8(x)) fail("an int8 value differs", (long)i, k, (long)c);
        break;
      case kStepStoreSigns: {
        const int32_t y = (int32_t)(pixel / (size_t)t->target.width),
                      px = (int32_t)(pixel % (size_t)t->target.width);
        const int bit = s->signs[sign_map_offset(&t->target, y, px) + c / 8] >> (c % 8) & 1;
        if (bit != (x < 0.f)) fail("a sign differs", (long)i, k, (long)c);
        break;
      }
    }
    x = r;
  }
}

/* -- random cases ------------------------------------------------------------------------------ */

static ConvolutionShape random_shape(SignMap* map) {
  ConvolutionShape s = {.groups = random_int(0, 5) == 0 ? 2 : 1};
  map->channels = s.groups * PICK(1, 3, 8, 16, 17, 32, 33, 48, 64, 65, 128, 256, 320);
  if (s.groups > 1) map->channels = s.groups * PICK(32, 64, 96);
  map->height = PICK(1, 2, 4, 5, 8, 13);
  map->width = PICK(1, 3, 4, 8, 9, 15, 32);
  s.filter_height = PICK(1, 2, 3, 3, 3, 5);
  s.filter_width = random_int(0, 3) ? s.filter_height : PICK(1, 3, 4);
  s.stride_height = PICK(1, 1, 2, 3);
  s.stride_width = random_int(0, 3) ? s.stride_height : PICK(1, 2);
  s.dilation_height = PICK(1, 1, 1, 2);
  s.dilation_width = random_int(0, 3) ? s.dilation_height : PICK(1, 3);
  s.pads_with_ones = random_int(0, 1);
  s.output_channels = s.groups * PICK(1, 4, 8, 16, 20, 32, 40, 64);
  const int32_t high = (s.filter_height - 1) * s.dilation_height + 1,
                wide = (s.filter_width - 1) * s.dilation_width + 1;
  if (high > map->height || wide > map->width || random_int(0, 3)) { /* SAME */
    s.output_height = (map->height + s.stride_height - 1) / s.stride_height;
    s.output_width = (map->width + s.stride_width - 1) / s.stride_width;
    const int32_t down = (s.output_height - 1) * s.stride_height + high - map->height;
    const int32_t along = (s.output_width - 1) * s.stride_width + wide - map->width;
    s.padding_top = down > 0 ? down / 2 : 0;
    s.padding_left = along > 0 ? along / 2 : 0;
  } else {
    s.output_height = (map->height - high) / s.stride_height + 1;
    s.output_width = (map->width - wide) / s.stride_width + 1;
  }
  return s;
}

static void add_step(Case* t, Step step) {
  const bool vector =
      step.kind == kStepMultiply || step.kind == kStepAdd || step.kind == kStepPrelu;
  if (vector) step.values = t->vectors[t->epilogue.step_count];
  t->epilogue.steps[t->epilogue.step_count++] = step;
}

/* LceBconv2d's multiplication and addition, then anything; or only signs, so that thresholds do. */
static void random_steps(Case* t) {
  Epilogue* e = &t->epilogue;
  const bool only_signs = random_int(0, 1);
  if (random_int(0, 3) == 0)
    add_step(t, (Step){.kind = kStepClamp, .low = 0.f, .high = random_int(0, 1) ? 6.f : INFINITY});
  if (random_int(0, 4))
    add_step(t, (Step){.kind = kStepMultiply, .one_value = random_int(0, 3) == 0});
  if (random_int(0, 4)) add_step(t, (Step){.kind = kStepAdd});
  const int32_t more = random_int(0, 5);
  for (int32_t k = 0; k < more; k++) {
    const StepKind kind =
        (StepKind)random_int(kStepMultiply, only_signs ? kStepClamp : kStepStoreSigns);
    add_step(t, (Step){.kind = kind,
                       .one_value = random_int(0, 3) == 0,
                       .low = -1.f,
                       .high = random_int(0, 1) ? 2.f : INFINITY,
                       .map = t->added,
                       .output = t->stored,
                       .quantized = t->quantized,
                       .sign_map = &t->target,
                       .signs = t->signs});
    if (kind >= kStepAddMap &&
        kind <= kStepStoreSigns) /* one of each: the check looks at the end */
      for (int32_t j = 0; j < e->step_count - 1; j++)
        if (e->steps[j].kind == kind ||
            (kind == kStepAddMap && e->steps[j].kind == kStepStore)) { /* may be in place */
          e->step_count--;
          break;
        }
  }
  if (e->step_count == 0 || e->steps[e->step_count - 1].kind < kStepStore) {
    for (int32_t j = 0; j < e->step_count; j++)
      if (e->steps[j].kind == kStepStoreSigns)
        e->steps[j] = (Step){.kind = kStepClamp, .low = -INFINITY, .high = INFINITY};
    add_step(t, (Step){.kind = kStepStoreSigns, .sign_map = &t->target, .signs = t->signs});
  }
}

static void random_values(Case* t) {
  for (int32_t k = 0; k < kMaxSteps; k++) {
    const int32_t style = random_int(0, 4);
    for (int32_t i = 0; i < t->epilogue.channels; i++) {
      float* v = &t->vectors[k][i];
      *v = random_float();
      if (style == 1) *v = (float)random_int(1, 64) / 64.f; /* slopes that a maximum takes */
      if (style == 2) *v = 0.f;
      if (style == 3) *v = fabsf(*v);
    }
  }
}

static void make_filters(Case* t) {
  const BinaryConvolution* c = &t->convolution;
  const int32_t channels = c->input.channels / c->shape.groups, words = (channels + 31) / 32;
  const size_t rows = (size_t)c->shape.output_channels * (size_t)c->shape.filter_height *
                      (size_t)c->shape.filter_width;
  t->weights = take(rows * (size_t)channels);
  t->filters = take(rows * (size_t)words * 4);
  memset(t->filters, 0, rows * (size_t)words * 4);
  const int all = random_int(0, 7); /* sometimes all -1 or all +1: the largest sums */
  for (size_t r = 0; r < rows; r++)
    for (int32_t i = 0; i < channels; i++) {
      const uint32_t bit = all == 0 ? 0 : all == 1 ? 1 : random_bits() & 1;
      t->weights[r * (size_t)channels + (size_t)i] = bit ? -1 : 1;
      t->filters[r * (size_t)words + (size_t)(i / 32)] |= (int32_t)(bit << (i % 32));
    }
}

static void check_margin_is_zero(const SignMap* map, const uint8_t* data) {
  for (int32_t y = -map->top; y < map->height + map->bottom; y++)
    for (int32_t x = -map->left; x < map->width + map->right; x++)
      for (size_t i = 0; i < 8 * map->pixel_bytes; i++) {
        const bool inside =
            y >= 0 && x >= 0 && y < map->height && x < map->width && i < (size_t)map->channels;
        const int bit = data[sign_map_offset(map, y, x) + i / 8] >> (i % 8) & 1;
        if (!inside && bit) fail("a bit outside the image is set", y, x, (long)i);
      }
}

static void run_case(const Kernels* kernels) {
  Case t = {0};
  BinaryConvolution* c = &t.convolution;
  c->shape = random_shape(&c->input);
  const ConvolutionShape* s = &c->shape;
  t.epilogue.height = s->output_height;
  t.epilogue.width = s->output_width;
  t.epilogue.channels = s->output_channels;
  t.target = (SignMap){
      .height = s->output_height, .width = s->output_width, .channels = s->output_channels};
  t.target.top = t.target.left = t.target.bottom = t.target.right = random_int(0, 2);
  binary_convolution_margin(s, &c->input);
  if (!sign_map_layout(&c->input) || !sign_map_layout(&t.target))
    fail("a sign map has no layout", 0, 0, 0);
  const size_t pixels = (size_t)c->input.height * (size_t)c->input.width;
  t.input = take_floats(pixels * (size_t)c->input.channels);
  for (size_t i = 0; i < pixels; i += 3) t.input[i] = i % 2 ? -0.f : NAN;
  for (int32_t k = 0; k < kMaxSteps; k++) t.vectors[k] = take_floats((size_t)s->output_channels);
  t.added = take_floats(outputs(&t));
  float* before = take(outputs(&t) * sizeof *before);
  memcpy(before, t.added, outputs(&t) * sizeof *before);
  t.stored = random_int(0, 2) ? take_floats(outputs(&t))
                              : t.added; /* residual maps are updated in place */
  t.quantized = take(outputs(&t));
  t.signs = take(t.target.bytes);
  sign_map_clear(&t.target, t.signs);
  random_values(&t);
  random_steps(&t);
  make_filters(&t);

  const char* error = NULL;
  if (!binary_convolution_layout(c, &t.epilogue, &error))
    fail(error, s->output_channels, c->input.channels, s->groups);
  c->kernels = kernels;
  void *memory = take(c->memory_bytes), *prepared = take(c->prepared_bytes),
       *scratch = take(c->scratch_bytes);
  uint8_t* signs = take(c->input.bytes);
  sign_map_clear(&c->input, signs);
  binary_convolution_prepare(c, t.filters, memory);
  sign_map_pack_floats(&c->input, t.input, signs, 0, c->input.height);
  check_margin_is_zero(&c->input, signs);
  binary_convolution_begin(c, &t.epilogue, prepared);
  const int32_t middle = random_int(0, s->output_height);
  binary_convolution_rows(c, &t.epilogue, prepared, signs, scratch, middle, s->output_height);
  binary_convolution_rows(c, &t.epilogue, prepared, signs, scratch, 0, middle);
  check_margin_is_zero(&t.target, t.signs);
  size_t i = 0;
  for (int32_t y = 0; y < s->output_height; y++)
    for (int32_t x = 0; x < s->output_width; x++)
      for (int32_t o = 0; o < s->output_channels; o++, i++)
        check_value(&t, i, (float)expected_sum(&t, y, x, o), before);

  /* The same steps on a map of floats. */
  float* values = take_floats(outputs(&t));
  memcpy(t.added, before, outputs(&t) * sizeof *before);
  epilogue_begin(&t.epilogue, prepared);
  epilogue_rows(&t.epilogue, prepared, values, 0, s->output_height);
  for (i = 0; i < outputs(&t); i++) check_value(&t, i, values[i], before);

  void* all[] = {t.input,     t.added, t.stored == t.added ? NULL : t.stored,
                 t.quantized, t.signs, t.weights,
                 t.filters,   memory,  prepared,
                 scratch,     signs,   before,
                 values};
  for (i = 0; i < sizeof all / sizeof *all; i++) free(all[i]);
  for (i = 0; i < kMaxSteps; i++) free(t.vectors[i]);
}

/* -- the rest ---------------------------------------------------------------------------------- */

static void check_words(void) {
  for (int round = 0; round < 40; round++) {
    SignMap map = {.height = random_int(1, 3),
                   .width = random_int(1, 9),
                   .channels = PICK(1, 16, 17, 32, 40, 64, 100)};
    map.left = random_int(0, 1);
    if (!sign_map_layout(&map)) fail("a sign map has no layout", 0, 0, 0);
    const size_t pixels = (size_t)(map.height * map.width),
                 words = ((size_t)map.channels + 31) / 32;
    float *values = take_floats(pixels * (size_t)map.channels),
          *back = take_floats(pixels * (size_t)map.channels);
    int8_t *bytes = take(pixels * (size_t)map.channels),
           *back8 = take(pixels * (size_t)map.channels);
    uint8_t *a = take(map.bytes), *b = take(map.bytes), *d = take(map.bytes);
    int32_t* packed = take(pixels * words * 4);
    const int32_t zero_point = random_int(-3, 3);
    for (size_t i = 0; i < pixels * (size_t)map.channels; i++)
      bytes[i] = (int8_t)(values[i] < 0.f ? zero_point - 1 : zero_point);
    sign_map_clear(&map, a);
    sign_map_clear(&map, b);
    sign_map_clear(&map, d);
    sign_map_pack_floats(&map, values, a, 0, map.height);
    sign_map_pack_int8(&map, bytes, zero_point, d, 0, map.height);
    if (memcmp(a, d, map.bytes))
      fail("signs of int8 values differ from those of floats", map.channels, round, 0);
    sign_map_unpack_words(&map, a, packed, 0, map.height);
    dequantize_words_to_floats(packed, back, pixels, map.channels);
    dequantize_words_to_int8(packed, back8, pixels, map.channels, 5, -7);
    for (size_t i = 0; i < pixels * (size_t)map.channels; i++)
      if (back[i] != (values[i] < 0.f ? -1.f : 1.f) || back8[i] != (values[i] < 0.f ? -7 : 5))
        fail("a dequantized value differs", (long)i, map.channels, 0);
    if (map.channels % 32) packed[words - 1] |= INT32_MIN; /* beyond the channels */
    sign_map_pack_words(&map, packed, b, 0, map.height);
    if (memcmp(a, b, map.bytes)) fail("packed words differ", map.channels, round, 0);
    void* all[] = {values, back, bytes, back8, a, b, d, packed};
    for (size_t i = 0; i < 8; i++) free(all[i]);
  }
}

static void check_max_pool(void) {
  const PoolShape s = {.input_height = 3,
                       .input_width = 4,
                       .words = 1,
                       .output_height = 2,
                       .output_width = 2,
                       .filter_height = 2,
                       .filter_width = 2,
                       .stride_height = 2,
                       .stride_width = 2};
  const int32_t input[12] = {3, 1, 7, 6, 2, 3, 5, 4, 1, 3, -1, -1};
  const int32_t expected[4] = {3 & 1 & 2 & 3, 7 & 6 & 5 & 4, 1 & 3, -1};
  int32_t output[4];
  max_pool_words(&s, input, output, 0, 1);
  max_pool_words(&s, input, output, 1, 2);
  if (memcmp(output, expected, sizeof output))
    fail("a maximum differs", output[0], output[1], output[2]);
}

static void count_part(void* job, int32_t part, int32_t parts) {
  int32_t first, last;
  threads_share(1000, part, parts, &first, &last);
  for (int32_t i = first; i < last; i++) ((uint8_t*)job)[i]++;
}

static void check_threads(void) {
  uint8_t done[1000] = {0};
  Threads* threads = threads_create(3);
  for (int round = 0; round < 100; round++) threads_run(threads, count_part, done);
  const pid_t child = fork();
  if (child == 0) {
    threads_run(threads, count_part, done);
    for (int i = 0; i < 1000; i++)
      if (done[i] != 101) _exit(1);
    threads_free(threads);
    _exit(0);
  }
  int status = 1;
  if (waitpid(child, &status, 0) != child || status)
    fail("a child after fork can't run", status, 0, 0);
  threads_run(NULL, count_part, done);
  for (int i = 0; i < 1000; i++)
    if (done[i] != 101) fail("a row wasn't done once", i, done[i], 0);
  threads_free(threads);
}

static void check_refusals(void) {
  const char* error = NULL;
  Epilogue e = {.height = 1, .width = 1, .channels = 8};
  BinaryConvolution c = {.shape = {1, 3, 3, 1, 1, 1, 1, 0, 0, true, 1, 1, 8},
                         .input = {.height = 3, .width = 3, .channels = 8000}};
  binary_convolution_margin(&c.shape, &c.input);
  if (binary_convolution_layout(&c, &e, &error)) fail("a map without layout is taken", 0, 0, 0);
  sign_map_layout(&c.input);
  if (binary_convolution_layout(&c, &e, &error)) fail("more than 65535 weights are taken", 0, 0, 0);
  c.input = (SignMap){.height = 3, .width = 3, .channels = 7000};
  sign_map_layout(&c.input);
  if (binary_convolution_layout(&c, &e, &error))
    fail("a margin that is too small is taken", 0, 0, 0);
  c.shape.stride_height = 1 << 20;
  c.shape.output_height = e.height = 1000;
  binary_convolution_margin(&c.shape, &c.input);
  if (sign_map_layout(&c.input) && binary_convolution_layout(&c, &e, &error))
    fail("strides over 2^30 rows are taken", 0, 0, 0);
  c.input = (SignMap){.height = INT32_MAX, .width = INT32_MAX, .channels = INT32_MAX};
  if (sign_map_layout(&c.input)) fail("a map of 2^90 bytes is taken", 0, 0, 0);
}

int main(int argc, char** argv) {
  const int rounds = argc > 1 ? atoi(argv[1]) : 300;
  if (argc > 2) state ^= (uint64_t)atoll(argv[2]) * 0x2545F4914F6CDD1Du;
  check_refusals();
  check_words();
  check_max_pool();
  int kinds = 0;
  while (usable_kernels(kinds)) kinds++;
  for (int i = 0; i < rounds; i++) run_case(usable_kernels(i % kinds));
  check_threads();
  return 0;
}

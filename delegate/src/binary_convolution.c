#include "binary_convolution.h"

#include <string.h>

#include "binary_kernels.h"
#include "epilogue_counts.h"
#include "simd.h"

enum {
  kPixelsAtOnce = 8, /* kernels compute a multiple of them: the taps of all must lie in memory */
  kCountBytes =
      12 * 1024, /* of scratch memory, if it may be more than a row: stays in the first cache */
  kMaxOutput = UINT16_MAX, /* rows or columns: zones are numbered in 16 bits */
};

/** Which taps of a row or column of outputs lie inside the image: [first, last). */
typedef struct {
  int32_t first, last;
} Inside;

static size_t round_up(size_t n) { return (n + 63) & ~(size_t)63; }

static int32_t multiple(int32_t n, int32_t of) { return (n + of - 1) / of * of; }

// --- Geometry ---

static int32_t group_channels(const BinaryConvolution* c) {
  return c->input.channels / c->shape.groups;
}

static size_t word_bytes(const BinaryConvolution* c) {
  if (c->shape.groups > 1) return group_channels(c) % 64 == 0 ? 8 : 4;
  return c->input.pixel_bytes < 8 ? c->input.pixel_bytes : 8;
}

/** Words of a tap. */
static int32_t tap_words(const BinaryConvolution* c) {
  const size_t bytes = c->shape.groups > 1 ? (size_t)group_channels(c) / 8 : c->input.pixel_bytes;
  return (int32_t)(bytes / word_bytes(c));
}

static int32_t group_blocks(const BinaryConvolution* c) {
  const int32_t block = block_channels(word_bytes(c));
  return (c->shape.output_channels / c->shape.groups + block - 1) / block;
}

/** uint16 counts of a pixel. The last block of a group may reach into the next group's channels, or
 * beyond all. */
static size_t count_stride(const BinaryConvolution* c) {
  return epilogue_channel_stride(c->shape.output_channels) + (c->shape.groups > 1 ? 16 : 0);
}

/** Pixels of a row of counts. */
static int32_t count_width(const BinaryConvolution* c) {
  return multiple(c->shape.output_width, block_pixels(word_bytes(c)));
}

/** Whether neighbouring pixels share the columns of their taps. */
static bool shares_columns(const BinaryConvolution* c) {
  const ConvolutionShape* s = &c->shape;
  return s->groups == 1 && tap_words(c) == 1 && s->filter_width == 3 && s->filter_height <= 5 &&
         s->stride_width <= 2 && s->dilation_width == 1;
}

/** Taps of a row lie one after the other: one run takes them all. */
static bool joins_taps(const BinaryConvolution* c) {
  return c->shape.dilation_width == 1 && c->shape.groups == 1;
}

/** An odd number of signs has no half: then counts are doubled. */
static bool doubles_counts(const BinaryConvolution* c) { return group_channels(c) % 2 != 0; }

static Inside inside(int32_t at, int32_t stride, int32_t dilation, int32_t padding, int32_t taps,
                     int32_t size) {
  Inside range = {0, 0};
  const int64_t from = (int64_t)at * stride - padding;
  for (int32_t k = 0; k < taps; k++) {
    const int64_t x = from + (int64_t)k * dilation;
    if (x < 0 || x >= size) continue;
    if (range.last == 0) range.first = k;
    range.last = k + 1;
  }
  return range;
}

static Inside inside_row(const BinaryConvolution* c, int32_t y) {
  const ConvolutionShape* s = &c->shape;
  return inside(y, s->stride_height, s->dilation_height, s->padding_top, s->filter_height,
                c->input.height);
}

static Inside inside_column(const BinaryConvolution* c, int32_t x) {
  const ConvolutionShape* s = &c->shape;
  return inside(x, s->stride_width, s->dilation_width, s->padding_left, s->filter_width,
                c->input.width);
}

static bool same(Inside a, Inside b) { return a.first == b.first && a.last == b.last; }

/** Neighbouring columns of outputs with the same taps inside the image. */
typedef struct {
  int32_t first, last;
  bool whole; /* all taps are */
} Zone;

/** Zones of columns; returns how many, and writes them if `zones` isn't NULL. */
static int32_t find_column_zones(const BinaryConvolution* c, Zone* zones) {
  int32_t count = 0;
  Inside previous = {-1, -1};
  for (int32_t x = 0; x < c->shape.output_width; x++) {
    const Inside taps = inside_column(c, x);
    if (!same(taps, previous)) {
      count++;
      if (zones) zones[count - 1] = (Zone){x, x, same(taps, (Inside){0, c->shape.filter_width})};
    }
    if (zones) zones[count - 1].last = x + 1;
    previous = taps;
  }
  return count;
}

/** The zone of a row of outputs. */
typedef struct {
  uint16_t number;
  bool whole;
  int32_t first, last; /* rows of taps that are computed */
} RowZone;

/** Rows of taps outside the image needn't be computed: what they add is known. */
static bool skips_rows(Inside rows) { return rows.last > rows.first; }

/** The same of rows: the zone of each row, if `zones` isn't NULL. */
static int32_t find_row_zones(const BinaryConvolution* c, RowZone* zones) {
  int32_t count = 0;
  Inside previous = {-1, -1};
  for (int32_t y = 0; y < c->shape.output_height; y++) {
    const Inside taps = inside_row(c, y);
    if (!same(taps, previous)) count++;
    if (zones) {
      zones[y] = (RowZone){.number = (uint16_t)(count - 1), .last = c->shape.filter_height};
      zones[y].whole = same(taps, (Inside){0, c->shape.filter_height});
      if (skips_rows(taps)) {
        zones[y].first = taps.first;
        zones[y].last = taps.last;
      }
    }
    previous = taps;
  }
  return count;
}

void binary_convolution_margin(const ConvolutionShape* s, SignMap* map) {
  const int64_t width = multiple(s->output_width, kPixelsAtOnce);
  const int64_t bottom = (int64_t)(s->output_height - 1) * s->stride_height - s->padding_top +
                         (int64_t)(s->filter_height - 1) * s->dilation_height + 1 - map->height;
  const int64_t right = (width - 1) * s->stride_width - s->padding_left +
                        (int64_t)(s->filter_width - 1) * s->dilation_width + 1 - map->width;
  if (s->padding_top > map->top) map->top = s->padding_top;
  if (s->padding_left > map->left) map->left = s->padding_left;
  if (bottom > map->bottom) map->bottom = bottom > INT32_MAX / 4 ? INT32_MAX / 4 : (int32_t)bottom;
  if (right > map->right) map->right = right > INT32_MAX / 4 ? INT32_MAX / 4 : (int32_t)right;
}

// --- Layout ---

/** Rows or columns of the input from the first tap of all to the last one. */
static int64_t reach(int32_t outputs, int32_t stride, int32_t taps, int32_t dilation) {
  return (int64_t)(outputs - 1) * stride + (int64_t)(taps - 1) * dilation + 1;
}

static const char* refusal(const BinaryConvolution* c, const Epilogue* e) {
  const ConvolutionShape* s = &c->shape;
  const int32_t limit = 1 << 20;
  const int32_t sizes[] = {s->groups,       s->filter_height,   s->filter_width,   s->stride_height,
                           s->stride_width, s->dilation_height, s->dilation_width, s->output_height,
                           s->output_width, s->output_channels, c->input.channels, c->input.height,
                           c->input.width};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
    if (sizes[i] < 1 || sizes[i] > limit)
      return "a size of a binary convolution is not in 1 to 2^20";
  if (s->padding_top < 0 || s->padding_left < 0 || s->padding_top > limit ||
      s->padding_left > limit)
    return "the padding of a binary convolution is not in 0 to 2^20";
  if (c->input.channels % s->groups || s->output_channels % s->groups ||
      (s->groups > 1 && c->input.channels / s->groups % 32))
    return "the channels of a binary convolution can't be split into its groups";
  if (e->height != s->output_height || e->width != s->output_width ||
      e->channels != s->output_channels)
    return "the epilogue of a binary convolution has another shape";
  if (reach(s->output_height, s->stride_height, s->filter_height, s->dilation_height) > 1 << 28 ||
      reach(s->output_width, s->stride_width, s->filter_width, s->dilation_width) > 1 << 28)
    return "the taps of a binary convolution reach over more than 2^28 pixels";
  SignMap needed = c->input;
  binary_convolution_margin(s, &needed);
  if (needed.top != c->input.top || needed.left != c->input.left ||
      needed.bottom != c->input.bottom || needed.right != c->input.right || c->input.row_bytes == 0)
    return "the margin of a map of signs is too small for a binary convolution";
  if (s->output_height > kMaxOutput || s->output_width > kMaxOutput)
    return "the output of a binary convolution is larger than 65535 pixels";
  const int64_t taps = (int64_t)s->filter_height * s->filter_width;
  /* Popcounts, doubled if the number of channels is odd, are held in 16 bits. */
  if (taps > UINT16_MAX || taps * group_channels(c) * (doubles_counts(c) ? 2 : 1) > UINT16_MAX)
    return "a filter of a binary convolution has too many weights";
  return NULL;
}

/** Where everything lies in the memory; false if the bytes overflow. */
static bool place(BinaryConvolution* c) {
  const uint64_t limit = (uint64_t)(PTRDIFF_MAX / 8);
  const uint64_t words = (uint64_t)c->taps * (uint64_t)tap_words(c);
  const uint64_t block = (uint64_t)block_channels(word_bytes(c)) * word_bytes(c);
  const uint64_t blocks = (uint64_t)group_blocks(c) * (uint64_t)c->shape.groups;
  if (blocks > limit / (words * block)) return false;
  c->column_zones = find_column_zones(c, NULL);
  const uint64_t zones = (uint64_t)find_row_zones(c, NULL) * (uint64_t)c->column_zones;
  if (zones > limit / 2 / count_stride(c)) return false;
  c->runs = 0;
  c->filters = round_up((size_t)words * sizeof(Run));
  c->rows = c->filters + round_up((size_t)(blocks * words * block));
  c->columns = c->rows + round_up((size_t)c->shape.output_height * sizeof(RowZone));
  c->corrections = c->columns + round_up((size_t)c->column_zones * sizeof(Zone));
  c->memory_bytes = c->corrections + round_up((size_t)zones * count_stride(c) * sizeof(uint16_t));
  return true;
}

bool binary_convolution_layout(BinaryConvolution* c, const Epilogue* epilogue, const char** error) {
  *error = refusal(c, epilogue);
  if (*error) return false;
  c->kernels = usable_kernels(0);
  c->taps = c->shape.filter_height * c->shape.filter_width;
  c->sum_limit = c->taps * group_channels(c);
  c->prepared_bytes = epilogue_bytes(epilogue);
  if (c->prepared_bytes == 0 || !place(c)) {
    *error = "a binary convolution is too large";
    return false;
  }
  const size_t row = (size_t)count_width(c) * count_stride(c) * sizeof(uint16_t);
  const size_t rows = row < kCountBytes ? kCountBytes / row : 1;
  c->rows_at_once = rows < (size_t)c->shape.output_height ? (int32_t)rows : c->shape.output_height;
  c->scratch_bytes = row * (size_t)c->rows_at_once;
  return true;
}

// --- Preparation ---

/** Runs of words of the input, from the first tap's first word, at most kMaxWordsOfBytes a group of
 * them. */
static void make_runs(const BinaryConvolution* c, Run* runs) {
  const ConvolutionShape* s = &c->shape;
  const size_t word = word_bytes(c);
  const int32_t length = tap_words(c) * (joins_taps(c) ? s->filter_width : 1);
  const int32_t across = joins_taps(c) ? 1 : s->filter_width;
  int32_t count = 0, in_group = 0;
  for (int32_t t = 0; t < s->filter_height * across; t++) {
    size_t offset = (size_t)(t / across) * (size_t)s->dilation_height * c->input.row_bytes +
                    (size_t)(t % across) * (size_t)s->dilation_width * c->input.pixel_bytes;
    for (int32_t left = length; left > 0;) {
      if (in_group == kMaxWordsOfBytes) {
        runs[count - 1].last = true;
        in_group = 0;
      }
      const int32_t words = left < kMaxWordsOfBytes - in_group ? left : kMaxWordsOfBytes - in_group;
      runs[count++] = (Run){.offset = offset, .words = words};
      offset += (size_t)words * word;
      left -= words;
      in_group += words;
    }
  }
}

/** Bytes of a tap of a filter, as the file has them. */
static const uint8_t* filter_tap(const BinaryConvolution* c, const int32_t* filters, int32_t output,
                                 int32_t tap) {
  const size_t words = ((size_t)group_channels(c) + 31) / 32;
  return (const uint8_t*)(filters + ((size_t)output * (size_t)c->taps + (size_t)tap) * words);
}

/** [group][block][tap][word][channel of the block], so that kernels read straight on. */
static void pack_filters(const BinaryConvolution* c, const int32_t* filters, uint8_t* packed) {
  const size_t word = word_bytes(c), file_bytes = ((size_t)group_channels(c) + 31) / 32 * 4;
  const int32_t block = block_channels(word), words = tap_words(c);
  const int32_t outputs = c->shape.output_channels / c->shape.groups;
  for (int32_t g = 0; g < c->shape.groups; g++)
    for (int32_t b = 0; b < group_blocks(c); b++)
      for (int32_t t = 0; t < c->taps; t++)
        for (int32_t k = 0; k < words; k++)
          for (int32_t i = 0; i < block; i++, packed += word) {
            memset(packed, 0, word);
            if (b * block + i >= outputs) continue;
            const uint8_t* from =
                filter_tap(c, filters, g * outputs + b * block + i, t) + (size_t)k * word;
            const size_t left = file_bytes - (size_t)k * word;
            memcpy(packed, from, left < word ? left : word);
          }
}

/** The sum of a tap of a filter, as all inputs +1 give it. */
static int32_t tap_sum(const BinaryConvolution* c, const int32_t* filters, int32_t output,
                       int32_t tap) {
  const uint8_t* bytes = filter_tap(c, filters, output, tap);
  int32_t minus = 0;
  for (int32_t i = 0; i < group_channels(c); i++) minus += bytes[i / 8] >> (i % 8) & 1;
  return group_channels(c) - 2 * minus;
}

/** What the counts of a filter lack for a tap outside the image, doubled. Skipped taps have counted
 * as 0, others as +1 inputs. They shall count as +1 or as the sum 0, which is half the channels. */
static int32_t lack(const BinaryConvolution* c, const int32_t* filters, int32_t output, int32_t tap,
                    bool skipped) {
  const int32_t sum = tap_sum(c, filters, output, tap), channels = group_channels(c);
  if (c->shape.pads_with_ones) return skipped ? channels - sum : 0;
  return skipped ? channels : sum;
}

static void correct_zone(const BinaryConvolution* c, const int32_t* filters, Inside rows,
                         Inside columns, uint16_t* zone) {
  for (int32_t o = 0; o < c->shape.output_channels; o++) {
    int32_t sum = 0;
    for (int32_t t = 0; t < c->taps; t++) {
      const int32_t ky = t / c->shape.filter_width, kx = t % c->shape.filter_width;
      if (ky >= rows.first && ky < rows.last && kx >= columns.first && kx < columns.last) continue;
      const bool skipped = skips_rows(rows) && (ky < rows.first || ky >= rows.last);
      sum += lack(c, filters, o, t, skipped);
    }
    zone[o] = (uint16_t)(doubles_counts(c) ? sum : sum / 2);
  }
}

static void make_corrections(const BinaryConvolution* c, const int32_t* filters, uint8_t* memory) {
  RowZone* rows = (RowZone*)(memory + c->rows);
  Zone* columns = (Zone*)(memory + c->columns);
  uint16_t* corrections = (uint16_t*)(memory + c->corrections);
  find_row_zones(c, rows);
  find_column_zones(c, columns);
  memset(corrections, 0, c->memory_bytes - c->corrections);
  for (int32_t y = 0; y < c->shape.output_height; y++) {
    if (y > 0 && rows[y].number == rows[y - 1].number) continue;
    for (int32_t k = 0; k < c->column_zones; k++, corrections += count_stride(c))
      correct_zone(c, filters, inside_row(c, y), inside_column(c, columns[k].first), corrections);
  }
}

void binary_convolution_prepare(BinaryConvolution* c, const int32_t* filters, void* memory) {
  uint8_t* bytes = memory;
  c->memory = bytes;
  make_runs(c, (Run*)(bytes + c->runs));
  pack_filters(c, filters, bytes + c->filters);
  make_corrections(c, filters, bytes);
}

// --- A run ---

void binary_convolution_begin(const BinaryConvolution* c, const Epilogue* epilogue,
                              void* prepared) {
  CountRange range = {
      .scale = 2.f, .center = (uint16_t)(c->sum_limit / 2), .limit = (uint16_t)c->sum_limit};
  if (doubles_counts(c))
    range = (CountRange){
        .scale = 1.f, .center = (uint16_t)c->sum_limit, .limit = (uint16_t)(2 * c->sum_limit)};
  epilogue_begin_counts(epilogue, range, prepared);
}

/** Rows of taps that are computed for row y of outputs. */
static Inside computed_taps(const BinaryConvolution* c, int32_t y) {
  const RowZone row = ((const RowZone*)(c->memory + c->rows))[y];
  return (Inside){row.first, row.last};
}

/** Runs of the rows of taps before one. */
static int32_t runs_before(const BinaryConvolution* c, int32_t row) {
  const Run* runs = (const Run*)(c->memory + c->runs);
  int32_t words = row * c->shape.filter_width * tap_words(c), count = 0;
  while (words > 0) words -= runs[count++].words;
  return count;
}

/** Popcounts of rows [first, last) of outputs, whose taps are the same. */
static void count_rows(const BinaryConvolution* c, const uint8_t* signs, uint16_t* counts,
                       int32_t first, int32_t last) {
  const ConvolutionShape* s = &c->shape;
  const size_t word = word_bytes(c), filter_bytes = (size_t)c->taps * (size_t)tap_words(c) * word;
  const int32_t block = block_channels(word), outputs = s->output_channels / s->groups;
  const int size = word == 2 ? 0 : word == 4 ? 1 : 2;
  const Inside taps = computed_taps(c, first);
  const Kernel kernel =
      shares_columns(c) ? c->kernels->columns[s->stride_width - 1][size] : c->kernels->runs[size];
  KernelJob job = {
      .pixel_step = (size_t)s->stride_width * c->input.pixel_bytes,
      .row_step = (size_t)s->stride_height * c->input.row_bytes,
      .tap_step = (size_t)s->dilation_height * c->input.row_bytes,
      .tap_rows = taps.last - taps.first,
      .rows = last - first,
      .pixels = count_width(c),
      .filters = c->memory + c->filters,
      .count_stride = count_stride(c),
  };
  job.filters += filter_bytes / (size_t)s->filter_height * (size_t)(taps.first * block);
  if (shares_columns(c)) {
    signs += (size_t)taps.first * job.tap_step;
  } else {
    job.runs = (const Run*)(c->memory + c->runs) + runs_before(c, taps.first);
    job.run_count = runs_before(c, taps.last) - runs_before(c, taps.first);
  }
  signs += sign_map_offset(&c->input, first * s->stride_height - s->padding_top, -s->padding_left);
  for (int32_t g = 0; g < s->groups; g++) {
    job.signs = signs + (size_t)g * (size_t)group_channels(c) / 8;
    for (int32_t o = 0; o < outputs; o += block, job.filters += filter_bytes * (size_t)block) {
      job.counts = counts + g * outputs + o;
      kernel(&job);
    }
  }
}

/** n is a multiple of 8. */
static void add_correction(uint16_t* counts, const uint16_t* correction, size_t n) {
  for (size_t i = 0; i < n; i += 8)
    store_shorts(counts + i, load_shorts(counts + i) + load_shorts(correction + i));
}

/** Corrects the pixels of row y whose taps lie outside the image. */
static void correct_row(const BinaryConvolution* c, uint16_t* counts, int32_t y) {
  const Zone* columns = (const Zone*)(c->memory + c->columns);
  const RowZone row = ((const RowZone*)(c->memory + c->rows))[y];
  const size_t stride = count_stride(c), n = epilogue_channel_stride(c->shape.output_channels);
  const uint16_t* correction = (const uint16_t*)(c->memory + c->corrections);
  correction += (size_t)row.number * (size_t)c->column_zones * stride;
  for (int32_t k = 0; k < c->column_zones; k++, correction += stride) {
    if (row.whole && (columns[k].whole || c->shape.pads_with_ones)) continue;
    for (int32_t x = columns[k].first; x < columns[k].last; x++)
      add_correction(counts + (size_t)x * stride, correction, n);
  }
}

void binary_convolution_rows(const BinaryConvolution* c, const Epilogue* epilogue,
                             const void* prepared, const uint8_t* signs, void* scratch,
                             int32_t first, int32_t last) {
  uint16_t* counts = scratch;
  const size_t width = (size_t)count_width(c), row = width * count_stride(c);
  for (int32_t y = first; y < last; y += c->rows_at_once) {
    const int32_t end = last - y < c->rows_at_once ? last : y + c->rows_at_once;
    for (int32_t k = y, stop; k < end; k = stop) {
      stop = k + 1;
      while (stop < end && same(computed_taps(c, stop), computed_taps(c, k))) stop++;
      count_rows(c, signs, counts + (size_t)(k - y) * row, k, stop);
    }
    if (doubles_counts(c)) add_correction(counts, counts, row * (size_t)(end - y));
    for (int32_t k = y; k < end; k++) correct_row(c, counts + (size_t)(k - y) * row, k);
    epilogue_rows_of_counts(epilogue, prepared, counts, width, count_stride(c), y, end);
  }
}

void offsets_from_thresholds(const BinaryConvolution* c, const int32_t* thresholds,
                             float* offsets) {
  for (int32_t i = 0; i < c->shape.output_channels; i++)
    offsets[i] = (float)(2 * (int64_t)thresholds[i] - c->sum_limit);
}

#include <math.h>
#include <string.h>

#include "plan.h"

/** What the threads share of one task, for one image. */
typedef struct {
  const Task* task;
  const Plan* plan;
  const void* prepared;
  const void* input;
  void* output;
} Job;

static void* resolve(const TfLiteContext* context, const Plan* plan, Place place) {
  if (place.tensor >= 0) {
    uint8_t* data = (uint8_t*)context->tensors[place.tensor].data.raw;
    return data == NULL ? NULL : data + place.offset;
  }
  if (place.buffer >= 0) {
    return plan->memory + plan->buffers[place.buffer].offset + place.offset;
  }
  return NULL;
}

/** Sets the pointers of an epilogue for one image. */
static void set_pointers(const TfLiteContext* context, const Plan* plan, Task* task,
                         int32_t image) {
  for (int32_t i = 0; i < task->epilogue.step_count; i++) {
    Step* step = &task->epilogue.steps[i];
    uint8_t* data = resolve(context, plan, task->places[i].place);
    if (data != NULL) {
      data += task->places[i].stride * (size_t)image;
    }
    switch (step->kind) {
      case kStepMultiply:
      case kStepAdd:
      case kStepPrelu:
        step->values = (const float*)(const void*)data;
        break;
      case kStepAddMap:
        step->map = (const float*)(const void*)data;
        break;
      case kStepStore:
        step->output = (float*)(void*)data;
        break;
      case kStepStoreInt8:
        step->quantized = (int8_t*)data;
        break;
      case kStepStoreSigns:
        step->sign_map = &plan->targets[task->maps[i]].map;
        step->signs = data;
        break;
      case kStepClamp:
        break;
    }
  }
}

static uint8_t* signs_of(const Plan* plan, const Task* task, int32_t image) {
  const SignTarget* target = &plan->targets[task->target];
  return plan->memory + plan->buffers[target->buffer].offset + target->stride * (size_t)image;
}

/** Rows of a convolution. */
static void convolution_job(void* argument, int32_t part, int32_t parts) {
  const Job* job = argument;
  const Task* task = job->task;
  int32_t first, last;
  threads_share(task->epilogue.height, part, parts, &first, &last);
  if (first < last) {
    binary_convolution_rows(
        &job->plan->convolutions[task->convolution].convolution, &task->epilogue, job->prepared,
        job->input, job->plan->scratch + (size_t)part * job->plan->scratch_bytes, first, last);
  }
}

/** Rows of an epilogue without a convolution. */
static void map_job(void* argument, int32_t part, int32_t parts) {
  const Job* job = argument;
  int32_t first, last;
  threads_share(job->task->epilogue.height, part, parts, &first, &last);
  if (first < last) {
    epilogue_rows(&job->task->epilogue, job->prepared, job->input, first, last);
  }
}

/** Prepares the epilogue of a convolution or a map. */
static void begin(const TfLiteContext* context, const Plan* plan, Task* task) {
  void* prepared = resolve(context, plan, task->prepared);
  set_pointers(context, plan, task, 0);
  if (task->kind == kTaskConvolution) {
    binary_convolution_begin(&plan->convolutions[task->convolution].convolution, &task->epilogue,
                             prepared);
  } else {
    epilogue_begin(&task->epilogue, prepared);
  }
}

static void run_convolution(const TfLiteContext* context, Plan* plan, Task* task,
                            Threads* threads) {
  void* prepared = resolve(context, plan, task->prepared);
  if (!task->begins_once) {
    begin(context, plan, task);
  }
  for (int32_t image = 0; image < task->images; image++) {
    set_pointers(context, plan, task, image);
    Job job = {task, plan, prepared, signs_of(plan, task, image), NULL};
    threads_run(task->shared ? threads : NULL, convolution_job, &job);
  }
}

static void run_map(const TfLiteContext* context, Plan* plan, Task* task, Threads* threads) {
  void* prepared = resolve(context, plan, task->prepared);
  const uint8_t* input = resolve(context, plan, task->input);
  if (!task->begins_once) {
    begin(context, plan, task);
  }
  for (int32_t image = 0; image < task->images; image++) {
    set_pointers(context, plan, task, image);
    Job job = {task, plan, prepared, input + task->input_stride * (size_t)image, NULL};
    threads_run(task->shared ? threads : NULL, map_job, &job);
  }
}

static float clamped(const Task* task, float value) {
  if (!task->clamps) {
    return value;
  }
  const float raised = value < task->low ? task->low : value;
  return raised > task->high ? task->high : raised;
}

/** One element of ADD, MUL, PRELU or a clamp. */
static float apply(const Task* task, float x, float y) {
  float value = x;
  if (task->op == kOperatorAdd) {
    value = x + y;
  } else if (task->op == kOperatorMultiply) {
    value = x * y;
  } else if (task->op == kOperatorPrelu) {
    value = x < 0.0F ? x * y : x;
  }
  return clamped(task, value);
}

static void run_elementwise(const Task* task, const float* x, const float* y, float* output) {
  const bool equal = task->input_count == task->count && task->second_count == task->count;
  if (equal && !task->clamps && task->op == kOperatorAdd) {  // so that it's vectorized
    for (int32_t k = 0; k < task->count; k++) {
      output[k] = x[k] + y[k];
    }
    return;
  }
  if (equal && !task->clamps && task->op == kOperatorMultiply) {
    for (int32_t k = 0; k < task->count; k++) {
      output[k] = x[k] * y[k];
    }
    return;
  }
  int32_t i = 0, j = 0;
  for (int32_t k = 0; k < task->count; k++) {
    output[k] = apply(task, x[i], y[j]);
    i = i + 1 == task->input_count ? 0 : i + 1;
    j = j + 1 == task->second_count ? 0 : j + 1;
  }
}

static void run_tile(const Task* task, const float* input, float* output) {
  for (int32_t i = 0; i < task->count; i += task->input_count) {
    memcpy(output + i, input, sizeof(float) * (size_t)task->input_count);
  }
}

static void run_widen(const Task* task, const void* input, int32_t* output) {
  for (int32_t i = 0; i < task->count; i++) {
    output[i] =
        task->type == kTfLiteUInt8 ? ((const uint8_t*)input)[i] : ((const uint16_t*)input)[i];
  }
}

static int8_t saturated(float value) {
  return (int8_t)(value < -128.0F ? -128.0F : value > 127.0F ? 127.0F : value);
}

static void run_dequantize(const Task* task, const int32_t* input, void* output) {
  const size_t pixels = (size_t)task->count;
  if (task->type == kTfLiteFloat32) {
    dequantize_words_to_floats(input, output, pixels, task->channels);
  } else if (task->type == kTfLiteBool) {
    dequantize_words_to_int8(input, output, pixels, task->channels, 1, 0);
  } else {
    const float offset = roundf(1.0F / task->scale), zero = (float)task->zero_point;
    dequantize_words_to_int8(input, output, pixels, task->channels, saturated(zero + offset),
                             saturated(zero - offset));
  }
}

/** Multiplier and bias of an int8 output: values are divided by its scale. */
static void run_scale(const Task* task, const float* multiplier, const float* bias, float* output) {
  for (int32_t i = 0; i < task->count; i++) {
    output[i] = (float)((double)multiplier[i] / task->scale);
    output[task->count + i] = (float)((double)bias[i] / task->scale + task->zero_point);
  }
}

/** Tasks between sign maps and other forms, image by image. */
static void run_signs(const Plan* plan, const Task* task, const uint8_t* input, uint8_t* output) {
  const SignMap* map = &plan->targets[task->target].map;
  for (int32_t image = 0; image < task->images; image++) {
    uint8_t* signs = signs_of(plan, task, image);
    const void* from = input == NULL ? NULL : input + task->input_stride * (size_t)image;
    if (task->kind == kTaskPackFloats) {
      sign_map_pack_floats(map, from, signs, 0, map->height);
    } else if (task->kind == kTaskPackInt8) {
      sign_map_pack_int8(map, from, task->zero_point, signs, 0, map->height);
    } else if (task->kind == kTaskPackWords) {
      sign_map_pack_words(map, from, signs, 0, map->height);
    } else {
      void* to = output + task->output_stride * (size_t)image;
      sign_map_unpack_words(map, signs, to, 0, map->height);
    }
  }
}

/** The mean of four pixels, which most pools take: one pass over the channels. */
static void average_four(const float* restrict a, const float* restrict b, const float* restrict c,
                         const float* restrict d, int32_t channels, float* restrict output) {
  for (int32_t i = 0; i < channels; i++) {
    output[i] = (((a[i] + b[i]) + c[i]) + d[i]) * 0.25F;
  }
}

/** The mean of `rows` x `columns` pixels. */
static void average(const Task* task, const float* restrict input, int32_t rows, int32_t columns,
                    float* restrict output) {
  const int32_t channels = task->pool.words;
  const size_t row = (size_t)task->pool.input_width * (size_t)channels;
  if (rows == 2 && columns == 2) {
    average_four(input, input + channels, input + row, input + row + channels, channels, output);
    return;
  }
  memcpy(output, input, sizeof(float) * (size_t)channels);
  for (int32_t i = 0; i < rows; i++) {
    for (int32_t j = i == 0; j < columns; j++) {
      const float* pixel = input + (size_t)i * row + (size_t)j * (size_t)channels;
      for (int32_t c = 0; c < channels; c++) {
        output[c] += pixel[c];
      }
    }
  }
  for (int32_t c = 0; c < channels; c++) {
    output[c] /= (float)(rows * columns);
  }
}

/** Cuts the range [start, start + size) to [0, limit). */
static void cut(int32_t start, int32_t size, int32_t limit, int32_t* first, int32_t* count) {
  const int32_t end = size < limit - start ? start + size : limit;
  *first = start < 0 ? 0 : start;
  *count = end - *first;
}

/** The mean of a window's pixels that lie inside the image. */
static void run_average_pool(const Task* task, const float* input, float* output) {
  const PoolShape* pool = &task->pool;
  for (int32_t y = 0; y < pool->output_height; y++) {
    int32_t top, rows;
    cut(y * pool->stride_height - pool->padding_top, pool->filter_height, pool->input_height, &top,
        &rows);
    for (int32_t x = 0; x < pool->output_width; x++) {
      int32_t left, columns;
      cut(x * pool->stride_width - pool->padding_left, pool->filter_width, pool->input_width, &left,
          &columns);
      const float* pixel =
          input + ((size_t)top * (size_t)pool->input_width + (size_t)left) * (size_t)pool->words;
      average(task, pixel, rows, columns, output);
      for (int32_t c = 0; task->clamps && c < pool->words; c++) {
        output[c] = clamped(task, output[c]);
      }
      output += pool->words;
    }
  }
}

static void run_pool(const Task* task, const uint8_t* input, uint8_t* output) {
  for (int32_t image = 0; image < task->images; image++) {
    const void* from = input + task->input_stride * (size_t)image;
    void* to = output + task->output_stride * (size_t)image;
    if (task->kind == kTaskAveragePool) {
      run_average_pool(task, from, to);
    } else {
      max_pool_words(&task->pool, from, to, 0, task->pool.output_height);
    }
  }
}

static void run_slice(const Task* task, const float* input, float* output) {
  const PoolShape* slice = &task->pool;
  const size_t channels = (size_t)slice->words;
  for (int32_t image = 0; image < task->images; image++) {
    const float* from = input + task->input_stride / sizeof(float) * (size_t)image;
    for (int32_t y = 0; y < slice->output_height; y++) {
      const int32_t row = slice->padding_top + y * slice->stride_height;
      const float* pixel =
          from +
          ((size_t)row * (size_t)slice->input_width + (size_t)slice->padding_left) * channels;
      for (int32_t x = 0; x < slice->output_width; x++) {
        memcpy(output, pixel, sizeof(float) * channels);
        output += channels;
        pixel += (size_t)slice->stride_width * channels;
      }
    }
  }
}

static void run_task(const TfLiteContext* context, Plan* plan, Task* task, Threads* threads) {
  if (task->kind == kTaskConvolution) {
    run_convolution(context, plan, task, threads);
    return;
  }
  if (task->kind == kTaskMap) {
    run_map(context, plan, task, threads);
    return;
  }
  void* input = resolve(context, plan, task->input);
  void* second = resolve(context, plan, task->second);
  void* output = resolve(context, plan, task->output);
  switch (task->kind) {
    case kTaskElementwise:
      run_elementwise(task, input, second, output);
      break;
    case kTaskFilters:
      binary_convolution_prepare(&plan->convolutions[task->convolution].convolution, input,
                                 plan->convolutions[task->convolution].filters);
      break;
    case kTaskMaxPool:
    case kTaskAveragePool:
      run_pool(task, input, output);
      break;
    case kTaskSlice:
      run_slice(task, input, output);
      break;
    case kTaskDequantize:
      run_dequantize(task, input, output);
      break;
    case kTaskCopy:
      memcpy(output, input, task->output_stride);
      break;
    case kTaskWiden:
      run_widen(task, input, output);
      break;
    case kTaskTile:
      run_tile(task, input, output);
      break;
    case kTaskScale:
      run_scale(task, input, second, output);
      break;
    case kTaskThresholds:
      offsets_from_thresholds(&plan->convolutions[task->convolution].convolution, input, output);
      break;
    default:
      run_signs(plan, task, input, output);
      break;
  }
}

void plan_run_once(TfLiteContext* context, Plan* plan) {
  for (int i = 0; i < plan->task_count; i++) {
    Task* task = &plan->tasks[i];
    if (task->once) {
      run_task(context, plan, task, NULL);
    } else if (task->begins_once) {
      begin(context, plan, task);
    }
  }
}

TfLiteStatus plan_run(TfLiteContext* context, Plan* plan, Threads* threads) {
  for (int i = 0; i < plan->tensor_count; i++) {
    const TfLiteTensor* tensor = &context->tensors[plan->tensors[i]];
    if (tensor->data.raw == NULL || tensor->bytes < plan->tensor_bytes[i]) {
      context->ReportError(context, "larq_ensemble delegate: tensor %d has no memory.",
                           plan->tensors[i]);
      return kTfLiteError;
    }
  }
  for (int i = 0; i < plan->task_count; i++) {
    if (!plan->tasks[i].once) {
      run_task(context, plan, &plan->tasks[i], threads);
    }
  }
  return kTfLiteOk;
}

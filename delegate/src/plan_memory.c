#include <stdlib.h>

#include "plan_builder.h"
#include "zeroed.h"

static void touch(Plan* plan, Place place, int task) {
  if (place.buffer < 0) {
    return;
  }
  Buffer* buffer = &plan->buffers[place.buffer];
  buffer->first = buffer->first < task ? buffer->first : task;
  buffer->last = buffer->last > task ? buffer->last : task;
}

/** Finds when each buffer is in use. Constants and sign maps, whose margins stay, always are. */
static void find_lifetimes(Plan* plan) {
  for (int i = 0; i < plan->task_count; i++) {
    const Task* task = &plan->tasks[i];
    touch(plan, task->input, i);
    touch(plan, task->output, i);
    touch(plan, task->second, i);
    touch(plan, task->prepared, i);
    for (int j = 0; j < task->epilogue.step_count; j++) {
      touch(plan, task->places[j].place, i);
    }
  }
  for (int i = 0; i < plan->buffer_count; i++) {
    if (plan->buffers[i].constant) {
      plan->buffers[i].first = 0;
      plan->buffers[i].last = INT32_MAX;
    }
  }
  for (int i = 0; i < plan->target_count; i++) {
    plan->buffers[plan->targets[i].buffer].first = 0;
    plan->buffers[plan->targets[i].buffer].last = INT32_MAX;
  }
}

/** The lowest offset at which a buffer meets none of those placed before that live with it. */
static bool place_buffer(Plan* plan, const int* placed, int count, int index) {
  Buffer* buffer = &plan->buffers[index];
  size_t offset = 0;
  for (int i = 0; i < count; i++) {  // in the order of their offsets
    const Buffer* other = &plan->buffers[placed[i]];
    if (other->first > buffer->last || other->last < buffer->first) {
      continue;
    }
    if (other->offset >= offset && other->offset - offset >= buffer->bytes) {
      break;
    }
    const size_t end = other->offset + other->bytes;
    offset = end > offset ? end : offset;
  }
  if (buffer->bytes > SIZE_MAX / 2 - offset) {
    return false;
  }
  buffer->offset = offset;
  const size_t end = offset + buffer->bytes;
  plan->memory_bytes = end > plan->memory_bytes ? end : plan->memory_bytes;
  return true;
}

/** Places all buffers; those of different times may share memory. */
static bool layout_buffers(Plan* plan) {
  enum { kMaxShared = 4096 };  // beyond, finding a place takes too long
  int* placed = zeroed(plan->buffer_count, sizeof(int));
  bool fits = placed != NULL;
  find_lifetimes(plan);
  for (int i = 0; fits && i < plan->buffer_count; i++) {
    Buffer* buffer = &plan->buffers[i];
    if (buffer->bytes > SIZE_MAX / 4) {
      fits = false;
      break;
    }
    buffer->bytes = (buffer->bytes + 63) & ~(size_t)63;
    if (i >= kMaxShared) {
      buffer->offset = plan->memory_bytes;
      fits = buffer->bytes <= SIZE_MAX / 2 - plan->memory_bytes;
      plan->memory_bytes += buffer->bytes;
      continue;
    }
    fits = place_buffer(plan, placed, i, i);
    int at = i;
    while (at > 0 && plan->buffers[placed[at - 1]].offset > buffer->offset) {
      placed[at] = placed[at - 1];
      at--;
    }
    placed[at] = i;
  }
  free(placed);
  return fits;
}

/** Allocates at a multiple of 64 bytes. */
static uint8_t* aligned(size_t bytes, uint8_t** allocation) {
  *allocation = bytes > SIZE_MAX - 64 ? NULL : calloc(1, bytes + 64);
  return *allocation == NULL ? NULL : *allocation + (64 - (uintptr_t)*allocation % 64);
}

/** Memory for packed filters. */
static bool allocate_filters(Builder* b) {
  for (int i = 0; i < b->plan->convolution_count; i++) {
    PlannedConvolution* planned = &b->plan->convolutions[i];
    planned->filters = aligned(planned->convolution.memory_bytes, &planned->allocation);
    if (planned->filters == NULL) {
      return builder_fail(b, "there is no memory for the filters");
    }
  }
  return true;
}

/** Notes the tensors of TFLite's that tasks use, so that a run can check them. */
static void note_tensor(const Builder* b, Place place, bool* noted) {
  Plan* plan = b->plan;
  if (place.tensor >= 0 && !noted[place.tensor]) {
    noted[place.tensor] = true;
    plan->tensors[plan->tensor_count] = place.tensor;
    plan->tensor_bytes[plan->tensor_count++] = builder_bytes(b, place.tensor);
  }
}

static bool note_tensors(Builder* b) {
  Plan* plan = b->plan;
  bool* noted = zeroed(b->graph->tensor_count, sizeof(bool));
  plan->tensors = zeroed(b->graph->tensor_count, sizeof(int));
  plan->tensor_bytes = zeroed(b->graph->tensor_count, sizeof(size_t));
  if (noted == NULL || plan->tensors == NULL || plan->tensor_bytes == NULL) {
    free(noted);
    return builder_fail(b, "there is no memory");
  }
  for (int i = 0; i < plan->task_count; i++) {
    const Task* task = &plan->tasks[i];
    note_tensor(b, task->input, noted);
    note_tensor(b, task->output, noted);
    note_tensor(b, task->second, noted);
    for (int j = 0; j < task->epilogue.step_count; j++) {
      note_tensor(b, task->places[j].place, noted);
    }
  }
  free(noted);
  return true;
}

bool plan_memory(Builder* b, int32_t threads) {
  Plan* plan = b->plan;
  if (!layout_buffers(plan) || plan->scratch_bytes > SIZE_MAX / 4 / (size_t)threads) {
    return builder_fail(b, "its maps are too large");
  }
  plan->scratch_bytes = (plan->scratch_bytes + 63) & ~(size_t)63;
  plan->memory = aligned(plan->memory_bytes, &plan->allocation);
  plan->scratch = aligned(plan->scratch_bytes * (size_t)threads, &plan->scratch_allocation);
  if (plan->memory == NULL || plan->scratch == NULL) {
    return builder_fail(b, "there is no memory for its maps");
  }
  return allocate_filters(b) && note_tensors(b);
}

#include "plan_fusion.h"

#include <string.h>

Step* fusion_add_step(Task* task, StepKind kind, Place place, size_t stride) {
  const int i = task->epilogue.step_count++;
  Step* step = &task->epilogue.steps[i];
  step->kind = kind;
  task->places[i] = (StepPlace){place, stride};
  return step;
}

void fusion_add_clamp(Task* task, const Operator* op) {
  if (op->clamps) {
    Step* step = fusion_add_step(task, kStepClamp, kNowhere, 0);
    step->low = op->low;
    step->high = op->high;
  }
}

/** Whether constant values repeat after `period` elements. */
static bool repeats(const float* values, int32_t length, int32_t period) {
  return memcmp(values, values + period, (size_t)(length - period) * sizeof(float)) == 0;
}

/** Whether a task itself writes to a tensor or buffer: a 1x1 map, which looks like a vector. */
static bool writes(const Task* task, Place place) {
  for (int32_t i = 0; i < task->epilogue.step_count; i++) {
    const Place other = task->places[i].place;
    if (task->epilogue.steps[i].kind == kStepStore && other.tensor == place.tensor &&
        other.buffer == place.buffer) {
      return true;
    }
  }
  return false;
}

/** Finds one value a channel, or one for all, that lies in memory before the task runs. */
static bool vector_place(const Builder* b, const Task* task, int tensor, Place* place, bool* one) {
  const int32_t channels = task->epilogue.channels;
  const Vector vector = b->vectors[tensor];
  if (vector.length == 0) {
    return false;
  }
  *place = builder_place(b, vector.tensor);
  *one = vector.length == 1;
  if (!is_place(*place) || writes(task, *place)) {
    return false;
  }
  place->offset += (size_t)vector.offset * sizeof(float);
  if (*one || vector.length == channels) {
    return true;
  }
  return vector.length % channels == 0 && place->tensor >= 0 && builder_is_constant(b, *place) &&
         repeats(b->context->tensors[place->tensor].data.f + vector.offset, vector.length,
                 channels);
}

bool fusion_fits(const Builder* b, const Task* task, int i, int root, Fusion* fusion) {
  const Operator* op = &b->graph->operators[i];
  if (!operator_is_elementwise(op) || b->fused[i]) {
    return false;
  }
  const int output = op->outputs->data[0];
  const int* inputs = op->inputs->data;
  const int first = root_of(b, inputs[0]);
  if (!same_geometry(b->geometries[output], task_geometry(task)) ||
      elements_of(b, output) != elements_of(b, root)) {
    return false;
  }
  if (op->inputs->size == 1) {
    return true;
  }
  const int other = first == root ? inputs[1] : inputs[0];
  if (root_of(b, other) == root || (op->kind == kOperatorPrelu && first != root)) {
    return false;
  }
  fusion->kind = op->kind == kOperatorAdd        ? kStepAdd
                 : op->kind == kOperatorMultiply ? kStepMultiply
                                                 : kStepPrelu;
  if (vector_place(b, task, other, &fusion->place, &fusion->one)) {
    return true;
  }
  fusion->kind = kStepAddMap;
  fusion->place = builder_place(b, other);
  return op->kind == kOperatorAdd && is_place(fusion->place) &&
         elements_of(b, other) == elements_of(b, output);
}

void fusion_add(Builder* b, Task* task, int i, const Fusion* fusion) {
  const Operator* op = &b->graph->operators[i];
  if (op->inputs->size == 2) {
    Step* step = fusion_add_step(task, fusion->kind, fusion->place,
                                 fusion->kind == kStepAddMap ? task_image_bytes(task) : 0);
    step->one_value = fusion->kind != kStepAddMap && fusion->one;
  }
  fusion_add_clamp(task, op);
  b->fused[i] = true;
}

bool fusion_add_signs(Builder* b, Task* task, int tensor) {
  bool complete = true;
  for (int i = b->targets[tensor]; i >= 0; i = b->plan->targets[i].next) {
    SignTarget* target = &b->plan->targets[i];
    const SignMap* map = &target->map;
    const Geometry geometry = {map->height, map->width, map->channels};
    if (target->packed) {
      continue;
    }
    if (!same_geometry(geometry, task_geometry(task)) ||
        task->epilogue.step_count + 1 >= kMaxSteps) {
      complete = false;
      continue;
    }
    task->maps[task->epilogue.step_count] = i;
    fusion_add_step(task, kStepStoreSigns, in_buffer(target->buffer), target->stride);
    target->filled = true;
  }
  return complete;
}

void fusion_follow(Builder* b, Task* task, int root) {
  enum { kReserve = 4 };  // an operator with a clamp, signs and a store after it
  for (;;) {
    bool stores = builder_required_name(b, root) >= 0;
    Readers readers = builder_readers(b, root);
    for (int i; (i = builder_next_reader(b, &readers)) >= 0;) {
      if (b->graph->operators[i].kind == kOperatorQuantize) {
        stores |= !fusion_add_signs(b, task, b->graph->operators[i].outputs->data[0]);
      }
    }
    int next = -1;
    Fusion fusion = {0};
    readers = builder_readers(b, root);
    for (int i; (i = builder_next_reader(b, &readers)) >= 0;) {
      const bool room = task->epilogue.step_count + kReserve <= kMaxSteps;
      if (next < 0 && room && fusion_fits(b, task, i, root, &fusion)) {
        next = i;
      } else if (i != next && b->graph->operators[i].kind != kOperatorQuantize) {
        stores = true;
      }
    }
    if (stores && !is_place(b->places[root])) {
      fusion_add_step(task, kStepStore, builder_store(b, root), task_image_bytes(task));
    }
    if (next < 0) {
      return;
    }
    fusion_add(b, task, next, &fusion);
    root = root_of(b, b->graph->operators[next].outputs->data[0]);
  }
}

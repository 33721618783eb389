#include "plan_builder.h"
#include "plan_fusion.h"

/** Products of 64 bits, or floats, of an image below which waking threads takes longer. */
enum { kSharedWork = 1 << 18 };

/** An operand of a plain elementwise task: its place and its elements, which repeat. */
static void operand(const Builder* b, int tensor, Place* place, int32_t* count) {
  const Vector vector = b->vectors[tensor];
  *place = builder_place(b, tensor);
  *count = elements_of(b, tensor);
  if (vector.length != 0) {
    *place = builder_place(b, vector.tensor);
    place->offset += (size_t)vector.offset * sizeof(float);
    *count = vector.length;
  }
}

static void mark_constant(Builder* b, Task* task, bool constant) {
  if (constant && task->output.buffer >= 0) {
    task->once = true;
    b->plan->buffers[task->output.buffer].constant = true;
  }
}

static bool emit_elementwise(Builder* b, int i) {
  const Operator* op = &b->graph->operators[i];
  const int root = root_of(b, op->outputs->data[0]);
  const Place output = builder_store(b, root);
  Task* task = builder_add_task(b, kTaskElementwise);
  if (task == NULL) {
    return false;
  }
  task->op = op->kind;
  task->output = output;
  task->count = elements_of(b, root);
  operand(b, op->inputs->data[0], &task->input, &task->input_count);
  task->second = task->input;
  task->second_count = task->input_count;
  if (op->inputs->size == 2) {
    operand(b, op->inputs->data[1], &task->second, &task->second_count);
  }
  task->clamps = op->clamps;
  task->low = op->low;
  task->high = op->high;
  mark_constant(b, task,
                builder_is_constant(b, task->input) && builder_is_constant(b, task->second));
  b->fused[i] = true;
  return true;
}

/** Values a channel come first: they depend on no map, and epilogues need them. */
static bool emit_vectors(Builder* b) {
  for (int i = 0; i < b->graph->operator_count; i++) {
    const Operator* op = &b->graph->operators[i];
    if (operator_is_elementwise(op) && !b->maps[op->outputs->data[0]]) {
      bool ready = true;
      for (int j = 0; j < op->inputs->size; j++) {
        Place place;
        int32_t count;
        operand(b, op->inputs->data[j], &place, &count);
        ready &= is_place(place);
      }
      if (ready && !emit_elementwise(b, i)) {
        return false;
      }
    }
  }
  return true;
}

/** Whether all that an epilogue multiplies with or adds by channel is constant. */
static bool has_constant_values(const Builder* b, const Task* task) {
  for (int32_t i = 0; i < task->epilogue.step_count; i++) {
    const StepKind kind = task->epilogue.steps[i].kind;
    if ((kind == kStepMultiply || kind == kStepAdd || kind == kStepPrelu) &&
        !builder_is_constant(b, task->places[i].place)) {
      return false;
    }
  }
  return true;
}

/** Memory that an epilogue prepares at each run, or once. */
static bool add_prepared(Builder* b, Task* task, size_t bytes) {
  task->prepared = in_buffer(builder_add_buffer(b, bytes));
  if (!is_place(task->prepared)) {
    return false;
  }
  task->begins_once = has_constant_values(b, task);
  b->plan->buffers[task->prepared.buffer].constant = task->begins_once;
  return true;
}

static void set_geometry(const Builder* b, Task* task, Geometry geometry, int root) {
  task->epilogue.height = geometry.height;
  task->epilogue.width = geometry.width;
  task->epilogue.channels = geometry.channels;
  task->images = elements_of(b, root) / geometry_elements(geometry);
}

/** An elementwise operator on a map that lies in memory, and what follows it. */
static bool emit_map(Builder* b, int i) {
  const Operator* op = &b->graph->operators[i];
  const int output = op->outputs->data[0];
  for (int j = 0; j < op->inputs->size; j++) {
    const int root = root_of(b, op->inputs->data[j]);
    Task probe = {0};
    Fusion fusion = {0};
    set_geometry(b, &probe, b->geometries[output], output);
    if (!is_place(builder_place(b, root)) || !fusion_fits(b, &probe, i, root, &fusion)) {
      continue;
    }
    Task* task = builder_add_task(b, kTaskMap);
    if (task == NULL) {
      return false;
    }
    set_geometry(b, task, b->geometries[output], output);
    task->input = builder_place(b, root);
    task->input_stride = task_image_bytes(task);
    task->shared = geometry_elements(task_geometry(task)) >= kSharedWork;
    fusion_add(b, task, i, &fusion);
    fusion_follow(b, task, output);
    const size_t bytes = epilogue_bytes(&task->epilogue);
    return bytes == 0 ? builder_fail(b, "a map is too large") : add_prepared(b, task, bytes);
  }
  return emit_elementwise(b, i);
}

/** Adds a task that makes floats, one an output channel, of the convolution's operands. */
static int emit_channel_task(Builder* b, TaskKind kind, Place input, Place second, int32_t channels,
                             int convolution) {
  const int buffer = builder_add_buffer(b, 2 * sizeof(float) * (size_t)channels);
  Task* task = builder_add_task(b, kind);
  if (task == NULL || buffer < 0) {
    return -1;
  }
  task->input = input;
  task->second = second;
  task->count = channels;
  task->convolution = convolution;
  task->output = in_buffer(buffer);
  mark_constant(
      b, task,
      builder_is_constant(b, input) && (!is_place(second) || builder_is_constant(b, second)));
  return buffer;
}

/** Multiplier or bias: in place, or a part of a larger tensor. */
static Place channel_operand(const Builder* b, int tensor, int32_t channels) {
  const Vector vector = b->vectors[tensor];
  if (vector.length != channels) {
    return builder_place(b, tensor);
  }
  Place place = builder_place(b, vector.tensor);
  place.offset += (size_t)vector.offset * sizeof(float);
  return place;
}

/** The steps that LceBconv2d itself does. */
static bool add_own_steps(Builder* b, int i, Task* task, int scaled) {
  const Operator* op = &b->graph->operators[i];
  const int* inputs = op->inputs->data;
  const int output = op->outputs->data[0];
  const int32_t channels = task->epilogue.channels;
  const int type = b->context->tensors[output].type;
  if (type == kTfLiteInt32) {
    fusion_add_step(task, kStepAdd, in_buffer(scaled), 0);
    return fusion_add_signs(b, task, output) ||
           builder_fail(b, "a convolution has too many readers");
  }
  if (op->kind == kOperatorSignConvolution) {
    fusion_add_step(task, kStepAdd, channel_operand(b, inputs[2], channels), 0);
    fusion_add_clamp(task, op);
    fusion_follow(b, task, output);
    return true;
  }
  fusion_add_clamp(task, op);
  if (type == kTfLiteInt8) {
    Place bias = in_buffer(scaled);
    bias.offset = sizeof(float) * (size_t)channels;
    fusion_add_step(task, kStepMultiply, in_buffer(scaled), 0);
    fusion_add_step(task, kStepAdd, bias, 0);
    fusion_add_step(task, kStepStoreInt8, builder_store(b, output),
                    task_image_bytes(task) / sizeof(float));
    return true;
  }
  fusion_add_step(task, kStepMultiply, channel_operand(b, inputs[2], channels), 0);
  fusion_add_step(task, kStepAdd, channel_operand(b, inputs[3], channels), 0);
  fusion_follow(b, task, output);
  return true;
}

/** Unpacks a sign map into words. */
static bool emit_unpacking(Builder* b, int target, Place output) {
  Task* task = builder_add_task(b, kTaskUnpackWords);
  if (task == NULL) {
    return false;
  }
  const SignTarget* from = &b->plan->targets[target];
  const SignMap* map = &from->map;
  task->target = target;
  task->output = output;
  task->output_stride = sizeof(int32_t) * (((size_t)map->channels - 1) / 32 + 1) *
                        (size_t)map->height * (size_t)map->width;
  task->images = (int32_t)from->images;
  return true;
}

/** Packed words of a quantizer or a convolution, for those who don't read sign maps. */
static bool emit_words(Builder* b, int tensor) {
  for (int i = b->targets[tensor]; i >= 0; i = b->plan->targets[i].next) {
    if (b->plan->targets[i].to_words && !emit_unpacking(b, i, builder_store(b, tensor))) {
      return false;
    }
  }
  return true;
}

/** Fills a sign map with words, or with signs of floats, that lie in memory. */
static bool emit_packing(Builder* b, int tensor, int target) {
  if (b->plan->targets[target].filled) {
    return true;
  }
  const bool floats = b->context->tensors[tensor].type == kTfLiteFloat32;
  Task* task = builder_add_task(b, floats ? kTaskPackFloats : kTaskPackWords);
  if (task == NULL) {
    return false;
  }
  const SignMap* map = &b->plan->targets[target].map;
  const size_t pixel = floats ? (size_t)map->channels : ((size_t)map->channels - 1) / 32 + 1;
  task->input = builder_place(b, tensor);
  task->input_stride = 4 * pixel * (size_t)map->height * (size_t)map->width;
  task->images = (int32_t)(builder_bytes(b, tensor) / task->input_stride);
  task->target = target;
  b->plan->targets[target].filled = true;
  return true;
}

/** Packs the filters of a convolution: once if they are constant, else at each run. */
static bool emit_filters(Builder* b, int i, int convolution) {
  const Operator* op = &b->graph->operators[i];
  const int tensor = builder_operand_words(b, op, 1);
  Place words = builder_place(b, tensor);
  if (b->context->tensors[tensor].type == kTfLiteFloat32) {  // signs from another part
    const int target = b->filter_targets[i];
    const Shape* shape = &b->graph->shapes[tensor];
    words = in_buffer(
        builder_add_buffer(b, sizeof(int32_t) * (((size_t)shape_last(shape) - 1) / 32 + 1) *
                                  (size_t)(shape_elements(shape) / shape_last(shape))));
    if (!emit_packing(b, tensor, target) || words.buffer < 0 || !emit_unpacking(b, target, words)) {
      return false;
    }
  }
  Task* task = builder_add_task(b, kTaskFilters);
  if (task == NULL) {
    return false;
  }
  task->input = words;
  task->convolution = convolution;
  task->once = builder_is_constant(b, words);
  return true;
}

/** Adds a convolution to the plan, and returns its number; -1 if there is no memory. */
static int add_convolution(Builder* b, int i) {
  Plan* plan = b->plan;
  const int index = plan->convolution_count;
  PlannedConvolution* convolutions =
      builder_grown(plan->convolutions, index, sizeof(PlannedConvolution));
  if (convolutions == NULL) {
    builder_fail(b, "there is no memory");
    return -1;
  }
  plan->convolutions = convolutions;
  convolutions[index] = (PlannedConvolution){
      .convolution = {.shape = builder_convolution_shape(b->graph, &b->graph->operators[i]),
                      .input = plan->targets[b->convolution_targets[i]].map}};
  return plan->convolution_count++;
}

/** Computes what scales or offsets sums for another output than float; -1 if there is no memory. */
static int emit_scaled(Builder* b, int i, int convolution) {
  const Operator* op = &b->graph->operators[i];
  const int* inputs = op->inputs->data;
  const TfLiteTensor* output = &b->context->tensors[op->outputs->data[0]];
  const int32_t channels = b->plan->convolutions[convolution].convolution.shape.output_channels;
  const bool packs = output->type == kTfLiteInt32;
  const int scaled = emit_channel_task(
      b, packs ? kTaskThresholds : kTaskScale,
      packs ? builder_place(b, inputs[4]) : channel_operand(b, inputs[2], channels),
      packs ? kNowhere : channel_operand(b, inputs[3], channels), channels, convolution);
  if (scaled >= 0) {
    Task* task = &b->plan->tasks[b->plan->task_count - 1];
    task->scale = output->params.scale;
    task->zero_point = output->params.zero_point;
  }
  return scaled;
}

/** Whether a convolution is enough work for threads. */
static bool is_shared(const Operator* op, const ConvolutionShape* shape) {
  const int64_t words = ((int64_t)op->channels_in / op->groups + 63) / 64;
  return (double)words * shape->filter_height * shape->filter_width * shape->output_channels *
             shape->output_height * shape->output_width >=
         kSharedWork;
}

/** A convolution and what follows it, after what packs its operands. */
static bool emit_convolution(Builder* b, int i) {
  Plan* plan = b->plan;
  const Operator* op = &b->graph->operators[i];
  const int target = b->convolution_targets[i];
  const int index = add_convolution(b, i);
  if (index < 0 || !emit_filters(b, i, index) ||
      (plan->targets[target].packed && !emit_packing(b, builder_operand_words(b, op, 0), target))) {
    return false;
  }
  const bool scales = b->context->tensors[op->outputs->data[0]].type != kTfLiteFloat32;
  const int scaled = scales ? emit_scaled(b, i, index) : -1;
  Task* task = scales && scaled < 0 ? NULL : builder_add_task(b, kTaskConvolution);
  if (task == NULL) {
    return false;
  }
  BinaryConvolution* convolution = &plan->convolutions[index].convolution;
  const ConvolutionShape* shape = &convolution->shape;
  task->epilogue.height = shape->output_height;
  task->epilogue.width = shape->output_width;
  task->epilogue.channels = shape->output_channels;
  task->images = b->graph->shapes[op->inputs->data[0]].dims[0];
  task->shared = is_shared(op, shape);
  task->convolution = index;
  task->target = target;
  task->input = in_buffer(plan->targets[target].buffer);
  if (!add_own_steps(b, i, task, scaled)) {
    return false;
  }
  const char* error = "a convolution is too large";
  if (!binary_convolution_layout(convolution, &task->epilogue, &error)) {
    return builder_fail(b, error);
  }
  if (plan->scratch_bytes < convolution->scratch_bytes) {
    plan->scratch_bytes = convolution->scratch_bytes;
  }
  return add_prepared(b, task, convolution->prepared_bytes);
}

/** Sign maps of a quantizer that no epilogue has filled. */
static bool emit_quantize(Builder* b, const Operator* op) {
  const int input = op->inputs->data[0];
  const int type = b->context->tensors[input].type;
  for (int i = b->targets[op->outputs->data[0]]; i >= 0; i = b->plan->targets[i].next) {
    if (b->plan->targets[i].filled || b->plan->targets[i].packed) {
      continue;
    }
    Task* task = builder_add_task(b, type == kTfLiteFloat32 ? kTaskPackFloats : kTaskPackInt8);
    if (task == NULL) {
      return false;
    }
    const SignMap* map = &b->plan->targets[i].map;
    const int32_t elements = map->height * map->width * map->channels;
    task->input = builder_place(b, input);
    task->input_stride = (size_t)elements * builder_element_size(b, input);
    task->images = elements_of(b, input) / elements;
    task->target = i;
    // A byte of bool is false, -1, if it is less than 1.
    task->zero_point = type == kTfLiteBool ? 1 : b->context->tensors[input].params.zero_point;
  }
  return true;
}

/** A task that reads a map by windows and writes another, both of 4 bytes a channel or word. */
static Task* add_window_task(Builder* b, TaskKind kind, const Operator* op) {
  const int input = op->inputs->data[0], output = op->outputs->data[0];
  const Shape* from = &b->graph->shapes[input];
  const Shape* to = &b->graph->shapes[output];
  const Place place = builder_store(b, output);
  Task* task = builder_add_task(b, kind);
  if (task == NULL) {
    return NULL;
  }
  task->pool = (PoolShape){
      .input_height = from->dims[1],
      .input_width = from->dims[2],
      .words = from->dims[3],
      .output_height = to->dims[1],
      .output_width = to->dims[2],
      .stride_height = op->window.stride_height,
      .stride_width = op->window.stride_width,
  };
  task->images = to->dims[0];
  task->input = builder_place(b, input);
  task->input_stride = sizeof(float) * (size_t)(shape_elements(from) / from->dims[0]);
  task->output = place;
  task->output_stride = sizeof(float) * (size_t)(shape_elements(to) / to->dims[0]);
  return task;
}

static bool emit_pool(Builder* b, const Operator* op) {
  Task* task =
      add_window_task(b, op->kind == kOperatorMaxPool ? kTaskMaxPool : kTaskAveragePool, op);
  if (task == NULL) {
    return false;
  }
  const Window* window = &op->window;
  PoolShape* pool = &task->pool;
  pool->filter_height = window->filter_height;
  pool->filter_width = window->filter_width;
  window_side(pool->input_height, window->filter_height, window->stride_height, 1,
              window->same_padding, &pool->output_height, &pool->padding_top);
  window_side(pool->input_width, window->filter_width, window->stride_width, 1,
              window->same_padding, &pool->output_width, &pool->padding_left);
  task->clamps = op->clamps;
  task->low = op->low;
  task->high = op->high;
  return true;
}

/** Rows and columns of a map. */
static bool emit_slice(Builder* b, const Operator* op) {
  Task* task = add_window_task(b, kTaskSlice, op);
  if (task == NULL) {
    return false;
  }
  const Shape* from = &b->graph->shapes[op->inputs->data[0]];
  slice_start(b->context, op, from, &task->pool.padding_top, &task->pool.padding_left);
  return true;
}

static bool emit_dequantize(Builder* b, const Operator* op) {
  const int output = op->outputs->data[0];
  const Place place = builder_store(b, output);
  Task* task = builder_add_task(b, kTaskDequantize);
  if (task == NULL) {
    return false;
  }
  task->input = builder_place(b, op->inputs->data[0]);
  task->output = place;
  task->type = b->context->tensors[output].type;
  task->scale = b->context->tensors[output].params.scale;
  task->zero_point = b->context->tensors[output].params.zero_point;
  task->channels = shape_last(&b->graph->shapes[output]);
  task->count = elements_of(b, output) / task->channels;
  return true;
}

/** Copies, widens or repeats `from` into `to`. */
static bool emit_copy(Builder* b, TaskKind kind, Place from, Place to, int tensor, int input) {
  Task* task = builder_add_task(b, kind);
  if (task == NULL) {
    return false;
  }
  task->input = from;
  task->output = to;
  task->type = b->context->tensors[input].type;
  task->count = elements_of(b, tensor);
  task->input_count = elements_of(b, input);
  task->output_stride = builder_bytes(b, tensor);
  return true;
}

/** RESHAPE, BITCAST and CAST of packed words, where their words must lie in memory. */
static bool emit_moved_words(Builder* b, const Operator* op) {
  const int input = op->inputs->data[0];
  const int output = op->outputs->data[0];
  if (!b->wanted[output] && !b->required[output]) {
    return true;
  }
  return emit_copy(b, op->kind == kOperatorCast ? kTaskWiden : kTaskCopy, builder_place(b, input),
                   builder_store(b, output), output, input);
}

/** Whether somebody reads a part or a repetition of a vector as a tensor of its own. */
static bool needs_tensor(const Builder* b, int tensor, bool repeated) {
  if (builder_required_name(b, tensor) >= 0 || b->vectors[tensor].tensor == tensor) {
    return true;
  }
  Readers readers = builder_readers(b, tensor);
  for (int i; (i = builder_next_reader(b, &readers)) >= 0;) {
    const Operator* op = &b->graph->operators[i];
    const bool parts = op->kind == kOperatorSplit || op->kind == kOperatorTile;
    if (!operator_is_elementwise(op) && !(parts && !repeated) &&
        !(operator_is_convolution(op) && !repeated)) {
      return true;
    }
  }
  return false;
}

/** SPLIT_V and TILE: most readers take the vector itself. */
static bool emit_parts(Builder* b, const Operator* op) {
  const int input = op->inputs->data[0];
  const bool repeated = op->kind == kOperatorTile;
  Place from = builder_place(b, input);
  int32_t count = elements_of(b, input);
  if (repeated || b->vectors[input].length == count) {
    operand(b, input, &from, &count);
  }
  for (int j = 0; j < op->outputs->size; j++) {
    const int output = op->outputs->data[j];
    if (needs_tensor(b, output, repeated)) {
      const TaskKind kind = repeated ? kTaskTile : kTaskCopy;
      if (!emit_copy(b, kind, from, builder_store(b, output), output, input)) {
        return false;
      }
      b->plan->tasks[b->plan->task_count - 1].input_count = count;
    }
    from.offset += builder_bytes(b, output);
  }
  return true;
}

static bool emit(Builder* b, int i) {
  const Operator* op = &b->graph->operators[i];
  switch (op->kind) {
    case kOperatorQuantize:
      return emit_quantize(b, op) && emit_words(b, op->outputs->data[0]);
    case kOperatorConvolution:
    case kOperatorSignConvolution:
      return emit_convolution(b, i) && emit_words(b, op->outputs->data[0]);
    case kOperatorDequantize:
      return !builder_needs_floats(b, op) || emit_dequantize(b, op);
    case kOperatorMaxPool:
    case kOperatorAveragePool:
      return emit_pool(b, op);
    case kOperatorSlice:
      return emit_slice(b, op);
    case kOperatorTile:
    case kOperatorSplit:
      return emit_parts(b, op);
    case kOperatorReshape:
    case kOperatorBitcast:
    case kOperatorCast:
      return builder_renames(b, i) || emit_moved_words(b, op);
    default:
      return b->fused[i] || emit_map(b, i);
  }
}

/** Copies what the rest of the graph reads under a second name. */
static bool emit_names(Builder* b, const TfLiteIntArray* outputs) {
  for (int i = 0; i < outputs->size; i++) {
    const int tensor = outputs->data[i];
    const Place place = builder_place(b, tensor);
    if (!is_place(place)) {
      return builder_fail(b, "an output isn't computed");
    }
    if (place.tensor != tensor &&
        !emit_copy(b, kTaskCopy, place, (Place){tensor, -1, 0}, tensor, tensor)) {
      return false;
    }
  }
  return true;
}

bool plan_tasks(Builder* b, const TfLiteIntArray* outputs) {
  if (!emit_vectors(b)) {
    return false;
  }
  for (int i = 0; i < b->graph->operator_count; i++) {
    if (!emit(b, i) || b->error != NULL) {
      return false;
    }
  }
  return emit_names(b, outputs) && b->error == NULL;
}

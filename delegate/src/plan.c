#include "plan.h"

#include <stdlib.h>
#include <string.h>

/** A value a channel: elements [offset, offset + length) of a tensor; length 0: none. */
typedef struct {
  int tensor;
  int32_t offset, length;
} Vector;

/** How a float map is cut into images, rows and pixels; channels 0: not known. */
typedef struct {
  int32_t height, width, channels;
} Geometry;

/** Packed words seen as bits: those of tensor `source`, `bits` in each word; source -1: unknown. */
typedef struct {
  int source;
  int bits;
} View;

/** State of the planning; all arrays are of tensors, `fused` of operators. */
typedef struct {
  TfLiteContext* context;
  const Graph* graph;
  Plan* plan;
  int* roots;         // what RESHAPE only renames has one root
  int* next_aliases;  // of the same root, or -1
  bool* required;     // by the rest of the graph
  bool* maps;         // a root that a convolution or an operator on a map gives
  bool* wanted;       // packed words that must lie in memory
  Vector* vectors;
  Geometry* geometries;  // of roots
  View* views;
  Place* places;  // of roots, once a task writes them
  int* targets;   // the first sign target of packed words, or -1
  bool* fused;
  int* convolution_targets;  // of operators: the sign target that a convolution reads
  int* filter_targets;       // the one that its filters pass, if they lie as floats
  const char* error;
} Builder;

/** Products of 64 bits, or floats, of an image below which waking threads takes longer. */
enum { kSharedWork = 1 << 18 };

static const Place kNowhere = {-1, -1, 0};

// --- Memory of the plan ---

static void* zeroed(int count, size_t size) { return calloc((size_t)count + 1, size); }

/** Notes the first error. */
static bool fail(Builder* b, const char* error) {
  if (b->error == NULL) {
    b->error = error;
  }
  return false;
}

/** Makes room for one more element of an array that doubles. */
static void* grown(void* array, int count, size_t size) {
  if (count != 0 && (count & (count - 1)) != 0) {
    return array;
  }
  return realloc(array, (count == 0 ? 1 : 2 * (size_t)count) * size);
}

static int add_buffer(Builder* b, size_t bytes) {
  Plan* plan = b->plan;
  Buffer* buffers = grown(plan->buffers, plan->buffer_count, sizeof(Buffer));
  if (buffers == NULL) {
    fail(b, "there is no memory");
    return -1;
  }
  plan->buffers = buffers;
  buffers[plan->buffer_count] = (Buffer){.bytes = bytes, .first = INT32_MAX, .last = -1};
  return plan->buffer_count++;
}

/** Adds a task; the pointer is valid until the next one. */
static Task* add_task(Builder* b, TaskKind kind) {
  Plan* plan = b->plan;
  Task* tasks = grown(plan->tasks, plan->task_count, sizeof(Task));
  if (tasks == NULL) {
    fail(b, "there is no memory");
    return NULL;
  }
  plan->tasks = tasks;
  Task* task = &tasks[plan->task_count++];
  memset(task, 0, sizeof *task);
  task->kind = kind;
  task->images = 1;
  task->convolution = task->target = -1;
  task->input = task->output = task->second = task->prepared = kNowhere;
  for (int i = 0; i < kMaxSteps; i++) {
    task->places[i].place = kNowhere;
    task->maps[i] = -1;
  }
  return task;
}

static bool is_place(Place place) { return place.tensor >= 0 || place.buffer >= 0; }

static Place in_buffer(int buffer) { return (Place){-1, buffer, 0}; }

static int root_of(const Builder* b, int tensor) { return b->roots[tensor]; }

static int32_t elements_of(const Builder* b, int tensor) {
  return shape_elements(&b->graph->shapes[tensor]);
}

static bool is_external(const Builder* b, int tensor) { return b->graph->producers[tensor] < 0; }

/** Where a tensor lies, if it does yet. */
static Place place_of(const Builder* b, int tensor) {
  const int root = root_of(b, tensor);
  return is_external(b, root) ? (Place){root, -1, 0} : b->places[root];
}

static bool is_constant(const Builder* b, Place place) {
  return place.tensor >= 0 ? tensor_is_constant(&b->context->tensors[place.tensor])
                           : place.buffer >= 0 && b->plan->buffers[place.buffer].constant;
}

static size_t element_size(const Builder* b, int tensor) {
  switch (b->context->tensors[tensor].type) {
    case kTfLiteFloat32:
    case kTfLiteInt32:
      return 4;
    case kTfLiteUInt16:
      return 2;
    default:
      return 1;
  }
}

static size_t bytes_of(const Builder* b, int tensor) {
  return (size_t)elements_of(b, tensor) * element_size(b, tensor);
}

/** Whether the rest of the graph reads a root, by any of its names; returns that name or -1. */
static int required_name(const Builder* b, int root) {
  for (int t = root; t >= 0; t = b->next_aliases[t]) {
    if (b->required[t]) {
      return t;
    }
  }
  return -1;
}

/** Gives a root a place to be written to: TFLite's tensor if the rest of the graph reads it. */
static Place store(Builder* b, int root) {
  if (!is_place(b->places[root])) {
    const int name = required_name(b, root);
    b->places[root] =
        name >= 0 ? (Place){name, -1, 0} : in_buffer(add_buffer(b, bytes_of(b, root)));
  }
  return b->places[root];
}

// --- Readers of a root ---

typedef struct {
  int tensor, use;
} Readers;

static Readers readers_of(const Builder* b, int root) {
  return (Readers){root, b->graph->use_starts[root]};
}

static bool renames(const Builder* b, int i) {
  const Operator* op = &b->graph->operators[i];
  return op->kind == kOperatorReshape &&
         b->context->tensors[op->inputs->data[0]].type == kTfLiteFloat32;
}

/** The next operator that reads the root, or -1; what only renames it is left out. */
static int next_reader(const Builder* b, Readers* readers) {
  while (readers->tensor >= 0) {
    if (readers->use < b->graph->use_starts[readers->tensor + 1]) {
      const int i = b->graph->uses[readers->use++];
      if (!renames(b, i)) {
        return i;
      }
    } else {
      readers->tensor = b->next_aliases[readers->tensor];
      readers->use = readers->tensor < 0 ? 0 : b->graph->use_starts[readers->tensor];
    }
  }
  return -1;
}

// --- What the tensors are ---

static Vector vector_of_shape(const Builder* b, int tensor) {
  const bool is_vector = b->context->tensors[tensor].type == kTfLiteFloat32 &&
                         shape_valid(&b->graph->shapes[tensor]) &&
                         shape_is_vector(&b->graph->shapes[tensor]);
  if (!is_vector) {
    return (Vector){tensor, 0, 0};
  }
  const int32_t period = b->graph->periods[tensor];
  const bool repeats = period > 0 && elements_of(b, tensor) % period == 0;
  return (Vector){tensor, 0, repeats ? period : elements_of(b, tensor)};
}

/** RESHAPE of floats gives its input another name. */
static void rename_output(Builder* b, const Operator* op) {
  const int output = op->outputs->data[0];
  const int root = root_of(b, op->inputs->data[0]);
  b->roots[output] = root;
  b->next_aliases[output] = b->next_aliases[root];
  b->next_aliases[root] = output;
  if (shape_is_vector(&b->graph->shapes[output])) {
    b->vectors[output] = b->vectors[op->inputs->data[0]];
  }
}

/** SPLIT_V and TILE of a vector are parts and repetitions of it. */
static void view_vector(Builder* b, const Operator* op) {
  const Vector whole = b->vectors[op->inputs->data[0]];
  int32_t offset = whole.offset;
  for (int j = 0; j < op->outputs->size; j++) {
    const int output = op->outputs->data[j];
    if (op->kind == kOperatorTile) {
      b->vectors[output] = whole;
    } else if (whole.length == elements_of(b, op->inputs->data[0])) {
      b->vectors[output] = (Vector){whole.tensor, offset, elements_of(b, output)};
      offset += elements_of(b, output);
    }
  }
}

/** Follows packed words through RESHAPE, BITCAST and CAST. */
static void view_words(Builder* b, const Operator* op) {
  const int output = op->outputs->data[0];
  const View input = b->views[op->inputs->data[0]];
  switch (op->kind) {
    case kOperatorQuantize:
      b->views[output] = (View){output, 32};
      break;
    case kOperatorConvolution:
      if (b->context->tensors[output].type == kTfLiteInt32) {
        b->views[output] = (View){output, 32};
      }
      break;
    case kOperatorReshape:
    case kOperatorCast:
      b->views[output] = input;
      break;
    case kOperatorBitcast:
      if (input.bits == 32) {
        b->views[output] =
            (View){input.source, b->context->tensors[output].type == kTfLiteUInt8 ? 8 : 16};
      }
      break;
    default:
      break;
  }
}

/** Whether an elementwise operator works on a map, or on values a channel only. */
static bool works_on_map(const Builder* b, const Operator* op) {
  for (int j = 0; j < op->inputs->size; j++) {
    const int root = root_of(b, op->inputs->data[j]);
    if (b->maps[root] || (is_external(b, root) && b->vectors[root].length == 0)) {
      return true;
    }
  }
  return false;
}

static void understand_tensors(Builder* b) {
  for (int t = 0; t < b->graph->tensor_count; t++) {
    b->roots[t] = t;
    b->next_aliases[t] = b->targets[t] = -1;
    b->views[t] = (View){-1, 0};
    b->vectors[t] = vector_of_shape(b, t);
    b->places[t] = kNowhere;
  }
  for (int i = 0; i < b->graph->operator_count; i++) {
    const Operator* op = &b->graph->operators[i];
    const int output = op->outputs->data[0];
    if (renames(b, i)) {
      rename_output(b, op);
    } else if (op->kind == kOperatorTile || op->kind == kOperatorSplit) {
      view_vector(b, op);
    } else if (operator_is_elementwise(op)) {
      b->maps[output] = works_on_map(b, op);
    } else {
      b->maps[output] = true;
      view_words(b, op);
    }
  }
}

// --- Geometries and sign maps ---

static bool same_geometry(Geometry a, Geometry b) {
  return a.channels != 0 && a.height == b.height && a.width == b.width && a.channels == b.channels;
}

static int32_t geometry_elements(Geometry g) { return g.height * g.width * g.channels; }

/** The geometry that the shape itself says. */
static Geometry geometry_of_shape(const Shape* shape) {
  if (shape->rank == 4) {
    return (Geometry){shape->dims[1], shape->dims[2], shape->dims[3]};
  }
  return (Geometry){1, shape_elements(shape) / shape_last(shape), shape_last(shape)};
}

/** The number of values a pixel in packed words: of a quantizer or a convolution. */
static int32_t packed_channels(const Builder* b, int tensor) {
  const Operator* op = &b->graph->operators[b->graph->producers[tensor]];
  return op->kind == kOperatorQuantize ? shape_last(&b->graph->shapes[op->inputs->data[0]])
                                       : b->graph->shapes[op->inputs->data[1]].dims[0];
}

/** The packed words behind an operand of a convolution; of CONV_2D the floats if they are all. */
static int operand_words(const Builder* b, const Operator* op, int operand) {
  const int tensor = op->inputs->data[operand];
  const int producer = b->graph->producers[tensor];
  if (op->kind == kOperatorConvolution || producer < 0 ||
      b->graph->operators[producer].kind != kOperatorDequantize) {
    return tensor;
  }
  return b->graph->operators[producer].inputs->data[0];
}

/** Whether a convolution's words are exactly the signs behind its view. */
static bool reads_signs(const Builder* b, const Operator* op) {
  const int tensor = operand_words(b, op, 0);
  const View view = b->views[tensor];
  if (view.source < 0) {
    return false;
  }
  const int32_t channels = packed_channels(b, view.source);
  const Shape* shape = &b->graph->shapes[tensor];
  if (view.bits == 32 && shape_equal(shape, &b->graph->shapes[view.source])) {
    return op->channels_in == channels;
  }
  const OperatorKind producer = b->graph->operators[b->graph->producers[view.source]].kind;
  return producer == kOperatorQuantize && channels % 32 == 0 &&
         (int64_t)shape->dims[3] * view.bits == op->channels_in;
}

/** Finds or adds the sign map of such a geometry. */
static int sign_target(Builder* b, int source, bool packed, Geometry geometry, int32_t images) {
  Plan* plan = b->plan;
  for (int i = b->targets[source]; i >= 0; i = plan->targets[i].next) {
    const SignMap* map = &plan->targets[i].map;
    if (plan->targets[i].packed == packed &&
        same_geometry((Geometry){map->height, map->width, map->channels}, geometry)) {
      return i;
    }
  }
  SignTarget* targets = grown(plan->targets, plan->target_count, sizeof(SignTarget));
  const int buffer = add_buffer(b, 0);
  if (targets == NULL || buffer < 0) {
    fail(b, "there is no memory");
    return -1;
  }
  plan->targets = targets;
  targets[plan->target_count] = (SignTarget){
      .source = source,
      .packed = packed,
      .map = {.height = geometry.height, .width = geometry.width, .channels = geometry.channels},
      .buffer = buffer,
      .images = images,
      .next = b->targets[source],
  };
  b->targets[source] = plan->target_count;
  return plan->target_count++;
}

static ConvolutionShape convolution_shape(const Graph* graph, const Operator* op) {
  const Window* window = &op->window;
  const Shape* input = &graph->shapes[op->inputs->data[0]];
  ConvolutionShape shape = {
      .groups = op->groups,
      .filter_height = window->filter_height,
      .filter_width = window->filter_width,
      .stride_height = window->stride_height,
      .stride_width = window->stride_width,
      .dilation_height = window->dilation_height,
      .dilation_width = window->dilation_width,
      .pads_with_ones = op->pads_with_ones,
      .output_channels = graph->shapes[op->inputs->data[1]].dims[0],
  };
  window_side(input->dims[1], window->filter_height, window->stride_height, window->dilation_height,
              window->same_padding, &shape.output_height, &shape.padding_top);
  window_side(input->dims[2], window->filter_width, window->stride_width, window->dilation_width,
              window->same_padding, &shape.output_width, &shape.padding_left);
  return shape;
}

/** Plans the signs of filters that are known as floats only. */
static bool plan_filters(Builder* b, int i) {
  const int tensor = operand_words(b, &b->graph->operators[i], 1);
  if (b->context->tensors[tensor].type != kTfLiteFloat32) {
    b->wanted[tensor] = true;
    return true;
  }
  const Shape* shape = &b->graph->shapes[tensor];
  const Geometry geometry = {1, shape_elements(shape) / shape_last(shape), shape_last(shape)};
  b->filter_targets[i] = sign_target(b, tensor, true, geometry, 1);
  return b->filter_targets[i] >= 0;
}

/** Plans the signs that a convolution reads. */
static bool plan_input(Builder* b, int i) {
  const Operator* op = &b->graph->operators[i];
  const int tensor = operand_words(b, op, 0);
  const Shape* shape = &b->graph->shapes[tensor];
  const bool direct = reads_signs(b, op);
  const int source = direct ? b->views[tensor].source : tensor;
  if (!direct) {
    b->wanted[tensor] = true;
  }
  const Geometry geometry = {shape->dims[1], shape->dims[2], op->channels_in};
  const int target = sign_target(b, source, !direct, geometry, shape->dims[0]);
  if (target < 0) {
    return false;
  }
  const ConvolutionShape convolution = convolution_shape(b->graph, op);
  binary_convolution_margin(&convolution, &b->plan->targets[target].map);
  b->convolution_targets[i] = target;
  return op->kind == kOperatorConvolution || plan_filters(b, i);
}

/** Words that must lie in memory are made of a sign map without need for another form. */
static bool plan_words(Builder* b, int tensor) {
  const Shape* shape = &b->graph->shapes[tensor];
  Geometry geometry = geometry_of_shape(shape);
  geometry.channels = packed_channels(b, tensor);
  const int target = sign_target(b, tensor, false, geometry, shape->rank == 4 ? shape->dims[0] : 1);
  if (target >= 0) {
    b->plan->targets[target].to_words = true;
  }
  return target >= 0;
}

/** Whether somebody reads what LceDequantize gives as floats. */
static bool needs_floats(const Builder* b, const Operator* op) {
  const int output = op->outputs->data[0];
  bool needed = required_name(b, output) >= 0;
  Readers readers = readers_of(b, output);
  for (int i; (i = next_reader(b, &readers)) >= 0;) {
    const Operator* reader = &b->graph->operators[i];
    needed |= reader->kind != kOperatorSignConvolution || operand_words(b, reader, 0) == output ||
              operand_words(b, reader, 1) == output || reader->inputs->data[2] == output;
  }
  return needed;
}

/** Finds which words must lie in memory, from the last operator to the first, and all sign maps. */
static bool plan_signs(Builder* b) {
  for (int i = b->graph->operator_count - 1; i >= 0; i--) {
    const Operator* op = &b->graph->operators[i];
    const int output = op->outputs->data[0];
    const int input = op->inputs->data[0];
    const bool wanted = b->wanted[output] || b->required[output];
    bool done = true;
    switch (op->kind) {
      case kOperatorConvolution:
      case kOperatorSignConvolution:
        done = plan_input(b, i);
        if (done && wanted && b->views[output].source == output) {
          done = plan_words(b, output);
        }
        break;
      case kOperatorQuantize:
        done = !wanted || plan_words(b, output);
        break;
      case kOperatorMaxPool:
        b->wanted[input] = true;
        break;
      case kOperatorDequantize:
        b->wanted[input] |= needs_floats(b, op);
        break;
      case kOperatorReshape:
      case kOperatorBitcast:
      case kOperatorCast:
        b->wanted[input] = b->wanted[input] || wanted;
        break;
      default:
        break;
    }
    if (!done) {
      return false;
    }
  }
  for (int i = 0; i < b->plan->target_count; i++) {
    SignTarget* target = &b->plan->targets[i];
    const size_t images = (size_t)target->images;
    if (!sign_map_layout(&target->map) || target->map.bytes > SIZE_MAX / 2 / images - 64) {
      return fail(b, "a map of signs is too large");
    }
    target->stride = (target->map.bytes + 63) & ~(size_t)63;
    b->plan->buffers[target->buffer].bytes = target->stride * images;
  }
  return true;
}

/** Passes geometries on between the maps of elementwise operators. */
static void spread_geometry(Builder* b, const Operator* op, bool forward) {
  Geometry* output = &b->geometries[root_of(b, op->outputs->data[0])];
  for (int j = 0; j < op->inputs->size; j++) {
    const int root = root_of(b, op->inputs->data[j]);
    Geometry* input = &b->geometries[root];
    if (elements_of(b, root) != elements_of(b, op->outputs->data[0])) {
      continue;
    }
    if (forward && output->channels == 0) {
      *output = *input;
    } else if (!forward && input->channels == 0) {
      *input = *output;
    }
  }
}

/** Finds how each map is cut: as convolutions write and read it, else as its shape says. */
static void find_geometries(Builder* b) {
  const Graph* graph = b->graph;
  for (int i = 0; i < graph->operator_count; i++) {
    const Operator* op = &graph->operators[i];
    if (operator_is_convolution(op)) {
      const int output = op->outputs->data[0];
      b->geometries[output] = geometry_of_shape(&graph->shapes[output]);
    }
  }
  for (int i = 0; i < b->plan->target_count; i++) {
    const SignTarget* target = &b->plan->targets[i];
    const int producer = graph->producers[target->source];
    if (target->packed || graph->operators[producer].kind != kOperatorQuantize) {
      continue;
    }
    Geometry* geometry = &b->geometries[root_of(b, graph->operators[producer].inputs->data[0])];
    if (geometry->channels == 0) {
      *geometry = (Geometry){target->map.height, target->map.width, target->map.channels};
    }
  }
  for (int sweep = 0; sweep < 4; sweep++) {
    for (int j = 0; j < graph->operator_count; j++) {
      const int i = sweep % 2 == 0 ? j : graph->operator_count - 1 - j;
      if (operator_is_elementwise(&graph->operators[i])) {
        spread_geometry(b, &graph->operators[i], sweep % 2 == 0);
      }
    }
  }
  for (int t = 0; t < graph->tensor_count; t++) {
    if (b->roots[t] == t && b->geometries[t].channels == 0 && shape_valid(&graph->shapes[t])) {
      b->geometries[t] = geometry_of_shape(&graph->shapes[t]);
    }
  }
}

// --- Epilogues ---

static Step* add_step(Task* task, StepKind kind, Place place, size_t stride) {
  const int i = task->epilogue.step_count++;
  Step* step = &task->epilogue.steps[i];
  step->kind = kind;
  task->places[i] = (StepPlace){place, stride};
  return step;
}

static void add_clamp(Task* task, const Operator* op) {
  if (op->clamps) {
    Step* step = add_step(task, kStepClamp, kNowhere, 0);
    step->low = op->low;
    step->high = op->high;
  }
}

static Geometry geometry_of(const Task* task) {
  return (Geometry){task->epilogue.height, task->epilogue.width, task->epilogue.channels};
}

static size_t image_bytes(const Task* task) {
  return (size_t)geometry_elements(geometry_of(task)) * sizeof(float);
}

/** Whether constant values repeat after `period` elements. */
static bool repeats(const float* values, int32_t length, int32_t period) {
  return memcmp(values, values + period, (size_t)(length - period) * sizeof(float)) == 0;
}

/** Finds one value a channel, or one for all, that lies in memory already. */
static bool vector_place(const Builder* b, int tensor, int32_t channels, Place* place, bool* one) {
  const Vector vector = b->vectors[tensor];
  if (vector.length == 0) {
    return false;
  }
  *place = place_of(b, vector.tensor);
  *one = vector.length == 1;
  if (!is_place(*place)) {
    return false;
  }
  place->offset += (size_t)vector.offset * sizeof(float);
  if (*one || vector.length == channels) {
    return true;
  }
  return vector.length % channels == 0 && place->tensor >= 0 && is_constant(b, *place) &&
         repeats(b->context->tensors[place->tensor].data.f + vector.offset, vector.length,
                 channels);
}

/** An elementwise operator as a step: its second operand. */
typedef struct {
  StepKind kind;
  Place place;
  bool one;
} Fusion;

/** Whether operator i can be a step for `root`, the value in hand. */
static bool fuses(const Builder* b, const Task* task, int i, int root, Fusion* fusion) {
  const Operator* op = &b->graph->operators[i];
  if (!operator_is_elementwise(op) || b->fused[i]) {
    return false;
  }
  const int output = op->outputs->data[0];
  const int* inputs = op->inputs->data;
  const int first = root_of(b, inputs[0]);
  if (!same_geometry(b->geometries[output], geometry_of(task)) ||
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
  if (vector_place(b, other, task->epilogue.channels, &fusion->place, &fusion->one)) {
    return true;
  }
  fusion->kind = kStepAddMap;
  fusion->place = place_of(b, other);
  return op->kind == kOperatorAdd && is_place(fusion->place) &&
         elements_of(b, other) == elements_of(b, output);
}

static void fuse(Builder* b, Task* task, int i, const Fusion* fusion) {
  const Operator* op = &b->graph->operators[i];
  if (op->inputs->size == 2) {
    Step* step = add_step(task, fusion->kind, fusion->place,
                          fusion->kind == kStepAddMap ? image_bytes(task) : 0);
    step->one_value = fusion->kind != kStepAddMap && fusion->one;
  }
  add_clamp(task, op);
  b->fused[i] = true;
}

/** Adds steps that pack the value in hand for a quantizer; false if some of its maps are left. */
static bool add_signs(Builder* b, Task* task, int tensor) {
  bool complete = true;
  for (int i = b->targets[tensor]; i >= 0; i = b->plan->targets[i].next) {
    SignTarget* target = &b->plan->targets[i];
    const SignMap* map = &target->map;
    const Geometry geometry = {map->height, map->width, map->channels};
    if (target->packed) {
      continue;
    }
    if (!same_geometry(geometry, geometry_of(task)) || task->epilogue.step_count + 1 >= kMaxSteps) {
      complete = false;
      continue;
    }
    task->maps[task->epilogue.step_count] = i;
    add_step(task, kStepStoreSigns, in_buffer(target->buffer), target->stride);
    target->filled = true;
  }
  return complete;
}

/** Follows the graph from the value in hand as far as steps can do what it does. */
static void extend(Builder* b, Task* task, int root) {
  enum { kReserve = 4 };  // an operator with a clamp, signs and a store after it
  for (;;) {
    bool stores = required_name(b, root) >= 0;
    Readers readers = readers_of(b, root);
    for (int i; (i = next_reader(b, &readers)) >= 0;) {
      if (b->graph->operators[i].kind == kOperatorQuantize) {
        stores |= !add_signs(b, task, b->graph->operators[i].outputs->data[0]);
      }
    }
    int next = -1;
    Fusion fusion = {0};
    readers = readers_of(b, root);
    for (int i; (i = next_reader(b, &readers)) >= 0;) {
      const bool room = task->epilogue.step_count + kReserve <= kMaxSteps;
      if (next < 0 && room && fuses(b, task, i, root, &fusion)) {
        next = i;
      } else if (i != next && b->graph->operators[i].kind != kOperatorQuantize) {
        stores = true;
      }
    }
    if (stores && !is_place(b->places[root])) {
      add_step(task, kStepStore, store(b, root), image_bytes(task));
    }
    if (next < 0) {
      return;
    }
    fuse(b, task, next, &fusion);
    root = root_of(b, b->graph->operators[next].outputs->data[0]);
  }
}

// --- Tasks ---

/** An operand of a plain elementwise task: its place and its elements, which repeat. */
static void operand(const Builder* b, int tensor, Place* place, int32_t* count) {
  const Vector vector = b->vectors[tensor];
  *place = place_of(b, tensor);
  *count = elements_of(b, tensor);
  if (vector.length != 0) {
    *place = place_of(b, vector.tensor);
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
  const Place output = store(b, root);
  Task* task = add_task(b, kTaskElementwise);
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
  mark_constant(b, task, is_constant(b, task->input) && is_constant(b, task->second));
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

static bool has_constant_values(const Builder* b, const Task* task) {
  for (int32_t i = 0; i < task->epilogue.step_count; i++) {
    const StepKind kind = task->epilogue.steps[i].kind;
    if ((kind == kStepMultiply || kind == kStepAdd || kind == kStepPrelu) &&
        !is_constant(b, task->places[i].place)) {
      return false;
    }
  }
  return true;
}

/** Memory that an epilogue prepares at each run, or once. */
static bool add_prepared(Builder* b, Task* task, size_t bytes) {
  task->prepared = in_buffer(add_buffer(b, bytes));
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
    if (!is_place(place_of(b, root)) || !fuses(b, &probe, i, root, &fusion)) {
      continue;
    }
    Task* task = add_task(b, kTaskMap);
    if (task == NULL) {
      return false;
    }
    set_geometry(b, task, b->geometries[output], output);
    task->input = place_of(b, root);
    task->input_stride = image_bytes(task);
    task->shared = geometry_elements(geometry_of(task)) >= kSharedWork;
    fuse(b, task, i, &fusion);
    extend(b, task, output);
    const size_t bytes = epilogue_bytes(&task->epilogue);
    return bytes == 0 ? fail(b, "a map is too large") : add_prepared(b, task, bytes);
  }
  return emit_elementwise(b, i);
}

/** Adds a task that makes floats, one an output channel, of the convolution's operands. */
static int emit_channel_task(Builder* b, TaskKind kind, Place input, Place second, int32_t channels,
                             int convolution) {
  const int buffer = add_buffer(b, 2 * sizeof(float) * (size_t)channels);
  Task* task = add_task(b, kind);
  if (task == NULL || buffer < 0) {
    return -1;
  }
  task->input = input;
  task->second = second;
  task->count = channels;
  task->convolution = convolution;
  task->output = in_buffer(buffer);
  mark_constant(b, task, is_constant(b, input) && (!is_place(second) || is_constant(b, second)));
  return buffer;
}

/** Multiplier or bias: in place, or a part of a larger tensor. */
static Place channel_operand(const Builder* b, int tensor, int32_t channels) {
  const Vector vector = b->vectors[tensor];
  if (vector.length != channels) {
    return place_of(b, tensor);
  }
  Place place = place_of(b, vector.tensor);
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
    add_step(task, kStepAdd, in_buffer(scaled), 0);
    return add_signs(b, task, output) || fail(b, "a convolution has too many readers");
  }
  if (op->kind == kOperatorSignConvolution) {
    add_step(task, kStepAdd, channel_operand(b, inputs[2], channels), 0);
    add_clamp(task, op);
    extend(b, task, output);
    return true;
  }
  add_clamp(task, op);
  if (type == kTfLiteInt8) {
    Place bias = in_buffer(scaled);
    bias.offset = sizeof(float) * (size_t)channels;
    add_step(task, kStepMultiply, in_buffer(scaled), 0);
    add_step(task, kStepAdd, bias, 0);
    add_step(task, kStepStoreInt8, store(b, output), image_bytes(task) / sizeof(float));
    return true;
  }
  add_step(task, kStepMultiply, channel_operand(b, inputs[2], channels), 0);
  add_step(task, kStepAdd, channel_operand(b, inputs[3], channels), 0);
  extend(b, task, output);
  return true;
}

/** Unpacks a sign map into words. */
static bool emit_unpacking(Builder* b, int target, Place output) {
  Task* task = add_task(b, kTaskUnpackWords);
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
    if (b->plan->targets[i].to_words && !emit_unpacking(b, i, store(b, tensor))) {
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
  Task* task = add_task(b, floats ? kTaskPackFloats : kTaskPackWords);
  if (task == NULL) {
    return false;
  }
  const SignMap* map = &b->plan->targets[target].map;
  const size_t pixel = floats ? (size_t)map->channels : ((size_t)map->channels - 1) / 32 + 1;
  task->input = place_of(b, tensor);
  task->input_stride = 4 * pixel * (size_t)map->height * (size_t)map->width;
  task->images = (int32_t)(bytes_of(b, tensor) / task->input_stride);
  task->target = target;
  b->plan->targets[target].filled = true;
  return true;
}

/** Packs the filters of a convolution: once if they are constant, else at each run. */
static bool emit_filters(Builder* b, int i, int convolution) {
  const Operator* op = &b->graph->operators[i];
  const int tensor = operand_words(b, op, 1);
  Place words = place_of(b, tensor);
  if (b->context->tensors[tensor].type == kTfLiteFloat32) {  // signs from another part
    const int target = b->filter_targets[i];
    const Shape* shape = &b->graph->shapes[tensor];
    words = in_buffer(add_buffer(b, sizeof(int32_t) * (((size_t)shape_last(shape) - 1) / 32 + 1) *
                                        (size_t)(shape_elements(shape) / shape_last(shape))));
    if (!emit_packing(b, tensor, target) || words.buffer < 0 || !emit_unpacking(b, target, words)) {
      return false;
    }
  }
  Task* task = add_task(b, kTaskFilters);
  if (task == NULL) {
    return false;
  }
  task->input = words;
  task->convolution = convolution;
  task->once = is_constant(b, words);
  return true;
}

static bool emit_convolution(Builder* b, int i) {
  Plan* plan = b->plan;
  const Operator* op = &b->graph->operators[i];
  const int* inputs = op->inputs->data;
  const int output = op->outputs->data[0];
  const int type = b->context->tensors[output].type;
  const int target = b->convolution_targets[i];
  const int index = plan->convolution_count;
  PlannedConvolution* convolutions = grown(plan->convolutions, index, sizeof(PlannedConvolution));
  if (convolutions == NULL) {
    return fail(b, "there is no memory");
  }
  plan->convolutions = convolutions;
  convolutions[index] =
      (PlannedConvolution){.convolution = {.shape = convolution_shape(b->graph, op),
                                           .input = plan->targets[target].map}};
  plan->convolution_count++;
  if (!emit_filters(b, i, index) ||
      (plan->targets[target].packed && !emit_packing(b, operand_words(b, op, 0), target))) {
    return false;
  }
  const int32_t channels = convolutions[index].convolution.shape.output_channels;
  int scaled = -1;
  if (type != kTfLiteFloat32) {
    const bool packs = type == kTfLiteInt32;
    scaled = emit_channel_task(
        b, packs ? kTaskThresholds : kTaskScale,
        packs ? place_of(b, inputs[4]) : channel_operand(b, inputs[2], channels),
        packs ? kNowhere : channel_operand(b, inputs[3], channels), channels, index);
    if (scaled < 0) {
      return false;
    }
    plan->tasks[plan->task_count - 1].scale = b->context->tensors[output].params.scale;
    plan->tasks[plan->task_count - 1].zero_point = b->context->tensors[output].params.zero_point;
  }
  Task* task = add_task(b, kTaskConvolution);
  if (task == NULL) {
    return false;
  }
  const ConvolutionShape* shape = &convolutions[index].convolution.shape;
  task->epilogue.height = shape->output_height;
  task->epilogue.width = shape->output_width;
  task->epilogue.channels = channels;
  task->images = b->graph->shapes[inputs[0]].dims[0];
  const int64_t words = ((int64_t)op->channels_in / op->groups + 63) / 64;
  task->shared = (double)words * shape->filter_height * shape->filter_width * channels *
                     shape->output_height * shape->output_width >=
                 kSharedWork;
  task->convolution = index;
  task->target = target;
  task->input = in_buffer(plan->targets[target].buffer);
  if (!add_own_steps(b, i, task, scaled)) {
    return false;
  }
  BinaryConvolution* convolution = &plan->convolutions[index].convolution;
  const char* error = "a convolution is too large";
  if (!binary_convolution_layout(convolution, &task->epilogue, &error)) {
    return fail(b, error);
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
    Task* task = add_task(b, type == kTfLiteFloat32 ? kTaskPackFloats : kTaskPackInt8);
    if (task == NULL) {
      return false;
    }
    const SignMap* map = &b->plan->targets[i].map;
    const int32_t elements = map->height * map->width * map->channels;
    task->input = place_of(b, input);
    task->input_stride = (size_t)elements * element_size(b, input);
    task->images = elements_of(b, input) / elements;
    task->target = i;
    // A byte of bool is false, -1, if it is less than 1.
    task->zero_point = type == kTfLiteBool ? 1 : b->context->tensors[input].params.zero_point;
  }
  return true;
}

/** A pool of packed words or of floats; both have 4 bytes. */
static bool emit_pool(Builder* b, const Operator* op) {
  const int output = op->outputs->data[0];
  const Shape* from = &b->graph->shapes[op->inputs->data[0]];
  const Shape* to = &b->graph->shapes[output];
  const Place place = store(b, output);
  Task* task = add_task(b, op->kind == kOperatorMaxPool ? kTaskMaxPool : kTaskAveragePool);
  if (task == NULL) {
    return false;
  }
  const Window* window = &op->window;
  PoolShape* pool = &task->pool;
  *pool = (PoolShape){
      .input_height = from->dims[1],
      .input_width = from->dims[2],
      .words = from->dims[3],
      .filter_height = window->filter_height,
      .filter_width = window->filter_width,
      .stride_height = window->stride_height,
      .stride_width = window->stride_width,
  };
  window_side(from->dims[1], window->filter_height, window->stride_height, 1, window->same_padding,
              &pool->output_height, &pool->padding_top);
  window_side(from->dims[2], window->filter_width, window->stride_width, 1, window->same_padding,
              &pool->output_width, &pool->padding_left);
  task->clamps = op->clamps;
  task->low = op->low;
  task->high = op->high;
  task->images = to->dims[0];
  task->input = place_of(b, op->inputs->data[0]);
  task->input_stride = sizeof(int32_t) * (size_t)(shape_elements(from) / from->dims[0]);
  task->output = place;
  task->output_stride = sizeof(int32_t) * (size_t)(shape_elements(to) / to->dims[0]);
  return true;
}

/** Rows and columns of a float map; a pixel is a block of bytes. */
static bool emit_slice(Builder* b, const Operator* op) {
  const int output = op->outputs->data[0];
  const Shape* from = &b->graph->shapes[op->inputs->data[0]];
  const Shape* to = &b->graph->shapes[output];
  const Place place = store(b, output);
  Task* task = add_task(b, kTaskSlice);
  if (task == NULL) {
    return false;
  }
  PoolShape* slice = &task->pool;
  *slice = (PoolShape){
      .input_height = from->dims[1],
      .input_width = from->dims[2],
      .words = from->dims[3],
      .output_height = to->dims[1],
      .output_width = to->dims[2],
      .stride_height = op->window.stride_height,
      .stride_width = op->window.stride_width,
  };
  slice_start(b->context, op, from, &slice->padding_top, &slice->padding_left);
  task->images = to->dims[0];
  task->input = place_of(b, op->inputs->data[0]);
  task->input_stride = sizeof(float) * (size_t)(shape_elements(from) / from->dims[0]);
  task->output = place;
  task->output_stride = sizeof(float) * (size_t)(shape_elements(to) / to->dims[0]);
  return true;
}

static bool emit_dequantize(Builder* b, const Operator* op) {
  const int output = op->outputs->data[0];
  const Place place = store(b, output);
  Task* task = add_task(b, kTaskDequantize);
  if (task == NULL) {
    return false;
  }
  task->input = place_of(b, op->inputs->data[0]);
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
  Task* task = add_task(b, kind);
  if (task == NULL) {
    return false;
  }
  task->input = from;
  task->output = to;
  task->type = b->context->tensors[input].type;
  task->count = elements_of(b, tensor);
  task->input_count = elements_of(b, input);
  task->output_stride = bytes_of(b, tensor);
  return true;
}

/** RESHAPE, BITCAST and CAST of packed words, where their words must lie in memory. */
static bool emit_moved_words(Builder* b, const Operator* op) {
  const int input = op->inputs->data[0];
  const int output = op->outputs->data[0];
  if (!b->wanted[output] && !b->required[output]) {
    return true;
  }
  return emit_copy(b, op->kind == kOperatorCast ? kTaskWiden : kTaskCopy, place_of(b, input),
                   store(b, output), output, input);
}

/** Whether somebody reads a part or a repetition of a vector as a tensor of its own. */
static bool needs_tensor(const Builder* b, int tensor, bool repeated) {
  if (required_name(b, tensor) >= 0 || b->vectors[tensor].tensor == tensor) {
    return true;
  }
  Readers readers = readers_of(b, tensor);
  for (int i; (i = next_reader(b, &readers)) >= 0;) {
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
  Place from = place_of(b, input);
  int32_t count = elements_of(b, input);
  if (repeated || b->vectors[input].length == count) {
    operand(b, input, &from, &count);
  }
  for (int j = 0; j < op->outputs->size; j++) {
    const int output = op->outputs->data[j];
    if (needs_tensor(b, output, repeated)) {
      const TaskKind kind = repeated ? kTaskTile : kTaskCopy;
      if (!emit_copy(b, kind, from, store(b, output), output, input)) {
        return false;
      }
      b->plan->tasks[b->plan->task_count - 1].input_count = count;
    }
    from.offset += bytes_of(b, output);
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
      return !needs_floats(b, op) || emit_dequantize(b, op);
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
      return renames(b, i) || emit_moved_words(b, op);
    default:
      return b->fused[i] || emit_map(b, i);
  }
}

/** Copies what the rest of the graph reads under a second name. */
static bool emit_names(Builder* b, const TfLiteIntArray* outputs) {
  for (int i = 0; i < outputs->size; i++) {
    const int tensor = outputs->data[i];
    const Place place = place_of(b, tensor);
    if (!is_place(place)) {
      return fail(b, "an output isn't computed");
    }
    if (place.tensor != tensor &&
        !emit_copy(b, kTaskCopy, place, (Place){tensor, -1, 0}, tensor, tensor)) {
      return false;
    }
  }
  return true;
}

// --- Layout of the memory ---

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
      return fail(b, "there is no memory for the filters");
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
    plan->tensor_bytes[plan->tensor_count++] = bytes_of(b, place.tensor);
  }
}

static bool note_tensors(Builder* b) {
  Plan* plan = b->plan;
  bool* noted = zeroed(b->graph->tensor_count, sizeof(bool));
  plan->tensors = zeroed(b->graph->tensor_count, sizeof(int));
  plan->tensor_bytes = zeroed(b->graph->tensor_count, sizeof(size_t));
  if (noted == NULL || plan->tensors == NULL || plan->tensor_bytes == NULL) {
    free(noted);
    return fail(b, "there is no memory");
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

static bool allocate(Builder* b, int32_t threads) {
  Plan* plan = b->plan;
  if (!layout_buffers(plan) || plan->scratch_bytes > SIZE_MAX / 4 / (size_t)threads) {
    return fail(b, "its maps are too large");
  }
  plan->scratch_bytes = (plan->scratch_bytes + 63) & ~(size_t)63;
  plan->memory = aligned(plan->memory_bytes, &plan->allocation);
  plan->scratch = aligned(plan->scratch_bytes * (size_t)threads, &plan->scratch_allocation);
  if (plan->memory == NULL || plan->scratch == NULL) {
    return fail(b, "there is no memory for its maps");
  }
  return allocate_filters(b) && note_tensors(b);
}

// --- The whole ---

static bool create_builder(Builder* b, const TfLiteIntArray* outputs) {
  const int tensors = b->graph->tensor_count, operators = b->graph->operator_count;
  b->roots = zeroed(tensors, sizeof(int));
  b->next_aliases = zeroed(tensors, sizeof(int));
  b->required = zeroed(tensors, sizeof(bool));
  b->maps = zeroed(tensors, sizeof(bool));
  b->wanted = zeroed(tensors, sizeof(bool));
  b->vectors = zeroed(tensors, sizeof(Vector));
  b->geometries = zeroed(tensors, sizeof(Geometry));
  b->views = zeroed(tensors, sizeof(View));
  b->places = zeroed(tensors, sizeof(Place));
  b->targets = zeroed(tensors, sizeof(int));
  b->fused = zeroed(operators, sizeof(bool));
  b->convolution_targets = zeroed(operators, sizeof(int));
  b->filter_targets = zeroed(operators, sizeof(int));
  if (b->roots == NULL || b->next_aliases == NULL || b->required == NULL || b->maps == NULL ||
      b->wanted == NULL || b->vectors == NULL || b->geometries == NULL || b->views == NULL ||
      b->places == NULL || b->targets == NULL || b->fused == NULL ||
      b->convolution_targets == NULL || b->filter_targets == NULL) {
    return fail(b, "there is no memory");
  }
  for (int i = 0; i < outputs->size; i++) {
    if (outputs->data[i] < 0 || outputs->data[i] >= tensors ||
        b->graph->producers[outputs->data[i]] < 0) {
      return fail(b, "an output isn't computed");
    }
    b->required[outputs->data[i]] = true;
  }
  return true;
}

static void free_builder(Builder* b) {
  free(b->roots);
  free(b->next_aliases);
  free(b->required);
  free(b->maps);
  free(b->wanted);
  free(b->vectors);
  free(b->geometries);
  free(b->views);
  free(b->places);
  free(b->targets);
  free(b->fused);
  free(b->convolution_targets);
  free(b->filter_targets);
}

static bool build(Builder* b, const TfLiteIntArray* outputs, int32_t threads) {
  if (!create_builder(b, outputs)) {
    return false;
  }
  understand_tensors(b);
  if (!plan_signs(b)) {
    return false;
  }
  find_geometries(b);
  if (!emit_vectors(b)) {
    return false;
  }
  for (int i = 0; i < b->graph->operator_count; i++) {
    if (!emit(b, i) || b->error != NULL) {
      return false;
    }
  }
  return emit_names(b, outputs) && b->error == NULL && allocate(b, threads);
}

const char* plan_refuses(const Graph* graph, const Operator* op) {
  const Shape* input = &graph->shapes[op->inputs->data[0]];
  BinaryConvolution convolution = {.shape = convolution_shape(graph, op)};
  convolution.input =
      (SignMap){.height = input->dims[1], .width = input->dims[2], .channels = op->channels_in};
  const Epilogue epilogue = {
      .height = convolution.shape.output_height,
      .width = convolution.shape.output_width,
      .channels = convolution.shape.output_channels,
  };
  const char* error = "its map of signs is too large";
  binary_convolution_margin(&convolution.shape, &convolution.input);
  if (sign_map_layout(&convolution.input) &&
      binary_convolution_layout(&convolution, &epilogue, &error)) {
    return NULL;
  }
  return error;
}

Plan* plan_create(TfLiteContext* context, const Graph* graph, const TfLiteIntArray* outputs,
                  int32_t threads) {
  Builder b = {.context = context, .graph = graph};
  b.plan = calloc(1, sizeof(Plan));
  const bool built = b.plan != NULL && build(&b, outputs, threads);
  free_builder(&b);
  if (!built) {
    context->ReportError(context, "larq_ensemble delegate: %s.",
                         b.error == NULL ? "there is no memory" : b.error);
    plan_free(b.plan);
    return NULL;
  }
  for (int i = 0; i < b.plan->target_count; i++) {
    const SignTarget* target = &b.plan->targets[i];
    const Buffer* buffer = &b.plan->buffers[target->buffer];
    for (size_t at = 0; at + target->map.bytes <= buffer->bytes; at += target->stride) {
      sign_map_clear(&target->map, b.plan->memory + buffer->offset + at);
    }
  }
  return b.plan;
}

void plan_free(Plan* plan) {
  if (plan == NULL) {
    return;
  }
  for (int i = 0; i < plan->convolution_count; i++) {
    free(plan->convolutions[i].allocation);
  }
  free(plan->convolutions);
  free(plan->tasks);
  free(plan->buffers);
  free(plan->targets);
  free(plan->tensors);
  free(plan->tensor_bytes);
  free(plan->allocation);
  free(plan->scratch_allocation);
  free(plan);
}

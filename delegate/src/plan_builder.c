#include "plan_builder.h"

#include <stdlib.h>
#include <string.h>

#include "zeroed.h"

bool builder_fail(Builder* b, const char* error) {
  if (b->error == NULL) {
    b->error = error;
  }
  return false;
}

void* builder_grown(void* array, int count, size_t size) {
  if (count != 0 && (count & (count - 1)) != 0) {
    return array;
  }
  return realloc(array, (count == 0 ? 1 : 2 * (size_t)count) * size);
}

int builder_add_buffer(Builder* b, size_t bytes) {
  Plan* plan = b->plan;
  Buffer* buffers = builder_grown(plan->buffers, plan->buffer_count, sizeof(Buffer));
  if (buffers == NULL) {
    builder_fail(b, "there is no memory");
    return -1;
  }
  plan->buffers = buffers;
  buffers[plan->buffer_count] = (Buffer){.bytes = bytes, .first = INT32_MAX, .last = -1};
  return plan->buffer_count++;
}

Task* builder_add_task(Builder* b, TaskKind kind) {
  Plan* plan = b->plan;
  Task* tasks = builder_grown(plan->tasks, plan->task_count, sizeof(Task));
  if (tasks == NULL) {
    builder_fail(b, "there is no memory");
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

Place builder_place(const Builder* b, int tensor) {
  const int root = root_of(b, tensor);
  return is_external(b, root) ? (Place){root, -1, 0} : b->places[root];
}

bool builder_is_constant(const Builder* b, Place place) {
  return place.tensor >= 0 ? tensor_is_constant(&b->context->tensors[place.tensor])
                           : place.buffer >= 0 && b->plan->buffers[place.buffer].constant;
}

size_t builder_element_size(const Builder* b, int tensor) {
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

size_t builder_bytes(const Builder* b, int tensor) {
  return (size_t)elements_of(b, tensor) * builder_element_size(b, tensor);
}

int builder_required_name(const Builder* b, int root) {
  for (int t = root; t >= 0; t = b->next_aliases[t]) {
    if (b->required[t]) {
      return t;
    }
  }
  return -1;
}

Place builder_store(Builder* b, int root) {
  if (!is_place(b->places[root])) {
    const int name = builder_required_name(b, root);
    b->places[root] =
        name >= 0 ? (Place){name, -1, 0} : in_buffer(builder_add_buffer(b, builder_bytes(b, root)));
  }
  return b->places[root];
}

// --- Readers of a root ---

Readers builder_readers(const Builder* b, int root) {
  return (Readers){root, b->graph->use_starts[root]};
}

bool builder_renames(const Builder* b, int i) {
  const Operator* op = &b->graph->operators[i];
  return op->kind == kOperatorReshape &&
         b->context->tensors[op->inputs->data[0]].type == kTfLiteFloat32;
}

int builder_next_reader(const Builder* b, Readers* readers) {
  while (readers->tensor >= 0) {
    if (readers->use < b->graph->use_starts[readers->tensor + 1]) {
      const int i = b->graph->uses[readers->use++];
      if (!builder_renames(b, i)) {
        return i;
      }
    } else {
      readers->tensor = b->next_aliases[readers->tensor];
      readers->use = readers->tensor < 0 ? 0 : b->graph->use_starts[readers->tensor];
    }
  }
  return -1;
}

// --- Operands ---

int builder_operand_words(const Builder* b, const Operator* op, int operand) {
  const int tensor = op->inputs->data[operand];
  const int producer = b->graph->producers[tensor];
  if (op->kind == kOperatorConvolution || producer < 0 ||
      b->graph->operators[producer].kind != kOperatorDequantize) {
    return tensor;
  }
  return b->graph->operators[producer].inputs->data[0];
}

bool builder_needs_floats(const Builder* b, const Operator* op) {
  const int output = op->outputs->data[0];
  bool needed = builder_required_name(b, output) >= 0;
  Readers readers = builder_readers(b, output);
  for (int i; (i = builder_next_reader(b, &readers)) >= 0;) {
    const Operator* reader = &b->graph->operators[i];
    needed |= reader->kind != kOperatorSignConvolution ||
              builder_operand_words(b, reader, 0) == output ||
              builder_operand_words(b, reader, 1) == output || reader->inputs->data[2] == output;
  }
  return needed;
}

ConvolutionShape builder_convolution_shape(const Graph* graph, const Operator* op) {
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

// --- The builder itself ---

bool builder_create(Builder* b, const TfLiteIntArray* outputs) {
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
    return builder_fail(b, "there is no memory");
  }
  for (int i = 0; i < outputs->size; i++) {
    if (outputs->data[i] < 0 || outputs->data[i] >= tensors ||
        b->graph->producers[outputs->data[i]] < 0) {
      return builder_fail(b, "an output isn't computed");
    }
    b->required[outputs->data[i]] = true;
  }
  return true;
}

void builder_free(Builder* b) {
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

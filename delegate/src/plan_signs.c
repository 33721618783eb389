#include "plan_builder.h"

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

/** Whether a convolution's words are exactly the signs behind its view. */
static bool reads_signs(const Builder* b, const Operator* op) {
  const int tensor = builder_operand_words(b, op, 0);
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
  SignTarget* targets = builder_grown(plan->targets, plan->target_count, sizeof(SignTarget));
  const int buffer = builder_add_buffer(b, 0);
  if (targets == NULL || buffer < 0) {
    builder_fail(b, "there is no memory");
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

/** Plans the signs of filters that are known as floats only. */
static bool plan_filters(Builder* b, int i) {
  const int tensor = builder_operand_words(b, &b->graph->operators[i], 1);
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
  const int tensor = builder_operand_words(b, op, 0);
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
  const ConvolutionShape convolution = builder_convolution_shape(b->graph, op);
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

bool plan_signs(Builder* b) {
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
        b->wanted[input] |= builder_needs_floats(b, op);
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
      return builder_fail(b, "a map of signs is too large");
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

void plan_geometries(Builder* b) {
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

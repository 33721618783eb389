#include "plan.h"

#include <stdlib.h>

#include "plan_builder.h"

static bool build(Builder* b, const TfLiteIntArray* outputs, int32_t threads) {
  if (!builder_create(b, outputs)) {
    return false;
  }
  plan_tensors(b);
  if (!plan_signs(b)) {
    return false;
  }
  plan_geometries(b);
  return plan_tasks(b, outputs) && plan_memory(b, threads);
}

const char* plan_refuses(const Graph* graph, const Operator* op) {
  const Shape* input = &graph->shapes[op->inputs->data[0]];
  BinaryConvolution convolution = {.shape = builder_convolution_shape(graph, op)};
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
  builder_free(&b);
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

#include "operators.h"

void window_side(int32_t size, int32_t filter, int32_t stride, int32_t dilation, bool same,
                 int32_t* output, int32_t* before) {
  const int64_t extent = (int64_t)(filter - 1) * dilation + 1;
  const int64_t positions = same ? (int64_t)size + stride - 1 : (int64_t)size + stride - extent;
  *output = positions < stride ? 0 : (int32_t)(positions / stride);
  const int64_t padding = (int64_t)(*output - 1) * stride + extent - size;
  *before = same && padding > 0 ? (int32_t)(padding / 2) : 0;
}

/** The output of a convolution or a pool: NULL, or what is wrong. */
static const char* infer_window(const Operator* op, const Shape* input, int32_t channels,
                                Shape* output) {
  const Window* window = &op->window;
  int32_t before;
  if (input->rank != 4) {
    return "its input doesn't have 4 dimensions";
  }
  *output = *input;
  window_side(input->dims[1], window->filter_height, window->stride_height, window->dilation_height,
              window->same_padding, &output->dims[1], &before);
  window_side(input->dims[2], window->filter_width, window->stride_width, window->dilation_width,
              window->same_padding, &output->dims[2], &before);
  output->dims[3] = channels;
  return NULL;
}

static const char* infer_convolution(const TfLiteContext* context, const Operator* op,
                                     Shape* shapes) {
  const int* inputs = op->inputs->data;
  const Shape* input = &shapes[inputs[0]];
  const int32_t channels = shapes[inputs[1]].dims[0];
  const bool packs = operator_output(context, op)->type == kTfLiteInt32;
  if (input->rank != 4 || input->dims[3] != (op->channels_in + 31) / 32) {
    return "its input doesn't have its channels";
  }
  for (int i = packs ? 4 : 2; i <= (packs ? 4 : 3); i++) {
    if (shapes[inputs[i]].rank != 1 || shapes[inputs[i]].dims[0] != channels) {
      return "its multiplier, bias or thresholds aren't one a channel";
    }
  }
  return infer_window(op, input, packs ? (channels + 31) / 32 : channels,
                      &shapes[op->outputs->data[0]]);
}

static const char* infer_sign_convolution(const Operator* op, Shape* shapes) {
  const int* inputs = op->inputs->data;
  const Shape* input = &shapes[inputs[0]];
  const Shape* filters = &shapes[inputs[1]];
  if (input->rank != 4 || filters->rank != 4 || input->dims[3] != op->channels_in ||
      filters->dims[3] != op->channels_in || filters->dims[1] != op->window.filter_height ||
      filters->dims[2] != op->window.filter_width || shapes[inputs[2]].rank != 1 ||
      shapes[inputs[2]].dims[0] != filters->dims[0]) {
    return "its filters or bias don't fit its channels";
  }
  return infer_window(op, input, filters->dims[0], &shapes[op->outputs->data[0]]);
}

/** Elementwise operators: two equal shapes, or one of them a value a channel, or a single one. */
static const char* infer_elementwise(const Operator* op, Shape* shapes) {
  const Shape* a = &shapes[op->inputs->data[0]];
  const Shape* b = op->inputs->size == 2 ? &shapes[op->inputs->data[1]] : a;
  Shape* output = &shapes[op->outputs->data[0]];
  if (shape_elements(a) < shape_elements(b) && op->kind != kOperatorPrelu) {
    const Shape* swap = a;
    a = b;
    b = swap;
  }
  if (!shape_equal(a, b)) {
    const bool fits = shape_last(b) == shape_last(a) || shape_elements(b) == 1;
    if (b->rank > a->rank || !shape_is_vector(b) || !fits) {
      return "its operands are neither equal in shape nor one value a channel";
    }
  }
  *output = *a;
  return NULL;
}

/** The target of RESHAPE is a constant; one size may be -1. */
static const char* infer_reshape(const TfLiteContext* context, const Operator* op, Shape* shapes) {
  const int32_t elements = shape_elements(&shapes[op->inputs->data[0]]);
  const int32_t rank = shape_elements(&shapes[op->inputs->data[1]]);
  const int32_t* sizes = tensor_constant_integers(operator_input(context, op, 1), rank);
  Shape* output = &shapes[op->outputs->data[0]];
  if (sizes == NULL || rank > kMaxRank) {
    return "its shape is no constant";
  }
  Shape target = {.rank = rank};
  int unknown = -1;
  for (int i = 0; i < rank; i++) {
    target.dims[i] = sizes[i];
    if (sizes[i] == -1 && unknown < 0) {
      unknown = i;
      target.dims[i] = 1;
    }
  }
  if (shape_valid(&target) && unknown >= 0) {
    target.dims[unknown] = elements / shape_elements(&target);
  }
  if (!shape_valid(&target) || shape_elements(&target) != elements) {
    return "its shape doesn't have the elements of its input";
  }
  *output = target;
  return NULL;
}

static const char* infer_tile(const TfLiteContext* context, const Operator* op, Shape* shapes) {
  const Shape* input = &shapes[op->inputs->data[0]];
  const int32_t times = *tensor_constant_integers(operator_input(context, op, 1), 1);
  if (input->rank != 1 || times < 1 || (int64_t)times * input->dims[0] > INT32_MAX) {
    return "its input is no vector";
  }
  Shape* output = &shapes[op->outputs->data[0]];
  *output = *input;
  output->dims[0] *= times;
  return NULL;
}

static const char* infer_split(const TfLiteContext* context, const Operator* op, Shape* shapes) {
  const Shape* input = &shapes[op->inputs->data[0]];
  const int count = op->outputs->size;
  const int32_t* sizes = tensor_constant_integers(operator_input(context, op, 1), count);
  int64_t sum = 0;
  for (int i = 0; i < count; i++) {
    if (sizes[i] < 1) {
      return "a size isn't positive";
    }
    shapes[op->outputs->data[i]] = (Shape){.rank = 1, .dims = {sizes[i]}};
    sum += sizes[i];
  }
  return input->rank == 1 && sum == input->dims[0] ? NULL : "its sizes don't fill its input";
}

/** The range of a slice in one dimension, as TFLite clamps it. */
static void slice_range(const TfLiteContext* context, const Operator* op, const Shape* input,
                        int dim, int32_t* start, int32_t* stop) {
  const int32_t size = input->dims[dim];
  const int64_t bounds[2] = {
      op->begin_mask >> dim & 1 ? 0
                                : tensor_constant_integers(operator_input(context, op, 1), 4)[dim],
      op->end_mask >> dim & 1 ? size
                              : tensor_constant_integers(operator_input(context, op, 2), 4)[dim]};
  int32_t clamped[2];
  for (int i = 0; i < 2; i++) {
    const int64_t at = bounds[i] < 0 ? bounds[i] + size : bounds[i];
    clamped[i] = (int32_t)(at < 0 ? 0 : at > size ? size : at);
  }
  *start = clamped[0];
  *stop = clamped[1];
}

void slice_start(const TfLiteContext* context, const Operator* op, const Shape* input, int32_t* row,
                 int32_t* column) {
  int32_t stop;
  slice_range(context, op, input, 1, row, &stop);
  slice_range(context, op, input, 2, column, &stop);
}

static const char* infer_slice(const TfLiteContext* context, const Operator* op, Shape* shapes) {
  const Shape* input = &shapes[op->inputs->data[0]];
  const int32_t strides[4] = {1, op->window.stride_height, op->window.stride_width, 1};
  if (input->rank != 4) {
    return "its input doesn't have 4 dimensions";
  }
  Shape output = *input;
  for (int i = 0; i < 4; i++) {
    int32_t start, stop;
    slice_range(context, op, input, i, &start, &stop);
    output.dims[i] = stop <= start ? 0 : (stop - start - 1) / strides[i] + 1;
  }
  shapes[op->outputs->data[0]] = output;
  return output.dims[0] == input->dims[0] && output.dims[3] == input->dims[3]
             ? NULL
             : "it cuts images or channels";
}

/** int32 to several smaller integers: a new last dimension. */
static const char* infer_bitcast(const TfLiteContext* context, const Operator* op, Shape* shapes) {
  Shape* output = &shapes[op->outputs->data[0]];
  *output = shapes[op->inputs->data[0]];
  if (output->rank == kMaxRank) {
    return "it has too many dimensions";
  }
  output->dims[output->rank++] = operator_output(context, op)->type == kTfLiteUInt8 ? 4 : 2;
  return NULL;
}

static const char* infer_quantize(const Operator* op, Shape* shapes) {
  Shape* output = &shapes[op->outputs->data[0]];
  *output = shapes[op->inputs->data[0]];
  if (output->rank < 1) {
    return "its input is a scalar";
  }
  output->dims[output->rank - 1] = (shape_last(output) - 1) / 32 + 1;
  return NULL;
}

/** The number of channels isn't known by the input, so it is the file's. */
static const char* infer_dequantize(const TfLiteContext* context, const Operator* op,
                                    Shape* shapes) {
  Shape given;
  Shape* output = &shapes[op->outputs->data[0]];
  *output = shapes[op->inputs->data[0]];
  if (output->rank < 1 || !shape_of(operator_output(context, op), &given) ||
      given.rank != output->rank || (shape_last(&given) - 1) / 32 + 1 != shape_last(output)) {
    return "its output doesn't have the channels of its input";
  }
  output->dims[output->rank - 1] = shape_last(&given);
  return NULL;
}

static const char* infer(const TfLiteContext* context, const Operator* op, Shape* shapes) {
  const Shape* first = &shapes[op->inputs->data[0]];
  switch (op->kind) {
    case kOperatorQuantize:
      return infer_quantize(op, shapes);
    case kOperatorDequantize:
      return infer_dequantize(context, op, shapes);
    case kOperatorConvolution:
      return infer_convolution(context, op, shapes);
    case kOperatorSignConvolution:
      return infer_sign_convolution(op, shapes);
    case kOperatorMaxPool:
    case kOperatorAveragePool:
      return infer_window(op, first, shape_last(first), &shapes[op->outputs->data[0]]);
    case kOperatorAdd:
    case kOperatorMultiply:
    case kOperatorPrelu:
    case kOperatorClamp:
      return infer_elementwise(op, shapes);
    case kOperatorReshape:
      return infer_reshape(context, op, shapes);
    case kOperatorTile:
      return infer_tile(context, op, shapes);
    case kOperatorSplit:
      return infer_split(context, op, shapes);
    case kOperatorBitcast:
      return infer_bitcast(context, op, shapes);
    case kOperatorSlice:
      return infer_slice(context, op, shapes);
    case kOperatorCast:
      shapes[op->outputs->data[0]] = *first;
      return NULL;
    default:
      return "it is unknown";
  }
}

const char* operator_infer(const TfLiteContext* context, const Operator* op, Shape* shapes) {
  for (int i = 0; i < op->inputs->size; i++) {
    const int tensor = op->inputs->data[i];
    if (tensor >= 0 && !shape_valid(&shapes[tensor])) {
      return "the shape of an input isn't known";
    }
  }
  const char* error = infer(context, op, shapes);
  for (int i = 0; error == NULL && i < op->outputs->size; i++) {
    if (!shape_valid(&shapes[op->outputs->data[i]])) {
      error = "an output is empty or too large";
    }
  }
  return error;
}

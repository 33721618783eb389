#include "operators.h"

#include <math.h>
#include <string.h>

#include "flexbuffer.h"

enum { kMaxWindow = 1 << 12 };  // no filter, stride or dilation is larger

bool tensor_is_constant(const TfLiteTensor* tensor) {
  // TFLite doesn't compare the bytes of a sparse one with its shape.
  return tensor->allocation_type == kTfLiteMmapRo && tensor->data.raw != NULL &&
         tensor->sparsity == NULL;
}

bool operator_is_elementwise(const Operator* op) {
  return op->kind == kOperatorAdd || op->kind == kOperatorMultiply || op->kind == kOperatorPrelu ||
         op->kind == kOperatorClamp;
}

bool operator_is_convolution(const Operator* op) {
  return op->kind == kOperatorConvolution || op->kind == kOperatorSignConvolution;
}

bool operator_is_lce(const Operator* op) {
  return op->kind == kOperatorQuantize || op->kind == kOperatorDequantize ||
         op->kind == kOperatorConvolution || op->kind == kOperatorMaxPool;
}

/** Sets the range of an activation; false for one that is no clamp. */
static bool read_activation(int activation, Operator* op) {
  op->clamps = activation != kTfLiteActNone;
  op->low = activation == kTfLiteActReluN1To1 ? -1.0F : 0.0F;
  op->high = activation == kTfLiteActRelu6       ? 6.0F
             : activation == kTfLiteActReluN1To1 ? 1.0F
                                                 : INFINITY;
  return activation >= kTfLiteActNone && activation <= kTfLiteActRelu6;
}

/** Whether the node has so many operands, all of them tensors of the graph. */
static bool has_operands(const TfLiteContext* context, const TfLiteIntArray* tensors, int least,
                         int most) {
  if (tensors == NULL || tensors->size < least || tensors->size > most) {
    return false;
  }
  for (int i = 0; i < tensors->size; i++) {
    if (tensors->data[i] < 0 || (size_t)tensors->data[i] >= context->tensors_size) {
      return false;
    }
  }
  return true;
}

static bool has_type(const TfLiteTensor* tensor, int type) { return tensor->type == type; }

/** Reads an option in [1, kMaxWindow]. */
static bool read_size(const TfLiteNode* node, const char* key, int32_t* value) {
  return flexbuffer_integer(node->custom_initial_data, (size_t)node->custom_initial_data_size, key,
                            value) &&
         *value >= 1 && *value <= kMaxWindow;
}

/** Reads the padding of a window, the schema's SAME (0) or VALID (1). */
static bool read_padding(const TfLiteNode* node, Window* window) {
  int32_t padding;
  bool found = flexbuffer_integer(node->custom_initial_data, (size_t)node->custom_initial_data_size,
                                  "padding", &padding);
  window->same_padding = found && padding == 0;
  return found && (padding == 0 || padding == 1);
}

const int32_t* tensor_constant_integers(const TfLiteTensor* tensor, int32_t count) {
  Shape shape;
  if (!has_type(tensor, kTfLiteInt32) || !tensor_is_constant(tensor) || !shape_of(tensor, &shape) ||
      shape_elements(&shape) != count || tensor->bytes < (size_t)count * sizeof(int32_t)) {
    return NULL;
  }
  return tensor->data.i32;
}

static const char* read_convolution(const TfLiteContext* context, const TfLiteNode* node,
                                    Operator* op) {
  const TfLiteIntArray* inputs = node->inputs;
  if (inputs == NULL || inputs->size != 5 || !has_operands(context, node->outputs, 1, 1)) {
    return "it doesn't have 5 inputs and 1 output";
  }
  for (int i = 0; i < 5; i++) {
    bool missing = inputs->data[i] == -1 && i >= 2;
    if (!missing && (inputs->data[i] < 0 || (size_t)inputs->data[i] >= context->tensors_size)) {
      return "an input is no tensor of the graph";
    }
  }
  const int output = operator_output(context, op)->type;
  if (output != kTfLiteFloat32 && output != kTfLiteInt32 && output != kTfLiteInt8) {
    return "its output isn't float32, int32 or int8";
  }
  if (output == kTfLiteInt32) {
    if (inputs->data[4] < 0 || !has_type(operator_input(context, op, 4), kTfLiteInt32)) {
      return "its thresholds aren't int32";
    }
  } else if (inputs->data[2] < 0 || inputs->data[3] < 0 ||
             !has_type(operator_input(context, op, 2), kTfLiteFloat32) ||
             !has_type(operator_input(context, op, 3), kTfLiteFloat32)) {
    return "its multiplier and bias aren't float32";
  }
  if (output == kTfLiteInt8 && !(operator_output(context, op)->params.scale > 0.0F)) {
    return "its int8 output has no scale";
  }
  const TfLiteTensor* filters = operator_input(context, op, 1);
  Shape shape;
  if (!has_type(operator_input(context, op, 0), kTfLiteInt32) || !has_type(filters, kTfLiteInt32) ||
      !tensor_is_constant(filters) || !shape_of(filters, &shape) || shape.rank != 4 ||
      filters->bytes < (size_t)shape_elements(&shape) * sizeof(int32_t)) {
    return "its filters aren't a constant of 4 dimensions";
  }
  Window* window = &op->window;
  window->filter_height = shape.dims[1];
  window->filter_width = shape.dims[2];
  int32_t pad_values, activation;
  const uint8_t* options = node->custom_initial_data;
  const size_t size = (size_t)node->custom_initial_data_size;
  if (!read_size(node, "stride_height", &window->stride_height) ||
      !read_size(node, "stride_width", &window->stride_width) ||
      !read_size(node, "dilation_height_factor", &window->dilation_height) ||
      !read_size(node, "dilation_width_factor", &window->dilation_width) ||
      !read_padding(node, window) ||
      !flexbuffer_integer(options, size, "pad_values", &pad_values) ||
      (pad_values != 0 && pad_values != 1) ||
      !flexbuffer_integer(options, size, "channels_in", &op->channels_in) ||
      !flexbuffer_integer(options, size, "fused_activation_function", &activation) ||
      !read_activation(activation, op) || window->filter_height > kMaxWindow ||
      window->filter_width > kMaxWindow) {
    return "an option is missing or out of range";
  }
  op->pads_with_ones = pad_values == 1;
  if (op->channels_in < 1 || op->channels_in > INT32_MAX - 31) {
    return "`channels_in` is out of range";
  }
  const int32_t words = (op->channels_in + 31) / 32;
  op->groups = words / shape.dims[3];
  if (op->groups < 1 || op->groups * shape.dims[3] != words || shape.dims[0] % op->groups != 0 ||
      (op->groups > 1 && op->channels_in != 32 * words)) {
    return "its filters don't fit its channels";
  }
  return NULL;
}

static const char* read_max_pool(const TfLiteContext* context, const TfLiteNode* node,
                                 Operator* op) {
  Window* window = &op->window;
  window->dilation_height = window->dilation_width = 1;
  if (!has_operands(context, node->inputs, 1, 1) || !has_operands(context, node->outputs, 1, 1) ||
      !has_type(operator_input(context, op, 0), kTfLiteInt32) ||
      !has_type(operator_output(context, op), kTfLiteInt32)) {
    return "it doesn't have an int32 input and output";
  }
  if (!read_size(node, "filter_height", &window->filter_height) ||
      !read_size(node, "filter_width", &window->filter_width) ||
      !read_size(node, "stride_height", &window->stride_height) ||
      !read_size(node, "stride_width", &window->stride_width) || !read_padding(node, window)) {
    return "an option is missing or out of range";
  }
  return NULL;
}

/** LceQuantize, or LceDequantize: signs to or from float32, int8 or bool. */
static const char* read_quantize(const TfLiteContext* context, const TfLiteNode* node,
                                 Operator* op) {
  if (!has_operands(context, node->inputs, 1, 1) || !has_operands(context, node->outputs, 1, 1)) {
    return "it doesn't have one input and one output";
  }
  const TfLiteTensor* packed = operator_output(context, op);
  const TfLiteTensor* values = operator_input(context, op, 0);
  if (op->kind == kOperatorDequantize) {
    const TfLiteTensor* swap = packed;
    packed = values;
    values = swap;
  }
  if (!has_type(packed, kTfLiteInt32) ||
      (!has_type(values, kTfLiteFloat32) && !has_type(values, kTfLiteInt8) &&
       !has_type(values, kTfLiteBool))) {
    return "its types aren't int32 and float32, int8 or bool";
  }
  if (op->kind == kOperatorDequantize && has_type(values, kTfLiteInt8) &&
      !(values->params.scale > 0.0F)) {
    return "its int8 output has no scale";
  }
  return NULL;
}

/** Reads one of LCE's operators. */
static bool read_lce(const TfLiteContext* context, const TfLiteNode* node, const char* name,
                     Operator* op, const char** error) {
  if (strcmp(name, "LceBconv2d") == 0) {
    op->kind = kOperatorConvolution;
    *error = read_convolution(context, node, op);
  } else if (strcmp(name, "LceBMaxPool2d") == 0) {
    op->kind = kOperatorMaxPool;
    *error = read_max_pool(context, node, op);
  } else if (strcmp(name, "LceQuantize") == 0 || strcmp(name, "LceDequantize") == 0) {
    op->kind = name[3] == 'Q' ? kOperatorQuantize : kOperatorDequantize;
    *error = read_quantize(context, node, op);
  } else {
    return false;
  }
  return *error == NULL;
}

/** Whether all inputs and the output are float32. */
static bool all_float(const TfLiteContext* context, const Operator* op) {
  for (int i = 0; i < op->inputs->size; i++) {
    if (!has_type(operator_input(context, op, i), kTfLiteFloat32)) {
      return false;
    }
  }
  return has_type(operator_output(context, op), kTfLiteFloat32);
}

/** Reads ADD or MUL with its fused activation. */
static bool read_binary(const TfLiteContext* context, const TfLiteNode* node, OperatorKind kind,
                        Operator* op) {
  const TfLiteElementwiseParams* params = node->builtin_data;
  op->kind = kind;
  return has_operands(context, node->inputs, 2, 2) && all_float(context, op) && params != NULL &&
         read_activation(params->activation, op);
}

/** Reads RELU and its siblings. */
static bool read_clamp(const TfLiteContext* context, const TfLiteNode* node, int activation,
                       Operator* op) {
  op->kind = kOperatorClamp;
  return has_operands(context, node->inputs, 1, 1) && all_float(context, op) &&
         read_activation(activation, op);
}

/** Whether a size of a window is in range. */
static bool is_size(int size) { return size >= 1 && size <= kMaxWindow; }

static bool check_window(int padding, Window* window) {
  window->same_padding = padding == kTfLitePaddingSame;
  return (padding == kTfLitePaddingSame || padding == kTfLitePaddingValid) &&
         is_size(window->filter_height) && is_size(window->filter_width) &&
         is_size(window->stride_height) && is_size(window->stride_width) &&
         is_size(window->dilation_height) && is_size(window->dilation_width);
}

/** Reads CONV_2D of floats; whether it can be run depends on what its operands are. */
static bool read_sign_convolution(const TfLiteContext* context, const TfLiteNode* node,
                                  Operator* op) {
  const TfLiteConvParams* params = node->builtin_data;
  Shape shape;
  op->kind = kOperatorSignConvolution;
  if (params == NULL || !has_operands(context, node->inputs, 3, 3) ||
      !has_operands(context, node->outputs, 1, 1) || !all_float(context, op) ||
      !shape_of(operator_input(context, op, 1), &shape) || shape.rank != 4) {
    return false;
  }
  op->window = (Window){
      .filter_height = shape.dims[1],
      .filter_width = shape.dims[2],
      .stride_height = params->stride_height,
      .stride_width = params->stride_width,
      .dilation_height = params->dilation_height_factor,
      .dilation_width = params->dilation_width_factor,
  };
  op->channels_in = shape.dims[3];
  op->groups = 1;
  return check_window(params->padding, &op->window) && read_activation(params->activation, op);
}

static bool read_average_pool(const TfLiteContext* context, const TfLiteNode* node, Operator* op) {
  const TfLitePoolParams* params = node->builtin_data;
  op->kind = kOperatorAveragePool;
  if (params == NULL || !has_operands(context, node->inputs, 1, 1) || !all_float(context, op)) {
    return false;
  }
  op->window = (Window){
      .filter_height = params->filter_height,
      .filter_width = params->filter_width,
      .stride_height = params->stride_height,
      .stride_width = params->stride_width,
      .dilation_height = 1,
      .dilation_width = 1,
  };
  return check_window(params->padding, &op->window) && read_activation(params->activation, op);
}

/** Reads STRIDED_SLICE of a float map that keeps images and channels. */
static bool read_slice(const TfLiteContext* context, const TfLiteNode* node, int version,
                       Operator* op) {
  const TfLiteStridedSliceParams* params = node->builtin_data;
  op->kind = kOperatorSlice;
  if (!has_operands(context, node->inputs, 4, 4) || !has_operands(context, node->outputs, 1, 1) ||
      params == NULL || params->ellipsis_mask != 0 || params->new_axis_mask != 0 ||
      params->shrink_axis_mask != 0 || (version >= 8 && params->offset) ||
      !has_type(operator_input(context, op, 0), kTfLiteFloat32)) {
    return false;
  }
  for (int i = 1; i < 4; i++) {
    if (tensor_constant_integers(operator_input(context, op, i), 4) == NULL) {
      return false;
    }
  }
  const int32_t* strides = tensor_constant_integers(operator_input(context, op, 3), 4);
  op->window.stride_height = strides[1];
  op->window.stride_width = strides[2];
  op->begin_mask = params->begin_mask;
  op->end_mask = params->end_mask;
  return strides[0] == 1 && strides[3] == 1 && strides[1] >= 1 && strides[1] <= kMaxWindow &&
         strides[2] >= 1 && strides[2] <= kMaxWindow;
}

/** Reads SPLIT_V of a vector: constant sizes, axis 0. */
static bool read_split(const TfLiteContext* context, const TfLiteNode* node, Operator* op) {
  op->kind = kOperatorSplit;
  if (!has_operands(context, node->inputs, 3, 3) ||
      !has_operands(context, node->outputs, 1, INT32_MAX)) {
    return false;
  }
  const int32_t* axis = tensor_constant_integers(operator_input(context, op, 2), 1);
  const int32_t* sizes =
      tensor_constant_integers(operator_input(context, op, 1), op->outputs->size);
  for (int i = 0; i < op->outputs->size; i++) {
    if (!has_type(&context->tensors[op->outputs->data[i]], kTfLiteFloat32)) {
      return false;
    }
  }
  return has_type(operator_input(context, op, 0), kTfLiteFloat32) && axis != NULL && *axis == 0 &&
         sizes != NULL;
}

/** Reads the builtin operators that surround those of LCE. */
static bool read_builtin(const TfLiteContext* context, const TfLiteNode* node, int code,
                         int version, Operator* op) {
  if (code == kTfLiteBuiltinSplitV) {
    return read_split(context, node, op);
  }
  if (code == kTfLiteBuiltinStridedSlice) {
    return read_slice(context, node, version, op);
  }
  if (code == kTfLiteBuiltinConv2d) {
    return read_sign_convolution(context, node, op);
  }
  if (!has_operands(context, node->inputs, 1, 2) || !has_operands(context, node->outputs, 1, 1)) {
    return false;
  }
  const int from = operator_input(context, op, 0)->type;
  const int to = operator_output(context, op)->type;
  switch (code) {
    case kTfLiteBuiltinAdd:
      return read_binary(context, node, kOperatorAdd, op);
    case kTfLiteBuiltinMul:
      return read_binary(context, node, kOperatorMultiply, op);
    case kTfLiteBuiltinAveragePool2d:
      return read_average_pool(context, node, op);
    case kTfLiteBuiltinPrelu:
      op->kind = kOperatorPrelu;
      return op->inputs->size == 2 && all_float(context, op);
    case kTfLiteBuiltinRelu:
      return read_clamp(context, node, kTfLiteActRelu, op);
    case kTfLiteBuiltinReluN1To1:
      return read_clamp(context, node, kTfLiteActReluN1To1, op);
    case kTfLiteBuiltinRelu6:
      return read_clamp(context, node, kTfLiteActRelu6, op);
    case kTfLiteBuiltinReshape:
      op->kind = kOperatorReshape;
      return from == to && (from == kTfLiteFloat32 || from == kTfLiteInt32) &&
             op->inputs->size == 2 && tensor_is_constant(operator_input(context, op, 1));
    case kTfLiteBuiltinTile:
      op->kind = kOperatorTile;
      return from == kTfLiteFloat32 && to == from && op->inputs->size == 2 &&
             tensor_constant_integers(operator_input(context, op, 1), 1) != NULL;
    case kTfLiteBuiltinBitcast:
      op->kind = kOperatorBitcast;
      return from == kTfLiteInt32 && (to == kTfLiteUInt8 || to == kTfLiteUInt16);
    case kTfLiteBuiltinCast:
      op->kind = kOperatorCast;
      return to == kTfLiteInt32 && (from == kTfLiteUInt8 || from == kTfLiteUInt16);
    default:
      return false;
  }
}

/** Whether an operator would write to a constant, which may lie in read-only memory. */
static bool writes_constant(const TfLiteContext* context, const Operator* op) {
  for (int i = 0; i < op->outputs->size; i++) {
    if (context->tensors[op->outputs->data[i]].allocation_type == kTfLiteMmapRo) {
      return true;
    }
  }
  return false;
}

bool operator_read(const TfLiteContext* context, const TfLiteNode* node,
                   const TfLiteRegistration* registration, Operator* op, const char** error) {
  static const TfLiteIntArray none = {0};
  memset(op, 0, sizeof *op);
  op->inputs = node->inputs == NULL ? &none : node->inputs;
  op->outputs = node->outputs == NULL ? &none : node->outputs;
  *error = NULL;
  bool ours = false;
  if (registration->builtin_code != kTfLiteBuiltinCustom) {
    ours = read_builtin(context, node, registration->builtin_code, registration->version, op);
  } else if (registration->custom_name != NULL) {
    ours = read_lce(context, node, registration->custom_name, op, error);
  }
  if (ours && writes_constant(context, op)) {
    *error = operator_is_lce(op) ? "its output is a constant" : NULL;
    ours = false;
  }
  if (!ours) {
    op->kind = kOperatorOther;
  }
  return ours;
}

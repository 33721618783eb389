/** The operators that the delegate understands: their attributes and the shapes that they give. */
#ifndef LARQ_ENSEMBLE_OPERATORS_H_
#define LARQ_ENSEMBLE_OPERATORS_H_

#include <stdbool.h>
#include <stdint.h>

#include "shape.h"
#include "tflite.h"

typedef enum {
  kOperatorOther,        // not ours
  kOperatorQuantize,     // LceQuantize
  kOperatorDequantize,   // LceDequantize
  kOperatorConvolution,  // LceBconv2d
  kOperatorMaxPool,      // LceBMaxPool2d
  kOperatorAdd,
  kOperatorMultiply,
  kOperatorPrelu,
  kOperatorClamp,  // RELU, RELU6, RELU_N1_TO_1
  kOperatorReshape,
  kOperatorTile,   // of a vector
  kOperatorSplit,  // SPLIT_V of a vector
  kOperatorBitcast,
  kOperatorCast,             // uint8 or uint16 to int32
  kOperatorSignConvolution,  // CONV_2D; the graph tells whether its operands are signs
  kOperatorAveragePool,
  kOperatorSlice,  // STRIDED_SLICE of a float map's rows and columns
} OperatorKind;

/** Attributes of a window that moves over an image: a convolution's or a pool's. */
typedef struct {
  int32_t filter_height, filter_width;
  int32_t stride_height, stride_width;
  int32_t dilation_height, dilation_width;
  bool same_padding;
} Window;

typedef struct {
  OperatorKind kind;
  const TfLiteIntArray* inputs;  // tensors; -1: none
  const TfLiteIntArray* outputs;
  bool clamps;                  // a fused activation, or kOperatorClamp
  float low, high;              // its range
  Window window;                // filter sizes of a convolution are those of its filters
  int32_t channels_in, groups;  // convolution
  bool pads_with_ones;
  int32_t begin_mask, end_mask;  // slice
} Operator;

/**
 * Reads a node.
 *
 * @param error why an operator of LCE is none that the delegate runs; NULL for all others.
 * @return false if the node isn't ours; `op->kind` then is `kOperatorOther`.
 */
bool operator_read(const TfLiteContext* context, const TfLiteNode* node,
                   const TfLiteRegistration* registration, Operator* op, const char** error);

/**
 * Infers the shapes of an operator's outputs, and checks those of its inputs.
 *
 * @param shapes of all tensors of the graph; those of the outputs are written.
 * @return NULL, or what is wrong.
 */
const char* operator_infer(const TfLiteContext* context, const Operator* op, Shape* shapes);

/** Where a slice starts in an image, in rows and columns; its steps are the strides of the window.
 */
void slice_start(const TfLiteContext* context, const Operator* op, const Shape* input, int32_t* row,
                 int32_t* column);

/** Output size and padding before the image, of one side. */
void window_side(int32_t size, int32_t filter, int32_t stride, int32_t dilation, bool same,
                 int32_t* output, int32_t* before);

static inline const TfLiteTensor* operator_input(const TfLiteContext* context, const Operator* op,
                                                 int i) {
  return &context->tensors[op->inputs->data[i]];
}

/** The first output. */
static inline const TfLiteTensor* operator_output(const TfLiteContext* context,
                                                  const Operator* op) {
  return &context->tensors[op->outputs->data[0]];
}

/** Whether it is LceBconv2d, or a CONV_2D of what LceDequantize gives. */
bool operator_is_convolution(const Operator* op);

/** Whether it works element by element on float maps: ADD, MUL, PRELU or a clamp. */
bool operator_is_elementwise(const Operator* op);

/** Whether it is one of LCE's. */
bool operator_is_lce(const Operator* op);

/** Whether a tensor's content is part of the file. */
bool tensor_is_constant(const TfLiteTensor* tensor);

/** The content of a constant int32 tensor of `count` elements; NULL if it is none. */
const int32_t* tensor_constant_integers(const TfLiteTensor* tensor, int32_t count);

#endif

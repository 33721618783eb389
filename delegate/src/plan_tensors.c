#include "plan_builder.h"

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

void plan_tensors(Builder* b) {
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
    if (builder_renames(b, i)) {
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

#include "graph.h"

#include <stdlib.h>
#include <string.h>

#include "zeroed.h"

/** Reads the nodes; those that can't be read are `kOperatorOther`. */
static bool read_nodes(TfLiteContext* context, bool report, Graph* graph) {
  for (int i = 0; i < graph->operator_count; i++) {
    TfLiteNode* node;
    TfLiteRegistration* registration;
    if (context->GetNodeAndRegistration(context, graph->nodes[i], &node, &registration) !=
        kTfLiteOk) {
      return false;
    }
    const char* error;
    operator_read(context, node, registration, &graph->operators[i], &error);
    if (error != NULL && report) {
      context->ReportError(context, "larq_ensemble delegate: node %d (%s) isn't supported: %s.",
                           graph->nodes[i], registration->custom_name, error);
    }
  }
  return true;
}

static bool in_range(const Graph* graph, int tensor) {
  return tensor >= 0 && tensor < graph->tensor_count;
}

/** Finds the writer and the readers of each tensor. */
static bool link_operators(Graph* graph) {
  int total = 0;
  memset(graph->producers, -1, sizeof(int) * ((size_t)graph->tensor_count + 1));
  for (int i = 0; i < graph->operator_count; i++) {
    const Operator* op = &graph->operators[i];
    for (int j = 0; j < op->outputs->size; j++) {
      const int tensor = op->outputs->data[j];
      if (!in_range(graph, tensor)) {
        continue;
      }
      if (graph->producers[tensor] >= 0) {
        return false;
      }
      graph->producers[tensor] = i;
    }
    for (int j = 0; j < op->inputs->size; j++) {
      if (in_range(graph, op->inputs->data[j])) {
        graph->use_starts[op->inputs->data[j] + 1]++;
        total++;
      }
    }
  }
  for (int t = 0; t < graph->tensor_count; t++) {
    graph->use_starts[t + 1] += graph->use_starts[t];
  }
  graph->uses = zeroed(total, sizeof(int));
  int* next = zeroed(graph->tensor_count, sizeof(int));
  if (graph->uses != NULL && next != NULL) {
    memcpy(next, graph->use_starts, sizeof(int) * (size_t)graph->tensor_count);
    for (int i = 0; i < graph->operator_count; i++) {
      const Operator* op = &graph->operators[i];
      for (int j = 0; j < op->inputs->size; j++) {
        if (in_range(graph, op->inputs->data[j])) {
          graph->uses[next[op->inputs->data[j]]++] = i;
        }
      }
    }
  }
  free(next);
  return graph->uses != NULL && next != NULL;
}

bool graph_create(TfLiteContext* context, const int* nodes, int count, bool report, Graph* graph) {
  memset(graph, 0, sizeof *graph);
  if (context->tensors_size >= INT32_MAX || count < 0) {
    return false;
  }
  graph->operator_count = count;
  graph->tensor_count = (int)context->tensors_size;
  graph->operators = zeroed(count, sizeof(Operator));
  graph->nodes = zeroed(count, sizeof(int));
  graph->shapes = zeroed(graph->tensor_count, sizeof(Shape));
  graph->producers = zeroed(graph->tensor_count, sizeof(int));
  graph->use_starts = zeroed(graph->tensor_count + 1, sizeof(int));
  graph->signs = zeroed(graph->tensor_count, sizeof(bool));
  graph->periods = zeroed(graph->tensor_count, sizeof(int32_t));
  if (graph->operators == NULL || graph->nodes == NULL || graph->shapes == NULL ||
      graph->producers == NULL || graph->use_starts == NULL || graph->signs == NULL ||
      graph->periods == NULL) {
    return false;
  }
  memcpy(graph->nodes, nodes, sizeof(int) * (size_t)count);
  return read_nodes(context, report, graph) && link_operators(graph);
}

void graph_free(Graph* graph) {
  free(graph->operators);
  free(graph->nodes);
  free(graph->shapes);
  free(graph->producers);
  free(graph->use_starts);
  free(graph->uses);
  free(graph->signs);
  free(graph->periods);
  memset(graph, 0, sizeof *graph);
}

void graph_note_origins(const Graph* whole, Graph* part) {
  for (int i = 0; i < whole->operator_count; i++) {
    const Operator* op = &whole->operators[i];
    if (op->kind == kOperatorOther || op->outputs->data[0] >= part->tensor_count) {
      continue;
    }
    const int output = op->outputs->data[0];
    part->signs[output] = op->kind == kOperatorDequantize;
    if (op->kind == kOperatorTile) {
      part->periods[output] = shape_elements(&whole->shapes[op->inputs->data[0]]);
    }
  }
}

/** Takes the shapes that TFLite knows now. */
static void shapes_of_tensors(const TfLiteContext* context, Graph* graph) {
  for (int t = 0; t < graph->tensor_count; t++) {
    shape_of(&context->tensors[t], &graph->shapes[t]);
  }
}

void graph_infer(TfLiteContext* context, Graph* graph) {
  shapes_of_tensors(context, graph);
  for (int i = 0; i < graph->operator_count; i++) {
    Operator* op = &graph->operators[i];
    if (op->kind == kOperatorOther) {
      continue;
    }
    const char* error = operator_infer(context, op, graph->shapes);
    if (error == NULL) {
      continue;
    }
    if (operator_is_lce(op)) {
      context->ReportError(context, "larq_ensemble delegate: node %d isn't supported: %s.",
                           graph->nodes[i], error);
    }
    op->kind = kOperatorOther;
    for (int j = 0; j < op->outputs->size; j++) {
      const int tensor = op->outputs->data[j];
      if (in_range(graph, tensor)) {
        shape_of(&context->tensors[tensor], &graph->shapes[tensor]);
      }
    }
  }
}

bool graph_infer_part(TfLiteContext* context, Graph* graph) {
  shapes_of_tensors(context, graph);
  for (int i = 0; i < graph->operator_count; i++) {
    const char* error = operator_infer(context, &graph->operators[i], graph->shapes);
    if (error != NULL) {
      context->ReportError(context, "larq_ensemble delegate: the shapes of node %d don't fit: %s.",
                           graph->nodes[i], error);
      return false;
    }
  }
  return true;
}

/** Whether one of an operator's outputs is read by a claimed operator. */
static bool feeds_claimed(const Graph* graph, const bool* claimed, const Operator* op) {
  for (int j = 0; j < op->outputs->size; j++) {
    const int tensor = op->outputs->data[j];
    for (int k = graph->use_starts[tensor]; k < graph->use_starts[tensor + 1]; k++) {
      if (claimed[graph->uses[k]]) {
        return true;
      }
    }
  }
  return false;
}

/** Whether an operator works on a map that a claimed one gives, so that both can be fused. */
static bool follows_claimed(const Graph* graph, const bool* claimed, const Operator* op) {
  const bool follows = operator_is_elementwise(op) || op->kind == kOperatorReshape ||
                       op->kind == kOperatorSlice || op->kind == kOperatorAveragePool;
  if (!follows || shape_is_vector(&graph->shapes[op->outputs->data[0]])) {
    return false;
  }
  for (int j = 0; j < op->inputs->size; j++) {
    const int tensor = op->inputs->data[j];
    const int producer = graph->producers[tensor];
    if (producer >= 0 && claimed[producer] && !shape_is_vector(&graph->shapes[tensor])) {
      return true;
    }
  }
  return false;
}

/** Whether a tensor is what LceDequantize gives. */
static bool is_dequantized(const Graph* graph, int tensor) {
  const int producer = graph->producers[tensor];
  return producer >= 0 && graph->operators[producer].kind == kOperatorDequantize;
}

/** Whether the delegate takes an operator wherever it stands. */
static bool is_claimed_alone(const Graph* graph, const Operator* op) {
  if (op->kind == kOperatorSignConvolution) {
    return is_dequantized(graph, op->inputs->data[0]) && is_dequantized(graph, op->inputs->data[1]);
  }
  return operator_is_lce(op);
}

void graph_claim(const Graph* graph, bool* claimed) {
  enum { kMaxSweeps = 8 };  // more would only fuse more
  for (int i = 0; i < graph->operator_count; i++) {
    claimed[i] = is_claimed_alone(graph, &graph->operators[i]);
  }
  bool changed = true;
  for (int sweep = 0; changed && sweep < kMaxSweeps; sweep++) {
    changed = false;
    for (int j = 0; j < graph->operator_count; j++) {
      const int i = sweep % 2 == 0 ? graph->operator_count - 1 - j : j;
      const Operator* op = &graph->operators[i];
      const bool joins = op->kind != kOperatorOther && op->kind != kOperatorSignConvolution;
      if (!claimed[i] && joins &&
          (feeds_claimed(graph, claimed, op) || follows_claimed(graph, claimed, op))) {
        claimed[i] = changed = true;
      }
    }
  }
}

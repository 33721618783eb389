/** Operators of a graph, or of the part of it that the delegate runs, and who reads what. */
#ifndef LARQ_ENSEMBLE_GRAPH_H_
#define LARQ_ENSEMBLE_GRAPH_H_

#include <stdbool.h>

#include "operators.h"
#include "shape.h"
#include "tflite.h"

typedef struct {
  int operator_count;
  Operator* operators;  // in the order of execution
  int* nodes;           // their numbers in TFLite
  int tensor_count;
  Shape* shapes;    // of tensors
  int* producers;   // of tensors: an operator, or -1
  int* use_starts;  // of tensors: [use_starts[t], use_starts[t + 1]) of `uses`
  int* uses;        // operators, each once for each operand
  bool* signs;      // of tensors: floats that LceDequantize gives in the whole graph
  int32_t*
      periods;  // of tensors that repeat a vector so long, by a TILE of the whole graph; else 0
} Graph;

/**
 * Reads nodes and links them.
 *
 * @param report whether to report operators of LCE that can't be run.
 * @return false if there is no memory, or if two nodes write one tensor.
 */
bool graph_create(TfLiteContext* context, const int* nodes, int count, bool report, Graph* graph);

void graph_free(Graph* graph);

/** Notes what is known of tensors of a part by operators of the whole graph: repetitions and signs.
 */
void graph_note_origins(const Graph* whole, Graph* part);

/**
 * Infers the shapes of all operators' outputs from the context's tensors; operators that don't fit
 * become `kOperatorOther`, and a message tells those of LCE.
 */
void graph_infer(TfLiteContext* context, Graph* graph);

/**
 * Infers the shapes of a part that the delegate runs. It changes no operator, so that the part can
 * be inferred again for other inputs.
 *
 * @return false with an error reported, if one of its operators can't take the shapes.
 */
bool graph_infer_part(TfLiteContext* context, Graph* graph);

/** Decides which operators the delegate runs: LCE's and those around them. */
void graph_claim(const Graph* graph, bool* claimed);

#endif

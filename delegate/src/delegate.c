/**
 * An external delegate for TFLite and LiteRT that runs the operators of Larq Compute Engine.
 *
 * `tflite_plugin_create_delegate` takes these options:
 * - `num_threads`: how many threads share a convolution; by default those of the interpreter.
 * - `verbose`: 1 reports how many operators the delegate takes.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "plan.h"
#include "tflite.h"
#include "threads.h"

#if defined(_WIN32)
#define EXPORTED __declspec(dllexport)
#else
#define EXPORTED __attribute__((visibility("default")))
#endif

enum { kMaxThreads = 64 };

typedef struct {
  TfLiteDelegate delegate;
  int32_t threads;  // 0: those of the interpreter
  bool verbose;
  const Graph* whole;  // while its nodes are being replaced
} Delegate;

/** A part of a graph that the delegate runs, as a node of TFLite's. */
typedef struct {
  int32_t wanted_threads;  // 0: those of the interpreter
  Graph graph;
  TfLiteIntArray* outputs;
  Plan* plan;
  Threads* threads;
  int32_t thread_count;
} Partition;

static void free_partition(TfLiteContext* context, void* data) {
  Partition* partition = data;
  (void)context;
  if (partition != NULL) {
    plan_free(partition->plan);
    threads_free(partition->threads);
    graph_free(&partition->graph);
    free(partition->outputs);
    free(partition);
  }
}

static TfLiteIntArray* copied(const TfLiteIntArray* array) {
  const size_t bytes = sizeof(int) * (size_t)array->size;
  TfLiteIntArray* copy = malloc(sizeof(TfLiteIntArray) + bytes);
  if (copy != NULL) {
    copy->size = array->size;
    memcpy(copy->data, array->data, bytes);
  }
  return copy;
}

/** Reads the nodes of a part; NULL makes `prepare` fail. */
static void* init_partition(TfLiteContext* context, const char* buffer, size_t length) {
  const TfLiteDelegateParams* params = (const void*)buffer;
  Partition* partition = calloc(1, sizeof *partition);
  (void)length;
  if (partition == NULL) {
    return NULL;
  }
  const Delegate* delegate = params->delegate->data_;
  partition->wanted_threads = delegate->threads;
  partition->outputs = copied(params->output_tensors);
  const TfLiteIntArray* nodes = params->nodes_to_replace;
  if (partition->outputs == NULL ||
      !graph_create(context, nodes->data, nodes->size, false, &partition->graph)) {
    free_partition(context, partition);
    return NULL;
  }
  graph_note_origins(delegate->whole, &partition->graph);
  return partition;
}

/** Tells TFLite the shapes of the outputs where they aren't what it has. */
static TfLiteStatus resize_outputs(TfLiteContext* context, const Partition* partition) {
  for (int i = 0; i < partition->outputs->size; i++) {
    const int tensor = partition->outputs->data[i];
    const Shape* shape = &partition->graph.shapes[tensor];
    Shape given;
    if (shape_of(&context->tensors[tensor], &given) && shape_equal(&given, shape) &&
        context->tensors[tensor].allocation_type != kTfLiteDynamic) {
      continue;
    }
    TfLiteIntArray* dims = malloc(sizeof(TfLiteIntArray) + sizeof(int) * (size_t)shape->rank);
    if (dims == NULL) {
      return kTfLiteError;
    }
    dims->size = shape->rank;
    for (int j = 0; j < shape->rank; j++) {
      dims->data[j] = shape->dims[j];
    }
    if (context->ResizeTensor(context, &context->tensors[tensor], dims) != kTfLiteOk) {
      return kTfLiteError;
    }
  }
  return kTfLiteOk;
}

static int32_t thread_count(const TfLiteContext* context, const Partition* partition) {
  const int32_t wanted =
      partition->wanted_threads > 0 ? partition->wanted_threads : context->recommended_num_threads;
  return wanted < 1 ? 1 : wanted > kMaxThreads ? kMaxThreads : wanted;
}

/** Plans a part for the shapes that its inputs have now. */
static TfLiteStatus prepare_partition(TfLiteContext* context, TfLiteNode* node) {
  Partition* partition = node->user_data;
  if (partition == NULL) {
    context->ReportError(context, "larq_ensemble delegate: there is no memory.");
    return kTfLiteError;
  }
  if ((size_t)partition->graph.tensor_count > context->tensors_size ||
      !graph_infer_part(context, &partition->graph)) {
    return kTfLiteError;
  }
  const int32_t threads = thread_count(context, partition);
  if (threads != partition->thread_count) {
    threads_free(partition->threads);
    partition->threads = threads_create(threads);
    partition->thread_count = threads;
  }
  plan_free(partition->plan);
  partition->plan =
      plan_create(context, &partition->graph, partition->outputs, partition->thread_count);
  if (partition->plan == NULL) {
    return kTfLiteError;
  }
  plan_run_once(context, partition->plan);
  return resize_outputs(context, partition);
}

static TfLiteStatus invoke_partition(TfLiteContext* context, TfLiteNode* node) {
  Partition* partition = node->user_data;
  return plan_run(context, partition->plan, partition->threads);
}

/** Tells what the delegate takes, if that is wanted. */
static void report_claims(const Delegate* delegate, int count, int total) {
  if (delegate->verbose) {
    fprintf(stderr, "larq_ensemble delegate: it runs %d of %d operators.\n", count, total);
  }
}

/** Leaves the convolutions to others that the kernels can't run. */
static void refuse_convolutions(TfLiteContext* context, Graph* graph) {
  for (int i = 0; i < graph->operator_count; i++) {
    Operator* op = &graph->operators[i];
    const char* error = operator_is_convolution(op) ? plan_refuses(graph, op) : NULL;
    if (error == NULL) {
      continue;
    }
    if (op->kind == kOperatorConvolution) {
      context->ReportError(context, "larq_ensemble delegate: node %d isn't supported: %s.",
                           graph->nodes[i], error);
    }
    op->kind = kOperatorOther;
  }
}

/** Chooses the nodes of a graph and replaces them. */
static TfLiteStatus replace_nodes(TfLiteContext* context, TfLiteDelegate* delegate,
                                  const Graph* graph, bool* claimed, TfLiteIntArray* nodes) {
  graph_claim(graph, claimed);
  nodes->size = 0;
  for (int i = 0; i < graph->operator_count; i++) {
    if (claimed[i]) {
      nodes->data[nodes->size++] = graph->nodes[i];
    }
  }
  report_claims(delegate->data_, nodes->size, graph->operator_count);
  if (nodes->size == 0) {
    return kTfLiteOk;
  }
  const TfLiteRegistration registration = {
      .init = init_partition,
      .free = free_partition,
      .prepare = prepare_partition,
      .invoke = invoke_partition,
      .custom_name = "LarqEnsembleDelegate",
      .version = 1,
  };
  Delegate* owner = delegate->data_;
  owner->whole = graph;
  const TfLiteStatus status =
      context->ReplaceNodeSubsetsWithDelegateKernels(context, registration, nodes, delegate);
  owner->whole = NULL;
  return status;
}

static TfLiteStatus prepare_delegate(TfLiteContext* context, TfLiteDelegate* delegate) {
  TfLiteIntArray* plan;
  if (context->GetExecutionPlan(context, &plan) != kTfLiteOk) {
    return kTfLiteError;
  }
  TfLiteIntArray* nodes = copied(plan);  // asking for a node may invalidate the plan
  bool* claimed = calloc((size_t)plan->size + 1, sizeof(bool));
  Graph graph = {0};
  TfLiteStatus status = kTfLiteError;
  if (nodes != NULL && claimed != NULL &&
      graph_create(context, nodes->data, nodes->size, true, &graph)) {
    graph_infer(context, &graph);
    refuse_convolutions(context, &graph);
    status = replace_nodes(context, delegate, &graph, claimed, nodes);
  } else {
    context->ReportError(context, "larq_ensemble delegate: the graph can't be read.");
  }
  graph_free(&graph);
  free(claimed);
  free(nodes);
  return status;
}

/** Sets an option; false if there is none of that name, or if its value is no number in range. */
static bool set_option(Delegate* delegate, const char* key, const char* value) {
  char* end;
  const long number = strtol(value, &end, 10);
  if (end == value || *end != '\0') {
    return false;
  }
  if (strcmp(key, "num_threads") == 0) {
    delegate->threads = (int32_t)number;
    return number >= 0 && number <= INT32_MAX;
  }
  delegate->verbose = number != 0;
  return strcmp(key, "verbose") == 0;
}

EXPORTED TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys,
                                                       const char* const* values, size_t count,
                                                       void (*report)(const char* message));
EXPORTED void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate);

/** Makes a delegate; NULL if an option is wrong, which `report` is told now and not later. */
EXPORTED TfLiteDelegate* tflite_plugin_create_delegate(const char* const* keys,
                                                       const char* const* values, size_t count,
                                                       void (*report)(const char* message)) {
  Delegate* delegate = calloc(1, sizeof *delegate);
  if (delegate == NULL) {
    return NULL;
  }
  delegate->delegate.data_ = delegate;
  delegate->delegate.Prepare = prepare_delegate;
  delegate->delegate.flags = kTfLiteDelegateFlagsAllowDynamicTensors;
  for (size_t i = 0; i < count; i++) {
    if (!set_option(delegate, keys[i], values[i])) {
      char message[192];
      snprintf(message, sizeof message,
               "larq_ensemble delegate: option %.40s=%.40s isn't `num_threads` (a number) or "
               "`verbose` (0 or 1).\n",
               keys[i], values[i]);
      if (report != NULL) {
        report(message);
      }
      free(delegate);
      return NULL;
    }
  }
  return &delegate->delegate;
}

EXPORTED void tflite_plugin_destroy_delegate(TfLiteDelegate* delegate) {
  if (delegate != NULL) {
    free(delegate->data_);
  }
}

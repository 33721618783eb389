/**
 * How a plan is made: the state that its stages share, and what they ask of it.
 *
 * A stage a file, in this order:
 *
 *   plan_tensors.c  what each tensor is: another name, a vector, packed words
 *   plan_signs.c    which maps of signs there are, and how float maps are cut
 *   plan_tasks.c    a task for each operator; plan_fusion.c adds steps for what follows
 *   plan_memory.c   where the buffers lie
 */
#ifndef LARQ_ENSEMBLE_PLAN_BUILDER_H_
#define LARQ_ENSEMBLE_PLAN_BUILDER_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "plan.h"

/** A value a channel: elements [offset, offset + length) of a tensor; length 0: none. */
typedef struct {
  int tensor;
  int32_t offset, length;
} Vector;

/** How a float map is cut into images, rows and pixels; channels 0: not known. */
typedef struct {
  int32_t height, width, channels;
} Geometry;

/** Packed words seen as bits: those of tensor `source`, `bits` in each word; source -1: unknown. */
typedef struct {
  int source;
  int bits;
} View;

/** State of the planning; all arrays are of tensors, `fused` of operators. */
typedef struct {
  TfLiteContext* context;
  const Graph* graph;
  Plan* plan;
  int* roots;         // what RESHAPE only renames has one root
  int* next_aliases;  // of the same root, or -1
  bool* required;     // by the rest of the graph
  bool* maps;         // a root that a convolution or an operator on a map gives
  bool* wanted;       // packed words that must lie in memory
  Vector* vectors;
  Geometry* geometries;  // of roots
  View* views;
  Place* places;  // of roots, once a task writes them
  int* targets;   // the first sign target of packed words, or -1
  bool* fused;
  int* convolution_targets;  // of operators: the sign target that a convolution reads
  int* filter_targets;       // the one that its filters pass, if they lie as floats
  const char* error;
} Builder;

static const Place kNowhere = {-1, -1, 0};

// --- The stages; those that can fail note the error and return false ---

void plan_tensors(Builder* b);

bool plan_signs(Builder* b);

/** Finds how each map is cut: as convolutions write and read it, else as its shape says. */
void plan_geometries(Builder* b);

/** @param outputs tensors that the rest of the graph reads. */
bool plan_tasks(Builder* b, const TfLiteIntArray* outputs);

bool plan_memory(Builder* b, int32_t threads);

// --- The builder itself ---

/** @return false if there is no memory, or an output isn't computed; `builder_free` it then, too.
 */
bool builder_create(Builder* b, const TfLiteIntArray* outputs);

/** Frees all but the plan. */
void builder_free(Builder* b);

/** Notes the first error; returns false. */
bool builder_fail(Builder* b, const char* error);

/** Makes room for one more element of an array that doubles; NULL if there is no memory. */
void* builder_grown(void* array, int count, size_t size);

/** Adds a buffer to the plan, and returns its number; -1 if there is no memory. */
int builder_add_buffer(Builder* b, size_t bytes);

/** Adds a task; the pointer is valid until the next one. NULL if there is no memory. */
Task* builder_add_task(Builder* b, TaskKind kind);

// --- Places ---

static inline bool is_place(Place place) { return place.tensor >= 0 || place.buffer >= 0; }

static inline Place in_buffer(int buffer) { return (Place){-1, buffer, 0}; }

/** Where a tensor lies, if it does yet. */
Place builder_place(const Builder* b, int tensor);

/** Gives a root a place to be written to: TFLite's tensor if the rest of the graph reads it. */
Place builder_store(Builder* b, int root);

bool builder_is_constant(const Builder* b, Place place);

// --- Tensors ---

static inline int root_of(const Builder* b, int tensor) { return b->roots[tensor]; }

/** Whether a tensor comes from outside the part of the graph. */
static inline bool is_external(const Builder* b, int tensor) {
  return b->graph->producers[tensor] < 0;
}

static inline int32_t elements_of(const Builder* b, int tensor) {
  return shape_elements(&b->graph->shapes[tensor]);
}

/** Bytes of an element. */
size_t builder_element_size(const Builder* b, int tensor);

size_t builder_bytes(const Builder* b, int tensor);

/** Whether the rest of the graph reads a root, by any of its names; returns that name or -1. */
int builder_required_name(const Builder* b, int root);

/** Whether operator i is a RESHAPE that gives floats another name. */
bool builder_renames(const Builder* b, int i);

/** Goes through the operators that read a root. */
typedef struct {
  int tensor, use;
} Readers;

Readers builder_readers(const Builder* b, int root);

/** The next operator that reads the root, or -1; what only renames it is left out. */
int builder_next_reader(const Builder* b, Readers* readers);

// --- Geometries ---

static inline bool same_geometry(Geometry a, Geometry b) {
  return a.channels != 0 && a.height == b.height && a.width == b.width && a.channels == b.channels;
}

static inline int32_t geometry_elements(Geometry g) { return g.height * g.width * g.channels; }

/** Of the map that a task with an epilogue makes. */
static inline Geometry task_geometry(const Task* task) {
  return (Geometry){task->epilogue.height, task->epilogue.width, task->epilogue.channels};
}

/** Bytes of an image of that map as floats. */
static inline size_t task_image_bytes(const Task* task) {
  return (size_t)geometry_elements(task_geometry(task)) * sizeof(float);
}

// --- Operands of convolutions ---

/** The packed words behind an operand of a convolution; of CONV_2D the floats if they are all. */
int builder_operand_words(const Builder* b, const Operator* op, int operand);

/** Whether somebody reads what LceDequantize gives as floats. */
bool builder_needs_floats(const Builder* b, const Operator* op);

ConvolutionShape builder_convolution_shape(const Graph* graph, const Operator* op);

#endif

/**
 * What the delegate does at each run of a part of a graph: a list of tasks.
 *
 * Every operator has a task of its own that is always right. Where the graph allows, what follows a
 * convolution is done with it instead, in the epilogue, and no map lies in memory between them.
 */
#ifndef LARQ_ENSEMBLE_PLAN_H_
#define LARQ_ENSEMBLE_PLAN_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "binary_convolution.h"
#include "epilogue.h"
#include "graph.h"
#include "max_pool.h"
#include "sign_map.h"
#include "tflite.h"
#include "threads.h"

/** Where a value lies: in a tensor of TFLite's, or in a buffer of the plan's. */
typedef struct {
  int tensor;     // -1: in a buffer
  int buffer;     // -1: nowhere
  size_t offset;  // in bytes
} Place;

/** Memory of the plan's that tasks [first, last] use. */
typedef struct {
  size_t bytes;
  int first, last;
  size_t offset;
  bool constant;  // depends on nothing but constants
} Buffer;

typedef enum {
  kTaskConvolution,  // a convolution and its epilogue
  kTaskFilters,      // packs filters of a convolution
  kTaskMap,          // an epilogue of a float map
  kTaskElementwise,  // ADD, MUL, PRELU or a clamp by itself
  kTaskPackFloats,   // signs of floats into a sign map
  kTaskPackInt8,     // the same of int8 or bool
  kTaskPackWords,    // LCE's packed words into a sign map
  kTaskUnpackWords,  // and back
  kTaskMaxPool,
  kTaskDequantize,
  kTaskCopy,
  kTaskWiden,  // uint8 or uint16 to int32
  kTaskTile,
  kTaskAveragePool,
  kTaskSlice,       // every n-th row and column
  kTaskScale,       // multiplier and bias of an int8 output
  kTaskThresholds,  // offsets of a bit-packed output
} TaskKind;

/** The places of a step's pointers, and their bytes an image. */
typedef struct {
  Place place;
  size_t stride;
} StepPlace;

typedef struct {
  TaskKind kind;
  bool once;       // all it reads is constant: done when the plan is made
  bool shared;     // enough work for threads
  int32_t images;  // the batch
  Place input, output;
  size_t input_stride, output_stride;  // bytes an image
  Epilogue epilogue;
  StepPlace places[kMaxSteps];
  int maps[kMaxSteps];  // of STORE_SIGNS: its sign target
  int convolution;      // of kTaskConvolution, kTaskFilters and kTaskThresholds
  int target;           // the sign target that is read or written
  Place prepared;       // for epilogue_begin
  bool begins_once;     // all its values are constant: when the plan is made
  OperatorKind op;      // of kTaskElementwise
  Place second;         // its other operand, or the bias of kTaskScale
  int32_t count, input_count, second_count;  // elements; operands repeat
  int32_t channels;                          // of kTaskDequantize
  int type;                                  // of the values that aren't float
  int32_t zero_point;
  float scale;
  PoolShape pool;   // of pools; `words` are channels of kTaskAveragePool; of kTaskSlice: sizes,
                    // strides and where it starts
  float low, high;  // clamp of kTaskElementwise
  bool clamps;
} Task;

/** Signs that convolutions read, laid out with a margin, or that become packed words. */
typedef struct {
  int source;  // the tensor of packed words that it stands for, or of floats
  SignMap map;
  int buffer;  // of all images
  int32_t images;
  size_t stride;
  bool packed;    // it is made of `source` as that lies in memory
  bool to_words;  // `source` is made of it
  bool filled;    // by a task or an epilogue
  int next;       // target of the same source, or -1
} SignTarget;

typedef struct {
  BinaryConvolution convolution;
  uint8_t* filters;     // packed, aligned to 64 bytes
  uint8_t* allocation;  // theirs
} PlannedConvolution;

typedef struct {
  int task_count, buffer_count, target_count, convolution_count;
  Task* tasks;
  Buffer* buffers;
  SignTarget* targets;
  PlannedConvolution* convolutions;
  int tensor_count;  // tensors of TFLite's that are read or written
  int* tensors;
  size_t* tensor_bytes;  // at least
  uint8_t* memory;       // of all buffers, aligned to 64 bytes
  uint8_t* allocation;
  size_t memory_bytes;
  uint8_t* scratch;  // of all threads
  uint8_t* scratch_allocation;
  size_t scratch_bytes;  // a thread's
} Plan;

/** Why the kernels can't run a convolution whose shapes are inferred; NULL if they can. */
const char* plan_refuses(const Graph* graph, const Operator* op);

/**
 * Plans a part of a graph whose shapes are inferred.
 *
 * @param outputs tensors that the rest of the graph reads.
 * @param threads how many will run it.
 * @return NULL with an error reported, if there is no memory or a size is too large.
 */
Plan* plan_create(TfLiteContext* context, const Graph* graph, const TfLiteIntArray* outputs,
                  int32_t threads);

void plan_free(Plan* plan);

/** Does all tasks. */
TfLiteStatus plan_run(TfLiteContext* context, Plan* plan, Threads* threads);

/** Does the tasks whose inputs are constant, and prepares epilogues of constants: once, when the
 * plan is made. */
void plan_run_once(TfLiteContext* context, Plan* plan);

#endif

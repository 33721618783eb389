/** Makes steps of an epilogue of the operators that follow a map, instead of tasks of their own. */
#ifndef LARQ_ENSEMBLE_PLAN_FUSION_H_
#define LARQ_ENSEMBLE_PLAN_FUSION_H_

#include <stdbool.h>
#include <stddef.h>

#include "plan_builder.h"

/** An elementwise operator as a step: its second operand. */
typedef struct {
  StepKind kind;
  Place place;
  bool one;  // value for all channels
} Fusion;

/** @param stride bytes an image of what lies at the place; 0: the same for all images. */
Step* fusion_add_step(Task* task, StepKind kind, Place place, size_t stride);

/** Adds the activation that an operator has fused, if any. */
void fusion_add_clamp(Task* task, const Operator* op);

/** Adds steps that pack the value in hand for a quantizer; false if some of its maps are left. */
bool fusion_add_signs(Builder* b, Task* task, int tensor);

/** Whether operator i can be a step for `root`, the value in hand. */
bool fusion_fits(const Builder* b, const Task* task, int i, int root, Fusion* fusion);

/** Adds the steps of an operator that fits. */
void fusion_add(Builder* b, Task* task, int i, const Fusion* fusion);

/** Follows the graph from the value in hand as far as steps can do what it does. */
void fusion_follow(Builder* b, Task* task, int root);

#endif

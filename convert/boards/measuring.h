/*
 * For programs that measure: the function `mark`, between whose calls QEMU's plugin instructions.c
 * counts instructions, and the depth of the stack, by paint.
 */
#ifndef MEASURING_H
#define MEASURING_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { STACK = 32768, PAINT = 0x5a, MARGIN = 64 };

extern uint8_t stack_top[]; /* of the linker script */

/* Starts or ends an interval that is counted. */
void mark(void);
__attribute__((noinline)) void mark(void) { __asm__ volatile(""); }

/* Fills the free part of the stack but for this function's own. */
__attribute__((noinline, unused)) static void paint_stack(void) {
  uint8_t *own = __builtin_frame_address(0), *bottom = stack_top - STACK;
  memset(bottom, PAINT, (size_t)(own - MARGIN - bottom));
}

/* The bytes of stack below the caller's frame, `own`, that were used since it was painted. */
__attribute__((noinline, unused)) static int used_stack(const void *own) {
  const uint8_t *deepest = stack_top - STACK;
  while (*deepest == PAINT) deepest++;
  return (int)((const uint8_t *)own - deepest);
}

#endif

/*
 * A plugin for QEMU that counts the instructions of the emulated program.
 *
 * The program marks intervals: where QEMU emulates a whole board, each run of the instruction at
 * the address `mark` starts an interval or ends one, in turn. Where it emulates a Linux program,
 * that does a system call that Linux doesn't have, MARK, whose first argument is 1 where the
 * interval starts and 0 where it ends. For each interval the plugin writes one line to the file
 * `out`: the number of instructions that the marking thread executed in it.
 *
 * The declarations are those of QEMU's qemu-plugin.h that are needed, because distributions ship no
 * header. They have been the same since version 1 of the interface (QEMU 4.2 to 8.2; tried: 7.2);
 * QEMU 9 and later want a higher number, PLUGIN_API.
 */
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef PLUGIN_API
#define PLUGIN_API 1
#endif
#define EXPORT __attribute__((visibility("default")))

typedef uint64_t qemu_plugin_id_t;
typedef struct qemu_info_t qemu_info_t;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

void qemu_plugin_register_vcpu_tb_trans_cb(qemu_plugin_id_t id,
                                           void (*callback)(qemu_plugin_id_t,
                                                            struct qemu_plugin_tb *));
void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *block,
                                          void (*callback)(unsigned, void *), int flags,
                                          void *data);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *instruction,
                                            void (*callback)(unsigned, void *), int flags,
                                            void *data);
void qemu_plugin_register_vcpu_syscall_cb(qemu_plugin_id_t id,
                                          void (*callback)(qemu_plugin_id_t, unsigned, int64_t,
                                                           uint64_t, uint64_t, uint64_t, uint64_t,
                                                           uint64_t, uint64_t, uint64_t, uint64_t));
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *block, size_t index);
uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *instruction);

EXPORT int qemu_plugin_version = PLUGIN_API;

enum { MARK = 0x5a5a, NO_REGISTERS = 0, THREADS = 64 };

/* Instructions of each thread so far, where its interval started, and whether it is in one. */
static uint64_t executed[THREADS], started[THREADS];
static bool counting[THREADS];
static uint64_t mark = UINT64_MAX;
static FILE *out;

/* Before each run of a block of `size` instructions. */
static void count(unsigned thread, void *size) { executed[thread % THREADS] += (uintptr_t)size; }

static void set_counting(unsigned thread, bool starts) {
  thread %= THREADS;
  counting[thread] = starts;
  if (starts)
    started[thread] = executed[thread];
  else
    fprintf(out, "%llu\n", (unsigned long long)(executed[thread] - started[thread])), fflush(out);
}

/* At `mark`. The count is that after the mark's block, at both ends of an interval. */
static void passed(unsigned thread, void *nothing) {
  (void)nothing;
  set_counting(thread, !counting[thread % THREADS]);
}

static void translated(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
  (void)id;
  size_t size = qemu_plugin_tb_n_insns(block);
  qemu_plugin_register_vcpu_tb_exec_cb(block, count, NO_REGISTERS, (void *)(uintptr_t)size);
  for (size_t i = 0; i < size; i++) {
    struct qemu_plugin_insn *instruction = qemu_plugin_tb_get_insn(block, i);
    if (qemu_plugin_insn_vaddr(instruction) == mark)
      qemu_plugin_register_vcpu_insn_exec_cb(instruction, passed, NO_REGISTERS, NULL);
  }
}

static void called(qemu_plugin_id_t id, unsigned thread, int64_t number, uint64_t starts,
                   uint64_t b, uint64_t c, uint64_t d, uint64_t e, uint64_t f, uint64_t g,
                   uint64_t h) {
  (void)id, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h;
  if (number == MARK) set_counting(thread, starts != 0);
}

/* Called by QEMU with the options of `-plugin file=...,out=PATH,mark=ADDRESS`. */
EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int count_of_options,
                               char **options) {
  (void)info;
  for (int i = 0; i < count_of_options; i++) {
    if (!strncmp(options[i], "out=", 4)) out = fopen(options[i] + 4, "w");
    if (!strncmp(options[i], "mark=", 5)) mark = strtoull(options[i] + 5, NULL, 0);
  }
  if (!out) return -1;
  qemu_plugin_register_vcpu_tb_trans_cb(id, translated);
  qemu_plugin_register_vcpu_syscall_cb(id, called);
  return 0;
}

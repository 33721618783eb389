/*
 * From reset to `main` on a Cortex-M board, emulated or with a debugger: semihosting gives `main`
 * its arguments, and newlib (librdimon) standard output and files.
 */
#include <stdint.h>
#include <stdlib.h>

/* Of the linker script. */
extern uint32_t stack_top[], data_in_flash[], data_begin[], data_end[], bss_begin[], bss_end[];

int main(int argc, char **argv);
void initialise_monitor_handles(void); /* librdimon: opens stdin, stdout and stderr */
void reset(void);
void _fini(void);

enum { SYS_WRITE0 = 0x04, SYS_GET_CMDLINE = 0x15, SYS_EXIT = 0x18, INTERNAL_ERROR = 0x20024 };
enum { LINE = 1024, ARGUMENTS = 32 };

static int semihost(int operation, const void *parameter) {
  register int r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = parameter;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

/* Splits the command line at spaces; returns the number of arguments. */
static int arguments(char *line, char **argv) {
  int argc = 0;
  for (char *next = line; *next && argc < ARGUMENTS;) {
    argv[argc++] = next;
    while (*next && *next != ' ') next++;
    while (*next == ' ') *next++ = 0;
  }
  return argc;
}

void reset(void) {
#if __ARM_FP
  *(volatile uint32_t *)0xe000ed88 |= 0xfu << 20; /* CPACR: the FPU, before any use of it */
  __asm__ volatile("dsb\n\tisb" ::: "memory");
#endif
  for (uint32_t *to = data_begin, *from = data_in_flash; to < data_end;) *to++ = *from++;
  for (uint32_t *to = bss_begin; to < bss_end;) *to++ = 0;
  initialise_monitor_handles();
  static char line[LINE], *argv[ARGUMENTS + 1];
  struct {
    char *buffer;
    int length;
  } where = {line, LINE};
  int argc = semihost(SYS_GET_CMDLINE, &where) ? 0 : arguments(line, argv);
  exit(main(argc, argv));
}

/* Wanted by newlib's exit; a crti.o would have it. */
void _fini(void) {}

static void fault(void) {
  semihost(SYS_WRITE0, "The processor stopped at a fault.\n");
  semihost(SYS_EXIT, (const void *)INTERNAL_ERROR);
}

/* The stack, then the handlers of reset, NMI, and the faults of ARMv7-M and ARMv8-M. */
__attribute__((section(".vectors"), used)) static const void *const vectors[16] = {
    stack_top,     (void *)reset, (void *)fault, (void *)fault,
    (void *)fault, (void *)fault, (void *)fault, (void *)fault,
};

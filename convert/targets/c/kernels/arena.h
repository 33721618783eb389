#include <stdint.h>

/* A map or scratch memory, by its offset in bytes. */
static inline void *at(uint8_t *arena, uint32_t offset) { return arena + offset; }

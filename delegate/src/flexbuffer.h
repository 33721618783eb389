/** Reads the options of LCE's operators, which are FlexBuffers maps. */
#ifndef LARQ_ENSEMBLE_FLEXBUFFER_H_
#define LARQ_ENSEMBLE_FLEXBUFFER_H_

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/**
 * Finds an integer (or a Boolean) by its key in a FlexBuffers map.
 *
 * Any bytes are allowed: nothing outside of [data, data + size) is read.
 *
 * @return whether the bytes are a map that has the key with an integer that fits `value`.
 */
bool flexbuffer_integer(const uint8_t* data, size_t size, const char* key, int32_t* value);

#endif

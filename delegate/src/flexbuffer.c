#include "flexbuffer.h"

#include <string.h>

enum { TYPE_INT = 1, TYPE_UINT = 2, TYPE_MAP = 9, TYPE_BOOL = 26 };

/** A window onto the bytes; offsets are checked against it. */
typedef struct {
  const uint8_t* data;
  size_t size;
} Bytes;

/** Reads an unsigned little-endian integer of 1, 2, 4 or 8 bytes. */
static bool read_unsigned(Bytes bytes, size_t at, size_t width, uint64_t* value) {
  if (width > bytes.size || at > bytes.size - width) {
    return false;
  }
  *value = 0;
  for (size_t i = 0; i < width; i++) {
    *value |= (uint64_t)bytes.data[at + i] << (8 * i);
  }
  return true;
}

/** Follows the offset stored at `at`, which points backwards from there. */
static bool follow(Bytes bytes, size_t at, size_t width, size_t* target) {
  uint64_t offset;
  if (!read_unsigned(bytes, at, width, &offset) || offset > at) {
    return false;
  }
  *target = at - (size_t)offset;
  return true;
}

/** Whether the string at `at` ends inside the bytes and equals the key. */
static bool equals(Bytes bytes, size_t at, const char* key) {
  size_t length = strlen(key) + 1;
  return length <= bytes.size - at && memcmp(bytes.data + at, key, length) == 0;
}

/** A map: its values at `values`, `count` of `width` bytes, then their types; its keys apart. */
typedef struct {
  size_t values, width, count, keys, key_width;
} Map;

/** Finds the map at the root: at the end lie its offset, its packed type and the offset's width. */
static bool read_map(Bytes bytes, Map* map) {
  if (bytes.size < 3) {
    return false;
  }
  size_t root_width = bytes.data[bytes.size - 1];
  unsigned type = bytes.data[bytes.size - 2];
  if (type >> 2 != TYPE_MAP || root_width > 8 || root_width > bytes.size - 2) {
    return false;
  }
  map->width = (size_t)1 << (type & 3);
  uint64_t count, key_width;
  if (!follow(bytes, bytes.size - 2 - root_width, root_width, &map->values) ||
      map->values < 3 * map->width ||
      !read_unsigned(bytes, map->values - map->width, map->width, &count) ||
      !read_unsigned(bytes, map->values - 2 * map->width, map->width, &key_width) ||
      !follow(bytes, map->values - 3 * map->width, map->width, &map->keys) || count > bytes.size ||
      key_width == 0 || key_width > 8) {
    return false;
  }
  map->count = (size_t)count;
  map->key_width = (size_t)key_width;
  return true;
}

bool flexbuffer_integer(const uint8_t* data, size_t size, const char* key, int32_t* value) {
  Bytes bytes = {data, size};
  Map map;
  if (data == NULL || !read_map(bytes, &map)) {
    return false;
  }
  for (size_t i = 0; i < map.count; i++) {
    size_t name;
    if (!follow(bytes, map.keys + i * map.key_width, map.key_width, &name)) {
      return false;
    }
    if (!equals(bytes, name, key)) {
      continue;
    }
    uint64_t bits, type;
    if (!read_unsigned(bytes, map.values + i * map.width, map.width, &bits) ||
        !read_unsigned(bytes, map.values + map.count * map.width + i, 1, &type)) {
      return false;
    }
    if (type >> 2 == TYPE_INT) {  // extends the sign
      uint64_t sign = (uint64_t)1 << (8 * map.width - 1);
      int64_t number = (int64_t)((bits ^ sign) - sign);
      *value = (int32_t)number;
      return number >= INT32_MIN && number <= INT32_MAX;
    }
    *value = (int32_t)bits;
    return (type >> 2 == TYPE_UINT || type >> 2 == TYPE_BOOL) && bits <= INT32_MAX;
  }
  return false;
}

#include "binary_kernels.h"

/* Sums of 16 vectors fill half of the registers: gcc spills them if it moves loads and additions
 * about before it allocates registers (measured with gcc 12: a fifth more instructions). */
#if defined(__GNUC__) && !defined(__clang__) && defined(__aarch64__)
#pragma GCC optimize("O2", "no-schedule-insns", "no-tree-reassoc", "no-tree-ter")
#endif

#include <string.h>

#include "simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

/* The words of a row of taps, and where those are that come next. */
typedef struct {
  const uint8_t* next[2];
  Byte16 words[17];
} Columns;

/* -- without special instructions -------------------------------------------------------------- */

/* Sums of the bytes of each word, stored as or added to counts. */
#define DEFINE_ADD_COUNTS(NAME, BYTES, TARGET)                                       \
  TARGET ALWAYS_INLINE void NAME(uint16_t* counts, const void* sums, const int word, \
                                 const int vectors, const bool begins) {             \
    typedef uint16_t V2 __attribute__((vector_size(BYTES)));                         \
    typedef uint32_t V4 __attribute__((vector_size(BYTES)));                         \
    typedef uint64_t V8 __attribute__((vector_size(BYTES)));                         \
    UNROLL                                                                           \
    for (int j = 0; j < vectors; j++) {                                              \
      uint16_t lanes[BYTES / 2];                                                     \
      const int n = BYTES / word;                                                    \
      V2 v;                                                                          \
      memcpy(&v, (const uint8_t*)sums + j * BYTES, BYTES);                           \
      const V2 pairs = (v & 255) + (v >> 8);                                         \
      const V4 fours = ((V4)pairs & 65535) + ((V4)pairs >> 16);                      \
      const V8 eights = ((V8)fours & UINT32_MAX) + ((V8)fours >> 32);                \
      for (int i = 0; i < n; i++)                                                    \
        lanes[i] = word == 2   ? pairs[i]                                            \
                   : word == 4 ? (uint16_t)fours[i % (BYTES / 4)]                    \
                               : (uint16_t)eights[i % (BYTES / 8)];                  \
      for (int i = 0; i < n; i++, counts++)                                          \
        *counts = (uint16_t)(begins ? lanes[i] : *counts + lanes[i]);                \
    }                                                                                \
  }

#if !defined(__aarch64__)
/* Adds neighbouring bits, pairs and halves of each byte. */
ALWAYS_INLINE Byte16 popcount_portable(Byte16 v) {
  v = v - ((v >> 1) & 0x55);
  v = (v & 0x33) + ((v >> 2) & 0x33);
  return (v + (v >> 4)) & 0x0f;
}

DEFINE_ADD_COUNTS(add_counts_portable, 16, )

#define NAMED(x) x##_portable
#define TARGET
#define BYTES 16
#define POPCOUNT popcount_portable
#define LOAD NAMED(load_all)
#define WORD NAMED(next_word)
#define COLUMN NAMED(column)
#define ADD_COUNTS(counts, sums, word, vectors, begins, few) \
  add_counts_portable(counts, sums, word, vectors, begins)
#include "binary_kernels.inc"
#endif

/* -- arm64 ------------------------------------------------------------------------------------- */

#if defined(__aarch64__)
ALWAYS_INLINE Byte16 popcount_neon(Byte16 v) { return (Byte16)vcntq_u8((uint8x16_t)v); }

/* Sums of the bytes of each word. `few`: those of two bytes still fit a byte. */
ALWAYS_INLINE void add_counts_neon(uint16_t* counts, const Byte16* sums, const int word,
                                   const int vectors, const bool begins, const bool few) {
  const int apiece = word / 2; /* vectors that give eight sums */
  UNROLL
  for (int j = 0; j < vectors; j += apiece, counts += 8) {
    const uint8x16_t* v = (const uint8x16_t*)(sums + j);
    uint16x8_t n;
    if (apiece == 1) {
      n = vpaddlq_u8(v[0]);
    } else if (apiece == 2) {
      n = few ? vpaddlq_u8(vpaddq_u8(v[0], v[1])) : vpaddq_u16(vpaddlq_u8(v[0]), vpaddlq_u8(v[1]));
    } else if (few) {
      n = vpaddq_u16(vpaddlq_u8(vpaddq_u8(v[0], v[1])), vpaddlq_u8(vpaddq_u8(v[2], v[3])));
    } else {
      n = vpaddq_u16(vpaddq_u16(vpaddlq_u8(v[0]), vpaddlq_u8(v[1])),
                     vpaddq_u16(vpaddlq_u8(v[2]), vpaddlq_u8(v[3])));
    }
    if (!begins) n = vaddq_u16(n, vld1q_u16(counts));
    vst1q_u16(counts, n);
  }
}

/* Compilers load a vector at a time, and step pointers by instructions of their own. */
ALWAYS_INLINE const uint8_t* load_pairs_neon(Byte16* to, const uint8_t* from, const int vectors) {
  UNROLL
  for (int j = 0; j < vectors; j += 2) {
    Byte16 a, b;
    __asm__("ldp %q0, %q1, [%2], #32"
            : "=w"(a), "=w"(b), "+r"(from)
            : "m"(*(const uint8_t(*)[32])from));
    to[j] = a;
    to[j + 1] = b;
  }
  return from;
}

ALWAYS_INLINE Byte16 next_repeated_neon(const uint8_t** from, const int word, const size_t step) {
  const uint8_t* p = *from;
  Byte16 v;
  if (word == 2)
    __asm__("ld1r {%0.8h}, [%1], %2" : "=w"(v), "+r"(p) : "r"(step), "m"(*(const uint16_t*)p));
  else if (word == 4)
    __asm__("ld1r {%0.4s}, [%1], %2" : "=w"(v), "+r"(p) : "r"(step), "m"(*(const uint32_t*)p));
  else
    __asm__("ld1r {%0.2d}, [%1], %2" : "=w"(v), "+r"(p) : "r"(step), "m"(*(const uint64_t*)p));
  *from = p;
  return v;
}

/* Word i of a row: each is loaded where it's first needed. */
ALWAYS_INLINE Byte16 shared_column_neon(Columns* columns, const int i, const int word,
                                        const int stride, const bool loaded) {
  if (!loaded)
    columns->words[i] =
        next_repeated_neon(&columns->next[i % stride], word, (size_t)(stride * word));
  return columns->words[i];
}

#define NAMED(x) x##_neon
#define TARGET
#define BYTES 16
#define POPCOUNT popcount_neon
#define LOAD load_pairs_neon
#define WORD next_repeated_neon
#define COLUMN shared_column_neon
#define ADD_COUNTS add_counts_neon
#include "binary_kernels.inc"

const Kernels* usable_kernels(int index) { return index == 0 ? &kernels_neon : NULL; }

/* -- x86-64 ------------------------------------------------------------------------------------ */

#elif defined(__x86_64__)
#define AVX2 __attribute__((target("avx2")))
#define AVX512 __attribute__((target("avx2,avx512vl,avx512bw,avx512bitalg")))
typedef uint8_t Byte32 __attribute__((vector_size(32)));

/* Looks up both halves of each byte. */
AVX2 ALWAYS_INLINE Byte32 popcount_avx2(Byte32 v) {
  const __m256i table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4,  //
                                         0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4);
  const Byte32 low = v & 15, high = (Byte32)_mm256_srli_epi16((__m256i)v, 4) & 15;
  return (Byte32)_mm256_shuffle_epi8(table, (__m256i)low) +
         (Byte32)_mm256_shuffle_epi8(table, (__m256i)high);
}

AVX512 ALWAYS_INLINE Byte32 popcount_avx512(Byte32 v) {
  return (Byte32)_mm256_popcnt_epi8((__m256i)v);
}

DEFINE_ADD_COUNTS(add_counts_avx2, 32, AVX2)
DEFINE_ADD_COUNTS(add_counts_avx512, 32, AVX512)

#define NAMED(x) x##_avx2
#define TARGET AVX2
#define BYTES 32
#define POPCOUNT popcount_avx2
#define LOAD NAMED(load_all)
#define WORD NAMED(next_word)
#define COLUMN NAMED(column)
#define ADD_COUNTS(counts, sums, word, vectors, begins, few) \
  add_counts_avx2(counts, sums, word, vectors, begins)
#include "binary_kernels.inc"

#define NAMED(x) x##_avx512
#define TARGET AVX512
#define BYTES 32
#define POPCOUNT popcount_avx512
#define LOAD NAMED(load_all)
#define WORD NAMED(next_word)
#define COLUMN NAMED(column)
#define ADD_COUNTS(counts, sums, word, vectors, begins, few) \
  add_counts_avx512(counts, sums, word, vectors, begins)
#include "binary_kernels.inc"

const Kernels* usable_kernels(int index) {
  const bool avx2 = __builtin_cpu_supports("avx2");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512bitalg") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  if (avx512 && index-- == 0) return &kernels_avx512;
  if (avx2 && index-- == 0) return &kernels_avx2;
  return index == 0 ? &kernels_portable : NULL;
}

#else
const Kernels* usable_kernels(int index) { return index == 0 ? &kernels_portable : NULL; }
#endif

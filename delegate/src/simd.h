/** Vectors of 16 bytes: compilers' vector types, with intrinsics where those have no operator. */
#ifndef LARQ_ENSEMBLE_SIMD_H_
#define LARQ_ENSEMBLE_SIMD_H_

#include <stdint.h>
#include <string.h>

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "Maps of signs and the files that they come from are little-endian"
#endif

#if defined(__aarch64__)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#define ALWAYS_INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

typedef float Float4 __attribute__((vector_size(16)));
typedef int32_t Int4 __attribute__((vector_size(16)));
typedef uint16_t Short8 __attribute__((vector_size(16)));
typedef int16_t Mask8 __attribute__((vector_size(16)));
typedef uint16_t Short4 __attribute__((vector_size(8)));
typedef uint8_t Byte16 __attribute__((vector_size(16)));

ALWAYS_INLINE Float4 load_floats(const float* from) {
  Float4 v;
  memcpy(&v, from, sizeof v);
  return v;
}

ALWAYS_INLINE void store_floats(float* to, Float4 v) { memcpy(to, &v, sizeof v); }

ALWAYS_INLINE Short8 load_shorts(const uint16_t* from) {
  Short8 v;
  memcpy(&v, from, sizeof v);
  return v;
}

ALWAYS_INLINE void store_shorts(uint16_t* to, Short8 v) { memcpy(to, &v, sizeof v); }

/** mask ? yes : no, lane by lane; a lane of the mask is all ones or all zeros. */
ALWAYS_INLINE Float4 select_floats(Int4 mask, Float4 yes, Float4 no) {
#if defined(__aarch64__)
  return (Float4)vbslq_f32((uint32x4_t)mask, (float32x4_t)yes, (float32x4_t)no);
#else
  return (Float4)((mask & (Int4)yes) | (~mask & (Int4)no));
#endif
}

ALWAYS_INLINE Short8 select_shorts(Short8 mask, Short8 yes, Short8 no) {
  return (mask & yes) | (~mask & no);
}

/** The larger one; if one is NaN, the other. */
ALWAYS_INLINE Float4 larger_number(Float4 a, Float4 b) {
#if defined(__aarch64__)
  return (Float4)vmaxnmq_f32((float32x4_t)a, (float32x4_t)b);
#else
  Float4 larger = select_floats(a > b, a, b);
  return select_floats(b == b, larger, a);
#endif
}

/** center - counts, as floats. */
ALWAYS_INLINE Float4 centered(Short8 counts, int half, uint16_t center) {
#if defined(__aarch64__)
  uint16x8_t c = vdupq_n_u16(center);
  uint32x4_t d = half ? vsubl_high_u16(c, (uint16x8_t)counts)
                      : vsubl_u16(vget_low_u16(c), vget_low_u16((uint16x8_t)counts));
  return (Float4)vcvtq_f32_s32(vreinterpretq_s32_u32(d));
#elif defined(__SSE2__)
  __m128i zero = _mm_setzero_si128();
  __m128i wide =
      half ? _mm_unpackhi_epi16((__m128i)counts, zero) : _mm_unpacklo_epi16((__m128i)counts, zero);
  return (Float4)_mm_cvtepi32_ps(_mm_sub_epi32(_mm_set1_epi32(center), wide));
#else
  Float4 v;
  for (int i = 0; i < 4; i++) v[i] = (float)((int32_t)center - (int32_t)counts[4 * half + i]);
  return v;
#endif
}

/** Two masks of four lanes as one of eight. */
ALWAYS_INLINE Mask8 joined(Int4 low, Int4 high) {
#if defined(__aarch64__)
  return (Mask8)vuzp1q_u16((uint16x8_t)low, (uint16x8_t)high);
#elif defined(__SSE2__)
  return (Mask8)_mm_packs_epi32((__m128i)low, (__m128i)high);
#else
  Mask8 m;
  for (int i = 0; i < 4; i++) {
    m[i] = (int16_t)low[i];
    m[4 + i] = (int16_t)high[i];
  }
  return m;
#endif
}

/** Bit 16 p + i: lane i % 8 of masks[2 p + i / 8], for `pixels` (1 or 4) times 16 channels. */
ALWAYS_INLINE uint64_t bits_of_masks(const Mask8* masks, int pixels) {
#if defined(__aarch64__)
  const uint8x16_t weights = (uint8x16_t)vdupq_n_u64(0x8040201008040201u);
  uint8x16_t b[4];
  UNROLL
  for (int p = 0; p < 4; p++) {
    int from = p < pixels ? p : 0;
    b[p] =
        vandq_u8(vuzp1q_u8((uint8x16_t)masks[2 * from], (uint8x16_t)masks[2 * from + 1]), weights);
  }
  uint8x16_t sums;
  if (pixels == 1) {
    sums = vpaddq_u8(b[0], b[0]);
    sums = vpaddq_u8(sums, sums);
  } else {
    sums = vpaddq_u8(vpaddq_u8(b[0], b[1]), vpaddq_u8(b[2], b[3]));
  }
  return vgetq_lane_u64((uint64x2_t)vpaddq_u8(sums, sums), 0);
#else
  uint64_t bits = 0;
  UNROLL
  for (int p = 0; p < pixels; p++) {
#if defined(__SSE2__)
    uint64_t word = (uint16_t)_mm_movemask_epi8(
        _mm_packs_epi16((__m128i)masks[2 * p], (__m128i)masks[2 * p + 1]));
#else
    uint64_t word = 0;
    for (int i = 0; i < 16; i++) word |= (uint64_t)(masks[2 * p + i / 8][i % 8] != 0) << i;
#endif
    bits |= word << (16 * p);
  }
  return bits;
#endif
}

#endif

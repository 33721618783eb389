/* IEEE floats of 16 bits, as they lie in memory. */
#include <stdint.h>
#include <string.h>

#include "helper.h"

/* Every FPU of a Cortex-M converts them, though gcc doesn't say so of those without doubles. */
#if defined(__GNUC__) && defined(__arm__) && defined(__ARM_FP) && \
    ((__ARM_FP & 2) || __ARM_ARCH_PROFILE == 'M')

HELPER float from_float16(uint16_t half) {
  const uint32_t bits = half;
  float x;
  __asm__("vmov %0, %1\n\tvcvtb.f32.f16 %0, %0" : "=t"(x) : "r"(bits));
  return x;
}

HELPER uint16_t to_float16(float x) {
  uint32_t bits;
  __asm__("vcvtb.f16.f32 %1, %1\n\tvmov %0, %1" : "=r"(bits), "+t"(x));
  return (uint16_t)bits;
}

#else

HELPER float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

HELPER float from_float16(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000) << 16, rest = half & 0x7fffu;
  uint32_t bits = rest << 13;
  if (rest >= 0x7c00) {
    bits |= UINT32_C(0x7f800000); /* infinity, NaN */
  } else if (rest >= 0x0400) {
    bits += UINT32_C(112) << 23; /* from one bias of the exponent to the other */
  } else {
    /* Subnormal: a multiple of 2^-24. */
    const float magnitude = (float)rest * 0x1p-24f;
    memcpy(&bits, &magnitude, sizeof bits);
  }
  return float_of_bits(sign | bits);
}

/* Rounds to nearest, ties to even. */
HELPER uint16_t to_float16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000u, magnitude = bits & UINT32_C(0x7fffffff);
  uint32_t half;
  if (magnitude > UINT32_C(0x7f800000)) {
    half = 0x7e00; /* NaN */
  } else if (magnitude >= UINT32_C(0x47800000)) {
    half = 0x7c00; /* 65536 and more: infinity */
  } else if (magnitude >= UINT32_C(0x38800000)) {
    /* Normal; carries go on into the exponent. */
    half = (magnitude - (UINT32_C(112) << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  } else {
    /* Subnormal: 0.5 has the precision that the sum is rounded to, 2^-24. */
    const float sum = float_of_bits(magnitude) + 0.5f;
    memcpy(&half, &sum, sizeof half);
    half -= UINT32_C(0x3f000000);
  }
  return (uint16_t)(sign | half);
}

#endif

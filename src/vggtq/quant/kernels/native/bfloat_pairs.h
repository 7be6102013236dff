// Pairs of bfloat16 in lanes of 32 bits, the first of them in the lower half: AVX-512 BF16, written as assembly so that
// the compiler's flags need not name it. Rounds to the nearest, ties to even; subnormal numbers become zero.
// VGGTQ_PLAIN_TILES: the same in plain C++, with which any CPU runs the tests.
#pragma once
#ifdef VGGTQ_PLAIN_TILES
#include "vectors_portable.h"
#else
#include "vectors_avx512.h"
#endif

namespace {

#ifdef VGGTQ_PLAIN_TILES

INLINE float from_bfloat16(uint32_t upper_half) {
  float value;
  std::memcpy(&value, &upper_half, sizeof value);
  return value;
}

// sums + the products of both halves.
INLINE Floats dot_pairs(Floats sums, Ints a, Ints b) {
  return each<Floats>([&](int i) {
    const uint32_t x = static_cast<uint32_t>(a.lane[i]), y = static_cast<uint32_t>(b.lane[i]);
    const float lower = from_bfloat16(x << 16) * from_bfloat16(y << 16);
    return sums.lane[i] + lower + from_bfloat16(x & 0xffff0000u) * from_bfloat16(y & 0xffff0000u);
  });
}

INLINE Ints pairs_of(const float* lower, const float* upper, int step) {
  return each<Ints>([&](int i) {
    const uint32_t high = to_bfloat16(upper[i * step]);
    return static_cast<int32_t>(high << 16 | to_bfloat16(lower[i * step]));
  });
}

// The numbers of `first`, then those of `second`.
INLINE Ints in_order(Floats first, Floats second) {
  float both[2 * kLanes];
  store(both, first), store(both + kLanes, second);
  return pairs_of(both, both + 1, 2);
}
// Each number of `lower` with that of `upper`.
INLINE Ints interleaved(Floats lower, Floats upper) { return pairs_of(lower.lane, upper.lane, 1); }

#else

// sums + the products of both halves.
INLINE Floats dot_pairs(Floats sums, Ints a, Ints b) {
  asm("vdpbf16ps %2, %1, %0" : "+v"(sums) : "v"(a), "v"(b));
  return sums;
}

// The numbers of `first`, then those of `second`.
INLINE Ints in_order(Floats first, Floats second) {
  Ints both;
  asm("vcvtne2ps2bf16 %2, %1, %0" : "=v"(both) : "v"(second), "v"(first));
  return both;
}
// Each number of `lower` with that of `upper`.
INLINE Ints interleaved(Floats lower, Floats upper) {
  const Ints order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5,
                                      20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, in_order(lower, upper));
}

#endif

}  // namespace

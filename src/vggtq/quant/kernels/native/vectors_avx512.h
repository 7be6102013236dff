// AVX-512 (F, BW, VL, DQ) under the names that the kernels are written in. Included once, by avx512_vnni.cpp.
#pragma once
#include <immintrin.h>

#include "unroll.h"
#include "vectors_x86.h"

namespace {

constexpr int kLanes = 16;  // of 32 bits
using Floats = __m512;
using Ints = __m512i;

INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
// The first `count` numbers, of at most a vector, and zeros; nothing beyond them is read.
INLINE Floats load_part(const float* p, int64_t count) {
  return _mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
INLINE void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
INLINE void stream(float* p, Floats v) { _mm512_stream_ps(p, v); }
INLINE void stream_fence() { _mm_sfence(); }
INLINE Floats all(float x) { return _mm512_set1_ps(x); }
INLINE Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
INLINE Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
INLINE Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
INLINE Floats smaller(Floats a, Floats b) { return _mm512_min_ps(a, b); }
INLINE Floats larger(Floats a, Floats b) { return _mm512_max_ps(a, b); }
INLINE float smallest(Floats a) { return _mm512_reduce_min_ps(a); }
INLINE float sum(Floats a) { return _mm512_reduce_add_ps(a); }
INLINE float largest(Floats a) { return _mm512_reduce_max_ps(a); }
INLINE Floats absolute(Floats a) { return _mm512_abs_ps(a); }
INLINE Ints bits_of(Floats a) { return _mm512_castps_si512(a); }
INLINE Floats floats_of(Ints bits) { return _mm512_castsi512_ps(bits); }

INLINE Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
INLINE void store_ints(void* p, Ints v) { _mm512_storeu_si512(p, v); }
INLINE Ints all_ints(int32_t x) { return _mm512_set1_epi32(x); }
INLINE Ints add_ints(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
INLINE Ints multiply_ints(Ints a, Ints b) { return _mm512_mullo_epi32(a, b); }
INLINE Ints larger_ints(Ints a, Ints b) { return _mm512_max_epi32(a, b); }
INLINE Ints and_ints(Ints a, Ints b) { return _mm512_and_si512(a, b); }
INLINE Ints or_ints(Ints a, Ints b) { return _mm512_or_si512(a, b); }
INLINE int32_t largest_int(Ints a) { return _mm512_reduce_max_epi32(a); }
INLINE int32_t sum_ints(Ints a) { return _mm512_reduce_add_epi32(a); }
INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a); }
INLINE Ints round_to_ints(Floats a) { return _mm512_cvtps_epi32(a); }

INLINE Ints xor_ints(Ints a, Ints b) { return _mm512_xor_si512(a, b); }
INLINE Ints subtract_bytes(Ints a, Ints b) { return _mm512_sub_epi8(a, b); }
// Signed bytes times a number that stands twice in each lane; products that are no bytes wrap around.
INLINE Ints multiply_bytes(Ints bytes, Ints twice) {
  const Ints odd = _mm512_mullo_epi16(_mm512_andnot_si512(_mm512_set1_epi16(255), bytes), twice);
  const Ints even = _mm512_mullo_epi16(bytes, twice);  // whose low byte depends on low bytes alone
  return _mm512_mask_mov_epi8(odd, 0x5555555555555555, even);
}
template <int n>
INLINE Ints shift_right16(Ints a) {
  return _mm512_srli_epi16(a, n);
}
template <int n>
INLINE Ints shift_left16(Ints a) {
  return _mm512_slli_epi16(a, n);
}
template <int n>
INLINE Ints shift_right32(Ints a) {
  return _mm512_srli_epi32(a, n);
}
template <int n>
INLINE Ints shift_left32(Ints a) {
  return _mm512_slli_epi32(a, n);
}
INLINE Ints bytes_to_ints(const uint8_t* p) {
  return _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

INLINE Floats load_float16(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
INLINE Floats load_bfloat16(const uint16_t* p) {
  const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
INLINE void store_float16(uint16_t* p, Floats v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void store_bfloat16(uint16_t* p, Floats v) {
  const __m512i bits = _mm512_castps_si512(v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
  const __m512i safe = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc00000));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(_mm512_srli_epi32(safe, 16)));
}

// 2^t for t ≤ 0, to 1e-6.
INLINE Floats power_of_two(Floats t) {
  const Floats f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEAREST_INT);
  Floats p = multiply_add(all(0.0013333558f), f, all(0.0096181291f));
  p = multiply_add(p, f, all(0.0555041087f));
  p = multiply_add(p, f, all(0.2402265070f));
  p = multiply_add(p, f, all(0.6931471806f));
  p = multiply_add(p, f, all(1));
  return _mm512_scalef_ps(p, subtract(t, f));
}
// 2^t, to .2 %, rounded to integers; t < 31.
INLINE Ints powers_of_two(Floats t) {
  const Floats f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF);  // t - ⌊t⌋
  const Floats p = multiply_add(multiply_add(all(0.3371894f), f, all(0.6576365f)), f, all(1.0017247f));
  return _mm512_cvtps_epi32(_mm512_scalef_ps(p, t));
}
// Integers of 0 … 255 as bytes, each lane of 16 bytes apart: four of the first vector, four of the second …
INLINE Ints pack_bytes(const Ints (&codes)[4]) {
  return _mm512_packus_epi16(_mm512_packs_epi32(codes[0], codes[1]), _mm512_packs_epi32(codes[2], codes[3]));
}

// Sixteen values, by index.
struct Table {
  Floats values;
  explicit Table(const float* p) : values(load(p)) {}
  INLINE Floats operator[](Ints index) const { return _mm512_permutexvar_ps(index, values); }
};

INLINE Bytes16 load_bytes16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
// 16 codes of 0 … 255 as bytes.
INLINE Bytes16 narrow16(const Ints* codes) { return _mm512_cvtepi32_epi8(codes[0]); }

// sums + Σ of four products of unsigned × signed bytes. The compiler's own builtin makes GCC 12 copy and spill
// accumulators; a tied operand does not.
INLINE Ints dot_bytes(Ints sums, Ints unsigned_bytes, Ints signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sums) : "v"(unsigned_bytes), "v"(signed_bytes));
  return sums;
}

}  // namespace

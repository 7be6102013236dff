// AVX2, FMA and F16C under the names that the kernels are written in. Included once, by avx2.cpp and by avx_vnni.cpp.
#pragma once
#include <immintrin.h>

#include "unroll.h"
#include "vectors_x86.h"

namespace {

constexpr int kLanes = 8;  // of 32 bits
using Floats = __m256;
using Ints = __m256i;

INLINE Floats load(const float* p) { return _mm256_loadu_ps(p); }
// The first `count` numbers, of at most a vector, and zeros; nothing beyond them is read.
INLINE Floats load_part(const float* p, int64_t count) {
  static const int32_t masks[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  return _mm256_maskload_ps(p, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(masks + 8 - count)));
}
INLINE void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
INLINE void stream(float* p, Floats v) { _mm256_stream_ps(p, v); }
INLINE void stream_fence() { _mm_sfence(); }
INLINE Floats all(float x) { return _mm256_set1_ps(x); }
INLINE Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
INLINE Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
INLINE Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
INLINE Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
INLINE Floats smaller(Floats a, Floats b) { return _mm256_min_ps(a, b); }
INLINE Floats larger(Floats a, Floats b) { return _mm256_max_ps(a, b); }
INLINE float smallest(Floats a) {
  __m128 x = _mm_min_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_min_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_min_ss(x, _mm_shuffle_ps(x, x, 1)));
}
INLINE float sum(Floats a) {
  __m128 x = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_add_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_add_ss(x, _mm_shuffle_ps(x, x, 1)));
}
INLINE float largest(Floats a) {
  __m128 x = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  x = _mm_max_ps(x, _mm_movehl_ps(x, x));
  return _mm_cvtss_f32(_mm_max_ss(x, _mm_shuffle_ps(x, x, 1)));
}
INLINE Floats absolute(Floats a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a); }
INLINE Ints bits_of(Floats a) { return _mm256_castps_si256(a); }
INLINE Floats floats_of(Ints bits) { return _mm256_castsi256_ps(bits); }

INLINE Ints load_ints(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
INLINE void store_ints(void* p, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
INLINE Ints all_ints(int32_t x) { return _mm256_set1_epi32(x); }
INLINE Ints add_ints(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
INLINE Ints multiply_ints(Ints a, Ints b) { return _mm256_mullo_epi32(a, b); }
INLINE Ints larger_ints(Ints a, Ints b) { return _mm256_max_epi32(a, b); }
INLINE Ints and_ints(Ints a, Ints b) { return _mm256_and_si256(a, b); }
INLINE Ints or_ints(Ints a, Ints b) { return _mm256_or_si256(a, b); }
INLINE int32_t largest_int(Ints a) {
  __m128i x = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  x = _mm_max_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
INLINE int32_t sum_ints(Ints a) {
  __m128i x = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
  x = _mm_add_epi32(x, _mm_shuffle_epi32(x, 0x4e));
  return _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32(x, 0xb1)));
}
INLINE Floats to_floats(Ints a) { return _mm256_cvtepi32_ps(a); }
INLINE Ints round_to_ints(Floats a) { return _mm256_cvtps_epi32(a); }

INLINE Ints xor_ints(Ints a, Ints b) { return _mm256_xor_si256(a, b); }
INLINE Ints subtract_bytes(Ints a, Ints b) { return _mm256_sub_epi8(a, b); }
// Signed bytes times a number that stands twice in each lane; products that are no bytes wrap around.
INLINE Ints multiply_bytes(Ints bytes, Ints twice) {
  const Ints low = _mm256_set1_epi16(255);
  const Ints odd = _mm256_mullo_epi16(_mm256_andnot_si256(low, bytes), twice);
  const Ints even = _mm256_mullo_epi16(bytes, twice);  // whose low byte depends on low bytes alone
  return _mm256_or_si256(odd, _mm256_and_si256(even, low));
}
template <int n>
INLINE Ints shift_right16(Ints a) {
  return _mm256_srli_epi16(a, n);
}
template <int n>
INLINE Ints shift_left16(Ints a) {
  return _mm256_slli_epi16(a, n);
}
template <int n>
INLINE Ints shift_right32(Ints a) {
  return _mm256_srli_epi32(a, n);
}
template <int n>
INLINE Ints shift_left32(Ints a) {
  return _mm256_slli_epi32(a, n);
}
INLINE Ints bytes_to_ints(const uint8_t* p) {
  return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
}

INLINE Floats load_float16(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
INLINE Floats load_bfloat16(const uint16_t* p) {
  const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
INLINE void store_float16(uint16_t* p, Floats v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
INLINE void store_bfloat16(uint16_t* p, Floats v) {
  const __m256i bits = _mm256_castps_si256(v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
  const __m256i safe = _mm256_blendv_epi8(rounded, _mm256_set1_epi32(0x7fc00000), nan);
  const __m256i high = _mm256_srli_epi32(safe, 16);
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0xd8);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(words));
}

// 2^t for t ≤ 0, to 1e-6; 2^-126 at least.
INLINE Floats power_of_two(Floats t) {
  const Floats magic = all(12582912.0f), bounded = _mm256_max_ps(t, all(-126));  // magic: its last bit is worth 1
  const Floats whole = add(bounded, magic), f = subtract(bounded, subtract(whole, magic));
  Floats p = multiply_add(all(0.0013333558f), f, all(0.0096181291f));
  p = multiply_add(p, f, all(0.0555041087f));
  p = multiply_add(p, f, all(0.2402265070f));
  p = multiply_add(p, f, all(0.6931471806f));
  p = multiply_add(p, f, all(1));
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(whole), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}
// 2^t, to .2 %, rounded to integers; t < 31.
INLINE Ints powers_of_two(Floats t) {
  const Floats magic = all(12582912.0f), bounded = _mm256_max_ps(t, all(-20));  // magic: its last bit is worth 1
  const Floats whole = add(bounded, magic), f = subtract(bounded, subtract(whole, magic));
  const Floats p = multiply_add(multiply_add(all(0.2384289f), f, all(0.7034482f)), f, all(1.0004432f));
  const __m256i exponent = _mm256_slli_epi32(_mm256_castps_si256(whole), 23);
  return _mm256_cvtps_epi32(_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent)));
}
// Integers of 0 … 255 as bytes, each lane of 16 bytes apart: four of the first vector, four of the second …
INLINE Ints pack_bytes(const Ints (&codes)[4]) {
  return _mm256_packus_epi16(_mm256_packs_epi32(codes[0], codes[1]), _mm256_packs_epi32(codes[2], codes[3]));
}

// Sixteen values, by index; those of the upper half where the index has its fourth bit.
struct Table {
  Floats lower, upper;
  explicit Table(const float* p) : lower(load(p)), upper(load(p + 8)) {}
  INLINE Floats operator[](Ints index) const {
    const Floats a = _mm256_permutevar8x32_ps(lower, index), b = _mm256_permutevar8x32_ps(upper, index);
    return _mm256_blendv_ps(a, b, floats_of(_mm256_slli_epi32(index, 28)));
  }
};

INLINE Bytes16 load_bytes16(const void* p) { return _mm_loadu_si128(static_cast<const __m128i*>(p)); }
// 16 codes of 0 … 255 as bytes.
INLINE Bytes16 narrow16(const Ints* codes) {
  const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(codes[0], codes[1]), 0xd8);
  return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

}  // namespace

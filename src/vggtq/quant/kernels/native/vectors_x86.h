// Vectors of 16 bytes, under the names that the kernels are written in, for all instruction sets of x86.
#pragma once
#include <immintrin.h>

#include "unroll.h"

namespace {

using Bytes16 = __m128i;

// out[k · stride + (0, 1)] = the k-th four codes of each of two rows, k = 0 … 3; of one row in store_single.
INLINE void store_pair(Bytes16 first, Bytes16 second, uint32_t* out, int stride) {
  const __m128i low = _mm_unpacklo_epi32(first, second), high = _mm_unpackhi_epi32(first, second);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), low);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out + stride), _mm_unpackhi_epi64(low, low));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 2 * stride), high);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out + 3 * stride), _mm_unpackhi_epi64(high, high));
}
INLINE void store_single(Bytes16 row, uint32_t* out, int stride) {
  out[0] = static_cast<uint32_t>(_mm_extract_epi32(row, 0));
  out[stride] = static_cast<uint32_t>(_mm_extract_epi32(row, 1));
  out[2 * stride] = static_cast<uint32_t>(_mm_extract_epi32(row, 2));
  out[3 * stride] = static_cast<uint32_t>(_mm_extract_epi32(row, 3));
}

// Codes of 0 … 255 less 128.
INLINE Bytes16 less128(Bytes16 codes) { return _mm_xor_si128(codes, _mm_set1_epi8(static_cast<char>(0x80))); }

// out[4 · i + r] = byte i of row r.
INLINE void store_interleaved(const Bytes16 (&rows)[4], int8_t* out) {
  const __m128i low[2] = {_mm_unpacklo_epi8(rows[0], rows[1]), _mm_unpacklo_epi8(rows[2], rows[3])};
  const __m128i high[2] = {_mm_unpackhi_epi8(rows[0], rows[1]), _mm_unpackhi_epi8(rows[2], rows[3])};
  __m128i* to = reinterpret_cast<__m128i*>(out);
  _mm_storeu_si128(to, _mm_unpacklo_epi16(low[0], low[1]));
  _mm_storeu_si128(to + 1, _mm_unpackhi_epi16(low[0], low[1]));
  _mm_storeu_si128(to + 2, _mm_unpacklo_epi16(high[0], high[1]));
  _mm_storeu_si128(to + 3, _mm_unpackhi_epi16(high[0], high[1]));
}

}  // namespace

// Plain loops under the names that the kernels are written in: any CPU, and what the other instruction sets are
// compared with.
#pragma once
#include <cmath>
#include <cstring>

#include "unroll.h"

namespace {

constexpr int kLanes = 8;
struct Floats {
  float lane[kLanes];
};
struct Ints {
  int32_t lane[kLanes];
};
struct Bytes16 {
  uint8_t lane[16];
};

template <class Out, class Function>
INLINE Out each(Function&& function) {
  Out out;
  for (int i = 0; i < kLanes; i++) out.lane[i] = function(i);
  return out;
}

INLINE Floats load(const float* p) {
  Floats v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store(float* p, Floats v) { std::memcpy(p, &v, sizeof v); }
INLINE void stream(float* p, Floats v) { store(p, v); }
INLINE void stream_fence() {}
INLINE Floats all(float x) {
  return each<Floats>([&](int) { return x; });
}
INLINE Floats add(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.lane[i] + b.lane[i]; });
}
INLINE Floats subtract(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.lane[i] - b.lane[i]; });
}
INLINE Floats multiply(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.lane[i] * b.lane[i]; });
}
INLINE Floats multiply_add(Floats a, Floats b, Floats c) {
  return each<Floats>([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
INLINE Floats divide(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.lane[i] / b.lane[i]; });
}
INLINE Floats power_of_two(Floats t) {
  return each<Floats>([&](int i) { return std::exp2(t.lane[i]); });
}
INLINE float sum(Floats a) {
  float out = 0;
  for (float x : a.lane) out += x;
  return out;
}
INLINE Floats load_part(const float* p, int64_t count) {
  return each<Floats>([&](int i) { return i < count ? p[i] : 0; });
}
INLINE Floats smaller(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
INLINE Floats larger(Floats a, Floats b) {
  return each<Floats>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
INLINE float smallest(Floats a) {
  float out = a.lane[0];
  for (float x : a.lane) out = x < out ? x : out;
  return out;
}
INLINE float largest(Floats a) {
  float out = a.lane[0];
  for (float x : a.lane) out = x > out ? x : out;
  return out;
}
INLINE Floats absolute(Floats a) {
  return each<Floats>([&](int i) { return std::fabs(a.lane[i]); });
}
INLINE Floats floats_of(Ints bits) {
  Floats out;
  std::memcpy(&out, &bits, sizeof out);
  return out;
}
INLINE Ints bits_of(Floats a) {
  Ints out;
  std::memcpy(&out, &a, sizeof out);
  return out;
}

INLINE Ints load_ints(const void* p) {
  Ints v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINE void store_ints(void* p, Ints v) { std::memcpy(p, &v, sizeof v); }
INLINE Ints all_ints(int32_t x) {
  return each<Ints>([&](int) { return x; });
}
// Sums and products of lanes wrap around, as the instructions' do.
INLINE int32_t wrapped(uint32_t x) { return static_cast<int32_t>(x); }
INLINE uint32_t unsigned_of(int32_t x) { return static_cast<uint32_t>(x); }
INLINE Ints add_ints(Ints a, Ints b) {
  return each<Ints>([&](int i) { return wrapped(unsigned_of(a.lane[i]) + unsigned_of(b.lane[i])); });
}
INLINE Ints multiply_ints(Ints a, Ints b) {
  return each<Ints>([&](int i) { return wrapped(unsigned_of(a.lane[i]) * unsigned_of(b.lane[i])); });
}
INLINE Ints larger_ints(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
INLINE Ints and_ints(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.lane[i] & b.lane[i]; });
}
INLINE Ints or_ints(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.lane[i] | b.lane[i]; });
}
INLINE int32_t largest_int(Ints a) {
  int32_t out = a.lane[0];
  for (int32_t x : a.lane) out = x > out ? x : out;
  return out;
}
INLINE int32_t sum_ints(Ints a) {
  uint32_t out = 0;
  for (int32_t x : a.lane) out += unsigned_of(x);
  return wrapped(out);
}
INLINE Floats to_floats(Ints a) {
  return each<Floats>([&](int i) { return static_cast<float>(a.lane[i]); });
}
INLINE Ints round_to_ints(Floats a) {  // what no integer can hold, NaN among it, becomes 0
  return each<Ints>([&](int i) {
    const float x = a.lane[i];
    return x > -1e9f && x < 1e9f ? static_cast<int32_t>(std::nearbyintf(x)) : 0;
  });
}

INLINE Ints xor_ints(Ints a, Ints b) {
  return each<Ints>([&](int i) { return a.lane[i] ^ b.lane[i]; });
}
// Signed bytes times a number that stands twice in each lane; products that are no bytes wrap around.
INLINE Ints multiply_bytes(Ints bytes, Ints twice) {
  uint8_t x[sizeof bytes];
  std::memcpy(x, &bytes, sizeof x);
  for (size_t i = 0; i < sizeof x; i++) x[i] = static_cast<uint8_t>(x[i] * (twice.lane[i / 4] & 255));
  std::memcpy(&bytes, x, sizeof x);
  return bytes;
}
INLINE Ints subtract_bytes(Ints a, Ints b) {
  uint8_t x[sizeof a], y[sizeof b];
  std::memcpy(x, &a, sizeof a);
  std::memcpy(y, &b, sizeof b);
  for (size_t i = 0; i < sizeof a; i++) x[i] = static_cast<uint8_t>(x[i] - y[i]);
  std::memcpy(&a, x, sizeof a);
  return a;
}
// By whole lanes instead of 16 bits: callers mask what crosses bytes.
template <int n>
INLINE Ints shift_right16(Ints a) {
  return each<Ints>([&](int i) { return wrapped(unsigned_of(a.lane[i]) >> n); });
}
template <int n>
INLINE Ints shift_left16(Ints a) {
  return each<Ints>([&](int i) { return wrapped(unsigned_of(a.lane[i]) << n); });
}
template <int n>
INLINE Ints shift_right32(Ints a) {
  return each<Ints>([&](int i) { return wrapped(unsigned_of(a.lane[i]) >> n); });
}
template <int n>
INLINE Ints shift_left32(Ints a) {
  return each<Ints>([&](int i) { return wrapped(unsigned_of(a.lane[i]) << n); });
}
INLINE Ints bytes_to_ints(const uint8_t* p) {
  return each<Ints>([&](int i) { return static_cast<int32_t>(p[i]); });
}

INLINE float as_float(uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}
INLINE float from_float16(uint16_t half) {
  const uint32_t sign = (half & 0x8000u) << 16, rest = half & 0x7fffu;
  if (rest >= 0x7c00u) return as_float(sign | 0x7f800000u | ((rest & 0x3ffu) << 13));
  // Exponents of float16 are moved to float32's by a product, which is exact for subnormal numbers as well.
  const float moved = as_float(rest << 13) * as_float(0x77800000u);
  return sign ? -moved : moved;
}
INLINE uint16_t to_float16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  const uint32_t sign = (bits >> 16) & 0x8000u, rest = bits & 0x7fffffffu;
  if (rest > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
  if (rest >= 0x477ff000u) return static_cast<uint16_t>(sign | 0x7c00u);  // from 65520 on
  if (rest < 0x38800000u) {                                               // subnormal: in steps of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint32_t>(std::nearbyintf(as_float(rest) * 16777216.0f)));
  }
  return static_cast<uint16_t>(sign | ((rest - 0x38000000u + 0xfffu + ((rest >> 13) & 1u)) >> 13));
}
INLINE uint16_t to_bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0u;
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
INLINE Floats load_float16(const uint16_t* p) {
  return each<Floats>([&](int i) { return from_float16(p[i]); });
}
INLINE Floats load_bfloat16(const uint16_t* p) {
  return each<Floats>([&](int i) { return as_float(static_cast<uint32_t>(p[i]) << 16); });
}
INLINE void store_float16(uint16_t* p, Floats v) {
  for (int i = 0; i < kLanes; i++) p[i] = to_float16(v.lane[i]);
}
INLINE void store_bfloat16(uint16_t* p, Floats v) {
  for (int i = 0; i < kLanes; i++) p[i] = to_bfloat16(v.lane[i]);
}

INLINE Ints powers_of_two(Floats t) {  // NaN gives 0
  return each<Ints>([&](int i) {
    const float x = t.lane[i];
    return x > -20 ? static_cast<int32_t>(std::nearbyintf(std::exp2(x))) : 0;
  });
}
INLINE Ints pack_bytes(const Ints (&codes)[4]) {  // in the order of vectors_avx2.h
  uint8_t out[sizeof(Ints)];
  for (int i = 0; i < 4 * kLanes; i++) {
    const int32_t code = codes[i / 4 % 4].lane[i / 16 * 4 + i % 4];
    out[i] = static_cast<uint8_t>(code < 255 ? code : 255);
  }
  return load_ints(out);
}

struct Table {
  const float* values;  // sixteen
  explicit Table(const float* p) : values(p) {}
  INLINE Floats operator[](Ints index) const {
    return each<Floats>([&](int i) { return values[index.lane[i]]; });
  }
};

INLINE Bytes16 load_bytes16(const void* p) {
  Bytes16 v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINE Bytes16 narrow16(const Ints* codes) {
  Bytes16 out;
  for (int i = 0; i < 16; i++) out.lane[i] = static_cast<uint8_t>(codes[i / kLanes].lane[i % kLanes]);
  return out;
}
INLINE void store_pair(Bytes16 first, Bytes16 second, uint32_t* out, int stride) {
  for (int k = 0; k < 4; k++) {
    std::memcpy(out + k * stride, first.lane + 4 * k, 4);
    std::memcpy(out + k * stride + 1, second.lane + 4 * k, 4);
  }
}
INLINE void store_single(Bytes16 row, uint32_t* out, int stride) {
  for (int k = 0; k < 4; k++) std::memcpy(out + k * stride, row.lane + 4 * k, 4);
}

INLINE Bytes16 less128(Bytes16 codes) {
  for (uint8_t& code : codes.lane) code = static_cast<uint8_t>(code ^ 0x80);
  return codes;
}
INLINE void store_interleaved(const Bytes16 (&rows)[4], int8_t* out) {
  for (int i = 0; i < 64; i++) out[i] = static_cast<int8_t>(rows[i % 4].lane[i / 4]);
}

INLINE Ints dot_bytes(Ints sums, Ints unsigned_bytes, Ints signed_bytes) {
  uint8_t x[sizeof sums];
  int8_t y[sizeof sums];
  std::memcpy(x, &unsigned_bytes, sizeof x);
  std::memcpy(y, &signed_bytes, sizeof y);
  return each<Ints>([&](int i) {
    int32_t dot = 0;
    for (int b = 4 * i; b < 4 * i + 4; b++) dot += x[b] * y[b];
    return wrapped(unsigned_of(sums.lane[i]) + unsigned_of(dot));
  });
}

}  // namespace

// LayerNorm and rotary angles of queries and keys, a head of a token at a time. Needs one of vectors_*.h.
#pragma once
#include "around.inl.h"

namespace {

// x · cos + rotated · sin, with rotated = (-b, a) for the halves (a, b) of each group of channels.
INLINE void turn(float* x, const float* cosines, const float* sines, int64_t width, int64_t groups) {
  const int64_t half = width / (2 * groups);
  for (int64_t start = 0; start < width; start += 2 * half) {
    for (int64_t i = start; i < start + half; i += kLanes) {
      const int64_t j = i + half;
      const Floats a = load(x + i), b = load(x + j);
      const Floats b_sin = multiply(b, load(sines + i)), a_sin = multiply(a, load(sines + j));
      store(x + i, subtract(multiply(a, load(cosines + i)), b_sin));
      store(x + j, multiply_add(b, load(cosines + j), a_sin));
    }
  }
}

inline void rotate(const VggtqRotation& call, int64_t first, int64_t last) {
  const int64_t width = call.width;
  for (int64_t token = first; token < last; token++) {
    const int64_t position = token % call.tokens * width;
    for (int64_t head = 0; head < 2 * call.heads; head++) {
      const bool key = head >= call.heads;
      const float* norm = key ? call.key_norm : call.query_norm;
      float* x = call.numbers + (token * 3 * call.heads + head) * width;
      if (norm) layer_norm(x, norm, norm + width, key ? call.key_epsilon : call.query_epsilon, width, x);
      if (call.cosines) turn(x, call.cosines + position, call.sines + position, width, call.groups);
    }
  }
}

}  // namespace

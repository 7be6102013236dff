// What surrounds the products of a transformer block: LayerNorm and GELU. Needs one of vectors_*.h.
#pragma once
#include <cmath>

#include "kernels.h"

namespace {

// (x - mean) / √(variance + epsilon) · weight + bias over `count` numbers, a multiple of a vector; out may be x.
INLINE void layer_norm(const float* x, const float* weight, const float* bias, float epsilon, int64_t count,
                       float* out) {
  Floats total = all(0), squares = all(0);
  for (int64_t i = 0; i < count; i += kLanes) total = add(total, load(x + i));
  const Floats mean = all(sum(total) / static_cast<float>(count));
  for (int64_t i = 0; i < count; i += kLanes) {
    const Floats centered = subtract(load(x + i), mean);
    squares = multiply_add(centered, centered, squares);
  }
  const Floats inverse = all(1 / std::sqrt(sum(squares) / static_cast<float>(count) + epsilon));
  for (int64_t i = 0; i < count; i += kLanes) {
    const Floats normal = multiply(subtract(load(x + i), mean), inverse);
    store(out + i, multiply_add(normal, load(weight + i), load(bias + i)));
  }
}

// x Φ(x) = max(x, 0) - |x| Φ(-|x|), with Φ(-z √2) = ½ erfc(z) from Abramowitz and Stegun, 7.1.26: off by 1e-7 at most.
INLINE Floats gelu(Floats x) {
  const Floats size = absolute(x), z = multiply(size, all(0.70710678f));
  const Floats t = divide(all(1), multiply_add(z, all(0.3275911f), all(1)));
  Floats p = multiply_add(all(1.061405429f), t, all(-1.453152027f));
  p = multiply_add(p, t, all(1.421413741f));
  p = multiply_add(p, t, all(-0.284496736f));
  p = multiply_add(p, t, all(0.254829592f));
  const Floats decay = power_of_two(multiply(multiply(x, x), all(-0.72134752f)));  // e^-z²
  const Floats half_erfc = multiply(multiply(p, multiply(t, all(0.5f))), decay);
  return subtract(larger(x, all(0)), multiply(size, half_erfc));
}

}  // namespace

// Loops whose indices are constants, so that arrays indexed by them stay in registers.
#pragma once
#include <cstdint>
#include <utility>

#define INLINE __attribute__((always_inline)) inline
// Of a lambda: a call would force what it captures out of the registers.
#define INLINED __attribute__((always_inline))

namespace {

template <class Function, int... indices>
INLINE void unroll_over(Function&& function, std::integer_sequence<int, indices...>) {
  (function(std::integral_constant<int, indices>{}), ...);
}

// function(0), function(1), … function(count - 1).
template <int count, class Function>
INLINE void unroll(Function&& function) {
  unroll_over(function, std::make_integer_sequence<int, count>{});
}

}  // namespace

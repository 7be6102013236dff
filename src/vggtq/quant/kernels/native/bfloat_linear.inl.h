// y = x · ŵᵀ + b with x and ŵ in bfloat16 and float32 sums, by vectors. Needs what float_linear.inl.h needs, and
// dot_pairs, in_order and interleaved (bfloat_pairs.h).
#pragma once
#include "float_linear.inl.h"

namespace {

struct InBfloat16 {
  using Unit = uint32_t;
  using Vector = Ints;
  static constexpr int kInputs = 2;  // of a unit

  INLINE static Vector vector(const Unit* p) { return load_ints(p); }
  INLINE static Vector spread(Unit x) { return all_ints(static_cast<int32_t>(x)); }
  INLINE static Floats add_product(Vector inputs, Vector weights, Floats sums) {
    return dot_pairs(sums, inputs, weights);
  }
  // In `room`, which the row may lie in: every store is behind what has been read.
  INLINE static const Unit* units_of(const float* row, int64_t columns, float* room) {
    Unit* units = reinterpret_cast<Unit*>(room);
    for (int64_t k = 0; k < columns; k += 2 * kLanes) {
      store_ints(units + k / 2, in_order(load(row + k), load(row + k + kLanes)));
    }
    return units;
  }

  // Weights of the inputs first … last - 1, [inputs / 2][kPanel].
  static void slice(const VggtqWeight& weight, const Groups& groups, int64_t panel, int64_t first, int64_t last,
                    uint8_t* room, Unit* out) {
    Floats before[kColumns] = {};  // of the input before an odd one
    auto keep = [&](int64_t k, auto j, auto column, Floats value) INLINED {
      if constexpr (j % 2 == 0) {
        before[column] = value;
      } else {
        Unit* row = out + (k - first) / 2 * kPanel;
        store_ints(row + column * kLanes, interleaved(before[column], value));
      }
    };
    take_slice(weight, groups, panel, first, last, room, keep);
  }
};

}  // namespace

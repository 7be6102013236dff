// Products of unsigned × signed bytes that are summed in 32 bits at once. Needs one of vectors_*.h with dot_bytes,
// kColumns, kTileRows.
#pragma once

namespace {

struct ExactProduct {
  static constexpr int kRows = kTileRows;

  // sums[r][c] += Σ inputs[k][r] · codes[k][c] over `steps` steps of four inputs.
  template <int rows>
  INLINE static void accumulate(Ints (&sums)[rows][kColumns], const uint32_t* inputs, const int8_t* codes,
                                int64_t steps) {
    for (int64_t k = 0; k < steps; k++, inputs += kRows, codes += kColumns * 4 * kLanes) {
      Ints weights[kColumns];
      unroll<kColumns>([&](auto c) INLINED { weights[c] = load_ints(codes + c * 4 * kLanes); });
      unroll<rows>([&](auto r) INLINED {
        const Ints input = all_ints(static_cast<int32_t>(inputs[r]));
        unroll<kColumns>([&](auto c) INLINED { sums[r][c] = dot_bytes(sums[r][c], input, weights[c]); });
      });
    }
  }
};

inline int32_t exact_input_bits(int32_t, bool) { return 8; }

inline bool exact_linear(const VggtqCall& call, const InputNumbers* shared, Share share, size_t cache_bytes,
                         Scratch& scratch) {
  return linear_by<ExactProduct>(call, shared, share, 8, cache_bytes, scratch);
}

}  // namespace

// AVX2: vpmaddubsw sums pairs of products of unsigned × signed bytes in 16 bits, where they must not saturate.
#include "vectors_avx2.h"

namespace {

constexpr int kFloatRows = 6, kColumns = 2;
constexpr bool kScalesInProduct = true;
constexpr bool kSevenBits = true;  // 2 · 255 · 64 fits 16 bits, and 2 · 255 · 127 does not
constexpr int kConvolutionRows = 4;
constexpr int kAttentionRows = 4, kSignedEnd = 64;

INLINE Ints dot_bytes(Ints sums, Ints unsigned_bytes, Ints signed_bytes) {
  const Ints products = _mm256_maddubs_epi16(unsigned_bytes, signed_bytes);
  return add_ints(sums, _mm256_madd_epi16(products, _mm256_set1_epi16(1)));
}

// The same with weights from memory. As one statement, for the compiler moves its parts apart and spills what lies
// between.
INLINE Ints dot_memory(Ints sums, Ints input, const int8_t* weights, Ints ones) {
  Ints products;
  asm("vpmaddubsw %2, %3, %1\n\tvpmaddwd %4, %1, %1\n\tvpaddd %1, %0, %0"
      : "+x"(sums), "=&x"(products)
      : "m"(*reinterpret_cast<const Ints*>(weights)), "x"(input), "x"(ones));
  return sums;
}

INLINE Ints dot_at(Ints sums, Ints input, const int8_t* codes) {
  return dot_memory(sums, input, codes, _mm256_set1_epi16(1));
}

// Sums of pairs in 16 bits, and their start.
INLINE Ints pairs_memory(Ints input, const int8_t* weights) {
  Ints products;
  asm("vpmaddubsw %1, %2, %0" : "=x"(products) : "m"(*reinterpret_cast<const Ints*>(weights)), "x"(input));
  return products;
}
INLINE Ints add_pairs_memory(Ints sums, Ints input, const int8_t* weights) {
  Ints products;
  asm("vpmaddubsw %2, %3, %1\n\tvpaddw %1, %0, %0"
      : "+x"(sums), "=&x"(products)
      : "m"(*reinterpret_cast<const Ints*>(weights)), "x"(input));
  return sums;
}

}  // namespace

#include "linear.inl.h"
#include "attention.inl.h"
#include "rotation.inl.h"
#include "convolution.inl.h"
#include "float_linear.inl.h"

namespace {

constexpr int kStepBytes = kColumns * 4 * kLanes;

// Each step is widened to 32 bits: eight sums, a product, an input and ones of 16 registers.
struct WidePairs {
  static constexpr int kRows = 4;

  // Codes that integer scales multiply are small enough for chains.
  template <int rows>
  INLINE static void accumulate_scaled(Ints (&)[rows][kColumns], const uint32_t*, const int8_t*, int64_t,
                                       const int32_t*) {}

  template <int rows>
  INLINE static void accumulate(Ints (&sums)[rows][kColumns], const uint32_t* inputs, const int8_t* codes,
                                int64_t steps) {
    const Ints ones = _mm256_set1_epi16(1);
    for (int64_t k = 0; k < steps; k++, inputs += kRows, codes += kStepBytes) {
      unroll<rows>([&](auto r) INLINED {
        const Ints input = all_ints(static_cast<int32_t>(inputs[r]));
        unroll<kColumns>([&](auto c)
                             INLINED { sums[r][c] = dot_memory(sums[r][c], input, codes + c * 4 * kLanes, ones); });
      });
    }
  }
};

// `chain` steps are summed in 16 bits before they are widened: chain · 2 · 255 · max|code| has to fit. Six sums of each
// kind. What widens them multiplies: by one, or for nothing by the integer scale of a group.
template <int chain>
struct ChainedPairs {
  static constexpr int kRows = 3;

  template <int rows>
  INLINE static void accumulate(Ints (&sums)[rows][kColumns], const uint32_t* inputs, const int8_t* codes,
                                int64_t steps) {
    chains(sums, inputs, codes, steps, [](auto) INLINED { return _mm256_set1_epi16(1); });
  }

  template <int rows>
  INLINE static void accumulate_scaled(Ints (&sums)[rows][kColumns], const uint32_t* inputs, const int8_t* codes,
                                       int64_t steps, const int32_t* multipliers) {
    // From memory each time: no register is left for them.
    chains(sums, inputs, codes, steps, [=](auto c) INLINED { return load_ints(multipliers + c * kLanes); });
  }

 private:
  template <int rows, class Scale>
  INLINE static void chains(Ints (&sums)[rows][kColumns], const uint32_t* inputs, const int8_t* codes, int64_t steps,
                            Scale scale) {
    for (int64_t k = 0; k < steps; k += chain, inputs += chain * kRows, codes += chain * kStepBytes) {
      Ints narrow[rows][kColumns];
      unroll<chain>([&](auto i) INLINED {
        unroll<rows>([&](auto r) INLINED {
          const Ints input = all_ints(static_cast<int32_t>(inputs[i * kRows + r]));
          unroll<kColumns>([&](auto c) INLINED {
            const int8_t* weights = codes + i * kStepBytes + c * 4 * kLanes;
            narrow[r][c] = i == 0 ? pairs_memory(input, weights) : add_pairs_memory(narrow[r][c], input, weights);
          });
        });
      });
      unroll<kColumns>([&](auto c) INLINED {
        const Ints factor = scale(c);
        unroll<rows>([&](auto r) INLINED {
          const Ints scaled = _mm256_madd_epi16(narrow[r][c], factor);
          sums[r][c] = add_ints(sums[r][c], scaled);
        });
      });
    }
  }
};

// Steps of four inputs with 8-bit codes that fit 16 bits; 0: not even one, inputs get 7 bits.
inline int chain_of(int32_t weight_bits, bool symmetric) {
  const int largest = symmetric || weight_bits == 8 ? 1 << (weight_bits - 1) : (1 << weight_bits) - 1;
  for (int chain = 8; chain > 0; chain /= 2) {
    if (chain * 2 * 255 * largest <= 32767) return chain;
  }
  return 0;
}

inline int32_t pair_input_bits(int32_t weight_bits, bool symmetric) { return chain_of(weight_bits, symmetric) ? 8 : 7; }

inline bool pair_linear(const VggtqCall& call, const InputNumbers* shared, Share share, size_t cache_bytes,
                        Scratch& scratch) {
  const VggtqWeight& weight = *call.weight;
  const bool symmetric = weight.zeros == nullptr;
  const int chain = chain_of(product_weight_bits(weight.bits, symmetric), symmetric);
  switch (weight.group % 32 != 0 && chain == 8 ? 4 : chain) {  // a chain ends with its group
    case 8: return linear_by<ChainedPairs<8>>(call, shared, share, 8, cache_bytes, scratch);
    case 4: return linear_by<ChainedPairs<4>>(call, shared, share, 8, cache_bytes, scratch);
    case 2: return linear_by<ChainedPairs<2>>(call, shared, share, 8, cache_bytes, scratch);
    case 1: return linear_by<WidePairs>(call, shared, share, 8, cache_bytes, scratch);
    default: return linear_by<WidePairs>(call, shared, share, 7, cache_bytes, scratch);
  }
}

}  // namespace

const Kernels kAvx2 = {
    "avx2",  kLanes, kPanel,  12,     product_weight_bits, pair_input_bits, range_of_tokens, pair_linear, float_linear,
    nullptr, attend, nullptr, rotate, convolve_band,       range_of_image,
};

// AVX-512 VNNI: vpdpbusd on 64 bytes.
#include "vectors_avx512.h"

namespace {
// 24 sums, two vectors of weights and one of inputs fit the 32 registers.
constexpr int kTileRows = 12, kFloatRows = 12, kColumns = 2;
constexpr bool kScalesInProduct = false;
constexpr bool kSevenBits = false;
constexpr int kConvolutionRows = 12;
constexpr int kAttentionRows = 12, kSignedEnd = 127;

INLINE Ints dot_at(Ints sums, Ints input, const int8_t* codes) { return dot_bytes(sums, input, load_ints(codes)); }

}  // namespace

#include "linear.inl.h"
#include "exact_products.inl.h"
#include "attention.inl.h"
#include "rotation.inl.h"
#include "convolution.inl.h"
#include "float_linear.inl.h"

const Kernels kAvx512Vnni = {
    "avx512_vnni",
    kLanes,
    kPanel,
    12,
    product_weight_bits,
    exact_input_bits,
    range_of_tokens,
    exact_linear,
    float_linear,
    nullptr,
    attend,
    nullptr,
    rotate,
    convolve_band,
    range_of_image,
};

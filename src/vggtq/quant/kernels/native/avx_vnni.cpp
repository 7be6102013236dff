// AVX-VNNI, of CPUs without AVX-512: vpdpbusd on 32 bytes.
#include "vectors_avx2.h"

namespace {

constexpr int kTileRows = 6, kFloatRows = 6, kColumns = 2;  // of 16 registers
constexpr bool kScalesInProduct = false;
constexpr bool kSevenBits = false;
constexpr int kConvolutionRows = 6;
constexpr int kAttentionRows = 6, kSignedEnd = 127;

// As in vectors_avx512.h. VGGTQ_EVEX: the encoding of AVX-512 VL, with which CPUs that have only that run the tests.
#ifdef VGGTQ_EVEX
#define VGGTQ_VPDPBUSD "vpdpbusd %2, %1, %0"
#else
#define VGGTQ_VPDPBUSD "%{vex%} vpdpbusd %2, %1, %0"
#endif
INLINE Ints dot_bytes(Ints sums, Ints unsigned_bytes, Ints signed_bytes) {
  asm(VGGTQ_VPDPBUSD : "+x"(sums) : "x"(unsigned_bytes), "x"(signed_bytes));
  return sums;
}
INLINE Ints dot_at(Ints sums, Ints input, const int8_t* codes) { return dot_bytes(sums, input, load_ints(codes)); }

}  // namespace

#include "linear.inl.h"
#include "exact_products.inl.h"
#include "attention.inl.h"
#include "rotation.inl.h"
#include "convolution.inl.h"
#include "float_linear.inl.h"

const Kernels kAvxVnni = {
    "avx_vnni",
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

// Plain C++ for any CPU.
#include "vectors_portable.h"

namespace {
#ifdef VGGTQ_PLAIN_TILES
constexpr int kColumns = 4;  // the panels of AMX
#else
constexpr int kColumns = 2;
#endif
constexpr int kTileRows = 4, kFloatRows = 4;
constexpr bool kScalesInProduct = false;
constexpr bool kSevenBits = false;
constexpr int kConvolutionRows = 4;
constexpr int kAttentionRows = 4, kSignedEnd = 127;

INLINE Ints dot_at(Ints sums, Ints input, const int8_t* codes) { return dot_bytes(sums, input, load_ints(codes)); }

}  // namespace

#include "linear.inl.h"
#include "exact_products.inl.h"
#include "attention.inl.h"
#include "rotation.inl.h"
#include "convolution.inl.h"
#include "float_linear.inl.h"

const Kernels kPortable = {
    "portable",
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

// AVX-512 BF16: vdpbf16ps multiplies pairs of bfloat16, beside the kernels of AVX-512 VNNI.
#include "avx512_bf16.h"

#include "bfloat_pairs.h"

namespace {
// As in avx512_vnni.cpp.
constexpr int kColumns = 32 / kLanes, kFloatRows = 12, kAttentionRows = 12;
constexpr bool kScalesInProduct = false;
constexpr bool kSevenBits = false;
}  // namespace

#include "bfloat_attention.inl.h"
#include "bfloat_linear.inl.h"

bool bfloat_linear_by_vectors(const VggtqCall& call, Share share, size_t, Scratch& scratch) {
  return multiply_floats<InBfloat16>(call, share, scratch);
}

bool bfloat_attention_by_vectors(const VggtqAttention& call, QueryShare share, Scratch& scratch) {
  return attend_bfloat(call, share, scratch);
}

// What AVX-512 BF16 adds to the kernels of AVX-512 VNNI.
#pragma once
#include "kernels.h"

// Kernels::bfloat_linear.
bool bfloat_linear_by_vectors(const VggtqCall& call, Share share, size_t cache_bytes, Scratch& scratch);
// Kernels::bfloat_attention.
bool bfloat_attention_by_vectors(const VggtqAttention& call, QueryShare share, Scratch& scratch);

// What AMX adds to the kernels of AVX-512.
#pragma once
#include "kernels.h"

// Kernels::linear by tiles. The thread may use them once the system has been asked (interface.cpp).
bool linear_by_tiles(const VggtqCall& call, const InputNumbers* shared, Share share, size_t cache_bytes,
                     Scratch& scratch);
// Kernels::bfloat_linear.
bool bfloat_linear_by_tiles(const VggtqCall& call, Share share, size_t cache_bytes, Scratch& scratch);

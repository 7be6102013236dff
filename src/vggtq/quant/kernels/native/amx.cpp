// AMX: tiles of 16 × 64 bytes multiply rounded inputs (tdpbusd) and bfloat16 (tdpbf16ps); vectors of AVX-512 do the
// rest.
#include "amx.h"

#ifdef VGGTQ_PLAIN_TILES
#include "vectors_portable.h"
#else
#include "vectors_avx512.h"
#endif

namespace {
constexpr int kColumns = 32 / kLanes, kFloatRows = 4;
constexpr bool kScalesInProduct = false;
constexpr bool kSevenBits = false;
}  // namespace

#include "tile_linear.inl.h"
#include "tile_floats.inl.h"

bool linear_by_tiles(const VggtqCall& call, const InputNumbers* shared, Share share, size_t cache_bytes,
                     Scratch& scratch) {
  return tile_linear(call, shared, share, cache_bytes, scratch);
}

bool bfloat_linear_by_tiles(const VggtqCall& call, Share share, size_t cache_bytes, Scratch& scratch) {
  return tile_floats(call, share, cache_bytes, scratch);
}

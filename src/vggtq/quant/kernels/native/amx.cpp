// AMX: tdpbusd on tiles of 16 × 64 bytes multiplies rounded inputs; vectors of AVX-512 do the rest.
#include "amx.h"

#ifdef VGGTQ_PLAIN_TILES
#include "vectors_portable.h"
#else
#include "vectors_avx512.h"
#endif

namespace {
constexpr int kColumns = 32 / kLanes;
constexpr bool kScalesInProduct = false;
constexpr bool kSevenBits = false;
}  // namespace

#include "tile_linear.inl.h"

bool linear_by_tiles(const VggtqCall& call, const InputNumbers* shared, Share share, size_t cache_bytes,
                     Scratch& scratch) {
  return tile_linear(call, shared, share, cache_bytes, scratch);
}

// Which kernels an instruction set has, and whether this CPU and its system support it.
#include "levels.h"

#ifdef VGGTQ_X86
#include <cpuid.h>
#endif
#ifdef VGGTQ_AMX
#include <sys/syscall.h>
#include <unistd.h>

#include "amx.h"
#endif
#ifdef VGGTQ_BF16
#include "avx512_bf16.h"
#endif

#ifdef VGGTQ_X86
namespace {

enum Level : int32_t { kPlain, kWithAvx2, kWithAvxVnni, kWithAvx512Vnni, kWithAvx512Bf16, kWithAmx };

#ifdef VGGTQ_PLAIN_TILES
constexpr bool kPlainTiles = true;
const Kernels& kAvx512 = kPortable;
#else
constexpr bool kPlainTiles = false;
const Kernels& kAvx512 = kAvx512Vnni;
#endif

// What CPUID says of a leaf and its subleaf, zeros where it has none.
struct Leaf {
  unsigned a = 0, b = 0, c = 0, d = 0;
  Leaf(unsigned leaf, unsigned subleaf) {
    if (!__get_cpuid_count(leaf, subleaf, &a, &b, &c, &d)) a = b = c = d = 0;
  }
};

#ifdef VGGTQ_BF16
const Kernels* avx512_bf16() {
  static const Kernels all = [] {
    Kernels own = kAvx512;
    own.name = "avx512_bf16";
    own.bfloat_linear = bfloat_linear_by_vectors;
    own.bfloat_attention = bfloat_attention_by_vectors;
    return own;
  }();
  return &all;
}
bool has_bfloat_pairs() { return kPlainTiles || (Leaf(7, 1).a >> 5 & 1) != 0; }
#else
const Kernels* avx512_bf16() { return nullptr; }
bool has_bfloat_pairs() { return false; }
#endif

#ifdef VGGTQ_AMX
const Kernels* amx() {
  static const Kernels all = [] {
    Kernels own = kAvx512;
    own.name = "amx";
    own.tile_tokens = 96;  // 3 · 32 by tiles, 8 · 12 by vectors
    own.linear = linear_by_tiles;
    own.bfloat_linear = bfloat_linear_by_tiles;
    return own;
  }();
  return &all;
}

// Whether the CPU has tiles of integers and of bfloat16, and the system lets this process use them.
bool has_tiles() {
  if (kPlainTiles) return true;
  constexpr unsigned kTiles = 1u << 24, kIntegers = 1u << 25, kBfloats = 1u << 22, kAll = kTiles | kIntegers | kBfloats;
  constexpr long kAskPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  if ((Leaf(7, 0).d & kAll) != kAll) return false;
  static const bool permitted = syscall(SYS_arch_prctl, kAskPermission, kTileData) == 0;
  return permitted;
}
#else
const Kernels* amx() { return nullptr; }
bool has_tiles() { return false; }
#endif

#ifndef VGGTQ_PLAIN_TILES
bool has_avx2() {
  const bool has_float16 = (Leaf(1, 0).c >> 29 & 1) != 0;
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_float16;
}

bool has_avx_vnni() {
#ifdef VGGTQ_EVEX
  return __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
#endif
  return (Leaf(7, 1).a >> 4 & 1) != 0;
}

bool has_avx512_vnni() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni");
}
#endif

}  // namespace

bool supported(int32_t level) {
  switch (level) {
    case kPlain: return true;
#ifdef VGGTQ_PLAIN_TILES
    case kWithAvx512Bf16: return has_bfloat_pairs();
    case kWithAmx: return has_tiles();
#else
    case kWithAvx2: return has_avx2();
    case kWithAvxVnni: return has_avx2() && has_avx_vnni();
    case kWithAvx512Vnni: return has_avx512_vnni();
    case kWithAvx512Bf16: return has_avx512_vnni() && has_bfloat_pairs();
    case kWithAmx: return has_avx512_vnni() && has_tiles();
#endif
    default: return false;
  }
}

const Kernels* kernels_of(int32_t level) {
  switch (level) {
    case kWithAvx512Bf16: return avx512_bf16();
    case kWithAmx: return amx();
#ifndef VGGTQ_PLAIN_TILES
    case kWithAvx2: return &kAvx2;
    case kWithAvxVnni: return &kAvxVnni;
    case kWithAvx512Vnni: return &kAvx512Vnni;
#endif
    default: return &kPortable;
  }
}

#else

bool supported(int32_t level) { return level == 0; }
const Kernels* kernels_of(int32_t) { return &kPortable; }

#endif

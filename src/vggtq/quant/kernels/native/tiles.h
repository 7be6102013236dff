// Tiles of AMX: sixteen rows of at most 64 bytes, of which each thread has eight. Tiles 0 … 3 are 16 × 16 sums, 4 and 5
// inputs of 16 tokens, 6 and 7 the weights of 16 outputs, four bytes of each in a row.
// VGGTQ_PLAIN_TILES: the same in plain C++, with which any CPU runs the tests.
#pragma once
#include <cstdint>
#include <cstring>

#include "unroll.h"

namespace {

constexpr int kTileSide = 16;   // rows, and sums of a row
constexpr int kTileBytes = 64;  // of a row

#ifdef VGGTQ_PLAIN_TILES

struct PlainTiles {
  int64_t step = 0;
  alignas(64) uint8_t bytes[8][kTileSide][kTileBytes];
};
inline thread_local PlainTiles plain_tiles;

inline float plain_bfloat(const uint8_t* bytes) {
  uint16_t upper[2] = {};
  std::memcpy(upper + 1, bytes, sizeof *upper);  // the lowest byte comes first
  float value;
  std::memcpy(&value, upper, sizeof value);
  return value;
}

inline void use_tiles(int64_t step) { plain_tiles.step = step; }
inline void release_tiles() { plain_tiles.step = 0; }

template <int tile>
void load_tile(const void* start, int64_t stride) {
  const int64_t step = plain_tiles.step, rows = tile >= 6 ? step / 4 : kTileSide;
  const int64_t width = tile == 4 || tile == 5 ? step : kTileBytes;
  std::memset(plain_tiles.bytes[tile], 0, sizeof plain_tiles.bytes[tile]);
  for (int64_t r = 0; r < rows; r++) {
    std::memcpy(plain_tiles.bytes[tile][r], static_cast<const uint8_t*>(start) + r * stride,
                static_cast<size_t>(width));
  }
}

template <int tile>
void store_tile(void* start, int64_t stride) {
  for (int64_t r = 0; r < kTileSide; r++) {
    std::memcpy(static_cast<uint8_t*>(start) + r * stride, plain_tiles.bytes[tile][r], kTileBytes);
  }
}

// sums += inputs · weights, of unsigned and of signed bytes.
template <int sums, int inputs, int weights>
void dot_tiles() {
  for (int64_t r = 0; r < kTileSide; r++) {
    int32_t row[kTileSide];
    std::memcpy(row, plain_tiles.bytes[sums][r], sizeof row);
    for (int64_t k = 0; k < plain_tiles.step; k++) {
      const int32_t input = plain_tiles.bytes[inputs][r][k];
      const uint8_t* four = plain_tiles.bytes[weights][k / 4] + k % 4;
      for (int64_t c = 0; c < kTileSide; c++) row[c] += input * static_cast<int8_t>(four[4 * c]);
    }
    std::memcpy(plain_tiles.bytes[sums][r], row, sizeof row);
  }
}

// sums += inputs · weights, of pairs of bfloat16.
template <int sums, int inputs, int weights>
void dot_bfloat_tiles() {
  for (int64_t r = 0; r < kTileSide; r++) {
    float row[kTileSide];
    std::memcpy(row, plain_tiles.bytes[sums][r], sizeof row);
    for (int64_t k = 0; k < plain_tiles.step / 2; k++) {
      const float input = plain_bfloat(plain_tiles.bytes[inputs][r] + 2 * k);
      const uint8_t* pairs = plain_tiles.bytes[weights][k / 2] + k % 2 * 2;
      for (int64_t c = 0; c < kTileSide; c++) row[c] += input * plain_bfloat(pairs + 4 * c);
    }
    std::memcpy(plain_tiles.bytes[sums][r], row, sizeof row);
  }
}

inline void order_tiles() {}

#else

// As `ldtilecfg` reads it.
struct alignas(64) TileShapes {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// Of the calling thread. step: bytes of inputs in a product, 16, 32 or 64.
inline void use_tiles(int64_t step) {
  TileShapes shapes;
  for (int i = 0; i < 8; i++) {
    shapes.row_bytes[i] = static_cast<uint16_t>(i == 4 || i == 5 ? step : kTileBytes);
    shapes.rows[i] = static_cast<uint8_t>(i >= 6 ? step / 4 : kTileSide);
  }
  asm volatile("ldtilecfg %0" : : "m"(shapes));
}
inline void release_tiles() { asm volatile("tilerelease"); }

// Instructions on tiles do not tell the compiler which memory they read: what they are to read must be stored before
// `order_tiles`.
template <int tile>
INLINE void load_tile(const void* start, int64_t stride) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(start), "r"(stride), "i"(tile));
}
template <int tile>
INLINE void store_tile(void* start, int64_t stride) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(start), "r"(stride), "i"(tile) : "memory");
}
// sums += inputs · weights, of unsigned and of signed bytes.
template <int sums, int inputs, int weights>
INLINE void dot_tiles() {
  asm volatile("tdpbusd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(inputs), "i"(weights));
}
// sums += inputs · weights, of pairs of bfloat16.
template <int sums, int inputs, int weights>
INLINE void dot_bfloat_tiles() {
  asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(sums), "i"(inputs), "i"(weights));
}
INLINE void order_tiles() { asm volatile("" : : : "memory"); }

#endif

}  // namespace

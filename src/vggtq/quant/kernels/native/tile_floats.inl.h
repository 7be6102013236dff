// y = x · ŵᵀ + b with x and ŵ in bfloat16 and float32 sums, by tiles. Needs tile_linear.inl.h and kFloatRows.
//
// As in tile_linear.inl.h, with chunks of panels that become bfloat16.
#pragma once
#include "float_linear.inl.h"
#include "tile_linear.inl.h"

namespace {

constexpr int64_t kFloatStep = kTileBytes / 2;  // inputs of a product
static_assert(kBlock % kFloatStep == 0);        // rows end with a step
alignas(64) constexpr int32_t kNoStarts[kPanel] = {};

// Of bfloat16, [inputs / 32][outputs / 16][16 pairs of inputs][16 outputs][2].
struct FloatTiles {
  static constexpr int64_t kStride = kTileBytes, kSecond = kTileSide * kTileBytes;
  template <int sums, int inputs, int weights>
  INLINE static void dot() {
    dot_bfloat_tiles<sums, inputs, weights>();
  }
};

// Tokens first … first + count - 1 become out[columns / 32][kPairRows][32] in bfloat16. room: a row of floats.
inline void round_pair(const VggtqCall& call, int64_t first, int64_t count, uint16_t* out, float* room) {
  const int64_t columns = padded(call.weight->columns, kBlock);
  for (int64_t r = 0; r < count; r++) {
    const float* row = input_row(call, first + r, room);
    for (int64_t k = 0; k < columns; k += kLanes) {
      store_bfloat16(out + (k / kFloatStep * kPairRows + r) * kFloatStep + k % kFloatStep, load(row + k));
    }
  }
}

// The nearest bfloat16, ties to even, in the upper half of each lane; the lower half is undefined.
INLINE Ints to_upper_half(Floats values) {
  const Ints bits = bits_of(values), odd = and_ints(shift_right32<16>(bits), all_ints(1));
  return add_ints(add_ints(bits, all_ints(0x7fff)), odd);
}

// A panel's weights as FloatTiles reads them. room: a byte for each weight of a slice.
inline void float_panel(const VggtqWeight& weight, int64_t panel, uint8_t* room, uint32_t* out) {
  const Groups groups(weight);
  Ints before[kColumns] = {};  // of the input before an odd one
  auto keep = [&](int64_t k, auto j, auto column, Floats value) INLINED {
    const Ints rounded = to_upper_half(value);
    if constexpr (j % 2 == 0) {
      before[column] = shift_right32<16>(rounded);
    } else {
      constexpr int64_t output = column * kLanes, tile = output / kTileSide;
      const int64_t row = (k / kFloatStep * 2 + tile) * kTileSide + k % kFloatStep / 2;
      const Ints pair = or_ints(before[column], and_ints(rounded, all_ints(static_cast<int32_t>(0xffff0000u))));
      store_ints(out + row * kTileSide + output % kTileSide, pair);
    }
  };
  for (int64_t k = 0; k < groups.columns; k += kSlice) {
    take_slice(weight, groups, panel, k, least(k + kSlice, groups.columns), room, keep);
  }
}

// Parts of a thread's scratch memory.
struct FloatTileWorkspace {
  int64_t block, chunk;  // tokens whose inputs are kept at once, panels that are
  uint16_t* inputs;
  float* room;
  uint8_t* codes;    // of a slice
  int32_t* sums[2];  // of floats
  Epilogue* epilogues;
  uint32_t* weights;

  // As in TileWorkspace.
  FloatTileWorkspace(const VggtqWeight& weight, Share share, size_t cache_bytes, Parts& parts) {
    const int64_t columns = padded(weight.columns, kBlock), cache = static_cast<int64_t>(cache_bytes);
    const int64_t tokens = share.last_token - share.first_token;
    const int64_t fitting = most(cache / columns / kPairRows, 1) * kPairRows;
    const int64_t blocks = most((tokens + fitting - 1) / fitting, 1);
    block = padded((tokens + blocks - 1) / blocks, kPairRows);
    chunk = least(most(cache / 4 / columns / kPanel, 1), most(share.last_panel - share.first_panel, 1));
    inputs = parts.take<uint16_t>(block * columns);
    room = parts.take<float>(columns);
    codes = parts.take<uint8_t>(kSlice * kPanel);
    for (int32_t*& part : sums) part = parts.take<int32_t>(kPairRows * kPanel);
    epilogues = parts.take<Epilogue>(chunk);
    weights = parts.take<uint32_t>(chunk * kPanel * columns / 2);
  }
};

// All tokens of a block, `count` from `first` on, times the panels of a chunk.
inline void multiply_float_chunk(const FloatTileWorkspace& work, int64_t columns, int64_t panels, int64_t first,
                                 int64_t count) {
  const int64_t steps = columns / kFloatStep;
  const int rows = static_cast<int>((kPairRows + steps - 1) / steps);  // to be written at each step
  Waiting waiting;
  int slot = 0;
  for (int64_t t = 0; t < count; t += kPairRows) {
    const uint8_t* inputs = reinterpret_cast<const uint8_t*>(work.inputs + t * columns);
    const int64_t own = least(kPairRows, count - t);
    for (int64_t p = 0; p < panels; p++) {
      const int8_t* weights = reinterpret_cast<const int8_t*>(work.weights + p * kPanel * columns / 2);
      auto meanwhile = [&] { waiting.write(rows); };
      multiply_steps<FloatTiles>(inputs, weights, steps, kTileBytes, kNoStarts, work.sums[slot], own, meanwhile);
      waiting = {work.sums[slot], work.epilogues + p, nullptr, first + t, 0, static_cast<int>(own)};
      slot = 1 - slot;
    }
  }
  waiting.write(kPairRows);
}

inline bool tile_floats(const VggtqCall& call, Share share, size_t cache_bytes, Scratch& scratch) {
  const VggtqWeight& weight = *call.weight;
  const int64_t columns = padded(weight.columns, kBlock);
  const auto work = lay_out<FloatTileWorkspace>(scratch, weight, share, cache_bytes);
  if (work.inputs == nullptr) return false;
  use_tiles(kTileBytes);
  for (int64_t first = share.first_token; first < share.last_token; first += work.block) {
    const int64_t count = least(work.block, share.last_token - first);
    for (int64_t t = 0; t < count; t += kPairRows) {
      round_pair(call, first + t, least(kPairRows, count - t), work.inputs + t * columns, work.room);
    }
    for (int64_t start = share.first_panel; start < share.last_panel; start += work.chunk) {
      const int64_t panels = least(work.chunk, share.last_panel - start);
      for (int64_t p = 0; p < panels; p++) {
        float_panel(weight, start + p, work.codes, work.weights + p * kPanel * columns / 2);
        new (work.epilogues + p) Epilogue(call, start + p, UnpackedPanel{}, false);
      }
      multiply_float_chunk(work, columns, panels, first, count);
    }
  }
  release_tiles();
  stream_fence();
  return true;
}

}  // namespace

// y = x · wᵀ + b with x rounded on the way, by tiles. Needs linear.inl.h with panels of 32 outputs, and tiles.h.
//
// A block of tokens becomes codes. A chunk of panels is unpacked, stays in the L2 cache and is multiplied with all of
// them, 32 tokens × 32 outputs in four tiles of sums at a time. Panel after panel of a chunk fills whole pages of the
// outputs; one panel with all tokens would touch a page for each row. The sums of one product are scaled and stored
// between the steps of the next one, for tiles and vectors compute at the same time.
#pragma once
#include <new>

#include "linear.inl.h"
#include "tiles.h"

namespace {

constexpr int kPairRows = 2 * kTileSide;  // tokens that are multiplied at once
static_assert(kPanel == 2 * kTileSide);

using PairNumbers = TileNumbers<kPairRows>;  // group_sums: [groups][kPairRows]

// Inputs of a step: as many as tiles take, unless groups with scales of their own or the row end within.
inline int64_t step_inputs(const VggtqWeight& weight) {
  const Groups groups(weight);
  const int64_t size = has_integer_scales(weight) ? groups.columns : groups.size;
  int64_t step = kTileBytes;
  while (groups.columns % step || size % step) step /= 2;
  return step;
}

// Tokens first … first + count - 1 become codes[columns / step][kPairRows][step]. group_sums, where they are needed:
// Σ (code - middle) of every group, [groups][kPairRows]. room: a row of floats.
inline void code_pair(const VggtqCall& call, const InputNumbers* shared, int32_t bits, int32_t middle, int64_t first,
                      int64_t count, int64_t step, uint8_t* codes, PairNumbers& numbers, int32_t* group_sums,
                      float* room) {
  const Groups groups(*call.weight);
  const int64_t columns = groups.columns, runs = group_sums ? groups.count : 1;
  for (int64_t r = 0; r < count; r++) {
    const float* row = input_row(call, first + r, room);
    const InputNumbers own = token_numbers(call, shared, row, bits, middle);
    const Coding coding(own);
    Ints sum = all_ints(0);
    int32_t before = 0;
    for (int64_t g = 0, k = 0; g < runs; g++) {
      const int64_t start = k, end = group_sums ? groups.end(g) : columns;
      for (; k < end; k += 16) {
        const Bytes16 sixteen = codes16(row + k, coding, sum);
        std::memcpy(codes + (k / step * kPairRows + r) * step + k % step, &sixteen, 16);
      }
      if (group_sums == nullptr) continue;
      const int32_t all_codes = sum_ints(sum);
      group_sums[g * kPairRows + r] = all_codes - before - static_cast<int32_t>(end - start) * middle;
      before = all_codes;
    }
    numbers.scale[r] = own.scale;
    numbers.shift[r] = middle - own.zero;
    numbers.sum[r] = static_cast<int32_t>(sum_ints(sum) - columns * own.zero);
  }
  numbers.group_sums = group_sums;
}

// Of codes, [inputs / 4][kPanel][4].
struct CodeTiles {
  static constexpr int64_t kStride = 4 * kPanel, kSecond = 4 * kTileSide;  // bytes to the next row, the next outputs
  template <int sums, int inputs, int weights>
  INLINE static void dot() {
    dot_tiles<sums, inputs, weights>();
  }
};

// sums[kPairRows][kPanel] = starts[kPanel] + products over `steps` steps, of the first 16 tokens or of all.
// meanwhile(): is called at each step.
template <class Tiles, bool all_rows, class Meanwhile>
INLINE void multiply_steps(const uint8_t* inputs, const int8_t* codes, int64_t steps, int64_t step,
                           const int32_t* starts, int32_t* sums, Meanwhile&& meanwhile) {
  constexpr int64_t row = kPanel * sizeof(int32_t);
  order_tiles();
  load_tile<0>(starts, 0);
  load_tile<1>(starts + kTileSide, 0);
  if constexpr (all_rows) load_tile<2>(starts, 0), load_tile<3>(starts + kTileSide, 0);
  for (int64_t k = 0; k < steps; k++) {
    load_tile<4>(inputs, step);
    load_tile<6>(codes, Tiles::kStride);
    Tiles::template dot<0, 4, 6>();
    load_tile<7>(codes + Tiles::kSecond, Tiles::kStride);
    Tiles::template dot<1, 4, 7>();
    if constexpr (all_rows) {
      load_tile<5>(inputs + kTileSide * step, step);
      Tiles::template dot<2, 5, 6>();
      Tiles::template dot<3, 5, 7>();
    }
    inputs += kPairRows * step, codes += step * kPanel;
    meanwhile();
  }
  store_tile<0>(sums, row);
  store_tile<1>(sums + kTileSide, row);
  if constexpr (all_rows) {
    store_tile<2>(sums + kTileSide * kPanel, row);
    store_tile<3>(sums + kTileSide * kPanel + kTileSide, row);
  }
}

// The same with the fewest tiles.
template <class Tiles, class Meanwhile>
void multiply_steps(const uint8_t* inputs, const int8_t* codes, int64_t steps, int64_t step, const int32_t* starts,
                    int32_t* sums, int64_t count, Meanwhile&& meanwhile) {
  if (count > kTileSide) {
    multiply_steps<Tiles, true>(inputs, codes, steps, step, starts, sums, meanwhile);
  } else {
    multiply_steps<Tiles, false>(inputs, codes, steps, step, starts, sums, meanwhile);
  }
}

// A panel of a chunk.
struct ChunkPanel {
  UnpackedPanel panel;
  Epilogue epilogue;
};

// Sums that wait to be stored; exact ones are scaled first, by `numbers`, which is null for floats.
struct Waiting {
  const int32_t* sums = nullptr;
  const Epilogue* epilogue = nullptr;
  const PairNumbers* numbers = nullptr;
  int64_t token = 0;
  int done = 0, count = 0;

  INLINE void write(int rows) {
    for (const int last = done + rows < count ? done + rows : count; done < last; done++) {
      Floats values[kColumns];
      unroll<kColumns>([&](auto c) {
        const Ints sum = load_ints(sums + done * kPanel + c * kLanes);
        values[c] = numbers ? epilogue->exact(sum, *numbers, done, c) : floats_of(sum);
      });
      epilogue->write(values, numbers ? numbers->scale[done] : 1, token + done);
    }
  }
};

// Parts of a thread's scratch memory.
struct TileWorkspace {
  int64_t block, chunk, step;  // tokens whose codes are kept at once, panels that are, inputs of a step
  uint8_t* codes;
  PairNumbers* numbers;
  float* room;
  int32_t* group_sums;  // [block / kPairRows][groups][kPairRows]
  int32_t* sums[2];     // [kPairRows][kPanel]
  float* totals;        // the same
  ChunkPanel* panels;
  UnpackedPanel* rooms;  // for the panels of a chunk

  // cache_bytes: of the L2 cache, half of which is for a chunk.
  TileWorkspace(const VggtqWeight& weight, Share share, size_t cache_bytes, Parts& parts) : step(step_inputs(weight)) {
    const Groups groups(weight);
    const int64_t columns = groups.columns, cache = static_cast<int64_t>(cache_bytes);
    const int64_t tokens = share.last_token - share.first_token;
    const int64_t fitting = most(2 * cache / columns / kPairRows, 1) * kPairRows;
    const int64_t blocks = most((tokens + fitting - 1) / fitting, 1);
    block = padded((tokens + blocks - 1) / blocks, kPairRows);
    chunk = least(most(cache / 2 / columns / kPanel, 1), most(share.last_panel - share.first_panel, 1));
    codes = parts.take<uint8_t>(block * columns);
    numbers = parts.take<PairNumbers>(block / kPairRows);
    room = parts.take<float>(columns);
    group_sums = parts.take<int32_t>(needs_group_sums(weight) ? block * groups.count : 0);
    for (int32_t*& part : sums) part = parts.take<int32_t>(kPairRows * kPanel);
    totals = parts.take<float>(kPairRows * kPanel);
    panels = parts.take<ChunkPanel>(chunk);
    rooms = parts.take<UnpackedPanel>(chunk);
    for (int64_t i = 0; i < chunk; i++) {
      const UnpackedPanel own(weight, parts);
      if (rooms) rooms[i] = own;
    }
  }
};

// totals += sums · scales of one group, to which what zero points of 8-bit codes add is added first.
inline void add_group(const int32_t* sums, const ChunkPanel& of, int64_t g, const PairNumbers& numbers, int64_t count,
                      float* totals) {
  const int64_t at = g * kPanel;
  for (int64_t r = 0; r < count; r++) {
    unroll<kColumns>([&](auto c) {
      const int64_t lane = c * kLanes;
      Ints sum = load_ints(sums + r * kPanel + lane);
      if (of.epilogue.offsets) {
        const Ints code_sum = all_ints(-numbers.group_sums[g * kPairRows + r]);
        sum = add_ints(sum, multiply_ints(code_sum, load_ints(of.panel.offsets + at + lane)));
      }
      float* total = totals + r * kPanel + lane;
      const Floats scaled = multiply_add(to_floats(sum), load(of.panel.scales + at + lane), load(total));
      store(total, scaled);
    });
  }
}

// A pair of tiles of tokens times a panel whose groups have scales of their own.
inline void multiply_pair_groups(const TileWorkspace& work, const uint8_t* inputs, const ChunkPanel& of,
                                 const PairNumbers& numbers, int64_t token, int64_t count) {
  const Groups& groups = of.epilogue.groups;
  std::memset(work.totals, 0, sizeof(float) * static_cast<size_t>(count * kPanel));
  auto nothing = [] {};
  for (int64_t g = 0; g < groups.count; g++) {
    const int64_t first = g * groups.size, steps = (groups.end(g) - first) / work.step;
    multiply_steps<CodeTiles>(inputs + first * kPairRows, of.panel.codes + first * kPanel, steps, work.step,
                              of.panel.starts + g * kPanel, work.sums[g % 2], count, nothing);
    if (g > 0) add_group(work.sums[(g - 1) % 2], of, g - 1, numbers, count, work.totals);
  }
  const int64_t last = groups.count - 1;
  add_group(work.sums[last % 2], of, last, numbers, count, work.totals);
  for (int64_t r = 0; r < count; r++) write_groups(work.totals + r * kPanel, of.epilogue, numbers, r, token + r);
}

// All tokens of a block, `count` from `first` on, times the panels of a chunk.
inline void multiply_chunk(const VggtqWeight& weight, const TileWorkspace& work, int64_t panels, int64_t first,
                           int64_t count) {
  const Groups groups(weight);
  const bool dense = weight.group == 0 || has_integer_scales(weight);
  const int64_t steps = groups.columns / work.step;
  const int rows = static_cast<int>((kPairRows + steps - 1) / steps);  // to be written at each step
  Waiting waiting;
  int slot = 0;
  for (int64_t t = 0; t < count; t += kPairRows) {
    const uint8_t* inputs = work.codes + t * groups.columns;
    const PairNumbers& numbers = work.numbers[t / kPairRows];
    const int64_t own = least(kPairRows, count - t);
    for (int64_t p = 0; p < panels; p++) {
      const ChunkPanel& of = work.panels[p];
      if (!dense) {
        multiply_pair_groups(work, inputs, of, numbers, first + t, own);
        continue;
      }
      int32_t* sums = work.sums[slot];
      auto meanwhile = [&] { waiting.write(rows); };
      multiply_steps<CodeTiles>(inputs, of.panel.codes, steps, work.step, of.panel.starts, sums, own, meanwhile);
      waiting = {sums, &of.epilogue, &numbers, first + t, 0, static_cast<int>(own)};
      slot = 1 - slot;
    }
  }
  waiting.write(kPairRows);
}

inline bool tile_linear(const VggtqCall& call, const InputNumbers* shared, Share share, size_t cache_bytes,
                        Scratch& scratch) {
  constexpr int32_t middle = 128;
  const VggtqWeight& weight = *call.weight;
  const Groups groups(weight);
  const bool shifted = call.rounding == VGGTQ_TOKEN_AFFINE || (shared && shared->zero != middle);
  const auto work = lay_out<TileWorkspace>(scratch, weight, share, cache_bytes);
  if (work.codes == nullptr) return false;
  use_tiles(work.step);
  for (int64_t first = share.first_token; first < share.last_token; first += work.block) {
    const int64_t count = least(work.block, share.last_token - first);
    for (int64_t t = 0; t < count; t += kPairRows) {
      int32_t* sums = needs_group_sums(weight) ? work.group_sums + t * groups.count : nullptr;
      code_pair(call, shared, call.bits, middle, first + t, least(kPairRows, count - t), work.step,
                work.codes + t * groups.columns, work.numbers[t / kPairRows], sums, work.room);
    }
    for (int64_t start = share.first_panel; start < share.last_panel; start += work.chunk) {
      const int64_t panels = least(work.chunk, share.last_panel - start);
      for (int64_t p = 0; p < panels; p++) {
        const UnpackedPanel panel = prepared(weight, start + p, middle, work.rooms[p]);
        new (work.panels + p) ChunkPanel{panel, Epilogue(call, start + p, panel, shifted)};
      }
      multiply_chunk(weight, work, panels, first, count);
    }
  }
  release_tiles();
  stream_fence();
  return true;
}

}  // namespace

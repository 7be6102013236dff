// y = x · wᵀ + b with x rounded on the way. Needs one of vectors_*.h and kColumns. A Product has kRows, the
// tokens of a tile, and accumulate, which adds the products of a tile and a panel to sums.
//
// A block of tokens becomes codes that stay in the L2 cache; one panel of weights after the other is unpacked and
// multiplied with all tiles of the block. A tile's sums stay in registers; they are scaled and stored without another
// pass.
#pragma once
#include "inputs.inl.h"
#include "kernels.h"
#include "weights.inl.h"

namespace {

constexpr int64_t kStreamFrom = 1 << 20;  // bytes of outputs that the cache would not keep until they are read

// What is done to a panel's sums on their way out.
struct Epilogue {
  const VggtqCall& call;
  const int32_t *sums, *offsets;  // of this panel, or null
  const float* weighted_sums;     // of this panel, or null
  const float* scales;            // of this panel, where sums are exact
  alignas(64) float bias[kPanel];
  int64_t first_output, outputs;  // of this panel
  Groups groups;
  bool shifted, streams;

  Epilogue(const VggtqCall& of, int64_t number, const UnpackedPanel& panel, bool has_shifts)
      : call(of), scales(panel.scales), first_output(number * kPanel), groups(*of.weight), shifted(has_shifts) {
    const VggtqWeight& weight = *call.weight;
    sums = weight.sums ? weight.sums + first_output : nullptr;
    offsets = weight.bits == 8 && weight.zeros ? panel.offsets : nullptr;
    weighted_sums = weight.weighted_sums ? weight.weighted_sums + first_output : nullptr;
    outputs = least(kPanel, weight.rows - first_output);
    for (int i = 0; i < kPanel; i++) bias[i] = call.bias && i < outputs ? call.bias[first_output + i] : 0;
    const int64_t row_bytes = weight.rows * static_cast<int64_t>(sizeof(float));
    // Full lines that bypass the cache need no line to be read first.
    streams = call.type == VGGTQ_FLOAT32 && outputs == kPanel && call.tokens * row_bytes >= kStreamFrom &&
              row_bytes % 64 == 0 && reinterpret_cast<uintptr_t>(call.outputs) % 64 == 0;
  }

  // Sums of integer products, to which what zero points add is added.
  template <class Tile>
  INLINE Floats exact(Ints sum, const Tile& tile, int r, int column) const {
    const int at = column * kLanes;
    if (shifted) sum = add_ints(sum, multiply_ints(all_ints(tile.shift[r]), load_ints(sums + at)));
    if (offsets) sum = add_ints(sum, multiply_ints(all_ints(-tile.sum[r]), load_ints(offsets + at)));
    return multiply(to_floats(sum), load(scales + at));
  }

  INLINE void write(const Floats (&values)[kColumns], float token_scale, int64_t token) const {
    Floats y[kColumns];
    const Floats scale = all(token_scale);
    unroll<kColumns>([&](auto c) { y[c] = multiply_add(values[c], scale, load(bias + c * kLanes)); });
    const int64_t start = token * call.weight->rows + first_output;
    if (call.around) finish(y, *call.around, start);
    if (call.type == VGGTQ_FLOAT32) return write_float(y, static_cast<float*>(call.outputs) + start);
    write_half(y, static_cast<uint16_t*>(call.outputs) + start);
  }

  // One copy of it for all tiles: it takes more room than a product.
  __attribute__((noinline)) void finish(Floats (&y)[kColumns], const VggtqAround& around, int64_t start) const {
    if (around.gelu) unroll<kColumns>([&](auto c) { y[c] = gelu(y[c]); });
    if (around.gamma) multiply_by(y, around.gamma + first_output);
    if (around.residual) add_to(y, around.residual + start);
  }

  INLINE void multiply_by(Floats (&y)[kColumns], const float* factors) const {
    float part[kPanel];
    factors = whole_panel(factors, part);
    unroll<kColumns>([&](auto c) { y[c] = multiply(y[c], load(factors + c * kLanes)); });
  }

  INLINE void add_to(Floats (&y)[kColumns], const float* terms) const {
    float part[kPanel];
    terms = whole_panel(terms, part);
    unroll<kColumns>([&](auto c) { y[c] = add(y[c], load(terms + c * kLanes)); });
  }

  // A panel's numbers, or a copy in `part` where nothing beyond the last output may be read.
  INLINE const float* whole_panel(const float* numbers, float* part) const {
    if (outputs == kPanel) return numbers;
    std::memset(part, 0, sizeof(float) * kPanel);
    std::memcpy(part, numbers, static_cast<size_t>(outputs) * sizeof(float));
    return part;
  }

  INLINE void write_float(const Floats (&y)[kColumns], float* out) const {
    if (streams) {
      unroll<kColumns>([&](auto c) { stream(out + c * kLanes, y[c]); });
    } else if (outputs == kPanel) {
      unroll<kColumns>([&](auto c) { store(out + c * kLanes, y[c]); });
    } else {
      float part[kPanel];
      unroll<kColumns>([&](auto c) { store(part + c * kLanes, y[c]); });
      std::memcpy(out, part, static_cast<size_t>(outputs) * sizeof(float));
    }
  }

  INLINE void write_half(const Floats (&y)[kColumns], uint16_t* out) const {
    uint16_t part[kPanel];
    uint16_t* to = outputs == kPanel ? out : part;
    unroll<kColumns>([&](auto c) {
      call.type == VGGTQ_BFLOAT16 ? store_bfloat16(to + c * kLanes, y[c]) : store_float16(to + c * kLanes, y[c]);
    });
    if (to == part) std::memcpy(out, part, static_cast<size_t>(outputs) * sizeof(uint16_t));
  }
};

// `rows` tokens of a tile times a panel with exact sums over all inputs. Sums leave the registers before anything else
// is done to them: code for each of them apart would not fit the instruction cache.
template <class Product, int rows>
void multiply_dense(const uint32_t* inputs, const UnpackedPanel& panel, int64_t columns, const Epilogue& epilogue,
                    const TileNumbers<Product::kRows>& tile, int64_t token) {
  alignas(64) int32_t totals[rows][kPanel];
  Ints sums[rows][kColumns];
  unroll<kColumns>([&](auto c) INLINED {
    const Ints start = load_ints(panel.starts + c * kLanes);
    unroll<rows>([&](auto r) INLINED { sums[r][c] = start; });
  });
  bool done = false;
  if constexpr (kScalesInProduct) {
    done = has_integer_scales(*epilogue.call.weight);
    const Groups& groups = epilogue.groups;
    for (int64_t g = 0; done && g < groups.count; g++) {
      const int64_t first = g * groups.size, steps = (groups.end(g) - first) / 4;
      Product::template accumulate_scaled<rows>(sums, inputs + first / 4 * Product::kRows, panel.codes + first * kPanel,
                                                steps, panel.multipliers + g * kPanel);
    }
  }
  if (!done) Product::template accumulate<rows>(sums, inputs, panel.codes, columns / 4);
  unroll<rows>([&](auto r) INLINED {
    unroll<kColumns>([&](auto c) INLINED { store_ints(&totals[r][c * kLanes], sums[r][c]); });
  });
  for (int r = 0; r < rows; r++) {
    Floats values[kColumns];
    unroll<kColumns>([&](auto c) { values[c] = epilogue.exact(load_ints(&totals[r][c * kLanes]), tile, r, c); });
    epilogue.write(values, tile.scale[r], token + r);
  }
}

// What a group's sums start from; zero points of 8-bit codes are not in these yet.
template <int rows>
INLINE void start_group(Ints (&sums)[rows][kColumns], const UnpackedPanel& panel, int64_t g, bool has_offsets,
                        const int32_t* group_sums) {
  unroll<kColumns>([&](auto c) INLINED {
    const int64_t at = g * kPanel + c * kLanes;
    const Ints start = load_ints(panel.starts + at);
    unroll<rows>([&](auto r) INLINED { sums[r][c] = start; });
    if (!has_offsets) return;
    const Ints offset = load_ints(panel.offsets + at);
    unroll<rows>([&](auto r) INLINED {
      sums[r][c] = add_ints(sums[r][c], multiply_ints(all_ints(-group_sums[g * kLanes + r]), offset));
    });
  });
}

// A token's sums over all groups, to which what its zero point adds is added.
template <class Tile>
INLINE void write_groups(const float* totals, const Epilogue& epilogue, const Tile& tile, int64_t r, int64_t token) {
  Floats values[kColumns];
  const Floats shift = all(static_cast<float>(tile.shift[r]));
  unroll<kColumns>([&](auto c) {
    values[c] = load(totals + c * kLanes);
    if (epilogue.shifted) values[c] = multiply_add(shift, load(epilogue.weighted_sums + c * kLanes), values[c]);
  });
  epilogue.write(values, tile.scale[r], token);
}

// The same for groups of inputs, whose exact sums are added up as floats. Those wait in the L1 cache: registers would
// hold half a tile, whose inputs and weights would be loaded twice as often.
template <class Product, int rows>
void multiply_groups(const uint32_t* inputs, const UnpackedPanel& panel, const Epilogue& epilogue,
                     const TileNumbers<Product::kRows>& tile, int64_t token) {
  alignas(64) float totals[rows][kPanel] = {};
  const Groups& groups = epilogue.groups;
  for (int64_t g = 0; g < groups.count; g++) {
    Ints sums[rows][kColumns];
    start_group(sums, panel, g, epilogue.offsets != nullptr, tile.group_sums);
    const int64_t first = g * groups.size, steps = (groups.end(g) - first) / 4;
    Product::template accumulate<rows>(sums, inputs + first / 4 * Product::kRows, panel.codes + first * kPanel, steps);
    unroll<kColumns>([&](auto c) INLINED {
      const Floats scale = load(panel.scales + g * kPanel + c * kLanes);
      unroll<rows>([&](auto r) INLINED {
        float* total = &totals[r][c * kLanes];
        store(total, multiply_add(to_floats(sums[r][c]), scale, load(total)));
      });
    });
  }
  for (int r = 0; r < rows; r++) write_groups(totals[r], epilogue, tile, r, token + r);
}

template <class Product, int rows>
INLINE void multiply_rows(const uint32_t* inputs, const UnpackedPanel& panel, int64_t columns, const Epilogue& epilogue,
                          const TileNumbers<Product::kRows>& tile, int64_t token) {
  if (epilogue.call.weight->group && !has_integer_scales(*epilogue.call.weight)) {
    multiply_groups<Product, rows>(inputs, panel, epilogue, tile, token);
  } else {
    multiply_dense<Product, rows>(inputs, panel, columns, epilogue, tile, token);
  }
}

// The first `count` tokens of a tile: all at once, else half of them or one at a time.
template <class Product>
void multiply_tile(const uint32_t* inputs, const UnpackedPanel& panel, int64_t columns, const Epilogue& epilogue,
                   const TileNumbers<Product::kRows>& tile, int64_t token, int64_t count) {
  constexpr int rows = Product::kRows, half = rows / 2;
  if (count >= rows) return multiply_rows<Product, rows>(inputs, panel, columns, epilogue, tile, token);
  TileNumbers<rows> rest = tile;
  for (int64_t left = count, done; left > 0; left -= done) {
    done = left >= half ? half : 1;
    if (left >= half) {
      multiply_rows<Product, half>(inputs, panel, columns, epilogue, rest, token);
    } else {
      multiply_rows<Product, 1>(inputs, panel, columns, epilogue, rest, token);
    }
    inputs += done, token += done, rest.group_sums += done;
    for (int64_t r = 0; r + done < rows; r++) {
      rest.scale[r] = rest.scale[r + done], rest.shift[r] = rest.shift[r + done], rest.sum[r] = rest.sum[r + done];
    }
  }
}

INLINE bool needs_group_sums(const VggtqWeight& weight) { return weight.bits == 8 && weight.zeros && weight.group; }

// Parts of a thread's scratch memory.
template <int rows>
struct Workspace {
  int64_t block;  // tokens whose codes are kept at once
  uint32_t* codes;
  TileNumbers<rows>* tiles;
  float* room;
  int32_t* group_sums;  // [tiles][groups][kLanes]
  UnpackedPanel panel;

  // cache_bytes: of the L2 cache, half of which is for the codes of inputs.
  Workspace(const VggtqWeight& weight, int64_t tokens, size_t cache_bytes, Parts& parts) {
    const int64_t columns = padded(weight.columns, kBlock);
    const int64_t fitting = most(static_cast<int64_t>(cache_bytes) / 2 / columns / rows, 1) * rows;
    const int64_t blocks = most((tokens + fitting - 1) / fitting, 1);
    block = padded((tokens + blocks - 1) / blocks, rows);
    // Vectors of a tile's tokens may reach beyond its last ones.
    codes = parts.take<uint32_t>(block * columns / 4 + 16);
    tiles = parts.take<TileNumbers<rows>>(block / rows);
    room = parts.take<float>(2 * columns);
    group_sums = parts.take<int32_t>(needs_group_sums(weight) ? block / rows * Groups(weight).count * kLanes : 0);
    panel = UnpackedPanel(weight, parts);
  }
};

// A panel ready for the product: 8-bit codes of rows that share a scale are multiplied where they lie.
inline UnpackedPanel prepared(const VggtqWeight& weight, int64_t number, int32_t middle, const UnpackedPanel& room) {
  UnpackedPanel panel = room;
  if (weight.bits < 8 || weight.group || halves(weight)) {
    unpack_any(weight, number, middle, panel);
    return panel;
  }
  panel.codes =
      reinterpret_cast<int8_t*>(const_cast<uint8_t*>(weight.codes)) + number * kPanel * padded(weight.columns, kBlock);
  unroll<kColumns>([&](auto c) {
    const int at = c * kLanes;
    store_ints(panel.starts + at, multiply_ints(load_ints(weight.sums + number * kPanel + at), all_ints(-middle)));
    store(panel.scales + at, load_scales(weight, number * kPanel + at));
    if (!weight.zeros) return;
    const Ints zero = bytes_to_ints(weight.zeros + number * kPanel + at);
    store_ints(panel.offsets + at, add_ints(zero, all_ints(-128)));
  });
  return panel;
}

// Σ (code - middle) of a tile's tokens in every group, [groups][kLanes].
template <int rows>
void sum_groups(const VggtqWeight& weight, const uint32_t* codes, int32_t middle, int32_t* sums) {
  static_assert(rows <= kLanes);
  const Groups groups(weight);
  for (int64_t g = 0; g < groups.count; g++) {
    const int64_t first = g * groups.size, last = groups.end(g);
    Ints sum = all_ints(static_cast<int32_t>(first - last) * middle);
    for (int64_t k = first; k < last; k += 4) {
      sum = dot_bytes(sum, load_ints(codes + k / 4 * rows), all_ints(0x01010101));
    }
    store_ints(sums + g * kLanes, sum);
  }
}

template <class Product>
bool linear_by(const VggtqCall& call, const InputNumbers* shared, Share share, int32_t input_bits, size_t cache_bytes,
               Scratch& scratch) {
  constexpr int rows = Product::kRows;
  const VggtqWeight& weight = *call.weight;
  const int64_t columns = padded(weight.columns, kBlock);
  const int32_t middle = middle_of(input_bits), bits = call.bits < input_bits ? call.bits : input_bits;
  const bool shifted = call.rounding == VGGTQ_TOKEN_AFFINE || (shared && shared->zero != middle);
  const auto work = lay_out<Workspace<rows>>(scratch, weight, share.last_token - share.first_token, cache_bytes);
  if (work.codes == nullptr) return false;
  for (int64_t first = share.first_token; first < share.last_token; first += work.block) {
    const int64_t count = least(work.block, share.last_token - first);
    for (int64_t t = 0; t < count; t += rows) {
      uint32_t* codes = work.codes + t * columns / 4;
      TileNumbers<rows>& tile = work.tiles[t / rows];
      code_tile<rows>(call, shared, bits, middle, first + t, least(rows, count - t), codes, tile, work.room);
      int32_t* sums = work.group_sums;
      if (needs_group_sums(weight)) {
        sums += t / rows * Groups(weight).count * kLanes;
        sum_groups<rows>(weight, codes, middle, sums);
      }
      tile.group_sums = sums;
    }
    for (int64_t number = share.first_panel; number < share.last_panel; number++) {
      const UnpackedPanel panel = prepared(weight, number, middle, work.panel);
      const Epilogue epilogue(call, number, panel, shifted);
      for (int64_t t = 0; t < count; t += rows) {
        multiply_tile<Product>(work.codes + t * columns / 4, panel, columns, epilogue, work.tiles[t / rows], first + t,
                               count - t);
      }
    }
  }
  stream_fence();
  return true;
}

}  // namespace

// y = x · ŵᵀ + b with x in float. Needs linear.inl.h and kFloatRows, the tokens of a tile.
//
// A slice of a panel becomes float weights that stay in the L1 cache and is multiplied with all tiles of a block of
// tokens, so that making it costs little and no float copy of the weight is ever in memory. Sums of a slice are added
// to totals of the block and the panel, which stay in the L2 cache. A Product (InFloat32, or InBfloat16 of
// bfloat_linear.inl.h) says which floats are multiplied, and how many inputs are in its units of 32 bits.
#pragma once
#include "linear.inl.h"

namespace {

constexpr int64_t kSlice = 128;           // units whose weights of a panel are float at once, half of the L1 cache
constexpr int64_t kBlockTokens = 240;     // whole tiles of every instruction set
constexpr int64_t kBlockBytes = 4 << 20;  // of inputs that are kept at once

// Where inputs of a tile, whose first token of the block is `tile`, begin in the slice from the unit `k` on: slices
// follow one another, in each of them all tiles of the block.
INLINE int64_t place_of(int64_t block, int64_t units, int64_t k, int64_t tile) {
  return block * k + tile * least(kSlice, units - k);
}

// Tokens first … first + count - 1 become a tile, [slices] at `place_of` [units][kFloatRows]. One that is not full
// repeats its last token. room: two rows of floats.
template <class Product>
void pack_tile(const VggtqCall& call, int64_t first, int64_t count, int64_t block, int64_t tile,
               typename Product::Unit* out, float* room) {
  const int64_t columns = padded(call.weight->columns, kBlock), units = columns / Product::kInputs;
  for (int r = 0; r < kFloatRows; r += 2) {
    const typename Product::Unit* row[2];
    for (int i = 0; i < 2; i++) {
      float* own = room + i * columns;
      row[i] = Product::units_of(input_row(call, first + least(r + i, count - 1), own), columns, own);
    }
    for (int64_t slice = 0; slice < units; slice += kSlice) {
      uint32_t* to = reinterpret_cast<uint32_t*>(out) + place_of(block, units, slice, tile) + r;
      for (int64_t k = slice; k < least(slice + kSlice, units); k += 4, to += 4 * kFloatRows) {
        store_pair(load_bytes16(row[0] + k), load_bytes16(row[1] + k), to, kFloatRows);
      }
    }
  }
}

template <int bits>
void unpack_codes(const uint8_t* packed, int64_t inputs, uint8_t* codes) {
  for (int64_t k = 0; k < inputs; k += kUnit, packed += bits * kVectorBytes, codes += 8 * kVectorBytes) {
    unroll<8>([&](auto i) { store_ints(codes + i * kVectorBytes, stored_codes<bits, i>(packed)); });
  }
}

// Codes of the inputs first … last - 1 of a panel, [inputs / 4][kPanel][4] bytes, in `room` unless they lie like that
// already.
inline const uint8_t* slice_codes(const VggtqWeight& weight, int64_t panel, int64_t first, int64_t last,
                                  uint8_t* room) {
  const int64_t at = (panel * padded(weight.columns, kBlock) + first) * kPanel / 8 * weight.bits, count = last - first;
  const uint8_t* packed = weight.codes + at;
  switch (weight.bits) {
    case 2: unpack_codes<2>(packed, count, room); break;
    case 3: unpack_codes<3>(packed, count, room); break;
    case 4: unpack_codes<4>(packed, count, room); break;
    case 5: unpack_codes<5>(packed, count, room); break;
    case 6: unpack_codes<6>(packed, count, room); break;
    case 7: unpack_codes<7>(packed, count, room); break;
    default: return packed;
  }
  return room;
}

alignas(64) constexpr float kNoTable[16] = {};

// take(input, j, column, weights): the weights of a panel's outputs for the inputs first … last - 1 of one group, a
// vector at a time; j: input mod 4.
template <bool has_table, class Take>
INLINE void take_group(const VggtqWeight& weight, const Groups& groups, int64_t panel, int64_t g, const uint8_t* codes,
                       int64_t first, int64_t last, Take& take) {
  Floats zero[kColumns], scale[kColumns];
  unroll<kColumns>([&](auto c) INLINED {
    const int64_t at = (panel * groups.count + g) * kPanel + c * kLanes;
    zero[c] =
        weight.zeros ? to_floats(bytes_to_ints(weight.zeros + at)) : all(static_cast<float>(1 << (weight.bits - 1)));
    scale[c] = load_scales(weight, at);
    if (!weight.channel_scales) return;
    scale[c] = multiply(scale[c], load(weight.channel_scales + panel * kPanel + c * kLanes));
  });
  const Table table(has_table ? weight.table : kNoTable);
  const Ints less = all_ints(weight.bits == 8 ? static_cast<int32_t>(0x80808080) : 0);  // 128 less are stored
  for (int64_t k = first; k < last; k += 4) {
    unroll<kColumns>([&](auto c) INLINED {
      const Ints four = xor_ints(load_ints(codes + c * kVectorBytes), less);  // inputs of every lane
      unroll<4>([&](auto j) INLINED {
        const Ints code = and_ints(shift_right32<8 * j>(four), all_ints(255));
        Floats value;
        if constexpr (has_table) {
          value = table[code];
        } else {
          value = subtract(to_floats(code), zero[c]);
        }
        take(k + j, j, c, multiply(value, scale[c]));
      });
    });
    codes += kColumns * kVectorBytes;
  }
}

// The same for weights that are 16-bit floats themselves.
template <bool bfloat, class Take>
INLINE void take_halves(const uint16_t* weights, int64_t first, int64_t last, Take& take) {
  for (int64_t k = first; k < last; k += 4) {
    unroll<4>([&](auto j) INLINED {
      unroll<kColumns>([&](auto c) INLINED {
        const uint16_t* vector = weights + (k + j) * kPanel + c * kLanes;
        take(k + j, j, c, bfloat ? load_bfloat16(vector) : load_float16(vector));
      });
    });
  }
}

// take(input, j, column, weights) for the inputs first … last - 1 of a panel. room: a byte for each of their weights.
template <class Take>
INLINE void take_slice(const VggtqWeight& weight, const Groups& groups, int64_t panel, int64_t first, int64_t last,
                       uint8_t* room, Take& take) {
  if (weight.bits == 16) {
    const int64_t start = panel * groups.columns * kPanel;
    const uint16_t* weights = reinterpret_cast<const uint16_t*>(weight.codes) + start;
    if (weight.scale_type == VGGTQ_BFLOAT16) return take_halves<true>(weights, first, last, take);
    return take_halves<false>(weights, first, last, take);
  }
  const uint8_t* codes = slice_codes(weight, panel, first, last, room);
  int64_t g = least(first / groups.size, groups.count - 1);
  for (int64_t k = first, end; k < last; k = end, g++) {
    end = least(groups.end(g), last);
    const uint8_t* own = codes + (k - first) * kPanel;
    weight.table ? take_group<true>(weight, groups, panel, g, own, k, end, take)
                 : take_group<false>(weight, groups, panel, g, own, k, end, take);
  }
}

struct InFloat32 {
  using Unit = float;
  using Vector = Floats;
  static constexpr int kInputs = 1;  // of a unit

  INLINE static Vector vector(const Unit* p) { return load(p); }
  INLINE static Vector spread(Unit x) { return all(x); }
  INLINE static Floats add_product(Vector inputs, Vector weights, Floats sums) {
    return multiply_add(inputs, weights, sums);
  }
  INLINE static const Unit* units_of(const float* row, int64_t, float*) { return row; }

  // Weights of the inputs first … last - 1, [inputs][kPanel].
  static void slice(const VggtqWeight& weight, const Groups& groups, int64_t panel, int64_t first, int64_t last,
                    uint8_t* room, Unit* out) {
    auto keep = [&](int64_t k, auto, auto column, Floats value) INLINED {
      float* row = out + (k - first) * kPanel;
      store(row + column * kLanes, value);
    };
    take_slice(weight, groups, panel, first, last, room, keep);
  }
};

// totals[c] += Σ inputs[k] · weights[k][c], of a single token, without a place for weights in between; in several
// chains, for a sum has to wait for the one before.
inline void multiply_one(const VggtqWeight& weight, const Groups& groups, int64_t panel, int64_t first, int64_t last,
                         uint8_t* room, const float* inputs, float* totals) {
  Floats sums[4][kColumns];
  unroll<4>([&](auto j) INLINED { unroll<kColumns>([&](auto c) INLINED { sums[j][c] = all(0); }); });
  auto add_product = [&](int64_t k, auto j, auto column, Floats value) INLINED {
    sums[j][column] = multiply_add(all(inputs[(k - first) * kFloatRows]), value, sums[j][column]);
  };
  take_slice(weight, groups, panel, first, last, room, add_product);
  unroll<kColumns>([&](auto c) INLINED {
    const Floats sum = add(add(sums[0][c], sums[1][c]), add(sums[2][c], sums[3][c]));
    store(totals + c * kLanes, add(load(totals + c * kLanes), sum));
  });
}

// totals[r][c] += Σ inputs[k][r] · weights[k][c] over `count` units. A few rows are summed in several chains, for a
// sum has to wait for the one before.
template <class Product, int rows, class Unit = typename Product::Unit>
void add_products(const Unit* inputs, const Unit* weights, int64_t count, float* totals) {
  constexpr int chains = rows < 4 ? 4 : 1;
  Floats sums[chains][rows][kColumns];
  unroll<chains>([&](auto i) INLINED {
    unroll<rows>([&](auto r) INLINED { unroll<kColumns>([&](auto c) INLINED { sums[i][r][c] = all(0); }); });
  });
  for (int64_t k = 0; k < count; k += chains) {
    unroll<chains>([&](auto i) INLINED {
      typename Product::Vector weight[kColumns];
      unroll<kColumns>([&](auto c) INLINED { weight[c] = Product::vector(weights + c * kLanes); });
      unroll<rows>([&](auto r) INLINED {
        const auto input = Product::spread(inputs[r]);
        unroll<kColumns>([&](auto c)
                             INLINED { sums[i][r][c] = Product::add_product(input, weight[c], sums[i][r][c]); });
      });
      inputs += kFloatRows, weights += kPanel;
    });
  }
  unroll<rows>([&](auto r) INLINED {
    unroll<kColumns>([&](auto c) INLINED {
      unroll<chains - 1>([&](auto i) INLINED { sums[0][r][c] = add(sums[0][r][c], sums[i + 1][r][c]); });
      float* total = totals + r * kPanel + c * kLanes;
      store(total, add(load(total), sums[0][r][c]));
    });
  });
}

template <class Product, class Unit = typename Product::Unit>
INLINE void multiply_slice(const Unit* inputs, const Unit* weights, int64_t count, int64_t tokens, float* totals) {
  if (tokens == 1) return add_products<Product, 1>(inputs, weights, count, totals);
  if (tokens <= kFloatRows / 2) return add_products<Product, kFloatRows / 2>(inputs, weights, count, totals);
  add_products<Product, kFloatRows>(inputs, weights, count, totals);
}

inline void write_totals(const Epilogue& epilogue, const float* totals, int64_t token, int64_t count) {
  for (int64_t t = 0; t < count; t++) {
    Floats values[kColumns];
    unroll<kColumns>([&](auto c) { values[c] = load(totals + t * kPanel + c * kLanes); });
    epilogue.write(values, 1, token + t);
  }
}

// Parts of a thread's scratch memory.
template <class Product>
struct FloatWorkspace {
  using Unit = typename Product::Unit;
  int64_t block;           // tokens whose inputs are kept at once
  Unit *inputs, *weights;  // as pack_tile leaves them, of a slice
  float *room, *totals;    // totals: [tokens][kPanel]
  uint8_t* codes;          // of a slice

  FloatWorkspace(int64_t columns, int64_t tokens, Parts& parts) {
    const int64_t units = columns / Product::kInputs;
    const int64_t fitting = most(kBlockBytes / 4 / units / kFloatRows * kFloatRows, 4 * kFloatRows);
    const int64_t blocks = (tokens - 1) / least(fitting, kBlockTokens) + 1;
    block = padded((tokens + blocks - 1) / blocks, kFloatRows);
    inputs = parts.take<Unit>(block * units);
    weights = parts.take<Unit>(kSlice * kPanel);
    room = parts.take<float>(2 * columns);
    totals = parts.take<float>(block * kPanel);
    codes = parts.take<uint8_t>(kSlice * Product::kInputs * kPanel);
  }
};

// One panel times the `count` tokens from `first` on, whose inputs are packed.
template <class Product>
void multiply_float_panel(const VggtqCall& call, int64_t number, const FloatWorkspace<Product>& work, int64_t first,
                          int64_t count) {
  constexpr int kInputs = Product::kInputs;
  const Groups groups(*call.weight);
  const int64_t units = groups.columns / kInputs;
  std::memset(work.totals, 0, static_cast<size_t>(work.block * kPanel) * sizeof(float));
  for (int64_t k = 0; k < units; k += kSlice) {
    const int64_t end = least(k + kSlice, units);
    if constexpr (kInputs == 1) {
      if (call.tokens == 1) {
        const float* token = work.inputs + place_of(work.block, units, k, 0);
        multiply_one(*call.weight, groups, number, k, end, work.codes, token, work.totals);
        continue;
      }
    }
    Product::slice(*call.weight, groups, number, k * kInputs, end * kInputs, work.codes, work.weights);
    for (int64_t t = 0; t < count; t += kFloatRows) {
      multiply_slice<Product>(work.inputs + place_of(work.block, units, k, t), work.weights, end - k, count - t,
                              work.totals + t * kPanel);
    }
  }
  write_totals(Epilogue(call, number, UnpackedPanel{}, false), work.totals, first, count);
}

template <class Product>
bool multiply_floats(const VggtqCall& call, Share share, Scratch& scratch) {
  const int64_t columns = padded(call.weight->columns, kBlock);
  const auto work = lay_out<FloatWorkspace<Product>>(scratch, columns, share.last_token - share.first_token);
  if (work.inputs == nullptr) return false;
  for (int64_t first = share.first_token; first < share.last_token; first += work.block) {
    const int64_t count = least(work.block, share.last_token - first);
    for (int64_t t = 0; t < count; t += kFloatRows) {
      pack_tile<Product>(call, first + t, least(kFloatRows, count - t), work.block, t, work.inputs, work.room);
    }
    for (int64_t number = share.first_panel; number < share.last_panel; number++) {
      multiply_float_panel(call, number, work, first, count);
    }
  }
  stream_fence();
  return true;
}

inline bool float_linear(const VggtqCall& call, Share share, Scratch& scratch) {
  return multiply_floats<InFloat32>(call, share, scratch);
}

}  // namespace

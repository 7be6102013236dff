// Inputs become codes, a tile of tokens at a time, in the order in which the product reads them.
// Needs one of vectors_*.h.
#pragma once
#include <cstring>

#include "kernels.h"
#include "around.inl.h"

namespace {

constexpr int kBlock = 32;  // inputs are padded to a multiple; groups and runs of products in 16 bits fit

INLINE int64_t padded(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }
INLINE int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
INLINE int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

// Hands out parts of a thread's scratch memory; by null it counts their bytes.
struct Parts {
  uint8_t* next;
  int64_t bytes = 0;

  template <class T>
  T* take(int64_t count) {
    const int64_t size = padded(count * static_cast<int64_t>(sizeof(T)), 64);
    uint8_t* part = next;
    if (next) next += size;
    bytes += size;
    return reinterpret_cast<T*>(part);
  }
};

// Room(about…, parts) in scratch memory; its pointers are null where there is none.
template <class Room, class... About>
inline Room lay_out(Scratch& scratch, const About&... about) {
  Parts counted{nullptr};
  (void)Room(about..., counted);
  Parts parts{scratch.reserve(static_cast<size_t>(counted.bytes))};
  return Room(about..., parts);
}

// How the tokens of a tile were rounded.
template <int rows>
struct TileNumbers {
  float scale[rows];
  int32_t shift[rows];        // middle - zero point: what the product's codes are off by
  int32_t sum[rows];          // Σ (code - zero point)
  const int32_t* group_sums;  // [groups][kLanes]: Σ (code - middle), where 8-bit groups have zero points
};

// `columns` numbers from `start` on as float32, padded with zeros; `room` has space for them where they are not already
// like that.
INLINE const float* row_of_floats(VggtqType type, const void* numbers, int64_t start, int64_t columns, float* room) {
  const int64_t whole = columns / kLanes * kLanes;
  if (type == VGGTQ_FLOAT32) {
    const float* row = static_cast<const float*>(numbers) + start;
    if (columns % kBlock == 0) return row;
    std::memcpy(room, row, static_cast<size_t>(columns) * sizeof(float));
  } else {
    const uint16_t* row = static_cast<const uint16_t*>(numbers) + start;
    const bool bfloat = type == VGGTQ_BFLOAT16;
    for (int64_t k = 0; k < whole; k += kLanes)
      store(room + k, bfloat ? load_bfloat16(row + k) : load_float16(row + k));
    if (whole < columns) {  // the rest by way of a full vector of its own: nothing beyond the row may be read
      uint16_t rest[kLanes] = {};
      std::memcpy(rest, row + whole, static_cast<size_t>(columns - whole) * sizeof(uint16_t));
      store(room + whole, bfloat ? load_bfloat16(rest) : load_float16(rest));
    }
  }
  for (int64_t k = columns; k < padded(columns, kBlock); k++) room[k] = 0;
  return room;
}

INLINE const float* float_row(const VggtqCall& call, int64_t token, float* room) {
  return row_of_floats(call.type, call.inputs, token * call.weight->columns, call.weight->columns, room);
}

// A token's inputs, behind LayerNorm where the call has one.
INLINE const float* input_row(const VggtqCall& call, int64_t token, float* room) {
  const float* row = float_row(call, token, room);
  if (call.around == nullptr || call.around->norm_weight == nullptr) return row;
  const VggtqAround& around = *call.around;
  layer_norm(row, around.norm_weight, around.norm_bias, around.epsilon, call.weight->columns, room);
  return room;
}

// The largest |x| as the bits of a float: as integers NaN and Inf are larger than all others, so that none gets lost.
INLINE int32_t peak_bits(const float* row, int64_t count) {
  const Ints magnitude = all_ints(0x7fffffff);
  Ints peak[2] = {all_ints(0), all_ints(0)};
  for (int64_t k = 0; k < count; k += 2 * kLanes) {
    unroll<2>(
        [&](auto i) { peak[i] = larger_ints(peak[i], and_ints(magnitude, bits_of(load(row + k + i * kLanes)))); });
  }
  return largest_int(larger_ints(peak[0], peak[1]));
}

INLINE Range row_range(const float* row, int64_t count) {
  Floats low = all(0), high = all(0);
  for (int64_t k = 0; k < count; k += kLanes) {
    low = smaller(low, load(row + k));
    high = larger(high, load(row + k));
  }
  return {smallest(low), largest(high), peak_bits(row, count) < 0x7f800000};
}

// The numbers of one token.
inline InputNumbers token_numbers(const VggtqCall& call, const InputNumbers* shared, const float* row, int32_t bits,
                                  int32_t middle) {
  const int64_t count = padded(call.weight->columns, kBlock);
  if (call.rounding == VGGTQ_TOKEN_AFFINE) return affine_numbers(row_range(row, count), bits);
  const int32_t peak = peak_bits(row, count);
  if (shared == nullptr) {
    float largest;
    std::memcpy(&largest, &peak, sizeof largest);
    return symmetric_numbers(largest, peak < 0x7f800000, bits, call.clip, middle);
  }
  InputNumbers numbers = *shared;
  if (peak >= 0x7f800000) numbers.scale = symmetric_numbers(0, false, bits, 1, middle).scale;
  return numbers;
}

// Constants with which a token's values become codes: clamp(x / scale) rounded to the nearest even, plus the zero
// point.
struct Coding {
  Floats inverse, low, high;
  Ints zero;
  explicit Coding(const InputNumbers& n)
      : inverse(all(n.scale == n.scale ? 1 / n.scale : 0)),
        low(all(static_cast<float>(n.smallest - n.zero))),
        high(all(static_cast<float>(n.largest - n.zero))),
        zero(all_ints(n.zero)) {}
};

INLINE Bytes16 codes16(const float* values, const Coding& coding, Ints& sum) {
  Ints codes[16 / kLanes];
  unroll<16 / kLanes>([&](auto i) {
    const Floats scaled = multiply(load(values + i * kLanes), coding.inverse);
    codes[i] = add_ints(round_to_ints(smaller(larger(scaled, coding.low), coding.high)), coding.zero);
    sum = add_ints(sum, codes[i]);
  });
  return narrow16(codes);
}

// Tokens first … first + count - 1 become codes[padded columns / 4][rows][4]; a tile that is not full repeats its last
// token. room: two rows of floats.
template <int rows>
void code_tile(const VggtqCall& call, const InputNumbers* shared, int32_t bits, int32_t middle, int64_t first,
               int64_t count, uint32_t* codes, TileNumbers<rows>& numbers, float* room) {
  const int64_t columns = padded(call.weight->columns, kBlock);
  for (int r = 0; r < rows && r < count; r += 2) {
    const float* row[2];
    InputNumbers own[2];
    Ints sum[2] = {all_ints(0), all_ints(0)};
    for (int i = 0; i < 2; i++) {
      row[i] = input_row(call, first + least(r + i, count - 1), room + i * columns);
      own[i] = token_numbers(call, shared, row[i], bits, middle);
    }
    const Coding coding[2] = {Coding(own[0]), Coding(own[1])};
    uint32_t* out = codes + r;
    for (int64_t k = 0; k < columns; k += 16, out += 4 * rows) {
      const Bytes16 a = codes16(row[0] + k, coding[0], sum[0]), b = codes16(row[1] + k, coding[1], sum[1]);
      if (r + 1 < rows) {
        store_pair(a, b, out, rows);
      } else {
        store_single(a, out, rows);
      }
    }
    for (int i = 0; i < 2 && r + i < rows; i++) {
      numbers.scale[r + i] = own[i].scale;
      numbers.shift[r + i] = middle - own[i].zero;
      numbers.sum[r + i] = static_cast<int32_t>(sum_ints(sum[i]) - columns * own[i].zero);
    }
  }
}

// The range of these tokens' inputs; scratch: one row of floats.
inline bool range_of_tokens(const VggtqCall& call, int64_t first, int64_t last, Scratch& scratch, Range& range) {
  const int64_t columns = padded(call.weight->columns, kBlock);
  float* room = reinterpret_cast<float*>(scratch.reserve(static_cast<size_t>(columns) * sizeof(float)));
  if (room == nullptr) return false;
  range = {0, 0, true};
  for (int64_t token = first; token < last; token++) {
    const Range own = row_range(input_row(call, token, room), columns);
    range.low = own.low < range.low ? own.low : range.low;
    range.high = own.high > range.high ? own.high : range.high;
    range.finite = range.finite && own.finite;
  }
  return true;
}

}  // namespace

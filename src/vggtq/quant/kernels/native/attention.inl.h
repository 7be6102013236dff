// softmax(q kᵀ · scale) v, both products of integers. Needs one of vectors_*.h, kColumns, kAttentionRows, kSignedEnd
// and dot_at.
//
// A block of keys after the other with running maxima (FlashAttention, arXiv 2205.14135, algorithm 1). Keys lose their
// mean before they are rounded, which shifts all logits of a query alike (SageAttention, arXiv 2410.02367,
// section 4.2); values lose theirs, which the output gets back. Queries have a scale each, keys one per block, values
// one per block and channel. Weights, relative to the largest of their query in the block, become 0 … 255; their sum is
// that of the codes.
#pragma once
#include <cmath>
#include <limits>

#include "inputs.inl.h"
#include "kernels.h"

namespace {

constexpr int kKeyBlock = 512;
constexpr int kPacked = 4 * kLanes;  // keys whose weights fill a vector of bytes
constexpr int kQueryZero = 128;
// No multiples of a page: rows would collide.
constexpr int kScoreStride = kKeyBlock + 16, kWeightStride = kKeyBlock + 64;
constexpr float kLargestWeight = 7.9943534f;  // log₂ 255

// Tokens of one head.
struct HeadRows {
  const void* numbers;
  int64_t start, stride, width;
  VggtqType type;

  HeadRows(const VggtqAttention& call, const void* all_numbers, const int64_t (&strides)[3], const QueryShare& share)
      : numbers(all_numbers),
        start(share.batch * strides[0] + share.head * strides[1]),
        stride(strides[2]),
        width(call.width),
        type(call.type) {}

  INLINE const float* row(int64_t token, float* room) const {
    return row_of_floats(type, numbers, start + token * stride, width, room);
  }
};

// Keys and values of one head as codes; wide: the head's width, padded, count: its keys, padded.
struct PackedHead {
  int64_t wide, count;
  int8_t* keys;         // [count / kPanel][wide / 4][kPanel][4]
  int32_t* starts;      // [count]: what a query's zero point takes from the products of a key
  float* key_scales;    // [blocks]
  int8_t* values;       // [count / 4][wide][4], in the order of pack_bytes
  float* value_scales;  // [blocks][wide]
  float* value_means;   // [wide]
  int8_t* counted;      // [count] in the order of pack_bytes: 1, for padding 0
};

// What belongs to the queries of a tile.
template <int rows>
struct QueryTile {
  uint32_t* codes;   // [wide / 4][rows]
  int32_t* scores;   // [rows][kScoreStride]
  uint8_t* weights;  // [rows][kWeightStride]
  float* outputs;    // [rows][wide]
  float scale[rows], peak[rows], sum[rows];
  float kept[rows], added[rows];  // factors of a block: of what was summed before, of its own sums
  alignas(64) int32_t largest[rows][kLanes];
};

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

struct AttentionRoom {
  PackedHead head;
  QueryTile<kAttentionRows> tile;
  float *rows, *mean, *inverse;  // four rows widened; a row each

  AttentionRoom(const VggtqAttention& call, Parts& parts) {
    const int64_t wide = padded(call.width, kBlock), count = padded(call.key_tokens, kPacked);
    const int64_t blocks = (count + kKeyBlock - 1) / kKeyBlock;
    head = {wide,
            count,
            parts.take<int8_t>(count * wide),
            parts.take<int32_t>(count),
            parts.take<float>(blocks),
            parts.take<int8_t>(count * wide),
            parts.take<float>(blocks * wide),
            parts.take<float>(wide),
            parts.take<int8_t>(count)};
    tile.codes = parts.take<uint32_t>(kAttentionRows * wide / 4);
    tile.scores = parts.take<int32_t>(kAttentionRows * kScoreStride);
    tile.weights = parts.take<uint8_t>(kAttentionRows * kWeightStride);
    tile.outputs = parts.take<float>(kAttentionRows * wide);
    rows = parts.take<float>(4 * wide), mean = parts.take<float>(wide), inverse = parts.take<float>(wide);
  }
};

inline void mean_of(const HeadRows& rows, int64_t count, int64_t wide, float* mean, float* room) {
  std::memset(mean, 0, static_cast<size_t>(wide) * sizeof(float));
  const Floats share = all(1 / static_cast<float>(count));  // sums of finite numbers stay finite
  for (int64_t t = 0; t < count; t++) {
    const float* row = rows.row(t, room);
    for (int64_t i = 0; i < wide; i += kLanes) store(mean + i, multiply_add(load(row + i), share, load(mean + i)));
  }
}

// row - mean, in room, which row may be.
INLINE void center(const float* row, const float* mean, int64_t wide, float* room) {
  for (int64_t i = 0; i < wide; i += kLanes) store(room + i, subtract(load(row + i), load(mean + i)));
}

// Keys first … first + kKeyBlock - 1, as far as they are there; not finite ones leave NaN as their scale.
inline void pack_keys(const HeadRows& rows, int64_t there, int64_t first, const AttentionRoom& room) {
  const PackedHead& head = room.head;
  const int64_t wide = head.wide, last = least(first + kKeyBlock, head.count);
  int32_t peak = 0;
  for (int64_t t = first; t < least(last, there); t++) {
    center(rows.row(t, room.rows), room.mean, wide, room.rows);
    const int32_t own = peak_bits(room.rows, wide);
    peak = own > peak ? own : peak;
  }
  float largest;
  std::memcpy(&largest, &peak, sizeof largest);
  const float tiny = std::numeric_limits<float>::min();
  const float scale =
      peak < 0x7f800000 ? std::fmax(largest / kSignedEnd, tiny) : std::numeric_limits<float>::quiet_NaN();
  head.key_scales[first / kKeyBlock] = scale;
  const Coding coding({scale, 128, 128 - kSignedEnd, 128 + kSignedEnd});
  for (int64_t t = first; t < last; t++) {
    uint32_t* out = reinterpret_cast<uint32_t*>(head.keys) + t / kPanel * kPanel * wide / 4 + t % kPanel;
    if (t >= there) {
      for (int64_t i = 0; i < wide / 4; i++) out[i * kPanel] = 0;
      head.starts[t] = -(1 << 28);  // less than any sum, so that padding is never the largest
      continue;
    }
    center(rows.row(t, room.rows), room.mean, wide, room.rows);
    Ints sum = all_ints(0);
    for (int64_t i = 0; i < wide; i += 16, out += 4 * kPanel) {
      store_single(less128(codes16(room.rows + i, coding, sum)), out, kPanel);
    }
    head.starts[t] = -kQueryZero * static_cast<int32_t>(sum_ints(sum) - 128 * wide);
  }
}

// A block's scales of values, and their inverses. A channel that is not all finite has the scale 0: its mean, which
// is not finite either, is then all that is left of it.
inline void scale_values(const HeadRows& rows, int64_t first, int64_t last, const AttentionRoom& room) {
  const int64_t wide = room.head.wide;
  float* scales = room.head.value_scales + first / kKeyBlock * wide;
  const float* means = room.head.value_means;
  std::memset(scales, 0, static_cast<size_t>(wide) * sizeof(float));
  for (int64_t t = first; t < last; t++) {
    const float* row = rows.row(t, room.rows);
    for (int64_t i = 0; i < wide; i += kLanes) {
      store(scales + i, larger(absolute(subtract(load(row + i), load(means + i))), load(scales + i)));
    }
  }
  for (int64_t i = 0; i < wide; i++) {
    const float scale =
        std::isfinite(means[i]) ? std::fmax(scales[i] / kSignedEnd, std::numeric_limits<float>::min()) : 0;
    scales[i] = scale;
    room.inverse[i] = scale > 0 ? 1 / scale : 0;
  }
}

// 16 channels of one value as codes of 0 … 255 with the zero point 128.
INLINE Bytes16 value_codes(const float* row, const float* mean, const float* inverse) {
  Ints codes[16 / kLanes];
  unroll<16 / kLanes>([&](auto i) {
    const Floats centered = subtract(load(row + i * kLanes), load(mean + i * kLanes));
    codes[i] = add_ints(round_to_ints(multiply(centered, load(inverse + i * kLanes))), all_ints(128));
  });
  return narrow16(codes);
}

inline void pack_values(const HeadRows& rows, int64_t there, int64_t first, const AttentionRoom& room) {
  const PackedHead& head = room.head;
  const int64_t wide = head.wide, last = least(first + kKeyBlock, head.count);
  scale_values(rows, first, least(last, there), room);
  for (int64_t step = 0; step < (last - first) / 4; step++) {
    const int64_t in_vector = step % kLanes;
    const int64_t t = first + step / kLanes * kPacked + in_vector % 4 * kLanes + in_vector / 4 * 4;
    const float* row[4];
    for (int r = 0; r < 4; r++) {
      row[r] = t + r < there ? rows.row(t + r, room.rows + r * wide) : head.value_means;
      head.counted[first + 4 * step + r] = t + r < there;
    }
    int8_t* out = head.values + (first / 4 + step) * wide * 4;
    for (int64_t i = 0; i < wide; i += 16, out += 64) {
      Bytes16 codes[4];
      for (int r = 0; r < 4; r++) codes[r] = less128(value_codes(row[r] + i, head.value_means + i, room.inverse + i));
      store_interleaved(codes, out);
    }
  }
}

inline void pack_head(const VggtqAttention& call, const QueryShare& share, const AttentionRoom& room) {
  const HeadRows keys(call, call.keys, call.key_strides, share), values(call, call.values, call.value_strides, share);
  const int64_t wide = room.head.wide, there = call.key_tokens;
  mean_of(keys, there, wide, room.mean, room.rows);
  mean_of(values, there, wide, room.head.value_means, room.rows);
  for (int64_t first = 0; first < there; first += kKeyBlock) {
    pack_keys(keys, there, first, room);
    pack_values(values, there, first, room);
  }
}

// Queries first … first + rows - 1; the last one again for those that are not there.
template <int rows>
void code_queries(const VggtqAttention& call, const QueryShare& share, int64_t first, const AttentionRoom& room,
                  QueryTile<rows>& tile) {
  const HeadRows queries(call, call.queries, call.query_strides, share);
  const float log2e = 1.44269504f;
  for (int r = 0; r < rows; r++) {
    const float* row = queries.row(least(first + r, share.last - 1), room.rows);
    const int32_t peak = peak_bits(row, room.head.wide);
    float largest;
    std::memcpy(&largest, &peak, sizeof largest);
    const InputNumbers numbers = symmetric_numbers(largest, peak < 0x7f800000, 8, 1, kQueryZero);
    const Coding coding(numbers);
    Ints unused = all_ints(0);
    uint32_t* out = tile.codes + r;
    for (int64_t i = 0; i < room.head.wide; i += 16, out += 4 * rows) {
      store_single(codes16(row + i, coding, unused), out, rows);
    }
    tile.scale[r] = numbers.scale * call.scale * log2e;
    tile.peak[r] = -std::numeric_limits<float>::max(), tile.sum[r] = 0;
  }
  std::memset(tile.outputs, 0, static_cast<size_t>(rows * room.head.wide) * sizeof(float));
}

// sums[r][c] += Σ over `steps` steps k of four products: inputs[k · step + r · stride] times those at
// codes + k · pitch.
template <int step, int stride, int rows>
INLINE void accumulate_steps(Ints (&sums)[rows][kColumns], const uint32_t* inputs, const int8_t* codes, int64_t pitch,
                             int64_t steps) {
  for (int64_t k = 0; k < steps; k++, inputs += step, codes += pitch) {
    unroll<rows>([&](auto r) INLINED {
      const Ints input = all_ints(static_cast<int32_t>(inputs[r * stride]));
      unroll<kColumns>([&](auto c) INLINED { sums[r][c] = dot_at(sums[r][c], input, codes + c * 4 * kLanes); });
    });
  }
}

// Scores of `count` keys from `first` on, and the largest of each query.
template <int rows>
void score(const PackedHead& head, int64_t first, int64_t count, QueryTile<rows>& tile) {
  for (int r = 0; r < rows; r++) store_ints(tile.largest[r], all_ints(std::numeric_limits<int32_t>::min()));
  for (int64_t j = 0; j < count; j += kPanel) {
    Ints sums[rows][kColumns];
    unroll<kColumns>([&](auto c) INLINED {
      const Ints start = load_ints(head.starts + first + j + c * kLanes);
      unroll<rows>([&](auto r) INLINED { sums[r][c] = start; });
    });
    accumulate_steps<rows, 1>(sums, tile.codes, head.keys + (first + j) * head.wide, 4 * kPanel, head.wide / 4);
    unroll<rows>([&](auto r) INLINED {
      Ints largest = load_ints(tile.largest[r]);
      unroll<kColumns>([&](auto c) INLINED {
        store_ints(tile.scores + r * kScoreStride + j + c * kLanes, sums[r][c]);
        largest = larger_ints(largest, sums[r][c]);
      });
      store_ints(tile.largest[r], largest);
    });
  }
}

// Scores become weights, and the running maxima and sums are brought up to date.
template <int rows>
void weigh(const PackedHead& head, int64_t first, int64_t count, QueryTile<rows>& tile) {
  for (int r = 0; r < rows; r++) {
    const float scale = tile.scale[r] * head.key_scales[first / kKeyBlock];
    const int32_t largest = largest_int(load_ints(tile.largest[r]));
    const float own = static_cast<float>(largest) * scale;
    const float peak = own > tile.peak[r] ? own : tile.peak[r];
    tile.kept[r] = std::exp2(tile.peak[r] - peak), tile.added[r] = std::exp2(own - peak);
    tile.peak[r] = peak;
    const Floats factor = all(scale), shift = all(kLargestWeight);
    const int32_t* scores = tile.scores + r * kScoreStride;
    Ints sum = all_ints(0);
    for (int64_t j = 0; j < count; j += kPacked) {
      Ints codes[4];
      unroll<4>([&](auto i) INLINED {
        // Differences of integers are exact, however large the logits are.
        const Floats below = to_floats(add_ints(load_ints(scores + j + i * kLanes), all_ints(-largest)));
        codes[i] = powers_of_two(multiply_add(below, factor, shift));
      });
      const Ints bytes = pack_bytes(codes);
      store_ints(tile.weights + r * kWeightStride + j, bytes);
      sum = dot_bytes(sum, bytes, load_ints(head.counted + first + j));
    }
    tile.sum[r] = tile.sum[r] * tile.kept[r] + static_cast<float>(sum_ints(sum)) * tile.added[r];
  }
}

// outputs = outputs · kept + weights · values · added.
template <int rows>
void average(const PackedHead& head, int64_t first, int64_t count, QueryTile<rows>& tile) {
  const float* scales = head.value_scales + first / kKeyBlock * head.wide;
  for (int64_t d = 0; d < head.wide; d += kPanel) {
    Ints sums[rows][kColumns];
    unroll<kColumns>([&](auto c) INLINED { unroll<rows>([&](auto r) INLINED { sums[r][c] = all_ints(0); }); });
    accumulate_steps<1, kWeightStride / 4>(sums, reinterpret_cast<const uint32_t*>(tile.weights),
                                           head.values + (first / 4 * head.wide + d) * 4, 4 * head.wide, count / 4);
    unroll<rows>([&](auto r) INLINED {
      const Floats kept = all(tile.kept[r]), added = all(tile.added[r]);
      unroll<kColumns>([&](auto c) INLINED {
        const int64_t at = d + c * kLanes;
        float* output = tile.outputs + r * head.wide + at;
        const Floats own = multiply(multiply(to_floats(sums[r][c]), load(scales + at)), added);
        store(output, multiply_add(load(output), kept, own));
      });
    });
  }
}

INLINE void write_row(const float* row, VggtqType type, int64_t width, void* outputs, int64_t start) {
  if (type == VGGTQ_FLOAT32) {
    std::memcpy(static_cast<float*>(outputs) + start, row, static_cast<size_t>(width) * sizeof(float));
    return;
  }
  uint16_t* out = static_cast<uint16_t*>(outputs) + start;
  for (int64_t i = 0; i < width; i += kLanes) {
    uint16_t part[kLanes];
    const Floats x = load(row + i);
    type == VGGTQ_BFLOAT16 ? store_bfloat16(part, x) : store_float16(part, x);
    std::memcpy(out + i, part, static_cast<size_t>(least(kLanes, width - i)) * sizeof(uint16_t));
  }
}

inline bool attend(const VggtqAttention& call, QueryShare share, Scratch& scratch) {
  constexpr int rows = kAttentionRows;
  Parts needed{nullptr};
  AttentionRoom(call, needed);
  Parts parts{scratch.reserve(static_cast<size_t>(needed.bytes))};
  if (parts.next == nullptr) return false;
  AttentionRoom room(call, parts);
  const PackedHead& head = room.head;
  pack_head(call, share, room);
  const int64_t start = share.batch * call.output_strides[0] + share.head * call.output_strides[1];
  for (int64_t query = share.first; query < share.last; query += rows) {
    code_queries(call, share, query, room, room.tile);
    for (int64_t first = 0; first < head.count; first += kKeyBlock) {
      const int64_t count = least(kKeyBlock, head.count - first);
      score(head, first, count, room.tile);
      weigh(head, first, count, room.tile);
      average(head, first, count, room.tile);
    }
    for (int r = 0; r < least(rows, share.last - query); r++) {
      const Floats inverse = all(1 / room.tile.sum[r]);
      float* output = room.tile.outputs + r * head.wide;
      for (int64_t i = 0; i < head.wide; i += kLanes) {
        store(output + i, multiply_add(load(output + i), inverse, load(head.value_means + i)));
      }
      write_row(output, call.type, call.width, call.outputs, start + (query + r) * call.output_strides[2]);
    }
  }
  return true;
}

}  // namespace

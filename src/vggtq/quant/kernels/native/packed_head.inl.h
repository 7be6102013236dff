// Keys and values of one head as codes, and the memory that attention works in. Needs one of vectors_*.h, kColumns,
// kAttentionRows and kSignedEnd.
//
// Keys lose their mean before they are rounded, which shifts all logits of a query alike (SageAttention,
// arXiv 2410.02367, section 4.2); values lose theirs, which the output gets back. Keys have a scale per block, values
// one per block and channel.
#pragma once
#include <cmath>
#include <limits>

#include "head_rows.inl.h"

namespace {

constexpr int kKeyBlock = 512;
constexpr int kPacked = 4 * kLanes;  // keys whose weights fill a vector of bytes
constexpr int kQueryZero = 128;
// No multiples of a page: rows would collide.
constexpr int kScoreStride = kKeyBlock + 16, kWeightStride = kKeyBlock + 64;

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

}  // namespace

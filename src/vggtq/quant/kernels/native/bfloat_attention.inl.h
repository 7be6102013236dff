// softmax(q kᵀ · scale) v with q, k, v and the weights in bfloat16, all sums and the exponentials in float32. Needs
// what head_rows.inl.h needs, bfloat_pairs.h, and kColumns and kAttentionRows.
//
// A block of keys after the other with running maxima (FlashAttention, arXiv 2205.14135, algorithm 1). Several tiles of
// queries go through a block before the next one is read, so that it comes from the L2 cache.
#pragma once
#include <cmath>
#include <limits>

#include "head_rows.inl.h"

namespace {

constexpr int64_t kPanelKeys = kColumns * kLanes;
constexpr int64_t kBlockKeys = 512;
constexpr int64_t kGroupTiles = 8;  // of queries that share a pass over the keys
constexpr int64_t kScores = kBlockKeys + 16,
                  kPairs = kBlockKeys / 2 + 16;  // no multiples of a page: rows would collide
constexpr float kAbsent = -1e30f;                // the score of padding

// What belongs to the queries of a tile.
struct BfloatTile {
  static constexpr int kRows = kAttentionRows;
  uint32_t* queries;  // [wide / 2][kRows]
  float* outputs;     // [kRows][wide]
  float peak[kRows], sum[kRows];
};

struct BfloatRoom {
  static constexpr int kRows = kAttentionRows;
  int64_t wide, count;  // the head's width, padded, and its keys, padded
  uint32_t *keys,
      *values;    // pairs: [count / kPanelKeys][wide / 2][kPanelKeys] of a key's numbers, [count / 2][wide] of two keys
  float* starts;  // [kBlockKeys]: of the scores of the last block, kAbsent for padding
  float *scores, *rows;  // [kRows][kScores]; two rows widened
  uint32_t* weights;     // [kRows][kPairs]
  BfloatTile tiles[kGroupTiles];
  float kept[kRows];  // what was summed before a block is multiplied by this

  BfloatRoom(const VggtqAttention& call, Parts& parts)
      : wide(padded(call.width, kBlock)), count(padded(call.key_tokens, kPanelKeys)) {
    keys = parts.take<uint32_t>(count * wide / 2);
    values = parts.take<uint32_t>(count * wide / 2);
    starts = parts.take<float>(kBlockKeys);
    scores = parts.take<float>(kRows * kScores);
    rows = parts.take<float>(2 * wide);
    weights = parts.take<uint32_t>(kRows * kPairs);
    for (BfloatTile& tile : tiles) {
      tile.queries = parts.take<uint32_t>(kRows * wide / 2);
      tile.outputs = parts.take<float>(kRows * wide);
    }
  }
};

// A token's numbers as pairs, in `room`.
INLINE const uint32_t* pairs_of_token(const HeadRows& rows, int64_t token, int64_t wide, float* room) {
  const float* row = rows.row(token, room);
  uint32_t* pairs = reinterpret_cast<uint32_t*>(room);
  for (int64_t i = 0; i < wide; i += 2 * kLanes) {
    store_ints(pairs + i / 2, in_order(load(row + i), load(row + i + kLanes)));
  }
  return pairs;
}

// Tokens first and second as columns 0 and 1 of out[wide / 2][stride].
INLINE void store_columns(const HeadRows& rows, int64_t first, int64_t second, int stride, const BfloatRoom& room,
                          uint32_t* out) {
  const uint32_t* pairs[2] = {pairs_of_token(rows, first, room.wide, room.rows),
                              pairs_of_token(rows, second, room.wide, room.rows + room.wide)};
  for (int64_t i = 0; i < room.wide / 2; i += 4, out += 4 * stride) {
    store_pair(load_bytes16(pairs[0] + i), load_bytes16(pairs[1] + i), out, stride);
  }
}

// Padding repeats the last key and has values of zero.
inline void pack_pairs(const VggtqAttention& call, const QueryShare& share, const BfloatRoom& room) {
  const HeadRows keys(call, call.keys, call.key_strides, share), values(call, call.values, call.value_strides, share);
  const int64_t wide = room.wide, there = call.key_tokens;
  for (int64_t t = 0; t < room.count; t += 2) {
    uint32_t* own = room.keys + t / kPanelKeys * kPanelKeys * wide / 2 + t % kPanelKeys;
    store_columns(keys, least(t, there - 1), least(t + 1, there - 1), kPanelKeys, room, own);
    const float* row[2];
    for (int i = 0; i < 2; i++) {
      float* space = room.rows + i * wide;
      row[i] = t + i < there ? values.row(t + i, space) : space;
      if (t + i >= there) std::memset(space, 0, static_cast<size_t>(wide) * sizeof(float));
    }
    uint32_t* out = room.values + t / 2 * wide;
    for (int64_t i = 0; i < wide; i += kLanes) store_ints(out + i, interleaved(load(row[0] + i), load(row[1] + i)));
  }
  const int64_t last = (room.count - 1) / kBlockKeys * kBlockKeys;
  for (int64_t j = 0; j < kBlockKeys; j++) room.starts[j] = last + j < there ? 0 : kAbsent;
}

// Queries first … first + kRows - 1; the last one again for those that are not there.
inline void start_tile(const HeadRows& queries, int64_t first, int64_t last, const BfloatRoom& room, BfloatTile& tile) {
  constexpr int rows = BfloatTile::kRows;
  for (int r = 0; r < rows; r += 2) {
    store_columns(queries, least(first + r, last - 1), least(first + r + 1, last - 1), rows, room, tile.queries + r);
  }
  for (int r = 0; r < rows; r++) tile.peak[r] = -std::numeric_limits<float>::max(), tile.sum[r] = 0;
  std::memset(tile.outputs, 0, static_cast<size_t>(rows * room.wide) * sizeof(float));
}

// sums[r][c] += Σ over `steps` pairs k: inputs[k · step + r · stride] times those at weights + k · pitch.
template <int step, int stride, int rows>
INLINE void accumulate_pairs(Floats (&sums)[rows][kColumns], const uint32_t* inputs, const uint32_t* weights,
                             int64_t pitch, int64_t steps) {
  for (int64_t k = 0; k < steps; k++, inputs += step, weights += pitch) {
    Ints pairs[kColumns];
    unroll<kColumns>([&](auto c) INLINED { pairs[c] = load_ints(weights + c * kLanes); });
    unroll<rows>([&](auto r) INLINED {
      const Ints input = all_ints(static_cast<int32_t>(inputs[r * stride]));
      unroll<kColumns>([&](auto c) INLINED { sums[r][c] = dot_pairs(sums[r][c], input, pairs[c]); });
    });
  }
}

// Scores of `count` keys from `first` on.
inline void score_pairs(const BfloatRoom& room, int64_t first, int64_t count, const BfloatTile& tile) {
  constexpr int rows = BfloatTile::kRows;
  const bool last = first + count == room.count;
  for (int64_t j = 0; j < count; j += kPanelKeys) {
    Floats sums[rows][kColumns];
    unroll<kColumns>([&](auto c) INLINED {
      const Floats start = last ? load(room.starts + j + c * kLanes) : all(0);
      unroll<rows>([&](auto r) INLINED { sums[r][c] = start; });
    });
    accumulate_pairs<rows, 1>(sums, tile.queries, room.keys + (first + j) * room.wide / 2, kPanelKeys, room.wide / 2);
    unroll<rows>([&](auto r) INLINED {
      unroll<kColumns>([&](auto c) INLINED { store(room.scores + r * kScores + j + c * kLanes, sums[r][c]); });
    });
  }
}

// Scores become weights, and the running maxima and sums are brought up to date. factor: of the logits, by log₂ e.
inline void weigh_pairs(BfloatRoom& room, int64_t count, float factor, BfloatTile& tile) {
  for (int r = 0; r < BfloatTile::kRows; r++) {
    const float* scores = room.scores + r * kScores;
    Floats highest = all(kAbsent);
    for (int64_t j = 0; j < count; j += kLanes) highest = larger(highest, load(scores + j));
    const float own = largest(highest) * factor, peak = own > tile.peak[r] ? own : tile.peak[r];
    room.kept[r] = std::exp2(tile.peak[r] - peak);
    tile.peak[r] = peak;
    Floats sums = all(0);
    for (int64_t j = 0; j < count; j += 2 * kLanes) {
      Floats weights[2];
      unroll<2>([&](auto i) INLINED {
        const Floats below = multiply_add(load(scores + j + i * kLanes), all(factor), all(-peak));
        weights[i] = power_of_two(below);
        sums = add(sums, weights[i]);
      });
      store_ints(room.weights + r * kPairs + j / 2, in_order(weights[0], weights[1]));
    }
    tile.sum[r] = tile.sum[r] * room.kept[r] + sum(sums);
  }
}

// outputs = outputs · kept + weights · values.
inline void average_pairs(const BfloatRoom& room, int64_t first, int64_t count, const BfloatTile& tile) {
  constexpr int rows = BfloatTile::kRows;
  for (int64_t d = 0; d < room.wide; d += kPanelKeys) {
    Floats sums[rows][kColumns];
    float* outputs = tile.outputs + d;
    unroll<rows>([&](auto r) INLINED {
      const Floats kept = all(room.kept[r]);
      unroll<kColumns>([&](auto c)
                           INLINED { sums[r][c] = multiply(load(outputs + r * room.wide + c * kLanes), kept); });
    });
    accumulate_pairs<1, kPairs>(sums, room.weights, room.values + first / 2 * room.wide + d, room.wide, count / 2);
    unroll<rows>([&](auto r) INLINED {
      unroll<kColumns>([&](auto c) INLINED { store(outputs + r * room.wide + c * kLanes, sums[r][c]); });
    });
  }
}

// Kernels::bfloat_attention.
inline bool attend_bfloat(const VggtqAttention& call, QueryShare share, Scratch& scratch) {
  constexpr int64_t rows = BfloatTile::kRows;
  BfloatRoom room = lay_out<BfloatRoom>(scratch, call);
  if (room.keys == nullptr) return false;
  pack_pairs(call, share, room);
  const HeadRows queries(call, call.queries, call.query_strides, share);
  const int64_t start = share.batch * call.output_strides[0] + share.head * call.output_strides[1];
  for (int64_t group = share.first; group < share.last; group += kGroupTiles * rows) {
    const int64_t tiles = (least(kGroupTiles * rows, share.last - group) + rows - 1) / rows;
    for (int64_t i = 0; i < tiles; i++) start_tile(queries, group + i * rows, share.last, room, room.tiles[i]);
    for (int64_t first = 0; first < room.count; first += kBlockKeys) {
      const int64_t count = least(kBlockKeys, room.count - first);
      for (int64_t i = 0; i < tiles; i++) {
        score_pairs(room, first, count, room.tiles[i]);
        weigh_pairs(room, count, call.scale * 1.44269504f, room.tiles[i]);
        average_pairs(room, first, count, room.tiles[i]);
      }
    }
    for (int64_t query = group; query < least(group + tiles * rows, share.last); query++) {
      const int64_t r = (query - group) % rows;
      const BfloatTile& tile = room.tiles[(query - group) / rows];
      float* output = tile.outputs + r * room.wide;
      const Floats inverse = all(1 / tile.sum[r]);
      for (int64_t i = 0; i < room.wide; i += kLanes) store(output + i, multiply(load(output + i), inverse));
      write_row(output, call.output_type, call.width, call.outputs, start + query * call.output_strides[2]);
    }
  }
  return true;
}

}  // namespace

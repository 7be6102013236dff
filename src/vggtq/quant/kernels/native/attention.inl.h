// softmax(q kᵀ · scale) v, both products of integers. Needs what packed_head.inl.h needs, and dot_at.
//
// A block of keys after the other with running maxima (FlashAttention, arXiv 2205.14135, algorithm 1). Queries have a
// scale each. Weights, relative to the largest of their query in the block, become 0 … 255; their sum is that of the
// codes.
#pragma once
#include "packed_head.inl.h"

namespace {

constexpr float kLargestWeight = 7.9943534f;  // log₂ 255

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

inline bool attend(const VggtqAttention& call, QueryShare share, Scratch& scratch) {
  constexpr int rows = kAttentionRows;
  AttentionRoom room = lay_out<AttentionRoom>(scratch, call);
  const PackedHead& head = room.head;
  if (head.keys == nullptr) return false;
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
      write_row(output, call.output_type, call.width, call.outputs, start + (query + r) * call.output_strides[2]);
    }
  }
  return true;
}

}  // namespace

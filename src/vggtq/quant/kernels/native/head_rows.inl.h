// Tokens of one head: read as float32, written in the type of the call. Needs one of vectors_*.h.
#pragma once
#include "inputs.inl.h"
#include "kernels.h"

namespace {

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

}  // namespace

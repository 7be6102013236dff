// What each instruction set offers, and what its kernels are given.
#pragma once
#include <cstddef>
#include <cstdint>

#include "interface.h"

// Tokens and panels of one thread's share: first … last - 1.
struct Share {
  int64_t first_token, last_token, first_panel, last_panel;
};

// Scale and zero point that a token's inputs are rounded with, and where their codes end.
struct InputNumbers {
  float scale;
  int32_t zero;
  int32_t smallest, largest;
};

struct Range {
  float low, high;  // widened to contain zero
  bool finite;
};

// Half of the codes that the product takes, which is subtracted from them.
inline int32_t middle_of(int32_t input_bits) { return 1 << (input_bits - 1); }

// Memory for a thread's codes, kept from call to call: fresh pages cost as much as filling them.
struct Scratch {
  void* memory = nullptr;
  size_t bytes = 0;
  // At least this much, on a 64-byte boundary; null if it is not to be had.
  uint8_t* reserve(size_t wanted);
  ~Scratch();
};

// One thread's share of an attention: queries first … last - 1 of a head of a batch.
struct QueryShare {
  int64_t batch, head, first, last;
};

// Where the windows of a convolution lie in maps of codes, one for each step of the stride, row by row: position
// (y, x) of map (i, j) is the input's (y · stride + i, x · stride + j) behind its padding.
struct Windows {
  int64_t map_width, halo_rows, halo_columns;  // beyond a band's rows and a row's outputs
  int64_t steps;                               // of four channels
  int64_t taps;                                // places in a window

  explicit Windows(const VggtqConvolution& call)
      : halo_rows(reach(call, 0) / call.stride[0]),
        halo_columns(reach(call, 1) / call.stride[1]),
        steps((call.channels + 3) / 4),
        taps(call.kernel[0] * call.kernel[1]) {
    map_width = call.output_size[1] + halo_columns;
  }
  static int64_t reach(const VggtqConvolution& call, int axis) { return (call.kernel[axis] - 1) * call.dilation[axis]; }
  int64_t phase(const VggtqConvolution& call, int64_t dy, int64_t dx) const {
    return dy * call.dilation[0] % call.stride[0] * call.stride[1] + dx * call.dilation[1] % call.stride[1];
  }
  int64_t offset(const VggtqConvolution& call, int64_t dy, int64_t dx) const {
    return dy * call.dilation[0] / call.stride[0] * map_width + dx * call.dilation[1] / call.stride[1];
  }
};

// Rows first … last - 1 of an image's outputs.
struct Band {
  const Windows& windows;
  int64_t image, first_row, last_row;
};

struct Kernels {
  const char* name;
  int32_t lanes, panel;
  int32_t tile_tokens;  // a multiple of the tokens of every product's tile
  int32_t (*weight_bits)(int32_t weight_bits, bool symmetric);
  int32_t (*input_bits)(int32_t weight_bits, bool symmetric);
  // Of all inputs of these tokens; false without memory.
  bool (*range)(const VggtqCall& call, int64_t first_token, int64_t last_token, Scratch& scratch, Range& range);
  // shared: the numbers of all tokens, null where each has its own. False without memory.
  bool (*linear)(const VggtqCall& call, const InputNumbers* shared, Share share, size_t cache_bytes, Scratch& scratch);
  bool (*float_linear)(const VggtqCall& call, Share share, Scratch& scratch);
  // Null without instructions for it.
  bool (*bfloat_linear)(const VggtqCall& call, Share share, size_t cache_bytes, Scratch& scratch);
  // Of integers. False without memory.
  bool (*attention)(const VggtqAttention& call, QueryShare share, Scratch& scratch);
  // Null without instructions for it.
  bool (*bfloat_attention)(const VggtqAttention& call, QueryShare share, Scratch& scratch);
  // Of tokens first … last - 1 of all batches.
  void (*rotate)(const VggtqRotation& call, int64_t first, int64_t last);
  // numbers: of the image, null where each pixel has its own. False without memory.
  bool (*convolve)(const VggtqConvolution& call, const Band& band, const InputNumbers* numbers, Scratch& scratch);
  Range (*image_range)(const VggtqConvolution& call, int64_t image);
};

extern const Kernels kPortable;
#ifdef VGGTQ_X86
extern const Kernels kAvx2, kAvxVnni, kAvx512Vnni;
#endif

// Those of the instruction set in use.
const Kernels& kernels_in_use();
// Of the L2 cache.
size_t cache_bytes();
// Of the calling thread.
Scratch& own_scratch();
// The pages of outputs that are large are asked for as large ones.
void prefer_large_pages(void* outputs, int64_t bytes);

// Numbers from the range of what they are to cover.
// Symmetric ones have their zero in the middle of the codes that the product takes.
InputNumbers symmetric_numbers(float largest, bool finite, int32_t bits, float clip, int32_t middle);
InputNumbers affine_numbers(Range range, int32_t bits);

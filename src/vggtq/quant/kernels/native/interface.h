// The C interface of the library, as vggtq/machine/native.py calls it.
#pragma once
#include <cstdint>

#define VGGTQ_API __attribute__((visibility("default")))

extern "C" {

enum VggtqType : int32_t {
  VGGTQ_FLOAT32 = 0,
  VGGTQ_BFLOAT16 = 1,
  VGGTQ_FLOAT16 = 2,
  // Of scales only: a power of two by its exponent + 127, a positive float of 8 bits, an integer of 1 … 15.
  VGGTQ_E8M0 = 3,
  VGGTQ_E4M3 = 4,
  VGGTQ_INTEGER = 5
};

// How inputs are rounded: x ≈ scale · (code - zero).
enum VggtqRounding : int32_t {
  VGGTQ_TOKEN_SYMMETRIC = 0,   // a scale per token from its largest |x|
  VGGTQ_TOKEN_AFFINE = 1,      // scale and zero point per token from its minimum and maximum
  VGGTQ_TENSOR_SYMMETRIC = 2,  // the same for all tokens of a call
  VGGTQ_TENSOR_AFFINE = 3,
  VGGTQ_FIXED = 4,       // known before; what lies beyond the codes saturates
  VGGTQ_NONE = 5,        // weights become float32 instead
  VGGTQ_IN_BFLOAT16 = 6  // inputs and weights become bfloat16, sums are float32; where vggtq_multiplies_bfloat16
};

// A weight of `rows` outputs × `columns` inputs in panels of P = columns-of-a-tile outputs; G groups of a row share a
// scale. Inputs are padded to a multiple of 32, which belongs to the last group, outputs to one of P; padding has the
// value zero.
struct VggtqWeight {
  const uint8_t* codes;  // [panels][padded columns / 32][P / lanes units of bits · lanes · 4 bytes], see layout.py; or
                         // 16-bit floats, [panels][padded columns][P], of scale_type and without scales
  const void* scales;    // [panels][G][P]
  const float* channel_scales;  // [panels][P], by which scales are multiplied, or null
  const uint8_t* zeros;         // [panels][G][P] of asymmetric codes, else null
  const int32_t* sums;          // [panels][P]: Σ of an output's codes as multiplied; null with scales within sums
  const float* weighted_sums;   // [panels][P]: Σ weight of an output, where such scales meet inputs with zero points
  const float* table;           // values of 4-bit codes, where they are no integers; inputs are floats then
  int64_t rows, columns;
  int32_t bits;   // 2 … 8 or 16; 8-bit codes are stored less 128, the others as they are
  int32_t group;  // inputs that share a scale, a multiple of 16; 0: all of them
  VggtqType scale_type;
};

// What comes before and behind a product, all of it optional; for float32 and inputs that need no padding.
struct VggtqAround {
  const float *norm_weight, *norm_bias;  // [columns]: inputs go through LayerNorm first
  float epsilon;                         // of LayerNorm
  int32_t gelu;                          // outputs go through the exact GELU
  const float* gamma;                    // [rows], by which outputs are multiplied then (LayerScale)
  const float* residual;                 // [tokens][rows], which is added at the end
};

struct VggtqCall {
  const VggtqWeight* weight;
  const void* inputs;  // [tokens][columns], contiguous
  const float* bias;   // [rows] or null
  void* outputs;       // [tokens][rows], contiguous, of the inputs' type
  int64_t tokens;
  VggtqType type;
  VggtqRounding rounding;
  int32_t bits;      // of the inputs' codes, 2 … 8
  float clip;        // symmetric, not FIXED: the codes reach to this share of the largest |x|
  float scale;       // FIXED
  int32_t zero;      // FIXED
  int32_t smallest;  // FIXED: codes that are left out below, 0 or 1
  int32_t threads;
  const VggtqAround* around;  // or null
};

// A convolution of float32 images, whose pixels have their channels next to each other, with integer weights. Inputs of
// all windows are rounded once: every pixel with a scale of its own (TOKEN_SYMMETRIC), or every image with one scale
// and, but for TENSOR_SYMMETRIC, a zero point. Sizes and steps are [rows, columns].
struct VggtqConvolution {
  const int8_t*
      codes;  // [panels][taps][padded channels / 4][P][4]: taps of the kernel row by row, channels padded to 4
  const int32_t* sums;    // [panels][taps][P]: Σ codes
  const float* scales;    // [panels][P]
  const float* bias;      // [outputs] or null
  const float* inputs;    // [images][size][channels]
  const float* residual;  // [images][output size][outputs], which is added at the end, or null
  float* outputs;         // [images][output size][outputs]
  int64_t images, channels, outputs_count;
  int64_t size[2], output_size[2];
  int64_t kernel[2], stride[2], padding[2], dilation[2];
  VggtqRounding rounding;
  int32_t bits;        // of the inputs' codes, 2 … 8
  int32_t input_bits;  // which products with these weights keep exact (vggtq_input_bits); no more are used
  float clip;          // symmetric, not FIXED
  float scale;         // FIXED, as in VggtqCall; codes have no more than input_bits
  int32_t zero, smallest;
  int32_t positive_inputs, positive_residual, positive_outputs;  // these go through ReLU
  int32_t threads;
};

// softmax(q kᵀ · scale) v with products of integers, or of bfloat16 with float32 sums. Number i of token t of head h of
// batch b lies at b · strides[0] + h · strides[1] + t · strides[2] + i.
struct VggtqAttention {
  const void *queries, *keys, *values;
  void* outputs;
  int64_t query_strides[3], key_strides[3], value_strides[3], output_strides[3];
  int64_t batch, heads, query_tokens, key_tokens;
  int64_t width;   // of a head
  VggtqType type;  // of queries, keys and values
  VggtqType output_type;
  float scale;
  int32_t in_bfloat16;  // where vggtq_attends_in_bfloat16
  int32_t threads;
};

// LayerNorm of each head of queries and keys, then rotary angles, in place: within each group of a head's channels,
// those of the first half turn with those of the second (models/vggt/positions.py).
struct VggtqRotation {
  float* numbers;                      // [batch · tokens][3][heads][width]: queries, keys, values
  const float *query_norm, *key_norm;  // [2][width], weight and bias, or null
  float query_epsilon, key_epsilon;
  const float *cosines, *sines;                 // [tokens][width] or null
  int64_t batch, tokens, heads, width, groups;  // width: a multiple of 2 · groups vectors
  int32_t threads;
};

// Changes with everything below, so that Python refuses a library of other sources.
VGGTQ_API int32_t vggtq_interface();
// Whether CPU and system support an instruction set: 0 portable, 1 avx2, 2 avx_vnni, 3 avx512_vnni, 4 avx512_bf16,
// 5 amx.
VGGTQ_API int32_t vggtq_supports(int32_t level);
// Uses this instruction set from now on; returns 0, or 1 if it is not built in or not supported.
VGGTQ_API int32_t vggtq_use_level(int32_t level);
// Vectors' lanes of 32 bits, and the outputs P of a panel, of the instruction set in use.
VGGTQ_API int32_t vggtq_lanes();
VGGTQ_API int32_t vggtq_panel();
// Bits that the codes of such weights are rounded to in vggtq_linear's products with rounded inputs, on the instruction
// set in use: 7 of 8 where products of more would saturate, halves to the even code, else all of them.
VGGTQ_API int32_t vggtq_weight_bits(int32_t weight_bits, int32_t symmetric);
// Bits of inputs' codes that products with weights of so many bits keep exact, 7 or 8, on the instruction set in use.
VGGTQ_API int32_t vggtq_input_bits(int32_t weight_bits, int32_t symmetric);
// Whether the instruction set in use takes VGGTQ_IN_BFLOAT16.
VGGTQ_API int32_t vggtq_multiplies_bfloat16();
// Whether it takes VggtqAttention::in_bfloat16.
VGGTQ_API int32_t vggtq_attends_in_bfloat16();
// GOMP_parallel of the OpenMP runtime whose threads are to be used; without it there is one thread.
VGGTQ_API void vggtq_use_threads(void* gomp_parallel);
// outputs = inputs · weightᵀ + bias. Returns 0, or 1 where memory for the codes was not to be had.
VGGTQ_API int32_t vggtq_linear(const VggtqCall* call);
// Returns 0, or 1 where memory for the codes was not to be had.
VGGTQ_API int32_t vggtq_attention(const VggtqAttention* call);
// Returns 0, or 1 where memory for the codes was not to be had.
VGGTQ_API int32_t vggtq_convolve(const VggtqConvolution* call);
VGGTQ_API void vggtq_rotate(const VggtqRotation* call);
}  // extern "C"

// A panel of packed codes becomes signed bytes in the order of the product, with the scales and sums of its groups.
// Needs one of vectors_*.h, inputs.inl.h, kColumns, kScalesInProduct: whether products apply integer scales, and
// kSevenBits: whether symmetric codes of 8 bits are rounded to 7 on the way.
#pragma once

#include "kernels.h"

namespace {

constexpr int kVectorBytes = 4 * kLanes;
constexpr int kPanel = kColumns * kLanes;  // outputs
constexpr int kUnit = 32 / kColumns;       // inputs of eight vectors

// Inputs that share a scale. Made once for many uses: a division takes as long as a group's products.
struct Groups {
  int64_t size, count, columns;

  explicit Groups(const VggtqWeight& weight) : columns(padded(weight.columns, kBlock)) {
    size = weight.group ? weight.group : columns;
    count = (weight.columns + size - 1) / size;
  }
  // Behind the last input of a group; padding belongs to the last one.
  INLINE int64_t end(int64_t g) const { return g + 1 == count ? columns : (g + 1) * size; }
};

// Where a panel is unpacked to.
struct UnpackedPanel {
  int8_t* codes;         // [padded columns / 4][kPanel][4]
  int32_t* starts;       // [groups][kPanel]: what a group's sums start from, -middle · Σ code
  float* scales;         // [groups][kPanel]
  int32_t* offsets;      // [groups][kPanel]: zero point - 128 of asymmetric 8-bit codes
  int32_t* multipliers;  // [groups][kPanel]: integer scales, twice in each 32 bits

  UnpackedPanel() = default;
  UnpackedPanel(const VggtqWeight& weight, Parts& parts) {
    const Groups groups(weight);
    codes = parts.take<int8_t>(kPanel * groups.columns);
    starts = parts.take<int32_t>(groups.count * kPanel);
    scales = parts.take<float>(groups.count * kPanel);
    offsets = parts.take<int32_t>(groups.count * kPanel);
    multipliers = parts.take<int32_t>(groups.count * kPanel);
  }
};

// Whether sums are exact over all groups: their scales are integers.
INLINE bool has_integer_scales(const VggtqWeight& weight) { return weight.scale_type == VGGTQ_INTEGER; }

// The i-th of eight vectors of codes. Their bits are kept in fields of 4, 2 and 1: a field of w bits takes w vectors,
// the i-th vector's field being in the (i·w/8)-th of them, i mod (8/w) fields from the lowest bit.
template <int bits, int i>
INLINE Ints stored_codes(const uint8_t* unit) {
  Ints codes = all_ints(0);
  int before = 0;
  unroll<3>([&](auto field) {
    constexpr int width = 4 >> field;
    if constexpr ((bits & width) != 0) {
      constexpr int low = bits & (width - 1);  // the fields below this one
      const Ints packed = load_ints(unit + (before + i * width / 8) * kVectorBytes);
      const Ints mask = all_ints(((1 << width) - 1) * 0x01010101);
      const Ints part = and_ints(shift_right16<i % (8 / width) * width>(packed), mask);
      codes = or_ints(codes, shift_left16<low>(part));
      before += width;
    }
  });
  return codes;
}

inline int32_t product_weight_bits(int32_t bits, bool symmetric) {
  return kSevenBits && bits == 8 && symmetric ? 7 : bits;
}

// Whether a weight's codes are halved for the product, and its scales doubled.
INLINE bool halves(const VggtqWeight& weight) {
  return product_weight_bits(weight.bits, weight.zeros == nullptr) < weight.bits;
}

// Signed bytes / 2, rounded to the nearest, halves to the even one.
INLINE Ints halved(Ints bytes) {
  const Ints one = all_ints(0x01010101), sign = all_ints(static_cast<int32_t>(0x80808080u));
  const Ints shifted = and_ints(shift_right16<1>(xor_ints(bytes, sign)), all_ints(0x7f7f7f7f));
  const Ints below = subtract_bytes(shifted, all_ints(0x40404040));
  const Ints up = and_ints(and_ints(bytes, below), one);
  return subtract_bytes(below, subtract_bytes(all_ints(0), up));
}

// half: whether codes of 8 bits are halved.
template <int bits>
INLINE void unpack_group(const uint8_t*& packed, int64_t columns, const Ints (&zero)[kColumns], bool half,
                         int8_t*& codes, Ints (&sums)[kColumns]) {
  const Ints ones = all_ints(0x01010101);
  for (int64_t unit = 0; unit < columns / kUnit; unit++) {
    unroll<8>([&](auto i) {
      constexpr int column = i % kColumns;
      Ints values;
      if constexpr (bits == 8) {
        values = load_ints(packed + i * kVectorBytes);
        if (kSevenBits && half) values = halved(values);
      } else {
        values = subtract_bytes(stored_codes<bits, i>(packed), zero[column]);
      }
      sums[column] = dot_bytes(sums[column], ones, values);
      store_ints(codes + i * kVectorBytes, values);
    });
    packed += bits * kVectorBytes;
    codes += 8 * kVectorBytes;
  }
}

// Codes first … last of a group times its integer scales; at most 7 · 15, so that they stay bytes.
inline void scale_group(const int32_t* multipliers, int8_t* first, const int8_t* last) {
  Ints scale[kColumns];
  unroll<kColumns>([&](auto c) { scale[c] = load_ints(multipliers + c * kLanes); });
  for (int8_t* codes = first; codes < last; codes += kColumns * kVectorBytes) {
    unroll<kColumns>([&](auto c) {
      int8_t* vector = codes + c * kVectorBytes;
      store_ints(vector, multiply_bytes(load_ints(vector), scale[c]));
    });
  }
}

INLINE Floats load_scales(const VggtqWeight& weight, int64_t index) {
  const uint8_t* bytes = static_cast<const uint8_t*>(weight.scales) + index;
  switch (weight.scale_type) {
    case VGGTQ_FLOAT32: return load(static_cast<const float*>(weight.scales) + index);
    case VGGTQ_E8M0:  // into a float's exponent; the smallest, 2^-127, is subnormal
      return floats_of(larger_ints(shift_left32<23>(bytes_to_ints(bytes)), all_ints(1 << 22)));
    case VGGTQ_E4M3:  // into a float's exponent and mantissa; a product moves the bias of exponents from 7 to 127
      return multiply(floats_of(shift_left32<20>(bytes_to_ints(bytes))), all(0x1p120f));
    case VGGTQ_INTEGER: return to_floats(bytes_to_ints(bytes));
    default: return load_float16(static_cast<const uint16_t*>(weight.scales) + index);
  }
}

// Sums of a group's codes become what its products start from. Those of integer scales go through all groups.
INLINE void finish_group(const VggtqWeight& weight, const Groups& groups, int64_t panel, int64_t g, int32_t middle,
                         const Ints (&sums)[kColumns], const UnpackedPanel& out) {
  unroll<kColumns>([&](auto c) {
    const int64_t column = c * kLanes, at = g * kPanel + column, stored = panel * groups.count * kPanel + at;
    Ints start = multiply_ints(sums[c], all_ints(-middle));
    if (has_integer_scales(weight)) {
      const Ints scale = bytes_to_ints(static_cast<const uint8_t*>(weight.scales) + stored);
      store_ints(out.multipliers + at, multiply_ints(scale, all_ints(0x10001)));
      start = multiply_ints(start, scale);
      store_ints(out.starts + column, g == 0 ? start : add_ints(start, load_ints(out.starts + column)));
      if (g == 0) store(out.scales + column, load(weight.channel_scales + panel * kPanel + column));
      return;
    }
    store_ints(out.starts + at, start);
    const Floats scale = load_scales(weight, stored);
    store(out.scales + at, halves(weight) ? add(scale, scale) : scale);
    if (weight.bits == 8 && weight.zeros) {
      store_ints(out.offsets + at, add_ints(bytes_to_ints(weight.zeros + stored), all_ints(-128)));
    }
  });
}

template <int bits>
void unpack_panel(const VggtqWeight& weight, int64_t panel, int32_t middle, UnpackedPanel out) {
  const Groups groups(weight);
  const uint8_t* packed = weight.codes + panel * groups.columns * kPanel / 8 * bits;
  int8_t* codes = out.codes;
  for (int64_t g = 0; g < groups.count; g++) {
    Ints zero[kColumns], sums[kColumns];
    unroll<kColumns>([&](auto c) {
      sums[c] = all_ints(0);
      zero[c] = all_ints(static_cast<int32_t>((1u << (bits - 1)) * 0x01010101u));
      if (weight.zeros != nullptr) {
        const Ints one = bytes_to_ints(weight.zeros + (panel * groups.count + g) * kPanel + c * kLanes);
        zero[c] = multiply_ints(one, all_ints(0x01010101));
      }
    });
    int8_t* start = codes;
    unpack_group<bits>(packed, groups.end(g) - g * groups.size, zero, halves(weight), codes, sums);
    finish_group(weight, groups, panel, g, middle, sums, out);
    if (!kScalesInProduct && has_integer_scales(weight)) scale_group(out.multipliers + g * kPanel, start, codes);
  }
}

inline void unpack_any(const VggtqWeight& weight, int64_t panel, int32_t middle, UnpackedPanel out) {
  switch (weight.bits) {
    case 2: return unpack_panel<2>(weight, panel, middle, out);
    case 3: return unpack_panel<3>(weight, panel, middle, out);
    case 4: return unpack_panel<4>(weight, panel, middle, out);
    case 5: return unpack_panel<5>(weight, panel, middle, out);
    case 6: return unpack_panel<6>(weight, panel, middle, out);
    case 7: return unpack_panel<7>(weight, panel, middle, out);
    default: return unpack_panel<8>(weight, panel, middle, out);
  }
}

}  // namespace

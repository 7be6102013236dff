// Convolutions without a copy of their windows. Needs one of vectors_*.h, dot_at, kColumns and kConvolutionRows.
//
// A band of an image becomes codes once: a map for each step of the stride, [channels / 4][positions][4 channels],
// whose rows are as wide as the outputs need them. Outputs next to each other then read codes next to each other
// whatever the place in their window, so that each place is a product of its own with the same codes, further on.
#pragma once
#include <cstring>
#include <limits>

#include "inputs.inl.h"
#include "kernels.h"

namespace {

// Where the first output finds its code and the code's scale at one place of the window.
struct Tap {
  int64_t codes, scales;
};

// The maps of a band in a thread's scratch memory, and the starts of sums.
struct BandMaps {
  uint32_t* codes;  // [steps of the stride][padded channels / 4][plane]
  float* scales;    // [steps of the stride][plane], where every pixel has its own
  float* factors;   // [map width]: reciprocals of a row's scales
  int32_t* starts;  // [taps][kPanel]
  Tap* taps;        // found once: divisions take as long as the products of a place
  int64_t plane, planes, phases;

  BandMaps(const VggtqConvolution& call, const Band& band, Parts& parts) {
    const Windows& windows = band.windows;
    phases = call.stride[0] * call.stride[1], planes = padded(call.channels, 16) / 4;
    const int64_t positions = (band.last_row - band.first_row + windows.halo_rows) * windows.map_width;
    // Tiles may reach beyond the last output. Planes an odd number of cache lines apart do not share a cache set.
    plane = padded(positions + windows.halo_columns + kConvolutionRows, 16);
    plane += plane / 16 % 2 == 0 ? 16 : 0;
    codes = parts.take<uint32_t>(phases * planes * plane);
    scales = parts.take<float>(phases * plane), factors = parts.take<float>(windows.map_width);
    starts = parts.take<int32_t>(windows.taps * kPanel);
    taps = parts.take<Tap>(windows.taps);
    if (taps == nullptr) return;
    for (int64_t dy = 0, tap = 0; dy < call.kernel[0]; dy++) {
      for (int64_t dx = 0; dx < call.kernel[1]; dx++, tap++) {
        const int64_t phase = windows.phase(call, dy, dx), offset = windows.offset(call, dy, dx);
        taps[tap] = {phase * planes * plane + offset, phase * plane + offset};
      }
    }
  }
};

// Channels k … k + kLanes - 1 of a pixel, zeros behind the last one; none is below `least_value`.
INLINE Floats channels_of(const float* pixel, int64_t k, int64_t count, Floats least_value) {
  const int64_t left = count - k;
  if (left >= kLanes) return larger(least_value, load(pixel + k));
  return left > 0 ? larger(least_value, load_part(pixel + k, left)) : all(0);
}

INLINE Floats least_input(const VggtqConvolution& call) {
  return all(call.positive_inputs ? 0 : -std::numeric_limits<float>::infinity());
}

// The scales of `count` pixels, as symmetric_numbers gives them, many at once. factors: their reciprocals, 0 for NaN.
INLINE void scale_pixels(const VggtqConvolution& call, const float* pixels, int64_t apart, int64_t count, float* scales,
                         float* factors) {
  const Floats least_value = least_input(call);
  const Ints magnitude = all_ints(0x7fffffff);
  for (int64_t x = 0; x < count; x++) {
    Ints peak = all_ints(0);
    for (int64_t k = 0; k < call.channels; k += kLanes) {
      const Floats numbers = channels_of(pixels + x * apart, k, call.channels, least_value);
      peak = larger_ints(peak, and_ints(magnitude, bits_of(numbers)));
    }
    const int32_t largest = largest_int(peak);
    std::memcpy(scales + x, &largest, sizeof largest);
  }
  const int32_t bits = static_cast<int32_t>(least(call.bits, call.input_bits));
  const Floats end = all(static_cast<float>((1 << (bits - 1)) - 1)), clip = all(call.clip);
  for (int64_t x = 0; x < count; x += kLanes) {
    const Floats peak = load_part(scales + x, least(kLanes, count - x));
    const Floats scale = multiply(larger(divide(peak, end), all(std::numeric_limits<float>::min())), clip);
    float found[kLanes], inverse[kLanes];
    store(found, scale), store(inverse, divide(all(1), scale));
    for (int64_t i = 0; i < kLanes && x + i < count; i++) {
      const bool finite = scales[x + i] <= std::numeric_limits<float>::max();
      scales[x + i] = finite ? found[i] : std::numeric_limits<float>::quiet_NaN();
      factors[x + i] = finite ? inverse[i] : 0;
    }
  }
}

// Where codes end, as in Coding.
struct Limits {
  Floats low, high, least_value;
  Ints zero;
  Limits(const VggtqConvolution& call, const InputNumbers& n)
      : low(all(static_cast<float>(n.smallest - n.zero))),
        high(all(static_cast<float>(n.largest - n.zero))),
        least_value(least_input(call)),
        zero(all_ints(n.zero)) {}
};

INLINE Bytes16 code_channels(const float* pixel, int64_t k, int64_t count, const Limits& limits, float factor) {
  Ints codes[16 / kLanes];
  unroll<16 / kLanes>([&](auto i) {
    const Floats numbers = channels_of(pixel, k + i * kLanes, count, limits.least_value);
    const Floats scaled = multiply(numbers, all(factor));
    codes[i] = add_ints(round_to_ints(smaller(larger(scaled, limits.low), limits.high)), limits.zero);
  });
  return narrow16(codes);
}

// `count` pixels in a row become codes at out[channels / 4 · plane].
INLINE void code_pixels(const VggtqConvolution& call, const Limits& limits, const float* factors, const float* pixels,
                        int64_t apart, int64_t count, const BandMaps& maps, uint32_t* out) {
  const int stride = static_cast<int>(maps.plane);
  for (int64_t x = 0; x < count; x++) {
    const float* pixel = pixels + x * apart;
    const bool pair = x + 1 < count;
    uint32_t* to = out + x;
    for (int64_t k = 0; k < call.channels; k += 16, to += 4 * maps.plane) {
      const Bytes16 code = code_channels(pixel, k, call.channels, limits, factors[x]);
      if (pair) {
        store_pair(code, code_channels(pixel + apart, k, call.channels, limits, factors[x + 1]), to, stride);
      } else {
        store_single(code, to, stride);
      }
    }
    x += pair;
  }
}

// The pixels of a map's row that the image has: first … last - 1 of `width` in steps of a stride behind `before`.
struct Run {
  int64_t first, last;
  Run(int64_t before, int64_t stride, int64_t size, int64_t width)
      : first(before >= 0 ? 0 : (-before + stride - 1) / stride),
        last(size > before ? least((size - before + stride - 1) / stride, width) : 0) {}
};

inline void code_phase(const VggtqConvolution& call, const Band& band, const InputNumbers* numbers, int64_t py,
                       int64_t px, const BandMaps& maps) {
  const int32_t middle = middle_of(call.input_bits), bits = static_cast<int32_t>(least(call.bits, call.input_bits));
  const int64_t width = band.windows.map_width, phase = py * call.stride[1] + px;
  const int64_t apart = call.stride[1] * call.channels, left = px - call.padding[1];
  const Run run(left, call.stride[1], call.size[1], width);
  const InputNumbers known = numbers ? *numbers : symmetric_numbers(1, true, bits, 1, middle);
  const Limits limits(call, known);
  for (int64_t y = 0; y < band.last_row - band.first_row + band.windows.halo_rows && run.first < run.last; y++) {
    const int64_t row = (band.first_row + y) * call.stride[0] + py - call.padding[0];
    if (row < 0 || row >= call.size[0]) continue;
    const int64_t start = (band.image * call.size[0] + row) * call.size[1] + left, at = y * width + run.first;
    const float* pixels = call.inputs + (start + run.first * call.stride[1]) * call.channels;
    const int64_t count = run.last - run.first;
    if (numbers == nullptr) {
      scale_pixels(call, pixels, apart, count, maps.scales + phase * maps.plane + at, maps.factors);
    }
    code_pixels(call, limits, maps.factors, pixels, apart, count, maps,
                maps.codes + phase * maps.planes * maps.plane + at);
  }
}

// All pixels that the band's windows see, and the padding around them.
inline void code_band(const VggtqConvolution& call, const Band& band, const InputNumbers* numbers,
                      const BandMaps& maps) {
  const int32_t zero = numbers ? numbers->zero : middle_of(call.input_bits);
  std::memset(maps.codes, zero, static_cast<size_t>(maps.phases * maps.planes * maps.plane) * 4);
  std::memset(maps.scales, 0, static_cast<size_t>(maps.phases * maps.plane) * 4);
  const float factor = numbers && numbers->scale == numbers->scale ? 1 / numbers->scale : 0;
  for (int64_t x = 0; x < band.windows.map_width; x++) maps.factors[x] = factor;
  for (int64_t py = 0; py < call.stride[0]; py++) {
    for (int64_t px = 0; px < call.stride[1]; px++) code_phase(call, band, numbers, py, px, maps);
  }
}

// A panel of outputs: what their sums start from, and what becomes of them.
struct OutputPanel {
  const VggtqConvolution& call;
  const Band& band;
  const BandMaps& maps;
  const float* scales;
  const int8_t* codes;
  alignas(64) float bias[kPanel];
  int64_t first, outputs;
  const InputNumbers* numbers;  // of the image, or null

  OutputPanel(const VggtqConvolution& of, const Band& in, const BandMaps& with, const InputNumbers* shared,
              int64_t number)
      : call(of), band(in), maps(with), scales(of.scales + number * kPanel), first(number * kPanel), numbers(shared) {
    const int64_t taps = band.windows.taps;
    outputs = least(kPanel, call.outputs_count - first);
    codes = call.codes + number * taps * band.windows.steps * 4 * kPanel;
    for (int i = 0; i < kPanel; i++) bias[i] = call.bias && i < outputs ? call.bias[first + i] : 0;
    const Ints zero = all_ints(numbers ? -numbers->zero : -middle_of(call.input_bits));
    const int32_t* sums = call.sums + number * taps * kPanel;
    for (int64_t i = 0; i < taps * kPanel; i += kLanes) {
      const Ints start = multiply_ints(load_ints(sums + i), zero);
      const int64_t at = numbers ? i % kPanel : i;  // where all taps share a scale, they share their sums
      store_ints(maps.starts + at, numbers && i >= kPanel ? add_ints(start, load_ints(maps.starts + at)) : start);
    }
  }

  template <int columns>
  INLINE void write(const float* totals, int64_t pixel) const {
    Floats y[columns];
    const Floats of_image = all(numbers ? numbers->scale : 1);
    float part[kPanel];
    const int64_t start = pixel * call.outputs_count + first;
    const bool whole = outputs >= columns * kLanes;
    unroll<columns>([&](auto c) {
      const Floats value = multiply(load(totals + c * kLanes), load(scales + c * kLanes));
      y[c] = multiply_add(value, of_image, load(bias + c * kLanes));
    });
    if (call.residual) {
      const float* residual = call.residual + start;
      if (!whole) {
        for (int i = 0; i < columns * kLanes; i++) part[i] = i < outputs ? residual[i] : 0;
        residual = part;
      }
      unroll<columns>([&](auto c) {
        const Floats r = load(residual + c * kLanes);
        y[c] = add(y[c], call.positive_residual ? larger(all(0), r) : r);
      });
    }
    if (call.positive_outputs) unroll<columns>([&](auto c) { y[c] = larger(all(0), y[c]); });
    float* out = whole ? call.outputs + start : part;
    unroll<columns>([&](auto c) { store(out + c * kLanes, y[c]); });
    if (!whole) std::memcpy(call.outputs + start, part, static_cast<size_t>(outputs) * sizeof(float));
  }
};

// sums[r][c] += Σ over `steps` steps of four channels, whose codes lie `plane` apart.
template <int rows, int columns>
INLINE void accumulate_plane(Ints (&sums)[rows][columns], const uint32_t* inputs, int64_t plane, const int8_t* codes,
                             int64_t steps) {
  for (int64_t k = 0; k < steps; k++, inputs += plane, codes += 4 * kPanel) {
    unroll<rows>([&](auto r) INLINED {
      const Ints input = all_ints(static_cast<int32_t>(inputs[r]));
      unroll<columns>([&](auto c) INLINED { sums[r][c] = dot_at(sums[r][c], input, codes + c * 4 * kLanes); });
    });
  }
}

// Sums of outputs from `position` of the map on; exact over all taps where they share a scale, else over each.
template <int columns, bool shared>
INLINE void multiply_windows(const OutputPanel& panel, int64_t position, float (&totals)[kConvolutionRows][kPanel]) {
  constexpr int rows = kConvolutionRows;
  const BandMaps& maps = panel.maps;
  const Windows& windows = panel.band.windows;
  const int8_t* codes = panel.codes;
  Ints sums[rows][columns];
  const auto start = [&](int64_t tap) INLINED {
    unroll<columns>([&](auto c) INLINED {
      const Ints first = load_ints(maps.starts + tap * kPanel + c * kLanes);
      unroll<rows>([&](auto r) INLINED { sums[r][c] = first; });
    });
  };
  if constexpr (shared) start(0);
  for (int64_t tap = 0; tap < windows.taps; tap++, codes += windows.steps * 4 * kPanel) {
    if constexpr (!shared) start(tap);
    const Tap at = maps.taps[tap];
    accumulate_plane(sums, maps.codes + at.codes + position, maps.plane, codes, windows.steps);
    if constexpr (!shared) {
      const float* scales = maps.scales + at.scales + position;
      unroll<rows>([&](auto r) INLINED {
        const Floats scale = all(scales[r]);
        unroll<columns>([&](auto c) INLINED {
          float* total = &totals[r][c * kLanes];
          const Floats value = to_floats(sums[r][c]);
          store(total, tap ? multiply_add(value, scale, load(total)) : multiply(value, scale));
        });
      });
    }
  }
  if constexpr (shared) {
    unroll<rows>([&](auto r) INLINED {
      unroll<columns>([&](auto c) INLINED { store(&totals[r][c * kLanes], to_floats(sums[r][c])); });
    });
  }
}

template <int columns, bool shared>
void multiply_panel(const OutputPanel& panel) {
  const VggtqConvolution& call = panel.call;
  const int64_t width = panel.band.windows.map_width, rows = panel.band.last_row - panel.band.first_row;
  alignas(64) float totals[kConvolutionRows][kPanel];
  int64_t y = 0, x = 0;
  for (int64_t position = 0; position < rows * width; position += kConvolutionRows) {
    multiply_windows<columns, shared>(panel, position, totals);
    for (int r = 0; r < kConvolutionRows && y < rows; r++) {
      const int64_t row = panel.band.image * call.output_size[0] + panel.band.first_row + y;
      if (x < call.output_size[1]) panel.template write<columns>(totals[r], row * call.output_size[1] + x);
      if (++x == width) y++, x = 0;
    }
  }
}

inline bool convolve_band(const VggtqConvolution& call, const Band& band, const InputNumbers* numbers,
                          Scratch& scratch) {
  const auto maps = lay_out<BandMaps>(scratch, call, band);
  if (maps.codes == nullptr) return false;
  code_band(call, band, numbers, maps);
  for (int64_t number = 0; number * kPanel < call.outputs_count; number++) {
    const OutputPanel panel(call, band, maps, numbers, number);
    const bool half = panel.outputs <= kLanes;
    if (numbers) {
      half ? multiply_panel<1, true>(panel) : multiply_panel<kColumns, true>(panel);
    } else {
      half ? multiply_panel<1, false>(panel) : multiply_panel<kColumns, false>(panel);
    }
  }
  return true;
}

// The range of an image's numbers, widened to contain zero.
inline Range range_of_image(const VggtqConvolution& call, int64_t image) {
  const int64_t count = call.size[0] * call.size[1] * call.channels, step = 2 * kLanes, whole = count / step * step;
  const float* numbers = call.inputs + image * count;
  Range range = row_range(numbers, whole);
  float rest[2 * kLanes] = {};
  for (int64_t k = whole; k < count; k++) rest[k - whole] = numbers[k];
  const Range last = row_range(rest, step);
  range.low = call.positive_inputs ? 0 : (last.low < range.low ? last.low : range.low);
  range.high = last.high > range.high ? last.high : range.high;
  range.finite = range.finite && last.finite;
  return range;
}

}  // namespace

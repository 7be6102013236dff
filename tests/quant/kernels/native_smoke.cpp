// Small products, attention and rotations by every instruction set of the library on this CPU, against plain loops in
// float64. For compilers and CPUs on which the Python tests do not run; exits with 1 where a result is wrong.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "interface.h"

namespace {

constexpr int64_t kTokens = 7, kRows = 19, kColumns = 64;
constexpr const char* kLevels[] = {"portable", "avx2", "avx_vnni", "avx512_vnni", "amx"};

bool failed = false;

void report(const char* level, const char* what, double error, double allowed) {
  const bool right = error <= allowed;  // NaN is wrong
  std::printf("%s, %s: off by %g%s\n", level, what, error, right ? "" : ", WRONG");
  failed = failed || !right;
}

// Whole numbers from -most to most, always the same.
struct Numbers {
  uint32_t state = 1;
  int32_t next(int32_t most) {
    state = state * 1664525u + 1013904223u;
    return static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(2 * most + 1)) - most;
  }
};

double farthest(const std::vector<double>& wanted, const std::vector<float>& found) {
  double error = 0;
  for (size_t i = 0; i < wanted.size(); i++) {
    const double own = std::fabs(wanted[i] - static_cast<double>(found[i]));
    error = own <= error ? error : own;
  }
  return error;
}

// Integer weights of `bits` (4 or 8) bits with a scale of ¼, ½ or 1 per group; group 0 is the whole row.
struct Weights {
  int32_t bits, group;
  std::vector<int32_t> values = std::vector<int32_t>(kRows * kColumns);
  std::vector<float> scales;
  std::vector<uint8_t> codes;
  std::vector<float> panel_scales;
  std::vector<int32_t> sums;

  Weights(int32_t own_bits, int32_t own_group) : bits(own_bits), group(own_group) {
    Numbers numbers;
    const int32_t most = (1 << (bits - 1)) - 1;
    for (int32_t& value : values) value = numbers.next(most);
    values[0] = most, values[1] = -most;
    scales.resize(static_cast<size_t>(kRows * groups()));
    for (float& scale : scales) scale = std::ldexp(1.0f, numbers.next(1) - 1);
    lay_out(vggtq_lanes(), vggtq_panel());
  }

  int64_t groups() const { return group ? kColumns / group : 1; }
  float scale(int64_t row, int64_t column) const {
    return scales[static_cast<size_t>(row * groups() + (group ? column / group : 0))];
  }
  int32_t value(int64_t row, int64_t column) const {
    return row < kRows ? values[static_cast<size_t>(row * kColumns + column)] : 0;
  }

  // How much more a step of the codes is worth that products with rounded inputs take.
  int32_t product_step() const { return 1 << (bits - vggtq_weight_bits(bits, 1)); }
  int32_t product_value(int64_t row, int64_t column) const {
    const double step = product_step();
    return static_cast<int32_t>(std::nearbyint(value(row, column) / step));
  }

  // As vggtq/quant/kernels/native/layout.py does.
  void lay_out(int64_t lanes, int64_t panel) {
    const int64_t padded_rows = (kRows + panel - 1) / panel * panel;
    std::vector<uint8_t> bytes;
    for (int64_t first = 0; first < padded_rows; first += panel)
      for (int64_t column = 0; column < kColumns; column += 4)
        for (int64_t row = first; row < first + panel; row++)
          for (int64_t c = column; c < column + 4; c++)
            bytes.push_back(static_cast<uint8_t>(value(row, c) + (bits == 4 ? 8 : 0)));
    codes = bits == 8 ? bytes : nibbles(bytes, 4 * lanes);
    panel_scales.assign(static_cast<size_t>(padded_rows * groups()), 0);
    sums.assign(static_cast<size_t>(padded_rows), 0);
    for (int64_t row = 0; row < kRows; row++) {
      for (int64_t g = 0; g < groups(); g++) {
        const int64_t at = (row / panel * groups() + g) * panel + row % panel;
        panel_scales[static_cast<size_t>(at)] = scales[static_cast<size_t>(row * groups() + g)];
      }
      for (int64_t c = 0; c < kColumns; c++) sums[static_cast<size_t>(row)] += product_value(row, c);
    }
  }

  static std::vector<uint8_t> nibbles(const std::vector<uint8_t>& bytes, int64_t vector) {
    std::vector<uint8_t> packed;
    for (size_t pair = 0; pair < bytes.size(); pair += static_cast<size_t>(2 * vector)) {
      for (size_t i = pair; i < pair + static_cast<size_t>(vector); i++) {
        packed.push_back(static_cast<uint8_t>(bytes[i] | bytes[i + static_cast<size_t>(vector)] << 4));
      }
    }
    return packed;
  }

  VggtqWeight view(bool rounded) const {
    VggtqWeight weight{};
    weight.codes = codes.data(), weight.scales = panel_scales.data();
    weight.sums = rounded && group == 0 ? sums.data() : nullptr;
    weight.rows = kRows, weight.columns = kColumns;
    weight.bits = bits, weight.group = group;
    return weight;
  }
};

uint16_t to_bfloat16(float x) {  // to the nearest, ties to even
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

float from_bfloat16(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

void check_linear(const char* level, int32_t bits, int32_t group, VggtqRounding rounding, VggtqType type) {
  const Weights weights(bits, group);
  const VggtqWeight weight = weights.view(rounding != VGGTQ_NONE);
  const int32_t input_bits = vggtq_input_bits(vggtq_weight_bits(bits, 1), 1), most = (1 << (input_bits - 1)) - 1;
  Numbers numbers;
  std::vector<float> x(kTokens * kColumns), bias(kRows), found(kTokens * kRows);
  for (float& number : x) number = static_cast<float>(numbers.next(most));
  for (int64_t t = 0; t < kTokens; t++) x[static_cast<size_t>(t * kColumns)] = static_cast<float>(most);
  for (float& number : bias) number = static_cast<float>(numbers.next(9));
  std::vector<uint16_t> narrow_x, narrow_out(found.size());
  for (const float number : x) narrow_x.push_back(to_bfloat16(number));

  const bool narrow = type == VGGTQ_BFLOAT16;
  VggtqCall call{};
  call.weight = &weight, call.bias = bias.data(), call.tokens = kTokens, call.type = type;
  call.inputs = narrow ? static_cast<const void*>(narrow_x.data()) : x.data();
  call.outputs = narrow ? static_cast<void*>(narrow_out.data()) : found.data();
  call.rounding = rounding, call.bits = input_bits, call.clip = 1, call.threads = 1;
  const bool done = vggtq_linear(&call) == 0;
  for (size_t i = 0; narrow && i < found.size(); i++) found[i] = from_bfloat16(narrow_out[i]);

  std::vector<double> wanted;
  for (int64_t t = 0; t < kTokens; t++) {
    for (int64_t row = 0; row < kRows; row++) {
      double sum = static_cast<double>(bias[static_cast<size_t>(row)]);
      for (int64_t c = 0; c < kColumns; c++) {
        const int32_t value =
            rounding == VGGTQ_NONE ? weights.value(row, c) : weights.product_step() * weights.product_value(row, c);
        const double w = static_cast<double>(weights.scale(row, c)) * value;
        sum += static_cast<double>(x[static_cast<size_t>(t * kColumns + c)]) * w;
      }
      const float exact = static_cast<float>(sum);  // whole numbers and quarters: float32 holds the sum
      wanted.push_back(static_cast<double>(narrow ? from_bfloat16(to_bfloat16(exact)) : exact));
    }
  }
  char what[80];
  std::snprintf(what, sizeof what, "linear of %d bits, group %d, rounding %d, type %d", bits, group, rounding, type);
  report(level, what, done ? farthest(wanted, found) : NAN, 0);
}

void check_attention(const char* level) {
  constexpr int64_t width = 20, asking = 15, answering = 70;
  Numbers numbers;
  std::vector<float> q(asking * width), k(answering * width), v(answering * width), found(asking * width);
  for (std::vector<float>* each : {&q, &k, &v})
    for (float& number : *each) number = static_cast<float>(numbers.next(100)) / 50;
  VggtqAttention call{};
  call.queries = q.data(), call.keys = k.data(), call.values = v.data(), call.outputs = found.data();
  for (int64_t* strides : {call.query_strides, call.key_strides, call.value_strides, call.output_strides})
    strides[2] = width;
  call.batch = call.heads = 1, call.query_tokens = asking, call.key_tokens = answering, call.width = width;
  call.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(width))), call.threads = 1;
  const bool done = vggtq_attention(&call) == 0;

  std::vector<double> wanted(found.size());
  for (int64_t t = 0; t < asking; t++) {
    double sum = 0;
    for (int64_t key = 0; key < answering; key++) {
      double logit = 0;
      for (int64_t i = 0; i < width; i++) {
        logit += static_cast<double>(q[static_cast<size_t>(t * width + i)] * k[static_cast<size_t>(key * width + i)]);
      }
      const double share = std::exp(logit * static_cast<double>(call.scale));
      sum += share;
      for (int64_t i = 0; i < width; i++) {
        wanted[static_cast<size_t>(t * width + i)] +=
            share * static_cast<double>(v[static_cast<size_t>(key * width + i)]);
      }
    }
    for (int64_t i = 0; i < width; i++) wanted[static_cast<size_t>(t * width + i)] /= sum;
  }
  report(level, "attention", done ? farthest(wanted, found) : NAN, 0.1);
}

void check_rotation(const char* level) {
  constexpr int64_t tokens = 5, heads = 2, width = 64;
  Numbers numbers;
  std::vector<float> x(tokens * 3 * heads * width), norm(2 * width, 1), cosines(tokens * width), sines(cosines.size());
  for (float& number : x) number = static_cast<float>(numbers.next(100)) / 50;
  for (size_t i = 0; i < sines.size(); i++) {
    const double angle = static_cast<double>(i) / 7;
    cosines[i] = static_cast<float>(std::cos(angle)), sines[i] = static_cast<float>(std::sin(angle));
  }
  for (size_t i = width; i < norm.size(); i++) norm[i] = 0.5f;
  std::vector<double> wanted;
  for (int64_t row = 0; row < tokens * 3 * heads; row++) {
    const float* own = x.data() + row * width;
    const float *cosine = cosines.data() + row / (3 * heads) * width, *sine = sines.data() + row / (3 * heads) * width;
    const bool value = row % (3 * heads) >= 2 * heads;
    double mean = 0, variance = 1e-5;
    for (int64_t i = 0; i < width; i++) mean += static_cast<double>(own[i]) / width;
    for (int64_t i = 0; i < width; i++) variance += std::pow(static_cast<double>(own[i]) - mean, 2) / width;
    const auto normal = [&](int64_t i) { return (static_cast<double>(own[i]) - mean) / std::sqrt(variance) + 0.5; };
    for (int64_t i = 0; i < width; i++) {
      const double turned = i < width / 2 ? -normal(i + width / 2) : normal(i - width / 2);
      const double whole = normal(i) * static_cast<double>(cosine[i]) + turned * static_cast<double>(sine[i]);
      wanted.push_back(value ? static_cast<double>(own[i]) : whole);
    }
  }
  VggtqRotation call{};
  call.numbers = x.data(), call.query_norm = call.key_norm = norm.data();
  call.query_epsilon = call.key_epsilon = 1e-5f, call.cosines = cosines.data(), call.sines = sines.data();
  call.batch = 1, call.tokens = tokens, call.heads = heads, call.width = width, call.groups = 1, call.threads = 1;
  vggtq_rotate(&call);
  report(level, "rotation", farthest(wanted, x), 1e-5);
}

void check_level(int32_t level) {
  const char* name = kLevels[level];
  if (vggtq_use_level(level) != 0) {
    std::printf("%s: not on this CPU\n", name);
    return;
  }
  for (const VggtqRounding rounding : {VGGTQ_TOKEN_SYMMETRIC, VGGTQ_TENSOR_SYMMETRIC, VGGTQ_NONE})
    for (const VggtqType type : {VGGTQ_FLOAT32, VGGTQ_BFLOAT16})
      for (const int32_t bits : {4, 8})
        for (const int32_t group : {0, 32}) check_linear(name, bits, group, rounding, type);
  check_attention(name);
  check_rotation(name);
}

}  // namespace

int main() {
  for (int32_t level = 0; level < 5; level++) check_level(level);
  return failed ? 1 : 0;
}

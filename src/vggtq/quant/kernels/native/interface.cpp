// Which kernels are used, and how a product is shared among threads.
#include "interface.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <vector>

#include "kernels.h"
#include "levels.h"
#include "threads.h"

namespace {

std::atomic<const Kernels*> kernels{&kPortable};

constexpr float kTiny = std::numeric_limits<float>::min();
constexpr size_t kUnknownCache = 512 << 10;

constexpr int64_t kFewestTokens = 96;  // of a share, so that a panel is worth unpacking

struct Product {
  const VggtqCall& call;
  const Kernels& kernels;
  const InputNumbers* shared;
  int64_t by_tokens, by_panels;  // shares
  std::vector<Range>& ranges;
  std::atomic<bool> failed{false};

  int64_t panels() const { return (call.weight->rows + kernels.panel - 1) / kernels.panel; }

  Share share(int32_t number) const {
    const int64_t t = number / by_panels, p = number % by_panels, step = (call.tokens + by_tokens - 1) / by_tokens;
    const int64_t tile = kernels.tile_tokens, even = (step + tile - 1) / tile * tile;
    const int64_t first = even * t < call.tokens ? even * t : call.tokens;
    const int64_t last = even * (t + 1) < call.tokens ? even * (t + 1) : call.tokens;
    return {first, last, panels() * p / by_panels, panels() * (p + 1) / by_panels};
  }
};

void multiply_share(void* context, int32_t number) {
  Product& product = *static_cast<Product*>(context);
  const Share share = product.share(number);
  if (share.first_token >= share.last_token || share.first_panel >= share.last_panel) return;
  const VggtqCall& call = product.call;
  const Kernels& own = product.kernels;
  bool done;
  if (call.rounding == VGGTQ_NONE) {
    done = own.float_linear(call, share, own_scratch());
  } else if (call.rounding == VGGTQ_IN_BFLOAT16) {
    done = own.bfloat_linear(call, share, cache_bytes(), own_scratch());
  } else {
    done = own.linear(call, product.shared, share, cache_bytes(), own_scratch());
  }
  if (!done) product.failed = true;
}

void range_share(void* context, int32_t number) {
  Product& product = *static_cast<Product*>(context);
  const int64_t count = static_cast<int64_t>(product.ranges.size()), tokens = product.call.tokens;
  const int64_t first = tokens * number / count, last = tokens * (number + 1) / count;
  Range& range = product.ranges[static_cast<size_t>(number)];
  if (!product.kernels.range(product.call, first, last, own_scratch(), range)) product.failed = true;
}

// Of the inputs' codes, at most.
int32_t input_bits(const Product& product) {
  const VggtqWeight& weight = *product.call.weight;
  const bool symmetric = weight.zeros == nullptr;
  return product.kernels.input_bits(product.kernels.weight_bits(weight.bits, symmetric), symmetric);
}

// The numbers of a whole call.
InputNumbers numbers_of_tensor(Product& product) {
  const VggtqCall& call = product.call;
  in_parallel(static_cast<int32_t>(product.ranges.size()), call.threads, range_share, &product);
  Range all{0, 0, true};
  for (const Range& range : product.ranges) {
    all.low = std::fmin(all.low, range.low);
    all.high = std::fmax(all.high, range.high);
    all.finite = all.finite && range.finite;
  }
  const int32_t most = input_bits(product);
  const int32_t bits = call.bits < most ? call.bits : most;
  if (call.rounding == VGGTQ_TENSOR_AFFINE) return affine_numbers(all, bits);
  return symmetric_numbers(std::fmax(-all.low, all.high), all.finite, bits, call.clip, middle_of(most));
}

// The same numbers with their zero in the middle of the product's codes, if all of them fit: nothing has to be
// corrected then.
InputNumbers centered(InputNumbers numbers, int32_t middle) {
  const int32_t shift = middle - numbers.zero;
  if (numbers.smallest + shift < 0 || numbers.largest + shift >= 2 * middle) return numbers;
  return {numbers.scale, middle, numbers.smallest + shift, numbers.largest + shift};
}

}  // namespace

const Kernels& kernels_in_use() { return *kernels.load(); }

size_t cache_bytes() {
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const long found = sysconf(_SC_LEVEL2_CACHE_SIZE);
  return found > 0 ? static_cast<size_t>(found) : kUnknownCache;
#else
  return kUnknownCache;
#endif
}

Scratch& own_scratch() {
  thread_local Scratch scratch;
  return scratch;
}

// Outputs of many MB lie in pages that nobody has touched yet; large pages are far fewer to be made on the first store.
void prefer_large_pages([[maybe_unused]] void* outputs, [[maybe_unused]] int64_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr uintptr_t kLargePage = 2 << 20;
  const uintptr_t start = reinterpret_cast<uintptr_t>(outputs);
  const uintptr_t first = (start + kLargePage - 1) / kLargePage * kLargePage;
  const uintptr_t last = (start + static_cast<uintptr_t>(bytes)) / kLargePage * kLargePage;
  if (last >= first + 4 * kLargePage) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

uint8_t* Scratch::reserve(size_t wanted) {
  if (bytes < wanted) {
    std::free(memory);
    bytes = 0;
    const size_t rounded = (wanted + 4095) / 4096 * 4096;
    memory = std::aligned_alloc(4096, rounded);
    if (memory) bytes = rounded;
  }
  return static_cast<uint8_t*>(memory);
}

Scratch::~Scratch() { std::free(memory); }

InputNumbers symmetric_numbers(float largest, bool finite, int32_t bits, float clip, int32_t middle) {
  const int32_t end = (1 << (bits - 1)) - 1;
  const float scale = std::fmax(largest / static_cast<float>(end), kTiny) * clip;
  return {finite ? scale : std::numeric_limits<float>::quiet_NaN(), middle, middle - end, middle + end};
}

InputNumbers affine_numbers(Range range, int32_t bits) {
  // One code is left unused, so that rounding the zero point cannot overflow.
  const float scale = std::fmax((range.high - range.low) / static_cast<float>((1 << bits) - 2), kTiny);
  const int32_t largest = (1 << bits) - 1;
  if (!range.finite || !std::isfinite(scale)) return {std::numeric_limits<float>::quiet_NaN(), 0, 0, largest};
  return {scale, static_cast<int32_t>(std::nearbyint(-range.low / scale)), 0, largest};
}

int32_t vggtq_interface() { return 9; }

int32_t vggtq_supports(int32_t level) { return supported(level); }

int32_t vggtq_use_level(int32_t level) {
  if (!vggtq_supports(level)) return 1;
  kernels = kernels_of(level);
  return 0;
}

int32_t vggtq_lanes() { return kernels.load()->lanes; }

int32_t vggtq_panel() { return kernels.load()->panel; }

int32_t vggtq_weight_bits(int32_t weight_bits, int32_t symmetric) {
  return kernels.load()->weight_bits(weight_bits, symmetric != 0);
}

int32_t vggtq_input_bits(int32_t weight_bits, int32_t symmetric) {
  return kernels.load()->input_bits(weight_bits, symmetric != 0);
}

int32_t vggtq_multiplies_bfloat16() { return kernels.load()->bfloat_linear != nullptr; }

int32_t vggtq_attends_in_bfloat16() { return kernels.load()->bfloat_attention != nullptr; }

void vggtq_use_threads(void* gomp_parallel) { use_threads(gomp_parallel); }

int32_t vggtq_linear(const VggtqCall* call) {
  if (call->tokens == 0 || call->weight->rows == 0) return 0;
  prefer_large_pages(call->outputs, call->tokens * call->weight->rows * (call->type == VGGTQ_FLOAT32 ? 4 : 2));
  const int64_t threads = call->threads > 1 ? call->threads : 1;
  std::vector<Range> ranges(static_cast<size_t>(threads < call->tokens ? threads : call->tokens));
  Product product{*call, *kernels.load(), nullptr, 1, 1, ranges};
  InputNumbers shared{call->scale, call->zero, call->smallest, (1 << call->bits) - 1};
  if (call->rounding == VGGTQ_TENSOR_SYMMETRIC || call->rounding == VGGTQ_TENSOR_AFFINE) {
    shared = numbers_of_tensor(product);
  }
  if (call->rounding >= VGGTQ_TENSOR_SYMMETRIC && call->rounding < VGGTQ_NONE) {
    shared = centered(shared, middle_of(input_bits(product)));
    product.shared = &shared;
  }
  // Tokens are shared out first: only where they are few does each thread code all of them for panels of its own.
  product.by_tokens = call->tokens >= kFewestTokens * threads ? threads : 1;
  product.by_panels = product.by_tokens == 1 ? std::min(threads, product.panels()) : 1;
  in_parallel(static_cast<int32_t>(product.by_tokens * product.by_panels), static_cast<int32_t>(threads),
              multiply_share, &product);
  return product.failed ? 1 : 0;
}

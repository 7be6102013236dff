// How a convolution is shared among threads, and the numbers of its images.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <vector>

#include "interface.h"
#include "kernels.h"
#include "threads.h"

namespace {

struct Convolution {
  const VggtqConvolution& call;
  const Kernels& kernels;
  Windows windows;
  int64_t bands;                      // of an image
  std::vector<InputNumbers> numbers;  // of images, or none
  std::atomic<bool> failed{false};
};

// The codes of a band fill half of the L2 cache, with the rows around it that its windows see; there are enough bands
// for all threads.
int64_t bands_of(const VggtqConvolution& call, const Windows& windows) {
  const int64_t row_bytes = (call.channels + 15) / 16 * 16 * call.stride[0] * call.stride[1] * windows.map_width;
  const int64_t fitting = static_cast<int64_t>(cache_bytes()) / 2 / row_bytes - windows.halo_rows;
  const int64_t rows = std::clamp<int64_t>(fitting, 1, call.output_size[0]);
  const int64_t for_threads = (std::max(call.threads, 1) + call.images - 1) / call.images;
  return std::clamp<int64_t>((call.output_size[0] + rows - 1) / rows, for_threads,
                             std::max(call.output_size[0], for_threads));
}

void number_image(void* context, int32_t image) {
  Convolution& convolution = *static_cast<Convolution*>(context);
  const VggtqConvolution& call = convolution.call;
  const int32_t bits = std::min(call.bits, call.input_bits);
  const Range range = convolution.kernels.image_range(call, image);
  InputNumbers& numbers = convolution.numbers[static_cast<size_t>(image)];
  if (call.rounding == VGGTQ_FIXED) {
    const float scale = range.finite ? call.scale : std::numeric_limits<float>::quiet_NaN();
    numbers = {scale, call.zero, call.smallest, (1 << call.bits) - 1};
  } else if (call.rounding == VGGTQ_TENSOR_SYMMETRIC) {
    const float largest = std::fmax(-range.low, range.high);
    numbers = symmetric_numbers(largest, range.finite, bits, call.clip, middle_of(call.input_bits));
  } else {
    numbers = affine_numbers(range, bits);
  }
}

void convolve_share(void* context, int32_t number) {
  Convolution& convolution = *static_cast<Convolution*>(context);
  const int64_t rows = convolution.call.output_size[0], image = number / convolution.bands;
  const int64_t part = number % convolution.bands;
  const Band band{convolution.windows, image, rows * part / convolution.bands, rows * (part + 1) / convolution.bands};
  if (band.first_row == band.last_row) return;
  const InputNumbers* numbers =
      convolution.numbers.empty() ? nullptr : &convolution.numbers[static_cast<size_t>(image)];
  if (!convolution.kernels.convolve(convolution.call, band, numbers, own_scratch())) convolution.failed = true;
}

}  // namespace

int32_t vggtq_convolve(const VggtqConvolution* call) {
  if (call->images * call->output_size[0] * call->output_size[1] * call->outputs_count == 0) return 0;
  const int32_t threads = std::max(call->threads, 1), images = static_cast<int32_t>(call->images);
  Convolution convolution{*call, kernels_in_use(), Windows(*call), 1, {}};
  convolution.bands = bands_of(*call, convolution.windows);
  prefer_large_pages(call->outputs,
                     call->images * call->output_size[0] * call->output_size[1] * call->outputs_count * 4);
  if (call->rounding != VGGTQ_TOKEN_SYMMETRIC) {
    convolution.numbers.resize(static_cast<size_t>(images));
    in_parallel(images, threads, number_image, &convolution);
  }
  in_parallel(static_cast<int32_t>(images * convolution.bands), threads, convolve_share, &convolution);
  return convolution.failed ? 1 : 0;
}

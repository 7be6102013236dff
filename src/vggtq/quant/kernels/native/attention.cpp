// How attention, and what prepares its inputs, is shared among threads.
#include <algorithm>
#include <atomic>

#include "interface.h"
#include "kernels.h"
#include "threads.h"

namespace {

constexpr int64_t kFewestQueries = 256;  // of a share: each packs the keys and values of its head anew

struct Attention {
  const VggtqAttention& call;
  const Kernels& kernels;
  int64_t parts;  // of a head's queries
  std::atomic<bool> failed{false};
};

void attend_share(void* context, int32_t number) {
  Attention& attention = *static_cast<Attention*>(context);
  const VggtqAttention& call = attention.call;
  const int64_t head = number / attention.parts, part = number % attention.parts;
  const QueryShare share{head / call.heads, head % call.heads, call.query_tokens * part / attention.parts,
                         call.query_tokens * (part + 1) / attention.parts};
  const Kernels& own = attention.kernels;
  const auto attend = call.in_bfloat16 ? own.bfloat_attention : own.attention;
  if (!attend(call, share, own_scratch())) attention.failed = true;
}

struct Rotation {
  const VggtqRotation& call;
  const Kernels& kernels;
  int64_t parts;
};

void rotate_share(void* context, int32_t number) {
  const Rotation& rotation = *static_cast<Rotation*>(context);
  const int64_t tokens = rotation.call.batch * rotation.call.tokens;
  rotation.kernels.rotate(rotation.call, tokens * number / rotation.parts, tokens * (number + 1) / rotation.parts);
}

}  // namespace

void vggtq_rotate(const VggtqRotation* call) {
  const int64_t threads = std::max(call->threads, 1);
  Rotation rotation{*call, kernels_in_use(), std::min(threads, call->batch * call->tokens)};
  in_parallel(static_cast<int32_t>(rotation.parts), static_cast<int32_t>(threads), rotate_share, &rotation);
}

int32_t vggtq_attention(const VggtqAttention* call) {
  const int64_t heads = call->batch * call->heads, threads = std::max(call->threads, 1);
  if (heads == 0 || call->query_tokens == 0 || call->width == 0) return 0;
  prefer_large_pages(call->outputs,
                     heads * call->query_tokens * call->width * (call->output_type == VGGTQ_FLOAT32 ? 4 : 2));
  // Several shares for each thread even out what heads do not.
  const int64_t wanted = threads == 1 ? 1 : (4 * threads + heads - 1) / heads;
  const int64_t parts = std::clamp<int64_t>(call->query_tokens / kFewestQueries, 1, wanted);
  Attention attention{*call, kernels_in_use(), parts};
  in_parallel(static_cast<int32_t>(heads * parts), static_cast<int32_t>(threads), attend_share, &attention);
  return attention.failed ? 1 : 0;
}

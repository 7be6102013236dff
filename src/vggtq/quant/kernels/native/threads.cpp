#include "threads.h"

#include <pthread.h>

#include <atomic>

namespace {

using GompParallel = void (*)(void (*)(void*), void*, unsigned, unsigned);

std::atomic<GompParallel> parallel{nullptr};

void forget_threads() { parallel = nullptr; }

struct Job {
  void (*work)(void*, int32_t);
  void* context;
  int32_t shares;
  std::atomic<int32_t> next{0};
};

// Teams may be smaller than asked for, so that nobody has a share of their own.
void take_shares(void* data) {
  Job& job = *static_cast<Job*>(data);
  for (int32_t i = job.next++; i < job.shares; i = job.next++) job.work(job.context, i);
}

}  // namespace

void use_threads(void* gomp_parallel) {
  static const int registered = pthread_atfork(nullptr, nullptr, forget_threads);
  (void)registered;
  parallel = reinterpret_cast<GompParallel>(gomp_parallel);
}

void in_parallel(int32_t shares, int32_t threads, void (*work)(void*, int32_t), void* context) {
  Job job{work, context, shares};
  const GompParallel team = parallel;
  if (team == nullptr || threads < 2 || shares < 2) return take_shares(&job);
  team(take_shares, &job, static_cast<unsigned>(threads < shares ? threads : shares), 0);
}

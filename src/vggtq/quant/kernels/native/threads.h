// Threads of an OpenMP runtime that the process has already, torch's: a second runtime would compete for the same
// cores.
#pragma once
#include <cstdint>

void use_threads(void* gomp_parallel);

// work(context, 0), … work(context, shares - 1), on up to so many threads at once; on the caller's alone where there is
// no runtime, and in children of fork(), which do not inherit its threads.
void in_parallel(int32_t shares, int32_t threads, void (*work)(void*, int32_t), void* context);

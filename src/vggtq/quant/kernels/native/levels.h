// The instruction sets by their numbers in interface.h.
#pragma once
#include <cstdint>

#include "kernels.h"

// Whether the library has kernels for it, and CPU and system support it.
bool supported(int32_t level);
// Of a supported one.
const Kernels* kernels_of(int32_t level);

#pragma once

#include "kernels/cuda/options.h"
#include "kernels/tensor.h"

namespace spectrain::emulator {

// c[16,16] = a[16,16] . b[16,16] (or . b^T), a and b of one 16-bit dtype, by one warp on the emulated device
// as a kernel does it: copied to shared memory asynchronously, loaded as matrices, multiplied as fragments.
void multiply_fragments(const Tensor& a, const Tensor& b, bool transposed, const Tensor& c);

// Pairs of numbers as kernels round them: out[n], bf16 or f16, from x[n] f32.
void round_in_pairs(const Tensor& x, const Tensor& out);

// 16 elements copied asynchronously to shared memory and read there, `groups_open` groups (0 or 1) before the
// copy has certainly come: 1 must not see them.
void read_after_copy(const Tensor& x, int groups_open, const Tensor& out);

}  // namespace spectrain::emulator

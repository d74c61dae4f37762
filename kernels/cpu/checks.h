#pragma once

#include <concepts>
#include <string_view>

#include "kernels/tensor.h"

// Checks of what a caller hands to a kernel. Each throws std::logic_error naming the kernel, the tensor and
// what is wrong with it: such a mistake is ours, not the user's.

namespace spectrain {

void require(bool ok, std::string_view kernel, std::string_view what);
// A message with numbers in it is made only when it is needed: a replayed step allocates nothing.
template <std::invocable Message>
void require(bool ok, std::string_view kernel, const Message& message) {
  if (!ok) require(false, kernel, std::string_view(message()));
}
// f32 or bf16 with memory behind it.
void require_compute(const Tensor& t, std::string_view kernel, std::string_view name);
void require_same(const Tensor& a, const Tensor& b, std::string_view kernel,
                  std::string_view what);  // dtype, numel
// A tensor of exactly n elements of this dtype, or an empty one where that is allowed.
void require_vector(const Tensor& t, DType dtype, std::int64_t n, bool may_be_empty, std::string_view kernel,
                    std::string_view name);

}  // namespace spectrain

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace spectrain {

// Memory that a stage (matrix_rule.h) works in: a list of buffers, which says in one place what a plan counts
// and what is allocated.
struct StageBuffer {
  std::int64_t numbers;  // 0: not needed
  DType dtype;
  const char* name;
};

class StageMemory {
 public:
  static std::size_t bytes(std::span<const StageBuffer> wanted) {
    std::size_t sum = 0;
    for (const StageBuffer& b : wanted) sum += static_cast<std::size_t>(b.numbers) * size_of(b.dtype);
    return sum;
  }
  void allocate(Backend& backend, std::span<const StageBuffer> wanted) {
    wanted_.assign(wanted.begin(), wanted.end());
    buffers_.clear();
    for (const StageBuffer& b : wanted)
      buffers_.push_back(
          b.numbers > 0 ? backend.allocate(static_cast<std::size_t>(b.numbers) * size_of(b.dtype), b.name)
                        : nullptr);
  }
  // The beginning of the buffer at that place in the list. Throws std::logic_error when it is too small.
  Tensor view(std::size_t which, const Shape& shape) const {
    return buffers_.at(which) ? buffers_[which]->view(wanted_[which].dtype, shape) : Tensor{};
  }

 private:
  std::vector<StageBuffer> wanted_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
};

// Number i of a vector, as [1].
inline Tensor one_of(const Tensor& vector, std::int64_t i) {
  return {static_cast<std::byte*>(vector.data) + static_cast<std::size_t>(i) * size_of(vector.dtype),
          vector.dtype,
          {1}};
}
// Row i of x [B, n], as a vector [n].
inline Tensor row_of(const Tensor& x, std::int64_t i) { return x.slice_rows(i, 1).reshaped({x.cols()}); }

// The distance from 1 to the next number.
inline double spacing(DType dtype) { return dtype == DType::f64 ? 0x1p-52 : 0x1p-23; }

}  // namespace spectrain

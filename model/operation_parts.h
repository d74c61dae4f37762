#pragma once

#include <fmt/format.h>

#include <string>
#include <string_view>
#include <vector>

#include "model/operation.h"

// What operations made of several kernels share.

namespace spectrain {

inline DType master_of(DType compute) { return compute == DType::f64 ? DType::f64 : DType::f32; }

// Throws std::logic_error naming the operation and its inputs' shapes.
inline void require_fit(bool fits, std::string_view operation, const std::vector<Shape>& in) {
  if (fits) return;
  std::string shapes;
  for (const Shape& s : in) shapes += " " + s.str();
  throw std::logic_error(fmt::format("{}: inputs{} do not fit", operation, shapes));
}

// Pieces of an operation's workspace, one after the other, each from a whole cache line on.
class Pieces {
 public:
  explicit Pieces(const Run& r) : next_(static_cast<std::byte*>(r.workspace.data)) {}
  static std::size_t room(std::size_t bytes) { return (bytes + 63) / 64 * 64; }
  Tensor take(DType dtype, Shape shape) {
    const Tensor t{next_, dtype, shape};
    next_ += room(t.bytes());
    return t;
  }

 private:
  std::byte* next_;
};

}  // namespace spectrain

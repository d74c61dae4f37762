#include "kernels/backend.h"

#include <fmt/format.h>

namespace spectrain {

Tensor Buffer::view(DType dtype, Shape shape, std::size_t offset) const {
  const Tensor t{static_cast<std::byte*>(data_) + offset, dtype, shape};
  if (offset + t.bytes() > bytes_)
    throw std::logic_error(
        fmt::format("a view of {} bytes at {} does not fit a buffer of {}", t.bytes(), offset, bytes_));
  return t;
}

}  // namespace spectrain

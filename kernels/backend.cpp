#include "kernels/backend.h"

#include <fmt/format.h>

#include <cmath>

namespace spectrain {

Tensor Buffer::view(DType dtype, Shape shape, std::size_t offset) const {
  const Tensor t{static_cast<std::byte*>(data_) + offset, dtype, shape};
  if (offset + t.bytes() > bytes_)
    throw std::logic_error(
        fmt::format("a view of {} bytes at {} does not fit a buffer of {}", t.bytes(), offset, bytes_));
  return t;
}

double softcapped(const Softcap& s, double z) {
  switch (s.kind) {
    case Softcap::Kind::none:
      return z;
    case Softcap::Kind::tanh:
      return s.cap * std::tanh(z / s.cap);
    case Softcap::Kind::sigmoid:
      return s.cap / (1 + std::exp(-(z + s.offset) / s.divisor));
    case Softcap::Kind::rational:
      return z * s.cap / std::sqrt(z * z + s.cap * s.cap);
  }
  throw std::logic_error("unknown softcap");
}

}  // namespace spectrain

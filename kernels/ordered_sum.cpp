#include "kernels/ordered_sum.h"

#include <algorithm>
#include <stdexcept>

namespace spectrain {
namespace {

// Elements at a time: the sums stay in the first cache while row after row is added.
constexpr std::size_t kChunk = 1024;

struct Sum {
  template <class A>
  A operator()(A a, A b) const {
    return a + b;
  }
  // Wraps around, as it does on other devices.
  std::int32_t operator()(std::int32_t a, std::int32_t b) const {
    return static_cast<std::int32_t>(static_cast<std::uint32_t>(a) + static_cast<std::uint32_t>(b));
  }
};

struct Max {
  template <class A>
  A operator()(A a, A b) const {
    return b > a || b != b ? b : a;
  }
};

// T in memory, A in the sum.
template <class T, class A, class Op>
void combine(std::span<const std::byte* const> rows, std::byte* to, std::size_t count, Op op) {
  A sums[kChunk];
  for (std::size_t begin = 0; begin < count; begin += kChunk) {
    const std::size_t n = std::min(kChunk, count - begin);
    const T* row = reinterpret_cast<const T*>(rows[0]) + begin;
    for (std::size_t i = 0; i < n; ++i) sums[i] = static_cast<A>(row[i]);
    for (std::size_t r = 1; r < rows.size(); ++r) {
      row = reinterpret_cast<const T*>(rows[r]) + begin;
      for (std::size_t i = 0; i < n; ++i) sums[i] = op(sums[i], static_cast<A>(row[i]));
    }
    T* const out = reinterpret_cast<T*>(to) + begin;
    for (std::size_t i = 0; i < n; ++i) out[i] = static_cast<T>(sums[i]);
  }
}

template <class Op>
void combine_as(std::span<const std::byte* const> rows, std::byte* to, std::size_t count, DType dtype,
                Op op) {
  switch (dtype) {
    case DType::f64:
      return combine<double, double>(rows, to, count, op);
    case DType::f32:
      return combine<float, float>(rows, to, count, op);
    case DType::bf16:
      return combine<bf16, float>(rows, to, count, op);
    case DType::i32:
      return combine<std::int32_t, std::int32_t>(rows, to, count, op);
    case DType::f16:
      throw std::logic_error("ranks do not add f16");
  }
}

}  // namespace

void combine_in_order(std::span<const std::byte* const> rows, std::byte* to, std::size_t count, DType dtype,
                      Reduce op) {
  if (op == Reduce::sum) return combine_as(rows, to, count, dtype, Sum());
  if (dtype == DType::bf16) throw std::logic_error("Reduce::max is not there for bf16");
  combine_as(rows, to, count, dtype, Max());
}

}  // namespace spectrain

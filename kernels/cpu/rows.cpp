#include <algorithm>
#include <cstring>
#include <numeric>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/isa/convert.h"
#include "kernels/cpu/parallel.h"
#include "kernels/row_checks.h"
#include "kernels/row_order.h"

namespace spectrain {
namespace {

// How a row gets from one tensor to another.
class RowCopy {
 public:
  RowCopy(const Tensor& from, const Tensor& to, const char* kernel)
      : cols_(from.cols()), from_row_(row_bytes(from)), to_row_(row_bytes(to)) {
    for (const DType dtype : {from.dtype, to.dtype})
      require(dtype != DType::i32 && dtype != DType::f16, kernel,
              "the CPU has rows of f64, f32 and bf16 only");
    from_ = static_cast<const std::byte*>(from.data);
    to_ = static_cast<std::byte*>(to.data);
    if (from.dtype != to.dtype)
      convert_ = SPECTRAIN_ISA_SELECT(convert_table)
                     .convert[static_cast<int>(from.dtype)][static_cast<int>(to.dtype)];
  }
  void operator()(std::int64_t from_row, std::int64_t to_row) const {
    const std::byte* const x = from_ + from_row * from_row_;
    std::byte* const y = to_ + to_row * to_row_;
    if (convert_)
      convert_(x, y, cols_);
    else
      std::memcpy(y, x, static_cast<std::size_t>(to_row_));
  }

 private:
  static std::int64_t row_bytes(const Tensor& t) {
    return t.cols() * static_cast<std::int64_t>(size_of(t.dtype));
  }
  std::int64_t cols_, from_row_, to_row_;
  const std::byte* from_;
  std::byte* to_;
  void (*convert_)(const void*, void*, std::int64_t) = nullptr;
};

template <class Body>
void for_rows(int threads, std::int64_t rows, std::int64_t cols, const Body& body) {
  if (rows == 0 || cols == 0) return;
  parallel_ranges(threads, rows, std::max<std::int64_t>(kElementGrain / cols, 1),
                  [&](std::int64_t begin, std::int64_t end) {
                    for (std::int64_t i = begin; i < end; ++i) body(i);
                  });
}

}  // namespace

void CpuBackend::top_rows(const Tensor& scores, const Tensor& indices) {
  require_top_rows(scores, indices);
  const std::int64_t rows = scores.numel(), count = indices.numel();
  if (count == 0) return;
  const float* const score = scores.as<float>();
  auto* const order = reinterpret_cast<std::int32_t*>(scratch(rows));
  std::iota(order, order + rows, 0);
  const auto before = [score](std::int32_t a, std::int32_t b) {
    const std::uint32_t x = score_key(score[a]), y = score_key(score[b]);
    return x != y ? x > y : a < b;
  };
  std::nth_element(order, order + count - 1, order + rows, before);
  std::copy_n(order, count, indices.as<std::int32_t>());
  std::sort(indices.as<std::int32_t>(), indices.as<std::int32_t>() + count);
}

void CpuBackend::gather_rows(const Tensor& x, const Tensor& indices, const Tensor& y) {
  require_rows(x, indices, y, "gather_rows");
  require_indices(indices, x.rows(), "gather_rows");
  const std::int32_t* const at = indices.as<std::int32_t>();
  const RowCopy copy_row(x, y, "gather_rows");
  for_rows(threads_, y.rows(), y.cols(), [&](std::int64_t i) { copy_row(at[i], i); });
}

void CpuBackend::scatter_rows(const Tensor& y, const Tensor& indices, const Tensor& x) {
  require_rows(x, indices, y, "scatter_rows");
  require_indices(indices, x.rows(), "scatter_rows");
  const std::int32_t* const at = indices.as<std::int32_t>();
  const RowCopy copy_row(y, x, "scatter_rows");
  for_rows(threads_, y.rows(), y.cols(), [&](std::int64_t i) { copy_row(i, at[i]); });
}

namespace {

template <class T>
void copy_columns_of(int threads, const Tensor& x, std::int64_t x_first, const Tensor& y,
                     std::int64_t y_first, std::int64_t count, bool accumulate) {
  for_rows(threads, y.rows(), count, [&](std::int64_t r) {
    T* const to = y.as<T>() + r * y.cols() + y_first;
    if (!x) {
      if (!accumulate) std::fill_n(to, count, T(0.0f));
      return;
    }
    const T* const from = x.as<T>() + r * x.cols() + x_first;
    if (!accumulate) {
      std::memcpy(to, from, static_cast<std::size_t>(count) * sizeof(T));
      return;
    }
    for (std::int64_t c = 0; c < count; ++c)
      to[c] = T(static_cast<float>(to[c]) + static_cast<float>(from[c]));
  });
}

}  // namespace

void CpuBackend::copy_columns(const Tensor& x, std::int64_t x_first, const Tensor& y, std::int64_t y_first,
                              std::int64_t count, bool accumulate) {
  require_columns(x, x_first, y, y_first, count);
  require_compute(y, "copy_columns", "y");
  if (y.dtype == DType::f32)
    copy_columns_of<float>(threads_, x, x_first, y, y_first, count, accumulate);
  else
    copy_columns_of<bf16>(threads_, x, x_first, y, y_first, count, accumulate);
}

}  // namespace spectrain

#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <functional>
#include <random>
#include <vector>

#include "kernels/cpu/isa/isa.h"
#include "tests/reference/reference_backend.h"

namespace spectrain {

// One tensor twice: in the dtype a backend works in, and the very same numbers in float64 for the reference.
class Twin {
 public:
  Twin(DType dtype, std::int64_t rows, std::int64_t cols)
      : dtype_(dtype),
        rows_(rows),
        cols_(cols),
        bytes_(static_cast<std::size_t>(rows * cols) * size_of(dtype) + 64),
        wide_(static_cast<std::size_t>(rows * cols)) {
    for (std::int64_t i = 0; i < rows * cols; ++i) set(i, std::nan(""));  // so that what is not written shows
  }
  Twin(DType dtype, std::int64_t rows, std::int64_t cols, std::uint32_t seed, double magnitude = 1)
      : Twin(dtype, rows, cols) {
    std::mt19937 random(seed);
    for (std::int64_t i = 0; i < rows * cols; ++i)
      set(i, magnitude * (static_cast<double>(random()) / 2147483648.0 - 1));
  }

  Tensor tensor() { return Tensor(bytes_.data(), dtype_, {rows_, cols_}); }
  Tensor wide() { return Tensor(wide_.data(), DType::f64, {rows_, cols_}); }
  std::int64_t numel() const { return rows_ * cols_; }
  DType dtype() const { return dtype_; }

  // Element i of both; rounded to the dtype first, so that both hold the same number.
  void set(std::int64_t i, double value) {
    const auto at = static_cast<std::size_t>(i);
    if (dtype_ == DType::f32)
      reinterpret_cast<float*>(bytes_.data())[at] = static_cast<float>(value);
    else
      reinterpret_cast<bf16*>(bytes_.data())[at] = bf16(static_cast<float>(value));
    wide_[at] = get(i);
  }
  double get(std::int64_t i) const {
    const auto at = static_cast<std::size_t>(i);
    if (dtype_ == DType::f32) return reinterpret_cast<const float*>(bytes_.data())[at];
    return static_cast<float>(reinterpret_cast<const bf16*>(bytes_.data())[at]);
  }
  double wanted(std::int64_t i) const { return wide_[static_cast<std::size_t>(i)]; }
  void adopt() {  // the reference goes on from what the backend computed
    for (std::int64_t i = 0; i < numel(); ++i) wide_[static_cast<std::size_t>(i)] = get(i);
  }
  const std::vector<unsigned char>& bytes() const { return bytes_; }

  // Every element within `walk` (float32 sums), one rounding to the dtype, and `factors` roundings in
  // float32.
  void expect_close(double walk, const char* what, int factors = 0) const {
    const double eps = (dtype_ == DType::bf16 ? 0x1p-8 : 0x1p-24) + factors * 0x1p-24;
    for (std::int64_t i = 0; i < numel(); ++i)
      if (!(std::abs(get(i) - wanted(i)) <= walk + 1.01 * eps * std::abs(wanted(i)))) {
        ADD_FAILURE() << what << " element " << i << " of [" << rows_ << ", " << cols_ << "]: " << get(i)
                      << ", wanted " << wanted(i) << ", off by " << get(i) - wanted(i) << ", bound "
                      << walk + 1.01 * eps * std::abs(wanted(i));
        return;
      }
  }
  double largest() const {
    double m = 0;
    for (double x : wide_) m = std::max(m, std::abs(x));
    return m;
  }

 private:
  DType dtype_;
  std::int64_t rows_, cols_;
  std::vector<unsigned char> bytes_;
  std::vector<double> wide_;
};

inline constexpr double kEps32 = 0x1p-24;

// Runs `body` with a CPU backend for each instruction set this machine has, on one and on two threads.
inline void on_every_cpu(const std::function<void(Backend&)>& body) {
  const Isa best = cpu_isa();
  for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512})
    if (isa <= best)
      for (int threads : {1, 2}) {
        SCOPED_TRACE(std::string(name_of(isa)) + ", threads " + std::to_string(threads));
        limit_cpu_isa(isa);
        auto backend = make_cpu_backend({.threads = threads});
        body(*backend);
        limit_cpu_isa(Isa::avx512_bf16);
      }
}

}  // namespace spectrain

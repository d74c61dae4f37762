#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/matrix_choice.h"

// What the tests of the matrix products share: random operands in either dtype, a float64 product of exactly
// the numbers the kernel saw, and the bound its result must keep.

namespace spectrain::matrix_cases {

// Host memory of one dtype with float64 access.
class Operand {
 public:
  Operand(std::int64_t rows, std::int64_t cols, DType dtype, std::uint32_t seed, double scale = 1)
      : rows_(rows),
        cols_(cols),
        dtype_(dtype),
        bytes_(static_cast<std::size_t>(rows * cols) * size_of(dtype) + 64) {
    std::mt19937 random(seed);
    std::uniform_real_distribution<float> uniform(-1, 1);
    for (std::int64_t i = 0; i < rows * cols; ++i) set(i, static_cast<float>(scale) * uniform(random));
  }
  Tensor tensor() { return Tensor(bytes_.data(), dtype_, {rows_, cols_}); }
  double at(std::int64_t i, std::int64_t j) const { return get(i * cols_ + j); }
  double get(std::int64_t i) const {
    if (dtype_ == DType::f32) return reinterpret_cast<const float*>(bytes_.data())[i];
    return static_cast<float>(reinterpret_cast<const bf16*>(bytes_.data())[i]);
  }
  void set(std::int64_t i, float value) {
    if (dtype_ == DType::f32)
      reinterpret_cast<float*>(bytes_.data())[i] = value;
    else
      reinterpret_cast<bf16*>(bytes_.data())[i] = bf16(value);
  }
  void set_all(float value) {
    for (std::int64_t i = 0; i < rows_ * cols_; ++i) set(i, value);
  }
  const std::vector<unsigned char>& bytes() const { return bytes_; }
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  DType dtype() const { return dtype_; }

 private:
  std::int64_t rows_, cols_;
  DType dtype_;
  std::vector<unsigned char> bytes_;
};

inline double epsilon(DType dtype) {
  return dtype == DType::bf16 ? std::ldexp(1.0, -8) : std::ldexp(1.0, -24);
}

// |got - wanted| for a sum of k products of numbers up to 1, accumulated in float32 and kept in `stored`: a
// random walk of k roundings of partial sums (which are about sqrt(k), or as large as the result), and half a
// unit of the stored value.
inline double bound(double wanted, std::int64_t k, DType stored) {
  const double root = std::sqrt(static_cast<double>(k));
  return 2 * epsilon(DType::f32) * root * std::max(root, std::abs(wanted)) +
         1.01 * epsilon(stored) * std::abs(wanted) + 2 * epsilon(DType::f32);
}

// What a weight becomes in the prepared matrix.
inline double as_computed(double w, DType compute) {
  return compute == DType::bf16 ? static_cast<double>(static_cast<float>(bf16(static_cast<float>(w)))) : w;
}

// The instruction sets this CPU can run, weakest first.
inline std::vector<Isa> instruction_sets() {
  std::vector<Isa> sets;
  for (Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16})
    if (isa <= cpu_isa()) sets.push_back(isa);
  return sets;
}

struct LimitIsa {
  explicit LimitIsa(Isa isa) { limit_cpu_isa(isa); }
  ~LimitIsa() { limit_cpu_isa(Isa::avx512_bf16); }
  LimitIsa(const LimitIsa&) = delete;
  LimitIsa& operator=(const LimitIsa&) = delete;
};

// Everything through oneDNN where it can be, while this lives; else own kernels.
struct ForceEngine {
  explicit ForceEngine(bool onednn) { force_engine(onednn ? MatrixEngine::onednn : MatrixEngine::own); }
  ~ForceEngine() { forget_forced_engine(); }
  ForceEngine(const ForceEngine&) = delete;
  ForceEngine& operator=(const ForceEngine&) = delete;
};

}  // namespace spectrain::matrix_cases

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <optional>
#include <random>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cpu/matrix_choice.h"
#include "kernels/cuda_plugin.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/kernels/device_as_host.h"

// What the tests of the matrix products share: random operands in any dtype, a float64 product of exactly
// the numbers the kernel saw, the bound its result must keep, and the backends that must keep it.

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
    if (dtype_ == DType::f16) return static_cast<float>(reinterpret_cast<const f16*>(bytes_.data())[i]);
    return static_cast<float>(reinterpret_cast<const bf16*>(bytes_.data())[i]);
  }
  void set(std::int64_t i, float value) {
    if (dtype_ == DType::f32)
      reinterpret_cast<float*>(bytes_.data())[i] = value;
    else if (dtype_ == DType::f16)
      reinterpret_cast<f16*>(bytes_.data())[i] = f16(value);
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
  return dtype == DType::bf16 ? 0x1p-8 : dtype == DType::f16 ? 0x1p-11 : 0x1p-24;
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

// A backend and how it is set, the dtype of factors and that of products.
struct Setting {
  enum class Device { cpu, emulated, emulated_backwards, emulated_few_blocks, gpu };
  Isa isa;
  bool onednn;
  int threads;
  DType compute, out;
  Device device = Device::cpu;
};

inline std::vector<Setting> cpu_settings() {
  std::vector<Setting> all;
  for (Isa isa : instruction_sets())
    for (bool onednn : {false, true})
      for (int threads : {1, 2}) {
        // The weaker sets differ in their kernels only: one way each.
        if ((onednn || threads == 1) && isa != instruction_sets().back()) continue;
        all.push_back({isa, onednn, threads, DType::f32, DType::f32});
        all.push_back({isa, onednn, threads, DType::bf16, DType::bf16});
        all.push_back({isa, onednn, threads, DType::bf16, DType::f32});
      }
  return all;
}

// The emulated GPU, whose cuBLASLt is emulated too, and the one that is there. `out`: products in this dtype
// alone.
inline std::vector<Setting> cuda_settings(bool with_f16, std::optional<DType> out = {}) {
  std::vector<std::pair<DType, DType>> dtypes = {
      {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}};
  if (with_f16) dtypes.insert(dtypes.end(), {{DType::f16, DType::f16}, {DType::f16, DType::f32}});
  using Device = Setting::Device;
  std::vector<Setting> all;
  for (const Device device :
       {Device::emulated, Device::emulated_backwards, Device::emulated_few_blocks, Device::gpu}) {
#if defined(__SANITIZE_THREAD__)  // one thread with many stacks: nothing to find, and not understood
    if (device != Device::gpu) continue;
#endif
    for (const auto& [factors, product] : dtypes)
      if (!out || product == *out) all.push_back({Isa::baseline, false, 1, factors, product, device});
  }
  return all;
}

inline std::string setting_name(const testing::TestParamInfo<Setting>& info) {
  const Setting& s = info.param;
  const std::string dtypes = std::string(name_of(s.compute)) + "_" + std::string(name_of(s.out));
  const char* devices[] = {"", "emulated_", "emulated_backwards_", "emulated_few_blocks_", "gpu_"};
  if (s.device != Setting::Device::cpu) return devices[static_cast<int>(s.device)] + dtypes;
  const char* names[] = {"baseline", "avx2", "avx512", "avx512bf16"};
  return std::string(names[static_cast<int>(s.isa)]) + (s.onednn ? "_onednn_" : "_own_") +
         std::to_string(s.threads) + "_" + dtypes;
}
inline void PrintTo(const Setting& s, std::ostream* out) {
  *out << setting_name(testing::TestParamInfo<Setting>(s, 0));
}

class MatrixTest : public testing::TestWithParam<Setting> {
 protected:
  MatrixTest()
      : limit_(on_cpu() ? GetParam().isa : Isa::avx512_bf16), engine_(on_cpu() && GetParam().onednn) {}
  void SetUp() override {
    if (on_cpu()) {
      if (GetParam().onednn && compute() == DType::bf16 && !matrix_machine(true).onednn_bf16)
        GTEST_SKIP() << "oneDNN multiplies bf16 with AVX-512 only, which this CPU does not have";
      backend_ = make_cpu_backend({GetParam().threads, GetParam().onednn});
      return;
    }
    std::string reason;
    backend_ = make_cuda(reason);
    if (!backend_) GTEST_SKIP() << "no GPU: " << reason;
  }
  std::unique_ptr<Backend> make_cuda(std::string& reason) const {
    using Device = Setting::Device;
    const Device device = GetParam().device;
    CudaOptions options;
    if (device == Device::emulated_few_blocks) options.max_blocks = 2;
    emulator::set_order(device == Device::emulated_backwards ? emulator::Order::descending
                                                             : emulator::Order::ascending);
    auto made =
        device == Device::gpu ? make_cuda_backend(options, reason) : make_emulated_cuda_backend(options);
    return made ? make_device_as_host(std::move(made)) : nullptr;
  }
  bool on_cpu() const { return GetParam().device == Setting::Device::cpu; }
  DType compute() const { return GetParam().compute; }
  DType out() const { return GetParam().out; }
  // A bias as it is added: a GPU's library takes it in the product's dtype.
  double as_added(double bias) const { return on_cpu() ? bias : as_computed(bias, out()); }

  LimitIsa limit_;
  ForceEngine engine_;
  std::unique_ptr<Backend> backend_;
};

}  // namespace spectrain::matrix_cases

#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/isa/isa.h"
#include "kernels/cuda_plugin.h"
#include "tests/cuda_emulator/emulator.h"
#include "tests/kernels/device_as_host.h"
#include "tests/reference/reference_backend.h"

// What kernel tests share: the same random tensors on the backend under test and on the float64 reference,
// and one rule for comparing. A case runs for every instruction set this CPU has, on one and on two threads,
// and on the CUDA backend: its kernels run by the emulator with the threads of a block in two orders and with
// few blocks, and on a GPU where there is one:
//
//   class NormTest : public KernelTest {};
//   TEST_P(NormTest, Forward) {
//     const Twin x = random({3, 5}, DType::bf16), y = output({3, 5}, DType::bf16);
//     cpu().scale(x.tested, 2, y.tested);
//     exact().scale(x.exact, 2, y.exact);
//     expect_close(y, 1, 1, "scale");
//   }
//   SPECTRAIN_KERNEL_TEST(NormTest);

namespace spectrain {

struct Setup {
  enum class Kind { cpu, emulated, emulated_backwards, emulated_few_blocks, gpu };
  Isa isa;
  int threads;
  Kind kind = Kind::cpu;
};

inline std::vector<Setup> all_setups() {
  limit_cpu_isa(Isa::avx512_bf16);
  std::vector<Setup> setups;
  for (const Isa isa : {Isa::baseline, Isa::avx2, Isa::avx512, Isa::avx512_bf16})
    if (isa <= cpu_isa())
      for (const int threads : {1, 2}) setups.push_back({isa, threads});
  return setups;
}

// The emulated GPU, twice with the threads in other orders: a barrier that is missing shows in one of them.
inline std::vector<Setup> cuda_setups() {
  std::vector<Setup> setups;
#if !defined(__SANITIZE_THREAD__)  // one thread with many stacks: nothing to find, and not understood
  for (const Setup::Kind kind :
       {Setup::Kind::emulated, Setup::Kind::emulated_backwards, Setup::Kind::emulated_few_blocks})
    setups.push_back({Isa::avx512_bf16, 1, kind});
#endif
  setups.push_back({Isa::avx512_bf16, 1, Setup::Kind::gpu});
  return setups;
}

inline std::string setup_name(const ::testing::TestParamInfo<Setup>& info) {
  const char* kinds[] = {"", "emulated", "emulated_backwards", "emulated_few_blocks", "gpu"};
  if (info.param.kind != Setup::Kind::cpu) return kinds[static_cast<int>(info.param.kind)];
  const char* names[] = {"baseline", "avx2", "avx512", "avx512_bf16"};
  return std::string(names[static_cast<int>(info.param.isa)]) + "_" + std::to_string(info.param.threads);
}

inline void PrintTo(const Setup& s, std::ostream* out) {
  if (s.kind != Setup::Kind::cpu) {
    *out << "CUDA";
    return;
  }
  *out << name_of(s.isa) << ", " << s.threads << " threads";
}

// One tensor twice: as the backend under test holds it, and as f64 with exactly the same values.
struct Twin {
  Tensor tested, exact;
};

inline double epsilon(DType dtype) {
  return dtype == DType::bf16  ? 0x1p-7
         : dtype == DType::f16 ? 0x1p-10
         : dtype == DType::f32 ? 0x1p-23
                               : 0x1p-52;
}

inline double element(const Tensor& t, std::int64_t i) {
  switch (t.dtype) {
    case DType::f64:
      return t.as<double>()[i];
    case DType::f32:
      return static_cast<double>(t.as<float>()[i]);
    case DType::bf16:
      return static_cast<double>(static_cast<float>(t.as<bf16>()[i]));
    case DType::i32:
      return t.as<std::int32_t>()[i];
    case DType::f16:
      return static_cast<double>(static_cast<float>(t.as<f16>()[i]));
  }
  return std::numeric_limits<double>::quiet_NaN();
}

class KernelTest : public ::testing::TestWithParam<Setup> {
 protected:
  void SetUp() override {
    exact_ = make_reference_backend();
    if (GetParam().kind != Setup::Kind::cpu) return use_cuda();
    limit_cpu_isa(GetParam().isa);
    CpuOptions options;
    options.threads = GetParam().threads;
    cpu_ = make_cpu_backend(options);
  }
  void use_cuda() {
    std::string reason;
    CudaOptions options;
    if (GetParam().kind == Setup::Kind::emulated_few_blocks) options.max_blocks = 2;
    cpu_ = make_cuda(options, reason);
    if (!cpu_) GTEST_SKIP() << "no GPU: " << reason;
  }
  // The emulated GPU, or the one that is there; null with a reason when there is none.
  std::unique_ptr<Backend> make_cuda(const CudaOptions& options, std::string& reason) const {
    const Setup::Kind kind = GetParam().kind;
    emulator::set_order(kind == Setup::Kind::emulated_backwards ? emulator::Order::descending
                                                                : emulator::Order::ascending);
    auto device =
        kind == Setup::Kind::gpu ? make_cuda_backend(options, reason) : make_emulated_cuda_backend(options);
    return device ? make_device_as_host(std::move(device)) : nullptr;
  }
  std::unique_ptr<Backend> tested_with_one_block() const {
    std::string reason;
    CudaOptions options;
    options.max_blocks = 1;
    return make_cuda(options, reason);
  }
  bool on_cpu() const { return GetParam().kind == Setup::Kind::cpu; }
  void TearDown() override {
    buffers_.clear();
    limit_cpu_isa(Isa::avx512_bf16);
  }
  Backend& cpu() { return *cpu_; }
  Backend& exact() { return *exact_; }

  // Uninitialised on purpose: NaN everywhere, so a kernel that leaves a hole or reads its output is noticed.
  Twin output(Shape shape, DType dtype) {
    Twin t = space(shape, dtype);
    cpu_->fill(t.tested, std::numeric_limits<double>::quiet_NaN());
    return t;
  }
  // Normal values with this mean and deviation, rounded to dtype; the f64 twin holds the rounded ones. Every
  // call draws other numbers, the same in every run.
  Twin random(Shape shape, DType dtype, double deviation = 1, double mean = 0) {
    const Twin t = space(shape, dtype);
    cpu_->fill_normal(t.tested, {20240607, ++draws_}, static_cast<float>(mean),
                      static_cast<float>(deviation));
    widen(t);
    return t;
  }
  // Whole numbers in [0, limit).
  Twin random_tokens(Shape shape, std::int64_t limit) {
    const Twin t = space(shape, DType::i32);
    ++draws_;
    for (std::int64_t i = 0; i < shape.numel(); ++i)
      t.tested.as<std::int32_t>()[i] = t.exact.as<std::int32_t>()[i] = static_cast<std::int32_t>(
          random_u32({20240607, draws_}, static_cast<std::uint64_t>(i)) % static_cast<std::uint64_t>(limit));
    return t;
  }
  Twin values(Shape shape, DType dtype, const std::vector<double>& from) {
    const Twin t = space(shape, dtype);
    const Tensor host(const_cast<double*>(from.data()), DType::f64, shape);
    cpu_->copy(host, t.tested);
    widen(t);
    return t;
  }
  // Makes the f64 twin equal to what the tested one holds.
  void widen(const Twin& t) { cpu_->copy(t.tested, t.exact); }

  Twin space(Shape shape, DType dtype) {
    const auto get = [&](Backend& backend, DType d) {
      buffers_.push_back(
          backend.allocate(static_cast<std::size_t>(shape.numel()) * size_of(d), "a test tensor"));
      return buffers_.back()->view(d, shape);
    };
    return {get(*cpu_, dtype), get(*exact_, dtype == DType::i32 ? dtype : DType::f64)};
  }

  // |tested - exact| <= roundings eps(dtype)/2 |exact| + c eps(f32) sqrt(K) max(|exact|, size), size
  // defaulting to the root mean square of the exact result. K: how many terms were summed. One rounding into
  // the result's dtype is unavoidable; everything before it is float32 arithmetic.
  static void expect_close(const Twin& t, double c, double K, const std::string& what, double roundings = 1,
                           double size = -1) {
    double squares = 0, worst = 0;
    const std::int64_t n = t.exact.numel();
    for (std::int64_t i = 0; i < n; ++i) squares += element(t.exact, i) * element(t.exact, i);
    const double floor = size >= 0 ? size : std::sqrt(squares / static_cast<double>(n > 0 ? n : 1));
    std::int64_t where = -1;
    for (std::int64_t i = 0; i < n; ++i) {
      const double e = element(t.exact, i), got = element(t.tested, i);
      const double magnitude = std::abs(e);
      const double allowed = roundings * 1.001 * epsilon(t.tested.dtype) / 2 * magnitude +
                             c * 0x1p-23 * std::sqrt(K) * std::fmax(magnitude, floor) + 1e-38;
      const double ratio = std::abs(got - e) / allowed;
      if (!(ratio <= worst)) {
        worst = ratio;
        where = i;
        if (std::isnan(ratio)) break;
      }
    }
    EXPECT_TRUE(worst <= 1) << what << " " << t.tested.shape.str() << " " << name_of(t.tested.dtype)
                            << ": element " << where << " is " << element(t.tested, where) << ", exactly "
                            << element(t.exact, where) << ", " << worst << " times the tolerance";
  }

  // The same bits.
  static void expect_same_bits(const Tensor& a, const Tensor& b, const std::string& what) {
    ASSERT_EQ(a.bytes(), b.bytes());
    EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0) << what << " " << a.shape.str();
  }

 private:
  std::unique_ptr<Backend> cpu_, exact_;
  std::vector<std::unique_ptr<Buffer>> buffers_;
  std::uint64_t draws_ = 0;
};

// Of a family whose cases also run on the CUDA backend.
#define SPECTRAIN_KERNEL_TEST_ALL(Suite)                                                 \
  SPECTRAIN_KERNEL_TEST(Suite);                                                          \
  INSTANTIATE_TEST_SUITE_P(Cuda, Suite, ::testing::ValuesIn(::spectrain::cuda_setups()), \
                           ::spectrain::setup_name)

#define SPECTRAIN_KERNEL_TEST(Suite)                                                   \
  INSTANTIATE_TEST_SUITE_P(Cpu, Suite, ::testing::ValuesIn(::spectrain::all_setups()), \
                           ::spectrain::setup_name)

}  // namespace spectrain

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

#include "kernels/cuda_plugin.h"
#include "tests/kernels/cudnn_programs.h"
#include "tests/kernels/device_as_host.h"

// Attention through cuDNN. Without a GPU: cuDNN is shown the graphs and an H100's properties, and must
// recognise them as something that it has kernels for; it then also makes the code, up to the driver's
// loading of it. cudnn/h100_device_properties.json holds what CUDA's documentation and NVIDIA's data sheet
// say of an H100 SXM (compute capability 9.0, 132 SMs, 227 KiB of shared memory for a block, 50 MiB L2),
// under the names that cuDNN's reader of such files asks for. With a GPU: cuDNN against the own kernels.

namespace spectrain {
namespace {

using ::testing::IsEmpty;
using ::testing::Not;

const std::string kArithmetic = SPECTRAIN_BINARY_DIR "/cudnn_arithmetic";

std::string numbers_of(const HeadLayout& l) {
  std::ostringstream numbers;
  numbers << " " << l.batch << " " << l.heads << " " << l.kv_heads << " " << l.head_dim << " " << l.context;
  return numbers.str();
}

class CudnnGraph
    : public ::testing::TestWithParam<std::tuple<int, int, int>> {  // head_dim, kv_heads, context
 protected:
  void SetUp() override {
    if (!std::filesystem::exists(kCudnnEngines)) GTEST_SKIP() << kNoCudnnPrograms;
  }
};

TEST_P(CudnnGraph, CudnnHasHopperKernelsForIt) {
  const auto [head_dim, kv_heads, context] = GetParam();
  const HeadLayout layout{2, context, 12, kv_heads, head_dim};
  const bool make = context == 1024;  // takes a while
  const CudnnOutcome outcome = cudnn_engines(make ? "make" : "look", "attention" + numbers_of(layout));
  if (outcome.code == 77) GTEST_SKIP() << outcome.text;
  ASSERT_EQ(outcome.code, 0) << outcome.text;
  ASSERT_EQ(outcome.passes.size(), 3u) << outcome.text;
  for (const auto& [name, found] : outcome.passes) {
    EXPECT_THAT(found.engines, Not(IsEmpty())) << name;
    if (make) {
      EXPECT_TRUE(found.code == kCudnnMade || found.code == kCudnnStoppedByTheDriver)
          << name << " " << found.code;
    }
  }
  // The kernels made for this generation, and not only those for all of them: 2 forward, 6 backward.
  EXPECT_EQ(outcome.passes.at("forward").engines.front(), 2) << outcome.text;
  EXPECT_EQ(outcome.passes.at("backward").engines.front(), 6) << outcome.text;
  // A key head's gradient is the sum of its query heads': one more operation each for k and v.
  const int shared = kv_heads < 12 ? 2 : 0;
  EXPECT_EQ(outcome.passes.at("forward").operations, 14);
  EXPECT_EQ(outcome.passes.at("backward").operations, 21 + shared);
  EXPECT_EQ(outcome.passes.at("backward_atomic").operations, 22 + shared);
  // That dS is in memory is how one sees that dq is a matrix product and not a race of atomic additions.
  const std::int64_t ds = layout.batch * layout.heads * layout.context * layout.context * 2;
  EXPECT_GE(outcome.passes.at("backward").workspace, ds);
  EXPECT_LT(outcome.passes.at("backward").workspace, ds + ds / 2 + (std::int64_t{64} << 20));
  EXPECT_LT(outcome.passes.at("backward_atomic").workspace, std::int64_t{64} << 20);
}

INSTANTIATE_TEST_SUITE_P(Layouts, CudnnGraph,
                         ::testing::Combine(::testing::Values(64, 128), ::testing::Values(4, 12),
                                            ::testing::Values(1000, 1024, 4096)),
                         [](const auto& test) {
                           return "D" + std::to_string(std::get<0>(test.param)) + "_kv" +
                                  std::to_string(std::get<1>(test.param)) + "_T" +
                                  std::to_string(std::get<2>(test.param));
                         });

TEST(CudnnGraphRefused, AHeadThatIsTooWideIsNoKernel) {
  if (!std::filesystem::exists(kCudnnEngines)) GTEST_SKIP() << kNoCudnnPrograms;
  const CudnnOutcome outcome = cudnn_engines("make", "attention" + numbers_of({2, 1024, 12, 12, 512}));
  if (outcome.code == 77) GTEST_SKIP() << outcome.text;
  ASSERT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_THAT(outcome.passes.at("backward").engines, IsEmpty()) << outcome.text;
  EXPECT_EQ(outcome.passes.at("backward").code, 3000);  // not supported, in words: no kernel
}

class CudnnArithmetic : public ::testing::TestWithParam<HeadLayout> {};

// A graph with dk and dv exchanged is recognised, too: so its operations are also done one by one.
TEST_P(CudnnArithmetic, IsAttentionAndItsGradient) {
  if (!std::filesystem::exists(kArithmetic)) GTEST_SKIP() << kNoCudnnPrograms;
  const CudnnOutcome outcome = started("'" + kArithmetic + "'" + numbers_of(GetParam()));
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_EQ(std::count(outcome.text.begin(), outcome.text.end(), '\n'), 3) << outcome.text;
}

std::string layout_name(const ::testing::TestParamInfo<HeadLayout>& info) {
  const HeadLayout& l = info.param;
  return "B" + std::to_string(l.batch) + "_T" + std::to_string(l.context) + "_H" + std::to_string(l.heads) +
         "_kv" + std::to_string(l.kv_heads) + "_D" + std::to_string(l.head_dim);
}

INSTANTIATE_TEST_SUITE_P(Layouts, CudnnArithmetic,
                         ::testing::Values(HeadLayout{2, 12, 4, 4, 8}, HeadLayout{2, 9, 4, 2, 8},
                                           HeadLayout{1, 7, 6, 1, 16}, HeadLayout{3, 1, 2, 2, 8}),
                         layout_name);

// ---- on a GPU

class CudnnOnAGpu : public ::testing::TestWithParam<HeadLayout> {
 protected:
  struct Result {
    std::vector<float> out, lse, dqkv;
  };
  static std::vector<bf16> random(std::int64_t n, unsigned seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<bf16> x(static_cast<std::size_t>(n));
    for (bf16& v : x) v = bf16(normal(generator));
    return x;
  }
  static std::vector<float> widened(const Tensor& x) {
    std::vector<float> y;
    for (const bf16 v : x.span<bf16>()) y.push_back(static_cast<float>(v));
    return y;
  }
  static Result run(Backend& b, const HeadLayout& l) {
    const double scale = 1 / std::sqrt(static_cast<double>(l.head_dim));
    const auto memory = [&](std::int64_t n, std::size_t size) {
      return b.allocate(static_cast<std::size_t>(n) * size, "test");
    };
    const auto qkv_memory = memory(l.rows() * l.packed(), 2), dqkv_memory = memory(l.rows() * l.packed(), 2),
               out_memory = memory(l.rows() * l.width(), 2), dout_memory = memory(l.rows() * l.width(), 2),
               lse_memory = memory(l.rows() * l.heads, 4);
    const Tensor qkv = qkv_memory->view(DType::bf16, {l.rows(), l.packed()}),
                 dqkv = dqkv_memory->view(DType::bf16, {l.rows(), l.packed()}),
                 out = out_memory->view(DType::bf16, {l.rows(), l.width()}),
                 dout = dout_memory->view(DType::bf16, {l.rows(), l.width()}),
                 lse = lse_memory->view(DType::f32, {l.batch, l.heads, l.context});
    b.copy_from_host(qkv, random(qkv.numel(), 1).data());
    b.copy_from_host(dout, random(dout.numel(), 2).data());
    b.attention(l, scale, qkv, {}, out, lse);
    b.attention_backward(l, scale, dout, qkv, {}, out, lse, dqkv);
    return {widened(out), {lse.as<float>(), lse.as<float>() + lse.numel()}, widened(dqkv)};
  }
  static std::unique_ptr<Backend> gpu(bool cudnn, std::string& reason) {
    CudaOptions options;
    options.cudnn = cudnn;
    auto device = make_cuda_backend(options, reason);
    return device ? make_device_as_host(std::move(device)) : nullptr;
  }
  // Both round their scores and results to bf16, at other places: as much as the larger of both, times what
  // sums of so many terms make of it.
  static double distance(const std::vector<float>& a, const std::vector<float>& b) {
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
      difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
      size += std::pow(static_cast<double>(b[i]), 2);
    }
    return std::sqrt(difference / size);
  }
};

TEST_P(CudnnOnAGpu, AgreesWithTheOwnKernelsAndWithItself) {
  std::string reason;
  const auto with = gpu(true, reason), without = gpu(false, reason);
  if (!with || !without) GTEST_SKIP() << "no GPU: " << reason;
  const Result library = run(*with, GetParam()), own = run(*without, GetParam());
  EXPECT_LT(distance(library.out, own.out), 0x1p-7);
  EXPECT_LT(distance(library.lse, own.lse), 0x1p-12);
  EXPECT_LT(distance(library.dqkv, own.dqkv), 0x1p-6);
  const Result again = run(*with, GetParam());
  EXPECT_EQ(library.out, again.out);
  EXPECT_EQ(library.lse, again.lse);
  EXPECT_EQ(library.dqkv, again.dqkv);
}

INSTANTIATE_TEST_SUITE_P(Layouts, CudnnOnAGpu,
                         ::testing::Values(HeadLayout{4, 1024, 12, 12, 64}, HeadLayout{2, 1024, 6, 6, 128},
                                           HeadLayout{3, 512, 12, 4, 64}, HeadLayout{2, 1000, 8, 2, 128},
                                           HeadLayout{1, 4096, 4, 4, 64}),
                         layout_name);

}  // namespace
}  // namespace spectrain

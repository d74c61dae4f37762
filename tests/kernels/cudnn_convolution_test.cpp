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

// Convolutions through cuDNN, as cudnn_graph_test.cpp tests its attention: without a GPU, that cuDNN has
// kernels for the graphs on an H100 (unlike attention's, most are in the library as they are, so that their
// plans are made to the end here) and that the graphs say what they must; with a GPU, against unfolded images
// and a matrix product.

namespace spectrain {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Not;

struct NamedShape {  // of a convolution
  const char* name;
  Patches patches;
  std::int64_t filters;
};

std::string numbers_of(const NamedShape& s, DType dtype) {
  const Patches& p = s.patches;
  std::ostringstream numbers;
  for (const std::int64_t n : {p.batch, p.height, p.width, p.channels, p.kernel_height, p.kernel_width,
                               p.stride, p.padding, s.filters})
    numbers << " " << n;
  numbers << " " << name_of(dtype);
  return numbers.str();
}

std::string case_name(const ::testing::TestParamInfo<std::tuple<NamedShape, DType>>& test) {
  return std::string(std::get<0>(test.param).name) + "_" + std::string(name_of(std::get<1>(test.param)));
}

// The marks cuDNN puts on kernels, by their numbers in cudnn_graph.h.
constexpr int kTensorCores = 0, kSmallerInputs = 1, kSmallerSums = 2, kFourier = 3,
              kAnotherResultEachTime = 4, kWinograd = 5;

class CudnnConvolution : public ::testing::TestWithParam<std::tuple<NamedShape, DType>> {};

TEST_P(CudnnConvolution, CudnnHasHopperKernelsForIt) {
  if (!std::filesystem::exists(kCudnnEngines)) GTEST_SKIP() << kNoCudnnPrograms;
  const auto& [shape, dtype] = GetParam();
  const CudnnOutcome outcome = cudnn_engines("make", "convolution" + numbers_of(shape, dtype));
  if (outcome.code == 77) GTEST_SKIP() << outcome.text;
  ASSERT_EQ(outcome.code, 0) << outcome.text;
  ASSERT_EQ(outcome.passes.size(), 3u) << outcome.text;
  for (const auto& [name, found] : outcome.passes) {
    SCOPED_TRACE(name + ": " + outcome.text);
    EXPECT_EQ(found.operations, 1);
    ASSERT_THAT(found.engines, Not(IsEmpty()));
    EXPECT_TRUE(found.code == kCudnnMade || found.code == kCudnnStoppedByTheDriver) << found.code;
    EXPECT_LE(found.workspace, std::int64_t{1} << 30);  // more is refused
    for (const int mark : {kAnotherResultEachTime, kSmallerSums})
      EXPECT_THAT(found.marks, Not(Contains(mark)));
    if (dtype == DType::f32) {
      for (const int mark : {kTensorCores, kSmallerInputs, kFourier, kWinograd})
        EXPECT_THAT(found.marks, Not(Contains(mark)));
    } else if (shape.patches.channels % 8 == 0) {
      EXPECT_THAT(found.first_marks, Contains(kTensorCores));
    }
  }
}

// Those of airbench94, of a network that strides, and one of odd numbers.
INSTANTIATE_TEST_SUITE_P(
    Shapes, CudnnConvolution,
    ::testing::Combine(::testing::Values(NamedShape{"Whitening", {2000, 32, 32, 3, 2, 2, 1, 0}, 24},
                                         NamedShape{"First", {2000, 31, 31, 24, 3, 3, 1, 1}, 64},
                                         NamedShape{"Second", {2000, 15, 15, 64, 3, 3, 1, 1}, 64},
                                         NamedShape{"Wider", {2000, 15, 15, 64, 3, 3, 1, 1}, 256},
                                         NamedShape{"Last", {2000, 7, 7, 256, 3, 3, 1, 1}, 256},
                                         NamedShape{"Striding", {128, 32, 32, 64, 3, 3, 2, 1}, 128},
                                         NamedShape{"Odd", {3, 7, 5, 5, 3, 3, 2, 1}, 7}),
                       ::testing::Values(DType::bf16, DType::f32)),
    case_name);

class CudnnConvolutionArithmetic : public ::testing::TestWithParam<std::tuple<NamedShape, DType>> {};

TEST_P(CudnnConvolutionArithmetic, IsAConvolutionAndItsGradients) {
  const std::string program = SPECTRAIN_BINARY_DIR "/cudnn_convolution_arithmetic";
  if (!std::filesystem::exists(program)) GTEST_SKIP() << kNoCudnnPrograms;
  const auto& [shape, dtype] = GetParam();
  const CudnnOutcome outcome = started("'" + program + "'" + numbers_of(shape, dtype));
  EXPECT_EQ(outcome.code, 0) << outcome.text;
  EXPECT_EQ(std::count(outcome.text.begin(), outcome.text.end(), '\n'), 3) << outcome.text;
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudnnConvolutionArithmetic,
    ::testing::Combine(::testing::Values(NamedShape{"Pointwise", {1, 1, 1, 1, 1, 1, 1, 0}, 1},
                                         NamedShape{"Padded", {3, 5, 7, 5, 3, 3, 1, 1}, 7},
                                         NamedShape{"Striding", {3, 7, 5, 5, 3, 3, 2, 1}, 4},
                                         NamedShape{"EvenKernel", {2, 6, 4, 3, 2, 2, 1, 0}, 8},
                                         NamedShape{"LeavesARest", {2, 9, 8, 5, 3, 2, 3, 2}, 3}),
                       ::testing::Values(DType::bf16, DType::f32)),
    case_name);

// ---- on a GPU

class CudnnConvolutionOnAGpu : public ::testing::TestWithParam<std::tuple<NamedShape, DType>> {
 protected:
  void SetUp() override {
    std::string reason;
    backend_ = make_cuda_backend({}, reason);
    if (!backend_) GTEST_SKIP() << "no GPU: " << reason;
    const std::string path = backend_path();
    if (path.empty()) GTEST_SKIP() << "no cuDNN on this machine";
  }
  static std::string backend_path() {
    for (const CudaLibrary& library : list_cuda_libraries())
      if (library.name == "cuDNN" && library.problem.empty()) return library.path;
    return "";
  }

  // In the device's memory, of random numbers or of NaN.
  Tensor random(std::int64_t rows, std::int64_t cols, DType dtype) {
    const Tensor x = output(rows, cols, dtype);
    backend_->fill_normal(x, {++seed_, 0}, 0, 1);
    return x;
  }
  Tensor output(std::int64_t rows, std::int64_t cols, DType dtype) {
    const auto bytes = static_cast<std::size_t>(rows * cols) * size_of(dtype);
    memory_.push_back(backend_->allocate(bytes, "test"));
    const Tensor x = memory_.back()->view(dtype, {rows, cols});
    backend_->fill(x, std::nan(""));
    return x;
  }
  std::vector<double> values(const Tensor& x) {
    std::vector<float> host(static_cast<std::size_t>(x.numel()));
    const Tensor wide = output(x.rows(), x.cols(), DType::f32);
    backend_->copy(x, wide);
    backend_->copy_to_host(host.data(), wide);
    return {host.begin(), host.end()};
  }
  // |a - b| / |b|; b times `factor`
  double distance(const Tensor& a, const Tensor& b, double factor = 1) {
    const std::vector<double> va = values(a), vb = values(b);
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < va.size(); ++i) {
      difference += std::pow(va[i] - factor * vb[i], 2);
      size += std::pow(factor * vb[i], 2);
    }
    return std::sqrt(difference / size);
  }

  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<Buffer>> memory_;
  std::uint64_t seed_ = 0;
};

TEST_P(CudnnConvolutionOnAGpu, AgreesWithUnfoldedImagesAndWithItself) {
  const auto& [shape, dtype] = GetParam();
  const Patches& p = shape.patches;
  Backend& b = *backend_;
  const Tensor x = random(p.pixels(), p.channels, dtype), dy = random(p.places(), shape.filters, dtype);
  const auto filters = b.prepare(random(shape.filters, p.patch(), DType::f32), dtype, true);
  const Tensor y = output(p.places(), shape.filters, dtype), dx = output(p.pixels(), p.channels, dtype),
               dw = output(shape.filters, p.patch(), DType::f32);
  const auto library = [&](const Tensor& to_y, const Tensor& to_dx, const Tensor& to_dw, bool accumulate) {
    return b.convolution(p, x, *filters, to_y) && b.convolution_backward_input(p, dy, *filters, to_dx) &&
           b.convolution_backward_filters(p, dy, x, to_dw, accumulate);
  };
  const bool all = library(y, dx, dw, false);
  for (const std::string& note : b.notes()) ADD_FAILURE() << note;
  ASSERT_TRUE(all);

  const Tensor rows = output(p.places(), p.patch(), dtype), own_y = output(p.places(), shape.filters, dtype),
               own_dx = output(p.pixels(), p.channels, dtype),
               own_dw = output(shape.filters, p.patch(), DType::f32);
  b.unfold(p, x, rows);
  b.linear(rows, *filters, {}, Activation::none, {}, own_y);
  b.linear_backward_weight(dy, rows, own_dw, false);
  b.linear_backward_input(dy, *filters, rows, false);
  b.fold(p, rows, own_dx);
  // float32: the order of the sums alone. bf16: each result is rounded once, the own dx also for each element
  // of the kernel, and the library's dw, which ours is not.
  const bool wide = dtype == DType::f32;
  const auto bound = [&](std::int64_t terms) {
    return wide ? 4 * 0x1p-24 * std::sqrt(static_cast<double>(terms)) : 0x1p-7;
  };
  EXPECT_LT(distance(y, own_y), bound(p.patch()));
  EXPECT_LT(distance(dx, own_dx), bound(shape.filters * p.kernel_height * p.kernel_width));
  EXPECT_LT(distance(dw, own_dw), bound(p.places()));

  // Once more, added to what is there, in the ordinary way and from a graph.
  const std::vector<double> once_y = values(y), once_dx = values(dx);
  const Tensor once_dw = output(shape.filters, p.patch(), DType::f32);
  b.copy(dw, once_dw);
  const auto twice = [&] {
    EXPECT_EQ(values(y), once_y);
    EXPECT_EQ(values(dx), once_dx);
    EXPECT_EQ(distance(dw, once_dw, 2), 0);  // the sum of two equal numbers is exact
    for (const Tensor& t : {y, dx}) b.fill(t, std::nan(""));
    b.copy(once_dw, dw);
  };
  ASSERT_TRUE(library(y, dx, dw, true));
  twice();
  const auto replay = b.record([&] { EXPECT_TRUE(library(y, dx, dw, true)); });
  replay->run();
  twice();
}

TEST_P(CudnnConvolutionOnAGpu, WhatLiesCrookedlyIsRefusedOnceAndNotTouched) {
  const auto& [shape, dtype] = GetParam();
  const Patches& p = shape.patches;
  const Tensor x = random(p.pixels() * p.channels + 1, 1, dtype);
  const Tensor crooked(static_cast<std::byte*>(x.data) + size_of(dtype), dtype, {p.pixels(), p.channels});
  const Tensor y = output(p.places(), shape.filters, dtype);
  const auto filters = backend_->prepare(random(shape.filters, p.patch(), DType::f32), dtype, true);
  for (int i = 0; i < 2; ++i) EXPECT_FALSE(backend_->convolution(p, crooked, *filters, y));
  EXPECT_EQ(backend_->notes().size(), 1u);
  for (const double v : values(y)) ASSERT_TRUE(std::isnan(v));
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, CudnnConvolutionOnAGpu,
    ::testing::Combine(::testing::Values(NamedShape{"Whitening", {64, 32, 32, 3, 2, 2, 1, 0}, 24},
                                         NamedShape{"First", {64, 31, 31, 24, 3, 3, 1, 1}, 64},
                                         NamedShape{"Last", {200, 7, 7, 256, 3, 3, 1, 1}, 256},
                                         NamedShape{"Striding", {32, 32, 32, 64, 3, 3, 2, 1}, 128},
                                         NamedShape{"Odd", {3, 7, 5, 5, 3, 3, 2, 1}, 7}),
                       ::testing::Values(DType::bf16, DType::f32)),
    case_name);

}  // namespace
}  // namespace spectrain

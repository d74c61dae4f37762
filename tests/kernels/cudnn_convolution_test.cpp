#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <sstream>
#include <string>
#include <tuple>

#include "kernels/cuda_plugin.h"
#include "tests/kernels/convolution_case.h"
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

// What the backend makes of the library's answers, on the emulated GPU.
TEST(CudnnConvolutionCalls, GoThroughTheRightKernelOrAreRefused) {
  const std::string program = SPECTRAIN_BINARY_DIR "/cudnn_convolution_calls";
  if (!std::filesystem::exists(program)) GTEST_SKIP() << kNoCudnnPrograms;
  const CudnnOutcome outcome = started("'" + program + "'");
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.text, "");
}

// ---- on a GPU

class CudnnConvolutionOnAGpu : public ::testing::TestWithParam<std::tuple<NamedShape, DType>> {
 protected:
  void SetUp() override {
    std::string reason;
    backend_ = make_cuda_backend({}, reason);
    if (!backend_) GTEST_SKIP() << "no GPU: " << reason;
    for (const CudaLibrary& library : list_cuda_libraries())
      if (library.name == "cuDNN" && !library.problem.empty()) GTEST_SKIP() << library.problem;
    const auto& [shape, dtype] = GetParam();
    case_ = std::make_unique<ConvolutionCase>(*backend_, shape.patches, shape.filters, dtype);
  }
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<ConvolutionCase> case_;
};

TEST_P(CudnnConvolutionOnAGpu, AgreesWithUnfoldedImagesAndWithItself) {
  EXPECT_THAT(case_->of_the_library(), IsEmpty());
}

TEST_P(CudnnConvolutionOnAGpu, WhatLiesCrookedlyIsRefusedOnceAndNotTouched) {
  EXPECT_THAT(case_->of_a_crooked_tensor(), IsEmpty());
}

TEST_P(CudnnConvolutionOnAGpu, AGradientMayLieAnywhere) {
  EXPECT_THAT(case_->of_a_crooked_gradient(), IsEmpty());
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

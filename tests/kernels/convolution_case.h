#pragma once

#include <fmt/format.h>

#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace spectrain {

// A backend's convolution, which it has from a library, against its own unfolded images and matrix products.
// Each function returns what is wrong, in words.
class ConvolutionCase {
 public:
  ConvolutionCase(Backend& backend, const Patches& patches, std::int64_t filters, DType dtype)
      : b_(backend), p_(patches), n_(filters), dtype_(dtype) {
    x_ = random(p_.pixels(), p_.channels, dtype);
    dy_ = random(p_.places(), n_, dtype);
    y_ = output(p_.places(), n_, dtype);
    dx_ = output(p_.pixels(), p_.channels, dtype);
    dw_ = output(n_, p_.patch(), DType::f32);
    filters_ = b_.prepare(random(n_, p_.patch(), DType::f32), dtype, true);
  }

  // All passes: right, the same each time, in the ordinary way and from a recorded graph.
  std::vector<std::string> of_the_library() {
    const bool all = library(false);
    for (const std::string& note : b_.notes()) problem(note);
    if (!all) {
      problem("not every pass went through the library");
      return problems_;
    }
    compare_with_own();
    const std::vector<double> once_y = values(y_), once_dx = values(dx_);
    const Tensor once_dw = output(n_, p_.patch(), DType::f32);
    b_.copy(dw_, once_dw);
    const auto expect_twice = [&](const char* how) {
      if (values(y_) != once_y) problem(fmt::format("y is another one {}", how));
      if (values(dx_) != once_dx) problem(fmt::format("dx is another one {}", how));
      // The sum of two equal numbers is exact.
      if (distance(dw_, once_dw, 2) != 0) problem(fmt::format("dw was not added {}", how));
      for (const Tensor& t : {y_, dx_}) b_.fill(t, std::nan(""));
      b_.copy(once_dw, dw_);
    };
    library(true);
    expect_twice("the second time");
    const auto replay = b_.record([&] { library(true); });
    for (const char* const how : {"from a graph", "from a graph, again"}) {
      replay->run();
      expect_twice(how);
    }
    return problems_;
  }

  // A library may ask for aligned tensors: then it is the caller's, and nothing happened.
  std::vector<std::string> of_a_crooked_tensor() {
    const Tensor longer = random(x_.numel() + 1, 1, dtype_);
    const Tensor crooked(static_cast<std::byte*>(longer.data) + size_of(dtype_), dtype_, x_.shape);
    for (int i = 0; i < 2; ++i)
      if (b_.convolution(p_, crooked, *filters_, y_)) problem("a crooked tensor was taken");
    const std::size_t notes = b_.notes().size();
    if (notes != 1) problem(fmt::format("{} notes of one refusal", notes));
    for (const double v : values(y_))
      if (!std::isnan(v)) {
        problem("y was written");
        break;
      }
    return problems_;
  }

  // But the filters' gradient may lie anywhere: in a bucket of gradients.
  std::vector<std::string> of_a_crooked_gradient() {
    const Tensor longer = output(dw_.numel() + 1, 1, DType::f32);
    const Tensor crooked(static_cast<std::byte*>(longer.data) + sizeof(float), DType::f32, dw_.shape);
    for (const bool accumulate : {false, true}) {
      const double times = accumulate ? 2 : 1;
      if (!backward_filters(accumulate) || !b_.convolution_backward_filters(p_, dy_, x_, crooked, accumulate))
        problem("it was refused");
      if (values(crooked) != values(dw_)) problem(fmt::format("another gradient, {} times", times));
    }
    if (!std::isnan(values(longer)[0])) problem("what is before it was written");
    return problems_;
  }

  // Every pass is refused, with a note for each that has these words.
  std::vector<std::string> of_a_refusal(const std::string& words) {
    const double before = 3;
    for (const Tensor& t : {y_, dx_, dw_}) b_.fill(t, before);
    for (int i = 0; i < 2; ++i)
      if (forward() || backward_input() || backward_filters(i == 1)) problem("it was not refused");
    const std::vector<std::string> notes = b_.notes();
    if (notes.size() != 3) problem(fmt::format("{} notes of three refusals", notes.size()));
    for (const std::string& note : notes)
      if (note.find(words) == std::string::npos) problem("a note without its words: " + note);
    for (const Tensor& t : {y_, dx_, dw_})
      for (const double v : values(t))
        if (v != before) {
          problem("something was written");
          break;
        }
    return problems_;
  }

  bool forward() { return b_.convolution(p_, x_, *filters_, y_); }

 private:
  bool backward_input() { return b_.convolution_backward_input(p_, dy_, *filters_, dx_); }
  bool backward_filters(bool accumulate) {
    return b_.convolution_backward_filters(p_, dy_, x_, dw_, accumulate);
  }
  bool library(bool accumulate) { return forward() && backward_input() && backward_filters(accumulate); }
  void compare_with_own() {
    const Tensor rows = output(p_.places(), p_.patch(), dtype_), y = output(p_.places(), n_, dtype_),
                 dx = output(p_.pixels(), p_.channels, dtype_), dw = output(n_, p_.patch(), DType::f32);
    b_.unfold(p_, x_, rows);
    b_.linear(rows, *filters_, {}, Activation::none, {}, y);
    b_.linear_backward_weight(dy_, rows, dw, false);
    b_.linear_backward_input(dy_, *filters_, rows, false);
    b_.fold(p_, rows, dx);
    // float32: the order of the sums alone. bf16: each result is rounded once; the own dx also for each
    // element of the kernel, and the library's dw, which the own is not.
    const auto near = [&](const char* name, const Tensor& a, const Tensor& b, std::int64_t terms) {
      const double bound =
          dtype_ == DType::f32 ? 4 * 0x1p-24 * std::sqrt(static_cast<double>(terms)) : 0x1p-7;
      const double d = distance(a, b);
      if (!(d < bound)) problem(fmt::format("{} differs by {:.3g}, allowed is {:.3g}", name, d, bound));
    };
    near("y", y_, y, p_.patch());
    near("dx", dx_, dx, n_ * p_.kernel_height * p_.kernel_width);
    near("dw", dw_, dw, p_.places());
  }

  // In the device's memory, of random numbers or of NaN.
  Tensor random(std::int64_t rows, std::int64_t cols, DType dtype) {
    const Tensor t = output(rows, cols, dtype);
    b_.fill_normal(t, {++seed_, 0}, 0, 1);
    return t;
  }
  Tensor output(std::int64_t rows, std::int64_t cols, DType dtype) {
    const auto bytes = static_cast<std::size_t>(rows * cols) * size_of(dtype);
    memory_.push_back(b_.allocate(bytes, "test"));
    const Tensor t = memory_.back()->view(dtype, {rows, cols});
    b_.fill(t, std::nan(""));
    return t;
  }
  std::vector<double> values(const Tensor& t) {
    std::vector<float> host(static_cast<std::size_t>(t.numel()));
    const Tensor wide = output(t.rows(), t.cols(), DType::f32);
    b_.copy(t, wide);
    b_.copy_to_host(host.data(), wide);
    return {host.begin(), host.end()};
  }
  // |a - f b| / |f b|
  double distance(const Tensor& a, const Tensor& b, double f = 1) {
    const std::vector<double> left = values(a), right = values(b);
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < left.size(); ++i) {
      difference += std::pow(left[i] - f * right[i], 2);
      size += std::pow(f * right[i], 2);
    }
    return std::sqrt(difference / size);
  }
  void problem(const std::string& words) { problems_.push_back(words); }

  Backend& b_;
  Patches p_;
  std::int64_t n_;
  DType dtype_;
  std::uint64_t seed_ = 0;
  std::vector<std::unique_ptr<Buffer>> memory_;
  Tensor x_, dy_, y_, dx_, dw_;
  std::unique_ptr<PreparedMatrix> filters_;
  std::vector<std::string> problems_;
};

}  // namespace spectrain

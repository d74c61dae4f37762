#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <random>
#include <string>
#include <vector>

#include "tests/kernels/cudnn/played_convolution.h"
#include "tests/reference/reference_backend.h"

// cudnn_convolution_arithmetic BATCH HEIGHT WIDTH CHANNELS KERNEL_HEIGHT KERNEL_WIDTH STRIDE PADDING FILTERS
// f32|bf16 Is what the graphs say the convolution and its gradients? As in cudnn_arithmetic.cpp: what the
// writer of the graphs tells cuDNN is noted down, then done by cuDNN's definitions in float64, and the
// results are compared with unfold(), fold() and matrix products of the reference backend.

namespace spectrain {
namespace {

// ---- the comparison

struct Case {
  explicit Case(const ConvolutionShape& s) : shape(s) {
    const Patches& p = s.patches;
    std::mt19937 generator(7);
    std::normal_distribution<double> normal;
    const auto fill = [&](std::vector<double>& values, std::int64_t n) {
      values.resize(static_cast<std::size_t>(n));
      for (double& v : values) v = normal(generator);
    };
    fill(x, p.pixels() * p.channels);
    fill(w, s.filters * p.patch());
    fill(dy, p.places() * s.filters);
    y.resize(dy.size());
    dx.resize(x.size());
    dw.resize(w.size());
    std::vector<double> rows(static_cast<std::size_t>(p.places() * p.patch()));
    const auto tensor = [](std::vector<double>& values, std::int64_t r, std::int64_t c) {
      return Tensor(values.data(), DType::f64, {r, c});
    };
    const Tensor unfolded = tensor(rows, p.places(), p.patch()), places = tensor(dy, p.places(), s.filters),
                 filters = tensor(w, s.filters, p.patch());
    const auto reference = make_reference_backend();
    const auto prepared = reference->prepare(filters, DType::f64, true);
    reference->unfold(p, tensor(x, p.pixels(), p.channels), unfolded);
    reference->linear(unfolded, *prepared, {}, Activation::none, {}, tensor(y, p.places(), s.filters));
    reference->linear_backward_weight(places, unfolded, tensor(dw, s.filters, p.patch()), false);
    reference->linear_backward_input(places, *prepared, unfolded, false);
    reference->fold(p, unfolded, tensor(dx, p.pixels(), p.channels));
  }

  ConvolutionShape shape;
  std::vector<double> x, w, y, dx, dw, dy;
};

bool compare(const char* name, ConvolutionPass pass, Case& c) {
  std::vector<double> result(pass == ConvolutionPass::forward          ? c.y.size()
                             : pass == ConvolutionPass::backward_input ? c.x.size()
                                                                       : c.w.size(),
                             std::nan(""));
  const std::vector<double>& wanted = pass == ConvolutionPass::forward          ? c.y
                                      : pass == ConvolutionPass::backward_input ? c.dx
                                                                                : c.dw;
  const ConvolutionMemory memory{pass == ConvolutionPass::backward_input ? result : c.x,
                                 pass == ConvolutionPass::backward_filters ? result : c.w,
                                 pass == ConvolutionPass::forward ? result : c.dy};
  const CudnnGraph graph = convolution_graph(played_cudnn(), pass, c.shape);
  carry_out(*static_cast<Noted*>(graph.descriptor().get()),
            c.shape.dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT, memory);
  double difference = 0;
  for (std::size_t i = 0; i < result.size(); ++i)
    difference = std::isfinite(result[i]) ? std::max(difference, std::abs(result[i] - wanted[i])) : INFINITY;
  std::printf("%s %.3g\n", name, difference);
  // Terms of one result; each is around 1.
  const Patches& p = c.shape.patches;
  const auto terms = static_cast<double>(std::max({p.patch(), c.shape.filters * p.patch(), p.places()}));
  return difference < 0x1p-53 * 16 * terms;
}

}  // namespace
}  // namespace spectrain

int main(int count, char** arguments) {
  using namespace spectrain;
  if (count != 11) return 2;
  try {
    std::int64_t n[10] = {};
    for (int i = 1; i < 10; ++i) n[i] = std::stoll(arguments[i]);
    Case c({{n[1], n[2], n[3], n[4], n[5], n[6], n[7], n[8]},
            n[9],
            std::string(arguments[10]) == "bf16" ? DType::bf16 : DType::f32});
    bool close = compare("forward", ConvolutionPass::forward, c);
    close = compare("backward_input", ConvolutionPass::backward_input, c) && close;
    close = compare("backward_filters", ConvolutionPass::backward_filters, c) && close;
    return close ? 0 : 1;
  } catch (const std::exception& e) {
    std::printf("%s\n", e.what());
    return 1;
  }
}

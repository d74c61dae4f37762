#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <random>
#include <vector>

#include "kernels/cuda/cudnn_convolution.h"
#include "tests/kernels/cudnn/played_cudnn.h"
#include "tests/reference/reference_backend.h"

// cudnn_convolution_arithmetic BATCH HEIGHT WIDTH CHANNELS KERNEL_HEIGHT KERNEL_WIDTH STRIDE PADDING FILTERS
// f32|bf16 Is what the graphs say the convolution and its gradients? As in cudnn_arithmetic.cpp: what the
// writer of the graphs tells cuDNN is noted down, then done by cuDNN's definitions in float64, and the
// results are compared with unfold(), fold() and matrix products of the reference backend.

namespace spectrain {
namespace {

void expect(bool good, const char* what) {
  if (!good) throw std::logic_error(std::string("not as it must be: ") + what);
}

struct Memory {
  std::vector<double>&images, &filters, &places;
};

// One operation as cuDNN's documentation defines it: for output (n,k,p,q), channel c and filter element (r,s)
//   y[n,k,p,q] <- x[n, c, p stride + r dilation - padding, q ...] w[k,c,r,s]
// is one product, and each of the three passes sums such products into another of the three tensors.
class Machine {
 public:
  Machine(const Memory& memory, cudnnDataType_t type) : memory_(memory), type_(type) {}

  void run(const CudnnGraph& graph) {
    expect(graph.operations() == 1, "one operation");
    const Noted& noted = *static_cast<Noted*>(graph.descriptor().get());
    const Noted& o = noted.other(CUDNN_ATTR_OPERATIONGRAPH_OPS);
    switch (o.type) {
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR:
        return carry_out(o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC),
                         o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X),
                         o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W),
                         o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y), Result::y,
                         o.get<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA),
                         o.get<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA));
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR:
        return carry_out(o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC),
                         o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX),
                         o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W),
                         o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY), Result::x,
                         o.get<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA),
                         o.get<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA));
      case CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR:
        return carry_out(o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC),
                         o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X),
                         o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW),
                         o.other(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY), Result::w,
                         o.get<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA),
                         o.get<float>(CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA));
      default:
        throw std::logic_error("an operation nobody expected");
    }
  }

 private:
  enum class Result : std::uint8_t { x, w, y };

  struct View {
    Dims dims, strides;
    std::vector<double>& values;
    double& at(const Dims& i) const {
      std::int64_t place = 0;
      for (std::size_t k = 0; k < 4; ++k) place += i[k] * strides[k];
      return values.at(static_cast<std::size_t>(place));
    }
  };
  View view(const Noted& t) const {
    expect(t.get<cudnnDataType_t>(CUDNN_ATTR_TENSOR_DATA_TYPE) == type_, "the tensors' data type");
    expect(!t.get<bool>(CUDNN_ATTR_TENSOR_IS_VIRTUAL) && !t.get<bool>(CUDNN_ATTR_TENSOR_IS_BY_VALUE),
           "tensors in memory");
    return {t.shape(), t.strides(), bound(t.get<std::int64_t>(CUDNN_ATTR_TENSOR_UNIQUE_ID))};
  }
  std::vector<double>& bound(std::int64_t id) const {
    switch (static_cast<ConvolutionTensor>(id)) {
      case ConvolutionTensor::images:
        return memory_.images;
      case ConvolutionTensor::filters:
        return memory_.filters;
      case ConvolutionTensor::places:
        return memory_.places;
    }
    throw std::logic_error("a tensor nobody bound");
  }

  void carry_out(const Noted& how, const Noted& images, const Noted& filters, const Noted& places,
                 Result result, double alpha, double beta) const {
    const View x = view(images), w = view(filters), y = view(places);
    expect(how.get<cudnnDataType_t>(CUDNN_ATTR_CONVOLUTION_COMP_TYPE) == CUDNN_DATA_FLOAT, "sums in float32");
    expect(how.get<std::int64_t>(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS) == 2, "two dimensions");
    const bool flipped =
        how.get<cudnnConvolutionMode_t>(CUDNN_ATTR_CONVOLUTION_CONV_MODE) == CUDNN_CONVOLUTION;
    std::int64_t stride[2], dilation[2], before[2];
    for (std::size_t i = 0; i < 2; ++i) {
      stride[i] = how.get<std::int64_t>(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, i);
      dilation[i] = how.get<std::int64_t>(CUDNN_ATTR_CONVOLUTION_DILATIONS, i);
      before[i] = how.get<std::int64_t>(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, i);
      const std::int64_t after = how.get<std::int64_t>(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, i);
      expect(y.dims[2 + i] ==
                 (x.dims[2 + i] + before[i] + after - dilation[i] * (w.dims[2 + i] - 1) - 1) / stride[i] + 1,
             "y's sides");
    }
    expect(y.dims[0] == x.dims[0] && y.dims[1] == w.dims[0] && x.dims[1] == w.dims[1], "the tensors' sides");
    const View& out = result == Result::x ? x : result == Result::w ? w : y;
    each(out.dims, [&](const Dims& i) { out.at(i) = beta == 0 ? 0 : beta * out.at(i); });
    each(y.dims, [&](const Dims& place) {
      each({1, w.dims[1], w.dims[2], w.dims[3]}, [&](const Dims& e) {
        const std::int64_t r = flipped ? w.dims[2] - 1 - e[2] : e[2],
                           s = flipped ? w.dims[3] - 1 - e[3] : e[3];
        const Dims pixel = {place[0], e[1], place[2] * stride[0] + e[2] * dilation[0] - before[0],
                            place[3] * stride[1] + e[3] * dilation[1] - before[1]};
        if (pixel[2] < 0 || pixel[2] >= x.dims[2] || pixel[3] < 0 || pixel[3] >= x.dims[3]) return;
        const Dims element = {place[1], e[1], r, s};
        if (result == Result::y) y.at(place) += alpha * x.at(pixel) * w.at(element);
        if (result == Result::x) x.at(pixel) += alpha * y.at(place) * w.at(element);
        if (result == Result::w) w.at(element) += alpha * y.at(place) * x.at(pixel);
      });
    });
  }
  template <class F>
  static void each(const Dims& shape, const F& f) {
    Dims i{};
    for (i[0] = 0; i[0] < shape[0]; ++i[0])
      for (i[1] = 0; i[1] < shape[1]; ++i[1])
        for (i[2] = 0; i[2] < shape[2]; ++i[2])
          for (i[3] = 0; i[3] < shape[3]; ++i[3]) f(i);
  }

  Memory memory_;
  cudnnDataType_t type_;
};

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
  const Memory memory{pass == ConvolutionPass::backward_input ? result : c.x,
                      pass == ConvolutionPass::backward_filters ? result : c.w,
                      pass == ConvolutionPass::forward ? result : c.dy};
  const CudnnGraph graph = convolution_graph(played_cudnn(), pass, c.shape);
  Machine(memory, c.shape.dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT).run(graph);
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

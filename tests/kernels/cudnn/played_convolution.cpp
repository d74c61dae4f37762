#include "tests/kernels/cudnn/played_convolution.h"

#include <stdexcept>
#include <string>

namespace spectrain {
namespace {

void expect(bool good, const char* what) {
  if (!good) throw std::logic_error(std::string("not as it must be: ") + what);
}

// One operation as cuDNN's documentation defines it: for output (n,k,p,q), channel c and filter element (r,s)
//   y[n,k,p,q] <- x[n, c, p stride + r dilation - padding, q ...] w[k,c,r,s]
// is one product, and each of the three passes sums such products into another of the three tensors.
class Machine {
 public:
  Machine(const ConvolutionMemory& memory, cudnnDataType_t type) : memory_(memory), type_(type) {}

  void run(const Noted& o) {
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

  ConvolutionMemory memory_;
  cudnnDataType_t type_;
};

}  // namespace

void carry_out(const Noted& graph, cudnnDataType_t type, const ConvolutionMemory& memory) {
  expect(graph.attributes.at(CUDNN_ATTR_OPERATIONGRAPH_OPS).size() == sizeof(void*), "one operation");
  Machine(memory, type).run(graph.other(CUDNN_ATTR_OPERATIONGRAPH_OPS));
}

}  // namespace spectrain

#include "kernels/cuda/cudnn_convolution.h"

namespace spectrain {
namespace {

cudnnDataType_t cudnn_type(DType dtype) {
  return dtype == DType::bf16 ? CUDNN_DATA_BFLOAT16 : CUDNN_DATA_FLOAT;
}

// [n, channels, height, width] with the channels next to each other in memory.
cudnnBackendDescriptor_t channels_last(CudnnGraph& graph, ConvolutionTensor name, DType dtype, std::int64_t n,
                                       std::int64_t channels, std::int64_t height, std::int64_t width) {
  return graph.tensor(static_cast<std::int64_t>(name), cudnn_type(dtype), {n, channels, height, width},
                      {height * width * channels, 1, width * channels, channels}, CudnnGraph::Place::memory);
}

// The names that one operation has for what all three have.
struct Attributes {
  cudnnBackendDescriptorType_t operation;
  cudnnBackendAttributeName_t convolution, images, filters, places, alpha, beta;
};

constexpr Attributes kForward = {CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR,
                                 CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
                                 CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
                                 CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
                                 CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
                                 CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
                                 CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA};
constexpr Attributes kBackwardInput = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
                                       CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA};
constexpr Attributes kBackwardFilters = {CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR,
                                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
                                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
                                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
                                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
                                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
                                         CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA};

const Attributes& attributes_of(ConvolutionPass pass) {
  switch (pass) {
    case ConvolutionPass::backward_input:
      return kBackwardInput;
    case ConvolutionPass::backward_filters:
      return kBackwardFilters;
    default:
      return kForward;
  }
}

cudnnBackendDescriptor_t sliding(CudnnGraph& graph, const Patches& p) {
  using Sides = std::array<std::int64_t, 2>;
  const Sides ones = {1, 1}, strides = {p.stride, p.stride}, paddings = {p.padding, p.padding};
  const auto both = [](const Sides& sides) { return std::span<const std::int64_t>(sides); };
  // Cross-correlation: the filter's first row lies over the patch's first.
  const cudnnConvolutionMode_t mode = CUDNN_CROSS_CORRELATION;
  CudnnDescriptor& c = graph.add(CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR);
  c.set(CUDNN_ATTR_CONVOLUTION_COMP_TYPE, CUDNN_DATA_FLOAT)
      .set(CUDNN_ATTR_CONVOLUTION_CONV_MODE, CUDNN_TYPE_CONVOLUTION_MODE, 1, &mode)
      .set(CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, std::int64_t{2})
      .set(CUDNN_ATTR_CONVOLUTION_DILATIONS, both(ones))
      .set(CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, both(strides))
      .set(CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, both(paddings))
      .set(CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, both(paddings))
      .finalize("describing a convolution");
  return c.get();
}

}  // namespace

CudnnGraph convolution_graph(std::shared_ptr<const Cudnn> cudnn, ConvolutionPass pass,
                             const ConvolutionShape& shape, cudnnHandle_t handle) {
  const Patches& p = shape.patches;
  const float alpha = 1, beta = 0;
  const Attributes& names = attributes_of(pass);
  using T = ConvolutionTensor;
  CudnnGraph graph(std::move(cudnn));
  graph.operation(names.operation)
      .set(names.convolution, sliding(graph, p))
      .set(names.images, channels_last(graph, T::images, shape.dtype, p.batch, p.channels, p.height, p.width))
      .set(names.filters, channels_last(graph, T::filters, shape.dtype, shape.filters, p.channels,
                                        p.kernel_height, p.kernel_width))
      .set(names.places, channels_last(graph, T::places, shape.dtype, p.batch, shape.filters, p.out_height(),
                                       p.out_width()))
      .set(names.alpha, CUDNN_TYPE_FLOAT, 1, &alpha)
      .set(names.beta, CUDNN_TYPE_FLOAT, 1, &beta)
      .finalize("describing a convolution");
  graph.finish(handle, "describing a convolution");
  return graph;
}

CudnnWish convolution_wish(DType dtype) {
  CudnnWish wish{
      .what = "a convolution",
      .without = {CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC, CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION},
      .slow_ones = true};
  if (dtype == DType::f32)
    wish.without.insert(
        wish.without.end(),
        {CUDNN_NUMERICAL_NOTE_TENSOR_CORE, CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS, CUDNN_NUMERICAL_NOTE_FFT,
         CUDNN_NUMERICAL_NOTE_WINOGRAD, CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_4x4,
         CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_6x6, CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13});
  return wish;
}

}  // namespace spectrain

#include "kernels/cuda/convolution.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/cpu/checks.h"
#include "kernels/cuda/products.h"
#include "kernels/row_checks.h"

namespace spectrain {
namespace {

void check(const ConvolutionShape& s, const Tensor& x, const Tensor& y, std::int64_t patch,
           const char* kernel) {
  const Patches& p = s.patches;
  require_compute(x, kernel, "x");
  require_patches(p, x, {nullptr, x.dtype, {p.places(), p.patch()}}, kernel);
  require(patch == p.patch(), kernel,
          [&] { return fmt::format("filters of {} elements for patches of {}", patch, p.patch()); });
  require(y.dtype == s.dtype && x.dtype == s.dtype && y.numel() == p.places() * s.filters, kernel, [&] {
    return fmt::format("y {} {} and x {} are not {} [places, filters] = [{}, {}] and {}", name_of(y.dtype),
                       y.shape.str(), name_of(x.dtype), name_of(s.dtype), p.places(), s.filters,
                       name_of(s.dtype));
  });
}

const char* name_of(ConvolutionPass pass) {
  switch (pass) {
    case ConvolutionPass::backward_input:
      return "the gradient, by its input, of a convolution";
    case ConvolutionPass::backward_filters:
      return "the gradient, by its filters, of a convolution";
    default:
      return "a convolution";
  }
}

std::string refusal(ConvolutionPass pass, const ConvolutionShape& s, int capability,
                    const LibraryConvolution& library) {
  const Patches& p = s.patches;
  return fmt::format(
      "{} of {} images {} x {} x {} with {} filters {} x {}, stride {}, padding {}, in {}, compute "
      "capability "
      "{}.{}: {} has no kernel for it ({}); unfolded images and a matrix product are used",
      name_of(pass), p.batch, p.height, p.width, p.channels, s.filters, p.kernel_height, p.kernel_width,
      p.stride, p.padding, name_of(s.dtype), capability / 10, capability % 10, library.description(),
      library.why_not());
}

}  // namespace

CudaBackend::Convolutions& CudaBackend::convolutions() {
  if (!convolutions_) {
    convolutions_ = std::make_unique<Convolutions>();
    if (options_.cudnn) convolutions_->library = make_library_convolution(*this);
  }
  return *convolutions_;
}

bool CudaBackend::convolve(ConvolutionPass pass, const ConvolutionShape& shape, const Tensor& images,
                           const Tensor& filters, const Tensor& places, bool accumulate) {
  Convolutions& state = convolutions();
  // Without an image the library has nothing to do, and what is added to or overwritten is the caller's.
  if (!state.library || places.numel() == 0) return false;
  const auto known = std::make_pair(pass, shape);
  if (std::find(state.refused.begin(), state.refused.end(), known) != state.refused.end()) return false;
  if (state.library->run(pass, shape, images, filters, places, accumulate)) return true;
  state.refused.push_back(known);
  state.notes.push_back(refusal(pass, shape, capability_, *state.library));
  return false;
}

bool CudaBackend::convolution(const Patches& p, const Tensor& x, const PreparedMatrix& filters,
                              const Tensor& y) {
  const Tensor& matrix = prepared_tensor(filters, "convolution");
  const ConvolutionShape shape{p, filters.rows(), matrix.dtype};
  check(shape, x, y, filters.cols(), "convolution");
  return convolve(ConvolutionPass::forward, shape, x, matrix, y, false);
}

bool CudaBackend::convolution_backward_input(const Patches& p, const Tensor& dy,
                                             const PreparedMatrix& filters, const Tensor& dx) {
  const Tensor& matrix = prepared_tensor(filters, "convolution_backward_input");
  const ConvolutionShape shape{p, filters.rows(), matrix.dtype};
  check(shape, dx, dy, filters.cols(), "convolution_backward_input");
  return convolve(ConvolutionPass::backward_input, shape, dx, matrix, dy, false);
}

bool CudaBackend::convolution_backward_filters(const Patches& p, const Tensor& dy, const Tensor& x,
                                               const Tensor& dfilters, bool accumulate) {
  constexpr const char* kernel = "convolution_backward_filters";
  const ConvolutionShape shape{p, dfilters.rows(), x.dtype};
  check(shape, x, dy, dfilters.cols(), kernel);
  require(dfilters.dtype == DType::f32, kernel, "dfilters is not f32");
  return convolve(ConvolutionPass::backward_filters, shape, x, dfilters, dy, accumulate);
}

}  // namespace spectrain

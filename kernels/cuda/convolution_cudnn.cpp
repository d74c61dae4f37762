#include <fmt/format.h>

#include <array>
#include <cstdint>

#include "kernels/cuda/convolution.h"
#include "kernels/cuda/cudnn_convolution.h"
#include "kernels/cuda/cudnn_kept_plans.h"

// Convolutions through cuDNN (cudnn_convolution.h). A plan is made for each pass and shape when it is met for
// the first time, and kept.

namespace spectrain {
namespace {

// Above it an unfolded image, which needs as much, is the better choice: every plan keeps its own.
constexpr std::int64_t kMostWorkspace = std::int64_t{1} << 30;

bool aligned(const Tensor& x) { return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0; }

class CudnnConvolution final : public LibraryConvolution {
 public:
  CudnnConvolution(CudaBackend& backend, std::shared_ptr<const Cudnn> cudnn)
      : backend_(backend), cudnn_(std::move(cudnn)), plans_(backend, cudnn_, "a convolution") {}

  bool run(ConvolutionPass pass, const ConvolutionShape& shape, const Tensor& images, const Tensor& filters,
           const Tensor& places, bool accumulate) override {
    if (!plans_.broken().empty()) return refuse(plans_.broken());
    const bool gradient_of_filters = pass == ConvolutionPass::backward_filters;
    if (!aligned(images) || !aligned(places) || (!gradient_of_filters && !aligned(filters)))
      return refuse("cuDNN's convolutions need tensors aligned to 16 bytes");
    const Plans::Entry& entry = plans_.find({pass, shape}, [this](Plans::Entry& e) { make_plan(e); });
    if (!entry.why_not.empty()) return refuse(entry.why_not);
    if (gradient_of_filters)
      execute_and_add(entry, images, filters, places, accumulate);
    else
      execute(entry, images, filters, places);
    return true;
  }

  std::string why_not() const override { return why_not_; }
  std::string description() const override { return "cuDNN " + cudnn_->version_text(); }

 private:
  using Plans = CudnnKeptPlans<std::pair<ConvolutionPass, ConvolutionShape>>;

  bool refuse(std::string reason) {
    why_not_ = std::move(reason);
    return false;
  }
  void execute(const Plans::Entry& entry, const Tensor& images, const Tensor& filters, const Tensor& places) {
    using T = ConvolutionTensor;
    const std::array<std::pair<T, void*>, 3> bindings = {
        {{T::images, images.data}, {T::filters, filters.data}, {T::places, places.data}}};
    entry.plan->run(plans_.handle(), bindings, entry.workspace_pointer());
  }

  // No kernel reads bf16 and writes float32, and not all add to what is there: the gradient is made in
  // scratch memory, which is asked for in any case, for the next time may be another one and recorded.
  void execute_and_add(const Plans::Entry& entry, const Tensor& images, const Tensor& sum,
                       const Tensor& places, bool accumulate) {
    const DType dtype = entry.key.second.dtype;
    const Tensor gradient(backend_.scratch(static_cast<std::size_t>(sum.numel()) * size_of(dtype)), dtype,
                          sum.shape);
    const bool direct = dtype == sum.dtype && !accumulate && aligned(sum);
    execute(entry, images, direct ? sum : gradient, places);
    if (!direct) backend_.axpby(1, gradient, accumulate ? 1 : 0, sum);
  }

  void make_plan(Plans::Entry& entry) {
    const auto& [pass, shape] = entry.key;
    CudnnWish wish = convolution_wish(shape.dtype);
    wish.most_workspace = kMostWorkspace;
    entry.plan = std::make_unique<CudnnPlan>(cudnn_, convolution_graph(cudnn_, pass, shape, plans_.handle()),
                                             CudnnDevice{plans_.handle(), nullptr}, wish);
    if (const std::int64_t bytes = entry.plan->workspace_bytes(); bytes > 0)
      entry.workspace =
          backend_.allocate(static_cast<std::size_t>(bytes), "the workspace of a convolution through cuDNN");
  }

  CudaBackend& backend_;
  std::shared_ptr<const Cudnn> cudnn_;
  Plans plans_;
  std::string why_not_;
};

}  // namespace

std::unique_ptr<LibraryConvolution> make_library_convolution(CudaBackend& backend) {
  std::string why_not;
  std::shared_ptr<const Cudnn> cudnn = open_cudnn(why_not);
  if (!cudnn) return nullptr;
  return std::make_unique<CudnnConvolution>(backend, std::move(cudnn));
}

}  // namespace spectrain

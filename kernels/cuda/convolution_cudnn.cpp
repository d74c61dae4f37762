#include <fmt/format.h>

#include <array>
#include <cstdint>

#include "kernels/cuda/convolution.h"
#include "kernels/cuda/cudnn_convolution.h"

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
      : backend_(backend), cudnn_(std::move(cudnn)) {
    try {
      cudnn_->check(cudnn_->create(&handle_), "starting");
      cudnn_->check(cudnn_->set_stream(handle_, backend.stream()), "taking a stream");
    } catch (const CudnnError& e) {
      broken_ = e.what();
    }
  }
  ~CudnnConvolution() override {
    entries_.clear();
    if (handle_ != nullptr) cudnn_->destroy(handle_);
  }
  CudnnConvolution(const CudnnConvolution&) = delete;
  CudnnConvolution& operator=(const CudnnConvolution&) = delete;

  bool run(ConvolutionPass pass, const ConvolutionShape& shape, const Tensor& images, const Tensor& filters,
           const Tensor& places, bool accumulate) override {
    if (!broken_.empty()) return refuse(broken_);
    const bool gradient_of_filters = pass == ConvolutionPass::backward_filters;
    if (!aligned(images) || !aligned(places) || (!gradient_of_filters && !aligned(filters)))
      return refuse("cuDNN's convolutions need tensors aligned to 16 bytes");
    const Entry& entry = find(pass, shape);
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
  struct Entry {
    ConvolutionPass pass;
    ConvolutionShape shape;
    std::unique_ptr<CudnnPlan> plan;
    std::unique_ptr<Buffer> workspace;  // of its own: graphs that were recorded point to it
    std::string why_not;                // empty: the plan can be run
  };

  bool refuse(std::string reason) {
    why_not_ = std::move(reason);
    return false;
  }
  void execute(const Entry& entry, const Tensor& images, const Tensor& filters, const Tensor& places) {
    using T = ConvolutionTensor;
    const std::array<std::pair<T, void*>, 3> bindings = {
        {{T::images, images.data}, {T::filters, filters.data}, {T::places, places.data}}};
    entry.plan->run(handle_, bindings, entry.workspace ? entry.workspace->data() : nullptr);
  }

  // No kernel reads bf16 and writes float32, and not all add to what is there: the gradient is made in
  // scratch memory, which is asked for in any case, for the next time may be another one and recorded.
  void execute_and_add(const Entry& entry, const Tensor& images, const Tensor& sum, const Tensor& places,
                       bool accumulate) {
    const DType dtype = entry.shape.dtype;
    const Tensor gradient(backend_.scratch(static_cast<std::size_t>(sum.numel()) * size_of(dtype)), dtype,
                          sum.shape);
    const bool direct = dtype == sum.dtype && !accumulate && aligned(sum);
    execute(entry, images, direct ? sum : gradient, places);
    if (!direct) backend_.axpby(1, gradient, accumulate ? 1 : 0, sum);
  }

  // The plan for a pass and shape, made when it is not there yet.
  const Entry& find(ConvolutionPass pass, const ConvolutionShape& shape) {
    for (const auto& entry : entries_)
      if (entry->pass == pass && entry->shape == shape) return *entry;
    if (backend_.recording())
      throw std::logic_error("recorded work asks for a convolution that did not run before it was recorded");
    auto entry = std::make_unique<Entry>();
    entry->pass = pass;
    entry->shape = shape;
    try {
      make_plan(*entry);
    } catch (const Error& e) {  // no kernel for it, or no room for its workspace
      entry->why_not = e.what();
      entry->plan.reset();
    }
    entries_.push_back(std::move(entry));
    return *entries_.back();
  }
  void make_plan(Entry& entry) {
    CudnnWish wish = convolution_wish(entry.shape.dtype);
    wish.most_workspace = kMostWorkspace;
    entry.plan =
        std::make_unique<CudnnPlan>(cudnn_, convolution_graph(cudnn_, entry.pass, entry.shape, handle_),
                                    CudnnDevice{handle_, nullptr}, wish);
    if (const std::int64_t bytes = entry.plan->workspace_bytes(); bytes > 0)
      entry.workspace =
          backend_.allocate(static_cast<std::size_t>(bytes), "the workspace of a convolution through cuDNN");
  }

  CudaBackend& backend_;
  std::shared_ptr<const Cudnn> cudnn_;
  cudnnHandle_t handle_ = nullptr;
  std::string broken_, why_not_;
  std::vector<std::unique_ptr<Entry>> entries_;
};

}  // namespace

std::unique_ptr<LibraryConvolution> make_library_convolution(CudaBackend& backend) {
  std::string why_not;
  std::shared_ptr<const Cudnn> cudnn = open_cudnn(why_not);
  if (!cudnn) return nullptr;
  return std::make_unique<CudnnConvolution>(backend, std::move(cudnn));
}

}  // namespace spectrain

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/cudnn_attention.h"
#include "kernels/cuda/cudnn_kept_plans.h"

// Attention through cuDNN's fused kernels (cudnn_attention.h). A plan is made for each layout when it is met
// for the first time (its code is compiled, which takes about half a second) and kept.

namespace spectrain {
namespace {

// The backward pass that gives the same result each time keeps dS in memory, 2 bytes for each pair of
// positions of each head: as many sequences at a time as this holds. Sequences do not know of each other, so
// their number changes no result; and one sequence of 1024 already is enough work for all multiprocessors.
constexpr std::int64_t kWorkspaceWanted = std::int64_t{1} << 30;
// Above it the own kernels, which need no such memory, are the better choice.
constexpr std::int64_t kWorkspaceLimit = std::int64_t{8} << 30;

std::int64_t sequences_at_once(const HeadLayout& l) {
  const auto padded = [&l](std::int64_t to) { return (l.context + to - 1) / to * to; };
  const std::int64_t each = 2 * l.heads * padded(64) * padded(128);
  std::int64_t n = std::clamp<std::int64_t>(kWorkspaceWanted / each, 1, l.batch);
  // Each call's row sums begin at a multiple of 16 bytes.
  const auto fits = [&l](std::int64_t each_call) {
    return l.batch % each_call == 0 && (each_call == l.batch || each_call * l.context * l.heads % 4 == 0);
  };
  while (n > 1 && !fits(n)) --n;
  return fits(n) ? n : l.batch;
}

bool aligned(const Tensor& x) { return reinterpret_cast<std::uintptr_t>(x.data) % 16 == 0; }

void* offset(const Tensor& x, std::int64_t elements) {
  return static_cast<std::byte*>(x.data) + static_cast<std::size_t>(elements) * size_of(x.dtype);
}

class CudnnAttention final : public LibraryAttention {
 public:
  CudnnAttention(CudaBackend& backend, std::shared_ptr<const Cudnn> cudnn)
      : backend_(backend), cudnn_(std::move(cudnn)), plans_(backend, cudnn_, "an attention") {
    // Older versions want the lowest number, which exp() also turns into zero.
    minus_infinity_ = cudnn_->version >= 91000 ? -std::numeric_limits<float>::infinity()
                                               : std::numeric_limits<float>::lowest();
  }

  bool forward(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& out,
               const Tensor& lse) override {
    const Plans::Entry* const entry = ready(AttentionPass::forward, layout, {&qkv, &out});
    if (entry == nullptr) return false;
    // A layout goes one way from its first call on: a gradient that cannot be had is found out now, and not
    // after a forward pass whose bits no later one repeats.
    if (lse && ready(AttentionPass::backward, layout, {}) == nullptr) return false;
    void* const rows = lse ? lse.data : scratch_rows(layout);
    float factor = static_cast<float>(scale);
    using T = AttentionTensor;
    const std::array<std::pair<T, void*>, 7> bindings = {{{T::q, qkv.data},
                                                          {T::k, key_of(layout, qkv, 0)},
                                                          {T::v, value_of(layout, qkv, 0)},
                                                          {T::out, out.data},
                                                          {T::lse, rows},
                                                          {T::scale, &factor},
                                                          {T::minus_infinity, &minus_infinity_}}};
    entry->plan->run(plans_.handle(), bindings, entry->workspace_pointer());
    return true;
  }

  bool backward(const HeadLayout& layout, double scale, const Tensor& dout, const Tensor& qkv,
                const Tensor& out, const Tensor& lse, const Tensor& dqkv) override {
    const Plans::Entry* const entry = ready(AttentionPass::backward, layout, {&dout, &qkv, &out, &dqkv});
    if (entry == nullptr) return false;
    float factor = static_cast<float>(scale), one = 1;
    using T = AttentionTensor;
    const std::int64_t sequences = sequences_at_once(layout);
    for (std::int64_t first = 0; first < layout.batch; first += sequences) {
      const std::int64_t row = first * layout.context;
      const std::array<std::pair<T, void*>, 13> bindings = {{{T::q, offset(qkv, row * layout.packed())},
                                                             {T::k, key_of(layout, qkv, row)},
                                                             {T::v, value_of(layout, qkv, row)},
                                                             {T::out, offset(out, row * layout.width())},
                                                             {T::dout, offset(dout, row * layout.width())},
                                                             {T::lse, offset(lse, row * layout.heads)},
                                                             {T::dq, offset(dqkv, row * layout.packed())},
                                                             {T::dk, key_of(layout, dqkv, row)},
                                                             {T::dv, value_of(layout, dqkv, row)},
                                                             {T::out_dot, scratch_rows(layout)},
                                                             {T::scale, &factor},
                                                             {T::one, &one},
                                                             {T::minus_infinity, &minus_infinity_}}};
      entry->plan->run(plans_.handle(), bindings, entry->workspace_pointer());
    }
    return true;
  }

  std::string why_not() const override { return why_not_; }
  std::string description() const override { return "cuDNN " + cudnn_->version_text(); }

 private:
  using Plans = CudnnKeptPlans<std::pair<AttentionPass, HeadLayout>>;

  static void* key_of(const HeadLayout& l, const Tensor& packed, std::int64_t row) {
    return offset(packed, row * l.packed() + l.width());
  }
  static void* value_of(const HeadLayout& l, const Tensor& packed, std::int64_t row) {
    return offset(packed, row * l.packed() + l.width() + l.kv_heads * l.head_dim);
  }
  void* scratch_rows(const HeadLayout& l) {
    return backend_.scratch(static_cast<std::size_t>(l.rows() * l.heads) * sizeof(float));
  }

  bool refuse(std::string reason) {
    why_not_ = std::move(reason);
    return false;
  }
  bool suits(const HeadLayout& l, std::initializer_list<const Tensor*> tensors) {
    if (!plans_.broken().empty()) return refuse(plans_.broken());
    for (const Tensor* const x : tensors) {
      if (x->dtype != DType::bf16)
        return refuse(fmt::format("cuDNN's attention is for bf16, not {}", name_of(x->dtype)));
      if (!aligned(*x)) return refuse("cuDNN's attention needs tensors aligned to 16 bytes");
    }
    if (l.head_dim % 8 != 0 || l.head_dim > 128)
      return refuse(fmt::format("cuDNN's attention is for head_dim 8, 16, ... 128, not {}", l.head_dim));
    return true;
  }

  // The plan for a layout, made when it is not there yet; null: why_not_ says why.
  const Plans::Entry* ready(AttentionPass pass, const HeadLayout& layout,
                            std::initializer_list<const Tensor*> tensors) {
    if (!suits(layout, tensors)) return nullptr;
    const Plans::Entry& entry = plans_.find({pass, layout}, [this](Plans::Entry& e) { make_plan(e); });
    if (entry.why_not.empty()) return &entry;
    why_not_ = entry.why_not;
    return nullptr;
  }
  // Throws where there can be no gradient; what is not found out here shows when its plan is made.
  void check_backward(const HeadLayout& part) {
    // Up to 9.15 the backward pass reads keys behind the last one of such a sequence.
    if (cudnn_->version <= 91500 && part.context % 128 != 0)
      throw Error(fmt::format(
          "{} computes the gradient of contexts that are multiples of 128 only, and this one is {}",
          description(), part.context));
    const CudnnGraph graph = attention_graph(cudnn_, AttentionPass::backward, part, plans_.handle());
    if (engine_configurations(*cudnn_, graph.descriptor(), {plans_.handle(), nullptr},
                              attention_wish(AttentionPass::backward))
            .empty())
      throw Error(description() + " has no kernel for the gradient of this attention on this device");
  }
  void make_plan(Plans::Entry& entry) {
    const auto& [pass, layout] = entry.key;
    HeadLayout part = layout;
    part.batch = sequences_at_once(layout);
    check_backward(part);  // for the forward pass, too: evaluation and training go the same way
    if (pass == AttentionPass::forward) part.batch = layout.batch;
    entry.plan = std::make_unique<CudnnPlan>(cudnn_, attention_graph(cudnn_, pass, part, plans_.handle()),
                                             CudnnDevice{plans_.handle(), nullptr}, attention_wish(pass));
    const std::int64_t bytes = entry.plan->workspace_bytes();
    if (bytes > kWorkspaceLimit)
      throw Error(fmt::format("{} asks for {:.1f} GB of workspace for a context of {}", description(),
                              static_cast<double>(bytes) / 1e9, layout.context));
    if (bytes > 0)
      entry.workspace =
          backend_.allocate(static_cast<std::size_t>(bytes), "the workspace of cuDNN's attention");
  }

  CudaBackend& backend_;
  std::shared_ptr<const Cudnn> cudnn_;
  Plans plans_;
  float minus_infinity_;
  std::string why_not_;
};

}  // namespace

std::unique_ptr<LibraryAttention> make_library_attention(CudaBackend& backend) {
  std::string why_not;
  std::shared_ptr<const Cudnn> cudnn = open_cudnn(why_not);
  if (!cudnn) return nullptr;
  return std::make_unique<CudnnAttention>(backend, std::move(cudnn));
}

}  // namespace spectrain

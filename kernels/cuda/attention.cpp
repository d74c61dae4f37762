#include "kernels/cuda/attention.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/cpu/checks.h"

namespace spectrain {
namespace {

void check(const HeadLayout& l, const Tensor& qkv, const Tensor& first_key, const Tensor& out,
           const Tensor& lse, bool may_lack_lse, std::string_view kernel) {
  require(l.head_dim >= 1 && l.head_dim <= kLargestPlainHeadDim, kernel, [&] {
    return fmt::format("head_dim is {}, a GPU takes 1 to {}", l.head_dim, kLargestPlainHeadDim);
  });
  require(l.heads >= 1 && l.kv_heads >= 1 && l.heads % l.kv_heads == 0, kernel,
          [&] { return fmt::format("{} query heads cannot share {} key/value heads", l.heads, l.kv_heads); });
  require(l.context < (1 << 30), kernel, [&] { return fmt::format("a context of {} tokens", l.context); });
  require_compute(qkv, kernel, "qkv");
  require(qkv.numel() == l.rows() * l.packed(), kernel, [&] {
    return fmt::format("qkv {} is not [batch * context, packed] = [{}, {}]", qkv.shape.str(), l.rows(),
                       l.packed());
  });
  require(out.dtype == qkv.dtype && out.numel() == l.rows() * l.width(), kernel, [&] {
    return fmt::format("out {} {} is not {} [batch * context, width] = [{}, {}]", name_of(out.dtype),
                       out.shape.str(), name_of(qkv.dtype), l.rows(), l.width());
  });
  require_vector(first_key, DType::i32, l.rows(), true, kernel, "first_key");
  require_vector(lse, DType::f32, l.batch * l.heads * l.context, may_lack_lse, kernel, "lse");
}

}  // namespace

LibraryAttention* CudaBackend::Attention::library_for(const HeadLayout& layout, const Tensor& qkv,
                                                      const Tensor& first_key) const {
  // In float32 there is one path, the exact one.
  if (!library || qkv.dtype != DType::bf16 || first_key) return nullptr;
  return std::find(refused.begin(), refused.end(), layout) == refused.end() ? library.get() : nullptr;
}

void CudaBackend::Attention::note_refusal(const HeadLayout& l, int capability) {
  refused.push_back(l);
  notes.push_back(fmt::format(
      "attention of {} x {} tokens, {} heads on {} of {}, compute capability {}.{}: {} has no kernel for it "
      "({}); the program's own is used",
      l.batch, l.context, l.heads, l.kv_heads, l.head_dim, capability / 10, capability % 10,
      library->description(), library->why_not()));
}

CudaBackend::Attention& CudaBackend::attention_state() {
  if (!attention_) {
    attention_ = std::make_unique<Attention>();
    if (options_.cudnn) attention_->library = make_library_attention(*this);
  }
  return *attention_;
}

void CudaBackend::attention(const HeadLayout& layout, double scale, const Tensor& qkv,
                            const Tensor& first_key, const Tensor& out, const Tensor& lse) {
  check(layout, qkv, first_key, out, lse, true, "attention");
  if (layout.rows() == 0) return;
  Attention& state = attention_state();
  if (LibraryAttention* library = state.library_for(layout, qkv, first_key)) {
    if (library->forward(layout, scale, qkv, out, lse)) return;
    state.note_refusal(layout, capability_);
  }
  if (flash_attention(*this, layout, scale, qkv, first_key, out, lse)) return;
  plain_attention(*this, layout, scale, qkv, first_key, out, lse);
}

void CudaBackend::attention_backward(const HeadLayout& layout, double scale, const Tensor& dout,
                                     const Tensor& qkv, const Tensor& first_key, const Tensor& out,
                                     const Tensor& lse, const Tensor& dqkv) {
  constexpr std::string_view kernel = "attention_backward";
  check(layout, qkv, first_key, out, lse, false, kernel);
  require_same(dout, out, kernel, "out and dout");
  require_same(dqkv, qkv, kernel, "qkv and dqkv");
  if (layout.rows() == 0) return;
  Attention& state = attention_state();
  if (LibraryAttention* library = state.library_for(layout, qkv, first_key)) {
    if (library->backward(layout, scale, dout, qkv, out, lse, dqkv)) return;
    state.note_refusal(layout, capability_);
  }
  if (flash_attention_backward(*this, layout, scale, dout, qkv, first_key, out, lse, dqkv)) return;
  plain_attention_backward(*this, layout, scale, dout, qkv, first_key, out, lse, dqkv);
}

}  // namespace spectrain

#include "tests/cuda_emulator/attention_calls.h"

#include "kernels/cuda/attention.h"

namespace spectrain::emulator {

AttentionCalls::AttentionCalls(const CudaOptions& options)
    : backend_(std::make_unique<CudaBackend>(options)) {}
AttentionCalls::~AttentionCalls() = default;

bool AttentionCalls::forward(Way way, const HeadLayout& layout, double scale, const Tensor& qkv,
                             const Tensor& first_key, const Tensor& out, const Tensor& lse) {
  auto& cuda = static_cast<CudaBackend&>(*backend_);
  if (way == Way::flash) {
    if (!flash_attention(cuda, layout, scale, qkv, first_key, out, lse)) return false;
  } else {
    plain_attention(cuda, layout, scale, qkv, first_key, out, lse);
  }
  cuda.wait();
  return true;
}

bool AttentionCalls::backward(Way way, const HeadLayout& layout, double scale, const Tensor& dout,
                              const Tensor& qkv, const Tensor& first_key, const Tensor& out,
                              const Tensor& lse, const Tensor& dqkv) {
  auto& cuda = static_cast<CudaBackend&>(*backend_);
  if (way == Way::flash) {
    if (!flash_attention_backward(cuda, layout, scale, dout, qkv, first_key, out, lse, dqkv)) return false;
  } else {
    plain_attention_backward(cuda, layout, scale, dout, qkv, first_key, out, lse, dqkv);
  }
  cuda.wait();
  return true;
}

}  // namespace spectrain::emulator

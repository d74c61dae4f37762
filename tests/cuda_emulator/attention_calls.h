#pragma once

#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/options.h"

namespace spectrain::emulator {

// The attention's own kernels, one by one and with a mask, on an emulated device of their own. Tensors are in
// host memory, which the emulated device reads too.
class AttentionCalls {
 public:
  enum class Way { flash, plain };
  explicit AttentionCalls(const CudaOptions& options = {});
  ~AttentionCalls();
  // False: the kernels do not take this, and nothing was done.
  bool forward(Way way, const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& first_key,
               const Tensor& out, const Tensor& lse);
  bool backward(Way way, const HeadLayout& layout, double scale, const Tensor& dout, const Tensor& qkv,
                const Tensor& first_key, const Tensor& out, const Tensor& lse, const Tensor& dqkv);

 private:
  std::unique_ptr<Backend> backend_;
};

}  // namespace spectrain::emulator

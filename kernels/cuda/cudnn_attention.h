#pragma once

#include <cstdint>
#include <memory>

#include "kernels/backend.h"
#include "kernels/cuda/cudnn_plan.h"

// Causal attention as cuDNN's fused engines know it. Such an engine is not called by name: one describes the
// arithmetic operation by operation, and an engine recognises the whole pattern; what it does not recognise
// is "not supported". The patterns are those of NVIDIA's own frontend (docs.nvidia.com/deeplearning/cudnn,
// "Attention"; the operations in their order can be read in the headers of github.com/NVIDIA/cudnn-frontend).
// What a recognised graph computes is what it says, also where that is no attention: hence both is tested,
// that it is recognised and that its arithmetic is right (tests/kernels/cudnn_graph_test.cpp).

namespace spectrain {

enum class AttentionPass : std::uint8_t {
  forward,
  backward,        // the same result each time: dS goes through memory, 2 bytes for each pair of positions
  backward_atomic  // dq is summed by atomic additions in float32, in the order they come; faster
};

// What a caller binds to memory when the graph runs. Scalars are bound to host memory.
enum class AttentionTensor : std::int64_t {
  q = 1,
  k,
  v,
  out,
  lse,
  dout,
  dq,
  dk,
  dv,
  out_dot,  // [batch, heads, context] f32, between the kernels: sum of dout*out over the head
  dq_sum,   // [batch, heads, context, head_dim] f32, backward_atomic alone
  scale,    // f32 scalars
  one,
  minus_infinity,
};

// bf16 tensors of the packed layout; `layout.batch` sequences in one call. Throws CudnnError where cuDNN
// refuses the description. A handle is needed only to run it (null: for looking at it).
CudnnGraph attention_graph(std::shared_ptr<const Cudnn> cudnn, AttentionPass pass, const HeadLayout& layout,
                           cudnnHandle_t handle = nullptr);
CudnnWish attention_wish(AttentionPass pass);

}  // namespace spectrain

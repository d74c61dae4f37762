#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/cuda/cuda_backend.h"

// Attention on a GPU has two ways: cuDNN's kernels, where the library is found and has one for the shape, and
// own ones for everything else. attention.cpp chooses.

namespace spectrain {

// Through a library. Both return false, having done nothing, when it has no kernel for the layout on this
// device (why_not() says why); that answer holds for all later calls with the layout.
class LibraryAttention {
 public:
  virtual ~LibraryAttention() = default;
  virtual bool forward(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& out,
                       const Tensor& lse) = 0;
  virtual bool backward(const HeadLayout& layout, double scale, const Tensor& dout, const Tensor& qkv,
                        const Tensor& out, const Tensor& lse, const Tensor& dqkv) = 0;
  virtual std::string why_not() const = 0;
  virtual std::string description() const = 0;  // "cuDNN 9.19.0"
};
// Null where cuDNN is not there; attention_cudnn.cpp, or attention_none.cpp in a build without it.
std::unique_ptr<LibraryAttention> make_library_attention(CudaBackend& backend);

// Own kernels (flash_attention.cu): bf16 with head_dim 64 or 128 on tensor cores. False: not for this layout.
bool flash_attention(CudaBackend& backend, const HeadLayout& layout, double scale, const Tensor& qkv,
                     const Tensor& first_key, const Tensor& out, const Tensor& lse);
bool flash_attention_backward(CudaBackend& backend, const HeadLayout& layout, double scale,
                              const Tensor& dout, const Tensor& qkv, const Tensor& first_key,
                              const Tensor& out, const Tensor& lse, const Tensor& dqkv);

// Own kernels for every layout and dtype, f32 included: one warp per query (plain_attention.cu). Slow; the
// float32 reference path and what tests compare with.
constexpr std::int64_t kLargestPlainHeadDim = 256;
void plain_attention(CudaBackend& backend, const HeadLayout& layout, double scale, const Tensor& qkv,
                     const Tensor& first_key, const Tensor& out, const Tensor& lse);
void plain_attention_backward(CudaBackend& backend, const HeadLayout& layout, double scale,
                              const Tensor& dout, const Tensor& qkv, const Tensor& first_key,
                              const Tensor& out, const Tensor& lse, const Tensor& dqkv);

struct CudaBackend::Attention {
  std::unique_ptr<LibraryAttention> library;
  std::vector<HeadLayout> refused;  // by the library
  std::vector<std::string> notes;   // one for each, that the program may print

  // The library, when it may be asked about this layout; else null. It is asked for plain causal attention
  // only: with a first key for each query the program's own kernels skip what nobody sees.
  LibraryAttention* library_for(const HeadLayout& layout, const Tensor& qkv, const Tensor& first_key) const;
  void note_refusal(const HeadLayout& layout, int capability);
};

}  // namespace spectrain

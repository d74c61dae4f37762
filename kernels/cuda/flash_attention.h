#pragma once

#include <initializer_list>
#include <type_traits>

#include "kernels/cuda/attention.h"
#include "kernels/cuda/flash_attention_tiles.h"

// What the passes of flash attention share on the host. Only for .cu files.

namespace spectrain {

// Whether the kernels take this: bf16, head_dim 64 or 128, rows (of all `tensors`) that can be copied 16
// bytes at a time.
bool flash_fits(const HeadLayout& layout, double scale, std::initializer_list<Tensor> tensors);

// For blocks of `rows` rows of `heads` heads in each sequence.
FlashArgs flash_arguments(const HeadLayout& layout, double scale, const Tensor& qkv, const Tensor& first_key,
                          int rows, std::int64_t heads);

// The forward pass with wgmma (flash_attention_wgmma.cu): whether it may run, and itself. Of `arguments` all
// but what says how the work is cut.
bool flash_has_wgmma(const CudaBackend& backend);
void flash_attention_wgmma(CudaBackend& backend, const HeadLayout& layout, const FlashArgs& arguments);
// dq, dk and dv, the same way, from lse2 and delta (flash_attention_backward_wgmma.cu).
void flash_attention_backward_wgmma(CudaBackend& backend, const HeadLayout& layout,
                                    const FlashArgs& arguments);

// dk and dv, from all of `arguments` but what says how the work is cut (flash_attention_keys.cu).
void flash_attention_keys(CudaBackend& backend, const HeadLayout& layout, const FlashArgs& arguments);

// Calls body(D, masked) with compile-time constants: std::integral_constant<int, 64 or 128> and
// std::bool_constant.
template <class Body>
void with_flash_kernel(const HeadLayout& layout, const Visible& visible, Body body) {
  const bool masked = visible.first != nullptr;
  const auto choose = [&](auto D) { masked ? body(D, std::true_type{}) : body(D, std::false_type{}); };
  layout.head_dim == 64 ? choose(std::integral_constant<int, 64>{})
                        : choose(std::integral_constant<int, 128>{});
}

}  // namespace spectrain

#include "kernels/cpu/checks.h"

#include <fmt/format.h>

namespace spectrain {

void require(bool ok, std::string_view kernel, std::string_view what) {
  if (!ok) throw std::logic_error(fmt::format("{}: {}", kernel, what));
}

void require_compute(const Tensor& t, std::string_view kernel, std::string_view name) {
  if (!t && t.numel() != 0) throw std::logic_error(fmt::format("{}: {} has no memory", kernel, name));
  if (t.dtype != DType::f32 && t.dtype != DType::bf16)
    throw std::logic_error(fmt::format("{}: {} {} is {}, kernels compute in f32 and bf16", kernel, name,
                                       t.shape.str(), name_of(t.dtype)));
}

void require_same(const Tensor& a, const Tensor& b, std::string_view kernel, std::string_view what) {
  if (a.dtype != b.dtype || a.numel() != b.numel())
    throw std::logic_error(fmt::format("{}: {} differ: {} {} and {} {}", kernel, what, name_of(a.dtype),
                                       a.shape.str(), name_of(b.dtype), b.shape.str()));
}

void require_vector(const Tensor& t, DType dtype, std::int64_t n, bool may_be_empty, std::string_view kernel,
                    std::string_view name) {
  if (!t && may_be_empty) return;
  if (!t || t.dtype != dtype || t.numel() != n)
    throw std::logic_error(fmt::format("{}: {} must be {} elements of {}, it is {} {}{}", kernel, name, n,
                                       name_of(dtype), name_of(t.dtype), t.shape.str(), t ? "" : " (empty)"));
}

}  // namespace spectrain

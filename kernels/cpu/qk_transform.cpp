#include "kernels/cpu/isa/qk_transform.h"

#include <fmt/format.h>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {
namespace {

void check(const HeadLayout& layout, const QkTransform& t, const Tensor& x, const Tensor& y,
           const Tensor& rstd, std::string_view kernel) {
  require(layout.head_dim >= 1 && layout.head_dim <= kLargestHead, kernel, [&] {
    return fmt::format("head_dim is {}, the CPU takes 1 to {}", layout.head_dim, kLargestHead);
  });
  require_compute(x, kernel, "the input");
  require_same(x, y, kernel, "input and output");
  require(x.numel() == layout.rows() * layout.packed(), kernel, [&] {
    return fmt::format("{} is not [batch * context, packed] = [{}, {}]", x.shape.str(), layout.rows(),
                       layout.packed());
  });
  require_vector(rstd, DType::f32, layout.rows() * (layout.heads + layout.kv_heads), !t.norm, kernel, "rstd");
  if (!t.cos && !t.sin) return;
  require(layout.head_dim % 2 == 0, kernel,
          [&] { return fmt::format("head_dim {} is odd, a rotation needs pairs", layout.head_dim); });
  require_vector(t.cos, DType::f32, layout.context * (layout.head_dim / 2), false, kernel, "cos");
  require_vector(t.sin, DType::f32, layout.context * (layout.head_dim / 2), false, kernel, "sin");
  require(t.sign == 1 || t.sign == -1, kernel, "the sign of the rotation must be 1 or -1");
}

QkTransformArgs arguments(const HeadLayout& layout, const QkTransform& t, const Tensor& rstd) {
  QkTransformArgs a{};
  a.context = layout.context;
  a.heads = layout.heads;
  a.kv_heads = layout.kv_heads;
  a.head_dim = layout.head_dim;
  a.norm = t.norm;
  a.interleaved = t.pairs == RotaryPairs::interleaved;
  a.eps = static_cast<float>(t.eps);
  a.sign = static_cast<float>(t.sign);
  a.cos = t.cos ? t.cos.as<float>() : nullptr;
  a.sin = t.sin ? t.sin.as<float>() : nullptr;
  a.rstd = rstd ? rstd.as<float>() : nullptr;
  return a;
}

std::int64_t row_grain(const HeadLayout& layout) {
  return std::max<std::int64_t>(1, kElementGrain / layout.packed());
}

}  // namespace

void CpuBackend::qk_transform(const HeadLayout& layout, const QkTransform& t, const Tensor& in,
                              const Tensor& out, const Tensor& rstd) {
  check(layout, t, in, out, rstd, "qk_transform");
  QkTransformArgs a = arguments(layout, t, rstd);
  a.in = in.data;
  a.out = out.data;
  const auto forward = SPECTRAIN_ISA_SELECT(qk_transform_table).forward[in.dtype == DType::bf16];
  parallel_ranges(threads_, layout.rows(), row_grain(layout),
                  [&](std::int64_t begin, std::int64_t end) { forward(a, begin, end); });
}

void CpuBackend::qk_transform_backward(const HeadLayout& layout, const QkTransform& t, const Tensor& dout,
                                       const Tensor& out, const Tensor& rstd, const Tensor& din) {
  check(layout, t, dout, din, rstd, "qk_transform_backward");
  // Only the norm's gradient reads the output; a rotation alone is undone from the gradient by itself.
  if (t.norm) require_same(dout, out, "qk_transform_backward", "output and gradient");
  QkTransformArgs a = arguments(layout, t, rstd);
  a.in = dout.data;
  a.result = out.data;
  a.out = din.data;
  const auto backward = SPECTRAIN_ISA_SELECT(qk_transform_table).backward[dout.dtype == DType::bf16];
  parallel_ranges(threads_, layout.rows(), row_grain(layout),
                  [&](std::int64_t begin, std::int64_t end) { backward(a, begin, end); });
}

}  // namespace spectrain

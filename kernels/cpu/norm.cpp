#include "kernels/cpu/isa/norm.h"

#include <span>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {
namespace {

std::size_t dtype_index(const Tensor& t) { return t.dtype == DType::bf16 ? 1 : 0; }
const float* pointer(const Tensor& t) { return t ? t.as<float>() : nullptr; }
float* writable(const Tensor& t) { return t ? t.as<float>() : nullptr; }

std::int64_t row_grain(std::int64_t cols) {
  return std::max<std::int64_t>(1, kElementGrain / 2 / std::max<std::int64_t>(1, cols));
}

void forward(int threads, const char* kernel, NormKind kind, const Tensor& a, const Tensor& b,
             const Tensor& x, const Tensor& gain, const Tensor& bias, double eps, const Tensor& y,
             const Tensor& mean, const Tensor& rstd) {
  const std::int64_t R = x.rows(), C = x.cols();
  require_compute(x, kernel, "x");
  require_same(x, y, kernel, "x and y");
  require_vector(gain, DType::f32, C, true, kernel, "gain");
  require_vector(bias, DType::f32, C, true, kernel, "bias");
  if (kind == NormKind::layer) require_vector(mean, DType::f32, R, true, kernel, "mean");
  require_vector(rstd, DType::f32, R, true, kernel, "rstd");
  NormForward p;
  p.a = a.data;
  p.b = b.data;
  p.x = x.data;
  p.gain = pointer(gain);
  p.bias = pointer(bias);
  p.eps = static_cast<float>(eps);
  p.y = y.data;
  p.mean = kind == NormKind::layer ? writable(mean) : nullptr;
  p.rstd = writable(rstd);
  p.cols = C;
  const auto rows = SPECTRAIN_ISA_SELECT(norm_table).forward[dtype_index(x)][static_cast<std::size_t>(kind)];
  parallel_ranges(threads, R, row_grain(C),
                  [&](std::int64_t begin, std::int64_t end) { rows(p, begin, end); });
}

// Adds the teams' shares in the order of the threads: the same bits for the same number of threads.
void gather(std::span<const float> shares, std::size_t first, std::size_t stride, const Tensor& out,
            bool accumulate) {
  if (!out) return;
  float* result = out.as<float>();
  for (std::size_t c = 0; c < static_cast<std::size_t>(out.numel()); ++c) {
    float sum = 0;
    for (std::size_t i = first + c; i < shares.size(); i += stride) sum += shares[i];
    result[c] = accumulate ? result[c] + sum : sum;
  }
}

}  // namespace

void CpuBackend::norm(NormKind kind, const Tensor& x, const Tensor& gain, const Tensor& bias, double eps,
                      const Tensor& y, const Tensor& mean, const Tensor& rstd) {
  forward(threads_, "norm", kind, {}, {}, x, gain, bias, eps, y, mean, rstd);
}

void CpuBackend::add_norm(NormKind kind, const Tensor& a, const Tensor& b, const Tensor& gain,
                          const Tensor& bias, double eps, const Tensor& sum, const Tensor& y,
                          const Tensor& mean, const Tensor& rstd) {
  require_same(a, b, "add_norm", "a and b");
  require_same(a, sum, "add_norm", "a and sum");
  forward(threads_, "add_norm", kind, a, b, sum, gain, bias, eps, y, mean, rstd);
}

void CpuBackend::norm_backward(NormKind kind, const Tensor& dy, const Tensor& x, const Tensor& gain,
                               const Tensor& mean, const Tensor& rstd, const Tensor& dx, bool accumulate,
                               const Tensor& dgain, const Tensor& dbias, bool accumulate_parameters) {
  const char* kernel = "norm_backward";
  const std::int64_t R = x.rows(), C = x.cols();
  require_compute(x, kernel, "x");
  require_same(x, dy, kernel, "x and dy");
  require_same(x, dx, kernel, "x and dx");
  require_vector(gain, DType::f32, C, true, kernel, "gain");
  require_vector(rstd, DType::f32, R, false, kernel, "rstd");
  if (kind == NormKind::layer) require_vector(mean, DType::f32, R, false, kernel, "mean");
  require_vector(dgain, DType::f32, C, true, kernel, "dgain");
  require_vector(dbias, DType::f32, C, true, kernel, "dbias");
  NormBackward p;
  p.dy = dy.data;
  p.x = x.data;
  p.gain = pointer(gain);
  p.mean = kind == NormKind::layer ? pointer(mean) : nullptr;
  p.rstd = pointer(rstd);
  p.dx = dx.data;
  p.accumulate = accumulate;
  p.cols = C;
  const auto rows = SPECTRAIN_ISA_SELECT(norm_table).backward[dtype_index(x)][static_cast<std::size_t>(kind)];

  // The rows are cut into as many fixed ranges as there are threads, each with its own sums, so that the
  // result does not depend on which thread the runtime gives to which range, or on how many it grants.
  const bool parameters = dgain || dbias;
  const std::int64_t ranges = std::max<std::int64_t>(1, std::min<std::int64_t>(threads_, R / row_grain(C)));
  const auto stride = static_cast<std::size_t>((2 * C + 15) / 16 * 16);
  float* shares = parameters ? scratch(ranges * static_cast<std::int64_t>(stride)) : nullptr;
  parallel_ranges(static_cast<int>(ranges), ranges, 1, [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first; i < last; ++i) {
      float* share = parameters ? shares + static_cast<std::size_t>(i) * stride : nullptr;
      if (share) std::fill_n(share, stride, 0.0f);
      rows(p, share, share ? share + C : nullptr, R * i / ranges, R * (i + 1) / ranges);
    }
  });
  const std::span<const float> all(shares, shares ? static_cast<std::size_t>(ranges) * stride : 0);
  gather(all, 0, stride, dgain, accumulate_parameters);
  gather(all, static_cast<std::size_t>(C), stride, dbias, accumulate_parameters);
}

}  // namespace spectrain

#include "kernels/cpu/isa/update.h"

#include <type_traits>

#include "kernels/adamw_factors.h"
#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/isa/convert.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {
namespace {

std::byte* at(const Tensor& t, std::int64_t element) {
  return static_cast<std::byte*>(t.data) + element * static_cast<std::int64_t>(size_of(t.dtype));
}

}  // namespace

void CpuBackend::adamw(const AdamWStep& s, const Tensor& w, const Tensor& g, const Tensor& m,
                       const Tensor& v) {
  require_same(w, g, "adamw", "w and g");
  require_same(w, m, "adamw", "w and m");
  require_same(w, v, "adamw", "w and v");
  require(s.step >= 1, "adamw", "steps count from 1");
  float *pw = w.as<float>(), *pm = m.as<float>(), *pv = v.as<float>();
  const float* pg = g.as<float>();
  const AdamWFactors f = adamw_factors(s);
  const auto kernel = SPECTRAIN_ISA_SELECT(update_table).adamw;
  parallel_ranges(threads_, w.numel(), kElementGrain / 4, [&](std::int64_t begin, std::int64_t end) {
    kernel(f, pw + begin, pg + begin, pm + begin, pv + begin, end - begin);
  });
}

void CpuBackend::ema_momentum(const Tensor& g, double gradient_scale, double mu, bool nesterov,
                              const Tensor& m, const Tensor& u) {
  require_same(g, m, "ema_momentum", "g and m");
  require_compute(u, "ema_momentum", "u");
  require(u.numel() == g.numel(), "ema_momentum", "g and u have different numbers of elements");
  const float* pg = g.as<float>();
  float* pm = m.as<float>();
  const auto kernel = SPECTRAIN_ISA_SELECT(update_table).ema_momentum[u.dtype == DType::bf16];
  parallel_ranges(threads_, g.numel(), kElementGrain / 4, [&](std::int64_t begin, std::int64_t end) {
    kernel(pg + begin, static_cast<float>(gradient_scale), static_cast<float>(mu), static_cast<float>(1 - mu),
           nesterov, pm + begin, at(u, begin), end - begin);
  });
}

void CpuBackend::apply_update(const Tensor& w, double keep, double step, const Tensor& u) {
  require_compute(u, "apply_update", "u");
  require(u.numel() == w.numel(), "apply_update", "w and u have different numbers of elements");
  float* pw = w.as<float>();
  const KeepFactor k = keep_factor(keep);
  const auto& table = SPECTRAIN_ISA_SELECT(update_table);
  const auto kernel =
      k.shrinks ? table.shrink_and_step[u.dtype == DType::bf16] : table.keep_and_step[u.dtype == DType::bf16];
  parallel_ranges(threads_, w.numel(), kElementGrain / 4, [&](std::int64_t begin, std::int64_t end) {
    kernel(pw + begin, k.factor, static_cast<float>(step), at(u, begin), end - begin);
  });
}

void CpuBackend::round_fp8(Fp8 format, double scale, const Tensor& x, const Tensor& y) {
  require_compute(x, "round_fp8", "x");
  require_compute(y, "round_fp8", "y");
  require(x.numel() == y.numel() && scale > 0, "round_fp8",
          "x and y of one size, and a scale above 0, are needed");
  const Fp8Limits limits = limits_of(format);
  const auto factor = static_cast<float>(scale), back = static_cast<float>(1 / scale);
  const auto run = [&](const auto* from, auto* to) {
    using To = std::remove_pointer_t<decltype(to)>;
    parallel_ranges(threads_, y.numel(), kElementGrain / 4, [=](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        to[i] = To(fp8_rounded(limits, factor * static_cast<float>(from[i])) * back);
    });
  };
  const auto with_target = [&](const auto* from) {
    y.dtype == DType::f32 ? run(from, y.as<float>()) : run(from, y.as<bf16>());
  };
  x.dtype == DType::f32 ? with_target(x.as<float>()) : with_target(x.as<bf16>());
}

void CpuBackend::axpby(double a, const Tensor& x, double b, const Tensor& y) {
  require(x.numel() == y.numel(), "axpby", "x and y have different numbers of elements");
  require(x.dtype != DType::i32 && y.dtype != DType::i32, "axpby", "i32 is not a float dtype");
  require(x.dtype != DType::f16 && y.dtype != DType::f16, "axpby", "the CPU has no f16");
  const auto kernel = SPECTRAIN_ISA_SELECT(convert_table)
                          .axpby[static_cast<std::size_t>(x.dtype)][static_cast<std::size_t>(y.dtype)];
  parallel_ranges(threads_, y.numel(), kElementGrain, [&](std::int64_t begin, std::int64_t end) {
    kernel(a, at(x, begin), b, at(y, begin), end - begin);
  });
}

}  // namespace spectrain

#include "kernels/cpu/isa/update.h"

#include <cmath>
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

void CpuBackend::adamw(const AdamWStep& s, std::span<const AdamWPart> parts) {
  for (const AdamWPart& p : parts) {
    require_same(p.w, p.g, "adamw", "w and g");
    require_same(p.w, p.m, "adamw", "w and m");
    require_same(p.w, p.v, "adamw", "w and v");
    require(p.w.dtype == DType::f32, "adamw", "w is not f32");
  }
  require(s.step >= 1, "adamw", "steps count from 1");
  const double scale = seen(s.gradient_scale);
  if (std::isnan(scale)) return;
  const auto rates = s.rates();
  const AdamWFactors f = adamw_factors(s, scale, s.late_rates ? s.late_rates.as<double>() : rates.data());
  const auto kernel = SPECTRAIN_ISA_SELECT(update_table).adamw;
  parallel_parts(
      threads_, parts, kElementGrain / 4, [](const AdamWPart& p) { return p.w.numel(); },
      [&](const AdamWPart& p, std::int64_t begin, std::int64_t end) {
        kernel(f, p.w.as<float>() + begin, p.g.as<float>() + begin, p.m.as<float>() + begin,
               p.v.as<float>() + begin, end - begin);
      });
}

void CpuBackend::ema_momentum(const MomentumStep& s, std::span<const MomentumPart> parts) {
  for (const MomentumPart& p : parts) {
    require_same(p.g, p.m, "ema_momentum", "g and m");
    require(p.g.dtype == DType::f32, "ema_momentum", "g is not f32");
    require_compute(p.u, "ema_momentum", "u");
    require(p.u.numel() == p.g.numel(), "ema_momentum", "g and u have different numbers of elements");
    require(p.u.dtype == parts[0].u.dtype, "ema_momentum", "u is not of one dtype in all parts");
  }
  const double scale = seen(s.gradient_scale) * seen(s.weight), mu = seen(s.mu);
  if (parts.empty() || std::isnan(scale)) return;
  const auto kernel = SPECTRAIN_ISA_SELECT(update_table).ema_momentum[parts[0].u.dtype == DType::bf16];
  parallel_parts(
      threads_, parts, kElementGrain / 4, [](const MomentumPart& p) { return p.g.numel(); },
      [&](const MomentumPart& p, std::int64_t begin, std::int64_t end) {
        kernel(p.g.as<float>() + begin, static_cast<float>(scale), static_cast<float>(mu),
               static_cast<float>(1 - mu), s.nesterov, p.m.as<float>() + begin, at(p.u, begin), end - begin);
      });
}

void CpuBackend::apply_update(const Number& keep, const Number& step, std::span<const UpdatePart> parts,
                              const Tensor& verdict) {
  for (const UpdatePart& p : parts) {
    require(p.w.dtype == DType::f32, "apply_update", "w is not f32");
    require_compute(p.u, "apply_update", "u");
    require(p.u.numel() == p.w.numel(), "apply_update", "w and u have different numbers of elements");
    require(p.u.dtype == parts[0].u.dtype, "apply_update", "u is not of one dtype in all parts");
  }
  if (parts.empty() || std::isnan(seen({1, verdict}))) return;
  const KeepFactor k = keep_factor(seen(keep));
  const auto factor = static_cast<float>(seen(step));
  const auto& table = SPECTRAIN_ISA_SELECT(update_table);
  const bool half = parts[0].u.dtype == DType::bf16;
  const auto kernel = k.shrinks ? table.shrink_and_step[half] : table.keep_and_step[half];
  parallel_parts(
      threads_, parts, kElementGrain / 4, [](const UpdatePart& p) { return p.w.numel(); },
      [&](const UpdatePart& p, std::int64_t begin, std::int64_t end) {
        kernel(p.w.as<float>() + begin, k.factor, factor, at(p.u, begin), end - begin);
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

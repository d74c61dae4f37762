#include "kernels/cpu/isa/cross_entropy.h"

#include <fmt/format.h>

#include "kernels/cpu/checks.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/parallel.h"

namespace spectrain {

void CpuBackend::cross_entropy(const Tensor& logits, const Tensor& targets, std::int64_t vocab,
                               const Softcap& cap, double gradient_scale, const Tensor& losses,
                               const Tensor& dlogits) {
  constexpr std::string_view kernel = "cross_entropy";
  const std::int64_t R = logits.rows(), columns = logits.cols();
  require_vector(logits, DType::f32, R * columns, R == 0, kernel, "logits");
  require_vector(targets, DType::i32, R, R == 0, kernel, "targets");
  require_vector(losses, DType::f32, R, R == 0, kernel, "losses");
  require(vocab >= 1 && vocab <= columns, kernel,
          [&] { return fmt::format("vocab {} does not fit logits {}", vocab, logits.shape.str()); });
  if (dlogits) {
    require_compute(dlogits, kernel, "dlogits");
    require(dlogits.numel() == logits.numel(), kernel, [&] {
      return fmt::format("dlogits {} and logits {} differ", dlogits.shape.str(), logits.shape.str());
    });
  }
  require(cap.kind == Softcap::Kind::none || cap.cap > 0, kernel,
          [&] { return fmt::format("a softcap of {}", cap.cap); });
  require(cap.kind != Softcap::Kind::sigmoid || cap.divisor != 0, kernel, "a softcap with divisor 0");
  const std::int32_t* t = R > 0 ? targets.as<std::int32_t>() : nullptr;
  for (std::int64_t r = 0; r < R; ++r)
    require(t[r] >= -1 && t[r] < vocab, kernel, [&] {
      return fmt::format("the target of row {} is {}, the vocabulary has {} tokens", r, t[r], vocab);
    });
  if (R == 0) return;

  CrossEntropyArgs a{};
  a.columns = columns;
  a.vocab = vocab;
  a.logits = logits.as<float>();
  a.targets = t;
  a.cap = static_cast<float>(cap.cap);
  a.divisor = static_cast<float>(cap.divisor);
  a.offset = static_cast<float>(cap.offset);
  a.gradient_scale = static_cast<float>(gradient_scale);
  a.losses = losses.as<float>();
  a.dlogits = dlogits.data;
  const bool narrow = dlogits && dlogits.dtype == DType::bf16;
  const auto rows =
      SPECTRAIN_ISA_SELECT(cross_entropy_table).rows[static_cast<std::size_t>(cap.kind)][narrow ? 1 : 0];
  parallel_ranges(threads_, R, std::max<std::int64_t>(1, kElementGrain / columns),
                  [&](std::int64_t begin, std::int64_t end) { rows(a, begin, end); });
}

}  // namespace spectrain

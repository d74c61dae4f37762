#include "train/peak.h"

#include <algorithm>
#include <chrono>

namespace spectrain {

namespace {

// Seconds of the quickest of a few products n x n x n.
double quickest(Backend& backend, DType compute, std::int64_t n) {
  const Shape square{n, n};
  const auto weights =
      backend.allocate(static_cast<std::size_t>(n * n) * size_of(backend.master()), "peak weights");
  const auto in = backend.allocate(static_cast<std::size_t>(n * n) * size_of(compute), "peak input");
  const auto out = backend.allocate(static_cast<std::size_t>(n * n) * size_of(compute), "peak output");
  const Tensor w = weights->view(backend.master(), square), x = in->view(compute, square);
  backend.fill_uniform(w, {1, 1}, -1, 1);
  backend.copy(w, x);
  const auto prepared = backend.prepare(w, compute, false);
  double best = 1e30;
  for (int i = 0; i < 9; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    backend.linear(x, *prepared, {}, Activation::none, {}, out->view(compute, square));
    backend.synchronize();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    if (i > 0) best = std::min(best, seconds.count());  // the first one warms up
  }
  return best;
}

}  // namespace

double measure_peak(Backend& backend, DType compute) {
  const auto rate = [](std::int64_t n, double seconds) {
    return 2.0 * static_cast<double>(n) * static_cast<double>(n) * static_cast<double>(n) / seconds;
  };
  // Nobody should wait for this: a machine (or a sanitizer) that would need more than a second for the large
  // product is measured by a small one.
  constexpr std::int64_t kSmall = 128, kLarge = 1024, kHuge = 8192;
  const double small = rate(kSmall, quickest(backend, compute, kSmall));
  if (9 * rate(kLarge, 1) / small > 1) return small;
  const double large = rate(kLarge, quickest(backend, compute, kLarge));
  // A GPU is done with that one before it is under way.
  if (9 * rate(kHuge, 1) / large > 0.2) return large;
  return rate(kHuge, quickest(backend, compute, kHuge));
}

double measure_bandwidth(Backend& backend) {
  const std::int64_t numbers = (std::int64_t{backend.asynchronous() ? 256 : 64} << 20) / 4;
  const auto from = backend.allocate(static_cast<std::size_t>(numbers) * 4, "memory to copy from");
  const auto to = backend.allocate(static_cast<std::size_t>(numbers) * 4, "memory to copy to");
  const Tensor x = from->view(DType::f32, {numbers}), y = to->view(DType::f32, {numbers});
  backend.fill(x, 1);
  double best = 1e30;
  for (int i = 0; i < 6; ++i) {
    backend.synchronize();
    const auto begin = std::chrono::steady_clock::now();
    backend.copy(x, y);
    backend.synchronize();
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    if (i > 0) best = std::min(best, seconds.count());  // the first one touches the memory
  }
  return 2 * static_cast<double>(x.bytes()) / best;
}

}  // namespace spectrain

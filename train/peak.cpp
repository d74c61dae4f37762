#include "train/peak.h"

#include <algorithm>
#include <chrono>

namespace spectrain {

double measure_peak(Backend& backend, DType compute) {
  constexpr std::int64_t n = 1024;
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
  return 2.0 * static_cast<double>(n) * n * n / best;
}

}  // namespace spectrain

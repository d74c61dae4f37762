#include "kernels/cuda/sizes.h"

#include <algorithm>

#include "kernels/cuda/symmetric_product.h"

namespace spectrain {

// One copy serves the products of both directions.
std::size_t CudaSizes::prepared_bytes(Shape shape, DType compute, bool) const {
  return static_cast<std::size_t>(shape.numel()) * size_of(compute);
}

// Rounded numbers, or in their place (of two bytes each) the eight bits twice: as they are and transposed.
std::size_t CudaSizes::prepared_fp8_bytes(Shape shape, DType compute) const {
  return static_cast<std::size_t>(shape.numel()) * size_of(compute);
}

CudaSizes::FactorParts CudaSizes::factor_parts(Shape batch) {
  constexpr std::int64_t kTogether = 8;  // eigendecompositions: more do not make a GPU busier
  FactorParts parts;
  if (batch.numel() == 0) return parts;
  const std::int64_t count = batch.rank() == 3 ? batch[0] : 1, n = batch.cols(), m = batch.rows() / count,
                     r = std::min(m, n);
  const auto words = [](std::int64_t numbers) {
    return (static_cast<std::size_t>(numbers) * 4 + 255) / 256 * 256;
  };
  parts.answers = words(3 * count);
  parts.signs = words(count * r);
  parts.factors = words(r);
  if (m >= n) parts.copy = words(m * n);
  if (m > n) {
    parts.left = words(m * r);
    parts.right = words(n * r);
  }
  const std::int64_t together = m == n ? std::min(count, kTogether) : 1;
  parts.library = words(together * (4 * r * r + 64 * std::max(m, n)));
  return parts;
}

// Tiles come in waves, as many as blocks fit on the device at a time; a last wave that is nearly empty costs
// as much as a full one. The fewest matrices whose waves are at least 94% full, or the fullest there are, as
// long as the work memory of a Newton-Schulz iteration on them stays small.
std::int64_t CudaSizes::matrices_at_once(Shape matrix) const {
  constexpr double kMostBytes = 256.0 * (1 << 20), kFull = 0.94;
  const std::int64_t small = std::min(matrix.rows(), matrix.cols());
  const std::int64_t tiles = triangle_tiles(small), places = 2 * multiprocessors_;
  // In float32 the momentum's result; in 16 bits the iterate, its Gram matrix and the polynomial.
  const double bytes = 6.0 * static_cast<double>(matrix.numel()) + 4.0 * static_cast<double>(small * small);
  const auto most = static_cast<std::int64_t>(std::clamp(kMostBytes / std::max(bytes, 1.0), 1.0, 64.0));
  std::int64_t best = 1;
  double best_share = 0;
  for (std::int64_t n = 1; n <= most && best_share < kFull; ++n) {
    const std::int64_t waves = (n * tiles + places - 1) / places;
    const double share = static_cast<double>(n * tiles) / static_cast<double>(waves * places);
    if (share > best_share) best = n, best_share = share;
  }
  return best;
}

}  // namespace spectrain

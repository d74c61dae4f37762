#pragma once

#include "kernels/cuda/device.h"
#include "kernels/cuda/symmetric_product.h"

// The tiles of a batch of lower triangles, in a row. Only for .cu files.

namespace spectrain {

struct TriangleTile {
  std::int64_t matrix, row, col;  // of the tile's first element
  __device__ bool diagonal() const { return row == col; }
};

// Tile `work` of [0, batch triangle_tiles(m)): matrix by matrix, row by row of tiles, so that blocks that run
// together read the same rows of a.
__device__ inline TriangleTile triangle_tile(std::int64_t work, std::int64_t tiles) {
  const std::int64_t matrix = work / tiles;
  const auto in_matrix = static_cast<int>(work % tiles);
  // The row r with r (r+1) / 2 <= in_matrix < (r+1) (r+2) / 2; the root may be one off, the loops put it
  // right.
  auto row = static_cast<int>((sqrtf(8.0f * static_cast<float>(in_matrix) + 1.0f) - 1.0f) * 0.5f);
  while (row * (row + 1) / 2 > in_matrix) --row;
  while ((row + 1) * (row + 2) / 2 <= in_matrix) ++row;
  const int col = in_matrix - row * (row + 1) / 2;
  return {matrix, std::int64_t{row} * kTriangleTile, std::int64_t{col} * kTriangleTile};
}

}  // namespace spectrain

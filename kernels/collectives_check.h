#pragma once

#include "kernels/collectives.h"

// What every implementation of Collectives checks before it begins. Each throws std::logic_error.

namespace spectrain {

void check_all_reduce(const Tensor& x, Reduce op, std::string_view what);
void check_reduce_scatter(const Tensor& from, const Tensor& to, int ranks, std::string_view what);
void check_reduce(const Tensor& from, const Tensor& to, int root, int rank, int ranks, std::string_view what);
void check_all_gather(const Tensor& from, const Tensor& to, int ranks, std::string_view what);
void check_broadcast(const Tensor& x, int root, int ranks, std::string_view what);

}  // namespace spectrain

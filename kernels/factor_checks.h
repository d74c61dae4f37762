#pragma once

#include "kernels/tensor.h"

// What the factorisations (FactorKernels in backend.h) of all backends check and say.

namespace spectrain {

// How many matrices a tensor [m,n] or [B,m,n] holds. Throws std::logic_error for another rank.
std::int64_t matrices_of(const Tensor& a, const char* kernel);
// What the FactorKernels require of their arguments, the same on every backend. Throw std::logic_error.
void require_eigh(const Tensor& a, const Tensor& vectors, const Tensor& values);
void require_orthonormal_columns(const Tensor& a);
void require_svd(const Tensor& a, const Tensor& u, const Tensor& s, const Tensor& vt);
// The sentences of matrix i of a.
[[noreturn]] void throw_not_finite(const Tensor& a, std::int64_t i, const char* what);
[[noreturn]] void throw_not_converged(const Tensor& a, std::int64_t i, const char* what);

}  // namespace spectrain

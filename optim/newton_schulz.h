#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "optim/matrix_rule.h"

// Newton-Schulz iteration: the orthogonal factor U V^T of M = U S V^T by matrix products alone.
//
//   X = M / (safety ||M||_F)
//   for (a, b, c):   A = X X^T,   B = b A + c A^2,   X = a X + B X
//
// Each step maps every singular value s to a s + b s^3 + c s^5 and leaves the singular vectors alone. A
// matrix with more rows than columns is transposed first, so that A is the small side's square.
//
// A zero matrix stays zero: the norm is at least 1e-15. An additive epsilon, the usual way, shortens the
// update of every matrix whose norm is not far above it.
//
// Cost with n the short side, m the long, T steps: T (3 m/n + 1) n^3 FLOPs when the backend computes one
// triangle of the symmetric products (5 steps: 20 n^3 square, 65 n^3 at 1:4), T (4 m/n + 2) n^3 when it does
// not. Bound by matrix products; at 0.5M tokens per step well below 1% of a 124M model's training.

namespace spectrain {

// float: what matrix products take as factors, and below every error of the iteration.
struct Quintic {
  float a, b, c;
};

struct NewtonSchulzScheme {
  std::string_view name;       // "polar-express"
  double safety;               // the norm is multiplied by it, so that rounding cannot push a value above 1
  int steps;                   // as published
  std::vector<Quintic> table;  // step i uses the i-th, later steps the last
};

// keller         one quintic five times: values of at least 1.6e-3 ||M|| land in 0.68 .. 1.21 (K. Jordan
// 2024) polar_express  0.847 .. 1.141 for all above 1e-3 ||M||     (Amsel et al. 2025, 2505.16932, in the
// variant
//                of modded-nanogpt and nanochat: safety 1.02, cushion 2)
// you            0.978 .. 1.032 above 1e-2 ||M||, loose below (J. You 2025)
// exact          1 to rounding above 1e-3 ||M||; 12 steps     (modded-nanogpt track 3)
const NewtonSchulzScheme& scheme(NewtonSchulzTable table);

// The quintics of the steps asked for. Fewer than the table has: its first; more: the last is repeated.
std::vector<Quintic> quintics(const NewtonSchulzOptions& options);

// "polar-express x 5, f32"
std::string describe(const NewtonSchulzOptions& options);

// The stage. Workspaces belong to the largest matrix and are shared by all. Matrices are processed one after
// the other. The norm is taken in the master dtype, the iterations run in `precision`: bf16 (products
// accumulated in float32), or f32, which stands for the backend's master dtype (float64 in the tests'
// reference). Throws RequestError for a negative count of steps or another precision.
class NewtonSchulz final : public MatrixStage {
 public:
  explicit NewtonSchulz(const NewtonSchulzOptions& options);

  double flops(const Shape& part) const override;
  std::size_t workspace_bytes(std::span<const Shape> parts, DType master) const override;
  void prepare(Backend& backend, std::span<const Shape> parts) override;
  Tensor apply(const StepContext& context, const Tensor& in, std::span<const Tensor> state) override;

  // u [out, in] master -> its orthogonal factor, [out, in] in the iterations' dtype. u's memory serves as
  // workspace; the result lies in it or in the stage's own and is valid until the next call.
  Tensor orthogonalize(const Tensor& u);

 private:
  DType iterated(DType master) const { return precision_ == DType::bf16 ? DType::bf16 : master; }
  // One step, x [n,m] -> y [n,m], n <= m.
  void iterate(const Quintic& q, const Tensor& x, const Tensor& y);

  DType precision_;
  double safety_;
  std::vector<Quintic> quintics_;
  Backend* backend_ = nullptr;
  std::unique_ptr<Buffer> x_, gram_, polynomial_;
};

}  // namespace spectrain

#pragma once

#include <span>
#include <string_view>
#include <vector>

#include "optim/matrix_rule.h"
#include "optim/newton_schulz_options.h"

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
// Gram form (Dao-AILab's Gram Newton-Schulz): the same polynomials of matrices that are not square, collected
// in a small square Q while only the Gram matrix R is iterated, so that the long side is met rarely:
//
//   R = X X^T,  Q = I
//   for (a, b, c):   Z = b R + c R^2,   Q = a Q + Q Z,   R = (a I + Z) R (a I + Z)
//   X = Q X
//
// R of a matrix with small singular values has eigenvalues that rounding makes negative; each step lifts them
// by about a^2, and Q explodes. Hence restarts, X = Q X with a new R: with 11 or more bits of mantissa (f16,
// f32) before step 2 (counted from 0) and every third after it, in bf16 before every second. For the five
// steps of most tables that is {2}, and {2, 4}, which keep every spectrum tried in the table's band; without
// them power-law spectra diverge. Longer runs keep the spacing that is known to work. The coefficients made
// for this form are polar_express_105: in 16 bits those of polar_express cost it up to 5% of the result where
// a few directions are far above the rest, as small matrices have them.
//
// Cost with n the short side, m the long, T steps, in FLOPs when the backend computes one triangle of the
// products that are symmetric:
//   standard  T (3 m/n + 1) n^3, T 3 m/n n^3 where c = 0    5 steps: 20 n^3 square, 65 n^3 at 1:4
//   gram      (3 m/n r + 4 T - 3 r) n^3, r = restarts + 1   38 n^3 at 1:4 in f16, 47 n^3 in bf16
// Bound by matrix products; at 0.5M tokens per step well below 1% of a 124M model's training.

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
  bool row_sums = false;       // the short side's rows are scaled apart before the first step: aol, below
};

// keller             one quintic five times: values of at least 1.6e-3 ||M|| land in 0.68 .. 1.21 (K. Jordan
//                    2024)
// polar_express      0.847 .. 1.141 for all above 1e-3 ||M||     (Amsel et al. 2025, 2505.16932, in the
//                    variant of modded-nanogpt and nanochat: safety 1.02, cushion 2)
// you                0.978 .. 1.032 above 1e-2 ||M||, loose below (J. You 2025)
// exact              1 to rounding above 1e-3 ||M||; 12 steps     (modded-nanogpt track 3)
// polar_express_105  0.729 .. 1.124 above 1e-3 ||M||: Amsel et al.'s polynomials for values up to 1.05, the
//                    margin that the Gram form was published with
// polar_express_101  0.840 .. 1.124 above 1e-3 ||M||; 6 steps: 0.9935 .. 1.0012, 8: 1 to rounding. The same
//                    for values up to 1.01, their published margin
// cans               0.884 .. 1.120 above 1e-3 ||M||    (Grishina et al. 2025, 2506.10935)
// cubic5             0.774 .. 1.300 above 1e-2 ||M||, 0.119 below; without A^2, which saves n^3 FLOPs a step
//                    (2606.00371)
// cubic              X = 1.5 X - 0.5 X X^T X, 15 steps: 1 above 1e-2 ||M||, 0.417 above 1e-3; 30: 1 to
//                    rounding there too (Bjorck and Bowie 1971). Without A^2
// pade               15/8, -10/8, 3/8, 12 steps: 0.981 .. 1 above 1e-3 ||M||. The limit of polar_express
// deepseek_v4        eight steps of keller, then two of exact: 1 .. 1.0005 above 1e-3 ||M|| (DeepSeek-V4)
// aol                4 steps after X = diag(s) M, s_i = (sum over j of |M M^T|_ij)^(-1/2), in place of the
//                    Frobenius norm (Boissin et al. 2025, Turbo-Muon, 2512.04632; Prach and Lampert 2022),
//                    with the coefficients of the authors' code: 0.866 .. 1.085 for values of X in 0.01 ..
//                    0.87. Beware: above 0.884 the first step turns the sign, and values come out at -1.08 ..
//                    -0.98. No value of X is above 1, but the first of a matrix with one dominant direction
//                    is near it (0.97 of a 768 x 768 matrix with singular values 1/i; 0.41 of a Gaussian
//                    one): such an update climbs along that direction. For comparisons, not for a first
//                    choice
const NewtonSchulzScheme& scheme(NewtonSchulzTable table);

// The quintics of the steps asked for. Fewer than the table has: its first; more: the last is repeated.
std::vector<Quintic> quintics(const NewtonSchulzOptions& options);

// Whether the Gram form makes a new R before step i (from 0).
bool gram_restarts(int step, DType precision);

// "polar-express x 5, f32", "polar-express-1.05 x 5, f16, gram"
std::string describe(const NewtonSchulzOptions& options);

// The stage. Workspaces belong to the largest batch and are shared by all. The norm is taken in the master
// dtype, the iterations run in `precision`: bf16 or f16 (products accumulated in float32), or f32, which
// stands for the backend's master dtype (float64 in the tests' reference). Throws RequestError for a negative
// count of steps or another precision, and in prepare() for f16 without a GPU.
class NewtonSchulz final : public MatrixStage {
 public:
  explicit NewtonSchulz(const NewtonSchulzOptions& options);

  double flops(const Shape& part) const override;
  DType multiplies() const override { return precision_; }
  std::size_t workspace_bytes(std::span<const Shape> batches, const BackendSizes& backend) const override;
  void prepare(Backend& backend, std::span<const Shape> batches) override;
  Tensor apply(const StepContext& context, const MatrixBatch& batch, const Tensor& in) override;
  bool takes_late_scale() const override { return true; }  // it has no state

  // u [B, out, in] or [out, in] master -> the orthogonal factor of each matrix, in the iterations' dtype. u's
  // memory serves as workspace; the result lies in it or in the stage's own and is valid until the next call.
  Tensor orthogonalize(const Tensor& u);

 private:
  // Elements of the stage's memory: the iterate, squares that both forms need, squares that the Gram form
  // needs beside them, sums of rows.
  struct Extent {
    std::int64_t iterate = 0, squares = 0, gram_squares = 0, sums = 0;
  };
  Extent extent(std::span<const Shape> batches) const;
  bool in_gram_form(std::int64_t rows, std::int64_t cols) const;
  DType iterated(DType master) const { return precision_ == DType::f32 ? master : precision_; }

  // The iterations, from x [B,n,m], n <= m, by way of y of the same shape; both are overwritten. Return the
  // one that holds the result.
  Tensor standard(Tensor x, Tensor y);
  Tensor gram(Tensor x, Tensor y);
  void scale_rows(const Tensor& x);

  DType precision_;
  NewtonSchulzForm form_;
  double safety_;
  bool row_sums_;
  std::vector<Quintic> quintics_;
  Formula magnitudes_, scaled_;
  Backend* backend_ = nullptr;
  std::unique_ptr<Buffer> x_, gram_, polynomial_, factor_, spare_;  // the last two for the Gram form alone
  std::unique_ptr<Buffer> sums_;                                    // for row_sums alone
};

}  // namespace spectrain

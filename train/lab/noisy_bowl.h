#pragma once

#include <cmath>
#include <cstdint>

#include "train/lab/dense.h"
#include "train/lab/update.h"

namespace spectrain::lab {

// f(W) = 1/2 ||W||_F^2 seen through noise: each gradient is W plus a Gaussian matrix, fresh at every step,
// whose deviation falls with the root of the batch. On it, exact orthogonal steps with momentum, the M before
// the first step being 0:
//
//   M = beta M + (1 - beta) g,   C = nesterov ? beta M + (1 - beta) g : M,   W -= eta U V^T of C
struct MomentumVariant {
  double beta = 0;
  bool nesterov = true;
  Update update = Update::polar;
};

class NoisyBowl {
 public:
  NoisyBowl(Matrix start, double deviation, std::uint64_t seed, std::uint64_t run)
      : weight(std::move(start)),
        momentum_(weight.rows, weight.cols),
        deviation_(deviation),
        seed_(seed),
        run_(run) {}

  void step(const MomentumVariant& v, double eta) {
    Matrix g = weight;
    if (deviation_ > 0)
      add_scaled(g, 1,
                 gaussian(weight.rows, weight.cols, key_of(seed_, "noise", run_ * 1000000007u + steps_),
                          deviation_));
    ++steps_;
    momentum_ = scaled(v.beta, momentum_);
    add_scaled(momentum_, 1 - v.beta, g);
    Matrix c = momentum_;
    if (v.nesterov) {
      c = scaled(v.beta, momentum_);
      add_scaled(c, 1 - v.beta, g);
    }
    add_scaled(weight, -eta, updated(v.update, c));
  }
  double loss() const { return inner(weight, weight) / 2; }

  Matrix weight;

 private:
  Matrix momentum_;
  double deviation_;
  std::uint64_t seed_, run_, steps_ = 0;
};

// What the noise of a batch of one counts for in the theorems, relative to no momentum: with Nesterov's
// look-ahead beta sqrt((1 - beta) / (1 + beta)) + 1 - beta, without it sqrt((1 - beta) / (1 + beta)).
inline double noise_factor(const MomentumVariant& v) {
  const double averaged = std::sqrt((1 - v.beta) / (1 + v.beta));
  return v.nesterov ? v.beta * averaged + 1 - v.beta : averaged;
}

}  // namespace spectrain::lab

#pragma once

#include <memory>

#include "kernels/backend.h"
#include "optim/optimizer.h"
#include "train/lab/dense.h"

namespace spectrain::lab {

// One matrix that one of the program's rules updates, as in training: the rule, its state and the backend's
// kernels in its master dtype (float32). What an experiment finds with float64 formulas of its own is checked
// on it.
class OwnRule {
 public:
  // Throws RequestError for options, or a shape, that the rule refuses.
  OwnRule(Backend& backend, const RuleOptions& rule, const Matrix& weight);
  ~OwnRule();
  OwnRule(const OwnRule&) = delete;
  OwnRule& operator=(const OwnRule&) = delete;

  // One step with this learning rate (the rule's own lr, which must not be 0, times a factor).
  void step(const Matrix& gradient, double lr);
  Matrix weight() const;

 private:
  Backend& backend_;
  ParameterInfo info_;
  std::unique_ptr<Buffer> value_, gradient_;
  std::unique_ptr<Optimizer> optimizer_;
  double lr_ = 1;
  std::int64_t steps_ = 0;
  std::unique_ptr<Buffer> buffer_for(const char* name) const;
  void write(const Tensor& to, const Matrix& from) const;
  Tensor value() const, gradient() const;
};

// Muon without momentum, decay or a factor for the shape: W -= lr NewtonSchulz(G), in float32.
RuleOptions plain_muon(const NewtonSchulzOptions& options);
// The same with U V^T of a factorisation.
RuleOptions plain_spectral_descent();

}  // namespace spectrain::lab

#include "train/lab/own_rule.h"

#include <fmt/format.h>

#include "kernels/error.h"
#include "optim/registry.h"

namespace spectrain::lab {

OwnRule::OwnRule(Backend& backend, const RuleOptions& rule, const Matrix& weight) : backend_(backend) {
  info_.name = "weight";
  info_.shape = {weight.rows, weight.cols};
  info_.role = Role::hidden;
  info_.logical_rows = weight.rows;
  const std::unique_ptr<UpdateRule> made = rule.make({});
  // An optimizer would hand such a matrix to AdamW instead.
  if (const std::string objection = made->objection(info_.shape); !objection.empty())
    throw RequestError(fmt::format("{} cannot update a matrix [{}, {}]: it {}; ask for a larger one",
                                   made->name(), weight.rows, weight.cols, objection));
  value_ = buffer_for("weight");
  gradient_ = buffer_for("gradient");
  write(value(), weight);
  lr_ = made->lr();
  optimizer_ =
      std::make_unique<Optimizer>(backend_, std::vector<ParameterView>{{&info_, value(), gradient()}},
                                  OptimizerConfig{{{{Role::hidden}, rule}}});
}

OwnRule::~OwnRule() = default;

std::unique_ptr<Buffer> OwnRule::buffer_for(const char* name) const {
  return backend_.allocate(static_cast<std::size_t>(info_.shape.numel()) * size_of(backend_.master()), name);
}
Tensor OwnRule::value() const { return value_->view(backend_.master(), info_.shape); }
Tensor OwnRule::gradient() const { return gradient_->view(backend_.master(), info_.shape); }

void OwnRule::write(const Tensor& to, const Matrix& from) const {
  if (to.dtype == DType::f64) return backend_.copy_from_host(to, from.a.data());
  const std::vector<float> narrow(from.a.begin(), from.a.end());
  backend_.copy_from_host(to, narrow.data());
}

void OwnRule::step(const Matrix& g, double lr) {
  write(gradient(), g);
  optimizer_->step(steps_++, lr / lr_);
}

Matrix OwnRule::weight() const {
  Matrix w(info_.shape[0], info_.shape[1]);
  if (backend_.master() == DType::f64) {
    backend_.copy_to_host(w.a.data(), value());
    return w;
  }
  std::vector<float> narrow(w.a.size());
  backend_.copy_to_host(narrow.data(), value());
  w.a.assign(narrow.begin(), narrow.end());
  return w;
}

RuleOptions plain_muon(const NewtonSchulzOptions& options) {
  MuonOptions o;
  o.lr = 1;
  o.momentum = 0;
  o.nesterov = false;
  o.shape_scale = ShapeScale::none;
  o.newton_schulz = options;
  return o;
}

RuleOptions plain_spectral_descent() { return spectral_descent(); }

}  // namespace spectrain::lab

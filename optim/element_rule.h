#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "optim/finish.h"
#include "optim/rule.h"

namespace spectrain {

// What an element-wise rule writes its direction with.
struct ElementTerms {
  Term weight, gradient;                                    // after clipping
  std::vector<Term> state;                                  // in the order of ElementRuleSettings::state
  std::vector<Term> numbers;                                // those of this step
  std::function<void(std::size_t, const Term&)> set_state;  // the new value of state k
};

struct ElementRuleSettings {
  std::string name, settings;  // for the printed table
  double lr = 0, weight_decay = 0;
  std::vector<std::string_view> state = {};  // names, each of one number per parameter
  std::size_t numbers = 0;                   // that change from step to step, or are options
  std::function<void(const StepContext&, std::span<double>)> numbers_at = {};
  // The direction D of W -= lr D (finish.h); sets new state.
  std::function<Term(ElementTerms&)> direction = {};
  double flops = 0;  // per parameter
};

// A rule that is one formula on each element by itself. Without constraints (Finish::whole) the formula and
// the update of the weight are one pass over memory: the weight, the gradient and the state are read once,
// the weight and the state written once.
class ElementRule : public UpdateRule {
 public:
  // Throws RequestError when the finish does not fit the decay.
  ElementRule(ElementRuleSettings settings, const FinishOptions& finish);

  std::string_view name() const override { return settings_.name; }
  std::string settings() const override { return settings_.settings + finish_.settings(); }
  double lr() const override { return settings_.lr; }
  double weight_decay() const override { return settings_.weight_decay; }
  bool wants_matrices() const override { return finish_.whole(); }
  std::string objection(const Shape&) const override { return {}; }
  std::vector<StateSlot> state(const Shape& part) const override;
  double flops(const Shape& part) const override;
  std::size_t workspace_bytes(std::span<const Shape> parts, const BackendSizes& backend) const override;
  void prepare(Backend& backend, std::span<const Shape> parts) override;
  void update(const StepContext& context, std::span<const Part> parts) override;
  void restart() override {
    began_ = false;
    finish_.restart();
  }

 protected:
  Backend& backend() const { return *backend_; }

 private:
  void write_formula();
  bool in_bf16() const { return finish_.storage() == StoredAs::bf16; }
  void update_in_bf16(const Part& part, bool begins);

  ElementRuleSettings settings_;
  Finish finish_;
  Formula formula_;
  Backend* backend_ = nullptr;
  std::unique_ptr<Buffer> scratch_;  // directions, or new weights as bf16
  bool began_ = false;
  std::vector<double> numbers_;
  std::vector<Tensor> tensors_;  // of one call; a step allocates nothing
};

}  // namespace spectrain

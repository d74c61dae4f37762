#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "model/program.h"
#include "optim/optimizer.h"

namespace spectrain::lab {

// A rule by its name with some of its options set by their keys, as in a configuration:
// rule("muon", {{"lr", "0.05"}, {"newton_schulz.steps", "3"}}). An unknown rule or key is our own mistake:
// std::logic_error.
using Settings = std::vector<std::pair<std::string, std::string>>;
RuleOptions rule(std::string_view name, const Settings& settings);
GroupConfig group(std::vector<Role> parameters, std::string_view name, const Settings& settings);
std::string text(double number);  // for Settings

// A small network in float32: recorded on the tape, trained by the program's own rules.
class Network {
 public:
  using Record = std::function<Value(Tape&)>;
  // loss: records what is trained. The sum of its values times gradient_scale is differentiated.
  Network(Backend& backend, const Record& loss, const OptimizerConfig& optimizer, double gradient_scale,
          std::uint64_t seed);
  ~Network();

  // Values of a parameter by its name, row by row.
  void set(std::string_view name, const std::vector<double>& values);
  std::vector<double> get(std::string_view name) const;
  std::vector<double> gradient(std::string_view name) const;

  Program& training() { return *training_; }
  // The values of another recording on the same parameters, in evaluation: `record` is called at first use of
  // `key`.
  Program& evaluation(const std::string& key, const Record& record);

  // One step from the inputs that were set in training(): the sum of the losses before it. lr_factor scales
  // every learning rate.
  double step(double lr_factor = 1);

 private:
  std::size_t find(std::string_view name) const;
  Backend& backend_;
  double gradient_scale_;
  std::int64_t steps_ = 0;
  Tape tape_;
  std::unique_ptr<Parameters> parameters_;
  std::unique_ptr<Program> training_;
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<std::pair<std::string, std::unique_ptr<Program>>> evaluations_;
};

}  // namespace spectrain::lab

#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "model/program.h"
#include "model/transformer.h"

namespace spectrain::test {

// The elements of a float tensor of any dtype, as doubles; and the way back (to float32 or float64).
std::vector<double> values_of(Backend& backend, const Tensor& tensor);
void set_values(Backend& backend, const Tensor& tensor, const std::vector<double>& values);

// The deterministic weights of tests/model/golden/make_golden.py, padding rows zero: see weight_values there.
std::vector<double> golden_weight(const ParameterInfo& info);

struct Gradients {
  std::vector<double> losses;
  std::map<std::string, std::vector<double>> of;  // by parameter name
};

// One recorded model with its parameters and program.
class ModelRun {
 public:
  using Recorder = std::function<Value(Tape&)>;

  ModelRun(Backend& backend, const ProgramOptions& options, const Recorder& record);
  // transformer() on a configuration that is resolved here.
  ModelRun(Backend& backend, const TransformerConfig& config, std::int64_t batch, std::int64_t context,
           const ProgramOptions& options);

  Parameters& parameters() { return parameters_; }
  Program& program() { return program_; }

  void set_golden_weights();
  // The queries of a transformer see what they do at `progress` of the training.
  void set_batch(const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& targets,
                 double progress = 1);
  // forward_backward with scale 1 / rows, and everything it produced.
  Gradients gradients();
  Gradients gradients(double scale, bool accumulate);
  double mean_loss();  // forward() alone, in a second program on the same parameters

 private:
  Backend& backend_;
  std::optional<TransformerConfig> config_;  // of a transformer
  std::int64_t context_ = 0;
  Tape tape_;
  Value losses_;
  Parameters parameters_;
  Program program_;
  Program evaluation_;
};

// Deterministic token ids in [0, vocab).
std::vector<std::int32_t> some_tokens(std::int64_t count, std::int64_t vocab, std::uint64_t seed);

double largest(const std::vector<double>& x);
// max |a - b| / max |b|; 0 when both are zero everywhere.
double relative_error(const std::vector<double>& a, const std::vector<double>& b);
double cosine(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace spectrain::test

#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>

#include "data/loader.h"
#include "kernels/collectives.h"
#include "model/program.h"
#include "train/config.h"

namespace spectrain {

// The same configuration with every model size that follows from others filled in.
RunConfig with_resolved_model(RunConfig config);

// The backend a configuration asks for. Throws RequestError when this build or machine does not have it.
// `gpu`: which, where there are several.
std::unique_ptr<Backend> make_backend(const ComputeSection& compute, int gpu = 0);

// A configured model in memory: parameters, and programs of the shapes asked for.
class Session {
 public:
  // `training`: with gradients, and a training program beside that for validation.
  // `values`: of which parameters master values are kept (model/program.h).
  Session(const RunConfig& config, Backend& backend, bool training,
          Parameters::Values values = Parameters::Values::all);

  const RunConfig& config() const { return config_; }
  Backend& backend() { return backend_; }
  Parameters& parameters() { return *parameters_; }
  Program& training() { return *training_; }
  Program& evaluation();  // [validation_batch, validation_context] losses; made at first use
  void set_hooks(const ProgramHooks& hooks);  // of both programs
  std::int64_t micro_batch() const { return config_.micro_batch(); }
  // How much of the training is done, 0 to 1: windows of attention that grow depend on it.
  void set_progress(double progress) { progress_ = progress; }
  // What the two programs read next: tokens and targets of their shapes.
  void set_training_batch(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets);
  void set_evaluation_batch(std::span<const std::int32_t> tokens, std::span<const std::int32_t> targets);

 private:
  void set_batch(Program& program, std::int64_t context, std::span<const std::int32_t> tokens,
                 std::span<const std::int32_t> targets);
  RunConfig config_;
  double progress_ = 1;
  Backend& backend_;
  std::unique_ptr<Parameters> parameters_;
  std::unique_ptr<Program> training_, evaluation_;
};

ProgramOptions program_options(const RunConfig& config, bool training);

// The loaders of a configuration; validation reads its files in order and without gaps, whatever
// data.order and data.layout say.
std::unique_ptr<TokenLoader> training_loader(const RunConfig& config);
std::unique_ptr<TokenLoader> validation_loader(const RunConfig& config);

struct Evaluation {
  double loss = 0;          // mean cross entropy in nats per token
  std::int64_t tokens = 0;  // that were predicted
};

// The mean loss over the first `tokens` tokens of the validation set (0, or more than there are: all of it,
// in whole sequences). A partial last batch is filled up with targets of -1, which count for nothing.
// With `collectives` each rank reads its share of the batches, and all have the mean of all.
// `each` is shown this rank's targets (-1: none) with their losses, batch by batch.
using EachLoss = std::function<void(std::span<const std::int32_t> targets, std::span<const double> losses)>;
Evaluation evaluate(Session& session, TokenLoader& validation, std::int64_t tokens,
                    Collectives* collectives = nullptr, const EachLoss& each = {});

}  // namespace spectrain

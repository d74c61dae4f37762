#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "optim/optimizer.h"
#include "train/clock.h"
#include "train/commands.h"
#include "train/config.h"
#include "train/metrics.h"
#include "train/progress.h"
#include "train/run_directory.h"
#include "train/session.h"

namespace spectrain {

// One training run: its directory, model, optimizer, data and measurements, and the loop over steps.
class Trainer {
 public:
  // Everything that can be refused is refused here, before a file is written: with `resume` the newest
  // complete checkpoint is loaded first. Then the run directory is made.
  explicit Trainer(const TrainRequest& request);

  void run();  // to the end, or to the first interrupt; throws Error when the run fails

 private:
  bool validates(std::int64_t step) const;
  void validate(std::int64_t step);  // Error when the loss is not finite
  bool validated(std::int64_t step) const;
  void remember(std::int64_t step, double seconds, double loss);
  std::string what_is_saved() const;           // a sentence for the end of a failure's message
  double forward_backward(std::int64_t step);  // the mean loss of the step's batch
  void train_step(std::int64_t step);
  void show(std::int64_t step, double lr, double tokens_per_second);
  void skip(std::int64_t step);  // a step whose gradient was not finite; Error when it is one too many
  void save(std::int64_t step);  // Error when a weight or the optimizer's state is not finite
  void load_newest_checkpoint(const std::string& run_directory);
  void try_data();
  void begin_metrics();
  void print_start() const;
  void print_end(std::int64_t step) const;
  std::int64_t tokens_after(std::int64_t step) const { return step * config_.batch.tokens; }
  std::vector<StateTensor> model_state() const;

  RunConfig config_;
  std::int64_t steps_;
  ModelCount count_;
  double first_lr_;  // of the first group, before the schedule: what progress lines show
  std::unique_ptr<TokenLoader> data_, validation_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<RunDirectory> directory_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<Progress> progress_;
  TrainingClock clock_;
  std::vector<ValidationPoint> validations_;
  std::vector<std::int32_t> tokens_, targets_;  // of one micro-batch
  std::int64_t first_step_ = 0;
  std::int64_t last_saved_ = -1;
  std::int64_t skipped_ = 0;  // steps of the whole run, and the last ones without one between them
  std::int64_t skipped_in_a_row_ = 0, last_skipped_ = -1;
  double last_loss_ = 0;
  double session_seconds_ = 0;  // of the clock when this process began to train
  double peak_ = 0;             // FLOP/s of a matrix product, measured at the start
};

}  // namespace spectrain

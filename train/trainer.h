#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "optim/distributed_optimizer.h"
#include "train/clock.h"
#include "train/commands.h"
#include "train/config.h"
#include "train/diagnostics.h"
#include "train/launch.h"
#include "train/metrics.h"
#include "train/progress.h"
#include "train/run_directory.h"
#include "train/session.h"
#include "train/speedrun_log.h"
#include "train/tensorboard.h"

namespace spectrain {

class CheckpointReader;

// One training run: its directory, model, optimizer, data and measurements, and the loop over steps.
//
// Of several ranks each has a Trainer, and they do the same steps together: rank r takes the r-th stretch of
// the sequences of every step. Rank 0 alone prints, and writes everything but the tensors of checkpoints.
class Trainer {
 public:
  // The configuration must be the same on all ranks, and one that they can share.
  // Everything that can be refused is refused here, before a file is written: with `resume` the newest
  // complete checkpoint is loaded first. Then the run directory is made.
  // `backend` is this rank's, and the collectives are for its memory.
  Trainer(const TrainRequest& request, Collectives& collectives, const Launch& launch, Backend& backend);

  void run();  // to the end, or to the first interrupt; throws Error when the run fails

 private:
  double progress(std::int64_t step) const;  // 0 at the first step, 1 after the last
  void validate(std::int64_t step);          // Error when the loss is not finite
  void measure(std::int64_t step);
  Evaluation evaluation();
  bool validated(std::int64_t step) const;
  void remember(std::int64_t step, double seconds, double loss);
  std::string what_is_saved() const;  // a sentence for the end of a failure's message
  // This rank's share of the step's batch; its loss to loss_sum(). Or the same with labels that the model
  // draws.
  void forward_backward(std::int64_t step);
  void forward_backward_sampled(std::int64_t step);
  void read_micro_batch(std::int64_t step, std::int64_t first);
  // One step from a batch to new weights, without the clock. On a device the result is of the step before.
  using StepResult = DistributedOptimizer::StepResult;
  std::optional<StepResult> learn(std::int64_t step, std::span<const double> votes);
  void check_losses(const StepResult& result);
  // What is known of a step is written down; traffic: as it was when the wait for it began.
  void write_down(const StepResult& result, const Traffic& begin);
  void settle();
  Tensor loss_sum() const { return loss_memory_->view(DType::f64, {1}); }
  void train_step(std::int64_t step);
  void show(std::int64_t step, double lr, double tokens_per_second);
  void skip(std::int64_t step);  // a step whose gradient was not finite; Error when it is one too many
  void save(std::int64_t step);  // Error when a weight or the optimizer's state is not finite
  void load_newest_checkpoint(const std::string& run_directory);
  void load(const CheckpointReader& reader);
  void agree_on_validations();
  void together(const char* what);  // all ranks have come this far
  bool first() const { return collectives_.rank() == 0; }
  bool several() const { return collectives_.ranks() > 1; }
  bool stopped() const;  // somebody asked for the end, the same on all ranks
  void add_traffic(MetricsLine& line, double step_seconds, const Traffic& begin, const Traffic& end);
  // A timed run (trainer_speedrun.cpp).
  static RunConfig configuration_of(const TrainRequest& request);
  void begin_speedrun();
  void make_up_micro_batch(std::int64_t step, std::int64_t first);
  void warm_up();
  void write_speedrun_log();
  void try_data();
  void begin_run(const TrainRequest& request);
  void begin_metrics();
  void record(const MetricsLine& line);
  void print_start() const;
  void print_end(std::int64_t step) const;
  std::int64_t tokens_after(std::int64_t step) const { return step * config_.batch.tokens; }
  std::int64_t micro_batches() const {
    return own_.sequences_per_step() / collectives_.ranks() / own_.batch.micro_batch;
  }
  std::string run_path() const { return fmt::format("{}/{}", config_.run.directory, config_.run.name); }

  Collectives& collectives_;
  RunConfig config_;    // as it was read
  RunConfig own_;       // this rank's: its micro-batch and threads
  std::int64_t steps_;  // of the schedule
  std::int64_t last_;   // where the run ends
  ModelCount count_;
  double first_lr_;  // of the first group, before the schedule: what progress lines show
  std::unique_ptr<TokenLoader> data_, validation_;
  Backend* backend_;
  std::unique_ptr<Session> session_;
  std::unique_ptr<DistributedOptimizer> optimizer_;
  std::unique_ptr<Diagnostics> diagnostics_;
  std::unique_ptr<Buffer> loss_memory_;
  std::unique_ptr<RunDirectory> directory_;
  std::unique_ptr<MetricsWriter> metrics_;
  std::unique_ptr<TensorboardWriter> tensorboard_;
  std::unique_ptr<Progress> progress_;
  TrainingClock clock_;
  std::vector<ValidationPoint> validations_;
  std::vector<std::int32_t> tokens_, targets_;  // of one micro-batch
  std::int64_t first_step_ = 0;
  std::int64_t last_saved_ = -1;
  std::int64_t skipped_ = 0;  // steps of the whole run, and the last ones without one between them
  std::int64_t skipped_in_a_row_ = 0, last_skipped_ = -1;
  double last_loss_ = 0;
  double known_at_ = 0;                       // seconds of the clock when the last step's result was known
  std::unique_ptr<SpeedrunRecord> speedrun_;  // null unless the run is timed
  bool warming_up_ = false;
  double session_seconds_ = 0;  // of the clock when this process began to train
  bool stop_ = false;           // some rank was interrupted
  Traffic traffic_;             // at the end of the last step
  double peak_ = 0;             // FLOP/s of a matrix product, measured at the start
};

}  // namespace spectrain

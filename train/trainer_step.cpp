#include <fmt/format.h>

#include <cmath>

#include "kernels/error.h"
#include "kernels/random.h"
#include "train/interrupt.h"
#include "train/trainer.h"

// One step of a run: its batch, its gradient, new weights, and what is written down of it.

namespace spectrain {
namespace {

// A single overflow may pass; the same one again and again is a run that no longer learns.
constexpr std::int64_t kMostSkippedInARow = 10;

}  // namespace

void Trainer::read_micro_batch(std::int64_t step, std::int64_t first) {
  if (warming_up_)
    make_up_micro_batch(step, first);
  else
    data_->read(step, first, session_->micro_batch(), tokens_, targets_);
  session_->set_progress(progress(step));
  session_->set_training_batch(tokens_, targets_);
}

void Trainer::forward_backward_sampled(std::int64_t step) {
  const std::int64_t sequences = session_->micro_batch(), micros = micro_batches();
  const std::int64_t begin = collectives_.rank() * micros * sequences;
  const double scale = config_.loss_scale();
  // Labels depend on the seed, the step and their place in the step's batch, not on who draws them.
  const RandomKey key{config_.run.seed, stream_of("sampled labels") + static_cast<std::uint64_t>(step)};
  for (std::int64_t micro = 0; micro < micros; ++micro) {
    const std::int64_t first = begin + micro * sequences;
    read_micro_batch(step, first);
    if (micro + 1 == micros) optimizer_->release_gradients();
    session_->training().forward_backward_sampled(scale, micro > 0, {key, first * config_.batch.context});
  }
}

void Trainer::forward_backward(std::int64_t step) {
  const std::int64_t sequences = session_->micro_batch(), micros = micro_batches();
  const std::int64_t begin = collectives_.rank() * micros * sequences;  // of this rank's stretch of the step
  const double scale = config_.loss_scale();
  backend_->fill(loss_sum(), 0);
  for (std::int64_t micro = 0; micro < micros; ++micro) {
    read_micro_batch(step, begin + micro * sequences);
    const bool last = micro + 1 == micros;
    if (!warming_up_)
      data_->prefetch(last ? step + 1 : step, last ? begin : begin + (micro + 1) * sequences, sequences);
    if (last) optimizer_->release_gradients();
    session_->training().forward_backward(scale, micro > 0);
    session_->training().add_result_to(loss_sum());
  }
}

// A loss that is no number: whose it is ends the run, for all.
void Trainer::check_losses(const StepResult& result) {
  if (std::isfinite(result.loss)) return;
  optimizer_->finish_weights();                                          // the last thing that all ranks do
  if (std::isfinite(result.own_loss)) together("the losses of a step");  // until the one it was has said so
  // A device may be at the next step already, with the same weights but another batch.
  const std::int64_t sequences = session_->micro_batch(), micros = micro_batches();
  read_micro_batch(result.step, (collectives_.rank() * micros + micros - 1) * sequences);
  std::string where = session_->training().first_nonfinite();
  // Only the last micro-batch is looked at.
  where =
      where.empty() ? "in an earlier micro-batch of the step" : "the first value that went bad is " + where;
  throw Error(fmt::format("step {}: the training loss is {}; {}. {}", result.step + 1, result.own_loss, where,
                          what_is_saved()));
}

std::optional<Trainer::StepResult> Trainer::learn(std::int64_t step, std::span<const double> votes) {
  const double factor = schedule_factor(config_.schedule, step, steps_);
  if (optimizer_->wants_sampled_gradient(step)) {
    forward_backward_sampled(step);
    optimizer_->observe_sampled(step, factor, 1 / config_.loss_scale());
  }
  forward_backward(step);
  return optimizer_->step(step, factor, loss_sum(), votes);
}

void Trainer::train_step(std::int64_t step) {
  const Traffic begin = collectives_.traffic();
  clock_.start();
  const double votes[] = {InterruptGuard::raised() ? 1.0 : 0.0};
  const std::optional<StepResult> result = learn(step, votes);
  clock_.stop();
  if (result) write_down(*result, begin);
}

// A device may still be at the last step when step() returns: its seconds belong to the training, not to what
// comes between two steps, which may need what became of it.
void Trainer::settle() {
  if (!backend_->asynchronous()) return;
  const Traffic begin = collectives_.traffic();
  clock_.start();
  const std::optional<StepResult> result = optimizer_->finish_step();
  backend_->synchronize();
  clock_.stop();
  if (result) write_down(*result, begin);
}

void Trainer::write_down(const StepResult& result, const Traffic& begin) {
  check_losses(result);
  const std::int64_t step = result.step;
  last_loss_ = result.loss / static_cast<double>(config_.batch.tokens);
  stop_ = result.sums[0] > 0;

  const double lr = first_lr_ * schedule_factor(config_.schedule, step, steps_),
               seconds = clock_.seconds() - known_at_;
  known_at_ = clock_.seconds();
  if (speedrun_) speedrun_->step_seconds.push_back(seconds);
  const double speed = static_cast<double>(config_.batch.tokens) / seconds;
  const Traffic end = collectives_.traffic();
  const StepReport& report = result.report;
  if (!report.finite) skip(step + 1);
  if (!first()) return;
  for (const std::string& note : backend_->notes()) progress_->note(note);
  if (!report.finite || (step + 1) % config_.train.log_every == 0) {
    MetricsLine line{step + 1, tokens_after(step + 1), clock_.seconds(), last_loss_, {}, {}};
    line.more = {{"lr", lr}, {"gradient_norm", report.gradient_norm}, {"tokens_per_second", speed}};
    if (!report.finite) line.more.emplace_back("skipped", true);
    if (several()) add_traffic(line, seconds, begin, end);
    record(line);
  }
  traffic_ = end;
  show(step + 1, lr, speed);
}

// What was sent and done since the last step's end: the weights of a step travel while the next one, or a
// validation, computes. But only what was waited for within the step belongs to its seconds.
void Trainer::add_traffic(MetricsLine& line, double step_seconds, const Traffic& begin, const Traffic& end) {
  line.more.emplace_back("step_seconds", step_seconds);
  line.more.emplace_back("bytes_sent", static_cast<std::int64_t>(end.bytes_sent - traffic_.bytes_sent));
  line.more.emplace_back("communication_seconds", end.busy_seconds - traffic_.busy_seconds);
  line.more.emplace_back("waited_seconds", end.waited_seconds - begin.waited_seconds);
}

void Trainer::skip(std::int64_t step) {
  skipped_ += 1;
  skipped_in_a_row_ = last_skipped_ == step - 1 ? skipped_in_a_row_ + 1 : 1;
  last_skipped_ = step;
  if (first())
    progress_->note(
        fmt::format("step {}: a gradient is not finite; nothing was updated ({} so far)", step,
                    skipped_ == 1 ? "1 step skipped" : fmt::format("{} steps skipped", skipped_)));
  if (skipped_in_a_row_ >= kMostSkippedInARow)
    throw Error(
        fmt::format("step {}: the gradients of {} steps in a row were not finite, the weights no longer "
                    "change; a smaller learning rate may help. {}",
                    step, skipped_in_a_row_, what_is_saved()));
}

}  // namespace spectrain

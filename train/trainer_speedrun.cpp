#include <fmt/format.h>
#include <version.h>

#include <algorithm>

#include "kernels/random.h"
#include "train/durable_file.h"
#include "train/trainer.h"

// What `train --speedrun` does beside training: the records' validation, warm-up and log.

namespace spectrain {

RunConfig Trainer::configuration_of(const TrainRequest& request) {
  RunConfig config = with_resolved_model(load_config(request.config, request.overrides));
  const std::int64_t context = config.validation_context();
  if (request.speedrun)
    config.train.validate.tokens = std::max(kSpeedrunValidationTokens / context, std::int64_t{1}) * context;
  return config;
}

void Trainer::begin_speedrun() {
  speedrun_ = std::make_unique<SpeedrunRecord>();
  SpeedrunRecord& r = *speedrun_;
  const std::int64_t there = validation_->windows() * config_.validation_context();
  r.configuration = to_yaml(config_);
  r.version = SPECTRAIN_VERSION;
  r.hardware = backend_->description();
  r.started = utc_now();
  r.ranks = collectives_.ranks();
  r.steps = last_;
  r.validation_tokens = std::min(config_.train.validate.tokens, there);
  r.target = config_.train.target;
  if (first()) fmt::print("speedrun: validation on {}\n", speedrun_validation(r.validation_tokens));
}

// Tokens and targets that are nobody's data.
void Trainer::make_up_micro_batch(std::int64_t step, std::int64_t first) {
  const RandomKey key{config_.run.seed, stream_of("made-up tokens") + static_cast<std::uint64_t>(step)};
  const auto begin = static_cast<std::uint64_t>(first * config_.batch.context);
  const auto vocab = static_cast<std::uint64_t>(config_.model.vocab);
  for (std::size_t i = 0; i < tokens_.size(); ++i) {
    const std::uint64_t word = 2 * (begin + i);
    tokens_[i] = static_cast<std::int32_t>(random_u32(key, word) % vocab);
    targets_[i] = static_cast<std::int32_t>(random_u32(key, word + 1) % vocab);
  }
}

// Everything that happens in a step has happened once before the clock starts: memory is touched, kernels are
// loaded and chosen, devices have recorded their work, ranks have met. Then the run is where it was.
void Trainer::warm_up() {
  TrainingClock clock;
  clock.start();
  warming_up_ = true;
  for (std::int64_t step = 0; step < kSpeedrunWarmupSteps; ++step) learn(step, {});
  optimizer_->finish_step();
  warming_up_ = false;
  optimizer_->restart(config_.run.seed);
  backend_->synchronize();
  if (several()) together("the warm-up of a timed run");
  clock.stop();
  speedrun_->warmup_seconds = clock.seconds();
}

void Trainer::write_speedrun_log() {
  speedrun_->validations = validations_;
  const std::string path = run_path() + "/speedrun.log";
  replace_file(path, speedrun_log(*speedrun_));
  fmt::print("the log of this timed run is {}\n", path);
}

}  // namespace spectrain

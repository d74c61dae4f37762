#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "train/clock.h"

namespace spectrain {

// The rules of the records (`train --speedrun`): so many steps on made-up tokens before the clock starts, and
// so many tokens for each validation.
inline constexpr std::int64_t kSpeedrunWarmupSteps = 10;
inline constexpr std::int64_t kSpeedrunValidationTokens = 10'485'760;

// What a timed run has to say for itself. Seconds are the training clock's: validations, checkpoints, the
// start of the program and the warm-up are not in them.
struct SpeedrunRecord {
  std::string configuration;  // YAML
  std::string version;        // of the program: its commit
  std::string hardware, started;
  int ranks = 1;
  std::int64_t steps = 0;              // of the whole run
  std::int64_t validation_tokens = 0;  // of each validation
  double warmup_seconds = 0;
  double target = 0;  // validation loss; 0: none
  std::vector<ValidationPoint> validations;
  std::vector<double> step_seconds;
};

// How many tokens each validation has, and that they are fewer than the records' where they are.
std::string speedrun_validation(std::int64_t tokens);

// speedrun.log: facts; one line "step:S/N val_loss:L train_time:Tms step_avg:Ams" per validation; where the
// target is crossed, as the first validation at or below it and by linear interpolation; all step times in
// ms; the configuration.
std::string speedrun_log(const SpeedrunRecord& record);

}  // namespace spectrain

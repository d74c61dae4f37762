#include "train/speedrun_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <span>

namespace spectrain {
namespace {

// Of the loss, four digits: less than a run's difference from the next one with another seed.
std::string line_of(const ValidationPoint& v, std::int64_t steps) {
  const double ms = 1000 * v.seconds;
  return fmt::format("step:{:.0f}/{} val_loss:{:.4f} train_time:{:.0f}ms step_avg:{:.2f}ms\n", v.step, steps,
                     v.loss, ms, ms / std::max(v.step, 1.0));
}

std::string crossing(const SpeedrunRecord& r) {
  if (r.target <= 0) return "target: none (train.target is not set)\n";
  const std::span<const ValidationPoint> all = r.validations;
  const auto first =
      std::find_if(all.begin(), all.end(), [&](const ValidationPoint& v) { return v.loss <= r.target; });
  if (first == all.end()) return fmt::format("target {}: not reached\n", r.target);
  const ValidationPoint at = first_crossing(all, r.target).value();
  return fmt::format(
      "target {}: first validation at or below it: step {:.0f}, {:.0f} tokens, val_loss {:.4f}, train_time "
      "{:.0f}ms\n"
      "target {}: by interpolation between validations: step {:.1f}, {:.0f} tokens, train_time {:.0f}ms\n",
      r.target, first->step, first->tokens, first->loss, 1000 * first->seconds, r.target, at.step, at.tokens,
      1000 * at.seconds);
}

std::string step_times(std::vector<double> seconds) {
  if (seconds.empty()) return "step times: none\n";
  std::string each;
  for (std::size_t i = 0; i < seconds.size(); ++i)
    each +=
        fmt::format("{:.3f}{}", 1000 * seconds[i], (i + 1) % 16 == 0 || i + 1 == seconds.size() ? '\n' : ' ');
  double sum = 0;
  for (const double s : seconds) sum += s;
  const double mean = sum / static_cast<double>(seconds.size());
  std::sort(seconds.begin(), seconds.end());
  return fmt::format("step times in ms: {} steps, mean {:.3f}, median {:.3f}, least {:.3f}, most {:.3f}\n{}",
                     seconds.size(), 1000 * mean, 1000 * seconds[seconds.size() / 2], 1000 * seconds.front(),
                     1000 * seconds.back(), each);
}

}  // namespace

std::string speedrun_validation(std::int64_t tokens) {
  if (tokens == kSpeedrunValidationTokens) return fmt::format("{} tokens", tokens);
  return fmt::format("{} tokens, not the records' {}: whole sequences, and no more than there are", tokens,
                     kSpeedrunValidationTokens);
}

std::string speedrun_log(const SpeedrunRecord& r) {
  std::string text = fmt::format(
      "spectrain {}\nstarted: {}\nhardware: {}\nranks: {}\n"
      "warm-up: {} steps on made-up tokens in {:.0f}ms, not timed; then weights, optimizer state and data as "
      "before\n"
      "validation: {}; not timed\n\n",
      r.version, r.started, r.hardware, r.ranks, kSpeedrunWarmupSteps, 1000 * r.warmup_seconds,
      speedrun_validation(r.validation_tokens));
  for (const ValidationPoint& v : r.validations) text += line_of(v, r.steps);
  const auto done = static_cast<std::int64_t>(r.step_seconds.size());
  if (done < r.steps) text += fmt::format("interrupted after step {} of {}\n", done, r.steps);
  return text + '\n' + crossing(r) + '\n' + step_times(r.step_seconds) + "\nconfiguration:\n" +
         r.configuration;
}

}  // namespace spectrain

#include "train/config.h"

#include <fmt/format.h>

#include <algorithm>

#include "kernels/error.h"
#include "train/config_parser.h"
#include "train/config_tree.h"

namespace spectrain {

std::int64_t RunConfig::steps() const {
  if (train.steps > 0) return train.steps;
  return train.tokens / batch.tokens + (train.tokens % batch.tokens != 0);
}

std::int64_t RunConfig::last_step() const { return train.stop > 0 ? std::min(train.stop, steps()) : steps(); }

bool RunConfig::validates(std::int64_t step) const {
  const ValidationSection& v = train.validate;
  const bool in_tail = v.tail > 0 && static_cast<double>(step) >= (1 - v.tail) * static_cast<double>(steps());
  return step == 0 || step == last_step() || (v.every > 0 && step % v.every == 0) ||
         (in_tail && step % v.tail_every == 0);
}

std::int64_t RunConfig::sequences_per_step() const { return batch.tokens / batch.context; }

double RunConfig::loss_scale() const {
  return train.loss == LossOver::sum ? 1 : 1 / static_cast<double>(batch.tokens);
}

namespace {

// The largest divisor of `sequences` within kMicroBatchTokens.
std::int64_t chosen_micro_batch(std::int64_t sequences, std::int64_t context) {
  std::int64_t best =
      std::clamp<std::int64_t>(kMicroBatchTokens / context, 1, std::max<std::int64_t>(sequences, 1));
  while (sequences % best != 0) --best;
  return best;
}

}  // namespace

std::int64_t RunConfig::micro_batch() const {
  return batch.micro_batch > 0 ? batch.micro_batch : chosen_micro_batch(sequences_per_step(), batch.context);
}

RunConfig share_of_rank(RunConfig config, int ranks) {
  const std::int64_t sequences = config.sequences_per_step(), share = sequences / ranks;
  if (sequences % ranks != 0)
    throw RequestError(
        fmt::format("{} ranks cannot share the {} sequences of a step (batch.tokens {} / batch.context {}) "
                    "equally; take a "
                    "number of ranks that divides them, or other batch.tokens",
                    ranks, sequences, config.batch.tokens, config.batch.context));
  if (config.batch.micro_batch > 0 && share % config.batch.micro_batch != 0)
    throw RequestError(fmt::format(
        "batch.micro_batch is {}, which does not divide the {} sequences that each of {} ranks has in a "
        "step; 0 chooses one that does",
        config.batch.micro_batch, share, ranks));
  if (config.batch.micro_batch == 0)
    config.batch.micro_batch = chosen_micro_batch(share, config.batch.context);
  return config;
}

std::int64_t RunConfig::validation_context() const {
  return train.validate.context > 0 ? train.validate.context : batch.context;
}
std::int64_t RunConfig::validation_batch() const {
  return std::max<std::int64_t>(1, micro_batch() * batch.context / validation_context());
}

std::int64_t RunConfig::accumulation() const { return sequences_per_step() / micro_batch(); }

RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides, ConfigUse use) {
  ConfigNode tree = read_config_tree(path);
  for (const std::string& assignment : overrides) apply_override(tree, assignment);
  RunConfig config;
  const Places places = parse_config(tree, config);
  check_config(config, places, path, use);
  config.optimizer.steps = config.steps();
  return config;
}

}  // namespace spectrain

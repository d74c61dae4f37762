#include "train/config.h"

#include <algorithm>

#include "train/config_parser.h"
#include "train/config_tree.h"

namespace spectrain {

std::int64_t RunConfig::steps() const {
  if (train.steps > 0) return train.steps;
  return train.tokens / batch.tokens + (train.tokens % batch.tokens != 0);
}

std::int64_t RunConfig::sequences_per_step() const { return batch.tokens / batch.context; }

std::int64_t RunConfig::micro_batch() const {
  if (batch.micro_batch > 0) return batch.micro_batch;
  const std::int64_t sequences = sequences_per_step();
  std::int64_t best =
      std::clamp<std::int64_t>(kMicroBatchTokens / batch.context, 1, std::max<std::int64_t>(sequences, 1));
  while (sequences % best != 0) --best;
  return best;
}

std::int64_t RunConfig::accumulation() const { return sequences_per_step() / micro_batch(); }

RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides, ConfigUse use) {
  ConfigNode tree = read_config_tree(path);
  for (const std::string& assignment : overrides) apply_override(tree, assignment);
  RunConfig config;
  const Places places = parse_config(tree, config);
  check_config(config, places, path, use);
  return config;
}

}  // namespace spectrain

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

namespace spectrain {

enum class DataOrder : std::uint8_t {
  sequential,  // windows in the order of the files (the speedrun's order)
  shuffled,    // each epoch a fresh permutation of all windows, from (seed, epoch) alone
};

// Which sequences a run sees. Each shard of n tokens holds floor((n - 1) / context) windows of context + 1
// consecutive tokens (the last is only a target); windows are numbered through the shards in order.
// Sequence i of step s is window number (s * sequences + i) of the endless stream of epochs: a function of data,
// seed and step only, whatever the ranks and the micro-batch.
struct LoaderConfig {
  std::vector<std::string> files;  // shards, in order (glob patterns already expanded, see expand_shards)
  std::int64_t context = 1024;
  std::int64_t sequences = 1;      // per step, over all ranks and micro-batches
  std::uint64_t seed = 0;
  DataOrder order = DataOrder::sequential;
  std::int64_t vocab = 0;          // > 0: a token id >= vocab is an Error naming file and offset
};

// Expands "dir/*.bin", a directory, or a plain file into sorted shard paths; throws RequestError naming the pattern
// when nothing matches.
std::vector<std::string> expand_shards(const std::vector<std::string>& patterns);

class TokenLoader {
 public:
  explicit TokenLoader(LoaderConfig config);  // maps and checks the shards; throws RequestError
  ~TokenLoader();

  std::int64_t tokens() const;   // in all shards
  std::int64_t windows() const;  // per epoch
  std::int64_t files() const;

  // Sequences [first, first + count) of step `step`: tokens and targets, each count * context. Thread-safe.
  void read(std::int64_t step, std::int64_t first, std::int64_t count, std::span<std::int32_t> tokens,
            std::span<std::int32_t> targets) const;
  // Starts reading that range in the background; the next read() of the same range takes it from there.
  void prefetch(std::int64_t step, std::int64_t first, std::int64_t count);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace spectrain

#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "data/loader.h"
#include "model/transformer.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"
#include "optim/sharding.h"

namespace spectrain {

// Everything a run needs, as YAML says it (configs/README.md is the reference). Plain values, defaults
// included.
struct RunSection {
  std::string name = "run";
  std::string directory = "runs";  // the run's own directory is directory/name
  std::uint64_t seed = 1;
  bool operator==(const RunSection&) const = default;
};

struct DataSection {
  std::vector<std::string> train;  // shard files, patterns or directories
  std::vector<std::string> validation;
  DataOrder order = DataOrder::sequential;
  // Of the training data (data/loader.h); validation always reads the windows of `stream`.
  DataLayout layout = DataLayout::stream;
  std::int64_t layout_ranks = 8;
  std::int64_t document_token = 50256;
  std::int64_t document_length = 0;
  bool replay_first_batch = false;
  std::string tokenizer;  // "bytes", "gpt2=<dir>" or a tokenizer file: what `sample` decodes with;
                          // empty: the tokenizer.json that `data pack` left beside the shards
  bool operator==(const DataSection&) const = default;
};

struct BatchSection {
  std::int64_t tokens = 524288;  // per optimizer step, over all ranks
  std::int64_t context = 1024;
  std::int64_t micro_batch =
      0;  // sequences in memory at a time; 0: chosen (largest that divides, <= 16384 tokens)
  bool operator==(const BatchSection&) const = default;
};

enum class Device : std::uint8_t { automatic, cpu, cuda };

// Of the float32 weights that products read in bf16, in training.
enum class Rounding : std::uint8_t { nearest, stochastic };

struct ComputeSection {
  Device device = Device::automatic;
  DType precision = DType::bf16;  // of activations and products: f32 or bf16
  Rounding rounding = Rounding::nearest;
  int threads = 0;  // CPU; 0: all cores this process may use
  bool recompute = false;
  std::int64_t logits_budget_mib = 256;
  bool operator==(const ComputeSection&) const = default;
};

struct ValidationSection {
  std::int64_t every = 125;        // steps; 0: only before the first and after the last step
  std::int64_t tokens = 10485760;  // per validation; 0: the whole validation set
  double tail = 0;                 // share of the schedule, at its end, with more validations
  std::int64_t tail_every = 25;    // steps
  std::int64_t context = 0;        // tokens of a sequence; 0: batch.context
  bool operator==(const ValidationSection&) const = default;
};

struct CheckpointSection {
  std::int64_t every = 0;  // steps; 0: only at the end
  int keep = 2;            // newest complete ones kept; 0: all
  bool operator==(const CheckpointSection&) const = default;
};

// What the gradient of a step is of: the mean of its tokens' losses, or their sum, which is batch.tokens
// times as large. Reported losses are means either way.
enum class LossOver : std::uint8_t { mean, sum };

struct TrainSection {
  std::int64_t steps = 0;   // exactly one of steps and tokens is given
  std::int64_t tokens = 0;  // steps = ceil(tokens / batch.tokens)
  std::int64_t stop = 0;    // steps after which the run ends where its schedule goes on; 0: with it
  LossOver loss = LossOver::mean;
  ValidationSection validate;
  CheckpointSection checkpoint;
  double target = 0;           // validation loss whose first crossing is reported; 0: none
  std::int64_t log_every = 1;  // steps between training lines of metrics.jsonl
  bool tensorboard = false;    // event files beside metrics.jsonl
  bool operator==(const TrainSection&) const = default;
};

// What is measured beside the loss (train/diagnostics.h).
struct DiagnosticsSection {
  std::int64_t every = 0;  // steps; 0: never
  std::vector<std::string>
      matrices;  // parameters whose spectra are measured: names, "*" at the end: all that begin so
  std::int64_t spectrum = 16;  // singular values written of each, evenly chosen; 0: only their summary
  bool deciles = false;        // validation loss by how frequent the token is
  bool operator==(const DiagnosticsSection&) const = default;
};

struct DistributedSection {
  Sharding sharding = Sharding::owners;
  std::int64_t bucket_mib = 40;    // MiB of gradients that are sent together
  double timeout = 60;             // seconds: for ranks to come together, and for each operation between them
  std::int64_t check_every = 250;  // steps between comparisons of all weights over ranks; 0: never
  bool operator==(const DistributedSection&) const = default;
};

struct RunConfig {
  RunSection run;
  TransformerConfig model;
  DataSection data;
  BatchSection batch;
  ComputeSection compute;
  OptimizerConfig optimizer;
  ScheduleConfig schedule;
  TrainSection train;
  DiagnosticsSection diagnostics;
  DistributedSection distributed;

  std::int64_t steps() const;      // of the schedule: train.steps, or ceil(train.tokens / batch.tokens)
  std::int64_t last_step() const;  // steps(), or train.stop
  bool validates(std::int64_t step) const;  // before step 0, by train.validate, and after last_step()
  std::int64_t sequences_per_step() const;  // batch.tokens / batch.context
  double loss_scale() const;                // factor on the sum of a step's losses whose gradient is taken
  // Sequences in memory at a time: batch.micro_batch, or, where that is 0, the largest divisor of
  // sequences_per_step() that holds at most kMicroBatchTokens tokens (at least one sequence).
  std::int64_t micro_batch() const;
  std::int64_t accumulation() const;  // micro-batches per step: sequences_per_step() / micro_batch()
  // Tokens of a validation sequence, and how many of them are in memory at a time: about as many tokens as in
  // training.
  std::int64_t validation_context() const;
  std::int64_t validation_batch() const;

  bool operator==(const RunConfig&) const = default;
};

// The configuration of one of `ranks` that share the sequences of a step equally: its micro_batch divides its
// share. Throws RequestError when that cannot be.
RunConfig share_of_rank(RunConfig config, int ranks);

inline constexpr std::int64_t kMicroBatchTokens = 16384;

// What a configuration is loaded for. A run needs everything; for a look at the model (`plan`, `bench`,
// presets) data.train, the optimizer's groups and the length of the run may be missing: empty, or 0 steps.
enum class ConfigUse : std::uint8_t { run, model };

// Reads a YAML file, follows `base:` (relative to the file that names it; the nearer file wins, maps merge,
// lists and scalars replace), applies `--set key.path=value` overrides ("optimizer.0.lr=0.02"), checks every
// key, type and range and that the values fit each other. Of train.steps and train.tokens the nearer one
// counts. Throws RequestError: 'configs/x.yaml:12: unknown key "optimizer.0.learning_rate"; did you mean
// "lr"? (...)'.
RunConfig load_config(const std::string& path, const std::vector<std::string>& overrides,
                      ConfigUse use = ConfigUse::run);

// The effective configuration as YAML with every default written out; load_config of it gives the same run.
// `comments`: the meaning of each key behind it.
std::string to_yaml(const RunConfig& config, bool comments = false);

// Every key with type, default, range and meaning, as lines of text.
std::string key_reference();

}  // namespace spectrain

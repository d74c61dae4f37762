#pragma once

#include <cstdint>
#include <string>
#include <vector>

// What each subcommand is asked to do, as the command line understood it, and the functions that do it. One
// translation unit per command (command_<name>.cpp). The functions return the exit code (0: done) or throw
// RequestError (2) or Error (1); main turns these into one sentence on standard error.
//
// `overrides` holds every --set in order, then the options that are short for one: --device cpu is
// "compute.device=cpu", --threads 2 is "compute.threads=2", --precision f32 is "compute.precision=f32". Hand
// them to load_config() as they are.

namespace spectrain {

struct TrainRequest {
  std::string config;  // path of a YAML file
  std::vector<std::string> overrides;
  bool resume = false;  // go on from the run directory's newest complete checkpoint
  bool force = false;   // an existing run directory is replaced
  int ranks = 0;        // processes on this host, at most one of the two is not 0; 0: not given
  int gpus = 0;         // likewise, with one GPU each
  std::vector<std::string> arguments = {};  // of the program, as given: for the processes it starts
  bool speedrun = false;  // timed by the records' rules (train/speedrun_log.h); not with `resume`
};
int run_train(const TrainRequest& request);

struct EvalRequest {
  std::string config;      // YAML of a run: its newest complete checkpoint is evaluated; or
  std::string checkpoint;  // a checkpoint directory. Exactly one of the two is not empty.
  std::vector<std::string> overrides;
  std::vector<std::string> data;  // token shards; empty: data.validation of the configuration
  std::int64_t tokens = 0;        // 0: train.validate.tokens of the configuration
};
int run_eval(const EvalRequest& request);

struct SampleRequest {
  std::string checkpoint;  // a checkpoint directory, or a run directory (its newest complete checkpoint)
  std::vector<std::string> overrides;
  std::string prompt;
  std::int64_t tokens = 100;  // to be generated
  double temperature = 1;     // 0: always the likeliest token
  std::int64_t top_k = 0;     // only the k likeliest; 0: all
  std::uint64_t seed = 1;
};
int run_sample(const SampleRequest& request);

struct PlanRequest {
  std::string config;  // empty with `keys`
  std::vector<std::string> overrides;
  bool keys = false;                           // print the reference of all configuration keys instead
  int ranks = 0;                               // also how so many ranks would share the work; 0: not asked
  bool json = false;                           // with `ranks`: that alone, as one JSON object
  double tflops = 0, link = 0, node_link = 0;  // of the prediction (Fabric); 0: its own
};
int run_plan(const PlanRequest& request);

struct BenchRequest {
  std::string config;  // path of a YAML file (resolved from a preset's name by the command line)
  std::vector<std::string> overrides;
  std::int64_t batch = 0;    // sequences per step; 0: the configuration's micro-batch
  std::int64_t context = 0;  // 0: the configuration's
  std::int64_t steps = 10;   // timed, after one that is not
  bool profile = false;      // also the time of each kind of operation in one step
  bool json = false;         // one JSON object instead of a table
};
int run_bench(const BenchRequest& request);

enum class PlotAxis : std::uint8_t { tokens, seconds, steps };

struct PlotRequest {
  std::vector<std::string> runs;  // run directories or metrics.jsonl files
  std::string out;                // picture.svg or picture.png; empty: characters on the terminal
  PlotAxis x = PlotAxis::tokens;
  int width = 0, height = 0;  // of the chart of characters, in cells; 0: what fits the terminal
  bool ascii = false;         // characters outside ASCII are not used even where the locale has them
  bool log_x = false;         // of the picture
  std::string title;          // of the picture; empty: made from the axis
  bool table = false;         // the comparison table without the chart; with `out`, beside the picture
  double target = 0;          // validation loss of the table's last columns; 0: the runs' own
};
int run_plot(const PlotRequest& request);

// The update rules with defaults, memory, FLOPs and source; of one, its keys. RequestError for an unknown
// name.
int run_optimizers(const std::string& name);

// The devices of this machine, the CPU first; where there is no GPU, why.
int run_devices();

}  // namespace spectrain

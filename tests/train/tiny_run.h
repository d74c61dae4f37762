#pragma once

#include <sys/types.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "data/loader.h"
#include "kernels/backend.h"
#include "tests/train/scratch_directory.h"
#include "train/metrics.h"

namespace spectrain {

// A place with two small corpora of bytes (vocab 257) and a configuration that trains on them in
// milliseconds. Sequences of 16 tokens, four per step.
//
//   short/train_00000{0,1,2}.bin  10, 10 and 8 windows: the second shard ends with step 5, the first within
//   step
//                                 3, an epoch is exactly 7 steps
//   long/train_000000.bin         1,000 windows
//   */val_000000.bin              18 windows
class TinyRun {
 public:
  TinyRun();

  std::string directory(const std::string& run) const { return scratch_ / "runs/" + run; }
  std::string checkpoints(const std::string& run) const { return directory(run) + "/checkpoints"; }
  std::string operator/(const std::string& name) const { return scratch_ / name; }
  std::string config() const { return scratch_ / "tiny.yaml"; }  // muon on the hidden matrices
  std::string adamw_config() const { return scratch_ / "tiny-adamw.yaml"; }

 private:
  ScratchDirectory scratch_;
};

// What TrainRequest takes, for a run of that name; the rest are "key=value".
std::vector<std::string> named(const std::string& run, std::vector<std::string> overrides = {});

enum class Existing : std::uint8_t { refuse, resume, force };

// `spectrain train` within this process; returns what it printed.
std::string train(const std::string& config, const std::vector<std::string>& overrides,
                  Existing existing = Existing::refuse);

// The same on a backend of the caller's, whatever the configuration's device.
std::string train_on(Backend& backend, const std::string& config, const std::vector<std::string>& overrides,
                     Existing existing = Existing::refuse);

// Copies a run's directory, leaving out checkpoints after `step`.
void copy_run(const TinyRun& tiny, const std::string& from, const std::string& to, std::int64_t step);

// What metrics.jsonl says that must not depend on how the run was cut into processes or on time: one text per
// line, "7 448 train 3.25 norm 1.5 lr 0.01" with all digits.
std::vector<std::string> timeless_metrics(const std::string& run_directory);

// Every tensor of the newest checkpoint, as the bytes of its two safetensors files.
struct SavedBytes {
  std::int64_t step = -1;
  std::string model, optimizer;
};
SavedBytes newest_saved(const std::string& checkpoints);
void expect_same_bytes(const SavedBytes& a, const SavedBytes& b);

// Rewrites the weights of a run's newest checkpoint, as `change(name, values)` says.
void change_weights(const std::string& config, const std::vector<std::string>& overrides,
                    const std::string& checkpoints,
                    const std::function<void(const std::string&, std::span<float>)>& change);

// The same so that losses stay finite and gradients do not: a gain of 1e29 that the next matrix takes back
// leaves the loss as it is; the matrix' gradient is 1e29 times what flows back, which another pair of that
// kind makes large.
void spoil_gradients(const TinyRun& tiny, const std::string& run);

// ---- the program itself

struct Finished {
  int code = -1;  // -1: a signal ended it
  std::string out, err;
};

// The spectrain binary of this build with these arguments, its output in files `output`.out and .err.
pid_t start_program(const std::vector<std::string>& arguments, const std::string& output);
Finished wait_for(pid_t pid, const std::string& output);
Finished run_program(const std::vector<std::string>& arguments, const std::string& output);

// `train <config> --set ...` as arguments.
std::vector<std::string> train_arguments(const std::string& config, const std::vector<std::string>& overrides,
                                         Existing existing = Existing::refuse);

}  // namespace spectrain

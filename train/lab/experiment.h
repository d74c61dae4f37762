#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "kernels/backend.h"
#include "optim/option.h"

// The laboratory: what papers on Muon claim, measured. An experiment is a class with options, which a
// configuration file sets (configs/lab/), and a run that returns measurements and, for each claim, checks of
// them. Verdicts are counted from the checks and never written down beforehand.

namespace spectrain::lab {

// What somebody says, and what would show that it is wrong.
struct Claim {
  std::string id;        // "e1.growth": unique in the laboratory
  std::string source;    // "arXiv 2603.00742, section 4", "in circulation"
  std::string sentence;  // the claim in one sentence
  std::string refuted_by;
  std::string
      remark;  // what of the source could not be read, and which settings stand in for it; may be empty
};

// A number that was measured: the mean over seeds.
struct Measurement {
  std::string name;  // "half-time of mode 1, gradient descent"
  double value = 0;
  double spread = 0;  // standard deviation over the seeds
  int seeds = 1;
  std::optional<double> expected;  // of a closed form or an independent implementation
  std::string expected_from;       // "closed form ln(s/a0 - 1) / 2s"
  std::string unit;                // "steps", "%"; empty: a plain number
};

// A statement that the numbers make true or false.
struct Check {
  std::string statement;  // "the half-times of gradient descent are within 1 % of the closed form"
  std::string measured;   // "0.34 %"
  bool holds = false;
};

enum class Verdict : std::uint8_t { holds, holds_in_part, does_not_hold };
std::string_view words_of(Verdict verdict);  // "holds", "holds in part", "does not hold here"

struct ClaimResult {
  Claim claim;
  std::vector<Check> checks;  // at least one
  // All checks hold; some; none.
  Verdict verdict() const;
};

struct Series {
  std::string name;
  std::vector<double> x, y;  // of one size; NaN breaks the line
};
struct Picture {
  std::string title, x_label, y_label;
  bool log_x = false, log_y = false;
  std::vector<Series> series;
};

struct Outcome {
  std::vector<ClaimResult> claims;
  std::vector<Measurement> measurements;
  std::vector<Picture> pictures;
  std::vector<std::string>
      notes;  // whole sentences: what was reduced, what disagrees with the source and why
};

// What an experiment finds around it.
struct Surroundings {
  Backend& backend;    // for what is trained on the tape
  bool quick = false;  // a smaller form that ends in seconds; its notes say what was reduced
  std::uint64_t seed = 1;
  std::string data;                             // folder with MNIST, CIFAR-10 and text; may not exist
  std::function<void(const std::string&)> say;  // one line of progress
};

class Experiment {
 public:
  virtual ~Experiment() = default;
  virtual std::string_view name() const = 0;      // "mode-race": what a configuration file calls it
  virtual std::string_view title() const = 0;     // one line
  virtual std::vector<Claim> claims() const = 0;  // with the options as they are set
  virtual void describe(OptionVisitor& v) = 0;    // its options, for configuration files
  // Throws RequestError when something it needs is missing ("no MNIST in <folder>: ..."), which is then what
  // the report says of its claims.
  virtual Outcome run(const Surroundings& s) = 0;
};

// All experiments by name. Adding one: a file with its class and make function, and a line in experiments.h.
std::unique_ptr<Experiment> make_experiment(std::string_view name);  // RequestError with the nearest name
std::vector<std::string> experiment_names();

}  // namespace spectrain::lab

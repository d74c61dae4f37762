#pragma once

#include <fmt/format.h>

#include <map>
#include <string>
#include <vector>

#include "tests/train/tiny_run.h"

namespace spectrain {

// A tiny base configuration and a plan beside it, for the program itself.
class TinyComparison {
 public:
  // `rest`: of the plan, after base, directory and set.
  explicit TinyComparison(const std::string& rest) { write_plan(rest); }

  void write_plan(const std::string& rest, const std::string& set = "train.steps: 4") {
    put_contents(plan(),
                 fmt::format("base: tiny-adamw.yaml\ndirectory: {}\nset: {{{}, train.validate.every: 2}}\n{}",
                             tiny / "compare", set, rest));
  }
  std::string plan() const { return tiny / "plan.yaml"; }
  std::string root() const { return tiny / "compare/plan"; }
  std::string run(const std::string& id) const { return root() + "/runs/" + id; }
  std::vector<std::string> arguments(std::vector<std::string> more = {}) const {
    more.insert(more.begin(), {"compare", plan()});
    return more;
  }
  Finished compare(std::vector<std::string> more = {}) const {
    return run_program(arguments(std::move(more)), tiny / "output");
  }

  // metrics.jsonl of every finished run, by id: with the seconds in it, two trainings of a run never agree.
  std::map<std::string, std::string> finished() const {
    std::map<std::string, std::string> out;
    std::error_code none;
    for (std::filesystem::directory_iterator it(root() + "/runs", none), end; !none && it != end;
         it.increment(none))
      if (std::filesystem::exists(it->path() / "finished.json"))
        out[it->path().filename().string()] = contents_of(it->path().string() + "/metrics.jsonl");
    return out;
  }

  TinyRun tiny;
};

}  // namespace spectrain

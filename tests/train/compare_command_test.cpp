#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/train/compare_run.h"
#include "train/compare_runs.h"
#include "train/directory_lock.h"

// `spectrain compare` from plan to report.

namespace spectrain {
namespace {

using testing::HasSubstr;
using testing::Not;

constexpr const char* kTwo = R"(
seeds: {sweep: [1], final: [1, 2]}
extend: 1
parallel: 2
variants:
  - name: adamw
  - name: faster
    grid: {lr: {keys: [optimizer.0.lr, optimizer.1.lr], values: [0.01, 0.02]}}
)";

void expect_unchanged(const std::map<std::string, std::string>& before,
                      const std::map<std::string, std::string>& after) {
  for (const auto& [id, metrics] : before) {
    ASSERT_TRUE(after.contains(id)) << id << " is gone";
    EXPECT_EQ(after.at(id), metrics) << id << " was trained again";
  }
}

TEST(CompareCommand, TrainsEachRunOnceAndReports) {
  TinyComparison c(kTwo);
  const Finished dry = c.compare({"--dry-run"});
  EXPECT_EQ(dry.code, 0) << dry.err;
  EXPECT_THAT(dry.out, HasSubstr("adamw-s1-"));
  EXPECT_THAT(dry.out, HasSubstr("nothing was started"));
  const Finished nothing = c.compare({"--report-only"});
  EXPECT_EQ(nothing.code, 2);
  EXPECT_THAT(nothing.err, HasSubstr("no finished run"));
  EXPECT_FALSE(std::filesystem::exists(c.root())) << "neither writes anything";

  const Finished whole = c.compare();
  ASSERT_EQ(whole.code, 0) << whole.err;
  EXPECT_THAT(whole.out, HasSubstr("2 variants, about 5 runs, 0 done"));
  EXPECT_THAT(whole.out, HasSubstr("for the rest"));
  EXPECT_THAT(whole.out, HasSubstr("report.html"));
  const auto runs = c.finished();
  // lr 0.01 is the base: the sweep's first run is a final run of adamw, and 0.02, at the edge, gets 0.04.
  EXPECT_EQ(runs.size(), 5u) << whole.out;
  for (const char* file : {"/report.html", "/results.csv", "/results.jsonl"})
    EXPECT_GT(std::filesystem::file_size(c.root() + file), 100u);
  for (const auto& [id, metrics] : runs)
    EXPECT_FALSE(std::filesystem::exists(c.run(id) + "/checkpoints")) << "save: false";

  // A run of a comparison is the run that `train` makes of its configuration.
  const std::string id = runs.begin()->first;
  train(c.root() + "/configs/" + id + ".yaml", {"run.name=alone", "run.directory=" + (c.tiny / "runs")});
  EXPECT_EQ(timeless_metrics(c.tiny.directory("alone")), timeless_metrics(c.run(id)));

  // What there is, as the report gets it.
  CompareState state(read_compare_plan(c.plan()));
  const ComparedRuns results = collect_runs(state);
  EXPECT_EQ(results.runs.size(), 6u) << "one run belongs to both variants";
  ASSERT_EQ(results.extensions.size(), 1u);
  EXPECT_EQ(results.extensions[0].value, 0.04);
  EXPECT_EQ(results.variants[0].unfinished + results.variants[1].unfinished, 0u);
  for (const ComparedRun& r : results.runs) {
    EXPECT_EQ(r.validation.size(), 3u);
    EXPECT_EQ(r.validation.back().step, 4);
    EXPECT_GT(r.parameters, 30'000);
    EXPECT_GT(r.flops_per_token, 6.0 * 20'000);
    EXPECT_GE(r.optimizer_bytes, 8.0 * static_cast<double>(r.parameters)) << "AdamW has two numbers each";
    EXPECT_GT(r.optimizer_flops_per_step, static_cast<double>(r.parameters));
  }
  EXPECT_FALSE(results.hardware.empty());

  // Again: nothing to do. With one seed more: those alone.
  const Finished again = c.compare();
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, Not(HasSubstr("[")));
  EXPECT_EQ(c.finished(), runs);
  std::string more = kTwo;
  more.replace(more.find("[1, 2]"), 6, "[1, 3]");
  c.write_plan(more);
  EXPECT_EQ(c.compare().code, 0);
  EXPECT_EQ(c.finished().size(), 7u);
  expect_unchanged(runs, c.finished());
}

TEST(CompareCommand, RefusalsWriteNothing) {
  TinyComparison c("variants:\n  - name: a\n  - name: b\n    set: {model.width: 64}\n");
  const Finished other = c.compare();
  EXPECT_EQ(other.code, 2);
  EXPECT_THAT(other.err,
              HasSubstr("plan.yaml:6: model.width is 32 in variant \"a\" and 64 in variant \"b\""));
  c.write_plan("variant: [{name: a}]\n");
  const Finished unknown = c.compare();
  EXPECT_EQ(unknown.code, 2);
  EXPECT_THAT(unknown.err, HasSubstr("plan.yaml:4: unknown key \"variant\"; did you mean \"variants\"?"));
  EXPECT_EQ(run_program({"compare", c.tiny / "none.yaml"}, c.tiny / "output").code, 2);
  EXPECT_FALSE(std::filesystem::exists(c.tiny / "compare"));
}

TEST(CompareCommand, DivergedRunsAreOver) {
  TinyComparison c(
      "extend: 0\nvariants:\n  - name: a\n    grid: {lr: {keys: [optimizer.0.lr, optimizer.1.lr], "
      "values: [0.01, 1e30]}}\n");
  const Finished first = c.compare();
  ASSERT_EQ(first.code, 0) << first.err;
  EXPECT_THAT(first.out, HasSubstr("diverged: step "));
  const auto runs = c.finished();
  EXPECT_EQ(runs.size(), 2u);
  const Finished again = c.compare();
  EXPECT_EQ(again.code, 0) << again.err;
  EXPECT_THAT(again.out, Not(HasSubstr("diverged: step")));
  EXPECT_EQ(c.finished(), runs);
  CompareState state(read_compare_plan(c.plan()));
  const ComparedRuns results = collect_runs(state);
  EXPECT_EQ(results.variants[0].failed, 1u);
  EXPECT_EQ(std::count_if(results.runs.begin(), results.runs.end(),
                          [](const ComparedRun& r) { return r.diverged; }),
            1);
  EXPECT_THAT(c.compare({"--dry-run"}).out, HasSubstr("best: lr 0.01"));
}

TEST(CompareCommand, AFailingRunSaysWhyAndIsTriedAgain) {
  TinyComparison c("variants: [{name: a}]\n");
  // Its directory cannot be made.
  std::filesystem::create_directories(c.root());
  put_contents(c.root() + "/runs", "in the way");
  const Finished refused = c.compare();
  EXPECT_EQ(refused.code, 1);
  std::filesystem::remove(c.root() + "/runs");
  CompareState state(read_compare_plan(c.plan()));
  const std::string id = state.look().missing.front()->id;
  std::filesystem::create_directories(c.root() + "/runs");
  put_contents(c.run(id), "in the way");
  const Finished failed = c.compare();
  EXPECT_EQ(failed.code, 2);
  EXPECT_THAT(failed.err, HasSubstr("the run " + id + " failed: "));
  EXPECT_THAT(failed.err, HasSubstr("is a file where the run's directory should be"));
  std::filesystem::remove(c.run(id));
  EXPECT_EQ(c.compare().code, 0);
}

TEST(CompareCommand, FindsOutThatDataOrTheProgramChanged) {
  TinyComparison c("variants: [{name: a}]\n");
  ASSERT_EQ(c.compare().code, 0);
  const auto runs = c.finished();
  const std::string id = runs.begin()->first, config = c.run(id) + "/config.yaml";
  // A marker whose run trained something else (of a program with another default) does not count.
  std::string text = contents_of(config);
  text.replace(text.find("lr: 0.01"), 8, "lr: 0.03");
  put_contents(config, text);
  ASSERT_EQ(c.compare().code, 0);
  EXPECT_NE(c.finished().at(id), runs.at(id));
  EXPECT_EQ(contents_of(c.run(id) + ".old-1/metrics.jsonl"), runs.at(id)) << "kept";

  std::string shard = contents_of(c.tiny / "short/train_000001.bin");
  shard[1100] = static_cast<char>(shard[1100] ^ 1);
  put_contents(c.tiny / "short/train_000001.bin", shard);
  const Finished changed = c.compare();
  EXPECT_EQ(changed.code, 2);
  EXPECT_THAT(changed.err, HasSubstr("was trained on other data"));
  EXPECT_EQ(c.compare({"--report-only"}).code, 0) << "what was measured is still true";
}

TEST(CompareCommand, OneAtATime) {
  TinyComparison c("variants: [{name: a}]\n");
  std::filesystem::create_directories(c.root());
  const Descriptor held = lock_directory(c.root(), "");
  const Finished second = c.compare();
  EXPECT_EQ(second.code, 2);
  EXPECT_THAT(second.err, HasSubstr("is in use by process "));
  EXPECT_THAT(second.err, HasSubstr("running already"));
}

TEST(CompareCommand, InterruptedRunsGoOnWhereTheySaved) {
  TinyComparison c("");
  c.write_plan("parallel: 2\nvariants:\n  - name: a\n  - name: b\n    set: {optimizer.0.lr: 0.02}\n",
               "train.steps: 200000");
  const pid_t pid = start_program(c.arguments(), c.tiny / "output");
  CompareState state(read_compare_plan(c.plan()));
  const CompareState::View view = state.look();
  ASSERT_EQ(view.missing.size(), 2u);
  const auto lines = [&](const PlannedRun* r) {
    const std::string path = c.run(r->id) + "/metrics.jsonl";
    std::error_code none;  // not there yet, or made and not yet written to
    const std::uintmax_t bytes = std::filesystem::file_size(path, none);
    return none || bytes == 0 ? 0 : read_metrics(path).lines.size();
  };
  for (int i = 0; i < 3000 && (lines(view.missing[0]) < 20 || lines(view.missing[1]) < 20); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  kill(pid, SIGINT);
  const Finished interrupted = wait_for(pid, c.tiny / "output");
  EXPECT_EQ(interrupted.code, 1);
  EXPECT_THAT(interrupted.err,
              HasSubstr("interrupted with 0 of about 2 runs done; the same command goes on"));
  for (const PlannedRun* r : view.missing) {
    EXPECT_TRUE(std::filesystem::exists(c.run(r->id) + "/checkpoints")) << "both saved";
    EXPECT_GE(newest_saved(c.run(r->id) + "/checkpoints").step, 10);
    EXPECT_FALSE(std::filesystem::exists(c.run(r->id) + "/finished.json"));
  }
}

}  // namespace
}  // namespace spectrain

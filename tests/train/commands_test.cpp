#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/train/tiny_run.h"
#include "train/command_plan_tables.h"
#include "train/session.h"

// eval, bench and plan agree with what training does.

namespace spectrain {
namespace {

using testing::HasSubstr;
using testing::Not;

// "...: loss 5.549076 (perplexity 257.000) over 288 tokens"
struct Evaluated {
  double loss = 0, perplexity = 0;
  long long tokens = 0;
};

Evaluated evaluated(const TinyRun& tiny, std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "eval");
  const Finished f = run_program(arguments, tiny / "eval-output");
  EXPECT_EQ(f.code, 0) << f.err;
  Evaluated e;
  const std::size_t at = f.out.find(": loss ");
  EXPECT_EQ(std::sscanf(f.out.c_str() + std::min(at, f.out.size()), ": loss %lf (perplexity %lf) over %lld",
                        &e.loss, &e.perplexity, &e.tokens),
            3)
      << f.out;
  return e;
}

TEST(EvalCommand, MeasuresWhatTrainingMeasured) {
  const TinyRun tiny;
  const auto overrides = named("measured", {"train.checkpoint.every=6", "train.checkpoint.keep=0"});
  train(tiny.config(), overrides);
  std::map<std::int64_t, double> losses;
  for (const MetricsLine& l : read_metrics(tiny.directory("measured") + "/metrics.jsonl").lines)
    if (l.val_loss) losses[l.step] = *l.val_loss;

  // Printed with six digits behind the point.
  const auto near = [](double a, double b) { return std::abs(a - b) <= 1e-6 * b; };
  for (const std::int64_t step : {6, 12, 18, 20}) {
    const std::string path = fmt::format("{}/step-{:08}", tiny.checkpoints("measured"), step);
    const Evaluated e = evaluated(tiny, {"--checkpoint", path});
    EXPECT_PRED2(near, e.loss, losses.at(step)) << "step " << step;
    EXPECT_NEAR(e.perplexity, std::exp(e.loss), 1e-3 * std::exp(e.loss));
    EXPECT_EQ(e.tokens, 18 * 16);
  }
  // By run directory, and by configuration: the newest.
  EXPECT_PRED2(near, evaluated(tiny, {"--checkpoint", tiny.directory("measured")}).loss, losses.at(20));
  EXPECT_PRED2(near, evaluated(tiny, {tiny.config(), "--set", "run.name=measured"}).loss, losses.at(20));
  // However many at a time; 18 windows are four batches of four and a half one.
  EXPECT_PRED2(
      near,
      evaluated(tiny, {"--checkpoint", tiny.directory("measured"), "--set", "batch.micro_batch=4"}).loss,
      losses.at(20));
  // On other data and a part of it.
  const Evaluated other = evaluated(tiny, {"--checkpoint", tiny.directory("measured"), "--data",
                                           tiny / "long/val_000000.bin", "--tokens", "160"});
  EXPECT_EQ(other.tokens, 160);
  EXPECT_NE(other.loss, losses.at(20));

  const Finished nothing = run_program({"eval", tiny.config(), "--set", "run.name=nobody"}, tiny / "nobody");
  EXPECT_EQ(nothing.code, 2);
  EXPECT_THAT(nothing.err, HasSubstr("nobody"));
}

TEST(BenchCommand, JsonHoldsEveryNumber) {
  const TinyRun tiny;
  const Finished f =
      run_program({"bench", tiny.config(), "--json", "--steps", "3", "--batch", "2"}, tiny / "bench-output");
  ASSERT_EQ(f.code, 0) << f.err;
  const nlohmann::json j = nlohmann::json::parse(f.out);
  EXPECT_EQ(j.at("config"), tiny.config());
  EXPECT_EQ(j.at("precision"), "f32");
  EXPECT_EQ(j.at("batch"), 2);
  EXPECT_EQ(j.at("context"), 16);
  EXPECT_EQ(j.at("steps"), 3);
  EXPECT_FALSE(j.at("device").get<std::string>().empty());
  for (const char* positive : {"parameters", "step_seconds", "step_seconds_fastest", "step_seconds_slowest",
                               "forward_backward_seconds", "tokens_per_second", "flops_per_token",
                               "peak_flops_per_second", "share_of_peak", "allocated_bytes"})
    EXPECT_GT(j.at(positive).get<double>(), 0) << positive;
  EXPECT_LE(j.at("step_seconds_fastest"), j.at("step_seconds"));
  EXPECT_GE(j.at("step_seconds_slowest"), j.at("step_seconds"));
  EXPECT_NEAR(j.at("tokens_per_second").get<double>() * j.at("step_seconds").get<double>(), 32, 1e-6);
  EXPECT_FALSE(std::filesystem::exists(tiny / "runs")) << "bench leaves nothing behind";

  const Finished table = run_program({"bench", tiny.config(), "--steps", "2"}, tiny / "bench-output");
  EXPECT_EQ(table.code, 0);
  for (const char* row : {"step", "optimizer", "tokens/s", "of peak", "memory"})
    EXPECT_THAT(table.out, HasSubstr(row));
  EXPECT_THAT(table.out, Not(HasSubstr("kernel by kernel")));
}

TEST(BenchCommand, AProfileNamesEveryKindOfWorkAndItsFloor) {
  const TinyRun tiny;
  const Finished f = run_program(
      {"bench", tiny.config(), "--json", "--profile", "--steps", "1", "--batch", "2"}, tiny / "bench-output");
  ASSERT_EQ(f.code, 0) << f.err;
  const nlohmann::json j = nlohmann::json::parse(f.out);
  EXPECT_GT(j.at("bandwidth_bytes_per_second").get<double>(), 1e8);
  EXPECT_GT(j.at("f32_flops_per_second").get<double>(), 1e8);
  std::set<std::string> names;
  for (const auto& kernel : j.at("kernels")) {
    names.insert(kernel.at("name").get<std::string>());
    for (const char* number : {"calls", "seconds", "bytes", "floor_seconds"})
      EXPECT_GT(kernel.at(number).get<double>(), 0) << number << " of " << kernel.at("name");
  }
  for (const char* name :
       {"linear", "linear backward", "attention", "attention backward", "embedding", "cross_entropy backward",
        "the gradient's norm", "update by muon", "update by adamw", "new weights prepared"})
    EXPECT_EQ(names.count(name), 1u) << name;

  const Finished table =
      run_program({"bench", tiny.config(), "--steps", "1", "--profile"}, tiny / "bench-output");
  EXPECT_EQ(table.code, 0);
  for (const char* row : {"kernel by kernel", "floor ms", "update by muon", "together"})
    EXPECT_THAT(table.out, HasSubstr(row));
}

// Longer sequences than in training are measured as if the run had them.
TEST(EvalCommand, ValidatesOnLongerSequences) {
  const TinyRun tiny;
  train(tiny.config(), named("longer", {"model.context=48", "train.steps=3", "train.validate.context=48"}));
  double last = 0;
  for (const MetricsLine& line : read_metrics(tiny.directory("longer") + "/metrics.jsonl").lines)
    if (line.val_loss) last = *line.val_loss;
  const std::string run = tiny.directory("longer");
  const Evaluated own = evaluated(tiny, {"--checkpoint", run}),
                  as_trained = evaluated(tiny, {"--checkpoint", run, "--set", "train.validate.context=0"}),
                  all_long = evaluated(
                      tiny, {"--checkpoint", run, "--set", "train.validate.context=0", "--set",
                             "batch.tokens=48", "--set", "batch.context=48", "--set", "batch.micro_batch=1"});
  EXPECT_EQ(own.tokens, 288);
  EXPECT_NEAR(own.loss, last, 1e-6);
  EXPECT_NEAR(own.loss, all_long.loss, 2e-6);
  EXPECT_GT(std::abs(own.loss - as_trained.loss), 1e-5) << "the longer context changes nothing";
}

// What a training session holds after a step, buffers that are made on the way included, against the plan.
void expect_planned_memory(const RunConfig& config) {
  const auto planner = make_backend(config.compute);
  const MemoryTable table = memory_table(config, *planner);
  EXPECT_EQ(planner->allocated_bytes(), 0u) << "planning takes no memory";

  const auto backend = make_backend(config.compute);
  Session session(config, *backend, true);
  session.evaluation();
  Optimizer optimizer(*backend, session.parameters().views(), config.optimizer);
  const std::size_t before = backend->allocated_bytes();
  session.parameters().initialize(1);
  const std::vector<std::int32_t> ids(static_cast<std::size_t>(session.micro_batch() * config.batch.context),
                                      7);
  session.training().set_input("tokens", ids);
  session.training().set_input("targets", ids);
  session.training().forward_backward(1e-3, false);
  optimizer.step(0, 1);
  session.parameters().refresh();
  const std::size_t after = backend->allocated_bytes();
  const auto total = static_cast<double>(table.total());
  EXPECT_NEAR(static_cast<double>(after), total, 0.05 * total)
      << "planned " << table.total() << ", taken " << before << " before and " << after << " after a step";
}

TEST(PlanCommand, MemoryIsWhatIsTaken) {
  const TinyRun tiny;
  for (const char* precision : {"f32", "bf16"}) {
    SCOPED_TRACE(precision);
    const std::vector<std::string> where = {std::string("compute.precision=") + precision};
    expect_planned_memory(with_resolved_model(load_config(tiny.config(), where)));
    expect_planned_memory(with_resolved_model(load_config(tiny.adamw_config(), where)));
    expect_planned_memory(with_resolved_model(
        load_config(tiny.config(),
                    {where[0], "model.context=144", "train.validate.context=144", "batch.micro_batch=1"})));
  }
  const std::string quickstart = std::string(SPECTRAIN_SOURCE_DIR) + "/configs/quickstart.yaml";
  expect_planned_memory(with_resolved_model(load_config(quickstart, {})));
}

}  // namespace
}  // namespace spectrain

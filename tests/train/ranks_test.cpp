#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "tests/train/rank_job.h"
#include "train/checkpoint.h"
#include "train/safetensors.h"

// Whole runs on many ranks: the run of one rank, whatever the number of ranks, where it is cut and on how
// many ranks it goes on.

namespace spectrain {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::MatchesRegex;

std::vector<MetricsLine> lines_of(const TinyRun& tiny, const std::string& run) {
  return read_metrics(tiny.directory(run) + "/metrics.jsonl").lines;
}

// Every loss of two runs, from the first step after `after` on.
void expect_same_losses(const TinyRun& tiny, const std::string& one, const std::string& other,
                        double tolerance, std::int64_t after = -1) {
  SCOPED_TRACE(other + " against " + one);
  const auto a = lines_of(tiny, one), b = lines_of(tiny, other);
  ASSERT_EQ(a.size(), b.size());
  double worst = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].step, b[i].step);
    EXPECT_EQ(a[i].tokens, b[i].tokens);
    ASSERT_EQ(a[i].train_loss.has_value(), b[i].train_loss.has_value());
    if (a[i].step <= after) continue;
    const double x = a[i].train_loss.value_or(a[i].val_loss.value_or(0)),
                 y = b[i].train_loss.value_or(b[i].val_loss.value_or(0));
    EXPECT_GT(x, 0.1);
    worst = std::max(worst, std::abs(x - y) / std::abs(x));
  }
  EXPECT_LE(worst, tolerance);
  testing::Test::RecordProperty("worst_" + other, std::to_string(worst * 1e9) + "e-9");
}

// Root mean square of the difference of two runs' weights, of that of the weights; the worst tensor.
void expect_same_weights(const TinyRun& tiny, const std::string& one, const std::string& other,
                         double tolerance) {
  SCOPED_TRACE(other + " against " + one);
  const auto file = [&](const std::string& run) {
    const auto found = newest_checkpoint(tiny.checkpoints(run));
    EXPECT_TRUE(found);
    return SafetensorsFile(found->path + "/model.safetensors");
  };
  const SafetensorsFile a = file(one), b = file(other);
  ASSERT_EQ(a.tensors().size(), b.tensors().size());
  for (const StoredTensor& t : a.tensors()) {
    ASSERT_EQ(t.dims, b.at(t.name).dims);
    const std::vector<float> x = a.read_floats(t.name), y = b.read_floats(t.name);
    double difference = 0, size = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double d = static_cast<double>(x[i]) - y[i];
      difference += d * d;
      size += static_cast<double>(x[i]) * x[i];
    }
    EXPECT_LE(std::sqrt(difference), tolerance * std::sqrt(size)) << t.name;
  }
}

struct Precision {
  const char* name;
  bool adamw;
  double losses, weights;  // tolerances
};
void PrintTo(const Precision& p, std::ostream* out) { *out << p.name << (p.adamw ? " adamw" : " muon"); }

class Ranks : public testing::TestWithParam<Precision> {
 protected:
  TinyRun tiny;
  std::string config() const { return GetParam().adamw ? tiny.adamw_config() : tiny.config(); }
  std::vector<std::string> run(const std::string& name, std::vector<std::string> more = {}) const {
    more.push_back(std::string("compute.precision=") + GetParam().name);
    return twelve_sequences(tiny, name, std::move(more));
  }
};

TEST_P(Ranks, AnyNumberOfThemTrainsTheSameModel) {
  train(config(), run("1"));
  ASSERT_EQ(lines_of(tiny, "1").size(), 20u + 5u);
  for (const int ranks : {2, 3, 4, 12}) {
    const std::string name = std::to_string(ranks);
    train_on_ranks(tiny, ranks, config(), run(name));
    if (HasFailure()) return;
    expect_same_losses(tiny, "1", name, GetParam().losses);
    expect_same_weights(tiny, "1", name, GetParam().weights);
  }
}

// The norm that clips is that of all ranks; whole shares instead of sequence by sequence.
TEST_P(Ranks, ClipAndTakeLargerMicroBatchesAsOneDoes) {
  const auto clipped = [&](const std::string& name) {
    return run(name, {"train.clip=0.05", "batch.micro_batch=0"});
  };
  train(config(), clipped("1"));
  for (const int ranks : {2, 3}) {
    const std::string name = std::to_string(ranks);
    train_on_ranks(tiny, ranks, config(), clipped(name));
    expect_same_losses(tiny, "1", name, GetParam().losses);
    expect_same_weights(tiny, "1", name, GetParam().weights);
  }
}

TEST_P(Ranks, OwnersAreReplicasBitForBit) {
  // Small buckets cannot be asked for; a model of this size is one. Three ranks leave matrices uneven.
  train_on_ranks(tiny, 3, config(), run("owners"));
  train_on_ranks(tiny, 3, config(), run("replicas", {"distributed.sharding=none"}));
  expect_same_bytes(newest_saved(tiny.checkpoints("owners")), newest_saved(tiny.checkpoints("replicas")));
}

INSTANTIATE_TEST_SUITE_P(Runs, Ranks,
                         testing::Values(Precision{"f32", false, 1e-5, 1e-4},
                                         Precision{"f32", true, 1e-5, 1e-4},
                                         Precision{"bf16", false, 1e-3, 1e-1}),
                         [](const auto& tested) {
                           return std::string(tested.param.name) + (tested.param.adamw ? "_adamw" : "_muon");
                         });

class RankCheckpoints : public testing::Test {
 protected:
  static constexpr std::int64_t kCut = 7;
  std::vector<std::string> run(const std::string& name, std::vector<std::string> more = {}) const {
    return twelve_sequences(tiny, name, std::move(more));
  }
  std::vector<std::string> saving(const std::string& name) const {
    return run(name, {"train.checkpoint.every=7", "train.checkpoint.keep=0"});
  }
  // The run as it was after its checkpoint, under another name.
  void cut(const std::string& from, const std::string& to) const {
    copy_run(tiny, from, to, kCut);
    ASSERT_EQ(newest_checkpoint(tiny.checkpoints(to))->step, kCut);
  }
  std::string step(const std::string& run_name) const {
    return tiny.checkpoints(run_name) + "/step-00000007";
  }

  TinyRun tiny;
};

TEST_F(RankCheckpoints, OfFourGoOnAsIfNothingHadHappenedOnAnyNumber) {
  train_on_ranks(tiny, 4, tiny.config(), saving("whole"));
  for (const int ranks : {4, 1, 2, 3}) {
    const std::string name = "on-" + std::to_string(ranks);
    cut("whole", name);
    if (ranks == 1)
      train(tiny.config(), saving(name), Existing::resume);
    else
      train_on_ranks(tiny, ranks, tiny.config(), saving(name), Existing::resume);
    if (HasFailure()) return;
    expect_same_losses(tiny, "whole", name, ranks == 4 ? 0 : 1e-5);
    expect_same_weights(tiny, "whole", name, ranks == 4 ? 0 : 1e-4);
    if (ranks != 4) continue;
    EXPECT_EQ(timeless_metrics(tiny.directory("whole")), timeless_metrics(tiny.directory(name)));
    expect_same_bytes(newest_saved(tiny.checkpoints("whole")), newest_saved(tiny.checkpoints(name)));
  }
}

TEST_F(RankCheckpoints, OfOneGoOnOnThree) {
  train(tiny.config(), saving("whole"));
  cut("whole", "on-3");
  train_on_ranks(tiny, 3, tiny.config(), saving("on-3"), Existing::resume);
  expect_same_losses(tiny, "whole", "on-3", 1e-5);
  expect_same_weights(tiny, "whole", "on-3", 1e-4);
}

// Sizes, the names of tensors and where they lie: everything but the values.
std::string layout_of(const std::string& checkpoint) {
  std::string text;
  for (const char* name : {"/model.safetensors", "/optimizer.safetensors"}) {
    const SafetensorsFile file(checkpoint + name);
    text += std::to_string(file.data_begin()) + "\n";
    for (const StoredTensor& t : file.tensors())
      text += t.name + " " + t.shape_text() + " " + std::to_string(t.begin) + "\n";
  }
  return text;
}

TEST_F(RankCheckpoints, AreThoseOfOneProcessForEveryReader) {
  train(tiny.config(), saving("one"));
  train_on_ranks(tiny, 4, tiny.config(), saving("four"));
  EXPECT_EQ(layout_of(step("four")), layout_of(step("one")));
  std::vector<std::string> files[2];
  for (const int i : {0, 1})
    for (const auto& e : fs::recursive_directory_iterator(tiny.directory(i == 0 ? "one" : "four")))
      files[i].push_back(e.path().lexically_relative(tiny.directory(i == 0 ? "one" : "four")).string());
  EXPECT_THAT(files[1], testing::UnorderedElementsAreArray(files[0]));

  // What eval says of the last checkpoint is what the ranks measured together.
  const Finished eval = run_program({"eval", tiny.config(), "--set", "run.name=four"}, tiny / "eval-output");
  EXPECT_EQ(eval.code, 0) << eval.err;
  const std::size_t at = eval.out.find(": loss ");
  ASSERT_NE(at, std::string::npos) << eval.out;
  const double measured = lines_of(tiny, "four").back().val_loss.value();
  EXPECT_NEAR(std::stod(eval.out.substr(at + 7)), measured, 1e-5 * measured);

  const auto sample = [&](const std::string& name) {
    const Finished f = run_program(
        {"sample", "--checkpoint", step(name), "--tokens", "20", "--prompt", "the ", "--temperature", "0"},
        tiny / "sample-output");
    EXPECT_EQ(f.code, 0) << f.err;
    return f.out;
  };
  EXPECT_EQ(sample("four"), sample("one"));
}

TEST(RankMetrics, SayWhatCommunicationCosts) {
  const TinyRun tiny;
  train_on_ranks(tiny, 2, tiny.config(), twelve_sequences(tiny, "two", {"train.steps=4"}));
  int steps = 0;
  for (const MetricsLine& line : lines_of(tiny, "two")) {
    if (!line.train_loss) continue;
    ++steps;
    const auto field = [&](const std::string& name) {
      for (const auto& [key, value] : line.more)
        if (key == name)
          return std::holds_alternative<double>(value) ? std::get<double>(value)
                                                       : static_cast<double>(std::get<std::int64_t>(value));
      ADD_FAILURE() << "step " << line.step << " has no " << name;
      return -1.0;
    };
    // Half of the gradients of 41,000 weights in float32, at least; of the first step the new weights go
    // later.
    EXPECT_GT(field("bytes_sent"), 4.0 * 20'000);
    EXPECT_GT(field("step_seconds"), 0);
    EXPECT_GT(field("communication_seconds"), 0);
    EXPECT_GE(field("waited_seconds"), 0);
    EXPECT_LT(field("waited_seconds"), field("step_seconds"));
  }
  EXPECT_EQ(steps, 4);
}

// ---- requests that cannot be

// One message in all, from rank 0, and nothing in the directory of runs.
TEST(RankRequests, RanksThatCannotShareAStepAreRefusedOnce) {
  const TinyRun tiny;
  RankJob job(tiny, 5);
  job.start_all(train_arguments(tiny.config(), twelve_sequences(tiny, "five")));
  const auto ends = job.wait(30);
  for (const EndedRank& e : ends) {
    EXPECT_EQ(e.code, 2) << e.err;
    EXPECT_EQ(e.out, "");
  }
  const auto lines = lines_on_stderr(ends);
  ASSERT_EQ(lines.size(), 1u) << testing::PrintToString(lines);
  EXPECT_THAT(lines[0], HasSubstr("5 ranks cannot share the 12 sequences of a step"));
  EXPECT_FALSE(fs::exists(tiny / "runs"));
}

TEST(RankRequests, RanksThatWereToldDifferentThingsAreNamed) {
  const TinyRun tiny;
  RankJob job(tiny, 3);
  for (const int r : {0, 1, 2})
    job.start(r, train_arguments(tiny.config(),
                                 twelve_sequences(tiny, "mixed", {r == 2 ? "run.seed=8" : "run.seed=7"})));
  const auto ends = job.wait(30);
  for (const EndedRank& e : ends) EXPECT_EQ(e.code, 2) << e.err;
  const auto lines = lines_on_stderr(ends);
  ASSERT_EQ(lines.size(), 1u) << testing::PrintToString(lines);
  EXPECT_THAT(lines[0], HasSubstr("the configuration that rank 2 reads is not that of rank 0"));
  EXPECT_FALSE(fs::exists(tiny / "runs"));
}

// ---- Open MPI's launcher

class RanksOfMpirun : public testing::Test {
 protected:
  void SetUp() override {
    if (const std::string reason = prepare_mpirun(); !reason.empty()) GTEST_SKIP() << reason;
  }
  TinyRun tiny;
};

TEST_F(RanksOfMpirun, AreStartedByTheProgramItself) {
  train(tiny.config(), twelve_sequences(tiny, "one"));
  auto arguments = train_arguments(tiny.config(), twelve_sequences(tiny, "two"));
  arguments.insert(arguments.end(), {"--ranks", "2", "--device", "cpu"});
  const Finished f = run_program(arguments, tiny / "mpi-output");
  ASSERT_EQ(f.code, 0) << f.err;
  EXPECT_EQ(f.err, "");
  EXPECT_THAT(f.out, HasSubstr("2 ranks (mpi)"));
  expect_same_losses(tiny, "one", "two", 1e-5);
  expect_same_weights(tiny, "one", "two", 1e-4);
}

TEST_F(RanksOfMpirun, AreStartedByMpirun) {
  train(tiny.config(), twelve_sequences(tiny, "one"));
  std::string command =
      "OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 mpirun --oversubscribe --bind-to none -n 4 "
      "" SPECTRAIN_BINARY_DIR "/spectrain";
  for (const std::string& a : train_arguments(tiny.config(), twelve_sequences(tiny, "four")))
    command += " '" + a + "'";
  command += " > " + (tiny / "out") + " 2> " + (tiny / "err");
  ASSERT_EQ(std::system(command.c_str()), 0) << contents_of(tiny / "err");
  EXPECT_THAT(contents_of(tiny / "out"), HasSubstr("4 ranks (mpi)"));
  expect_same_losses(tiny, "one", "four", 1e-5);
  expect_same_weights(tiny, "one", "four", 1e-4);
}

}  // namespace
}  // namespace spectrain

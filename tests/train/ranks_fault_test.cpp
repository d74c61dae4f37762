#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <limits>
#include <random>
#include <thread>

#include "data/loader.h"
#include "tests/train/rank_job.h"
#include "train/checkpoint.h"
#include "train/checkpoint_files.h"

// One rank of three dies, hangs or cannot go on: the run ends everywhere within the timeout, one line on
// standard error says which rank and in what, and the last checkpoint is whole.

namespace spectrain {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::AnyOf;
using testing::ContainsRegex;
using testing::HasSubstr;
using testing::StartsWith;

constexpr int kRanks = 3;
constexpr double kTimeout = 3;                // distributed.timeout, seconds
constexpr double kWithin = kTimeout + 5;      // a few seconds more to find out whose fault it is
constexpr std::int64_t kForever = 1'000'000;  // more steps than any test lives

using Clock = std::chrono::steady_clock;

void sleep_for(double seconds) { std::this_thread::sleep_for(std::chrono::duration<double>(seconds)); }

std::int64_t newest_step(const std::string& checkpoints) {
  const auto all = step_directories(checkpoints);
  return all.empty() ? -1 : all.back().step;
}

class RankFaults : public testing::Test {
 protected:
  // Everything happens all the time: a checkpoint after every second step, a validation after every third.
  std::vector<std::string> overrides(const std::string& run, std::int64_t steps = kForever) const {
    return twelve_sequences(tiny, run,
                            {"train.steps=" + std::to_string(steps), "train.checkpoint.every=2",
                             "train.validate.every=3", "schedule.shape=constant", "train.validate.tokens=64",
                             "distributed.timeout=3", "distributed.check_every=5"});
  }
  std::vector<std::string> arguments(const std::string& run, std::int64_t steps = kForever) const {
    const bool begun = fs::exists(tiny.directory(run));
    return train_arguments(tiny.config(), overrides(run, steps), begun ? Existing::resume : Existing::refuse);
  }
  // Until a checkpoint after `step` is there.
  bool saved_after(const std::string& run, std::int64_t step) const {
    const auto begin = Clock::now();
    while (newest_step(tiny.checkpoints(run)) <= step) {
      if (Clock::now() - begin > std::chrono::seconds(20)) return false;
      sleep_for(0.001);
    }
    return true;
  }
  // The newest checkpoint is whole, and no newer one is torn. Its step; -1: there is none.
  std::int64_t intact(const std::string& run) const {
    const auto found = newest_checkpoint(tiny.checkpoints(run), Verify::contents);
    if (!found) return -1;
    EXPECT_TRUE(found->notes.empty()) << found->notes.front();
    const CheckpointReader reader(found->path);
    EXPECT_EQ(reader.step(), found->step);
    return found->step;
  }
  void expect_to_go_on(const std::string& run) const {
    const std::int64_t step = intact(run);
    train_on_ranks(tiny, kRanks, tiny.config(), overrides(run, step + 5), Existing::resume);
    EXPECT_EQ(intact(run), step + 5);
    for (const auto& e : fs::directory_iterator(tiny.checkpoints(run)))
      EXPECT_FALSE(e.path().filename().string().starts_with(".")) << e.path();
  }

  const TinyRun tiny;
};

// All but `victim` (-1: none) ended by themselves, not with 0, and together they said one line.
std::string the_line(const std::vector<EndedRank>& ends, int victim) {
  for (int r = 0; r < static_cast<int>(ends.size()); ++r) {
    const EndedRank& e = ends[static_cast<std::size_t>(r)];
    if (r == victim) continue;
    EXPECT_FALSE(e.late) << "rank " << r << " did not end";
    EXPECT_GT(e.code, 0) << "rank " << r << ": " << e.err;
  }
  auto survivors = ends;
  if (victim >= 0) survivors[static_cast<std::size_t>(victim)].err.clear();
  const auto lines = lines_on_stderr(survivors);
  EXPECT_EQ(lines.size(), 1u) << testing::PrintToString(lines);
  return lines.empty() ? "" : lines[0];
}

double slowest(const std::vector<EndedRank>& ends, int victim) {
  double seconds = 0;
  for (std::size_t r = 0; r < ends.size(); ++r)
    if (static_cast<int>(r) != victim) seconds = std::max(seconds, ends[r].seconds);
  return seconds;
}

std::string name_of_rank(int rank) { return "rank " + std::to_string(rank); }

class KilledRank : public RankFaults, public testing::WithParamInterface<int> {};

TEST_P(KilledRank, EndsTheOthersAndLosesNothing) {
  constexpr int kKills = 12;
  const int victim = GetParam();
  std::mt19937 random(20240700 + static_cast<unsigned>(victim));
  std::int64_t newest = -1;
  double longest = 0;
  int torn_files = 0, in_operation = 0;
  for (int k = 0; k < kKills; ++k) {
    SCOPED_TRACE("kill " + std::to_string(k));
    RankJob job(tiny, kRanks);
    job.start_all(arguments("killed"));
    ASSERT_TRUE(saved_after("killed", newest));
    sleep_for(static_cast<double>(random() % 60'000) * 1e-6);
    const double killed = job.elapsed();
    job.signal(victim, SIGKILL);
    const auto ends = job.wait(kWithin);
    EXPECT_EQ(ends[static_cast<std::size_t>(victim)].code, -1);
    const std::string line = the_line(ends, victim);
    EXPECT_THAT(line, StartsWith("spectrain: " + name_of_rank(victim) + " ended "));
    EXPECT_THAT(line, ContainsRegex("(during|after) [a-z_]+ "));
    longest = std::max(longest, slowest(ends, victim) - killed);
    in_operation += line.find(" during ") != std::string::npos ? 1 : 0;
    for (const auto& e : fs::directory_iterator(tiny.checkpoints("killed")))
      torn_files += e.path().filename().string().starts_with(".") ? 1 : 0;
    const std::int64_t step = intact("killed");
    ASSERT_GT(step, newest);
    newest = step;
    if (HasFailure()) return;
  }
  EXPECT_LT(longest, kTimeout + 2);
  RecordProperty("longest_milliseconds", static_cast<int>(longest * 1000));
  RecordProperty("kills_in_an_operation", in_operation);
  RecordProperty("leftovers", torn_files);
  expect_to_go_on("killed");
}
INSTANTIATE_TEST_SUITE_P(Ranks, KilledRank, testing::Values(0, 1, 2),
                         [](const auto& tested) { return std::to_string(tested.param); });

// On its way to the first step. Ranks that have not met cannot agree on who speaks: those that come when rank
// 0 is no more each say that it is not there.
TEST_F(RankFaults, KilledBeforeTheFirstStepEndsTheOthers) {
  std::mt19937 random(20240710);
  for (int round = 0; round < 3; ++round) {
    RankJob jobs[] = {{tiny, kRanks}, {tiny, kRanks}, {tiny, kRanks}};  // whose rank of that number is killed
    for (int victim = 0; victim < kRanks; ++victim) {
      jobs[victim].start_all(arguments("early-" + std::to_string(victim)));
      sleep_for(static_cast<double>(random() % 80'000) * 1e-6);
      jobs[victim].signal(victim, SIGKILL);
    }
    for (int victim = 0; victim < kRanks; ++victim) {
      SCOPED_TRACE("round " + std::to_string(round) + ", " + name_of_rank(victim));
      const auto ends = jobs[victim].wait(kWithin);
      for (int r = 0; r < kRanks; ++r) {
        if (r == victim) continue;
        EXPECT_FALSE(ends[static_cast<std::size_t>(r)].late);
        EXPECT_EQ(ends[static_cast<std::size_t>(r)].code, 1);
      }
      int naming = 0;
      const auto lines = lines_on_stderr(ends);
      for (const std::string& line : lines) {
        const bool nobody = line.starts_with("spectrain: rank 0 could not be reached at ");
        const bool names = line.find(name_of_rank(victim)) != std::string::npos;
        EXPECT_TRUE(nobody || names) << line;
        naming += names ? 1 : 0;
      }
      EXPECT_GE(naming, 1);
      EXPECT_LE(naming, victim == 0 ? 2 : 1) << testing::PrintToString(lines);
    }
  }
}

TEST_F(RankFaults, AStoppedRankEndsTheOthersWithinTheTimeout) {
  RankJob jobs[] = {{tiny, kRanks}, {tiny, kRanks}, {tiny, kRanks}};
  const std::string runs[] = {"stopped-0", "stopped-2", "wakes"};
  const int victims[] = {0, 2, 1};
  double stopped[3];
  for (const int i : {0, 1, 2}) {
    jobs[i].start_all(arguments(runs[i]));
    ASSERT_TRUE(saved_after(runs[i], 4));
    jobs[i].signal(victims[i], SIGSTOP);
    stopped[i] = jobs[i].elapsed();
  }
  for (const int i : {0, 1}) {
    const auto ends = jobs[i].wait(kWithin, victims[i]);
    EXPECT_LT(slowest(ends, victims[i]) - stopped[i], kWithin);
    EXPECT_THAT(the_line(ends, victims[i]),
                AllOf(StartsWith("spectrain: " + name_of_rank(victims[i]) + " did not take part in "),
                      ContainsRegex("[a-z_]+ of "), HasSubstr("within 3 s")));
    EXPECT_GE(intact(runs[i]), 4);
  }
  expect_to_go_on("stopped-2");

  // One that wakes up later finds that the run is over.
  jobs[2].signal(1, SIGCONT);
  EXPECT_THAT(the_line(jobs[2].wait(kWithin), -1), StartsWith("spectrain: rank 1 did not take part in "));
  expect_to_go_on("wakes");
}

TEST_F(RankFaults, ARankWithoutItsDataIsNamedBeforeAnythingIsWritten) {
  for (const int victim : {0, 1}) {
    SCOPED_TRACE(victim);
    RankJob job(tiny, kRanks);
    auto set = overrides("no-data");
    set.push_back("data.train=long/train_*.bin");
    for (int r = 0; r < kRanks; ++r)
      job.start(r, train_arguments(tiny.config(), set),
                r == victim ? "cd /; " : "cd '" + (tiny / "long") + "/..'; ");
    const auto ends = job.wait(kWithin);
    const std::string line = the_line(ends, -1);
    EXPECT_THAT(line, HasSubstr("long/train_*.bin"));
    EXPECT_THAT(line, StartsWith("spectrain: " + (victim == 0 ? "" : name_of_rank(victim) + ": ")));
    EXPECT_FALSE(fs::exists(tiny.directory("no-data")));
    EXPECT_LT(slowest(ends, -1), kTimeout + 3);
  }
}

// The largest file a process may write, in blocks of 512 bytes, and no signal when it tries more.
std::string disk_of(int blocks) { return "trap '' XFSZ; ulimit -f " + std::to_string(blocks) + "; "; }

TEST_F(RankFaults, AFullDiskEndsAllAndKeepsTheCheckpointBefore) {
  train(tiny.config(), overrides("full", 3));
  const std::string whole = tiny.checkpoints("full") + "/step-00000003/model.safetensors";
  const int half = static_cast<int>(fs::file_size(whole) / 2 / 512);
  const SavedBytes before = newest_saved(tiny.checkpoints("full"));
  for (const std::vector<int>& full : {std::vector<int>{0}, {1}, {2}, {1, 2}, {0, 1, 2}}) {
    SCOPED_TRACE("full for " + testing::PrintToString(full));
    RankJob job(tiny, kRanks);
    for (int r = 0; r < kRanks; ++r)
      job.start(r, arguments("full"),
                std::find(full.begin(), full.end(), r) != full.end() ? disk_of(half) : "");
    const auto ends = job.wait(kWithin);
    const std::string line = the_line(ends, -1);
    EXPECT_THAT(line,
                AllOf(HasSubstr("the checkpoint of step 4 was not written; earlier ones are as they were"),
                      HasSubstr("File too large")));
    const bool another = full.size() == 1 && full[0] > 0;
    EXPECT_THAT(line, StartsWith("spectrain: " + (another ? name_of_rank(full[0]) + ": " : "")));
    expect_same_bytes(newest_saved(tiny.checkpoints("full")), before);
    EXPECT_LT(slowest(ends, -1), kTimeout + 3);
    for (const auto& e : fs::directory_iterator(tiny.checkpoints("full")))
      EXPECT_FALSE(e.path().filename().string().starts_with(".")) << "room a full disk needs: " << e.path();
    if (HasFailure()) return;
  }
  expect_to_go_on("full");
}

// The first step from `from` on whose stretch of a rank other than 0 reads `token`, alone; and that rank.
std::pair<std::int64_t, int> step_and_rank_with(const std::string& files, int token, std::int64_t from) {
  LoaderConfig l;
  l.files = expand_shards({files});
  l.context = 16;
  l.sequences = 12;
  TokenLoader loader(l);
  std::vector<std::int32_t> tokens(16), targets(16);
  for (std::int64_t step = from; step < from + 20; ++step) {
    std::vector<int> ranks;
    for (int i = 0; i < 12; ++i) {
      loader.read(step, i, 1, tokens, targets);
      if (std::find(tokens.begin(), tokens.end(), token) != tokens.end()) ranks.push_back(i / 4);
    }
    if (!ranks.empty()) return {step, ranks.size() == 1 ? ranks[0] : 0};
  }
  return {-1, 0};
}

TEST_F(RankFaults, ALossThatIsNotFiniteOnOneRankEndsAllAndNamesIt) {
  // The end of a text comes once in an epoch of 28 sequences: its embedding spoils one rank's loss.
  constexpr int kEndOfText = 256;
  const auto [step, rank] = step_and_rank_with(tiny / "short/train_*.bin", kEndOfText, 1);
  ASSERT_GT(step, 0);
  ASSERT_GT(rank, 0) << "the test needs other data";
  const auto set = [&](std::int64_t steps) {
    return twelve_sequences(tiny, "nan",
                            {"train.steps=" + std::to_string(steps), "train.validate.every=0",
                             "schedule.shape=constant", "distributed.timeout=3"});
  };
  const auto with_short = [&](std::vector<std::string> overrides_of) {
    overrides_of.push_back("data.train=" + (tiny / "short/train_*.bin"));
    return overrides_of;
  };
  train(tiny.config(), with_short(set(step)));
  change_weights(tiny.config(), with_short(set(step)), tiny.checkpoints("nan"),
                 [](const std::string& name, std::span<float> values) {
                   const std::size_t width = 32;
                   if (name == "wte" || name == "embedding")
                     for (std::size_t i = 0; i < width; ++i)
                       values[kEndOfText * width + i] = std::numeric_limits<float>::quiet_NaN();
                 });
  const SavedBytes before = newest_saved(tiny.checkpoints("nan"));
  RankJob job(tiny, kRanks);
  job.start_all(train_arguments(tiny.config(), with_short(set(step + 5)), Existing::resume));
  const auto ends = job.wait(kWithin);
  const std::string line = the_line(ends, -1);
  EXPECT_THAT(line, StartsWith("spectrain: " + name_of_rank(rank) + ": step " + std::to_string(step + 1) +
                               ": the training loss is "));
  EXPECT_THAT(line, HasSubstr("checkpoint of step " + std::to_string(step) + " is intact"));
  expect_same_bytes(newest_saved(tiny.checkpoints("nan")), before);
}

// ---- Open MPI's launcher

// Of a process of this machine: its parent, 0 where it is gone (a zombie is gone).
pid_t parent_of(pid_t pid) {
  const std::string stat = contents_of("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t end = stat.rfind(')');
  if (end == std::string::npos || end + 4 > stat.size() || stat[end + 2] == 'Z') return 0;
  return std::atoi(stat.c_str() + end + 4);
}

std::vector<pid_t> children_of(pid_t parent) {
  std::vector<pid_t> children;
  for (const auto& e : fs::directory_iterator("/proc")) {
    const pid_t pid = std::atoi(e.path().filename().c_str());
    if (pid > 0 && parent_of(pid) == parent) children.push_back(pid);
  }
  return children;
}

TEST_F(RankFaults, AKilledRankOfMpirunLeavesNoOrphans) {
  if (const std::string reason = prepare_mpirun(); !reason.empty()) GTEST_SKIP() << reason;
  for (const std::size_t victim : {std::size_t{1}, std::size_t{0}}) {
    SCOPED_TRACE("rank " + std::to_string(victim));
    auto all = arguments("mpi");
    all.insert(all.end(), {"--ranks", "3", "--device", "cpu"});
    const pid_t pid = start_program(all, tiny / "mpi-output");
    if (!saved_after("mpi", intact("mpi"))) {
      kill(pid, SIGTERM);
      FAIL() << wait_for(pid, tiny / "mpi-output").err;
    }
    const auto mpirun = children_of(pid);
    ASSERT_EQ(mpirun.size(), 1u);
    std::vector<pid_t> ranks(kRanks);
    for (const pid_t child : children_of(mpirun[0]))
      for (std::size_t r = 0; r < ranks.size(); ++r)
        if (contents_of("/proc/" + std::to_string(child) + "/environ")
                .find("OMPI_COMM_WORLD_RANK=" + std::to_string(r)) != std::string::npos)
          ranks[r] = child;
    for (const pid_t r : ranks) ASSERT_GT(r, 0);
    const auto begin = Clock::now();
    kill(ranks[victim], SIGKILL);
    const Finished f = wait_for(pid, tiny / "mpi-output");
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(static_cast<int>(kWithin)));
    EXPECT_EQ(f.code, 1);
    EXPECT_THAT(f.err, StartsWith("spectrain: " + name_of_rank(static_cast<int>(victim)) + " ended "));
    EXPECT_EQ(std::count(f.err.begin(), f.err.end(), '\n'), 1) << f.err;
    for (const pid_t r : ranks) EXPECT_EQ(parent_of(r), 0) << "rank " << r << " lives on";
    EXPECT_EQ(parent_of(mpirun[0]), 0);
    EXPECT_GT(intact("mpi"), 0);
  }
}

}  // namespace
}  // namespace spectrain

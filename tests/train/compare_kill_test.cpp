#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>

#include <chrono>
#include <csignal>
#include <random>
#include <thread>

#include "tests/train/compare_run.h"

// A comparison killed with SIGKILL again and again is in the end the comparison that nobody touched.

namespace spectrain {
namespace {

using Clock = std::chrono::steady_clock;

// Processes of this machine whose arguments name the directory.
std::vector<pid_t> processes_of(const std::string& directory) {
  std::vector<pid_t> found;
  std::error_code none;
  for (std::filesystem::directory_iterator it("/proc", none), end; !none && it != end; it.increment(none))
    if (contents_of(it->path() / "cmdline").find(directory) != std::string::npos)
      found.push_back(static_cast<pid_t>(std::stol(it->path().filename().string())));
  return found;
}

// Whether the process has not ended yet; it stays there to be waited for.
bool lives(pid_t pid) {
  siginfo_t info{};
  return waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == 0;
}

bool ends_soon(const std::string& directory) {
  for (int i = 0; i < 500 && !processes_of(directory).empty(); ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  return processes_of(directory).empty();
}

constexpr const char* kPlan = R"(
seeds: {sweep: [1], final: [1, 2, 3, 4, 5, 6]}
extend: 1
parallel: 2
variants:
  - name: adamw
  - name: faster
    grid: {lr: {keys: [optimizer.0.lr, optimizer.1.lr], values: [0.01, 0.02]}}
)";

TEST(CompareKill, NoRunOutlivesIt) {
  TinyComparison c("");
  c.write_plan("parallel: 2\nvariants:\n  - name: a\n  - name: b\n    set: {optimizer.0.lr: 0.02}\n",
               "train.steps: 1000000");
  const pid_t pid = start_program(c.arguments(), c.tiny / "output");
  const std::string configs = c.root() + "/configs/";
  for (int i = 0; i < 1000 && processes_of(configs).size() < 2; ++i)
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  EXPECT_EQ(processes_of(configs).size(), 2u);
  kill(pid, SIGKILL);
  wait_for(pid, c.tiny / "output");
  EXPECT_TRUE(ends_soon(configs));
  for (const pid_t left : processes_of(configs)) kill(left, SIGKILL);
}

TEST(CompareKill, AtAnyMomentLosesNoFinishedRun) {
  TinyComparison c("");
  c.write_plan(kPlan, "train.steps: 24, train.checkpoint.every: 4");
  std::mt19937 random(7);
  std::map<std::string, std::string> known;
  int killed = 0, with_runs = 0;
  Finished last;
  for (int life = 0; life < 40 && last.code != 0; ++life) {
    const std::size_t before = known.size();
    const pid_t pid = start_program(c.arguments(), c.tiny / "output");
    ASSERT_GT(pid, 0);
    // Every third life dies early; the others a moment after a run has ended: on a fast machine few runs end
    // in that moment, so that there are lives enough whatever its speed.
    const auto begin = Clock::now();
    const auto patience =
        life % 3 == 2 ? std::chrono::milliseconds(random() % 300) : std::chrono::seconds(60);
    while (Clock::now() - begin < patience && c.finished().size() <= before && lives(pid))
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    std::this_thread::sleep_for(std::chrono::microseconds(random() % 60'000));
    kill(pid, SIGKILL);
    last = wait_for(pid, c.tiny / "output");
    if (last.code > 0) FAIL() << last.err << last.out;
    if (last.code == 0) break;
    ++killed;
    EXPECT_TRUE(ends_soon(c.tiny / "compare")) << "a run outlived its comparison";
    const auto now = c.finished();
    with_runs += now.size() > before ? 1 : 0;
    for (const auto& [id, metrics] : known) {
      ASSERT_TRUE(now.contains(id)) << id << " is no longer finished";
      ASSERT_EQ(now.at(id), metrics) << id << " was trained again";
    }
    known = now;
  }
  const Finished end = c.compare();
  ASSERT_EQ(end.code, 0) << end.err;
  EXPECT_GE(killed, 4) << "too few to prove anything";
  EXPECT_GE(with_runs, 3);
  const auto runs = c.finished();
  for (const auto& [id, metrics] : known) EXPECT_EQ(runs.at(id), metrics) << id << " was trained again";

  TinyComparison untouched("");
  untouched.write_plan(kPlan, "train.steps: 24, train.checkpoint.every: 4");
  ASSERT_EQ(untouched.compare().code, 0);
  std::vector<std::string> ids, expected;
  for (const auto& [id, metrics] : runs) ids.push_back(id.substr(0, id.rfind('-')));
  for (const auto& [id, metrics] : untouched.finished()) expected.push_back(id.substr(0, id.rfind('-')));
  EXPECT_EQ(ids, expected);
  for (const auto& [id, metrics] : runs)
    for (const auto& [other, unused] : untouched.finished())
      if (id.substr(0, id.rfind('-')) == other.substr(0, other.rfind('-'))) {
        EXPECT_EQ(timeless_metrics(c.run(id)), timeless_metrics(untouched.run(other))) << id;
      }
}

}  // namespace
}  // namespace spectrain

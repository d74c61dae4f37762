#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <optional>

#include "kernels/error.h"
#include "tests/train/scratch_directory.h"
#include "train/run_directory.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

TEST(RunDirectory, IsMadeWithItsConfiguration) {
  ScratchDirectory dir;
  const RunDirectory run(dir / "runs/deep", "a", ExistingRun::refuse, "seed: 1\n");
  EXPECT_EQ(run.path(), dir / "runs/deep/a");
  EXPECT_EQ(contents_of(run.config_path()), "seed: 1\n");
  EXPECT_FALSE(run.existed());
  EXPECT_TRUE(run.set_aside_to().empty());
}

TEST(RunDirectory, IsNeverOverwrittenByAccident) {
  ScratchDirectory dir;
  { RunDirectory(dir.path(), "a", ExistingRun::refuse, "first"); }
  EXPECT_THAT(message_of<RequestError>([&] { RunDirectory(dir.path(), "a", ExistingRun::refuse, "second"); }),
              HasSubstr("/a already holds a run; resume it"));
  EXPECT_EQ(contents_of(dir / "a/config.yaml"), "first");
}

TEST(RunDirectory, SettingAsideDeletesNothing) {
  ScratchDirectory dir;
  for (const std::string& text : {std::string("first"), std::string("second"), std::string("third")})
    RunDirectory(dir.path(), "a", ExistingRun::set_aside, text);
  EXPECT_EQ(contents_of(dir / "a.old-1/config.yaml"), "first");
  EXPECT_EQ(contents_of(dir / "a.old-2/config.yaml"), "second");
  EXPECT_EQ(contents_of(dir / "a/config.yaml"), "third");
  const RunDirectory run(dir.path(), "a", ExistingRun::set_aside, "fourth");
  EXPECT_EQ(run.set_aside_to(), dir / "a.old-3");
  EXPECT_FALSE(run.existed());
}

TEST(RunDirectory, ResumingGoesOnAndKeepsAnotherConfiguration) {
  ScratchDirectory dir;
  EXPECT_FALSE(RunDirectory(dir.path(), "a", ExistingRun::resume, "first").existed());
  put_contents(dir / "a/metrics.jsonl", "x");
  EXPECT_TRUE(RunDirectory(dir.path(), "a", ExistingRun::resume, "first").existed());
  EXPECT_FALSE(fs::exists(dir / "a/config.old-1.yaml"));
  RunDirectory(dir.path(), "a", ExistingRun::resume, "longer");
  EXPECT_EQ(contents_of(dir / "a/config.old-1.yaml"), "first");
  EXPECT_EQ(contents_of(dir / "a/config.yaml"), "longer");
  EXPECT_EQ(contents_of(dir / "a/metrics.jsonl"), "x");
}

TEST(RunDirectory, TwoAtATimeAreRefusedWhateverTheyAsk) {
  ScratchDirectory dir;
  std::optional<RunDirectory> first(std::in_place, dir.path(), "a", ExistingRun::refuse, "first");
  for (const ExistingRun way : {ExistingRun::resume, ExistingRun::set_aside})
    EXPECT_THAT(message_of<RequestError>([&] { RunDirectory(dir.path(), "a", way, "second"); }),
                HasSubstr("is in use by process " + std::to_string(getpid())));
  EXPECT_EQ(contents_of(dir / "a/config.yaml"), "first");
  first.reset();
  EXPECT_NO_THROW(RunDirectory(dir.path(), "a", ExistingRun::resume, "second"));
}

TEST(RunDirectory, AKilledProcessLeavesNoLock) {
  ScratchDirectory dir;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    const RunDirectory run(dir.path(), "a", ExistingRun::refuse, "first");
    (void)!write(ready[1], "x", 1);
    pause();
    _exit(0);
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_THROW(RunDirectory(dir.path(), "a", ExistingRun::resume, "second"), RequestError);
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_NO_THROW(RunDirectory(dir.path(), "a", ExistingRun::resume, "second"));
}

TEST(RunDirectory, WhatIsNoNameIsRefused) {
  ScratchDirectory dir;
  for (const std::string& name :
       {std::string(), std::string("."), std::string(".."), std::string("a/b"), std::string("/a")})
    EXPECT_THROW(RunDirectory(dir.path(), name, ExistingRun::refuse, ""), RequestError) << name;
  put_contents(dir / "file", "");
  EXPECT_THAT(message_of<RequestError>([&] { RunDirectory(dir.path(), "file", ExistingRun::resume, ""); }),
              HasSubstr("is a file where"));
}

}  // namespace
}  // namespace spectrain

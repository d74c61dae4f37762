#include "train/lab/experiment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "kernels/error.h"
#include "tests/train/lab/fake_experiments.h"
#include "tests/train/scratch_directory.h"
#include "train/lab/configured_experiment.h"

namespace spectrain::lab {
namespace {

using testing::HasSubstr;
using testing::Not;

Check check(bool holds) { return {"a statement", "1", holds}; }

TEST(LabVerdict, IsCountedFromTheChecks) {
  const Claim claim{"c", "", "", "", ""};
  const auto verdict = [&](std::vector<Check> checks) {
    return ClaimResult{claim, std::move(checks)}.verdict();
  };
  EXPECT_EQ(verdict({check(true)}), Verdict::holds);
  EXPECT_EQ(verdict({check(true), check(true), check(true)}), Verdict::holds);
  EXPECT_EQ(verdict({check(false)}), Verdict::does_not_hold);
  EXPECT_EQ(verdict({check(false), check(false)}), Verdict::does_not_hold);
  EXPECT_EQ(verdict({check(true), check(false)}), Verdict::holds_in_part);
  EXPECT_EQ(verdict({check(false), check(false), check(true)}), Verdict::holds_in_part);
  EXPECT_THROW(verdict({}), std::logic_error) << "no verdict without a number";
  EXPECT_EQ(words_of(Verdict::holds), "holds");
  EXPECT_EQ(words_of(Verdict::holds_in_part), "holds in part");
  EXPECT_EQ(words_of(Verdict::does_not_hold), "does not hold here");
}

TEST(LabExperiments, AreMadeByName) {
  EXPECT_EQ(make_experiment("dice", fake_experiments())->name(), "dice");
  EXPECT_THAT(experiment_names(fake_experiments()),
              testing::ElementsAre("broken", "dice", "interrupted", "needs-data", "unjudged"));
  const std::string message =
      message_of<RequestError>([] { make_experiment("needs-date", fake_experiments()); });
  EXPECT_THAT(message,
              HasSubstr("no experiment \"needs-date\"; did you mean \"needs-data\"? (experiments: broken, "));
}

// The program's own.
TEST(LabExperiments, HaveNamesAndClaimsThatSayAll) {
  std::set<std::string> names, claims;
  for (const MakeExperiment make : all_experiments()) {
    const std::unique_ptr<Experiment> e = make();
    SCOPED_TRACE(e->name());
    EXPECT_TRUE(names.emplace(e->name()).second) << "twice";
    EXPECT_FALSE(e->title().empty());
    EXPECT_FALSE(e->claims().empty());
    for (const Claim& c : e->claims()) {
      EXPECT_TRUE(claims.insert(c.id).second) << c.id << " twice";
      EXPECT_FALSE(c.source.empty()) << c.id;
      EXPECT_FALSE(c.sentence.empty()) << c.id;
      EXPECT_FALSE(c.refuted_by.empty()) << c.id;
    }
  }
}

TEST(LabExperiments, EachHasAConfigurationThatCanBeRead) {
  const std::string folder = SPECTRAIN_SOURCE_DIR "/configs/lab";
  if (all_experiments().empty() && !std::filesystem::exists(folder))
    GTEST_SKIP() << "no experiments are built in";
  std::set<std::string> configured;
  for (const bool quick : {false, true})
    for (const ConfiguredExperiment& e : read_laboratory(folder, quick)) {
      configured.emplace(e.experiment->name());
      EXPECT_EQ(std::filesystem::path(e.file).stem().string(), e.id) << e.file << ": its id is its name";
    }
  EXPECT_THAT(experiment_names(), testing::ElementsAreArray(configured));
}

}  // namespace
}  // namespace spectrain::lab

#include "train/lab/configured_experiment.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "kernels/error.h"
#include "tests/train/lab/fake_experiments.h"
#include "tests/train/scratch_directory.h"

namespace spectrain::lab {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::StartsWith;

class LabConfiguration : public testing::Test {
 protected:
  std::string path() const { return dir_ / "e1.yaml"; }
  ConfiguredExperiment read(const std::string& text, bool quick = false) {
    put_contents(path(), text);
    return read_experiment(path(), quick, fake_experiments());
  }
  std::string refusal(const std::string& text) {
    return message_of<RequestError>([&] { read(text); });
  }
  ScratchDirectory dir_;
};

TEST_F(LabConfiguration, SetsOptionsAndSaysWhichDiffer) {
  EXPECT_THAT(read(file_of("dice", "e1")).changed, IsEmpty());
  const ConfiguredExperiment e =
      read(file_of("dice", "e1",
                   "throws: 7\nbias: 0.5  # as by default\ndie: loaded\nwords: [a, b c]\n"
                   "table: {friction: 1e-3}\n"));
  EXPECT_EQ(e.id, "e1");
  EXPECT_EQ(e.file, path());
  EXPECT_THAT(e.changed,
              ElementsAre("throws: 7 (default 600)", "die: loaded (default fair)",
                          "words: [a, \"b c\"] (default [])", "table.friction: 0.001 (default 0.25)"));
  EXPECT_EQ(e.experiment->claims()[3].sentence, "Nobody throws 7 times")
      << "claims with the options as they are set";
}

TEST_F(LabConfiguration, QuickChangesOptions) {
  const std::string text =
      file_of("dice", "e1", "throws: 7\nbias: 0.1\nquick: {throws: 2, table: {friction: 3}}\n");
  EXPECT_THAT(read(text).changed, ElementsAre("throws: 7 (default 600)", "bias: 0.1 (default 0.5)"));
  EXPECT_THAT(read(text, true).changed, ElementsAre("throws: 2 (default 600)", "bias: 0.1 (default 0.5)",
                                                    "table.friction: 3 (default 0.25)"));
}

TEST_F(LabConfiguration, ABaseGivesWhatTheFileDoesNot) {
  put_contents(dir_ / "base.yaml", file_of("dice", "e0", "throws: 7\nbias: 0.1\nquick: {throws: 2}\n"));
  const std::string text = "base: base.yaml\nid: e1\nbias: 0.2\n";
  EXPECT_THAT(read(text).changed, ElementsAre("throws: 7 (default 600)", "bias: 0.2 (default 0.5)"));
  EXPECT_THAT(read(text, true).changed, ElementsAre("throws: 2 (default 600)", "bias: 0.2 (default 0.5)"));
}

TEST_F(LabConfiguration, ErrorsNameFileAndLine) {
  struct Case {
    std::string text, place, words;
  };
  const Case cases[] = {
      {file_of("dice", "e1", "trows: 5\n"), ":3",
       "unknown key \"trows\"; did you mean \"throws\"? (keys here: "},
      {file_of("dice", "e1", "throws: 0\n"), ":3", "throws is 0; it must be in [1, 1000]"},
      {file_of("dice", "e1", "throws: 1e4\n"), ":3", "throws is 1e4; it must be in [1, 1000]"},
      {file_of("dice", "e1", "throws: few\n"), ":3", "throws must be an integer, not \"few\""},
      {file_of("dice", "e1", "bias: 1\n"), ":3", "bias is 1; it must be in (0, 1)"},
      {file_of("dice", "e1", "die: fiar\n"), ":3",
       "die is \"fiar\"; it must be one of fair, loaded; did you mean \"fair\"?"},
      {file_of("dice", "e1", "table:\n  frictoin: 2\n"), ":4",
       "unknown key \"table.frictoin\"; did you mean \"friction\"?"},
      {file_of("dice", "e1", "table: 3\n"), ":3", "table must be a map of keys, not \"3\""},
      // Of the form that is not asked for, too.
      {file_of("dice", "e1", "quick:\n  trows: 5\n"), ":4", "unknown key \"trows\""},
      {file_of("dice", "e1", "quick:\n  throws: -1\n"), ":4", "throws is -1"},
      {file_of("dice", "e1", "quick: true\n"), ":3", "quick must be a map of options"},
      {file_of("dice", "e1", "quick:\n  id: e2\n"), ":4", "it cannot give \"id\""},
      {file_of("dise", "e1"), ":1", "no experiment \"dise\"; did you mean \"dice\"?"},
      {file_of("dice", "../e1"), ":2", "id is \"../e1\"; it must be made of letters, digits and '-'"},
      {file_of("dice", "all"), ":2", "not be \"all\""},
      {file_of("[dice]", "e1"), ":1", "experiment must be a word"},
      {"experiment: dice\n", "", "id is missing; give one, as in \"id: e1\""},
      {"id: e1\n", "", "experiment is missing"},
      {file_of("dice", "e1", "id: e2\n"), ":3", "key \"id\" is given twice"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    const std::string message = refusal(c.text);
    EXPECT_THAT(message, StartsWith(path() + c.place + ": "));
    EXPECT_THAT(message, HasSubstr(c.words));
  }
  EXPECT_THAT(
      message_of<RequestError>([&] { read_experiment(dir_ / "none.yaml", false, fake_experiments()); }),
      HasSubstr("none.yaml: no such configuration file"));
}

TEST_F(LabConfiguration, IdsAreOrderedAsPeopleCount) {
  for (const auto& [a, b] : {std::pair{"e2", "e10"},
                             {"e9", "e10"},
                             {"e2", "e2b"},
                             {"e2-a", "e2-b"},
                             {"d10", "e1"},
                             {"e2a9", "e2a10"},
                             {"e02", "e3"}}) {
    EXPECT_TRUE(id_before(a, b)) << a << " " << b;
    EXPECT_FALSE(id_before(b, a)) << a << " " << b;
  }
  EXPECT_FALSE(id_before("e2", "e2"));
}

TEST_F(LabConfiguration, ALaboratoryIsAFolder) {
  const auto ids = [](const std::vector<ConfiguredExperiment>& all) {
    std::vector<std::string> out;
    for (const ConfiguredExperiment& e : all) out.push_back(e.id);
    return out;
  };
  const std::string folder = dir_.path();
  const auto take = [&](const std::vector<std::string>& wanted) {
    return chosen(wanted, folder, false, fake_experiments());
  };
  EXPECT_THAT(message_of<RequestError>([&] { take({"e1"}); }),
              HasSubstr(folder + " holds no experiments (*.yaml)"));
  for (const char* id : {"e1", "e2", "e10"})
    put_contents(dir_ / (std::string(id) + ".yaml"), file_of("dice", id));
  EXPECT_THAT(ids(read_laboratory(folder, false, fake_experiments())), ElementsAre("e1", "e2", "e10"));
  EXPECT_THAT(ids(take({"all"})), ElementsAre("e1", "e2", "e10"));
  EXPECT_THAT(ids(take({"e10", "e1"})), ElementsAre("e10", "e1"));
  EXPECT_THAT(ids(take({"e2", "all", "e1", "e2"})), ElementsAre("e2", "e1", "e10"));
  EXPECT_THAT(ids(take({dir_ / "e2.yaml"})), ElementsAre("e2"));
  EXPECT_THAT(ids(take({dir_ / "e2.yaml", "e2"})), ElementsAre("e2"));
  EXPECT_THAT(
      message_of<RequestError>([&] {
        take({"e1", "e22"});
      }),
      HasSubstr("no experiment \"e22\" in " + folder + "; did you mean \"e2\"? (experiments: e1, e2, e10)"));
  std::filesystem::create_directory(dir_ / "own");
  put_contents(dir_ / "own/mine.yaml", file_of("dice", "e2"));
  EXPECT_THAT(message_of<RequestError>([&] {
                take({"e2", dir_ / "own/mine.yaml"});
              }),
              HasSubstr("own/mine.yaml: id \"e2\" is that of " + (dir_ / "e2.yaml") + " already"));
  put_contents(dir_ / "e3.yaml", file_of("dice", "e2"));
  EXPECT_THAT(message_of<RequestError>([&] { take({"e1"}); }), HasSubstr("e3.yaml: id \"e2\" is that of "));
}

}  // namespace
}  // namespace spectrain::lab

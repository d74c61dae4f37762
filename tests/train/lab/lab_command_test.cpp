#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/error.h"
#include "tests/train/lab/fake_experiments.h"
#include "tests/train/scratch_directory.h"
#include "tests/train/tiny_run.h"
#include "train/command_lab.h"
#include "train/directory_lock.h"

// `spectrain lab` from files to results, with experiments whose outcome is known.

namespace spectrain::lab {
namespace {

namespace fs = std::filesystem;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

class LabCommand : public testing::Test {
 protected:
  LabCommand() {
    fs::create_directory(dir_ / "lab");
    put("e1", "dice", "quick: {throws: 5}\n");
    put("e2", "needs-data");
    put("e3", "dice", "throws: 30\n");
  }
  void put(const std::string& id, const std::string& name, const std::string& rest = "") {
    put_contents(dir_ / ("lab/" + id + ".yaml"), file_of(name, id, rest));
  }
  LabRequest request(std::vector<std::string> wanted) const {
    LabRequest r;
    r.configs = dir_ / "lab";
    r.wanted = std::move(wanted);
    r.data = dir_ / "data";
    r.out = out();
    r.device = "cpu";
    return r;
  }
  std::string out() const { return dir_ / "out"; }
  struct Finished {
    int code = -1;
    std::string text;
  };
  static Finished run(const LabRequest& r) {
    testing::internal::CaptureStdout();
    Finished f;
    try {
      f.code = run_lab(r, fake_experiments());
    } catch (...) {
      testing::internal::GetCapturedStdout();
      throw;
    }
    f.text = testing::internal::GetCapturedStdout();
    return f;
  }
  // "e1 holds" of each line of lab.jsonl.
  std::vector<std::string> verdicts() const {
    std::vector<std::string> found;
    std::istringstream lines(contents_of(out() + "/lab.jsonl"));
    for (std::string line; std::getline(lines, line);) {
      const auto json = nlohmann::json::parse(line);
      found.push_back(json["id"].get<std::string>() + " " + json["verdict"].get<std::string>());
    }
    return found;
  }
  ScratchDirectory dir_;
};

TEST_F(LabCommand, ListsClaims) {
  testing::internal::CaptureStdout();
  EXPECT_EQ(list_lab(request({}), fake_experiments()), 0);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_THAT(text, HasSubstr("e1: Throwing <dice> & counting\n"
                              "  - A die shows six in one of six throws\n"
                              "    source: arXiv 0000.00000, section 1\n"
                              "    refuted by: another share\n"));
  EXPECT_THAT(text, HasSubstr("    remark: Section 4 was not read.\n"));
  EXPECT_THAT(text, HasSubstr("Nobody throws 30 times"));
  EXPECT_FALSE(fs::exists(out()));
}

TEST_F(LabCommand, RunsWritesAndJudges) {
  const int thrown = dice_thrown();
  const Finished f = run(request({"e1", "e3"}));
  EXPECT_EQ(f.code, 0);
  EXPECT_EQ(dice_thrown(), thrown + 2);
  EXPECT_THAT(f.text, HasSubstr("[1/2] e1: Throwing <dice> & counting\n       throwing 600 times\n"));
  EXPECT_THAT(f.text, HasSubstr("s: holds, holds in part, does not hold here, does not hold here\n"));
  EXPECT_THAT(f.text, HasSubstr("8 claims: 2 hold, 2 hold in part, 4 do not hold here."));
  EXPECT_THAT(f.text, HasSubstr(out() + "/lab.html\n"));
  EXPECT_EQ(verdicts().size(), 8u);
  EXPECT_THAT(contents_of(out() + "/lab.html"), HasSubstr("Nobody throws 30 times"));
  EXPECT_THAT(contents_of(out() + "/lab.md"), HasSubstr("| e3 |"));

  // The quick form takes the place of the whole one; its numbers say what they are.
  LabRequest quick = request({"e1"});
  quick.quick = true;
  quick.seed = 7;
  EXPECT_THAT(run(quick).text, HasSubstr("throwing 5 times"));
  EXPECT_EQ(verdicts().size(), 8u);
  const auto line = nlohmann::json::parse(
      contents_of(out() + "/lab.jsonl").substr(0, contents_of(out() + "/lab.jsonl").find('\n')));
  EXPECT_EQ(line["quick"], true);
  EXPECT_EQ(line["seed"], 7);
  EXPECT_EQ(line["measurements"][2]["value"], 7.0);
  EXPECT_THAT(line["options"].dump(), HasSubstr("throws: 5 (default 600)"));
  for (const char* file : {"/lab.md", "/lab.html"})
    EXPECT_THAT(contents_of(out() + file), HasSubstr("Of 1 of 2 experiments the quick form was run."));
}

TEST_F(LabCommand, MissingDataIsSaidAndTheOthersGoOn) {
  const Finished f = run(request({"all"}));
  EXPECT_EQ(f.code, 1);
  EXPECT_THAT(f.text,
              HasSubstr("[2/3] e2: A title\n       not run: no numbers in " + (dir_ / "data") + ": "));
  EXPECT_THAT(f.text, HasSubstr("[3/3] e3"));
  EXPECT_EQ(verdicts().size(), 9u);
  EXPECT_EQ(verdicts()[4], "e2 not run");
  EXPECT_THAT(contents_of(out() + "/lab.html"), HasSubstr("no numbers in "));
  fs::create_directories(dir_ / "data/numbers");
  EXPECT_EQ(run(request({"e2"})).code, 0);
  EXPECT_EQ(verdicts()[4], "e2 holds");
  EXPECT_EQ(verdicts().size(), 9u);
  // Gone again: what was measured stays.
  fs::remove_all(dir_ / "data");
  const Finished gone = run(request({"e2"}));
  EXPECT_EQ(gone.code, 1);
  EXPECT_THAT(gone.text, HasSubstr("the report keeps what an earlier run measured"));
  EXPECT_EQ(verdicts()[4], "e2 holds");
  EXPECT_THAT(contents_of(out() + "/lab.html"), Not(HasSubstr("no numbers in ")));
}

TEST_F(LabCommand, AFailureIsSaidAndTheOthersGoOn) {
  put("e0", "broken");
  const Finished f = run(request({"e0", "e1"}));
  EXPECT_EQ(f.code, 1);
  EXPECT_THAT(f.text, HasSubstr("not run: it failed: the loss became NaN at step 7\n"));
  EXPECT_EQ(verdicts().size(), 5u);
}

TEST_F(LabCommand, AnInterruptEndsAfterTheExperiment) {
  put("e2", "interrupted");
  const int thrown = dice_thrown();
  const Finished f = run(request({"all"}));
  EXPECT_EQ(f.code, 1);
  EXPECT_EQ(dice_thrown(), thrown + 1) << "e3 was not started";
  EXPECT_THAT(f.text, HasSubstr("interrupted; not started: e3\n"));
  EXPECT_THAT(verdicts(), testing::Contains("e2 holds")) << "the one that ran is whole";
  EXPECT_EQ(verdicts().size(), 5u);
  EXPECT_THAT(contents_of(out() + "/lab.html"), HasSubstr("5 claims"));
}

TEST_F(LabCommand, ReportOnlyRunsNothing) {
  LabRequest report = request({});
  report.report_only = true;
  EXPECT_THAT(message_of<RequestError>([&] { run(report); }), HasSubstr("holds no finished experiment yet"));
  EXPECT_FALSE(fs::exists(out()));
  EXPECT_EQ(run(request({"e1"})).code, 0);
  const std::string lines = contents_of(out() + "/lab.jsonl");
  for (const char* file : {"/lab.jsonl", "/lab.html", "/lab.md"}) fs::remove(out() + file);
  const int thrown = dice_thrown();
  const Finished f = run(report);
  EXPECT_EQ(f.code, 0);
  EXPECT_EQ(dice_thrown(), thrown);
  EXPECT_EQ(contents_of(out() + "/lab.jsonl"), lines);
  EXPECT_THAT(f.text, HasSubstr("e1   holds: A die shows six"));
  EXPECT_THAT(contents_of(out() + "/lab.html"), HasSubstr("Nobody throws 600 times"));
}

TEST_F(LabCommand, RefusalsWriteNothing) {
  EXPECT_THAT(message_of<RequestError>([&] { run(request({"e4"})); }), HasSubstr("no experiment \"e4\" in "));
  put("e9", "dice", "throws: 0\n");
  EXPECT_THAT(message_of<RequestError>([&] { run(request({"e1"})); }), HasSubstr("e9.yaml:3: throws is 0"));
  fs::remove(dir_ / "lab/e9.yaml");
  EXPECT_FALSE(fs::exists(out()));
  fs::create_directory(out());
  const Descriptor held = lock_directory(out(), "");
  EXPECT_THAT(message_of<RequestError>([&] { run(request({"e1"})); }),
              HasSubstr("wait for it, or choose another directory with --out"));
  EXPECT_FALSE(fs::exists(out() + "/lab.jsonl"));
}

// The program itself, as a user starts it.
TEST_F(LabCommand, WrongRequestsAreOneSentenceAndTwo) {
  const auto refused = [&](std::vector<std::string> arguments, const std::string& words) {
    arguments.insert(arguments.begin(), "lab");
    const auto f = run_program(arguments, dir_ / "output");
    EXPECT_EQ(f.code, 2) << f.err;
    EXPECT_THAT(f.err, testing::StartsWith("spectrain: "));
    EXPECT_THAT(f.err, HasSubstr(words));
  };
  refused({"rum"}, "unknown command \"rum\"; did you mean \"run\"? (spectrain lab has: run)");
  refused({"run"}, "lab run needs experiments");
  refused({"run", "e1", "--report-only"}, "--report-only");
  refused({"run", "e1", "--device", "tpu"}, "--device");
  refused({"--configs", dir_ / "none"}, "none holds no experiments");
  refused({"--configs", dir_ / "lab", "run", "e1"}, "lab/e1.yaml:1: no experiment \"dice\"");
  refused({"run", "--report-only", "--out", dir_ / "none"}, "none holds no finished experiment yet");
}

}  // namespace
}  // namespace spectrain::lab

#include "train/lab/lab_page.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/error.h"
#include "tests/train/browser.h"
#include "tests/train/lab/fake_experiments.h"
#include "train/lab/lab_pictures.h"
#include "train/lab/lab_results.h"
#include "train/lab/lab_table.h"
#include "train/lab/laboratory.h"

namespace spectrain::lab {
namespace {

using testing::HasSubstr;
using testing::Not;

ExperimentRecord record(const std::string& name, const std::string& id, std::uint64_t seed = 1) {
  ConfiguredExperiment e{id,
                         "configs/lab/" + id + ".yaml",
                         make_experiment(name, fake_experiments()),
                         {"throws: <7> (default 600)"}};
  static const std::unique_ptr<Backend> backend = make_cpu_backend({1, true});
  testing::internal::CaptureStdout();
  ExperimentRecord out = run_experiment(e, {false, seed, "/nowhere", "", "0.1-gabc"}, *backend);
  testing::internal::GetCapturedStdout();
  return out;
}

// What is wrong with a page, as check_lab_page.py says it; empty: nothing.
std::string complaints(const ScratchDirectory& dir) {
  const int status =
      std::system(fmt::format("python3 '{}/tests/train/lab/check_lab_page.py' '{}' '{}' > '{}' 2>&1",
                              SPECTRAIN_SOURCE_DIR, dir / "lab.html", dir / "lab.jsonl", dir / "complaints")
                      .c_str());
  const std::string words = contents_of(dir / "complaints");
  EXPECT_EQ(status == 0, words == "\n") << words;
  return words == "\n" ? "" : words;
}

void write_example(const ScratchDirectory& dir) {
  const std::vector<ExperimentRecord> records = {record("dice", "e1"), record("needs-data", "e2"),
                                                 record("dice", "e10", 5)};
  for (const ExperimentRecord& r : records) keep_record(r, dir.path());
  write_results(read_records(dir.path()), dir.path(), "0.1-gabc");
}

std::vector<nlohmann::json> lines_of(const std::string& path) {
  std::istringstream text(contents_of(path));
  std::vector<nlohmann::json> out;
  for (std::string line; std::getline(text, line);) out.push_back(nlohmann::json::parse(line));
  return out;
}

TEST(LabRecord, ComesBackAsItWas) {
  for (const char* name : {"dice", "needs-data"}) {
    const ExperimentRecord r = record(name, "e1");
    const std::string text = to_text(r);
    EXPECT_EQ(to_text(record_of(text, "x")), text);
    EXPECT_EQ(record_of(text, "x").outcome.measurements.size(), r.outcome.measurements.size());
  }
  EXPECT_THAT(message_of<Error>([] { record_of("{\"id\": 3}", "runs/e1.json"); }),
              testing::StartsWith("runs/e1.json is no record of an experiment ("));
  std::string unjudged = to_text(record("dice", "e1"));
  const std::size_t begin = unjudged.find("\"checks\":[") + 10;
  unjudged.erase(begin, unjudged.find(']', begin) - begin);
  EXPECT_THAT(message_of<Error>([&] { record_of(unjudged, "x"); }), HasSubstr("judged by no check"));
}

TEST(LabRecord, AnOutcomeMustJudgeEveryClaim) {
  EXPECT_THAT(record("unjudged", "e1").not_run,
              HasSubstr("it failed: a defect of the program: claim unjudged.claim "
                        "is judged by no check"));
  EXPECT_EQ(record("broken", "e1").not_run, "it failed: the loss became NaN at step 7");
  EXPECT_EQ(record("needs-data", "e1").not_run,
            "no numbers in /nowhere: download them or give another folder with --data");
  EXPECT_EQ(record("dice", "e1").not_run, "");
}

TEST(LabResults, LinesHoldClaimsWithTheirNumbers) {
  const ScratchDirectory dir;
  write_example(dir);
  const std::vector<nlohmann::json> lines = lines_of(dir / "lab.jsonl");
  ASSERT_EQ(lines.size(), 9u);
  const char* verdicts[] = {"holds", "holds in part", "does not hold here", "does not hold here", "not run"};
  for (std::size_t i = 0; i < 5; ++i) EXPECT_EQ(lines[i]["verdict"], verdicts[i]);
  EXPECT_EQ(lines[1]["claim"], "d.part");
  EXPECT_EQ(lines[1]["remark"], "Section 4 was not read.");
  EXPECT_EQ(
      lines[1]["checks"][1],
      (nlohmann::json{{"statement", "all are white | ivory"}, {"measured", "3 < 4 are"}, {"holds", false}}));
  EXPECT_EQ(lines[0]["measurements"][0]["value"].get<double>(), 1.0 / 6.1);
  EXPECT_EQ(lines[0]["measurements"][0]["expected"].get<double>(), 1.0 / 6);
  EXPECT_EQ(lines[0]["measurements"][0]["spread"].get<double>(), 0.0125);
  EXPECT_EQ(lines[0]["measurements"][0]["seeds"], 3);
  EXPECT_TRUE(lines[0]["measurements"][1]["expected"].is_null());
  EXPECT_EQ(lines[0]["measurements"][3]["value"], "nan");
  EXPECT_TRUE(lines[0]["not_run"].is_null());
  EXPECT_EQ(lines[4]["id"], "e2");
  EXPECT_THAT(lines[4]["not_run"].get<std::string>(), HasSubstr("no numbers in /nowhere"));
  EXPECT_EQ(lines[8]["id"], "e10") << "e2 before e10";
  EXPECT_EQ(lines[8]["seed"], 5);
  EXPECT_EQ(lines[8]["version"], "0.1-gabc");
  EXPECT_THAT(lines[8]["finished"].get<std::string>(), testing::MatchesRegex("20.*T.*Z"));
  EXPECT_FALSE(lines[8]["device"].get<std::string>().empty());
}

TEST(LabResults, ANewRunTakesThePlaceOfTheOldOne) {
  const ScratchDirectory dir;
  write_example(dir);
  const std::string before = contents_of(dir / "lab.jsonl");
  EXPECT_TRUE(keep_record(record("dice", "e1", 9), dir.path()));
  const std::vector<nlohmann::json> lines = lines_of(dir / "lab.jsonl");
  ASSERT_EQ(lines.size(), 9u) << "replaced, not added";
  EXPECT_EQ(lines[0]["seed"], 9);
  EXPECT_EQ(lines[8]["seed"], 5) << "another experiment's line is left alone";
  // A measurement is worth more than the news that there was none this time.
  ExperimentRecord missing = record("needs-data", "e1");
  EXPECT_FALSE(keep_record(missing, dir.path()));
  EXPECT_EQ(lines_of(dir / "lab.jsonl")[0]["seed"], 9);
  missing.id = "e2";
  missing.not_run = "another reason";
  EXPECT_TRUE(keep_record(missing, dir.path()));
  EXPECT_EQ(lines_of(dir / "lab.jsonl")[4]["not_run"], "another reason");
  put_contents(dir / "experiments/e1.json", "{");
  EXPECT_THAT(message_of<Error>([&] { read_records(dir.path()); }),
              HasSubstr("experiments/e1.json is no record"));
  const ScratchDirectory empty;
  EXPECT_THAT(message_of<RequestError>([&] { write_results(read_records(empty.path()), empty.path(), ""); }),
              HasSubstr("holds no finished experiment yet"));
  EXPECT_TRUE(std::filesystem::is_empty(empty.path()));
}

TEST(LabTable, CountsAndShowsWhatFails) {
  const ScratchDirectory dir;
  write_example(dir);
  const std::vector<ExperimentRecord> records = read_records(dir.path());
  EXPECT_EQ(verdict_counts(records), "9 claims: 2 hold, 2 hold in part, 4 do not hold here, 1 was not run.");
  EXPECT_EQ(verdict_counts({records[1]}), "1 claim: 1 was not run.");
  EXPECT_EQ(verdict_counts({}), "No claims.");
  const std::string terminal = terminal_table(records);
  EXPECT_THAT(terminal, HasSubstr("e1   holds in part: Dice are square | and \"white\"\n"
                                  "       all are white | ivory: 3 < 4 are (fails)\n"
                                  "       all are square: 0 are not\n"));
  EXPECT_THAT(terminal, HasSubstr("e2   not run: A sentence\n       no numbers in /nowhere"));
  const std::string markdown = contents_of(dir / "lab.md");
  EXPECT_THAT(
      markdown,
      HasSubstr(
          "| e1 | Dice are square \\| and \"white\" (in circulation) | all are white \\| ivory: 3 \\< 4 are "
          "(fails)<br>all are square: 0 are not | holds in part |\n"));
  EXPECT_THAT(markdown, HasSubstr("| e1 | A die \\*never\\* shows one (a \\<b>friend\\</b>) |"));
}

TEST(LabTable, ManyChecksAreCounted) {
  ExperimentRecord r = record("dice", "e1");
  ClaimResult claim = r.outcome.claims[0];
  const auto lines = [&](const std::string& holds) {
    claim.checks.clear();
    for (const char c : holds) claim.checks.push_back({std::string(1, c), "1", c != 'n'});
    return measured_lines(r, claim);
  };
  EXPECT_THAT(lines("abcd"), testing::ElementsAre("a: 1", "b: 1", "c: 1", "d: 1"));
  EXPECT_THAT(lines("abcde"),
              testing::ElementsAre("a: 1", "b: 1", "c: 1", "d: 1", "and 1 more, which holds"));
  EXPECT_THAT(lines("abcden"),
              testing::ElementsAre("n: 1 (fails)", "a: 1", "b: 1", "c: 1", "and 2 more, which hold"));
  EXPECT_EQ(lines("annnnnb").back(), "and 3 more, of which 1 fails");
  EXPECT_EQ(lines("nnnnnn").back(), "and 2 more, of which 2 fail");
}

TEST(LabPage, IsWellFormedAndItsNumbersAreThoseOfTheLines) {
  if (!have("python3")) GTEST_SKIP() << "python3, which parses the page, is not installed";
  const ScratchDirectory dir;
  write_example(dir);
  EXPECT_EQ(complaints(dir), "");
  const std::string page = contents_of(dir / "lab.html");
  EXPECT_THAT(page, Not(HasSubstr("could not be drawn; gnuplot says")));
  // The checker sees faults.
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string broken = page;
    const std::size_t at = broken.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    put_contents(dir / "lab.html", broken.replace(at, from.size(), to));
    return complaints(dir);
  };
  EXPECT_THAT(with("value=\"600\"", "value=\"601\""), HasSubstr("in lab.jsonl"));
  EXPECT_THAT(with(">600<", ">60<"), HasSubstr("is shown as"));
  EXPECT_THAT(with("value=\"holds in part\"", "value=\"holds\""), HasSubstr("verdict"));
  EXPECT_THAT(with("</main>", "<img src=\"x.png\"></main>"), HasSubstr("from elsewhere"));
}

TEST(LabPage, SaysWhatAReaderMustKnow) {
  const ScratchDirectory dir;
  write_example(dir);
  const std::string page = contents_of(dir / "lab.html");
  for (const char* words :
       {"9 claims: 2 hold, 2 hold in part", "Throwing &lt;dice&gt; &amp; counting",
        "What would refute it:", "Section 4 was not read.", "Not run:", "no numbers in /nowhere", "-1.6 %",
        "Reduced to &lt;nothing&gt;.", "throws: &lt;7&gt; (default 600)", "0.1-gabc",
        "The picture &quot;Nothing&quot; has no point"})
    EXPECT_THAT(page, HasSubstr(words));
  EXPECT_LT(page.find("Claims and verdicts"), page.find("id=\"experiment-e1\"")) << "the table first";
}

TEST(LabPage, OpensInABrowserWithoutErrorsOrRequests) {
  if (browser().empty()) GTEST_SKIP() << "chromium is not installed";
  const ScratchDirectory dir;
  write_example(dir);
  const char* show = std::getenv("SPECTRAIN_SHOW");
  const std::string picture =
      show != nullptr ? fmt::format("--window-size=1200,4500 --screenshot='{}/lab.png'", show) : "";
  const Visit page = visit(dir / "lab.html", dir, picture);
  EXPECT_EQ(page.console, "");
  EXPECT_THAT(page.requests, testing::IsEmpty());
  EXPECT_THAT(page.dom, HasSubstr("<data class=\"verdict\" value=\"holds in part\">holds in part</data>"));
  EXPECT_THAT(page.dom, HasSubstr("<table aria-label=\"Numbers of e10\">"));
  if (have("gnuplot")) {
    EXPECT_THAT(page.dom, HasSubstr("aria-labelledby=\"e10-picture-1-title e10-picture-1-desc\""));
    EXPECT_THAT(page.dom, HasSubstr("aria-labelledby=\"e1-picture-3-title e1-picture-3-desc\""));
  }
}

TEST(LabPage, WithoutGnuplotThereAreNoPictures) {
  const ScratchDirectory dir, empty;
  const std::string path = std::getenv("PATH");
  setenv("PATH", empty.path().c_str(), 1);
  write_example(dir);
  setenv("PATH", path.c_str(), 1);
  const std::string page = contents_of(dir / "lab.html"),
                    words = "There are no pictures: pictures are drawn by gnuplot";
  EXPECT_THAT(page, HasSubstr(words));
  EXPECT_EQ(page.find(words), page.rfind(words)) << "said once";
  EXPECT_THAT(page, Not(HasSubstr("<svg")));
}

TEST(LabPictures, LeaveOutWhatCannotBeDrawn) {
  const double nan = std::nan("");
  const PictureScript p =
      script_of({"T", "x", "y", false, true, {{"a", {1, 2, 3, 4}, {1, nan, -3, 4}}}}, "p");
  EXPECT_THAT(p.script, HasSubstr("$series0 << END\n1 1\n\n\n4 4\nEND\n"));
  EXPECT_THAT(p.script, HasSubstr("set logscale y\n"));
  EXPECT_EQ(p.description, "y against x; where the lines end: a 4");
  EXPECT_EQ(script_of({"T", "x", "y", true, false, {{"a", {0, -1}, {1, 1}}}}, "p").script, "");
  EXPECT_THAT(script_of({"T", "x", "y", false, false, {{"a", {0, 1}, {1, 1 + 1e-15}}}}, "p").script,
              testing::ContainsRegex("set yrange .0[.][89][0-9]*:1[.]1"));
  EXPECT_THROW(script_of({"T", "x", "y", false, false, {{"a", {0, 1}, {1}}}}, "p"), std::logic_error);
}

}  // namespace
}  // namespace spectrain::lab

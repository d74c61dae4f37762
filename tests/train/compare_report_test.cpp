#include "train/compare_report.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/error.h"
#include "tests/train/browser.h"
#include "tests/train/compared_example.h"
#include "tests/train/scratch_directory.h"
#include "train/compare_fields.h"
#include "train/html_page.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;
using testing::Not;

// What is wrong with a page, as tests/train/check_page.py says it; empty: nothing.
std::string complaints(const ScratchDirectory& dir) {
  const int status = std::system(fmt::format("python3 '{}/tests/train/check_page.py' '{}' '{}' > '{}' 2>&1",
                                             SPECTRAIN_SOURCE_DIR, dir / "report.html", dir / "results.csv",
                                             dir / "complaints")
                                     .c_str());
  const std::string words = contents_of(dir / "complaints");
  EXPECT_EQ(status == 0, words == "\n") << words;
  return words == "\n" ? "" : words;
}

// Names that try to leave the place they are put in.
ComparedRuns hostile_results() {
  ComparedRuns results = example_results();
  const std::string names[] = {"a'); print <b>\"&amp;\" | `touch written-by-gnuplot`",
                               "</style><script>alert(1)</script>", "x id='y' href='#z' url(#w)"};
  for (ComparedRun& run : results.runs)
    for (std::size_t i = 0; i < 3; ++i)
      if (run.variant == results.variants[i].name) {
        run.variant = names[i];
        break;
      }
  for (std::size_t i = 0; i < 3; ++i) results.variants[i].name = names[i];
  results.baseline = names[0];
  results.name = "<img src=x onerror=alert(1)>, \"quoted\"\nline";
  results.variants[1].differences = {"run.name: '<script src=\"//evil\">'"};
  results.variants[1].differences[0].erase(results.variants[1].differences[0].find("//"), 2);
  for (ComparedRun& run : results.runs) run.point[0].first = "<lr>'\"";
  results.hardware = "<hr>";
  return results;
}

TEST(CompareReport, PageIsWellFormedAndItsNumbersAreThoseOfTheTable) {
  if (!have("python3")) GTEST_SKIP() << "python3, which parses the page, is not installed";
  ComparedRuns track3 = example_results();
  track3.rule = SignificanceRule::track3;
  track3.target = 4.2;
  for (const ComparedRuns& results : {example_results(), field_of_twelve(), track3, hostile_results()}) {
    const ScratchDirectory dir;
    write_report(results, dir.path());
    EXPECT_EQ(complaints(dir), "") << results.name;
    EXPECT_THAT(contents_of(dir / "report.html"), Not(HasSubstr("could not be drawn")));
  }
  EXPECT_FALSE(fs::exists("written-by-gnuplot"));
}

TEST(CompareReport, ThePagesCheckerSeesFaults) {
  if (!have("python3")) GTEST_SKIP() << "python3, which parses the page, is not installed";
  const ScratchDirectory dir;
  write_report(example_results(), dir.path());
  const std::string page = contents_of(dir / "report.html");
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string broken = page;
    const std::size_t at = broken.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    put_contents(dir / "report.html", broken.replace(at, from.size(), to));
    return complaints(dir);
  };
  EXPECT_THAT(with("value=\"3.9100\"", "value=\"3.9101\""), HasSubstr("in results.csv"));
  EXPECT_THAT(with(">3.9100<", ">3.9200<"), HasSubstr("is shown as"));
  EXPECT_THAT(with("</main>", "<img src=\"http://example.invalid/\"></main>"), HasSubstr("from elsewhere"));
  EXPECT_THAT(with("</main>", "<script></script></main>"), HasSubstr("<script>"));
  EXPECT_THAT(with("</main>", "<b id=\"summary\"></b></main>"), HasSubstr("is there 2 times"));
  EXPECT_THAT(with("</table>", ""), HasSubstr("closes"));
  EXPECT_THAT(with("href=\"#summary\"", "href=\"#nowhere\""), HasSubstr("nowhere"));
}

TEST(CompareReport, SaysWhatAReaderMustKnow) {
  const ScratchDirectory dir;
  write_report(example_results(), dir.path());
  const std::string page = contents_of(dir / "report.html");
  for (const char* words :
       {"muon has the lowest final validation loss: 3.9100 ± 0.0058 (standard error, n = 3).",
        "That is 0.1000 below the baseline adamw (p = 2.6e-04)",
        "sgd: the grid of lr was extended upward to 0.1", "sgd: the best value still lies at the edge",
        "sgd: 2 runs that the plan asks for are not there", "muon: 1 run diverged and has no final loss",
        "optimizer.0.rule: muon (base adamw)", "2 cores", "0.1 (abc1234)", "at the end of the decay only",
        "is a bound here", "run: {name: base}"})
    EXPECT_THAT(page, HasSubstr(words));
}

TEST(CompareReport, ShowsTheLawBehindTheSpeedUps) {
  ComparedRuns results = example_results();
  for (const double share : {0.25, 0.5, 2.0}) {
    results.horizons.push_back(example_run("adamw", 0.001, 1, 2 + 2.01 * std::pow(share, -0.5)));
    for (ValidationPoint& p : results.horizons.back().validation) p.tokens *= share;
  }
  const ScratchDirectory dir;
  write_report(results, dir.path());
  if (have("python3")) {
    EXPECT_EQ(complaints(dir), "");
  }
  const std::string page = contents_of(dir / "report.html");
  for (const char* words : {"D^-0.500 + 2.0000", "Not every budget was swept", ">1.11×<", "extrapolation"})
    EXPECT_THAT(page, HasSubstr(words));
  EXPECT_THAT(page, Not(HasSubstr("is a bound here")));
  EXPECT_THAT(contents_of(dir / "results.jsonl"), HasSubstr("\"other_budget\":true"));
  for (ComparedRun& run : results.horizons) run.validation.back().loss = 4;
  write_report(results, dir.path());
  EXPECT_THAT(contents_of(dir / "report.html"), HasSubstr("do not fall like one"));
}

TEST(CompareReport, HeadlinesOfOtherOutcomes) {
  const auto headline_of = [](const ComparedRuns& results) {
    return headline(results, compare_statistics(results));
  };
  ComparedRuns results = example_results();
  results.baseline = "muon";
  EXPECT_THAT(headline_of(results),
              HasSubstr("It is the baseline: no variant was better. The next is adamw"));
  results = example_results();
  for (ComparedRun& run : results.runs)
    if (run.variant == "adamw" && run.point[0].second == 0.001) run.validation.back().loss -= 0.097;
  EXPECT_THAT(headline_of(results), HasSubstr("0.0030 below the baseline adamw (not significant, p = 0.73"));
  results.baseline = "sgd";
  EXPECT_THAT(headline_of(results), HasSubstr("untested, for that needs two seeds of both"));
  EXPECT_THAT(headline_of(results), HasSubstr("The next, adamw, is 0.0030 behind (not significant"));
  results.rule = SignificanceRule::track3;
  EXPECT_THAT(headline_of(results), HasSubstr("below the baseline sgd (which the track-3 rule accepts"));
  for (ComparedRun& run : results.runs) run.diverged = true;
  EXPECT_EQ(headline_of(results), "No variant has a final validation loss.");
  const ScratchDirectory dir;
  write_report(results, dir.path());
  EXPECT_THAT(contents_of(dir / "report.html"), HasSubstr("No variant has a final validation loss."));
}

TEST(CompareReport, CsvHasOneRowPerVariantInTheOrderOfTheRanking) {
  const ScratchDirectory dir;
  write_report(example_results(), dir.path());
  std::istringstream lines(contents_of(dir / "results.csv"));
  std::string line;
  std::getline(lines, line);
  EXPECT_THAT(line, testing::StartsWith("rank,variant,best_settings,n,diverged,final_loss,standard_error,"));
  const auto columns = std::count(line.begin(), line.end(), ',');
  for (const char* begin : {"1,muon,lr 0.02,3,0,3.9100,0.0058,-0.1000,2.6e-04,,lower,3,",
                            "2,adamw,lr 0.001,3,0,4.0100,0.0058,,,,baseline,",
                            "3,sgd,lr 0.1,1,0,4.4000,,+0.3900,,,not tested,0,,,,,0.80,at most,"}) {
    std::getline(lines, line);
    EXPECT_THAT(line, testing::StartsWith(begin));
    EXPECT_EQ(std::count(line.begin(), line.end(), ','), columns);
  }
  EXPECT_FALSE(std::getline(lines, line));
}

TEST(CompareReport, JsonLinesHoldEveryRunWithItsCurve) {
  const ComparedRuns results = example_results();
  const ScratchDirectory dir;
  write_report(results, dir.path());
  std::istringstream lines(contents_of(dir / "results.jsonl"));
  std::string line;
  std::size_t count = 0;
  for (; std::getline(lines, line); ++count) {
    const auto run = nlohmann::json::parse(line);
    const ComparedRun& expected = results.runs.at(count);
    EXPECT_EQ(run["variant"], expected.variant);
    EXPECT_EQ(run["seed"], expected.seed);
    EXPECT_EQ(run["point"]["lr"], expected.point[0].second);
    EXPECT_EQ(run["validation"].size(), expected.validation.size());
    EXPECT_EQ(run["validation"][1]["loss"], 6.0);
    EXPECT_EQ(run["diverged"], expected.diverged);
    if (expected.diverged) {
      EXPECT_EQ(run["final_loss"], "inf");
    } else {
      EXPECT_EQ(run["final_loss"].get<double>(), expected.validation.back().loss);
    }
    EXPECT_EQ(run["best_settings"], (expected.variant == "muon" && expected.point[0].second == 0.02) ||
                                        (expected.variant == "adamw" && expected.point[0].second == 0.001) ||
                                        (expected.variant == "sgd" && expected.point[0].second == 0.1));
    EXPECT_EQ(run["tokens_to_target"].is_null(),
              !(run["final_loss"].is_number() && run["final_loss"] <= 4.01));
  }
  EXPECT_EQ(count, results.runs.size());
}

TEST(CompareReport, SummaryTable) {
  const std::string text = summary_table(example_results());
  EXPECT_THAT(text, HasSubstr("muon     lr 0.02         3  3.9100 +- 0.0058        -0.1000  2.6e-04  lower"));
  EXPECT_THAT(text, HasSubstr("<= 0.80x"));
  EXPECT_THAT(text, HasSubstr("\n\nmuon has the lowest final validation loss"));
  for (const char c : text) EXPECT_LT(static_cast<unsigned char>(c), 0x80);
  const std::string markdown = summary_table(example_results(), true);
  EXPECT_THAT(markdown, HasSubstr("| muon    | lr 0.02       |  3 | 3.9100 ± 0.0058 |"));
  EXPECT_THAT(markdown, HasSubstr("|  ≤ 0.80× |"));
  ComparedRuns none = example_results();
  none.runs.clear();
  EXPECT_THROW(summary_table(none), RequestError);
}

TEST(CompareReport, WithoutGnuplotThereIsAPageWithoutPictures) {
  const ScratchDirectory dir, empty;
  const std::string path = std::getenv("PATH");
  setenv("PATH", empty.path().c_str(), 1);
  write_report(example_results(), dir.path());
  setenv("PATH", path.c_str(), 1);
  const std::string page = contents_of(dir / "report.html");
  EXPECT_THAT(page, HasSubstr("There are none: pictures are drawn by gnuplot, which cannot be started"));
  EXPECT_THAT(page, Not(HasSubstr("<svg")));
  EXPECT_THAT(page, HasSubstr("3.9100"));
  if (have("gnuplot")) {
    write_report(example_results(), dir.path());
    // Final losses, three curves, one grid, costs.
    const std::string drawn = contents_of(dir / "report.html");
    std::size_t count = 0;
    for (std::size_t at = 0; (at = drawn.find("<svg", at)) != std::string::npos; ++at) ++count;
    EXPECT_EQ(count, 6u);
    EXPECT_THAT(drawn, HasSubstr("Crosses at the top"));
  }
}

TEST(CompareReport, APictureThatFailsIsASentence) {
  const ScratchDirectory dir, bin;
  put_contents(bin / "gnuplot", "#!/bin/sh\necho 'no <such> option' >&2; exit 1\n");
  fs::permissions(bin / "gnuplot", fs::perms::owner_all);
  const std::string path = std::getenv("PATH");
  setenv("PATH", (bin.path() + ":" + path).c_str(), 1);
  write_report(example_results(), dir.path());
  setenv("PATH", path.c_str(), 1);
  EXPECT_THAT(contents_of(dir / "report.html"),
              HasSubstr("could not be drawn; gnuplot says: no &lt;such&gt; option"));
}

TEST(CompareReport, FilesAreWholeOrNotThere) {
  const ScratchDirectory dir;
  ComparedRuns none = example_results();
  none.runs.clear();
  EXPECT_THROW(write_report(none, dir.path()), RequestError);
  EXPECT_TRUE(fs::is_empty(dir.path()));
  EXPECT_THROW(write_report(example_results(), dir / "absent"), Error);
  write_report(example_results(), dir.path());
  std::size_t files = 0;
  for (const auto& entry : fs::directory_iterator(dir.path())) files += entry.is_regular_file();
  EXPECT_EQ(files, 3u);
}

TEST(CompareReport, FlopsAreWordedWithTheirUnit) {
  EXPECT_EQ(flops_text(1), "1.00 FLOP");
  EXPECT_EQ(flops_text(999.6), "1.00 kFLOP");
  EXPECT_EQ(flops_text(1.2345e15), "1.23 PFLOP");
  EXPECT_EQ(flops_text(3.14e20), "314 EFLOP");
  EXPECT_EQ(point_text({}), "as configured");
  EXPECT_EQ(point_text({{"lr", 0.0003}, {"weight_decay", 0.1}}), "lr 0.0003, weight_decay 0.1");
}

TEST(HtmlPage, DrawingsShareNoNames) {
  const std::string svg =
      "<svg viewBox=\"0 0 7 4\" xmlns=\"http://www.w3.org/2000/svg\"><title>Gnuplot</title><desc>x</desc>"
      "<path id='gp' stroke='black'/><use xlink:href='#gp'/><g fill=\"url(#gp)\"><text>id='gp' "
      "black</text></g></svg>\n";
  const std::string html = inline_svg(svg, "a", "T <", "D");
  EXPECT_THAT(html, HasSubstr("viewBox=\"0 0 7 4\" role=\"img\" aria-labelledby=\"a-title a-desc\""));
  EXPECT_THAT(html, HasSubstr("<title id=\"a-title\">T &lt;</title>"));
  EXPECT_THAT(html, HasSubstr("<path id='a-gp' stroke='currentColor'/><use href='#a-gp'/>"));
  EXPECT_THAT(html, HasSubstr("<g fill=\"url(#a-gp)\"><text>id='gp' black</text>"));
  EXPECT_THAT(html, Not(HasSubstr("http")));
  EXPECT_THROW(inline_svg("<svg>", "a", "", ""), Error);
}

// ------------------------------------------------------------------------------------------------ a browser

TEST(CompareReport, OpensInABrowserWithoutErrorsOrRequests) {
  if (browser().empty()) GTEST_SKIP() << "chromium is not installed";
  const ScratchDirectory dir;
  write_report(field_of_twelve(), dir.path());
  const char* show = std::getenv("SPECTRAIN_SHOW");
  const std::string picture =
      show != nullptr ? fmt::format("--window-size=1200,6500 --screenshot='{}/report.png'", show) : "";
  const Visit page = visit(dir / "report.html", dir, picture);
  EXPECT_EQ(page.console, "");
  EXPECT_THAT(page.requests, testing::IsEmpty());
  // The tables are there as the browser sees them, and so are the drawings.
  EXPECT_THAT(page.dom, HasSubstr("<data class=\"variant\" value=\"normuon\">normuon</data>"));
  EXPECT_THAT(page.dom, HasSubstr("<table aria-label=\"Final losses\">"));
  EXPECT_THAT(page.dom, HasSubstr("</table>"));
  if (have("gnuplot")) {
    EXPECT_THAT(page.dom, HasSubstr("aria-labelledby=\"loss-flops-title loss-flops-desc\""));
  }
}

// Without this the test above could be blind.
TEST(CompareReport, TheBrowserTestSeesErrorsAndRequests) {
  if (browser().empty()) GTEST_SKIP() << "chromium is not installed";
  const ScratchDirectory dir;
  put_contents(
      dir / "bad.html",
      "<!DOCTYPE html><img src=\"http://example.invalid/x.png\"><script>console.error('broken')</script>");
  const Visit page = visit(dir / "bad.html", dir);
  EXPECT_THAT(page.console, HasSubstr("broken"));
  EXPECT_THAT(page.requests, testing::ElementsAre("http://example.invalid/x.png"));
}

}  // namespace
}  // namespace spectrain

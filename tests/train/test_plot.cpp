#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <filesystem>

#include "kernels/error.h"
#include "tests/train/scratch_directory.h"
#include "train/comparison.h"
#include "train/plot.h"
#include "train/plot_picture.h"
#include "train/plot_terminal.h"

namespace spectrain {
namespace {

using testing::HasSubstr;

// A run whose losses fall from 10.8 as real ones do; noise from a fixed sequence.
RunCurves falling(const std::string& name, double rate, double floor) {
  RunCurves run{name, name + " rule", 0, {}, {}};
  std::uint64_t noise = 12345;
  for (int step = 1; step <= 2000; ++step) {
    const double loss = floor + (10.8 - floor) * std::pow(1 + step * rate, -0.8);
    noise = noise * 6364136223846793005u + 1442695040888963407u;
    const double jitter = (static_cast<double>(noise >> 40) / 16777216.0 - 0.5) * 0.25;
    const double tokens = step * 8192.0, seconds = step * 0.11;
    run.training.push_back({static_cast<double>(step), tokens, seconds, loss + jitter});
    if (step % 100 == 0) run.validation.push_back({static_cast<double>(step), tokens, seconds, loss + 0.05});
  }
  run.validation.insert(run.validation.begin(), {0, 0, 0, 10.825});
  return run;
}

std::vector<RunCurves> three_runs() {
  return {falling("adamw lr 0.002", 0.03, 3.4), falling("muon lr 0.02", 0.06, 3.1),
          falling("it's <a> & \"b\"_c", 0.02, 3.6)};
}

int columns_of(const std::string& line) {
  int columns = 0;
  for (const char c : line) columns += (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  return columns;
}

TEST(Plot, SmoothingIsUnbiasedAtItsStart) {
  const std::vector<CurvePoint> constant(100, {1, 5});
  for (const CurvePoint& p : smoothed(constant, 20, 0)) EXPECT_NEAR(p.y, 5, 1e-12);
  const std::vector<CurvePoint> two = {{0, 4}, {1, 1}};
  EXPECT_NEAR(smoothed(two, 2, 0)[1].y, (0.5 * 4 + 1) / 1.5, 1e-15);
  EXPECT_EQ(smoothed(constant, 20, 10).size(), 10u);
  EXPECT_EQ(smoothed({}, 20, 10).size(), 0u);
}

TEST(Plot, RunsAreReadAndToldApart) {
  ScratchDirectory dir;
  const std::string text =
      "{\"run\":\"try\",\"optimizer\":\"muon\",\"target\":3.5}\n"
      "{\"step\":1,\"tokens\":10,\"train_seconds\":0.5,\"train_loss\":5}\n"
      "{\"step\":1,\"tokens\":10,\"train_seconds\":0.5,\"val_loss\":4}\n"
      "{\"step\":1,\"tokens\":10,\"train_seconds\":0.6,\"val_loss\":3}\n"
      "{\"step\":2,\"tokens\":20,\"train_seconds\":1,\"train_loss\":\"nan\"}\n{\"step\":3,\"tok";
  std::filesystem::create_directory(dir / "a");
  put_contents(dir / "a/metrics.jsonl", text);
  put_contents(dir / "b.jsonl", text);
  const std::vector<std::string> paths = {dir / "a", dir / "b.jsonl"};
  const auto runs = load_runs(paths);
  ASSERT_EQ(runs.size(), 2u);
  EXPECT_EQ(runs[0].name, "try (1)");
  EXPECT_EQ(runs[1].name, "try (2)");
  EXPECT_EQ(runs[0].optimizer, "muon");
  EXPECT_EQ(runs[0].target, 3.5);
  ASSERT_EQ(runs[0].validation.size(), 1u);
  EXPECT_EQ(runs[0].validation[0].loss, 3);
  EXPECT_EQ(curve(runs[0].training, PlotAxis::seconds).size(), 1u);
  for (const std::string& missing : {dir / "no", dir.path()})
    EXPECT_THROW(load_runs(std::vector<std::string>{missing}), RequestError);
}

TEST(Plot, OfCharactersFitsAndNamesAllRuns) {
  const auto runs = three_runs();
  for (const auto& [width, height] : {std::pair(80, 24), std::pair(40, 10), std::pair(133, 50)})
    for (const bool unicode : {true, false})
      for (const PlotAxis axis : {PlotAxis::tokens, PlotAxis::seconds, PlotAxis::steps}) {
        const std::string text = plot_on_terminal(runs, {axis, width, height, unicode});
        EXPECT_LE(std::count(text.begin(), text.end(), '\n'), height);
        std::size_t begin = 0;
        for (std::size_t end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
          EXPECT_LE(columns_of(text.substr(begin, end - begin)), width);
        if (width < 80) continue;
        for (const RunCurves& run : runs) EXPECT_THAT(text, HasSubstr(run.name));
        const auto beyond_ascii = [](char c) { return static_cast<unsigned char>(c) >= 0x80; };
        EXPECT_EQ(std::any_of(text.begin(), text.end(), beyond_ascii), unicode);
      }
  if (std::getenv("SPECTRAIN_SHOW") != nullptr) std::fputs(plot_on_terminal(runs, {}).c_str(), stdout);
}

TEST(Plot, OfFewPointsOrNoneIsASentenceNotACrash) {
  RunCurves one{"one", "", 0, {{0, 0, 0, 5}}, {}}, bad{"bad", "", 0, {{0, 0, 0, NAN}}, {}};
  EXPECT_THAT(plot_on_terminal(std::vector<RunCurves>{one, bad}, {}), HasSubstr("one"));
  EXPECT_THROW(plot_on_terminal(std::vector<RunCurves>{bad}, {}), RequestError);
  EXPECT_THROW(plot_picture(std::vector<RunCurves>{bad}, {}, "x.svg"), RequestError);
}

TEST(Plot, ComparisonTable) {
  std::vector<RunCurves> runs = {
      {"a", "adamw", 4, {{0, 0, 0, 6}, {1, 1e6, 10, 3}}, {{1, 1e6, 10, 3.3}}},
      {"longer name", "", 0, {{0, 0, 0, 6}, {1, 1e6, 20, 5}, {2, 2e6, 40, 5.5}}, {}}};
  EXPECT_EQ(
      comparison_table(runs),
      "run          optimizer  tokens  val loss    best  seconds  tokens/s  tokens to 4  seconds to 4\n"
      "-----------  ---------  ------  --------  ------  -------  --------  -----------  ------------\n"
      "a            adamw       1.00M    3.0000  3.0000     10.0      100k         667k           6.7\n"
      "longer name  -           2.00M    5.5000  5.0000     40.0     50.0k  not reached   not reached\n");
  runs[0].target = 0;
  EXPECT_THAT(comparison_table(runs, 0, true),
              HasSubstr("| longer name | -         |  2.00M |   5.5000 | 5.0000 |"));
  EXPECT_THAT(comparison_table(runs, 0, true), HasSubstr("| -----: |"));
}

// Tags balanced and quotes closed: what every XML reader asks first.
void expect_well_formed(const std::string& xml) {
  std::vector<std::string> open;
  for (std::size_t at = 0; (at = xml.find('<', at)) != std::string::npos;) {
    if (xml.compare(at, 4, "<!--") == 0) {
      at = xml.find("-->", at);
      continue;
    }
    if (xml.compare(at, 9, "<![CDATA[") == 0) {
      at = xml.find("]]>", at);
      continue;
    }
    const std::size_t end = xml.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const std::string tag = xml.substr(at + 1, end - at - 1);
    at = end;
    if (tag[0] == '?' || tag[0] == '!' || tag.back() == '/') continue;
    const std::string name = tag.substr(0, tag.find_first_of(" \t\r\n"));
    if (name[0] != '/') {
      open.push_back(name);
      continue;
    }
    ASSERT_FALSE(open.empty()) << name;
    EXPECT_EQ("/" + open.back(), name);
    open.pop_back();
  }
  EXPECT_TRUE(open.empty());
}

bool have_gnuplot() { return std::system("gnuplot --version > /dev/null 2>&1") == 0; }

TEST(Plot, SvgIsWellFormedAndHoldsAllRuns) {
  if (!have_gnuplot()) GTEST_SKIP() << "gnuplot is not installed";
  ScratchDirectory dir;
  const auto runs = three_runs();
  for (const bool log_x : {false, true}) {
    plot_picture(runs, {.log_x = log_x, .title = "a < b & 'c'"}, dir / "x.svg");
    const std::string svg = contents_of(dir / "x.svg");
    expect_well_formed(svg);
    for (const char* text :
         {"adamw lr 0.002", "muon lr 0.02", "it's &lt;a> &amp; \"b\"_c", "a &lt; b &amp; 'c'"})
      EXPECT_NE(svg.find(text), std::string::npos) << text;
    for (const RunCurves& run : runs) {
      char final_loss[16];
      std::snprintf(final_loss, sizeof final_loss, "%.4f", run.validation.back().loss);
      EXPECT_NE(svg.find(final_loss), std::string::npos) << final_loss;
    }
  }
  EXPECT_FALSE(std::filesystem::exists(dir / "x.svg.writing"));
}

TEST(Plot, PngIsAPicture) {
  if (!have_gnuplot()) GTEST_SKIP() << "gnuplot is not installed";
  ScratchDirectory dir;
  const char* show = std::getenv("SPECTRAIN_SHOW");
  const std::string out = show != nullptr ? std::string(show) + "/plot.png" : dir / "it's a plot.png";
  try {
    plot_picture(three_runs(), {}, out);
  } catch (const RequestError& e) {
    GTEST_SKIP() << e.what();
  }
  EXPECT_EQ(contents_of(out).substr(0, 8), "\x89PNG\r\n\x1a\n");
}

TEST(Plot, RefusalsOfPictures) {
  ScratchDirectory dir;
  EXPECT_THAT(message_of<RequestError>([&] { plot_picture(three_runs(), {}, dir / "x.jpg"); }),
              HasSubstr("an .svg or a .png file"));
  const std::string path = std::getenv("PATH");
  setenv("PATH", dir.path().c_str(), 1);
  EXPECT_THAT(message_of<RequestError>([&] { plot_picture(three_runs(), {}, dir / "x.svg"); }),
              HasSubstr("install gnuplot-nox"));
  setenv("PATH", path.c_str(), 1);
  if (have_gnuplot()) {
    EXPECT_THROW(plot_picture(three_runs(), {}, dir / "absent/x.svg"), Error);
  }
}

}  // namespace
}  // namespace spectrain

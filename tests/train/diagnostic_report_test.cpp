#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <limits>

#include "kernels/error.h"
#include "tests/train/compared_example.h"
#include "tests/train/scratch_directory.h"
#include "train/compare_report.h"
#include "train/diagnostic_pictures.h"
#include "train/spectrum.h"

// The report's sections of what runs measured beside the loss.

namespace spectrain {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;

SpectrumMeasurement spectrum(const std::string& matrix, const std::string& of, double steepness) {
  SpectrumMeasurement s{matrix, of, 64, 32, 1, 0, 0, {}};
  std::vector<double> all;
  for (int i = 0; i < 32; ++i) all.push_back(std::exp(-steepness * i));
  s.stable_rank = stable_rank(all);
  s.effective_rank = effective_rank(all);
  for (const std::size_t i : chosen_places(32, 5)) s.singular_values.push_back(all[i]);
  return s;
}

// Every 25 steps; deciles fall behind by `tail` in the last class.
void measure(ComparedRun& run, double steepness, double tail) {
  std::vector<MetricsLine> lines;
  for (int step = 25; step <= 100; step += 25) {
    MetricsLine line{step, 1000 * step, 0.1 * step, {}, {}, {}};
    DiagnosticsRecord record;
    const double moved = step < 100 ? 0.1 : 0;  // the learning rate ends at 0
    record.groups = {{"hidden", "muon", 10, 0.5, moved, moved / 10, 3 * moved},
                     {"gain", "adamw", 5, 0, 0, 0, 0}};
    for (const char* matrix : {"h.0.mlp.up", "h.0.attention.qkv[0]"})
      for (const char* of : {"weight", "update"})
        if (of != std::string("update") || moved > 0)
          record.spectra.push_back(spectrum(matrix, of, steepness));
        else
          record.spectra.push_back({matrix, of, 64, 32, 0, 0, 0, std::vector<double>(5, 0)});
    line.diagnostics = record;
    lines.push_back(line);
    MetricsLine validation{step, 1000 * step, 0.1 * step, {}, 4.0, {}};
    DecileMeasurement d{1000, {}, std::vector<std::int64_t>(10, 7), std::vector<std::int64_t>(10, 1)};
    for (int i = 0; i < 10; ++i) d.loss.push_back(1 + 0.5 * i + (i == 9 ? tail : 0));
    validation.diagnostics.emplace().deciles = d;
    lines.push_back(validation);
  }
  run.metrics.lines.insert(run.metrics.lines.end(), lines.begin(), lines.end());
}

ComparedRuns measured_results() {
  ComparedRuns results = example_results();
  for (ComparedRun& run : results.runs) {
    if (run.variant == "adamw") measure(run, 0.3, 0.01 * static_cast<double>(run.seed));
    if (run.variant == "muon" && !run.diverged) measure(run, 0.05, -0.5);
  }
  return results;
}

TEST(DiagnosticReport, SectionsAppearAndThePageParses) {
  if (std::system("python3 --version > /dev/null 2>&1") != 0)
    GTEST_SKIP() << "python3, which parses the page, is not installed";
  const ScratchDirectory dir;
  write_report(measured_results(), dir.path());
  const std::string page = contents_of(dir / "report.html");
  for (const char* words :
       {"id=\"spectra\"", "id=\"updates\"", "id=\"deciles\"", "muon: hidden by muon", "10, rare",
        "means over 2 matrices", "Final validation loss by decile of token frequency"})
    EXPECT_THAT(page, HasSubstr(words));
  if (std::system("gnuplot --version > /dev/null 2>&1") == 0) {
    for (const char* words : {"Singular values of h.0.mlp.up at the end", ">Effective rank<", ">Stable rank<",
                              "Norm of a step&#39;s update", "Cosine between update", "class=\"chart\""})
      EXPECT_THAT(page, HasSubstr(words));
    // Titles of panels, which gnuplot leaves out where they have too little room.
    for (const char* words : {">weight<", ">update<", ">hidden<", ">above adamw<"})
      EXPECT_THAT(page, HasSubstr(words));
    EXPECT_THAT(page, Not(HasSubstr("could not be drawn")));
  }
  const int status = std::system(fmt::format("python3 '{}/tests/train/check_page.py' '{}' '{}' > '{}' 2>&1",
                                             SPECTRAIN_SOURCE_DIR, dir / "report.html", dir / "results.csv",
                                             dir / "complaints")
                                     .c_str());
  EXPECT_EQ(status, 0) << contents_of(dir / "complaints");
}

TEST(DiagnosticReport, RunsWithoutMeasurementsHaveNoSuchSections) {
  const ScratchDirectory dir;
  write_report(example_results(), dir.path());
  const std::string page = contents_of(dir / "report.html");
  for (const char* id : {"id=\"spectra\"", "id=\"updates\"", "id=\"deciles\""})
    EXPECT_THAT(page, Not(HasSubstr(id)));
}

TEST(DiagnosticReport, ShowsTheBestSettingsOfEachVariant) {
  const ComparedRuns results = measured_results();
  const auto all = variant_diagnostics(results, compare_statistics(results));
  ASSERT_EQ(all.size(), 2u);  // sgd measured nothing
  EXPECT_EQ(all[0].name, "muon");
  EXPECT_FALSE(all[0].baseline);
  EXPECT_TRUE(all[1].baseline);
  ASSERT_EQ(all[0].lines.size(), 4u);
  EXPECT_NEAR(all[1].decile_loss.at(9), 5.5 + 0.02, 1e-12);  // of seeds 1, 2 and 3
  EXPECT_NEAR(all[0].decile_loss.at(9), 5.0, 1e-12);
  EXPECT_THAT(measured_matrices(all), ElementsAre("h.0.mlp.up", "h.0.attention.qkv[0]"));
  EXPECT_THAT(measured_groups(all), ElementsAre("hidden", "gain"));
  EXPECT_EQ(last_spectrum(all[0], "h.0.mlp.up", "momentum"), nullptr);
  const double rank = last_spectrum(all[0], "h.0.mlp.up", "weight")->effective_rank;
  EXPECT_NEAR(mean_rank(*all[0].lines[0]->diagnostics, "weight", RankKind::effective), rank / 32, 1e-12);
  EXPECT_TRUE(std::isnan(mean_rank(*all[0].lines[3]->diagnostics, "update", RankKind::effective)));
  EXPECT_NEAR(last_mean_rank(all[0], "update", RankKind::effective), rank / 32, 1e-12);
  EXPECT_TRUE(std::isnan(mean_rank(*all[0].lines[0]->diagnostics, "momentum", RankKind::stable)));
}

TEST(DiagnosticRecord, ReadsBackAsItWasWritten) {
  const ScratchDirectory dir;
  const ComparedRuns results = measured_results();
  const std::vector<MetricsLine>& lines = results.runs[0].metrics.lines;
  {
    MetricsWriter writer(dir / "m", MetricsHeader{});
    for (MetricsLine line : lines) {
      if (line.diagnostics && line.diagnostics->deciles)
        line.diagnostics->deciles->loss[3] = std::numeric_limits<double>::quiet_NaN();
      if (line.diagnostics && !line.diagnostics->spectra.empty())
        line.diagnostics->spectra[0].singular_values[1] = std::numeric_limits<double>::infinity();
      writer.write(line);
    }
  }
  const MetricsFile file = read_metrics(dir / "m");
  ASSERT_EQ(file.lines.size(), lines.size());
  int diagnostics = 0;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const auto &a = lines[i].diagnostics, &b = file.lines[i].diagnostics;
    ASSERT_EQ(a.has_value(), b.has_value());
    if (!a) continue;
    ++diagnostics;
    EXPECT_EQ(a->groups, b->groups);
    ASSERT_EQ(a->spectra.size(), b->spectra.size());
    for (std::size_t k = 0; k < a->spectra.size(); ++k) {
      EXPECT_EQ(a->spectra[k].effective_rank, b->spectra[k].effective_rank);
      EXPECT_EQ(b->spectra[k].singular_values.size(), 5u);
    }
    if (!b->spectra.empty()) {
      EXPECT_TRUE(std::isinf(b->spectra[0].singular_values[1]));
    }
    ASSERT_EQ(a->deciles.has_value(), b->deciles.has_value());
    if (b->deciles) {
      EXPECT_TRUE(std::isnan(b->deciles->loss[3]));
      EXPECT_EQ(b->deciles->targets, a->deciles->targets);
    }
  }
  EXPECT_EQ(diagnostics, 8);
}

TEST(DiagnosticRecord, OtherKindsOfValuesAreNamedWithTheirLine) {
  const ScratchDirectory dir;
  const std::string header = to_json(MetricsHeader{}) + "\n";
  const std::string begin = R"({"step":1,"tokens":2,"train_seconds":3,"diagnostics":)";
  put_contents(dir / "m", header + begin + R"({"groups":[{"rule":7}]}})" + "\n" + begin + "{}}\n");
  EXPECT_THAT([&] { read_metrics(dir / "m"); }, testing::ThrowsMessage<RequestError>(testing::AllOf(
                                                    HasSubstr("m:2: "), HasSubstr("'diagnostics'"))));
  // A field that a later version added, and a text of somebody else's under this name.
  put_contents(dir / "m", header + begin + R"({"later":1}})" + "\n" + begin + "\"text\"}\n");
  const MetricsFile file = read_metrics(dir / "m");
  EXPECT_TRUE(file.lines[0].diagnostics.has_value());
  EXPECT_FALSE(file.lines[1].diagnostics.has_value());
}

}  // namespace
}  // namespace spectrain

#include "train/diagnostics.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "data/shard.h"
#include "kernels/error.h"
#include "tests/train/rank_job.h"
#include "tests/train/tiny_run.h"
#include "train/checkpoint.h"
#include "train/safetensors.h"
#include "train/session.h"

// What is measured beside the loss: against plain computation from the checkpoints before and after a step,
// and without a trace in the training.

namespace spectrain {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

const std::vector<std::string> kMeasured = {"diagnostics.every=3", "diagnostics.matrices=[h.*,wte]",
                                            "diagnostics.spectrum=5", "diagnostics.deciles=true"};

std::vector<std::string> measured(const std::string& run, std::vector<std::string> more = {}) {
  more.insert(more.end(), kMeasured.begin(), kMeasured.end());
  return named(run, std::move(more));
}

std::vector<MetricsLine> lines_of(const TinyRun& tiny, const std::string& run) {
  return read_metrics(tiny.directory(run) + "/metrics.jsonl").lines;
}

// By step, of the lines with measurements of groups.
std::map<std::int64_t, DiagnosticsRecord> records_of(const TinyRun& tiny, const std::string& run) {
  std::map<std::int64_t, DiagnosticsRecord> records;
  for (const MetricsLine& line : lines_of(tiny, run))
    if (line.diagnostics && !line.diagnostics->groups.empty()) {
      EXPECT_TRUE(records.emplace(line.step, *line.diagnostics).second) << line.step << " twice";
      EXPECT_FALSE(line.train_loss || line.val_loss);
    }
  return records;
}

const SpectrumMeasurement& spectrum_of(const DiagnosticsRecord& record, const std::string& matrix,
                                       const std::string& of) {
  for (const SpectrumMeasurement& s : record.spectra)
    if (s.matrix == matrix && s.of == of) return s;
  throw std::logic_error("no spectrum of " + matrix + " " + of);
}

SafetensorsFile saved(const TinyRun& tiny, const std::string& run, std::int64_t step,
                      const std::string& file) {
  for (const FoundCheckpoint& c : list_checkpoints(tiny.checkpoints(run)))
    if (c.step == step) return SafetensorsFile(c.path + "/" + file + ".safetensors");
  throw std::logic_error("no checkpoint");
}

double norm_of(const std::vector<double>& x) {
  return std::sqrt(std::inner_product(x.begin(), x.end(), x.begin(), 0.0));
}

// Singular values of a matrix [rows, cols] in float64, as roots of the eigenvalues of its smaller Gram
// matrix by Jacobi's rotations: another way than the program's.
std::vector<double> plain_singular_values(const std::vector<double>& a, std::size_t rows, std::size_t cols) {
  const bool wide = cols > rows;
  const std::size_t n = std::min(rows, cols), k = std::max(rows, cols);
  const auto at = [&](std::size_t i, std::size_t x) { return wide ? a[i * cols + x] : a[x * cols + i]; };
  std::vector<double> g(n * n);
  for (std::size_t i = 0; i < n; ++i)
    for (std::size_t j = 0; j < n; ++j)
      for (std::size_t x = 0; x < k; ++x) g[i * n + j] += at(i, x) * at(j, x);
  for (int sweep = 0; sweep < 30; ++sweep)
    for (std::size_t p = 0; p < n; ++p)
      for (std::size_t q = p + 1; q < n; ++q) {
        if (g[p * n + q] == 0) continue;
        const double angle = 0.5 * std::atan2(2 * g[p * n + q], g[q * n + q] - g[p * n + p]);
        const double c = std::cos(angle), s = std::sin(angle);
        for (std::size_t x = 0; x < n; ++x) {
          const double u = g[p * n + x], v = g[q * n + x];
          g[p * n + x] = c * u - s * v;
          g[q * n + x] = s * u + c * v;
        }
        for (std::size_t x = 0; x < n; ++x) {
          const double u = g[x * n + p], v = g[x * n + q];
          g[x * n + p] = c * u - s * v;
          g[x * n + q] = s * u + c * v;
        }
      }
  std::vector<double> s;
  for (std::size_t i = 0; i < n; ++i) s.push_back(std::sqrt(std::max(0.0, g[i * n + i])));
  std::sort(s.rbegin(), s.rend());
  return s;
}

// ---------------------------------------------------------------------------------------------- numbers

TEST(Spectrum, RanksOfKnownSpectra) {
  const std::vector<double> one = {3, 0, 0}, equal = {2, 2, 2, 2}, zero = {0, 0};
  EXPECT_DOUBLE_EQ(stable_rank(one), 1);
  EXPECT_DOUBLE_EQ(effective_rank(one), 1);
  EXPECT_DOUBLE_EQ(frobenius_norm(one), 3);
  EXPECT_DOUBLE_EQ(stable_rank(equal), 4);
  EXPECT_NEAR(effective_rank(equal), 4, 1e-14);
  EXPECT_DOUBLE_EQ(frobenius_norm(equal), 4);
  for (const double x : {stable_rank(zero), effective_rank(zero), frobenius_norm(zero)}) EXPECT_EQ(x, 0);
  // 4, 2, 1: 1 + 1/4 + 1/16; entropy of 4/7, 2/7, 1/7: ln 7 - (4 ln 4 + 2 ln 2) / 7.
  const std::vector<double> falling = {4, 2, 1};
  EXPECT_DOUBLE_EQ(stable_rank(falling), 1.3125);
  EXPECT_NEAR(effective_rank(falling), 7 / std::pow(2, 10.0 / 7), 1e-14);
  // Squares of these are below, or above, what a double holds.
  const std::vector<double> tiny = {3e-200, 4e-200}, huge = {4e200, 3e200};
  EXPECT_NEAR(frobenius_norm(huge) / 5e200, 1, 1e-15);
  EXPECT_NEAR(stable_rank(std::vector<double>{tiny.rbegin(), tiny.rend()}), 1.5625, 1e-15);
  const std::vector<double> bad = {std::numeric_limits<double>::quiet_NaN(), 1};
  EXPECT_TRUE(std::isnan(stable_rank(bad)) && std::isnan(effective_rank(bad)) &&
              std::isnan(frobenius_norm(bad)));
}

TEST(Spectrum, PlacesAreEvenWithBothEnds) {
  EXPECT_THAT(chosen_places(9, 5), ElementsAre(0, 2, 4, 6, 8));
  EXPECT_THAT(chosen_places(10, 3), ElementsAre(0, 5, 9));
  EXPECT_THAT(chosen_places(4, 16), ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(chosen_places(7, 2), ElementsAre(0, 6));
  EXPECT_THAT(chosen_places(7, 1), ElementsAre(0));
  EXPECT_TRUE(chosen_places(7, 0).empty());
  for (std::size_t n = 2; n < 40; ++n)
    for (std::size_t most = 2; most <= n; ++most) {
      const auto places = chosen_places(n, most);
      ASSERT_EQ(places.size(), most);
      EXPECT_EQ(places.front(), 0u);
      EXPECT_EQ(places.back(), n - 1);
      for (std::size_t i = 1; i < most; ++i) {
        const double even = static_cast<double>(i * (n - 1)) / static_cast<double>(most - 1);
        EXPECT_LE(std::abs(static_cast<double>(places[i]) - even), 0.5);
        EXPECT_GT(places[i], places[i - 1]);
      }
    }
}

TEST(ChosenMatrices, AreFoundBySplitAndBeginning) {
  std::vector<ParameterInfo> infos(5);
  infos[0] = {"wte", Shape{64, 8}, Role::embedding, {}, {}, 60};
  infos[1] = {"h.0.attention.qkv", Shape{24, 8}, Role::hidden, {}, {8, 4, 12}, 24};
  infos[2] = {"h.0.norm", Shape{8}, Role::gain, {}, {}, 0};
  infos[3] = {"h.1.filter", Shape{6, 2, 3, 3}, Role::hidden, {}, {}, 0};
  infos[4] = {"head", Shape{60, 8}, Role::head, {}, {}, 60};
  std::vector<const ParameterInfo*> all;
  for (const ParameterInfo& i : infos) all.push_back(&i);
  const auto names = [&](const std::vector<std::string>& wanted) {
    std::string text;
    for (const ChosenMatrix& m : chosen_matrices(all, wanted))
      text += fmt::format("{} {}+{}x{} ", m.name, m.first, m.rows, m.cols);
    return text;
  };
  EXPECT_EQ(names({"h.1*", "wte"}), "wte 0+60x8 h.1.filter 0+6x18 ");  // rows of padding are left out
  EXPECT_EQ(names({"h.0.attention.qkv"}),
            "h.0.attention.qkv[0] 0+8x8 h.0.attention.qkv[1] 64+4x8 h.0.attention.qkv[2] 96+12x8 ");
  EXPECT_EQ(names({"h.0.attention.qkv[1]", "h.0.attention.qkv[1]"}), "h.0.attention.qkv[1] 64+4x8 ");
  EXPECT_EQ(names({}), "");
  const auto refusal = [&](const std::string& wanted) {
    try {
      chosen_matrices(all, std::vector<std::string>{wanted});
    } catch (const RequestError& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(refusal("h.0.atention.qkv"), HasSubstr("did you mean \"h.0.attention.qkv\"?"));
  EXPECT_THAT(refusal("h.0.atention.qkv"), HasSubstr("wte, h.0.attention.qkv, h.1.filter, head"));
  EXPECT_THAT(refusal("h.0.norm"), HasSubstr("only matrices have spectra"));
  EXPECT_THAT(refusal("h.7*"), HasSubstr("no matrix of the model begins so"));
}

// ---------------------------------------------------------------------------------------------- training

TEST(Diagnostics, ChangeNoBitOfTheTraining) {
  const TinyRun tiny;
  for (const bool adamw : {false, true}) {
    const std::string config = adamw ? tiny.adamw_config() : tiny.config(), name = adamw ? "adamw" : "muon";
    train(config, named(name));
    train(config, measured(name + "-measured"));
    expect_same_bytes(newest_saved(tiny.checkpoints(name)),
                      newest_saved(tiny.checkpoints(name + "-measured")));
    auto with = timeless_metrics(tiny.directory(name + "-measured"));
    std::erase_if(with, [](const std::string& line) {
      return line.find("train") == std::string::npos && line.find("val") == std::string::npos;
    });
    EXPECT_EQ(with, timeless_metrics(tiny.directory(name)));
    const auto records = records_of(tiny, name + "-measured");
    std::vector<std::int64_t> steps;
    for (const auto& [step, record] : records) steps.push_back(step);
    EXPECT_THAT(steps, ElementsAre(3, 6, 9, 12, 15, 18, 20));  // and after the last step
  }
}

TEST(Diagnostics, GroupsAgainstTheCheckpointsAround) {
  const TinyRun tiny;
  const std::vector<std::string> saving = {"train.checkpoint.every=1", "train.checkpoint.keep=0"};
  train(tiny.config(), measured("run", saving));
  const auto records = records_of(tiny, "run");
  const SafetensorsFile before = saved(tiny, "run", 8, "model"), after = saved(tiny, "run", 9, "model");
  // Momentum m = mu m' + (1 - mu) g gives the gradient back; warm-up has brought mu from 0.8 to 0.95 at
  // step 9, and is at 0.8 + 0.15 * 8 / 9 where this step begins.
  const SafetensorsFile old_state = saved(tiny, "run", 8, "optimizer"),
                        state = saved(tiny, "run", 9, "optimizer");
  const double mu = 0.8 + 0.15 * 8 / 9;
  std::vector<double> w, u, g;
  for (const StoredTensor& t : after.tensors()) {
    const std::string momentum = t.name + ".momentum";
    const bool muon = std::any_of(state.tensors().begin(), state.tensors().end(),
                                  [&](const StoredTensor& s) { return s.name == momentum; });
    if (!muon) continue;
    const auto now = after.read_floats(t.name), then = before.read_floats(t.name);
    const auto m = state.read_floats(momentum), old = old_state.read_floats(momentum);
    for (std::size_t i = 0; i < now.size(); ++i) {
      w.push_back(now[i]);
      u.push_back(static_cast<double>(now[i]) - then[i]);
      g.push_back((m[i] - mu * old[i]) / (1 - mu));
    }
  }
  ASSERT_GT(w.size(), 10'000u);
  const GroupMeasurement& group = records.at(9).groups.at(0);
  EXPECT_EQ(group.parameters, "hidden");
  EXPECT_EQ(group.rule, "muon");
  const double eps = 0x1p-23;
  EXPECT_NEAR(group.weight_norm, norm_of(w), 1e-12 * norm_of(w));  // sums of float32 in float64
  EXPECT_NEAR(group.update_norm, norm_of(u), eps * norm_of(u));
  EXPECT_NEAR(group.update_to_weight, norm_of(u) / norm_of(w), eps);
  // The momentum was rounded to float32; divided by 1 - mu that counts 15 times.
  EXPECT_NEAR(group.gradient_norm, norm_of(g), 30 * eps * norm_of(g));
  const double cosine = -std::inner_product(u.begin(), u.end(), g.begin(), 0.0) / (norm_of(u) * norm_of(g));
  EXPECT_NEAR(group.cosine, cosine, 60 * eps);
  EXPECT_GT(group.cosine, 0.05);
  EXPECT_LT(group.cosine, 0.95);
  // All groups together have the gradient's norm that the training wrote.
  double squares = 0;
  for (const GroupMeasurement& m : records.at(9).groups) squares += m.gradient_norm * m.gradient_norm;
  for (const MetricsLine& line : lines_of(tiny, "run"))
    if (line.step == 9 && line.train_loss)
      for (const auto& [name, value] : line.more)
        if (name == "gradient_norm") {
          EXPECT_NEAR(std::get<double>(value), std::sqrt(squares), 1e-12 * std::sqrt(squares));
        }
}

TEST(Diagnostics, PlainGradientDescentHasCosineOne) {
  const TinyRun tiny;
  const std::vector<std::string> sgd = {
      "optimizer=[{parameters: [hidden, embedding, head, gain], rule: sgd, lr: 0.05, momentum: 0}]",
      "schedule={shape: constant, warmup: 0}", "train.steps=3", "diagnostics.every=1",
      "diagnostics.matrices=[h.0.mlp.*]"};
  train(tiny.config(), named("sgd", sgd));
  const auto records = records_of(tiny, "sgd");
  ASSERT_EQ(records.size(), 3u);
  for (const auto& [step, record] : records) {
    ASSERT_EQ(record.groups.size(), 1u);
    const GroupMeasurement& g = record.groups[0];
    EXPECT_EQ(g.parameters, "hidden, embedding, head, gain");
    // Weights of size 1 are rounded at 2^-24, updates are about lr g = 1e-4 of them.
    EXPECT_NEAR(g.cosine, 1, 1e-4);
    EXPECT_NEAR(g.update_norm, 0.05 * g.gradient_norm, 1e-4 * g.update_norm);
    for (const SpectrumMeasurement& s : record.spectra) EXPECT_NE(s.of, "momentum");
  }
}

TEST(Diagnostics, SpectraAgainstTheCheckpoints) {
  const TinyRun tiny;
  const std::vector<std::string> saving = {"train.checkpoint.every=1", "train.checkpoint.keep=0"};
  for (const bool adamw : {false, true}) {  // its parts are whole fused parameters
    const std::string run = adamw ? "adamw" : "muon";
    train(adamw ? tiny.adamw_config() : tiny.config(), measured(run, saving));
    const auto record = records_of(tiny, run).at(6);
    const SafetensorsFile before = saved(tiny, run, 5, "model"), after = saved(tiny, run, 6, "model"),
                          state = saved(tiny, run, 6, "optimizer");
    const auto doubles = [](const std::vector<float>& x) { return std::vector<double>(x.begin(), x.end()); };
    const auto check = [&](const std::string& matrix, const std::string& of, std::vector<double> whole,
                           std::size_t first, std::size_t rows) {
      SCOPED_TRACE(run + " " + matrix + " " + of);
      const std::size_t cols = 32;
      const auto begin = whole.begin() + static_cast<std::ptrdiff_t>(first * cols);
      const std::vector<double> a(begin, begin + static_cast<std::ptrdiff_t>(rows * cols));
      const std::vector<double> s = plain_singular_values(a, rows, cols);
      const SpectrumMeasurement& found = spectrum_of(record, matrix, of);
      EXPECT_EQ(found.rows, static_cast<std::int64_t>(rows));
      EXPECT_EQ(found.cols, 32);
      ASSERT_EQ(found.singular_values.size(), 5u);
      const double tolerance = 0x1p-23 * std::sqrt(32.0) * s[0];
      const auto places = chosen_places(s.size(), 5);
      for (std::size_t i = 0; i < 5; ++i) EXPECT_NEAR(found.singular_values[i], s[places[i]], 4 * tolerance);
      EXPECT_NEAR(found.norm, norm_of(a), 4 * tolerance);
      EXPECT_NEAR(found.stable_rank, stable_rank(s), 1e-5 * stable_rank(s));
      EXPECT_NEAR(found.effective_rank, effective_rank(s), 1e-5 * effective_rank(s));
    };
    const std::string qkv = "h.1.attention.qkv.weight";
    auto weight = doubles(after.read_floats(qkv)), update = weight;
    const auto old = before.read_floats(qkv);
    for (std::size_t i = 0; i < update.size(); ++i) update[i] -= old[i];
    const auto momentum = doubles(state.read_floats(qkv + (adamw ? ".adam_m" : ".momentum")));
    for (std::size_t k = 0; k < 3; ++k) {
      const std::string split = qkv + "[" + std::to_string(k) + "]";
      check(split, "weight", weight, 32 * k, 32);
      check(split, "momentum", momentum, 32 * k, 32);
      check(split, "update", update, 32 * k, 32);
    }
    check("wte", "weight", doubles(after.read_floats("wte")), 0, 257);
    if (!adamw) {
      const SpectrumMeasurement& s = spectrum_of(record, qkv + "[0]", "update");
      EXPECT_GT(s.effective_rank, 20) << "Muon's updates have nearly equal singular values";
    }
  }
}

TEST(Diagnostics, DiagonalWeightsHaveTheirDiagonalAsSpectrum) {
  const TinyRun tiny;
  const std::vector<std::string> still = {
      "optimizer=[{parameters: [hidden, embedding, head, gain], rule: sgd, lr: 1e-30, momentum: 0}]"};
  auto request = still;
  request.insert(request.end(), {"train.steps=2", "train.checkpoint.every=1"});
  train(tiny.config(), named("run", request));
  std::filesystem::remove_all(list_checkpoints(tiny.checkpoints("run")).back().path);
  const auto diagonal = [](const std::string& name, std::span<float> w) {
    if (name != "h.0.attention.qkv.weight") return;
    std::fill(w.begin(), w.end(), 0.0f);
    for (std::size_t i = 0; i < 32; ++i) w[32 * 32 + i * 32 + i] = i % 2 == 0 ? -1.0f : 0.25f;
  };
  change_weights(tiny.config(), named("run", request), tiny.checkpoints("run"), diagonal);
  request.insert(request.end(), {"diagnostics.every=1", "diagnostics.matrices=[h.0.attention.qkv.weight]",
                                 "diagnostics.spectrum=3"});
  train(tiny.config(), named("run", request), Existing::resume);
  const DiagnosticsRecord record = records_of(tiny, "run").at(2);
  const SpectrumMeasurement& s = spectrum_of(record, "h.0.attention.qkv.weight[1]", "weight");
  EXPECT_THAT(s.singular_values, ElementsAre(1, 0.25, 0.25));  // places 0, 16 and 31
  EXPECT_DOUBLE_EQ(s.stable_rank, 17);
  EXPECT_DOUBLE_EQ(s.norm, std::sqrt(17.0));
  const SpectrumMeasurement& zero = spectrum_of(record, "h.0.attention.qkv.weight[0]", "weight");
  EXPECT_EQ(zero.norm + zero.stable_rank + zero.effective_rank, 0);
}

TEST(Diagnostics, AResumedRunWritesTheSame) {
  const TinyRun tiny;
  const std::vector<std::string> saving = {"train.checkpoint.every=1", "train.checkpoint.keep=0"};
  train(tiny.config(), measured("whole", saving));
  const auto texts = [&](const std::string& run) {
    std::vector<std::string> out;
    for (MetricsLine line : lines_of(tiny, run)) {
      line.train_seconds = 0;
      line.more.clear();
      out.push_back(to_json(line));
    }
    return out;
  };
  for (const std::int64_t k : {5, 6}) {  // 6: measured and validated
    const std::string name = "cut-" + std::to_string(k);
    copy_run(tiny, "whole", name, k);
    train(tiny.config(), measured(name, saving), Existing::resume);
    EXPECT_EQ(texts(name), texts("whole")) << k;
  }
}

TEST(Diagnostics, AWrongNameIsRefusedBeforeAnythingIsWritten) {
  const TinyRun tiny;
  const Finished f = run_program(
      train_arguments(tiny.config(), named("wrong", {"diagnostics.matrices=[h.0.atention.qkv.weight]"})),
      tiny / "wrong");
  EXPECT_EQ(f.code, 2);
  EXPECT_THAT(f.err, HasSubstr("h.0.atention.qkv.weight"));
  EXPECT_THAT(f.err, HasSubstr("did you mean \"h.0.attention.qkv.weight\"?"));
  EXPECT_FALSE(std::filesystem::exists(tiny.directory("wrong")));
}

// A norm is a sum over ranks, and a matrix is put together from what they own: by Muon whole, by AdamW cut
// anywhere.
TEST(Diagnostics, RanksMeasureWhatOneDoes) {
  const TinyRun tiny;
  for (const bool adamw : {false, true})
    for (const char* sharding : {"owners", "none"}) {
      if (adamw && sharding == std::string("none")) continue;
      const std::string config = adamw ? tiny.adamw_config() : tiny.config(),
                        name = fmt::format("{}-{}", adamw ? "adamw" : "muon", sharding);
      SCOPED_TRACE(name);
      std::vector<std::string> more = kMeasured;
      more.insert(more.end(), {"train.steps=3", std::string("distributed.sharding=") + sharding});
      train(config, twelve_sequences(tiny, name + "-1", more));
      train_on_ranks(tiny, 3, config, twelve_sequences(tiny, name + "-3", more));
      if (HasFailure()) return;
      const DiagnosticsRecord a = records_of(tiny, name + "-1").at(3),
                              b = records_of(tiny, name + "-3").at(3);
      ASSERT_EQ(a.groups.size(), b.groups.size());
      ASSERT_EQ(a.spectra.size(), b.spectra.size());
      const auto near = [](double x, double y, double scale) { EXPECT_NEAR(x, y, 1e-4 * scale); };
      for (std::size_t i = 0; i < a.groups.size(); ++i) {
        EXPECT_EQ(a.groups[i].parameters, b.groups[i].parameters);
        near(a.groups[i].weight_norm, b.groups[i].weight_norm, a.groups[i].weight_norm);
        near(a.groups[i].gradient_norm, b.groups[i].gradient_norm, a.groups[i].gradient_norm);
        near(a.groups[i].update_norm, b.groups[i].update_norm, a.groups[i].update_norm);
        near(a.groups[i].cosine, b.groups[i].cosine, 1);
      }
      for (std::size_t i = 0; i < a.spectra.size(); ++i) {
        EXPECT_EQ(a.spectra[i].matrix, b.spectra[i].matrix);
        near(a.spectra[i].norm, b.spectra[i].norm, a.spectra[i].norm);
        near(a.spectra[i].stable_rank, b.spectra[i].stable_rank, a.spectra[i].stable_rank);
      }
      const auto deciles = [&](const std::string& run) {
        return *lines_of(tiny, run).back().diagnostics->deciles;
      };
      EXPECT_EQ(deciles(name + "-1").targets, deciles(name + "-3").targets);
      for (std::size_t d = 0; d < kDeciles; ++d)
        if (deciles(name + "-1").targets[d] > 0) {
          near(deciles(name + "-1").loss[d], deciles(name + "-3").loss[d], 5);
        }
    }
}

}  // namespace
}  // namespace spectrain

#include "optim/optimizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "tests/optim/json_options.h"
#include "tests/optim/problem.h"

namespace spectrain {
namespace {

using testing::HasSubstr;

// A little of everything: a padded vocabulary, fused and plain matrices, vectors and a scalar.
void add_model(Problem& p) {
  p.add("wte", {24, 16}, Role::embedding, {}, 21);
  p.add("h.0.qkv", {48, 16}, Role::hidden, {16, 16, 16});
  p.add("h.0.norm", {16}, Role::gain);
  p.add("h.0.up", {64, 16}, Role::hidden);
  p.add("h.0.bias", {64}, Role::bias);
  p.add("h.0.down", {16, 64}, Role::hidden);
  p.add("residual", {1}, Role::scalar);
  p.add("head", {24, 16}, Role::head, {}, 21);
}

OptimizerConfig usual_config(double clip = 0) {
  AdamWOptions adamw;
  adamw.weight_decay = 0.1;
  AdamWOptions vectors;
  vectors.weight_decay = 0;
  return {{{{Role::hidden}, MuonOptions{}},
           {{Role::embedding, Role::head}, adamw},
           {{Role::gain, Role::bias, Role::scalar}, vectors}},
          clip};
}

void random_gradients(Problem& p, std::uint64_t seed) {
  const auto views = p.views();
  for (std::size_t i = 0; i < views.size(); ++i)
    p.set_gradient(i, gaussian(views[i].gradient.rows(), views[i].gradient.cols(), seed + i));
}

std::vector<std::vector<double>> everything(Problem& p, const Optimizer& o) {
  std::vector<std::vector<double>> all;
  for (const ParameterView& v : p.views()) all.push_back(host(*p.backend, v.value));
  for (const StateTensor& s : o.state()) all.push_back(host(*p.backend, s.tensor));
  return all;
}

std::string refusal(Problem& p, const OptimizerConfig& config) {
  try {
    Optimizer o(*p.backend, p.views(), config);
  } catch (const RequestError& e) {
    return e.what();
  }
  return "accepted";
}

class OptimizerTest : public testing::TestWithParam<const char*> {};
INSTANTIATE_TEST_SUITE_P(Backends, OptimizerTest, testing::Values("reference", "cpu"));

TEST_P(OptimizerTest, EveryParameterIsUpdatedExactlyOnce) {
  Problem p(GetParam());
  add_model(p);
  Optimizer o(*p.backend, p.views(), usual_config());
  random_gradients(p, 1);
  o.step(0, 1);
  for (const ParameterView& v : p.views()) {
    const Matrix w = p.read(v.value);
    EXPECT_GT(frobenius(w), 0) << v.info->name;
    // AdamW's first step is lr times the sign of the gradient: twice the step would be twice as long.
    if (v.info->role == Role::gain || v.info->role == Role::bias || v.info->role == Role::scalar) {
      for (const double x : w.a) EXPECT_NEAR(std::abs(x), 1e-3, 1e-6) << v.info->name;
    }
  }
}

TEST_P(OptimizerTest, StateHasNamesAndShapes) {
  Problem p(GetParam());
  add_model(p);
  Optimizer o(*p.backend, p.views(), usual_config());
  std::vector<std::string> found;
  for (const StateTensor& s : o.state()) {
    found.push_back(s.name + " " + s.tensor.shape.str());
    for (const double x : host(*p.backend, s.tensor)) EXPECT_EQ(x, 0);
  }
  EXPECT_THAT(found,
              testing::ElementsAre("wte.adam_m [21, 16]", "wte.adam_v [21, 16]", "h.0.qkv.momentum [48, 16]",
                                   "h.0.norm.adam_m [16]", "h.0.norm.adam_v [16]", "h.0.up.momentum [64, 16]",
                                   "h.0.bias.adam_m [64]", "h.0.bias.adam_v [64]",
                                   "h.0.down.momentum [16, 64]", "residual.adam_m [1]", "residual.adam_v [1]",
                                   "head.adam_m [21, 16]", "head.adam_v [21, 16]"));
}

TEST_P(OptimizerTest, MemoryIsWhatWasPlannedAndNoStepAllocates) {
  Problem p(GetParam());
  add_model(p);
  const std::size_t before = p.backend->allocated_bytes();
  Optimizer o(*p.backend, p.views(), usual_config());
  const std::vector<ParameterInfo> infos = p.infos();
  const DType master = p.backend->master();
  const std::size_t planned = Optimizer::state_bytes(infos, usual_config(), master) +
                              Optimizer::workspace_bytes(infos, usual_config(), *p.backend);
  EXPECT_EQ(p.backend->allocated_bytes() - before, planned);
  random_gradients(p, 1);
  o.step(0, 1);  // a backend's own packing buffers grow to the shapes it meets
  const std::size_t after = p.backend->allocated_bytes();
  for (int step = 1; step < 4; ++step) o.step(step, 1);
  EXPECT_EQ(p.backend->allocated_bytes(), after);
}

TEST_P(OptimizerTest, StateRestoredGoesOnBitForBit) {
  Problem p(GetParam()), q(GetParam());
  add_model(p);
  add_model(q);
  Optimizer a(*p.backend, p.views(), usual_config(1)), b(*q.backend, q.views(), usual_config(1));
  for (int step = 0; step < 3; ++step) {
    random_gradients(p, 10 + static_cast<std::uint64_t>(step));
    a.step(step, 1);
  }
  for (std::size_t i = 0; i < p.views().size(); ++i) q.set_value(i, p.value(i));
  const auto from = a.state(), to = b.state();
  for (std::size_t i = 0; i < from.size(); ++i)
    write(*q.backend, to[i].tensor, host(*p.backend, from[i].tensor));
  for (int step = 3; step < 5; ++step) {
    random_gradients(p, 10 + static_cast<std::uint64_t>(step));
    random_gradients(q, 10 + static_cast<std::uint64_t>(step));
    a.step(step, 0.5);
    b.step(step, 0.5);
  }
  EXPECT_EQ(everything(p, a), everything(q, b));
}

// Clipped, skipped, and with momentum as a sum: what the host would decide, decided where the sums are.
TEST_P(OptimizerTest, AnUpdateThatTheHostHasNotDecidedIsTheSame) {
  for (const double clip : {0.0, 0.3, 1e9}) {
    Problem p(GetParam()), q(GetParam());
    add_model(p);
    add_model(q);
    OptimizerConfig config = usual_config(clip);
    MuonOptions muon;
    muon.momentum_form = MomentumForm::sum;
    muon.momentum_warmup = {0.7, 5};
    config.groups[0].rule = muon;
    Optimizer a(*p.backend, p.views(), config), b(*q.backend, q.views(), config);
    ASSERT_TRUE(b.updates_late());
    const auto memory = q.backend->allocate(2 * sizeof(double), "sums");
    const Tensor squares = memory->view(DType::f64, {1}),
                 loss = memory->view(DType::f64, {1}, sizeof(double));
    q.backend->fill(loss, 3);
    for (int step = 0; step < 5; ++step) {
      for (Problem* problem : {&p, &q}) {
        random_gradients(*problem, 10 + static_cast<std::uint64_t>(step));
        if (step == 2) problem->backend->fill(problem->views()[3].gradient, INFINITY);
      }
      const StepReport known = a.step(step, 0.5);
      EXPECT_EQ(known.finite, step != 2);
      q.backend->fill(squares, 0);
      b.add_gradient_squares(squares);
      EXPECT_EQ(b.update_late(step, 0.5, squares, loss), 5);
      EXPECT_EQ(everything(p, a), everything(q, b)) << "step " << step << ", clip " << clip;
    }
    const auto before = everything(q, b);
    q.backend->fill(loss, NAN);
    b.update_late(5, 1, squares, loss);
    q.backend->fill(loss, 3);
    b.update_late(6, 1, squares, loss);
    EXPECT_EQ(everything(q, b), before) << "after a loss that is not finite";
  }
}

TEST_P(OptimizerTest, RulesThatNeedTheHostsDecisionSaySo) {
  Problem p(GetParam());
  add_model(p);
  const auto late = [&](const OptimizerConfig& config) {
    return Optimizer(*p.backend, p.views(), config).updates_late();
  };
  EXPECT_TRUE(late(usual_config()));
  for (const std::size_t group : {0, 1, 2}) {
    OptimizerConfig config = usual_config();
    config.groups[group].finish.cautious = true;
    EXPECT_FALSE(late(config)) << group;
  }
  OptimizerConfig config = usual_config();
  config.groups[0].look_ahead.strength = 0.1;
  EXPECT_FALSE(late(config));
  config = usual_config();
  config.average.from = 1;
  EXPECT_FALSE(late(config));
  // A group that the model has nothing for does not matter.
  Problem matrix(GetParam());
  matrix.add("h.0.up", {64, 16}, Role::hidden);
  config = usual_config();
  config.groups[1].finish.cautious = true;
  EXPECT_TRUE(Optimizer(*matrix.backend, matrix.views(), config).updates_late());
}

TEST_P(OptimizerTest, AProfiledStepIsAStep) {
  Problem p(GetParam()), q(GetParam());
  add_model(p);
  add_model(q);
  Optimizer a(*p.backend, p.views(), usual_config(0.1)), b(*q.backend, q.views(), usual_config(0.1));
  double time = 0;
  std::vector<TimedWork> parts;
  for (int step = 0; step < 2; ++step) {
    random_gradients(p, 10 + static_cast<std::uint64_t>(step));
    random_gradients(q, 10 + static_cast<std::uint64_t>(step));
    EXPECT_GT(a.step(step, 0.5).gradient_norm, 0.1) << "nothing is clipped";
    parts = b.profile(
        step, 0.5, [&] { return time += 2; },
        [](DType) {
          return MachineRates{1e9, 1e9};
        });
  }
  EXPECT_EQ(everything(p, a), everything(q, b));
  // Gradients are read by the norm and by one rule each; weights and state are read and written.
  double gradients = 0, state = 0;
  for (const MeasuredPart& m : b.parts()) gradients += static_cast<double>(m.gradient.bytes());
  for (const StateTensor& s : b.state()) state += static_cast<double>(s.tensor.bytes());
  double bytes = 0;
  for (const TimedWork& w : parts) {
    EXPECT_EQ(w.seconds, 2);
    if (w.name != "the gradient's norm") bytes += w.work.bytes;
  }
  ASSERT_GE(parts.size(), 3u);
  EXPECT_EQ(parts[0].name, "the gradient's norm");
  EXPECT_EQ(parts[0].work.bytes, gradients);
  EXPECT_EQ(bytes, 3 * gradients + 2 * state);
}

TEST_P(OptimizerTest, PaddingRowsStayZero) {
  Problem p(GetParam());
  add_model(p);
  Optimizer o(*p.backend, p.views(), usual_config());
  for (int step = 0; step < 5; ++step) {
    random_gradients(p, 7);  // not zero in the padding either
    o.step(step, 1);
  }
  for (const std::size_t i : {0u, 7u}) {
    const Matrix w = p.value(i);
    for (std::int64_t r = 0; r < 24; ++r)
      for (std::int64_t c = 0; c < 16; ++c)
        EXPECT_TRUE(r < 21 ? w(r, c) != 0 : w(r, c) == 0) << p.views()[i].info->name << " row " << r;
  }
}

// An untrained row (zero weight, zero gradient) stays exactly zero under AdamW, decay or not.
TEST_P(OptimizerTest, ZeroGradientAndZeroWeightStayZero) {
  Problem p(GetParam());
  add_model(p);
  Optimizer o(*p.backend, p.views(), usual_config(1));
  for (int step = 0; step < 3; ++step) EXPECT_EQ(o.step(step, 1).gradient_norm, 0);
  for (std::size_t i = 0; i < p.views().size(); ++i)
    for (const double x : p.value(i).a) EXPECT_EQ(x, 0);
}

// The first step's adam_m is (1 - beta1) times the gradient that counted.
double counted_norm(const char* backend, double norm, double clip, StepReport* report) {
  Problem p(backend);
  const std::size_t a = p.add("a", {30, 10}, Role::hidden), b = p.add("b", {40}, Role::bias);
  Matrix ga = gaussian(30, 10, 1), gb = gaussian(1, 40, 2);
  const double raw = std::hypot(frobenius(ga), frobenius(gb));
  p.set_gradient(a, combined(norm / raw, ga, 0, ga));
  p.set_gradient(b, combined(norm / raw, gb, 0, gb));
  const Matrix before = p.read(p.views()[a].gradient);
  Optimizer o(*p.backend, p.views(), {{{{Role::hidden, Role::bias}, AdamWOptions{}}}, clip});
  *report = o.step(0, 1);
  EXPECT_EQ(p.read(p.views()[a].gradient).a, before.a) << "gradients are not rewritten";
  double squares = 0;
  for (const StateTensor& s : o.state())
    if (s.name.ends_with("adam_m")) squares += std::pow(frobenius(p.read(s.tensor)) / 0.1, 2);
  return std::sqrt(squares);
}

TEST_P(OptimizerTest, ClipScalesTheNormNotItsSquare) {
  StepReport report;
  EXPECT_NEAR(counted_norm(GetParam(), 10, 1, &report), 1, 1e-6);
  EXPECT_NEAR(report.gradient_norm, 10, 1e-5);
  EXPECT_NEAR(counted_norm(GetParam(), 0.5, 0.2, &report), 0.2, 1e-6);
  EXPECT_NEAR(counted_norm(GetParam(), 0.5, 1, &report), 0.5, 1e-6) << "never scaled up";
  EXPECT_NEAR(counted_norm(GetParam(), 10, 0, &report), 10, 1e-5) << "off";
}

TEST_P(OptimizerTest, GradientsThatAreNotFiniteChangeNothing) {
  const double bad[] = {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity(),
                        -std::numeric_limits<double>::infinity()};
  Problem p(GetParam());
  add_model(p);
  Optimizer o(*p.backend, p.views(), usual_config(1));
  random_gradients(p, 1);
  o.step(0, 1);
  const auto before = everything(p, o);
  for (std::size_t i = 0; i < p.views().size(); ++i)
    for (const double x : bad) {
      random_gradients(p, 2);
      Matrix g = p.read(p.views()[i].gradient);
      g.a[g.a.size() / 2] = x;
      p.set_gradient(i, g);
      const StepReport report = o.step(1, 1);
      EXPECT_FALSE(report.finite) << p.views()[i].info->name;
      EXPECT_FALSE(std::isfinite(report.gradient_norm));
    }
  EXPECT_EQ(everything(p, o), before);
  random_gradients(p, 2);
  EXPECT_TRUE(o.step(1, 1).finite);
}

TEST(OptimizerGroups, RefusalsNameTheCulprit) {
  Problem p("reference");
  add_model(p);
  OptimizerConfig c = usual_config();
  EXPECT_EQ(refusal(p, c), "accepted");

  c.groups.pop_back();
  EXPECT_THAT(refusal(p, c), testing::AllOf(HasSubstr("'h.0.norm'"), HasSubstr("'gain'")));

  c = usual_config();
  c.groups[2].parameters.push_back(Role::hidden);
  EXPECT_THAT(refusal(p, c), testing::AllOf(HasSubstr("'hidden'"), HasSubstr("0 and 2")));

  c = usual_config();
  c.groups.push_back({{}, AdamWOptions{}});
  EXPECT_THAT(refusal(p, c), testing::AllOf(HasSubstr("group 3"), HasSubstr("names no parameters")));

  c = usual_config();
  c.groups[0].elementwise = MuonOptions{};
  EXPECT_THAT(refusal(p, c), testing::AllOf(HasSubstr("muon"), HasSubstr("for matrices")));
}

// Vectors and slivers in a group of a matrix rule are its element-wise rule's, and the table says so.
TEST(OptimizerGroups, WhatNoMatrixRuleTakesFallsToTheElementwiseRule) {
  Problem p("reference");
  const std::size_t gate = p.add("gate", {4, 16}, Role::hidden), vector = p.add("vector", {40}, Role::hidden),
                    matrix = p.add("matrix", {16, 16}, Role::hidden),
                    fused = p.add("qkv", {32, 16}, Role::hidden, {24, 4, 4}),
                    filters = p.add("filters", {16, 3, 3, 3}, Role::hidden);
  GroupConfig group{{Role::hidden}, MuonOptions{}};
  group.elementwise = rule_from_json("lion", {{"lr", 0.25}});
  Optimizer o(*p.backend, p.views(), {{group}});
  const std::string table = o.describe();
  EXPECT_THAT(table, testing::ContainsRegex("hidden +2 +688 +muon"));
  EXPECT_THAT(table, testing::ContainsRegex("hidden \\(small\\) +3 +616 +lion +0.25"));
  for (const std::size_t i : {gate, vector, matrix, fused, filters}) {
    const Shape shape = p.views()[i].value.shape;
    Matrix ones(shape.rows(), shape.cols());
    for (double& x : ones.a) x = 1;
    p.set_gradient(i, ones);
  }
  EXPECT_EQ(o.step(0, 1).matrices, 2);
  for (const std::size_t i : {gate, vector, fused})
    for (const double w : host(*p.backend, p.views()[i].value)) EXPECT_EQ(w, -0.25);
  // A filter bank is the matrix [16, 27]: of a matrix of ones the orthogonal factor is ones / sqrt(16 * 27).
  const std::vector<double> w = host(*p.backend, p.views()[filters].value);
  for (const double x : w) EXPECT_NEAR(x, w[0], 1e-12);
  EXPECT_NEAR(w[0] / (-0.02 / std::sqrt(16.0 * 27.0)), 1, 0.15);
}

TEST(OptimizerGroups, OptionsOutOfRange) {
  Problem p("reference");
  add_model(p);
  const auto with = [&](auto change) {
    OptimizerConfig c = usual_config();
    change(*c.groups[0].rule.get<MuonOptions>(), *c.groups[1].rule.get<AdamWOptions>(), c);
    return refusal(p, c);
  };
  EXPECT_THAT(with([](auto& m, auto&, auto&) { m.momentum = 1; }), HasSubstr("momentum is 1"));
  EXPECT_THAT(with([](auto& m, auto&, auto&) { m.lr = -1; }), HasSubstr("lr is -1"));
  EXPECT_THAT(with([](auto& m, auto&, auto&) { m.newton_schulz.steps = -2; }), HasSubstr("steps is -2"));
  EXPECT_THAT(with([](auto&, auto& a, auto&) { a.beta2 = 1; }), HasSubstr("betas is 1"));
  EXPECT_THAT(with([](auto&, auto& a, auto&) { a.eps = 0; }), HasSubstr("eps is 0"));
  EXPECT_THAT(with([](auto&, auto& a, auto&) { a.lr = std::nan(""); }), HasSubstr("lr is nan"));
  EXPECT_THAT(with([](auto&, auto&, auto& c) { c.clip = -1; }), HasSubstr("clip is -1"));
}

TEST(OptimizerGroups, TableSaysWhoIsUpdatedHow) {
  Problem p("reference");
  p.add("wte", {1024, 16}, Role::embedding, {}, 1000);
  p.add("qkv", {48, 16}, Role::hidden, {16, 16, 16});
  OptimizerConfig c = usual_config(1);
  const std::string table = Optimizer(*p.backend, p.views(), c).describe();
  EXPECT_THAT(table, HasSubstr("embedding, head"));
  EXPECT_THAT(table, HasSubstr("16,000"));
  EXPECT_THAT(table, HasSubstr("momentum 0.95 nesterov, original, polar-express x 5, f32"));
  EXPECT_THAT(table, HasSubstr("gradients clipped to norm 1"));
  EXPECT_THAT(table, HasSubstr("gain, bias, scalar        0"));
}

TEST(OptimizerGroups, MissingGradientIsTheCallersMistake) {
  Problem p("reference");
  add_model(p);
  auto views = p.views();
  views[3].gradient = {};
  EXPECT_THROW(Optimizer(*p.backend, views, usual_config()), std::logic_error);
}

}  // namespace
}  // namespace spectrain

#include "model/tape.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <random>

#include "model/plan.h"
#include "model/program.h"
#include "model/transformer.h"
#include "tests/model/allocation_count.h"
#include "tests/reference/reference_backend.h"

namespace spectrain {
namespace {

constexpr std::int64_t kRows = 6, kWidth = 4, kVocab = 5;
using Graph = std::function<Value(Tape&, Value)>;

// tokens -> embedding -> graph -> cross entropy
Value record(Tape& t, const Graph& graph) {
  const Value tokens = t.input("tokens", Shape{kRows}), targets = t.input("targets", Shape{kRows});
  const Value table = t.parameter("wte", Shape{kVocab, kWidth}, Role::embedding, Initializer::normal(0.7));
  const Value x = graph(t, t.embedding(tokens, table, {}, kRows));
  const Value head = t.parameter("head", Shape{kVocab, kWidth}, Role::head, Initializer::normal(0.7));
  return t.cross_entropy(x, head, {}, targets, kVocab, {});
}

Value matrix(Tape& t, const char* name) {
  return t.parameter(name, Shape{kWidth, kWidth}, Role::hidden, Initializer::normal(0.5));
}

struct Model {
  Model(const Graph& graph, bool recompute = false) : backend(make_reference_backend()) {
    const Value losses = record(tape, graph);
    options.compute = DType::f64;
    options.recompute = recompute;
    parameters = std::make_unique<Parameters>(tape, *backend, DType::f64, true);
    parameters->initialize(3);
    program = std::make_unique<Program>(tape, losses, *parameters, options);
    const std::int32_t tokens[kRows] = {0, 1, 2, 3, 4, 1}, targets[kRows] = {1, 2, 3, 4, 0, 2};
    program->set_input("tokens", tokens);
    program->set_input("targets", targets);
  }
  double loss() {
    program->forward_backward(1, false);
    double sum = 0;
    for (const double l : program->host_result()) sum += l;
    return sum;
  }
  std::unique_ptr<Backend> backend;
  Tape tape;
  ProgramOptions options;
  std::unique_ptr<Parameters> parameters;
  std::unique_ptr<Program> program;
};

// Every gradient element against central differences.
void check_gradients(const Graph& graph, bool recompute = false) {
  Model m(graph, recompute);
  m.loss();
  for (std::size_t i = 0; i < m.parameters->size(); ++i) {
    const ParameterView p = m.parameters->view(i);
    const std::vector<double> gradient(p.gradient.span<double>().begin(), p.gradient.span<double>().end());
    for (std::size_t k = 0; k < gradient.size(); ++k) {
      double& w = p.value.as<double>()[k];
      const double old = w, h = 1e-5;
      const auto loss_at = [&](double x) {
        w = x;
        m.parameters->refresh();
        return m.loss();
      };
      // Fourth order, so that the error is rounding and not the third derivative of a norm near zero.
      const double near = loss_at(old + h) - loss_at(old - h),
                   far = loss_at(old + 2 * h) - loss_at(old - 2 * h);
      w = old;
      EXPECT_NEAR(gradient[k], (8 * near - far) / (12 * h), 1e-8) << p.info->name << " element " << k;
    }
    m.parameters->refresh();
    m.loss();  // the gradients of the next parameter, at the true weights
  }
}

TEST(Tape, ResidualBranchesShareOneGradient) {
  check_gradients([](Tape& t, Value x) {
    for (int layer = 0; layer < 2; ++layer) {
      Tape::Scope in(t, "h", layer);
      const Value n = t.norm(NormKind::rms, x, {}, {}, 1e-5);
      x = t.add(x, t.linear(t.activation(Activation::gelu, t.linear(n, matrix(t, "up"))), matrix(t, "down")));
    }
    return t.norm(NormKind::rms, x, {}, {}, 1e-5);
  });
}

TEST(Tape, AValueReadTwiceCollectsBothGradients) {
  check_gradients([](Tape& t, Value x) {
    const Value a = t.linear(x, matrix(t, "a"));
    const Value b = t.linear(x, matrix(t, "b"));
    return t.add(t.activation(Activation::gelu_tanh, a), t.add(b, x));
  });
}

TEST(Tape, AValueAddedToItself) {
  check_gradients([](Tape& t, Value x) {
    const Value y = t.add(x, x);
    return t.add(y, t.linear(y, matrix(t, "a")));
  });
}

TEST(Tape, ScaledBranchDoesNotDisturbTheOther) {
  check_gradients([](Tape& t, Value x) {
    const Value f = t.scale(t.linear(x, matrix(t, "a")), 0.3);
    const Value y = t.add(x, f);
    return t.add(t.scale(y, 2), t.activation(Activation::relu2, y));
  });
}

TEST(Tape, SkipOverABranchCopiesTheSharedGradient) {
  // x's gradient is shared with the late branch `g`, which still has to read it when `x` collects more.
  check_gradients([](Tape& t, Value x) {
    const Value early = t.linear(x, matrix(t, "early"));
    const Value late = t.activation(Activation::gelu, x);
    const Value sum = t.add(early, late);
    return t.add(t.add(sum, early), t.norm(NormKind::layer, late, {}, {}, 1e-5));
  });
}

TEST(Tape, OneMatrixUsedTwice) {
  check_gradients([](Tape& t, Value x) {
    const Value w = matrix(t, "shared");
    return t.linear(t.activation(Activation::gelu, t.linear(x, w)), matrix(t, "shared"));
  });
}

// How many products go on through the activation before them.
int passes_through(const Graph& graph, bool recompute = false) {
  Tape tape;
  const Value losses = record(tape, graph);
  ProgramOptions options;
  options.recompute = recompute;
  int count = 0;
  for (const Action& a : make_plan(tape, losses, DType::f32, DType::f32, options).actions)
    if (a.kind == Action::Kind::linear_activation_backward) ++count;
  return count;
}

TEST(Tape, ProductsAfterActivations) {
  for (const Activation act : {Activation::gelu_tanh, Activation::relu2, Activation::sigmoid}) {
    const Graph mlp = [act](Tape& t, Value x) {
      x = t.linear(t.activation(act, t.linear(x, matrix(t, "a"))), matrix(t, "b"));
      return t.add(x, t.linear(t.activation(act, x), matrix(t, "c")));
    };
    for (const bool recompute : {false, true})
      EXPECT_EQ(passes_through(mlp, recompute), 1) << "the second adds to a gradient";
    check_gradients(mlp);
    check_gradients(mlp, true);
  }
  // Everything that keeps the two apart: another reader, before or after, and nothing to go on to.
  const std::vector<Graph> apart = {
      [](Tape& t, Value x) {
        const Value y = t.activation(Activation::gelu, t.linear(x, matrix(t, "a")));
        return t.add(t.linear(y, matrix(t, "b")), t.linear(y, matrix(t, "c")));
      },
      [](Tape& t, Value x) {
        const Value y = t.activation(Activation::relu2, t.linear(x, matrix(t, "a")));
        return t.add(y, t.linear(y, matrix(t, "b")));
      },
      [](Tape& t, Value x) {
        const Value y = t.activation(Activation::gelu, t.linear(x, matrix(t, "a")));
        const Value z = t.linear(y, matrix(t, "b"));
        return t.add(z, t.activation(Activation::sigmoid, y));
      }};
  for (const Graph& graph : apart) {
    EXPECT_EQ(passes_through(graph), 0);
    check_gradients(graph);
  }
}

Value scalar(Tape& t, const char* name, double start) {
  return t.parameter(name, Shape{1}, Role::scalar, Initializer{Initializer::Kind::constant, start});
}

TEST(Tape, MixesOfTwoWithOneWeight) {
  check_gradients([](Tape& t, Value x) {
    const Value y = t.linear(x, matrix(t, "a")), l = scalar(t, "l", 0.3);
    return t.mix({x, y}, {{1, -1, 0}, {0, 1, 0}}, {l});
  });
}

TEST(Tape, MixesOfThreeWithAndWithoutWeights) {
  check_gradients([](Tape& t, Value x) {
    const Value y = t.linear(x, matrix(t, "a")), z = t.activation(Activation::gelu, y);
    const Value first =
        t.mix({x, y, z}, {{0.5, 0, -1}, {0, 2, 1}, {1, -3, 0}}, {scalar(t, "l", 0.3), scalar(t, "m", -0.7)});
    // A second mix adds to the gradients of what the first read, and of a weight both have.
    return t.mix({first, x, y}, {{0, 1, 0}, {0.25, 0, -1}, {1, 1, 1}},
                 {scalar(t, "m", -0.7), scalar(t, "n", 2)});
  });
}

TEST(Tape, AMixOfAValueWithItself) {
  check_gradients([](Tape& t, Value x) {
    const Value y = t.linear(x, matrix(t, "a"));
    return t.add(x, t.mix({y, y}, {{1, -1, 0}, {0, 1, 0}}, {scalar(t, "l", 0.5)}));
  });
}

TEST(Tape, ColumnsAreTakenAndReplaced) {
  check_gradients([](Tape& t, Value x) {
    const Value y = t.linear(x, matrix(t, "a"));
    const Value v = t.activation(Activation::gelu, t.columns(y, 1, 2));
    return t.add(t.with_columns(y, 1, v), t.with_columns(x, 2, v));
  });
}

// What v was taken from is read by nobody else: the planner may work in place in both directions.
TEST(Tape, ColumnsAreReplacedInPlace) {
  check_gradients([](Tape& t, Value x) {
    const Value y = t.linear(x, matrix(t, "a"));
    const Value mixed = t.mix({t.columns(y, 2, 2)}, {{0, 1, 0}}, {scalar(t, "l", 0.5)});
    return t.linear(t.with_columns(y, 2, mixed), matrix(t, "b"));
  });
}

TEST(Tape, GatesOfGroups) {
  check_gradients([](Tape& t, Value x) {
    const Value w = t.parameter("gate", Shape{2, 3}, Role::hidden, Initializer::normal(0.5));
    const Value gates = t.activation(Activation::sigmoid, t.linear(t.columns(x, 0, 3), w));
    return t.add(t.gate(t.linear(x, matrix(t, "a")), gates), t.gate(x, gates));
  });
}

TEST(Tape, TheRowBefore) {
  check_gradients(
      [](Tape& t, Value x) { return t.add(t.linear(t.previous(x, 3), matrix(t, "a")), t.previous(x, 1)); });
  Tape t;
  const Value x = t.input("x", Shape{kRows});
  EXPECT_THROW(t.previous(t.embedding(x, matrix(t, "e"), {}, kRows), 4), std::logic_error);
}

TEST(Tape, MixesThatDoNotFitAreTheCallersMistake) {
  Tape t;
  const Value x = t.embedding(t.input("x", Shape{kRows}), matrix(t, "e"), {}, kRows);
  EXPECT_THROW(t.mix({x}, {{0, 1, 0}}, {}), std::logic_error);
  EXPECT_THROW(t.mix({x}, {{1, 0, -1}, {1, 0, -1}}, {}), std::logic_error);
  EXPECT_THROW(t.mix({x, t.columns(x, 0, 2)}, {{1, 0, -1}, {1, 0, -1}}, {}), std::logic_error);
  EXPECT_THROW(t.mix({x}, {{0, 1, 0}}, {matrix(t, "m")}), std::logic_error);
  EXPECT_THROW(t.columns(x, 3, 2), std::logic_error);
  EXPECT_THROW(t.with_columns(x, 3, t.columns(x, 0, 2)), std::logic_error);
  EXPECT_THROW(t.gate(x, t.columns(x, 0, 3)), std::logic_error);
}

TEST(Tape, UnusedParameterHasZeroGradientAndDeadValuesCostNothing) {
  Model m([](Tape& t, Value x) {
    t.linear(x, matrix(t, "dead"));
    return t.linear(x, matrix(t, "used"));
  });
  const ParameterView dead = m.parameters->view(static_cast<std::size_t>(m.parameters->find("dead")));
  m.backend->fill(dead.gradient, 7);
  m.loss();
  for (const double g : dead.gradient.span<double>()) EXPECT_EQ(g, 0);
}

TEST(Tape, AccumulatingTwiceDoublesEveryGradient) {
  Model m([](Tape& t, Value x) { return t.add(x, t.linear(x, matrix(t, "a"))); });
  m.loss();
  std::vector<std::vector<double>> once;
  for (const ParameterView& p : m.parameters->views())
    once.emplace_back(p.gradient.span<double>().begin(), p.gradient.span<double>().end());
  m.program->forward_backward(1, true);
  for (std::size_t i = 0; i < once.size(); ++i)
    for (std::size_t k = 0; k < once[i].size(); ++k)
      EXPECT_NEAR(m.parameters->view(i).gradient.as<double>()[k], 2 * once[i][k], 1e-12);
}

TransformerConfig small_gpt() {
  TransformerConfig c;
  c.vocab = 1000;
  c.context = 64;
  c.layers = 3;
  c.width = 64;
  c.heads = 4;
  return c.resolved();
}

TEST(Plan, StoragesAliveTogetherNeverOverlap) {
  for (const bool recompute : {false, true}) {
    Tape tape;
    const Value losses = transformer(tape, small_gpt(), 2, 64);
    ProgramOptions options;
    options.recompute = recompute;
    const Plan plan = make_plan(tape, losses, DType::f32, DType::f32, options);
    ASSERT_GT(plan.storages.size(), 20u);
    for (const Storage& a : plan.storages)
      for (const Storage& b : plan.storages) {
        if (&a == &b || a.first < 0 || b.first < 0 || a.last < b.first || b.last < a.first) continue;
        EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset);
      }
  }
}

TEST(Plan, ArenasOfRandomLifetimes) {
  std::mt19937 random(5);
  const auto below = [&](unsigned n) { return static_cast<int>(random() % n); };
  for (int round = 0; round < 50; ++round) {
    std::vector<Storage> storages(static_cast<std::size_t>(1 + below(60)));
    for (Storage& s : storages) {
      s.bytes = static_cast<std::size_t>(64 * (1 + below(100)));
      if (below(10) == 0) continue;  // nobody uses it: it needs no room
      s.first = below(40);
      s.last = s.first + below(12);
    }
    const std::size_t arena = lay_out(storages);
    std::size_t end = 0, peak = 0;
    for (int now = 0; now < 60; ++now) {
      std::size_t alive = 0;
      for (const Storage& s : storages)
        alive += s.first >= 0 && s.first <= now && now <= s.last ? s.bytes : 0;
      peak = std::max(peak, alive);
    }
    for (const Storage& a : storages) {
      if (a.first < 0) continue;
      end = std::max(end, a.offset + a.bytes);
      for (const Storage& b : storages) {
        if (&a == &b || b.first < 0 || a.last < b.first || b.last < a.first) continue;
        EXPECT_TRUE(a.offset + a.bytes <= b.offset || b.offset + b.bytes <= a.offset) << "round " << round;
      }
    }
    EXPECT_EQ(arena, end);
    EXPECT_GE(arena, peak);
    EXPECT_LE(static_cast<double>(arena), 1.4 * static_cast<double>(peak));
  }
}

TEST(Plan, RecomputingNeedsLessMemory) {
  Tape tape;
  const Value losses = transformer(tape, small_gpt(), 2, 64);
  ProgramOptions keep, again;
  again.recompute = true;
  EXPECT_LT(make_plan(tape, losses, DType::f32, DType::f32, again).arena_bytes,
            make_plan(tape, losses, DType::f32, DType::f32, keep).arena_bytes * 85 / 100);
}

// Gradients in the dtype of the logits take their place; otherwise both are there.
TEST(Plan, LogitsAndTheirGradientsShareMemoryWhereTheyCan) {
  Tape tape;
  const TransformerConfig c = small_gpt();
  const Value losses = transformer(tape, c, 2, 64);
  const auto elements = static_cast<std::size_t>(2 * 64 * c.padded_vocab);
  ProgramOptions options;
  options.compute = DType::bf16;
  EXPECT_EQ(make_plan(tape, losses, DType::f32, DType::f32, options).workspace_bytes, elements * (4 + 2));
  EXPECT_EQ(make_plan(tape, losses, DType::f32, DType::bf16, options).workspace_bytes, elements * 2);
  options.training = false;
  EXPECT_EQ(make_plan(tape, losses, DType::f32, DType::bf16, options).workspace_bytes, elements * 2);
  options.compute = DType::f32;
  EXPECT_EQ(make_plan(tape, losses, DType::f32, DType::f32, options).workspace_bytes, elements * 4);
}

class OnCpu : public testing::TestWithParam<DType> {};

TEST_P(OnCpu, PlannedMemoryIsWhatIsAllocatedAndReplayAllocatesNothing) {
  const std::unique_ptr<Backend> backend = make_cpu_backend({2, true});
  Tape tape;
  const Value losses = transformer(tape, small_gpt(), 2, 64);
  ProgramOptions options;
  options.compute = GetParam();
  const MemoryPlan planned = plan_memory(tape, *backend, options);
  Parameters parameters(tape, *backend, options.compute, true);
  parameters.initialize(1);
  Program program(tape, losses, parameters, options);
  const std::vector<std::int32_t> tokens(128, 3);
  program.set_input("tokens", tokens);
  program.set_input("targets", tokens);
  for (int i = 0; i < 3; ++i) program.forward_backward(1, i > 0);
  const auto allocated = static_cast<double>(backend->allocated_bytes());
  EXPECT_NEAR(static_cast<double>(planned.total()), allocated, 0.05 * allocated);
  const std::int64_t before = allocation_count();
  program.forward_backward(1, false);
  EXPECT_EQ(allocation_count() - before, 0) << "a replay must not allocate";
}
INSTANTIATE_TEST_SUITE_P(Types, OnCpu, testing::Values(DType::f32, DType::bf16),
                         [](const auto& p) { return std::string(name_of(p.param)); });

TEST(Program, NamesTheFirstValueThatWentBad) {
  Model m([](Tape& t, Value x) {
    Tape::Scope in(t, "h", 1);
    return t.linear(t.linear(x, matrix(t, "a")), matrix(t, "b"));
  });
  EXPECT_EQ((m.loss(), m.program->first_nonfinite()), "");
  const ParameterView a = m.parameters->view(static_cast<std::size_t>(m.parameters->find("h.1.a")));
  a.value.as<double>()[0] = std::nan("");
  m.parameters->refresh();
  EXPECT_TRUE(std::isnan(m.loss()));
  EXPECT_EQ(m.program->first_nonfinite(), "parameter h.1.a");
}

}  // namespace
}  // namespace spectrain

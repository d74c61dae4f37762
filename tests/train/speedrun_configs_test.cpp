#include <gtest/gtest.h>

#include <cmath>

#include "tests/train/config_files.h"
#include "train/config.h"

// configs/speedrun and configs/track3 against the published settings of each record, by what follows from
// them: learning rates as they reach a matrix, steps of the schedule, parameters.

namespace spectrain {
namespace {

RunConfig loaded(const std::string& name) { return load_config(configs_directory() + name + ".yaml", {}); }

const GroupConfig& group_of(const RunConfig& config, Role role) {
  for (const GroupConfig& group : config.optimizer.groups)
    for (const Role r : group.parameters)
      if (r == role) return group;
  throw std::logic_error("no group has this role");
}

const RuleOptions& rule_of(const RunConfig& config, Role role) { return group_of(config, role).rule; }

double adam_lr(const RunConfig& config, Role role) {
  const GroupConfig& group = group_of(config, role);
  return group.rule.make(group.finish)->lr();
}

// What a matrix [out, in] moves by, in singular values.
double muon_step(const RunConfig& config, std::int64_t out, std::int64_t in) {
  const auto* muon = rule_of(config, Role::hidden).get<MuonOptions>();
  return muon->lr * shape_factor(muon->shape_scale, out, in);
}

// Steps in which rates fall, as the schedule counts them: from the first below 1 to the end.
std::int64_t cooldown_steps(const RunConfig& config) {
  const std::int64_t steps = config.steps();
  std::int64_t falling = 0;
  for (std::int64_t s = config.schedule.warmup; s < steps; ++s)
    if (schedule_factor(config.schedule, s, steps) < 1) ++falling;
  return falling;
}

struct Record {
  const char* file;
  std::int64_t steps, warmup, cooldown;  // cooldown: steps, the first of which has factor 1
  double millions;                       // parameters
  double square, up;                     // Muon's rate on 768 x 768 and on 3072 x 768; 0: no Muon
  double embedding, head, scalar;        // Adam's rates; 0: there is no such group
};

std::ostream& operator<<(std::ostream& out, const Record& r) { return out << r.file; }

constexpr Record kRecords[] = {{"02-adamw", 9536, 256, 2048, 123.5, 0, 0, 1.8e-3, 0, 0},
                               {"04-muon", 6200, 0, 1800, 123.5, .00998, .01995, 3.6e-3, 0, 0},
                               {"05-modern-arch", 5100, 0, 1450, 123.6, .00998, .01995, 3.6e-3, 0, 0},
                               {"08-untie", 4578, 0, 1308, 162.2, .02, .04, .3, .002, 0},
                               {"09-shortcuts", 3200, 0, 914, 162.2, .02, .04, .3, .002, .02},
                               {"10-bf16-activations", 3242, 0, 926, 162.2, .02, .04, .3, .002, .02},
                               {"11-u-net", 3000, 0, 900, 162.2, .04, .08, .6, .008, .04},
                               {"12-documents-64k", 1875, 0, 562, 162.2, .04, .08, .6, .008, .04},
                               {"13-window-warmup", 1750, 0, 640, 162.2, .05, .1, .6, .008, .04},
                               {"14-value-embeddings", 1530, 0, 600, 625.8, .05, .1, .6, .008, .04},
                               {"15-u-net-value-embeddings", 1480, 0, 600, 394.0, .05, .1, .6, .008, .04},
                               {"16-block-window", 1480, 0, 600, 394.0, .05, .1, .6, .008, .04},
                               {"17-sparsify", 1490, 0, 600, 275.7, .05, .1, .6, .008, .04},
                               {"18-softcap-15", 1390, 0, 556, 275.7, .05, .1, .6, .008, .04},
                               {"19-fp8-head", 1395, 0, 558, 275.7, .05, .1, .6, .008, .04},
                               {"20-long-short", 1393, 0, 557, 275.7, .05, .1, .6, .008, .04},
                               {"21-batch-48k", 1770, 0, 708, 275.7, .05, .1, .6, .008, .04},
                               {"26-bos-aligned", 1750, 0, 788, 275.7, .05, .1, .6, .008, .04}};

class Records : public testing::TestWithParam<Record> {};

TEST_P(Records, HaveThePublishedSettings) {
  const Record& r = GetParam();
  const RunConfig config = loaded(std::string("speedrun/") + r.file);
  EXPECT_EQ(config.steps(), r.steps);
  EXPECT_EQ(config.schedule.warmup, r.warmup);
  // The originals' factor is (steps - step) / cooldown: 1 once more at its first step.
  EXPECT_EQ(cooldown_steps(config), r.cooldown - 1);
  const double floor = config.schedule.floor;
  EXPECT_NEAR(schedule_factor(config.schedule, r.steps - 1, r.steps),
              floor + (1 - floor) / static_cast<double>(r.cooldown), 1e-12);
  const ModelCount size = count(config.model, config.batch.context);
  EXPECT_NEAR(static_cast<double>(size.parameters) * 1e-6, r.millions, .05);
  EXPECT_EQ(adam_lr(config, Role::embedding), r.embedding);
  if (r.square > 0) {
    EXPECT_NEAR(muon_step(config, 768, 768), r.square, 5e-6);
    EXPECT_NEAR(muon_step(config, 3072, 768), r.up, 5e-6);
    // Only while rates went with the longer side did the MLP's second matrix move as far as the first.
    EXPECT_NEAR(muon_step(config, 768, 3072), r.file[1] < '8' && r.file[0] == '0' ? r.up : r.square, 5e-6);
  }
  if (r.head > 0) {
    EXPECT_EQ(adam_lr(config, Role::head), r.head);
  }
  if (r.scalar > 0) {
    EXPECT_EQ(adam_lr(config, Role::scalar), r.scalar);
  }
  EXPECT_EQ(config.optimizer.clip, 0);
  EXPECT_EQ(config.train.target, 3.28);
}

// What the originals did by mistake is there to be turned on.
TEST_P(Records, LeaveTheirQuirksOff) {
  const RunConfig config = loaded(std::string("speedrun/") + GetParam().file);
  EXPECT_FALSE(config.data.replay_first_batch);
  EXPECT_NE(config.data.layout, DataLayout::skewed);
  const std::vector<std::string> quirks{"data.layout=skewed", "data.replay_first_batch=true"};
  const std::string path = configs_directory() + "speedrun/" + GetParam().file + ".yaml";
  EXPECT_NO_THROW(load_config(path, quirks));
}
INSTANTIATE_TEST_SUITE_P(Speedrun, Records, testing::ValuesIn(kRecords), [](const auto& test) {
  return "number_" + std::string(test.param.file).substr(0, 2);
});

TEST(SpeedrunConfigs, MomentumAndWindowsOfTheRecords) {
  const RunConfig eleven = loaded("speedrun/11-u-net"), thirteen = loaded("speedrun/13-window-warmup");
  const auto momentum = [](const RunConfig& c, std::int64_t step) {
    const auto* muon = rule_of(c, Role::hidden).get<MuonOptions>();
    return momentum_at(muon->momentum_warmup, muon->momentum_cooldown, muon->momentum, step, c.steps());
  };
  EXPECT_NEAR(momentum(eleven, 250), .9, 1e-12);
  EXPECT_EQ(momentum(eleven, 500), .95);
  EXPECT_NEAR(momentum(thirteen, 150), .9, 1e-12);
  const auto form = [](const char* file) {
    const RunConfig config = loaded(std::string("speedrun/") + file);
    return rule_of(config, Role::hidden).get<MuonOptions>()->momentum_form;
  };
  EXPECT_EQ(form("14-value-embeddings"), MomentumForm::sum);
  EXPECT_EQ(form("15-u-net-value-embeddings"), MomentumForm::ema);

  // The originals' own integer arithmetic, at every step.
  for (std::int64_t step = 0; step < 1750; ++step)
    ASSERT_EQ(window_at(thirteen.model.visibility, static_cast<double>(step) / 1750),
              64 * ((1728 * step + 64 * 1750) / (64 * 1750)))
        << step;
  const RunConfig eighteen = loaded("speedrun/18-softcap-15"), twenty = loaded("speedrun/20-long-short");
  for (std::int64_t step = 0; step < 1390; ++step)
    ASSERT_EQ(window_at(eighteen.model.visibility, static_cast<double>(step) / 1390),
              128 * ((128 * (1390 - step) + 1856 * step) / (128 * 1390)))
        << step;
  for (std::int64_t step = 1; step < 1393; ++step) {
    const std::int64_t blocks = (1728 * step + 128 * 1393 - 1) / (128 * 1393);
    const std::int64_t window = window_at(twenty.model.visibility, static_cast<double>(step) / 1393);
    ASSERT_EQ(window, 128 * blocks) << step;
    ASSERT_EQ(short_window(twenty.model.visibility, window), 128 * std::max<std::int64_t>(1, blocks / 2));
  }
}

struct Result {
  const char* file;
  std::int64_t steps;
  double lr, weight_decay;  // of the matrices
};

std::ostream& operator<<(std::ostream& out, const Result& r) { return out << r.file; }

class Track3 : public testing::TestWithParam<Result> {};

TEST_P(Track3, DiffersFromTheBaselineInOptimizerAndLength) {
  const Result& r = GetParam();
  const RunConfig baseline = loaded("track3/baseline"), config = loaded(std::string("track3/") + r.file);
  EXPECT_EQ(config.model, baseline.model);
  EXPECT_EQ(config.data, baseline.data);
  EXPECT_EQ(config.batch, baseline.batch);
  EXPECT_EQ(config.train.loss, LossOver::sum);
  EXPECT_EQ(config.steps(), r.steps);
  EXPECT_EQ(config.schedule.cooldown, .7);
  if (const auto* muon = rule_of(config, Role::hidden).get<MuonOptions>()) {
    EXPECT_EQ(muon->lr, r.lr);
    EXPECT_EQ(muon->weight_decay, r.weight_decay);
    EXPECT_EQ(muon->newton_schulz.steps, 12);
    EXPECT_EQ(muon->shape_scale, ShapeScale::original);
  } else {
    const auto* adamw = rule_of(config, Role::hidden).get<AdamWOptions>();
    ASSERT_NE(adamw, nullptr);
    EXPECT_EQ(adamw->lr, r.lr);
    EXPECT_EQ(adamw->weight_decay, r.weight_decay);
  }
  const bool tuned = std::string(r.file) == "baseline";
  EXPECT_EQ(adam_lr(config, Role::embedding), tuned ? .7 : .3);
  EXPECT_EQ(adam_lr(config, Role::head), tuned ? .004 : 1.0 / 320);
  EXPECT_EQ(adam_lr(config, Role::gain), tuned ? .015 : .01);
  for (const Role role : {Role::embedding, Role::head, Role::gain, Role::bias})
    EXPECT_EQ(rule_of(config, role).get<AdamWOptions>()->eps, 1e-10);
}
INSTANTIATE_TEST_SUITE_P(
    Results, Track3,
    testing::Values(Result{"baseline", 3250, .025, .05}, Result{"adamw", 5625, 1.5e-3, .1},
                    Result{"muon-020-010", 3600, .02, .01}, Result{"muon-025-0125", 3500, .025, .0125},
                    Result{"muon-025-025", 3375, .025, .025}, Result{"muon-035-025", 3350, .035, .025},
                    Result{"spectral-descent", 8225, .03, .015}),
    [](const auto& test) {
      std::string name = test.param.file;
      for (char& c : name)
        if (c == '-') c = '_';
      return name;
    });

// 12 layers of 768: the matrices; two tables; 26 gains; biases of q, k, v, out, up, down, and of the head.
TEST(Track3Baseline, HasTheParametersOfItsParts) {
  const ModelCount size = count(loaded("track3/baseline").model, 1024);
  EXPECT_EQ(size.hidden, 12 * 12 * 768 * 768);
  EXPECT_EQ(size.parameters, size.hidden + 2 * 50304 * 768 + 26 * 768 + 12 * (6 + 3) * 768 + 50304);
}

}  // namespace
}  // namespace spectrain

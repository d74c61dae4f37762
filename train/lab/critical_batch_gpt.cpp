#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <utility>

#include "kernels/error.h"
#include "train/lab/experiments.h"
#include "train/lab/judge.h"
#include "train/lab/language.h"

// E23: steps and samples to a target against the batch, for a small GPT under AdamW and Muon. As in the
// authors' scripts rates are constant and go with sqrt(batch), all runs read the same number of tokens, and
// the samples to the target (their SFO) are the batch times the steps to it, linearly between validations.

namespace spectrain::lab {
namespace {

constexpr double kNever = std::numeric_limits<double>::quiet_NaN();

struct Setting {
  bool muon = false;
  double lr = 0, momentum = 0.95, decay = 0;
  bool operator==(const Setting&) const = default;
};

struct Ended {
  double loss = 0;         // at the end
  double steps = kNever;   // to the target; NaN: not reached
  std::int64_t batch = 0;  // sequences
  double samples() const { return steps * static_cast<double>(batch); }
};

class CriticalBatchGpt final : public Experiment {
 public:
  std::string_view name() const override { return "critical-batch-gpt"; }
  std::string_view title() const override {
    return "A small GPT: steps and samples to a target against the batch";
  }

  std::vector<Claim> claims() const override {
    const std::string remark =
        "The authors train 160 million parameters on C4 in sequences of 2048; their rates and number of "
        "tokens "
        "for it are not in their repository. Batches, rates and the target are chosen here for a small "
        "model.";
    return {
        {"e23.large", "arXiv 2507.01598",
         "Muon is no worse than AdamW at any batch, and ahead of it where batches are large.",
         "A batch at which AdamW's loss at the end lies more than 0.02 below Muon's, or a lead below 0.2 at "
         "the largest batch.",
         remark},
        {"e23.momentum", "arXiv 2507.01598", "Muon needs the fewest samples with a momentum of 0.9 to 0.99.",
         "A best momentum outside of 0.9, 0.95, 0.99.", remark},
        {"e23.critical", "arXiv 2507.01598",
         "There is a critical batch of Muon between the smallest and the largest, at which the samples to a "
         "target are fewest.",
         "Samples that are fewest at the smallest batch of all. The authors' own picture of 160 million "
         "parameters has them there, at 64 sequences; their fifth version gives a lower bound alone.",
         remark}};
  }

  void describe(OptionVisitor& v) override {
    task_.describe(v);
    v.field("batches", &batches_, count_from(1), "sequences of a step, rising");
    v.field("base_batch", &base_batch_, count_from(1),
            "one of them: where rates are chosen and momenta and decays compared");
    v.field("tokens", &tokens_, count_from(1000), "of training, whatever the batch");
    v.field("validations", &validations_, within(1, 10000),
            "of a run, or one after each step where there are fewer");
    v.field("held_out", &held_out_, count_from(1), "tokens of a validation");
    v.field("target", &target_, above_only(0), "validation loss");
    v.field("adamw_lrs", Tuple{{&adamw_lrs_[0], &adamw_lrs_[1], &adamw_lrs_[2]}}, above_only(0),
            "of AdamW at the base batch, of which the best is taken; also that of all that Muon leaves");
    v.field("muon_lrs", Tuple{{&muon_lrs_[0], &muon_lrs_[1], &muon_lrs_[2]}}, above_only(0), "of Muon");
    v.field("momenta",
            Tuple{{&momenta_[0], &momenta_[1], &momenta_[2], &momenta_[3], &momenta_[4], &momenta_[5]}},
            below_one(), "of Muon that are compared");
    v.field("decays", Tuple{{&decays_[0], &decays_[1], &decays_[2]}}, at_least(0),
            "weight decays that are compared");
    v.field("newton_schulz_steps", &newton_schulz_steps_, within(1, 20), "of Muon");
  }

  Outcome run(const Surroundings& s) override;

 private:
  void check() const;
  LanguageOptions options(const Setting& setting, std::int64_t batch, std::uint64_t seed) const;
  const Ended& train(const Surroundings& s, const LanguageText& text, const Setting& setting,
                     std::int64_t batch);
  Setting best_rate(const Surroundings& s, const LanguageText& text, bool muon, Outcome& out);
  std::vector<Ended> over_batches(const Surroundings& s, const LanguageText& text, const Setting& setting);
  std::vector<Check> large(const std::vector<Ended>& adamw, const std::vector<Ended>& muon) const;
  static std::vector<Check> critical(const std::vector<Ended>& muon);
  Claim claim(std::size_t i) const { return claims()[i]; }

  LanguageTask task_{.text_bytes = 6'000'000, .vocab = 2048, .layers = 2, .width = 128, .context = 64};
  std::vector<std::int64_t> batches_{8, 16, 32, 64, 128, 256, 512};
  std::int64_t base_batch_ = 32, tokens_ = 500'000, validations_ = 40, held_out_ = 16384;
  int newton_schulz_steps_ = 3;
  double target_ = 5;
  double adamw_lrs_[3] = {0.001, 0.003, 0.01}, muon_lrs_[3] = {0.003, 0.01, 0.03},
         decays_[3] = {0, 0.01, 0.1};
  double momenta_[6] = {0.7, 0.8, 0.9, 0.95, 0.99, 0.999};
  double adamw_lr_ = 0;  // the best, found first
  std::deque<std::pair<Setting, Ended>> runs_;
};

void CriticalBatchGpt::check() const {
  for (std::size_t i = 1; i < batches_.size(); ++i)
    if (batches_[i] <= batches_[i - 1])
      throw RequestError("critical-batch-gpt: batches must rise, as in [8, 16, 32]");
  if (batches_.size() < 3 || std::find(batches_.begin(), batches_.end(), base_batch_) == batches_.end())
    throw RequestError("critical-batch-gpt: batches must be three or more, with base_batch among them");
}

LanguageOptions CriticalBatchGpt::options(const Setting& setting, std::int64_t batch,
                                          std::uint64_t seed) const {
  LanguageOptions o;
  o.seed = seed;
  o.context = task_.context;
  o.sequences = batch;
  o.model = task_.transformer();
  TransformerConfig& m = o.model;
  m.mlp = MlpKind::swiglu;
  m.mlp_width = (8 * task_.width / 3 + 63) / 64 * 64;
  m.init = WeightInit::normal;
  const double grown = std::sqrt(static_cast<double>(batch) / static_cast<double>(base_batch_));
  const auto adamw = [&](std::vector<Role> roles, double lr, double decay) {
    return group(std::move(roles), "adamw",
                 {{"lr", text(lr * grown)}, {"betas", "0.9 0.999"}, {"weight_decay", text(decay)}});
  };
  if (setting.muon)
    o.groups = {group({Role::hidden}, "muon",
                      {{"lr", text(setting.lr * grown)},
                       {"momentum", text(setting.momentum)},
                       {"weight_decay", text(setting.decay)},
                       {"newton_schulz.coefficients", "keller"},
                       {"newton_schulz.steps", text(newton_schulz_steps_)},
                       {"newton_schulz.precision", "bf16"}}),
                adamw({Role::embedding, Role::head, Role::gain}, adamw_lr_, setting.decay)};
  else
    o.groups = {adamw({Role::hidden, Role::embedding, Role::head, Role::gain}, setting.lr, setting.decay)};
  return o;
}

// The same run is asked for more than once: as the best rate, a batch, a momentum and a decay.
const Ended& CriticalBatchGpt::train(const Surroundings& s, const LanguageText& text, const Setting& setting,
                                     std::int64_t batch) {
  for (const auto& [known, end] : runs_)
    if (known == setting && end.batch == batch) return end;
  LanguageModel model(s.backend, text, options(setting, batch, s.seed));
  const std::int64_t steps = std::max<std::int64_t>(1, tokens_ / (batch * task_.context)),
                     every = std::max<std::int64_t>(1, steps / validations_);
  Ended out;
  out.batch = batch;
  double before = model.held_out(held_out_), before_step = 0;
  for (std::int64_t step = 1; step <= steps; ++step) {
    model.step(1);
    if (step % every != 0 && step != steps) continue;
    out.loss = model.held_out(held_out_);
    const auto at = static_cast<double>(step);
    if (std::isnan(out.steps) && out.loss <= target_ && before > target_)
      out.steps = before_step + (at - before_step) * (before - target_) / (before - out.loss);
    before = out.loss;
    before_step = at;
  }
  s.say(fmt::format(
      "{}, batch {}, lr {}, momentum {}, decay {}: {:.4f}, {}", setting.muon ? "Muon" : "AdamW", batch,
      setting.lr, setting.momentum, setting.decay, out.loss,
      std::isnan(out.steps) ? "target not reached" : fmt::format("target after {:.1f} steps", out.steps)));
  runs_.emplace_back(setting, out);
  return runs_.back().second;
}

Setting CriticalBatchGpt::best_rate(const Surroundings& s, const LanguageText& text, bool muon,
                                    Outcome& out) {
  Setting best;
  double least = std::numeric_limits<double>::infinity();
  const double(&rates)[3] = muon ? muon_lrs_ : adamw_lrs_;
  for (const double lr : rates) {
    const Setting setting{.muon = muon, .lr = lr};
    const Ended end = train(s, text, setting, base_batch_);
    out.measurements.push_back(measured(
        fmt::format("loss at the end, {}, lr {}, batch {}", muon ? "Muon" : "AdamW", lr, base_batch_),
        end.loss));
    if (!(end.loss < least)) continue;
    least = end.loss;
    best = setting;
  }
  if (best.lr == 0)
    throw RequestError(fmt::format("critical-batch-gpt: {} diverges at every rate", muon ? "Muon" : "AdamW"));
  return best;
}

std::vector<Ended> CriticalBatchGpt::over_batches(const Surroundings& s, const LanguageText& text,
                                                  const Setting& setting) {
  std::vector<Ended> ends;
  for (const std::int64_t batch : batches_) ends.push_back(train(s, text, setting, batch));
  return ends;
}

std::vector<Check> CriticalBatchGpt::large(const std::vector<Ended>& adamw,
                                           const std::vector<Ended>& muon) const {
  double behind = -std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < muon.size(); ++i) {
    const double here = muon[i].loss - adamw[i].loss;
    behind = std::isnan(here) ? here : std::max(behind, here);
  }
  return {no_more("most that Muon's loss lies above AdamW's, of all batches", behind, 0.02, "nats"),
          no_less(fmt::format("Muon's lead at the largest batch, {} sequences", batches_.back()),
                  adamw.back().loss - muon.back().loss, 0.2, "nats")};
}

std::vector<Check> CriticalBatchGpt::critical(const std::vector<Ended>& muon) {
  std::vector<const Ended*> there;  // that reach the target
  for (const Ended& e : muon)
    if (std::isfinite(e.steps)) there.push_back(&e);
  if (there.empty()) return {{"some batch reaches the target", "none", false}};
  std::size_t falling = 0;
  for (std::size_t i = 1; i < there.size(); ++i) falling += there[i]->steps < there[i - 1]->steps;
  const auto least = *std::min_element(
      there.begin(), there.end(), [](const Ended* a, const Ended* b) { return a->samples() < b->samples(); });
  return {{"steps to the target fall with every larger batch that reaches it",
           fmt::format("{} of {} times, {} of {} batches reach it", falling, there.size() - 1, there.size(),
                       muon.size()),
           falling + 1 == there.size()},
          {fmt::format("the fewest samples lie between the grid's edges, {} and {}", muon.front().batch,
                       muon.back().batch),
           fmt::format("{:.0f} samples at a batch of {}", least->samples(), least->batch),
           least->batch != muon.front().batch && least->batch != muon.back().batch}};
}

Outcome CriticalBatchGpt::run(const Surroundings& s) {
  check();
  runs_.clear();
  s.say("reading and tokenizing the text");
  const LanguageText text = task_.read(s.data);
  Outcome out;
  const Setting adamw = best_rate(s, text, false, out);
  adamw_lr_ = adamw.lr;
  const Setting muon = best_rate(s, text, true, out);
  const std::vector<Ended> adamw_ends = over_batches(s, text, adamw), muon_ends = over_batches(s, text, muon);

  Picture losses{"Loss at the end, the same tokens for every batch",
                 "sequences of a batch",
                 "nats per token",
                 true,
                 false,
                 {}},
      steps{"Steps to the target", "sequences of a batch", "steps", true, true, {}},
      samples{"Samples to the target", "sequences of a batch", "sequences", true, true, {}};
  const auto add = [&](const char* name, const std::vector<Ended>& ends) {
    Series loss{name, {}, {}}, step{name, {}, {}}, sample{name, {}, {}};
    for (const Ended& e : ends) {
      const auto b = static_cast<double>(e.batch);
      out.measurements.push_back(
          measured(fmt::format("loss at the end, {}, batch {}", name, e.batch), e.loss));
      if (std::isfinite(e.steps))
        out.measurements.push_back(measured(fmt::format("samples to the target, {}, batch {}", name, e.batch),
                                            e.samples(), "sequences"));
      for (Series* line : {&loss, &step, &sample}) line->x.push_back(b);
      loss.y.push_back(e.loss);
      step.y.push_back(e.steps);
      sample.y.push_back(e.samples());
    }
    losses.series.push_back(loss);
    steps.series.push_back(step);
    samples.series.push_back(sample);
  };
  add("AdamW", adamw_ends);
  add("Muon", muon_ends);
  out.pictures = {losses, steps, samples};

  double best_momentum = 0, fewest = std::numeric_limits<double>::infinity();
  for (const double momentum : momenta_) {
    Setting setting = muon;
    setting.momentum = momentum;
    const Ended end = train(s, text, setting, base_batch_);
    out.measurements.push_back(
        measured(fmt::format("loss at the end, Muon, momentum {}", momentum), end.loss));
    if (!std::isfinite(end.steps)) continue;
    out.measurements.push_back(measured(fmt::format("samples to the target, Muon, momentum {}", momentum),
                                        end.samples(), "sequences"));
    if (end.samples() >= fewest) continue;
    fewest = end.samples();
    best_momentum = momentum;
  }
  for (const double decay : decays_)
    for (const bool of_muon : {false, true}) {
      Setting setting = of_muon ? muon : adamw;
      setting.decay = decay;
      out.measurements.push_back(
          measured(fmt::format("loss at the end, {}, weight decay {}", of_muon ? "Muon" : "AdamW", decay),
                   train(s, text, setting, base_batch_).loss));
    }

  out.claims = {
      {claim(0), large(adamw_ends, muon_ends)},
      {claim(1), {between("momentum with the fewest samples to the target", best_momentum, 0.9, 0.99)}},
      {claim(2), critical(muon_ends)}};
  out.notes.push_back(fmt::format(
      "{} tokens of training a run, sequences of {}, rates AdamW {} and Muon {} at a batch of {}, times "
      "sqrt(batch / {}); the target is {}.",
      tokens_, task_.context, adamw.lr, muon.lr, base_batch_, base_batch_, target_));
  if (best_momentum > 0 && (best_momentum < 0.9 || best_momentum > 0.99))
    out.notes.push_back(fmt::format(
        "The best momentum is {}, where the authors found 0.95: the target is reached after {:.0f} steps "
        "here, "
        "and after some 2,500 there, so that the 20 steps over which 0.95 averages are much of a run here.",
        best_momentum, fewest / static_cast<double>(base_batch_)));
  if (adamw.lr != adamw_lrs_[1] || muon.lr != muon_lrs_[1])
    out.notes.emplace_back("A best rate lies at the edge of those tried: others might do better.");
  return out;
}

}  // namespace

std::unique_ptr<Experiment> make_critical_batch_gpt() { return std::make_unique<CriticalBatchGpt>(); }

}  // namespace spectrain::lab

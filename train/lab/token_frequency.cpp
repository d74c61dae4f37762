#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "kernels/error.h"
#include "train/lab/experiments.h"
#include "train/lab/judge.h"
#include "train/lab/language.h"
#include "train/token_deciles.h"

// E16: where Muon's lead on real text comes from. A transformer of 10 million parameters is trained with Adam
// on its matrices, with Muon, and with each on a part of them; its loss is split by how frequent the token
// is. The embedding and the head have the same Adam throughout.

namespace spectrain::lab {
namespace {

using Deciles = std::array<double, kDeciles>;

// Which matrices Muon updates; Adam the others.
enum class Muons : std::uint8_t { none, all, values_and_mlp, queries_and_keys };

bool of_muon(Muons muons, std::string_view name) {
  const bool query_or_key =
      name.find("attention.qkv") != std::string_view::npos && (name.ends_with(".0") || name.ends_with(".1"));
  switch (muons) {
    case Muons::none:
      return false;
    case Muons::all:
      return true;
    case Muons::values_and_mlp:
      return !query_or_key;
    case Muons::queries_and_keys:
      return query_or_key;
  }
  return false;
}

struct Trained {
  double loss = 0;
  Deciles by_decile{};
  std::int64_t rare_types = 0;  // tokens of the rarest tenth
  std::int64_t parameters = 0;
  Series line;
};

class TokenFrequency final : public Experiment {
 public:
  std::string_view name() const override { return "token-frequency"; }
  std::string_view title() const override { return "A small GPT: loss by how frequent the token is"; }

  std::vector<Claim> claims() const override {
    const std::string remark =
        "The paper trains 160 million parameters on FineWeb for 10,000 steps: Muon 3.565, Adam 3.924, Muon "
        "on "
        "values, output and MLP 3.586 (94 % of the gain), on queries and keys 3.893 (9 %). Rates of Adam and "
        "Muon are chosen here out of three each by the loss at the end.";
    return {
        {"e16.tail", "arXiv 2509.26030",
         "Muon's lead over Adam grows from the most frequent to the rarest tokens.",
         "A lead on the rarest tenth of the tokens that is not above that on the most frequent, or no order "
         "between them.",
         remark},
        {"e16.where", "arXiv 2509.26030",
         "The gain comes from the values, the output projections and the MLP; on queries and keys Muon "
         "does little.",
         "Muon on values, output and MLP alone with less than 80 % of the gain, or on queries and keys "
         "alone with half of it.",
         remark}};
  }

  void describe(OptionVisitor& v) override {
    task_.describe(v);
    v.field("sequences", &sequences_, count_from(1), "of a step");
    v.field("steps", &steps_, count_from(10), "the rate falls to 0 over the second half");
    v.field("held_out", &held_out_, count_from(1), "tokens of a validation");
    v.field("adam_lrs", Tuple{{&adam_lrs_[0], &adam_lrs_[1], &adam_lrs_[2]}}, above_only(0),
            "of Adam on the matrices");
    v.field("muon_lrs", Tuple{{&muon_lrs_[0], &muon_lrs_[1], &muon_lrs_[2]}}, above_only(0), "of Muon");
  }

  Outcome run(const Surroundings& s) override;

 private:
  LanguageOptions options(Muons muons, double adam_lr, double muon_lr, std::uint64_t seed) const;
  Trained train(const Surroundings& s, const LanguageText& text, const TokenCounts& counts,
                const LanguageOptions& options, const std::string& name) const;
  static std::vector<Check> tail(const Deciles& lead);

  LanguageTask task_{.text_bytes = 12'000'000, .vocab = 8192, .layers = 8, .width = 256, .context = 256};
  std::int64_t sequences_ = 8, steps_ = 300, held_out_ = 65536;
  double adam_lrs_[3] = {0.0002, 0.0006, 0.002}, muon_lrs_[3] = {0.005, 0.01, 0.02};
};

LanguageOptions TokenFrequency::options(Muons muons, double adam_lr, double muon_lr,
                                        std::uint64_t seed) const {
  LanguageOptions o;
  o.seed = seed;
  o.context = task_.context;
  o.sequences = sequences_;
  o.model = task_.transformer();
  TransformerConfig& m = o.model;
  m.norm_gain = false;
  m.qk_norm = m.embedding_norm = m.zero_init_head = true;
  m.mlp = MlpKind::relu2;
  m.init = WeightInit::fan_in_uniform;
  m.init_std = 1 / std::sqrt(3.0);
  m.embedding_std = 1;
  const auto adam = [](Role role, double lr) {
    return group({role}, "adam", {{"lr", text(lr)}, {"betas", "0.9 0.95"}});
  };
  // Matrices that Adam updates go by the role of scalars, which the model has none of.
  o.groups = {group({Role::hidden}, "muon", {{"lr", text(muon_lr)}, {"newton_schulz.precision", "bf16"}}),
              adam(Role::scalar, adam_lr), adam(Role::embedding, 0.05), adam(Role::head, 0.003)};
  o.role_of = [muons](std::string_view parameter, Role role) {
    return role == Role::hidden && !of_muon(muons, parameter) ? Role::scalar : role;
  };
  return o;
}

Trained TokenFrequency::train(const Surroundings& s, const LanguageText& text, const TokenCounts& counts,
                              const LanguageOptions& options, const std::string& name) const {
  LanguageModel model(s.backend, text, options);
  Trained out;
  out.line.name = name;
  out.parameters = model.size().parameters;
  const auto validate = [&](std::int64_t step, const EachLoss& each) {
    out.loss = model.held_out(held_out_, each);
    out.line.x.push_back(static_cast<double>(step * sequences_ * task_.context));
    out.line.y.push_back(out.loss);
  };
  const ScheduleConfig schedule{
      .shape = ScheduleShape::trapezoid, .warmup = std::min<std::int64_t>(10, steps_ / 10), .cooldown = 0.5};
  const std::int64_t every = std::max<std::int64_t>(1, steps_ / 4);
  for (std::int64_t step = 0; step < steps_; ++step) {
    model.step(schedule_factor(schedule, step, steps_));
    if ((step + 1) % every == 0 && step + 1 < steps_) validate(step + 1, {});
  }
  DecileLosses losses(counts);
  validate(steps_, [&](auto targets, auto each) { losses.add(targets, each); });
  const auto alone = make_single_collectives();
  const DecileMeasurement measured = losses.measurement(s.backend, *alone);
  std::copy(measured.loss.begin(), measured.loss.end(), out.by_decile.begin());
  out.rare_types = measured.types.back();
  s.say(fmt::format("{}: {:.4f}", name, out.loss));
  return out;
}

// Deciles may be empty where one token has more than a tenth of the text: they have no number, and are left
// out.
std::vector<Check> TokenFrequency::tail(const Deciles& lead) {
  std::vector<double> there;
  for (const double x : lead)
    if (std::isfinite(x)) there.push_back(x);
  double rising = 0, pairs = 0;
  for (std::size_t i = 0; i < there.size(); ++i)
    for (std::size_t j = i + 1; j < there.size(); ++j, ++pairs) rising += there[j] > there[i] ? 1 : -1;
  return {no_less("lead on the rarest tenth less that on the most frequent is above 0",
                  there.back() - there.front(), 1e-9, "nats"),
          no_less("Kendall's rank correlation between tenth and lead", rising / pairs, 0.5)};
}

Outcome TokenFrequency::run(const Surroundings& s) {
  s.say("reading and tokenizing the text");
  const LanguageText text = task_.read(s.data);
  TokenCounts counts{std::vector<std::int64_t>(static_cast<std::size_t>(text.vocab), 0),
                     static_cast<std::int64_t>(text.train.size())};
  for (const std::int32_t t : text.train) ++counts.counts[static_cast<std::size_t>(t)];

  Outcome out;
  const auto best_of = [&](Muons muons, const double(&rates)[3], const char* rule, double& rate) {
    Trained best;
    for (const double lr : rates) {
      const std::string name = fmt::format("{}, lr {}", rule, lr);
      const bool muon = muons == Muons::all;
      Trained t = train(s, text, counts, options(muons, muon ? 1 : lr, muon ? lr : 1, s.seed), name);
      out.measurements.push_back(measured("validation loss, " + name, t.loss));
      if (std::isfinite(t.loss) && (rate == 0 || t.loss < best.loss)) {
        best = std::move(t);
        rate = lr;
      }
    }
    if (rate == 0) throw RequestError(fmt::format("token-frequency: {} diverges at every rate", rule));
    return best;
  };
  double adam_lr = 0, muon_lr = 0;
  const Trained adam = best_of(Muons::none, adam_lrs_, "Adam", adam_lr),
                muon = best_of(Muons::all, muon_lrs_, "Muon", muon_lr);
  const auto mixed = [&](Muons muons, const std::string& name) {
    const Trained t = train(s, text, counts, options(muons, adam_lr, muon_lr, s.seed), name);
    out.measurements.push_back(measured("validation loss, " + name, t.loss));
    return t;
  };
  const Trained values = mixed(Muons::values_and_mlp, "Muon on values, output and MLP, Adam on the rest"),
                queries = mixed(Muons::queries_and_keys, "Muon on queries and keys, Adam on the rest");

  Picture curves{"Loss on text held out", "tokens", "nats per token", false, false, {}},
      leads{"Muon's lead over Adam",
            "tenth of the text, 1: most frequent tokens",
            "nats per token",
            false,
            false,
            {}};
  Deciles lead{};
  const auto add_lead = [&](const Trained& t, const char* name) {
    Series line{name, {}, {}};
    for (std::size_t d = 0; d < kDeciles; ++d) {
      line.x.push_back(static_cast<double>(d + 1));
      line.y.push_back(adam.by_decile[d] - t.by_decile[d]);
    }
    leads.series.push_back(line);
  };
  for (std::size_t d = 0; d < kDeciles; ++d) {
    lead[d] = adam.by_decile[d] - muon.by_decile[d];
    if (!std::isfinite(lead[d])) continue;
    const std::string which = fmt::format(", tenth {} of the tokens by frequency", d + 1);
    out.measurements.push_back(measured("loss with Adam" + which, adam.by_decile[d]));
    out.measurements.push_back(measured("loss with Muon" + which, muon.by_decile[d]));
  }
  add_lead(muon, "Muon");
  add_lead(values, "Muon on values, output and MLP");
  add_lead(queries, "Muon on queries and keys");
  curves.series = {adam.line, muon.line, values.line, queries.line};
  out.pictures = {curves, leads};

  const double gain = adam.loss - muon.loss;
  const auto recovered = [&](const Trained& t) { return 100 * (adam.loss - t.loss) / gain; };
  const std::vector<Claim> all = claims();
  const Check ahead = no_less("Muon's loss lies below Adam's by", gain, 1e-9, "nats");
  std::vector<Check> in_tail = tail(lead);
  in_tail.insert(in_tail.begin(), ahead);
  out.claims.push_back({all[0], in_tail});
  out.claims.push_back(
      {all[1],
       {ahead,
        no_less("share of the gain with Muon on values, output and MLP alone", recovered(values), 80, "%"),
        no_more("share of the gain with Muon on queries and keys alone", recovered(queries), 50, "%")}});
  out.notes.push_back(
      fmt::format("{:.1f} million parameters, {} tokens of training a run ({} of text), validated on {} "
                  "tokens, one seed.",
                  static_cast<double>(muon.parameters) / 1e6, steps_ * sequences_ * task_.context,
                  text.train.size(), held_out_));
  const double tenth =
      static_cast<double>(steps_ * sequences_ * task_.context) / static_cast<double>(kDeciles);
  out.notes.push_back(
      fmt::format("The rarest tenth has {} tokens, which a run meets some {:.0f} times each; its loss is "
                  "{:.2f} with Adam "
                  "and {:.2f} with Muon, and a guess among all tokens has {:.2f}. As long as neither rule "
                  "has learned them "
                  "a lead on rare tokens has not begun: the paper's runs are far longer.",
                  muon.rare_types, tenth / static_cast<double>(std::max<std::int64_t>(1, muon.rare_types)),
                  adam.by_decile.back(), muon.by_decile.back(), std::log(static_cast<double>(text.vocab))));
  if (adam_lr == adam_lrs_[0] || adam_lr == adam_lrs_[2] || muon_lr == muon_lrs_[0] ||
      muon_lr == muon_lrs_[2])
    out.notes.push_back(
        fmt::format("A best rate lies at the edge of those tried (Adam {}, Muon {}): others might do better.",
                    adam_lr, muon_lr));
  return out;
}

}  // namespace

std::unique_ptr<Experiment> make_token_frequency() { return std::make_unique<TokenFrequency>(); }

}  // namespace spectrain::lab

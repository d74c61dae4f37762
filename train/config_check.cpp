#include <algorithm>
#include <set>

#include "fmt/format.h"
#include "kernels/error.h"
#include "train/config_parser.h"

namespace spectrain {
namespace {

// Whether a rule has Newton-Schulz iterations, and runs them in float16.
bool iterates_in_halves(RuleOptions rule) {
  class Finder final : public OptionVisitor {
   public:
    void field(std::string_view name, const Field& field, const Range&, std::string_view) override {
      const auto* choice = std::get_if<Choice>(&field);
      found = found || (inside_ && name == "precision" && choice && choice->words[choice->get()] == "f16");
    }
    void section(std::string_view name, std::string_view,
                 const std::function<void(OptionVisitor&)>& inside) override {
      inside_ = name == "newton_schulz";
      inside(*this);
      inside_ = false;
    }
    bool found = false;

   private:
    bool inside_ = false;
  };
  Finder finder;
  rule.describe(finder);
  return finder.found;
}

class Checker {
 public:
  Checker(const RunConfig& config, const Places& places, const std::string& path)
      : c_(config), places_(places), file_(path) {}

  void required() const {
    if (c_.data.train.empty())
      fail({"data.train"}, "data.train is missing: name the token shards to train on");
    if (c_.optimizer.groups.empty())
      fail({"optimizer"},
           "optimizer is missing: list the groups, \"- {parameters: hidden, rule: muon, lr: 0.02}\"");
    if (c_.train.steps == 0 && c_.train.tokens == 0)
      fail({"train.steps", "train.tokens"},
           "the length of the run is missing: give train.steps or train.tokens");
  }

  void run() const {
    const std::string& name = c_.run.name;
    if (name.empty() || name == "." || name == ".." || name.find('/') != std::string::npos)
      fail({"run.name"},
           fmt::format("run.name is \"{}\"; it must be a plain name without '/', for it becomes a "
                       "directory under run.directory",
                       name));
    if (c_.run.directory.empty())
      fail({"run.directory"}, "run.directory is empty; \".\" is the current directory");
    for (const std::string& file : c_.data.train)
      if (file.empty()) fail({"data.train"}, "data.train holds an empty path");
    for (const std::string& file : c_.data.validation)
      if (file.empty()) fail({"data.validation"}, "data.validation holds an empty path");
  }

  void model() const {
    if (c_.model.softcap.kind != Softcap::Kind::none && c_.model.softcap.cap == 0)
      fail({"model.softcap.cap", "model.softcap"},
           "model.softcap.cap is 0; it must be > 0 (kind: none is no cap)");
    try {
      c_.model.resolved();
    } catch (const RequestError& e) {
      fail({"model"}, e.what());
    }
  }

  void batch() const {
    const BatchSection& b = c_.batch;
    multiple_of_context("batch.tokens", b.tokens, "batch.context", b.context);
    if (b.context > c_.model.context)
      fail({"batch.context", "model.context"},
           fmt::format("batch.context is {}, longer than the model's longest sequence; it must be <= {} "
                       "(model.context), or model.context larger",
                       b.context, c_.model.context));
    const std::int64_t sequences = c_.sequences_per_step();
    if (b.micro_batch > 0 && sequences % b.micro_batch != 0)
      fail({"batch.micro_batch", "batch.tokens"},
           fmt::format(
               "batch.micro_batch is {}, which does not divide the {} sequences of a step (batch.tokens / "
               "batch.context); {} would",
               b.micro_batch, sequences, divisors_around(sequences, b.micro_batch)));
  }

  void data() const {
    const DataSection& d = c_.data;
    const bool ranked = d.layout == DataLayout::skewed || d.layout == DataLayout::documents;
    if (d.layout != DataLayout::stream && d.order == DataOrder::shuffled)
      fail({"data.order", "data.layout"},
           "data.order shuffled permutes the windows of data.layout stream; set data.order to sequential, or "
           "data.layout to stream");
    const std::int64_t sequences = c_.sequences_per_step();
    if (ranked && sequences % d.layout_ranks != 0)
      fail({"data.layout_ranks", "data.layout"},
           fmt::format("data.layout_ranks is {}, which does not divide the {} sequences of a step "
                       "(batch.tokens / batch.context); {} would",
                       d.layout_ranks, sequences, divisors_around(sequences, d.layout_ranks)));
    if (d.document_length > 0 && d.layout != DataLayout::documents)
      fail({"data.document_length", "data.layout"},
           fmt::format("data.document_length is {}, but only data.layout documents knows where documents "
                       "begin; leave it out, or set data.layout to documents",
                       d.document_length));
    if (d.layout == DataLayout::documents && d.document_token >= c_.model.vocab)
      fail(
          {"data.document_token", "data.layout"},
          fmt::format("data.document_token is {}, which a vocabulary of {} (model.vocab) does not have; give "
                      "the token that documents of these shards start with",
                      d.document_token, c_.model.vocab));
  }

  void compute() const {
    if (c_.compute.rounding == Rounding::stochastic && c_.compute.precision != DType::bf16)
      fail({"compute.rounding", "compute.precision"},
           "compute.rounding stochastic is of weights in bf16; set compute.precision to bf16, or leave it "
           "out");
  }

  void optimizer() const {
    std::set<Role> seen;
    for (std::size_t i = 0; i < c_.optimizer.groups.size(); ++i) {
      const GroupConfig& group = c_.optimizer.groups[i];
      const std::string key = fmt::format("optimizer.{}.parameters", i);
      if (group.parameters.empty()) fail({key}, key + " is empty; name at least one role");
      for (const Role role : group.parameters)
        if (!seen.insert(role).second)
          fail({key},
               fmt::format("{} names the role \"{}\", which another group has already; each role belongs to "
                           "exactly one",
                           key, name_of(role)));
      if (iterates_in_halves(group.rule) && c_.compute.device == Device::cpu)
        fail({fmt::format("optimizer.{}.newton_schulz.precision", i), fmt::format("optimizer.{}", i)},
             "newton_schulz.precision f16 needs the CUDA device; f32 and bf16 run on the CPU");
    }
  }

  void train() const {
    const TrainSection& t = c_.train;
    if (t.steps > 0 && t.tokens > 0)
      fail({"train.tokens"},
           fmt::format("train.steps ({}) and train.tokens ({}) are both given; give exactly one", t.steps,
                       t.tokens));
    const std::int64_t context = t.validate.context;
    if (context > c_.model.context)
      fail(
          {"train.validate.context", "model.context"},
          fmt::format("train.validate.context is {}, longer than the model's longest sequence; it must be <= "
                      "{} (model.context), or model.context larger",
                      context, c_.model.context));
    if (t.validate.tokens > 0)
      multiple_of_context("train.validate.tokens", t.validate.tokens,
                          context > 0 ? "train.validate.context" : "batch.context", c_.validation_context());
  }

 private:
  // The first of `keys` that was written somewhere says where; else the innermost section around the first.
  [[noreturn]] void fail(std::initializer_list<std::string> keys, const std::string& sentence) const {
    for (const std::string& key : keys)
      if (const auto found = places_.find(key); found != places_.end())
        throw RequestError(fmt::format("{}: {}", found->second, sentence));
    std::string key = *keys.begin();
    while (key.rfind('.') != std::string::npos) {
      key.resize(key.rfind('.'));
      if (const auto found = places_.find(key); found != places_.end())
        throw RequestError(fmt::format("{}: {}", found->second, sentence));
    }
    throw RequestError(fmt::format("{}: {}", file_, sentence));
  }

  void multiple_of_context(const std::string& key, std::int64_t tokens, const std::string& context_key,
                           std::int64_t context) const {
    const std::int64_t below = tokens / context * context;
    if (below == tokens) return;
    const std::string fitting =
        below > 0 ? fmt::format("{} or {}", below, below + context) : fmt::format("{}", context);
    fail({key, context_key},
         fmt::format("{} is {}{}, not a multiple of {} ({}); {} would fit", key, tokens,
                     places_.count(key) ? "" : " (its default)", context_key, context, fitting));
  }

  static std::string divisors_around(std::int64_t n, std::int64_t x) {
    std::int64_t below = std::min(x, n), over = std::min(x, n);
    while (n % below != 0) --below;
    while (n % over != 0) ++over;
    return below == over ? fmt::format("{}", below) : fmt::format("{} or {}", below, over);
  }

  const RunConfig& c_;
  const Places& places_;
  const std::string& file_;
};

}  // namespace

void check_config(const RunConfig& config, const Places& places, const std::string& path, ConfigUse use) {
  const Checker check(config, places, path);
  if (use == ConfigUse::run) check.required();
  check.run();
  check.model();
  check.batch();
  check.data();
  check.compute();
  check.optimizer();
  check.train();
}

}  // namespace spectrain

#include "train/config_keys.h"

#include <algorithm>

#include "fmt/format.h"

namespace spectrain {
namespace {

constexpr Word<DataOrder> kOrders[] = {{"sequential", DataOrder::sequential},
                                       {"shuffled", DataOrder::shuffled}};
constexpr Word<DataLayout> kLayouts[] = {{"stream", DataLayout::stream},
                                         {"shards", DataLayout::shards},
                                         {"skewed", DataLayout::skewed},
                                         {"documents", DataLayout::documents}};
constexpr Word<LossOver> kLosses[] = {{"mean", LossOver::mean}, {"sum", LossOver::sum}};
constexpr Word<Device> kDevices[] = {
    {"auto", Device::automatic}, {"cpu", Device::cpu}, {"cuda", Device::cuda}};
constexpr Word<Rounding> kRoundings[] = {{"nearest", Rounding::nearest},
                                         {"stochastic", Rounding::stochastic}};
constexpr Word<DType> kPrecisions[] = {{"f32", DType::f32}, {"bf16", DType::bf16}};
constexpr Word<Positions> kPositions[] = {
    {"learned", Positions::learned}, {"rotary", Positions::rotary}, {"none", Positions::none}};
constexpr Word<RotaryPairs> kPairs[] = {{"halves", RotaryPairs::halves},
                                        {"interleaved", RotaryPairs::interleaved}};
constexpr Word<int> kSigns[] = {{"1", 1}, {"-1", -1}};
constexpr Word<MlpKind> kMlps[] = {{"gelu", MlpKind::gelu},
                                   {"gelu_tanh", MlpKind::gelu_tanh},
                                   {"relu2", MlpKind::relu2},
                                   {"swiglu", MlpKind::swiglu}};
constexpr Word<NormKind> kNorms[] = {{"layer", NormKind::layer}, {"rms", NormKind::rms}};
constexpr Word<WeightInit> kInits[] = {{"normal", WeightInit::normal},
                                       {"fan_in_normal", WeightInit::fan_in_normal},
                                       {"fan_in_uniform", WeightInit::fan_in_uniform}};
constexpr Word<EmbeddingInit> kEmbeddingInits[] = {{"normal", EmbeddingInit::normal},
                                                   {"uniform", EmbeddingInit::uniform}};
constexpr Word<ValueMix> kValueMixes[] = {{"none", ValueMix::none},
                                          {"first_layer", ValueMix::first_layer},
                                          {"table", ValueMix::table},
                                          {"scaled_table", ValueMix::scaled_table}};
constexpr Word<Softcap::Kind> kCaps[] = {{"none", Softcap::Kind::none},
                                         {"tanh", Softcap::Kind::tanh},
                                         {"sigmoid", Softcap::Kind::sigmoid},
                                         {"rational", Softcap::Kind::rational}};
constexpr Word<Role> kRoles[] = {{"embedding", Role::embedding}, {"head", Role::head},
                                 {"hidden", Role::hidden},       {"gain", Role::gain},
                                 {"bias", Role::bias},           {"scalar", Role::scalar}};
constexpr Word<ScheduleShape> kShapes[] = {{"constant", ScheduleShape::constant},
                                           {"cosine", ScheduleShape::cosine},
                                           {"linear", ScheduleShape::linear},
                                           {"trapezoid", ScheduleShape::trapezoid}};

constexpr Word<Sharding> kShardings[] = {{"owners", Sharding::owners}, {"none", Sharding::replicas}};

void describe(OptionVisitor& v, RunSection& s) {
  v.field("name", &s.name, {}, "of the run and of its directory");
  v.field("directory", &s.directory, {}, "where run directories are made: directory/name");
  v.field("seed", &s.seed, {}, "of the initial weights and of a shuffled data order");
}

void describe(OptionVisitor& v, Softcap& s) {
  v.field("kind", choice(s.kind, kCaps), {},
          "tanh: cap tanh(z/cap); sigmoid: cap sigmoid((z+offset)/divisor); rational: z cap/sqrt(z^2+cap^2)");
  v.field("cap", &s.cap, at_least(0), "largest logit");
  v.field("divisor", &s.divisor, above_only(0), "sigmoid only");
  v.field("offset", &s.offset, {}, "sigmoid only");
}

void describe_attention(OptionVisitor& v, TransformerConfig& m) {
  v.field("heads", &m.heads, within(1, 65536), "attention heads");
  v.field("kv_heads", &m.kv_heads, within(0, 65536), "key and value heads; 0: as many as heads");
  v.field("head_dim", &m.head_dim, within(0, 65536), "size of a head; 0: width / heads");
  v.field("attention_scale", &m.attention_scale, at_least(0), "factor on q.k; 0: 1/sqrt(head_dim)");
  v.field("qk_norm", &m.qk_norm, {}, "RMS norm of q and k per head, without gain, before the rotation");
  v.field("positions", choice(m.positions, kPositions), {}, "how the model knows where a token stands");
  v.field("rotary_base", &m.rotary_base, above_only(1), "angles are base^-(i/pairs)");
  v.field("rotary_fraction", &m.rotary_fraction, {0, 1, true, false}, "share of the pairs that turns");
  v.field("rotary_to_end", &m.rotary_to_end, {}, "true: angles base^-linspace(0, 1, pairs) (speedrun)");
  v.field("rotary_pairs", choice(m.rotary_pairs, kPairs), {},
          "halves: i with i + head_dim/2; interleaved: 2i, 2i+1");
  v.field("rotary_sign", choice(m.rotary_sign, kSigns), {},
          "direction of the rotation; -1 is modded-nanogpt's");
}

void describe_initialization(OptionVisitor& v, TransformerConfig& m) {
  v.field(
      "init", choice(m.init, kInits), {},
      "normal: N(0, init_std^2); fan_in_normal: N(0, init_std^2/fan_in); fan_in_uniform: the same variance");
  v.field("init_std", &m.init_std, at_least(0), "deviation of the hidden matrices (before the fan-in)");
  v.field("embedding_init", choice(m.embedding_init, kEmbeddingInits), {}, "of the token embedding");
  v.field("embedding_std", &m.embedding_std, at_least(0), "deviation of the token embedding");
  v.field("position_std", &m.position_std, at_least(0), "deviation of learned positions");
  v.field("residual_scaling", &m.residual_scaling, {},
          "projections into the residual start at 1/sqrt(2 layers)");
  v.field("zero_init_projections", &m.zero_init_projections, {}, "they start at zero");
  v.field("zero_init_head", &m.zero_init_head, {}, "the untied head starts at zero");
}

void describe(OptionVisitor& v, VisibilityConfig& s) {
  v.field("documents", &s.documents, {}, "attention does not look beyond the start of its document");
  v.field("document_token", &s.document_token, count_from(0),
          "which every document starts with (GPT-2: 50256)");
  v.field("window", &s.window, count_from(0),
          "tokens a query sees: one number, or those at the beginning and the end of training; empty: all");
  v.field("window_multiple", &s.window_multiple, count_from(1),
          "the window is rounded to a multiple of this");
  v.field("window_rounds_up", &s.window_rounds_up, {}, "up instead of down");
  v.field("window_block", &s.window_block, count_from(1),
          "the window is counted in blocks of so many tokens");
  v.field("short_layers", &s.short_layers, count_from(0), "layers that see half the window");
}

void describe_speedrun(OptionVisitor& v, TransformerConfig& m) {
  v.section("visibility", "which keys attention sees",
            [&](OptionVisitor& inside) { describe(inside, m.visibility); });
  v.field("x0_lambdas", &m.x0_lambdas, {},
          "each layer begins with x = a x + b x0, x0 the embedding; a, b learned");
  v.field("skips", &m.skips, {},
          "the second half of the layers adds what the first half gave, as in a U-net");
  v.field("value_mix", choice(m.value_mix, kValueMixes), {},
          "first_layer: v = (1-l) v + l v1; table: v = (1-l) v + l e; scaled_table: v = a v + b e; learned "
          "l, a, b");
  v.field("value_tables", &m.value_tables, {-1, kMostCounted}, "which table of e each layer reads; -1: none");
  v.field("layers_without_attention", &m.layers_without_attention, count_from(0),
          "layers that are an MLP alone");
  v.field("attention_gate", &m.attention_gate, count_from(0),
          "heads times sigmoid(W x[:n]), n this number; 0: no gates");
  v.section("head_fp8", "the head's products with eight-bit floats, in training", [&](OptionVisitor& inside) {
    Fp8Head& f = m.head_fp8;
    inside.field("x_scale", &f.x_scale, at_least(0), "inputs are read as e4m3(x_scale x) / x_scale; 0: off");
    inside.field("weight_scale", &f.weight_scale, at_least(0), "the weights likewise");
    inside.field("gradient_scale", &f.gradient_scale, at_least(0),
                 "gradients of a token's loss as e5m2(gradient_scale g) / gradient_scale");
  });
  v.field("smear_gate", &m.smear_gate, count_from(0),
          "embeddings += l sigmoid(w x[:n]) times the one before, n this number; 0: no gate");
}

void describe(OptionVisitor& v, TransformerConfig& m) {
  v.field("vocab", &m.vocab, within(1, 2147483647), "token ids are below this");
  v.field("padded_vocab", &m.padded_vocab, within(0, 2147483647),
          "rows of embedding and head; 0: vocab rounded up to a multiple of 128");
  v.field("context", &m.context, within(1, 16777216), "longest sequence");
  v.field("layers", &m.layers, within(1, 65536), "transformer blocks");
  v.field("width", &m.width, within(1, 1048576), "of the residual stream");
  describe_attention(v, m);
  v.field("mlp", choice(m.mlp, kMlps), {}, "activation of the MLP");
  v.field("mlp_width", &m.mlp_width, within(0, 16777216), "0: 4 width");
  v.field("norm", choice(m.norm, kNorms), {}, "layer norm or RMS norm");
  v.field("norm_gain", &m.norm_gain, {}, "norms have a gain");
  v.field("norm_bias", &m.norm_bias, {}, "norms have a bias (layer norm only)");
  v.field("norm_eps", &m.norm_eps, above_only(0), "added to the variance");
  v.field("embedding_norm", &m.embedding_norm, {}, "a norm right after the embedding");
  v.field("linear_bias", &m.linear_bias, {}, "biases of qkv, attention output and MLP");
  v.field("head_bias", &m.head_bias, {}, "bias of the head");
  v.field("tied", &m.tied, {}, "the head is the embedding");
  v.section("softcap", "bound on the logits", [&](OptionVisitor& inside) { describe(inside, m.softcap); });
  describe_initialization(v, m);
  v.field("attention_residual_factor", &m.attention_residual_factor, {}, "x += factor * attention(...)");
  describe_speedrun(v, m);
}

void describe(OptionVisitor& v, DataSection& s) {
  v.field("train", &s.train, {}, "token shards: files, patterns, directories");
  v.field("validation", &s.validation, {}, "token shards for validation");
  v.field("order", choice(s.order, kOrders), {},
          "sequential: as in the files; shuffled: a new permutation each epoch");
  v.field("layout", choice(s.layout, kLayouts), {},
          "stream: windows without gaps; the speedrun's: shards: steps within one shard; skewed: ranks drift "
          "apart; documents: ranks begin with a document");
  v.field("layout_ranks", &s.layout_ranks, within(1, 1048576),
          "ranks that skewed and documents place, whatever number trains");
  v.field("document_token", &s.document_token, count_from(0),
          "which every document starts with (GPT-2: 50256), for documents");
  v.field("document_length", &s.document_length, count_from(0),
          "tokens of a document that are read, the rest is left out; 0: all (layout documents)");
  v.field("replay_first_batch", &s.replay_first_batch, {},
          "the second step sees the first one's batch again, and so on: step k the batch k - 1");
  v.field("tokenizer", &s.tokenizer, {},
          "bytes, gpt2=<directory> or a tokenizer file, for sample; empty: tokenizer.json beside the shards");
}

void describe(OptionVisitor& v, BatchSection& s) {
  v.field("tokens", &s.tokens, count_from(1), "per optimizer step, over all ranks");
  v.field("context", &s.context, within(1, 16777216), "tokens of a training sequence");
  v.field("micro_batch", &s.micro_batch, count_from(0),
          "sequences in memory at a time; 0: the largest that divides, up to 16384 tokens");
}

void describe(OptionVisitor& v, ComputeSection& s) {
  v.field("device", choice(s.device, kDevices), {}, "auto: a GPU where there is one, else the CPU");
  v.field("precision", choice(s.precision, kPrecisions), {},
          "of activations and products; weights are f32 always");
  v.field("rounding", choice(s.rounding, kRoundings), {},
          "of f32 weights to bf16, in training; stochastic: up or down by chance, right on average");
  v.field("threads", &s.threads, within(0, 4096), "CPU threads; 0: all cores this process may use");
  v.field("recompute", &s.recompute, {},
          "norms and activations again in the backward pass: slower, less memory");
  v.field("logits_budget_mib", &s.logits_budget_mib, within(1, 1048576),
          "MiB of logits that exist at a time");
}

void describe(OptionVisitor& v, ScheduleConfig& s) {
  v.field("shape", choice(s.shape, kShapes), {}, "of the factor on every learning rate");
  v.field("warmup", &s.warmup, count_from(0), "steps of linear growth at the start");
  v.field("cooldown", &s.cooldown, within(0, 1), "share of the steps with linear decline (trapezoid)");
  v.field("floor", &s.floor, within(0, 1), "factor at the end");
  v.field("power", &s.power, above_only(0), "of what is left of the decline: 1 linear, 1.2 the speedrun's");
  v.field("end_reached", &s.end_reached, {},
          "true: the last step has the floor; false: the step after it would");
}

void describe(OptionVisitor& v, TrainSection& s, OptimizerConfig& optimizer) {
  v.field("steps", &s.steps, count_from(0), "length of the run; or give tokens");
  v.field("tokens", &s.tokens, count_from(0), "length of the run: steps = ceil(tokens / batch.tokens)");
  v.field("stop", &s.stop, count_from(0),
          "steps after which the run ends where its schedule goes on; 0: with the schedule");
  v.field("loss", choice(s.loss, kLosses), {},
          "over the tokens of a step, for gradients: a sum makes them batch.tokens times as large, before "
          "clipping");
  v.field("clip", &optimizer.clip, at_least(0), "largest norm of the whole gradient; 0: no clipping");
  v.section("validate", "loss on the validation set", [&](OptionVisitor& inside) {
    inside.field("every", &s.validate.every, count_from(0),
                 "steps; 0: only before the first and after the last");
    inside.field("tokens", &s.validate.tokens, count_from(0), "of each validation; 0: the whole set");
    inside.field("tail", &s.validate.tail, within(0, 1),
                 "share of the steps, at the end, with more validations");
    inside.field("tail_every", &s.validate.tail_every, count_from(1), "steps between these");
    inside.field("context", &s.validate.context, within(0, 16777216),
                 "tokens of a validation sequence; 0: as in training");
  });
  v.section("checkpoint", "saved states", [&](OptionVisitor& inside) {
    inside.field("every", &s.checkpoint.every, count_from(0), "steps; 0: only at the end");
    inside.field("keep", &s.checkpoint.keep, within(0, 1000000), "newest complete ones kept; 0: all");
  });
  v.section("average", "validation at an average of the weights", [&](OptionVisitor& inside) {
    AverageOptions& a = optimizer.average;
    inside.field("from", &a.from, count_from(0), "step at which it begins; 0: off");
    inside.field("decay", &a.decay, below_one(), "A = decay A + (1 - decay) W after each step");
    inside.field("blend", &a.blend, within(0, 1), "what is evaluated is blend A + (1 - blend) W");
  });
  v.field("target", &s.target, at_least(0), "validation loss whose first crossing is reported; 0: none");
  v.field("log_every", &s.log_every, count_from(1), "steps between training lines of metrics.jsonl");
  v.field("tensorboard", &s.tensorboard, {}, "the same numbers as event files, for tensorboard --logdir");
}

void describe(OptionVisitor& v, DiagnosticsSection& s) {
  v.field("every", &s.every, count_from(0), "steps between measurements of groups and matrices; 0: none");
  v.field("matrices", &s.matrices, {},
          "parameters whose spectra are measured: names; with * at the end all that begin so");
  v.field("spectrum", &s.spectrum, within(0, 4096),
          "singular values written of each, evenly chosen; 0: a summary only");
  v.field("deciles", &s.deciles, {},
          "with each validation its loss by how frequent the token is in the training data");
}

void describe(OptionVisitor& v, DistributedSection& s) {
  v.field("sharding", choice(s.sharding, kShardings), {},
          "owners: each matrix is updated by one rank; none: every rank updates everything");
  v.field("bucket_mib", &s.bucket_mib, within(1, 1048576), "MiB of gradients that are sent together");
  v.field("timeout", &s.timeout, within(1, 86400),
          "seconds for ranks to come together, and for each operation between them");
  v.field("check_every", &s.check_every, count_from(0),
          "steps between comparisons of all weights over ranks; 0: never");
}

// Setting it gives the rule its defaults.
Choice rule_choice(RuleOptions& rule) {
  std::vector<std::string> words;
  for (const RuleOptions& r : all_rules()) words.emplace_back(r.info().name);
  return {words,
          [&rule, words] {
            return static_cast<std::size_t>(std::find(words.begin(), words.end(), rule.info().name) -
                                            words.begin());
          },
          [&rule](std::size_t i) { rule = all_rules()[i]; }};
}

Choices role_choices(GroupConfig& g) {
  return {words_of(kRoles),
          [&g] {
            std::vector<std::size_t> indices;
            for (const Role role : g.parameters) indices.push_back(index_of(kRoles, role));
            return indices;
          },
          [&g](const std::vector<std::size_t>& indices) {
            g.parameters.clear();
            for (const std::size_t i : indices) g.parameters.push_back(kRoles[i].value);
          }};
}

}  // namespace

std::string key_path(std::string_view section, std::string_view name) {
  return section.empty() ? std::string(name) : fmt::format("{}.{}", section, name);
}

void describe_end(OptionVisitor& v, GroupConfig& group) {
  describe_options(v, group.finish);
  v.section("look_ahead", "gradients ahead on the smoothed path of the weights", [&](OptionVisitor& inside) {
    LookAheadOptions& l = group.look_ahead;
    inside.field("strength", &l.strength, at_least(0), "how far; 0: off");
    inside.field("decay", &l.decay, below_one(), "of the path's mean");
    inside.field("from", &l.from, count_from(0), "first step");
    inside.field("until", &l.until, count_from(0), "step after the last; 0: to the end");
  });
  if (!group.rule.info().matrices) return;
  v.section("elementwise", "what updates vectors and slivers of this group", [&](OptionVisitor& inside) {
    inside.field("rule", rule_choice(group.elementwise), {}, "an element-wise rule, with its keys beside it");
    group.elementwise.describe(inside);
  });
}

void describe_begin(OptionVisitor& v, GroupConfig& group) {
  v.field("parameters", role_choices(group), {}, "roles of the parameters that this group updates");
  v.field("rule", rule_choice(group.rule), {}, "how they are updated");
}

void describe(OptionVisitor& v, GroupConfig& group) {
  describe_begin(v, group);
  group.rule.describe(v);
  describe_end(v, group);
}

void describe(KeyVisitor& v, RunConfig& c) {
  v.section("run", "name and place of the run", [&](OptionVisitor& inside) { describe(inside, c.run); });
  v.section("model", "the transformer", [&](OptionVisitor& inside) { describe(inside, c.model); });
  v.section("data", "what it reads", [&](OptionVisitor& inside) { describe(inside, c.data); });
  v.section("batch", "what one optimizer step sees",
            [&](OptionVisitor& inside) { describe(inside, c.batch); });
  v.section("compute", "where and how it is computed",
            [&](OptionVisitor& inside) { describe(inside, c.compute); });
  v.groups("optimizer", "a list of groups; every role of the model in exactly one", c.optimizer.groups);
  v.section("schedule", "the learning rates over the steps",
            [&](OptionVisitor& inside) { describe(inside, c.schedule); });
  v.section("train", "length of the run and what happens on the way",
            [&](OptionVisitor& inside) { describe(inside, c.train, c.optimizer); });
  v.section("diagnostics", "what is measured beside the loss",
            [&](OptionVisitor& inside) { describe(inside, c.diagnostics); });
  v.section("distributed", "several ranks (train --ranks)",
            [&](OptionVisitor& inside) { describe(inside, c.distributed); });
}

}  // namespace spectrain

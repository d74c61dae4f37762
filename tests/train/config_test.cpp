#include "train/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "kernels/error.h"
#include "train/config_keys.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class Config : public ::testing::Test {
 protected:
  void SetUp() override {
    const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
    directory_ = fs::temp_directory_path() / fmt_name(info->name());
    fs::remove_all(directory_);
    fs::create_directories(directory_);
  }
  void TearDown() override { fs::remove_all(directory_); }

  static std::string fmt_name(const std::string& test) {
    return "spectrain_config_" + std::to_string(getpid()) + "_" + test;
  }
  std::string write(const std::string& name, const std::string& text) const {
    fs::create_directories((directory_ / name).parent_path());
    std::ofstream(directory_ / name) << text;
    return (directory_ / name).string();
  }
  // The sentence with the directory taken out: "x.yaml:3: ...".
  std::string refusal(const std::string& path, const std::vector<std::string>& overrides = {}) const {
    try {
      load_config(path, overrides);
    } catch (const RequestError& e) {
      std::string sentence = e.what();
      const std::string prefix = directory_.string() + "/";
      for (std::size_t at; (at = sentence.find(prefix)) != std::string::npos;)
        sentence.erase(at, prefix.size());
      return sentence;
    }
    return "accepted";
  }
  fs::path directory_;
};

const std::string kRun =
    "data: {train: a.bin}\n"
    "batch: {tokens: 4096, context: 64}\n"
    "optimizer:\n"
    "  - {parameters: hidden, rule: muon, lr: 0.02}\n"
    "  - {parameters: [embedding, head, gain, bias, scalar], rule: adamw, lr: 1e-3, betas: [0.9, 0.95]}\n"
    "train: {steps: 10, validate: {tokens: 640}}\n";

TEST_F(Config, ReadsWhatIsWrittenAndKeepsDefaults) {
  const RunConfig c =
      load_config(write("x.yaml", kRun + "model: {positions: rotary, rotary_sign: -1, width: 3.84e2, "
                                         "heads: 6}\nschedule: {shape: cosine}\n"),
                  {});
  EXPECT_EQ(c.data.train, std::vector<std::string>{"a.bin"});
  EXPECT_EQ(c.model.width, 384);
  EXPECT_EQ(c.model.rotary_sign, -1);
  EXPECT_EQ(c.model.layers, 12);
  EXPECT_EQ(c.schedule.shape, ScheduleShape::cosine);
  ASSERT_EQ(c.optimizer.groups.size(), 2u);
  EXPECT_EQ(c.optimizer.groups[0].rule.get<MuonOptions>()->lr, 0.02);
  EXPECT_EQ(c.optimizer.groups[0].rule.get<MuonOptions>()->momentum, 0.95);
  EXPECT_EQ(c.optimizer.groups[1].parameters.size(), 5u);
  EXPECT_EQ(c.steps(), 10);
  EXPECT_EQ(c.sequences_per_step(), 64);
}

TEST_F(Config, RefusesWithPlaceKeyAndSuggestion) {
  const std::string path = write("x.yaml", kRun);
  const auto with = [&](const std::string& lines) { return refusal(write("y.yaml", kRun + lines)); };
  EXPECT_THAT(
      with("model:\n  layers: 2\n  widht: 3\n"),
      StartsWith("y.yaml:9: unknown key \"model.widht\"; did you mean \"width\"? (keys here: vocab, "));
  EXPECT_THAT(with("clip: 1\n"), StartsWith("y.yaml:7: unknown key \"clip\"; did you mean \"train.clip\"?"));
  EXPECT_EQ(
      with("schedule: {shape: cosin}\n"),
      "y.yaml:7: schedule.shape is \"cosin\"; it must be one of constant, cosine, linear, trapezoid; did you "
      "mean \"cosine\"?");
  EXPECT_EQ(with("schedule: {cooldown: 1.5}\n"), "y.yaml:7: schedule.cooldown is 1.5; it must be in [0, 1]");
  EXPECT_EQ(with("model: {layers: many}\n"), "y.yaml:7: model.layers must be an integer, not \"many\"");
  EXPECT_EQ(with("model: {layers: \"3\"}\n"), "y.yaml:7: model.layers must be an integer, not \"3\"");
  EXPECT_EQ(with("model: {layers: 524_288}\n"), "y.yaml:7: model.layers must be an integer, not \"524_288\"");
  EXPECT_EQ(with("model: {layers: 1.5}\n"), "y.yaml:7: model.layers must be an integer, not \"1.5\"");
  EXPECT_EQ(with("model: {norm_eps: .inf}\n"), "y.yaml:7: model.norm_eps must be a number, not \".inf\"");
  EXPECT_EQ(with("model: {tied: yes}\n"), "y.yaml:7: model.tied must be true or false, not \"yes\"");
  EXPECT_EQ(with("model: 3\n"), "y.yaml:7: model must be a map of keys, not \"3\"");
  EXPECT_EQ(with("run: {name: }\n"),
            "y.yaml:7: run.name has no value; it must be text (leave the key out for its default)");
  EXPECT_EQ(with("run: {name: a, name: b}\n"), "y.yaml:7: key \"name\" is given twice, first at y.yaml:7");
  EXPECT_THAT(with("run: [\n"), HasSubstr("not YAML"));
  EXPECT_THAT(with("run: {name: a/b}\n"), StartsWith("y.yaml:7: run.name is \"a/b\""));
  EXPECT_THAT(refusal("/nowhere/z.yaml"), HasSubstr("no such configuration file"));
  EXPECT_EQ(refusal(path), "accepted");
}

TEST_F(Config, RefusesGroupsThatAreNotGroups) {
  const std::string path = write("x.yaml", kRun);
  EXPECT_THAT(
      refusal(path, {"optimizer.0.learning_rate=1"}),
      StartsWith("--set optimizer.0.learning_rate=1: unknown key \"optimizer.0.learning_rate\"; did you mean "
                 "\"lr\"? (keys here: parameters, rule, lr, weight_decay,"));
  EXPECT_EQ(refusal(path, {"optimizer.0.momentum=1"}),
            "--set optimizer.0.momentum=1: optimizer.0.momentum is 1; it must be in [0, 1)");
  EXPECT_EQ(refusal(path, {"optimizer.1.betas=[0.9]"}),
            "--set optimizer.1.betas=[0.9]: optimizer.1.betas must be a list of 2 numbers, not a list of 1");
  EXPECT_EQ(
      refusal(path, {"optimizer.1.parameters=hidden"}),
      "--set optimizer.1.parameters=hidden: optimizer.1.parameters names the role \"hidden\", which another "
      "group has already; each role belongs to exactly one");
  EXPECT_THAT(refusal(path, {"optimizer.0.rule=mu"}), HasSubstr("must be one of sgd, signum,"));
  EXPECT_THAT(refusal(path, {"optimizer.0.momentum_warmup.stpes=1"}), HasSubstr("did you mean \"steps\"?"));
  EXPECT_EQ(refusal(path, {"optimizer=[{rule: muon}]"}),
            "--set optimizer=[{rule: muon}]: optimizer.0 lacks the key \"parameters\"");
  EXPECT_EQ(refusal(path, {"optimizer.0.newton_schulz.coefficients=polar-express"}), "accepted");
}

TEST_F(Config, RefusesWhatDoesNotFitTogether) {
  const std::string path = write("x.yaml", kRun);
  EXPECT_EQ(refusal(path, {"batch.tokens=1000"}),
            "--set batch.tokens=1000: batch.tokens is 1000, not a multiple of batch.context (64); 960 or "
            "1024 would "
            "fit");
  EXPECT_EQ(refusal(path, {"train.validate.tokens=100"}),
            "--set train.validate.tokens=100: train.validate.tokens is 100, not a multiple of batch.context "
            "(64); 64 "
            "or 128 would fit");
  EXPECT_THAT(refusal(path, {"train.validate.tokens=64", "train.validate.context=48"}),
              HasSubstr("not a multiple of train.validate.context (48); 48 or 96 would fit"));
  EXPECT_THAT(refusal(path, {"train.validate.context=1000000"}),
              HasSubstr("train.validate.context is 1000000, longer than the model's longest sequence"));
  EXPECT_THAT(refusal(path, {"batch.micro_batch=5"}),
              HasSubstr("does not divide the 64 sequences of a step"));
  EXPECT_THAT(refusal(path, {"batch.micro_batch=5"}), HasSubstr("4 or 8 would"));
  EXPECT_THAT(refusal(path, {"model.context=32"}), HasSubstr("longer than the model's longest sequence"));
  EXPECT_THAT(refusal(path, {"model.softcap.kind=tanh"}), HasSubstr("model.softcap.cap is 0"));
  EXPECT_THAT(refusal(path, {"model.heads=7"}), StartsWith("--set model.heads=7: "));
  EXPECT_THAT(refusal(path, {"train.steps=1", "train.tokens=1"}), HasSubstr("give exactly one"));
  EXPECT_THAT(refusal(path, {"train.steps=0"}), HasSubstr("the length of the run is missing"));
  EXPECT_THAT(refusal(path, {"data.train=[]"}), StartsWith("--set data.train=[]: data.train is missing"));
  EXPECT_THAT(refusal(write("e.yaml", "")), StartsWith("e.yaml: data.train is missing"));
  EXPECT_NO_THROW(load_config((directory_ / "e.yaml").string(), {}, ConfigUse::model));
}

TEST_F(Config, RefusesDataLayoutsThatCannotBe) {
  const std::string path = write("x.yaml", kRun);
  EXPECT_EQ(refusal(path, {"data.layout=shards", "data.order=shuffled"}),
            "--set data.order=shuffled: data.order shuffled permutes the windows of data.layout stream; set "
            "data.order to sequential, or data.layout to stream");
  EXPECT_EQ(refusal(path, {"data.layout=skewed", "data.layout_ranks=6"}),
            "--set data.layout_ranks=6: data.layout_ranks is 6, which does not divide the 64 sequences of a "
            "step (batch.tokens / batch.context); 4 or 8 would");
  EXPECT_EQ(refusal(path, {"data.layout=shards", "data.layout_ranks=6"}), "accepted");
  EXPECT_THAT(refusal(path, {"data.layout=skewed", "data.document_length=2048"}),
              StartsWith("--set data.document_length=2048: data.document_length is 2048, but only"));
  EXPECT_THAT(refusal(path, {"data.layout=documents", "data.document_token=60000"}),
              HasSubstr("data.document_token is 60000, which a vocabulary of"));
  EXPECT_EQ(refusal(path, {"data.layout=documents", "data.document_length=2048"}), "accepted");
}

TEST_F(Config, NearerFileWinsAndErrorsNameTheFileOfTheValue) {
  write("deep/base.yaml", kRun + "model: {layers: 4, width: 256, heads: 4}\n");
  const std::string path =
      write("x.yaml", "base: deep/base.yaml\nmodel:\n  layers: 5\ntrain: {tokens: 8192}\n");
  const RunConfig c = load_config(path, {});
  EXPECT_EQ(c.model.layers, 5);
  EXPECT_EQ(c.model.width, 256);
  EXPECT_EQ(c.train.steps, 0);  // the base counts steps, the nearer file tokens
  EXPECT_EQ(c.steps(), 2);
  EXPECT_EQ(c.train.validate.tokens, 640);
  EXPECT_EQ(load_config(path, {"train.steps=7"}).steps(), 7);

  write("deep/bad.yaml", kRun + "model: {width: 255,\n  heads: 0}\n");
  EXPECT_EQ(refusal(write("z.yaml", "base: deep/bad.yaml\nmodel: {layers: 5}\n")),
            "deep/bad.yaml:8: model.heads is 0; it must be in [1, 65536]");
  const RunConfig lists = load_config(
      write("l.yaml", "base: deep/base.yaml\noptimizer:\n  - {parameters: hidden, rule: adamw}\n"), {});
  EXPECT_EQ(lists.optimizer.groups.size(), 1u);
}

TEST_F(Config, RefusesCyclesAndMissingBases) {
  write("a.yaml", "base: b.yaml\n");
  write("b.yaml", "base: ./a.yaml\n");
  EXPECT_THAT(refusal((directory_ / "a.yaml").string()), HasSubstr("comes back to this file"));
  EXPECT_THAT(refusal(write("c.yaml", "\nbase: none.yaml\n")),
              StartsWith("c.yaml:2: base \"none.yaml\" names no file (none.yaml is looked for"));
  EXPECT_THAT(refusal(write("d.yaml", "base: [a, b]\n")),
              StartsWith("d.yaml:1: base must be the path of one"));
}

TEST_F(Config, OverridesReachListsAndAreChecked) {
  const std::string path = write("x.yaml", kRun);
  const RunConfig c = load_config(path, {"optimizer.1.lr=0.5", "data.train=[a, b]", "train.clip=1",
                                         "model={layers: 3}", "schedule.warmup=1e2", "data.train.1=c"});
  EXPECT_EQ(c.optimizer.groups[1].rule.get<AdamWOptions>()->lr, 0.5);
  EXPECT_EQ(c.data.train, (std::vector<std::string>{"a", "c"}));
  EXPECT_EQ(c.optimizer.clip, 1);
  EXPECT_EQ(c.model.layers, 3);
  EXPECT_EQ(c.schedule.warmup, 100);
  EXPECT_EQ(
      refusal(path, {"optimizer.2.lr=1"}),
      "--set optimizer.2.lr=1: optimizer has 2 elements (numbers count from 0), so there is no number 2");
  EXPECT_THAT(refusal(path, {"optimizer.lr=1"}),
              HasSubstr("optimizer is a list; name an element by its number"));
  EXPECT_THAT(refusal(path, {"data.validation.0=a"}), HasSubstr("gives no list data.validation"));
  EXPECT_THAT(refusal(path, {"train.steps"}), HasSubstr("an override reads key.path=value"));
  EXPECT_THAT(refusal(path, {"train..steps=1"}), HasSubstr("empty part"));
  EXPECT_THAT(refusal(path, {"base=y.yaml"}), HasSubstr("belongs into a file"));
  EXPECT_THAT(refusal(path, {"trian.steps=1"}), HasSubstr("did you mean \"train\"?"));
}

TEST_F(Config, HalvesNeedAGpu) {
  const std::string path = write("x.yaml", kRun), f16 = "optimizer.0.newton_schulz.precision=f16";
  EXPECT_EQ(
      refusal(path, {f16, "compute.device=cpu"}),
      "--set " + f16 + ": newton_schulz.precision f16 needs the CUDA device; f32 and bf16 run on the CPU");
  for (const char* const device : {"compute.device=cuda", "compute.device=auto"})
    EXPECT_EQ(
        load_config(path, {f16, device}).optimizer.groups[0].rule.get<MuonOptions>()->newton_schulz.precision,
        DType::f16);
}

TEST_F(Config, OnlyBf16IsRoundedStochastically) {
  const std::string path = write("x.yaml", kRun), stochastic = "compute.rounding=stochastic";
  EXPECT_EQ(
      refusal(path, {stochastic, "compute.precision=f32"}),
      "--set " + stochastic +
          ": compute.rounding stochastic is of weights in bf16; set compute.precision to bf16, or leave "
          "it out");
  EXPECT_EQ(load_config(path, {stochastic, "compute.precision=bf16"}).compute.rounding, Rounding::stochastic);
}

TEST_F(Config, ChoosesTheMicroBatch) {
  RunConfig c;
  EXPECT_EQ(c.micro_batch(), 16);
  EXPECT_EQ(c.accumulation(), 32);
  c.batch = {7 * 5000, 5000, 0};  // 3 would fit, but only 1 divides 7
  EXPECT_EQ(c.micro_batch(), 1);
  c.batch = {65536, 32768, 0};
  EXPECT_EQ(c.micro_batch(), 1);
  c.batch = {65536, 32768, 2};
  EXPECT_EQ(c.micro_batch(), 2);
  c.train.tokens = 65537;
  EXPECT_EQ(c.steps(), 2);
}

// Gives every key a random value within its range.
class Shuffler final : public KeyVisitor {
 public:
  explicit Shuffler(unsigned seed) : random_(seed) {}
  void field(std::string_view name, const Field& field, const Range& r, std::string_view) override {
    const double low = std::max(r.low, -1e9), high = std::min(r.high, 1e9);
    const double u = std::uniform_real_distribution<double>(0.001, 0.999)(random_);
    const double real = low + (high - low) * u * u;
    std::visit(
        [&](const auto& f) {
          using F = std::decay_t<decltype(f)>;
          if constexpr (std::is_same_v<F, bool*>)
            *f = u < 0.5;
          else if constexpr (std::is_same_v<F, double*>)
            *f = real;
          else if constexpr (std::is_same_v<F, std::string*>)
            *f = name == "name" ? "a: \"b\" \\ #\n" : text();
          else if constexpr (std::is_same_v<F, std::vector<std::string>*>)
            *f = {text(), text()};
          else if constexpr (std::is_same_v<F, std::vector<std::int64_t>*>)
            *f = {static_cast<std::int64_t>(real), 7};
          else if constexpr (std::is_same_v<F, Choice>)
            f.set(static_cast<std::size_t>(u * static_cast<double>(f.words.size())));
          else if constexpr (std::is_same_v<F, Choices>) {
          } else if constexpr (std::is_same_v<F, Tuple>)
            for (double* x : f.fields) *x = real / 2 + u / 4;
          else if constexpr (std::is_same_v<F, std::uint64_t*>)
            *f = random_() * 4294967291ull + random_();
          else
            *f = static_cast<std::remove_pointer_t<F>>(std::max(real, low + 1));
        },
        field);
  }
  void section(std::string_view, std::string_view,
               const std::function<void(OptionVisitor&)>& inside) override {
    inside(*this);
  }
  void groups(std::string_view, std::string_view, std::vector<GroupConfig>& groups) override {
    groups = {GroupConfig{{Role::hidden}, MuonOptions{}},
              GroupConfig{{Role::head, Role::gain}, AdamWOptions{}}};
    for (GroupConfig& g : groups) describe(*this, g);
  }

 private:
  std::string text() {
    static const std::vector<std::string> kHard = {"true",      "null", "12", "1e5",  "~",  "- a", "a b",
                                                   "*x",        "&x",   "é",  "a\tb", "'",  "\"",  "{x}",
                                                   "dir/*.bin", "x: y", "#c", "%",    "@a", " "};
    return kHard[random_() % kHard.size()];
  }
  std::mt19937_64 random_;
};

TEST_F(Config, WrittenAndReadAgainIsTheSame) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    RunConfig c;
    Shuffler shuffler(seed);
    describe(shuffler, c);
    // What must fit together is made to fit; everything else stays as random as it came.
    c.run.name = "n" + std::to_string(seed);
    c.compute.device = Device::automatic;    // where Newton-Schulz may run in halves
    c.compute.rounding = Rounding::nearest;  // stochastic asks for bf16
    if (c.run.directory.empty()) c.run.directory = "d";
    const TransformerConfig standard;
    c.model.heads = standard.heads, c.model.kv_heads = 0, c.model.width = standard.width,
    c.model.head_dim = 64;
    c.model.vocab = 1000, c.model.padded_vocab = 0, c.model.mlp = standard.mlp, c.model.norm = standard.norm;
    c.model.tied = standard.tied, c.model.zero_init_head = false, c.model.positions = standard.positions;
    c.model.rotary_fraction = 1, c.model.layers = 3, c.model.context = 4096, c.model.head_bias = false;
    VisibilityConfig& v = c.model.visibility;
    v.document_token = 999, v.window = {seed, 640}, v.window_block = 8, v.window_multiple = 8 * (1 + seed);
    v.short_layers = {0, 2}, c.model.layers_without_attention = {1};
    const bool tables = c.model.value_mix == ValueMix::table || c.model.value_mix == ValueMix::scaled_table;
    c.model.value_tables = tables ? std::vector<std::int64_t>{2, 0, 2} : std::vector<std::int64_t>{};
    c.model.attention_gate = seed % 64, c.model.smear_gate = seed % 63;
    c.batch = {640, 64, 5};
    c.data.order = DataOrder::sequential, c.data.layout_ranks = 5, c.data.document_token = 999;
    if (c.data.layout != DataLayout::documents) c.data.document_length = 0;
    c.train.tokens = 0, c.train.stop = 0, c.train.validate.tokens = 640;
    c.train.validate.context = 64 * (seed % 3);
    c.optimizer.steps = c.steps();
    for (const bool comments : {false, true})
      ASSERT_EQ(load_config(write("r.yaml", to_yaml(c, comments)), {}), c) << "seed " << seed << "\n"
                                                                           << to_yaml(c);
  }
}

TEST_F(Config, EveryFileInConfigsLoadsAndComesBack) {
  int files = 0;
  for (const fs::directory_entry& entry :
       fs::directory_iterator(fs::path(SPECTRAIN_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".yaml") continue;
    const RunConfig c = load_config(entry.path().string(), {}, ConfigUse::model);
    EXPECT_EQ(load_config(write("again.yaml", to_yaml(c)), {}, ConfigUse::model), c) << entry.path();
    ++files;
  }
  EXPECT_GT(files, 0);
}

TEST(KeyReference, NamesEveryKeyOfTheWriter) {
  const std::string reference = key_reference();
  for (const char* key :
       {"run.seed", "model.softcap.kind", "optimizer.N.newton_schulz.steps", "optimizer.N.betas",
        "train.validate.tokens", "batch.micro_batch", "train.clip", "schedule.end_reached"})
    EXPECT_THAT(reference, HasSubstr(key));
  EXPECT_THAT(reference, HasSubstr("in [0, 1)"));
  EXPECT_THAT(reference, HasSubstr("keller | polar_express | you | exact"));
}

TEST(Suggestion, FindsTheLikeliestWordOrNone) {
  const std::vector<std::string> words = {"lr", "layers", "width", "context", "weight_decay", "nesterov"};
  EXPECT_EQ(nearest("learning_rate", words), "lr");
  EXPECT_EQ(nearest("num_layers", words), "layers");
  EXPECT_EQ(nearest("n_embd", words), "width");
  EXPECT_EQ(nearest("block_size", words), "context");
  EXPECT_EQ(nearest("weigth-decay", words), "weight_decay");
  EXPECT_EQ(nearest("zebra", words), "");
}

}  // namespace
}  // namespace spectrain

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "tests/train/config_files.h"
#include "tests/train/scratch_directory.h"
#include "train/compare_config.h"
#include "train/compare_plan.h"
#include "train/config.h"
#include "train/config_keys.h"
#include "train/suggestion.h"

// The files of configs/: each loads, means what it says, and README.md lists every key as the parser knows
// it.

namespace spectrain::test {
namespace {

const std::string kConfigs = configs_directory();

struct TypeText {
  std::string operator()(const bool*) const { return "true, false"; }
  std::string operator()(const double*) const { return "number"; }
  std::string operator()(const std::string*) const { return "text"; }
  std::string operator()(const std::vector<std::string>*) const { return "text or list of texts"; }
  std::string operator()(const Choice& c) const { return listed(c.words); }
  std::string operator()(const Choices& c) const {
    return fmt::format("one or a list of {}", listed(c.words));
  }
  std::string operator()(const Tuple& t) const { return fmt::format("{} numbers", t.fields.size()); }
  template <class T>
  std::string operator()(const T*) const {
    return "integer";
  }
};

struct DefaultText {
  std::string operator()(const bool* b) const { return *b ? "true" : "false"; }
  std::string operator()(const std::string* s) const { return *s; }
  std::string operator()(const std::vector<std::string>*) const { return "[]"; }
  std::string operator()(const std::vector<std::int64_t>*) const { return "[]"; }
  std::string operator()(const Choice& c) const { return c.words[c.get()]; }
  std::string operator()(const Choices&) const { return ""; }
  std::string operator()(const Tuple& t) const {
    std::vector<std::string> numbers;
    for (const double* x : t.fields) numbers.push_back(fmt::format("{}", *x));
    return fmt::format("[{}]", listed(numbers));
  }
  template <class T>
  std::string operator()(const T* x) const {
    return fmt::format("{}", *x);
  }
};

// What Markdown would take for markup.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) out += c == '<' ? "&lt;" : c == '|' ? "\\|" : std::string(1, c);
  return out;
}

// Every key as a row of a Markdown table, under the heading of its section.
class Tables final : public KeyVisitor {
 public:
  void field(std::string_view name, const Field& field, const Range& range,
             std::string_view meaning) override {
    std::string type = std::visit(TypeText{}, field);
    if (const std::string allowed = range.str(); !allowed.empty()) type += ' ' + allowed;
    const std::string standard = std::visit(DefaultText{}, field);
    text += fmt::format("| `{}` | {} | {} | {} |\n", key_path(inner_, name), type,
                        standard.empty() ? "" : '`' + standard + '`', escaped(meaning));
  }
  void section(std::string_view name, std::string_view meaning,
               const std::function<void(OptionVisitor&)>& inside) override {
    const std::string outer = inner_;
    if (depth_ == 0)
      heading(std::string(name), meaning);
    else
      inner_ = key_path(inner_, name);
    ++depth_;
    inside(*this);
    --depth_;
    inner_ = outer;
  }
  void groups(std::string_view name, std::string_view meaning, std::vector<GroupConfig>&) override {
    depth_ = 1;
    GroupConfig any{{}, MuonOptions{}};
    heading(fmt::format("{}, every group", name), meaning);
    describe_begin(*this, any);
    describe_end(*this, any);
    for (RuleOptions rule : all_rules()) {
      heading(fmt::format("{}, a group with rule: {}", name, rule.info().name),
              fmt::format("`{}` ({})", rule.info().formula, rule.info().source));
      rule.describe(*this);
    }
    depth_ = 0;
  }
  std::string text;

 private:
  void heading(const std::string& name, std::string_view meaning) {
    text += fmt::format("\n### {}\n\n{}\n\n| key | type and range | default | meaning |\n|---|---|---|---|\n",
                        name, meaning);
  }
  int depth_ = 0;
  std::string inner_;
};

TEST(Configs, ReadmeListsEveryKey) {
  const std::string readme = contents_of(kConfigs + "README.md");
  Tables tables;
  RunConfig defaults;
  describe(tables, defaults);
  EXPECT_NE(readme.find(tables.text), std::string::npos)
      << "configs/README.md must hold these tables as they are:\n"
      << tables.text;
}

TEST(Configs, EveryRunAndComparisonStandsInTheReadme) {
  const std::string readme = contents_of(kConfigs + "README.md");
  for (const ConfigKind kind : {ConfigKind::run, ConfigKind::comparison})
    for (const std::string& file : config_files(kind))
      EXPECT_NE(readme.find('`' + file + '`'), std::string::npos)
          << "add " << file << " to a table of files in configs/README.md";
  EXPECT_GE(config_files(ConfigKind::run).size(), 60u) << "config_runs_test.cpp trains them all";
}

// A file that cannot be trained is there for others.
TEST(Configs, EveryPartIsTheBaseOfAnother) {
  std::set<std::string> bases;
  for (const ConfigKind kind : {ConfigKind::run, ConfigKind::part})
    for (const std::string& file : config_files(kind)) bases.insert(base_of_config(file));
  for (const std::string& file : config_files(ConfigKind::part)) {
    SCOPED_TRACE(file);
    EXPECT_TRUE(bases.contains(file));
    EXPECT_TRUE(load_config(kConfigs + file, {}, ConfigUse::model).optimizer.groups.empty());
  }
}

TEST(Configs, EveryComparisonLoads) {
  const std::vector<std::string> plans = config_files(ConfigKind::comparison);
  EXPECT_GE(plans.size(), 2u);
  for (const std::string& file : plans) {
    SCOPED_TRACE(file);
    const ComparePlan plan = read_compare_plan(kConfigs + file);
    EXPECT_NO_THROW(base_configuration(plan));
    EXPECT_FALSE(plan.variants.empty());
    for (const PlanVariant& variant : plan.variants) {
      GridPoint point;
      for (const PlanAxis& axis : variant.axes) point.emplace_back(axis.name, axis.values.front());
      EXPECT_NO_THROW(configuration(plan, variant, point, 1)) << variant.name;
    }
  }
}

TEST(Configs, Gpt2PresetsHaveThePublishedSizes) {
  const auto parameters = [](const std::string& name) {
    return count(load_config(kConfigs + name, {}).model, 1024).parameters;
  };
  EXPECT_EQ(parameters("gpt2-124m.yaml"), 124439808);
  EXPECT_EQ(parameters("gpt2-350m.yaml"), 354823168);
  EXPECT_EQ(parameters("gpt2-774m.yaml"), 774030080);
  EXPECT_EQ(parameters("gpt2-1558m.yaml"), 1557611200);
}

TEST(Configs, MuonPresetChangesTheOptimizerAlone) {
  const RunConfig adamw = load_config(kConfigs + "gpt2-124m.yaml", {});
  const RunConfig muon = load_config(kConfigs + "gpt2-124m-muon.yaml", {});
  EXPECT_EQ(adamw.model, muon.model);
  EXPECT_EQ(adamw.data, muon.data);
  EXPECT_EQ(adamw.batch, muon.batch);
  EXPECT_EQ(adamw.optimizer.clip, 1);
  EXPECT_EQ(muon.optimizer.clip, 0);
  ASSERT_EQ(muon.optimizer.groups.size(), 2u);
  EXPECT_TRUE(muon.optimizer.groups[0].rule.get<MuonOptions>() != nullptr);
}

}  // namespace
}  // namespace spectrain::test

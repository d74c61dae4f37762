#include <string_view>

#include "fmt/format.h"
#include "train/config_keys.h"
#include "train/option_text.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

class Writer final : public KeyVisitor {
 public:
  explicit Writer(bool comments) : comments_(comments) {}

  void field(std::string_view name, const Field& field, const Range&, std::string_view meaning) override {
    line(fmt::format("{}: {}", name, text_of(field)), meaning);
  }
  void section(std::string_view name, std::string_view meaning,
               const std::function<void(OptionVisitor&)>& inside) override {
    line(fmt::format("{}:", name), meaning);
    const std::string outer = indent_;
    indent_ += "  ";
    inside(*this);
    indent_ = outer;
  }
  void groups(std::string_view name, std::string_view meaning, std::vector<GroupConfig>& groups) override {
    line(fmt::format("{}:{}", name, groups.empty() ? " []" : ""), meaning);
    const std::string outer = indent_;
    indent_ += "    ";
    for (GroupConfig& group : groups) {
      dash_ = true;
      describe(*this, group);
    }
    indent_ = outer;
  }
  std::string text;

 private:
  void line(std::string content, std::string_view meaning) {
    std::string start = indent_;
    if (dash_) start[start.size() - 2] = '-';
    dash_ = false;
    content = start + content;
    text += comments_ ? fmt::format("{:<38}  # {}\n", content, meaning) : content + '\n';
  }

  bool comments_;
  bool dash_ = false;  // the next line begins an element of a list
  std::string indent_;
};

struct FieldType {
  std::string operator()(const bool*) const { return "true or false"; }
  std::string operator()(const double*) const { return "number"; }
  template <class T>
  std::string operator()(const T*) const {
    return "integer";
  }
  std::string operator()(const std::string*) const { return "text"; }
  std::string operator()(const std::vector<std::string>*) const { return "texts"; }
  std::string operator()(const std::vector<std::int64_t>*) const { return "integers"; }
  std::string operator()(const Choice& choice) const { return listed(choice.words, " | "); }
  std::string operator()(const Choices& choices) const {
    return fmt::format("list of {}", listed(choices.words, " | "));
  }
  std::string operator()(const Tuple& tuple) const { return fmt::format("{} numbers", tuple.fields.size()); }
};

class Reference final : public KeyVisitor {
 public:
  void field(std::string_view name, const Field& field, const Range& range,
             std::string_view meaning) override {
    const bool required = std::holds_alternative<Choices>(field) || (name == "rule" && in_group_);
    const std::string standard = required ? "required" : text_of(field);
    std::string type = std::visit(FieldType{}, field);
    if (const std::string allowed = range.str(); !allowed.empty()) type += ' ' + allowed;
    text +=
        fmt::format("  {:<44} {:<14} {}\n{:<61} {}\n", key_path(section_, name), standard, type, "", meaning);
  }
  void section(std::string_view name, std::string_view meaning,
               const std::function<void(OptionVisitor&)>& inside) override {
    const std::string outer = section_;
    section_ = key_path(section_, name);
    text += fmt::format("{}{}: {}\n", outer.empty() ? "\n" : "  ", section_, meaning);
    inside(*this);
    section_ = outer;
  }
  void groups(std::string_view name, std::string_view meaning, std::vector<GroupConfig>&) override {
    text += fmt::format("\n{}: {}\n", name, meaning);
    in_group_ = true;
    section_ = fmt::format("{}.N", name);
    text += "  every group\n";
    GroupConfig any{{}, MuonOptions{}};
    describe_begin(*this, any);
    describe_end(*this, any);
    for (const RuleOptions& rule : all_rules()) {
      text += fmt::format("  a group with rule: {}\n", rule.info().name);
      RuleOptions copy = rule;
      copy.describe(*this);
    }
    section_.clear();
    in_group_ = false;
  }
  std::string text;

 private:
  std::string section_;
  bool in_group_ = false;
};

}  // namespace

std::string rule_reference(const RuleOptions& rule) {
  Reference reference;
  RuleOptions copy = rule;
  copy.describe(reference);
  return std::move(reference.text);
}

std::string to_yaml(const RunConfig& config, bool comments) {
  RunConfig copy = config;  // a visitor may write; this one only reads
  Writer writer(comments);
  describe(writer, copy);
  return std::move(writer.text);
}

std::string key_reference() {
  Reference reference;
  reference.text = fmt::format("  {:<44} {:<14} {}\n", "key", "default", "type and range; meaning below") +
                   "  base" + std::string(41, ' ') + "none           path of another configuration file\n" +
                   std::string(62, ' ') +
                   "its values hold where this file gives none; counts from this file\n";
  RunConfig defaults;
  describe(reference, defaults);
  return std::move(reference.text);
}

}  // namespace spectrain

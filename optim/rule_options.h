#pragma once

#include <memory>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "optim/option.h"
#include "optim/rule.h"

namespace spectrain {

struct FinishOptions;  // finish.h

// What a list of rules says about one of them.
struct RuleInfo {
  std::string_view name;     // as in a configuration: "lion"
  std::string_view formula;  // one line
  std::string_view source;   // authors, year, where it was published
  bool matrices = false;     // only for matrices; vectors and slivers need another rule
};

// The options of one rule, whichever it is: a value that holds the rule's own struct. Such a struct O has
// default values and, found by its namespace,
//
//   const RuleInfo& info_of(const O&);
//   void describe_options(OptionVisitor& v, O& options);
//   std::unique_ptr<UpdateRule> make_rule(const O&, const FinishOptions&);   RequestError when out of range
//   bool operator==(const O&) const
class RuleOptions {
 public:
  template <class O>
  requires(!std::is_same_v<O, RuleOptions>) RuleOptions(O options)
      : model_(std::make_unique<Model<O>>(std::move(options))) {}
  RuleOptions();  // AdamW's
  RuleOptions(const RuleOptions& other) : model_(other.model_->copy()) {}
  RuleOptions(RuleOptions&&) = default;
  RuleOptions& operator=(const RuleOptions& other) {
    model_ = other.model_->copy();
    return *this;
  }
  RuleOptions& operator=(RuleOptions&&) = default;

  const RuleInfo& info() const { return model_->info(); }
  void describe(OptionVisitor& v) { model_->describe(v); }
  std::unique_ptr<UpdateRule> make(const FinishOptions& finish) const { return model_->make(finish); }
  bool operator==(const RuleOptions& other) const { return model_->equals(*other.model_); }

  // The struct inside, null when it is another rule's.
  template <class O>
  O* get() {
    auto* m = dynamic_cast<Model<O>*>(model_.get());
    return m ? &m->options : nullptr;
  }
  template <class O>
  const O* get() const {
    return const_cast<RuleOptions*>(this)->get<O>();
  }

 private:
  struct Concept {
    virtual ~Concept() = default;
    virtual std::unique_ptr<Concept> copy() const = 0;
    virtual const RuleInfo& info() const = 0;
    virtual void describe(OptionVisitor& v) = 0;
    virtual std::unique_ptr<UpdateRule> make(const FinishOptions& finish) const = 0;
    virtual bool equals(const Concept& other) const = 0;
  };
  template <class O>
  struct Model final : Concept {
    explicit Model(O o) : options(std::move(o)) {}
    std::unique_ptr<Concept> copy() const override { return std::make_unique<Model>(options); }
    const RuleInfo& info() const override { return info_of(options); }
    void describe(OptionVisitor& v) override { describe_options(v, options); }
    std::unique_ptr<UpdateRule> make(const FinishOptions& finish) const override {
      return make_rule(options, finish);
    }
    bool equals(const Concept& other) const override {
      const auto* same = dynamic_cast<const Model*>(&other);
      return same && same->options == options;
    }
    O options;
  };

  std::unique_ptr<Concept> model_;
};

// Every rule with its defaults, in the order in which they are listed for users (registry.cpp).
const std::vector<RuleOptions>& all_rules();

}  // namespace spectrain

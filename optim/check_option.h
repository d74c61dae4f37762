#pragma once

#include <string_view>

#include "optim/option.h"

namespace spectrain {

// Throws RequestError naming rule, option and value when it is not a finite number >= 0.
void check_not_negative(std::string_view rule, std::string_view option, double value);

// Every number of `options` against the range that its describe_options() gives. Throws RequestError:
// "muon: momentum is 1; it must be in [0, 1)".
template <class O>
void check_options(std::string_view rule, O options);

// What check_options() visits with.
class RangeCheck final : public OptionVisitor {
 public:
  explicit RangeCheck(std::string_view rule) : rule_(rule) {}
  void field(std::string_view name, const Field& field, const Range& range, std::string_view) override;
  void section(std::string_view name, std::string_view,
               const std::function<void(OptionVisitor&)>& inside) override;

 private:
  std::string rule_, section_;
};

template <class O>
void check_options(std::string_view rule, O options) {
  RangeCheck check(rule);
  describe_options(check, options);
}

}  // namespace spectrain

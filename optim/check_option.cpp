#include "optim/check_option.h"

#include <fmt/format.h>

#include <cmath>

#include "kernels/error.h"

namespace spectrain {

void check_not_negative(std::string_view rule, std::string_view option, double value) {
  if (!(value >= 0 && std::isfinite(value)))
    throw RequestError(fmt::format("{}: {} is {}, but must be a number of at least 0", rule, option, value));
}

void RangeCheck::field(std::string_view name, const Field& field, const Range& range, std::string_view) {
  const auto require = [&](double value) {
    if (!std::isfinite(value) || !range.contains(value))
      throw RequestError(fmt::format("{}: {}{} is {}; it must be {}", rule_, section_, name, value,
                                     std::isfinite(value) ? range.str() : "a finite number"));
  };
  if (const auto* number = std::get_if<double*>(&field)) require(**number);
  if (const auto* number = std::get_if<int*>(&field)) require(**number);
  if (const auto* number = std::get_if<std::int64_t*>(&field)) require(static_cast<double>(**number));
  if (const auto* tuple = std::get_if<Tuple>(&field))
    for (const double* number : tuple->fields) require(*number);
}

void RangeCheck::section(std::string_view name, std::string_view,
                         const std::function<void(OptionVisitor&)>& inside) {
  const std::string outer = section_;
  section_ += std::string(name) + ".";
  inside(*this);
  section_ = outer;
}

}  // namespace spectrain

#include "optim/check_option.h"

#include <fmt/format.h>

#include <cmath>

#include "kernels/error.h"

namespace spectrain {

void check_fraction(std::string_view rule, std::string_view option, double value) {
  if (!(value >= 0 && value < 1))
    throw RequestError(fmt::format("{}: {} is {}, but must be at least 0 and below 1", rule, option, value));
}

void check_not_negative(std::string_view rule, std::string_view option, double value) {
  if (!(value >= 0 && std::isfinite(value)))
    throw RequestError(fmt::format("{}: {} is {}, but must be a number of at least 0", rule, option, value));
}

}  // namespace spectrain

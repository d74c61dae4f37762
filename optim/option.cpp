#include "optim/option.h"

#include <fmt/format.h>

namespace spectrain {

std::string Range::str() const {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  const bool bounded_below = low != -kInfinity, bounded_above = high != kInfinity && high != kMostCounted;
  if (bounded_below && bounded_above)
    return fmt::format("in {}{}, {}{}", low_open ? '(' : '[', low, high, high_open ? ')' : ']');
  if (bounded_below) return fmt::format("{} {}", low_open ? ">" : ">=", low);
  if (bounded_above) return fmt::format("{} {}", high_open ? "<" : "<=", high);
  return "";
}

}  // namespace spectrain

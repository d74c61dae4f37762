#include "model/rotary.h"

#include <algorithm>
#include <cmath>

namespace spectrain {

std::vector<double> rotary_frequencies(const TransformerConfig& c) {
  const std::int64_t pairs = c.head_dim / 2;
  const std::int64_t rounded = std::llround(c.rotary_fraction * static_cast<double>(pairs));
  const std::int64_t turning = std::clamp<std::int64_t>(rounded, 1, pairs);
  const std::int64_t steps = c.rotary_to_end ? std::max<std::int64_t>(turning - 1, 1) : turning;
  std::vector<double> frequency(static_cast<std::size_t>(pairs), 0.0);
  for (std::int64_t i = 0; i < turning; ++i) {
    const double exponent = static_cast<double>(i) / static_cast<double>(steps);
    frequency[static_cast<std::size_t>(i)] = std::pow(c.rotary_base, -exponent);
  }
  return frequency;
}

RotaryTable rotary_table(const TransformerConfig& c, std::int64_t context) {
  const std::vector<double> frequency = rotary_frequencies(c);
  RotaryTable table;
  table.cos.reserve(static_cast<std::size_t>(context) * frequency.size());
  table.sin.reserve(static_cast<std::size_t>(context) * frequency.size());
  for (std::int64_t position = 0; position < context; ++position) {
    for (const double f : frequency) {
      table.cos.push_back(std::cos(static_cast<double>(position) * f));
      table.sin.push_back(std::sin(static_cast<double>(position) * f));
    }
  }
  return table;
}

}  // namespace spectrain

#include "model/visibility.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace spectrain {
namespace {

std::int64_t window_start(const VisibilityConfig& c, std::int64_t window, std::int64_t position) {
  if (window == 0) return 0;
  const std::int64_t b = c.window_block;
  return std::max<std::int64_t>(0, b * (position / b - std::max<std::int64_t>(1, window / b) + 1));
}

}  // namespace

std::int64_t window_at(const VisibilityConfig& c, double progress) {
  if (c.window.empty()) return 0;
  const auto from = static_cast<double>(c.window.front()), to = static_cast<double>(c.window.back());
  const auto multiple = static_cast<double>(c.window_multiple);
  const double exact = (from + (to - from) * progress) / multiple;
  const double whole = c.window_rounds_up ? std::ceil(exact) : std::floor(exact);
  return static_cast<std::int64_t>(std::max(1.0, whole) * multiple);
}

std::int64_t short_window(const VisibilityConfig& c, std::int64_t window) {
  if (window == 0) return 0;
  return std::max<std::int64_t>(1, window / c.window_block / 2) * c.window_block;
}

void first_keys(const VisibilityConfig& c, std::int64_t window, std::span<const std::int32_t> tokens,
                std::int64_t context, std::span<std::int32_t> first) {
  if (first.size() != tokens.size() || context < 1 || tokens.size() % static_cast<std::size_t>(context) != 0)
    throw std::logic_error("first_keys: whole sequences, and a place for each token, are needed");
  std::int64_t document = 0;
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const auto t = static_cast<std::int64_t>(i) % context;
    if (t == 0 || tokens[i] == c.document_token) document = t;
    const std::int64_t start = window_start(c, window, t);
    first[i] = static_cast<std::int32_t>(c.documents ? std::max(start, document) : start);
  }
}

double mean_keys(const VisibilityConfig& c, std::int64_t window, std::int64_t context) {
  double sum = 0;
  for (std::int64_t t = 0; t < context; ++t) sum += static_cast<double>(t + 1 - window_start(c, window, t));
  return sum / static_cast<double>(context);
}

}  // namespace spectrain

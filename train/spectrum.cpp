#include "train/spectrum.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/error.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

constexpr std::size_t kNamesShown = 12;

bool all_finite(std::span<const double> s) {
  return std::all_of(s.begin(), s.end(), [](double x) { return std::isfinite(x); });
}

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Every matrix that could be asked for.
std::vector<ChosenMatrix> matrices_of(std::span<const ParameterInfo* const> parameters) {
  std::vector<ChosenMatrix> all;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    const ParameterInfo& p = *parameters[i];
    if (p.shape.rank() < 2) continue;
    const std::int64_t cols = p.shape.rank() == 2 ? p.shape.cols() : p.shape.numel() / p.shape[0];
    if (p.splits.size() < 2) {
      const bool padded = p.shape.rank() == 2 && p.logical_rows > 0;
      all.push_back({p.name, i, 0, padded ? p.logical_rows : p.shape[0], cols});
      continue;
    }
    std::int64_t row = 0;
    for (std::size_t k = 0; k < p.splits.size(); ++k) {
      all.push_back({fmt::format("{}[{}]", p.name, k), i, row * cols, p.splits[k], cols});
      row += p.splits[k];
    }
  }
  return all;
}

[[noreturn]] void refuse(const std::string& wanted, std::span<const ParameterInfo* const> parameters) {
  std::vector<std::string> names;
  for (const ParameterInfo* p : parameters) {
    if (p->name == wanted)
      throw RequestError(
          fmt::format("diagnostics.matrices names {}, which is a vector {}; only matrices have spectra",
                      wanted, p->shape.str()));
    if (p->shape.rank() >= 2) names.push_back(p->name);
  }
  const bool begins = wanted.ends_with('*');
  const std::string word = begins ? wanted.substr(0, wanted.size() - 1) : wanted;
  const std::string meant = did_you_mean(word, names);
  std::string known = listed(std::span(names).first(std::min(names.size(), kNamesShown)));
  if (names.size() > kNamesShown) known += ", ...";
  throw RequestError(fmt::format(
      "diagnostics.matrices names \"{}\", {}{} (matrices here: {})", wanted,
      begins ? "but no matrix of the model begins so" : "which the model does not have", meant, known));
}

}  // namespace

double frobenius_norm(std::span<const double> s) {
  if (s.empty() || s[0] == 0) return 0;
  double sum = 0;  // relative to the largest, whose square may be out of range
  for (const double x : s) sum += (x / s[0]) * (x / s[0]);
  return s[0] * std::sqrt(sum);
}

double stable_rank(std::span<const double> s) {
  if (!all_finite(s)) return kNan;
  if (s.empty() || s[0] == 0) return 0;
  double sum = 0;
  for (const double x : s) sum += (x / s[0]) * (x / s[0]);
  return sum;
}

double effective_rank(std::span<const double> s) {
  if (!all_finite(s)) return kNan;
  double sum = 0, entropy = 0;
  for (const double x : s) sum += x;
  if (!(sum > 0)) return 0;
  for (const double x : s)
    if (x > 0) entropy -= x / sum * std::log(x / sum);
  return std::exp(entropy);
}

std::vector<std::size_t> chosen_places(std::size_t count, std::size_t most) {
  std::vector<std::size_t> places;
  const std::size_t n = std::min(count, most);
  for (std::size_t i = 0; i < n; ++i)
    places.push_back(n == 1 ? 0 : (2 * i * (count - 1) + (n - 1)) / (2 * (n - 1)));
  return places;
}

std::vector<ChosenMatrix> chosen_matrices(std::span<const ParameterInfo* const> parameters,
                                          std::span<const std::string> wanted) {
  const std::vector<ChosenMatrix> all = matrices_of(parameters);
  std::vector<std::uint8_t> chosen(all.size(), 0);
  for (const std::string& word : wanted) {
    const bool begins = word.ends_with('*');
    bool found = false;
    for (std::size_t i = 0; i < all.size(); ++i) {
      const bool fits = begins ? all[i].name.starts_with(word.substr(0, word.size() - 1))
                               : word == all[i].name || word == parameters[all[i].parameter]->name;
      if (fits) chosen[i] = 1;
      found = found || fits;
    }
    if (!found) refuse(word, parameters);
  }
  std::vector<ChosenMatrix> out;
  for (std::size_t i = 0; i < all.size(); ++i)
    if (chosen[i]) out.push_back(all[i]);
  return out;
}

}  // namespace spectrain

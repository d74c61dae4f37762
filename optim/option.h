#pragma once

#include <cstdint>
#include <functional>
#include <limits>
#include <stdexcept>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace spectrain {

// Options that describe themselves: a struct's describe() lists each once, with its name, the field it fills,
// its range and its meaning. Whoever reads, writes or documents them (train/config_*.cpp) is a visitor of
// that one listing.

// Numbers an option may hold. str(): "in (0, 1]", ">= 1", "> 0".
struct Range {
  double low = -std::numeric_limits<double>::infinity();
  double high = std::numeric_limits<double>::infinity();
  bool low_open = false, high_open = false;
  bool contains(double x) const {
    return (low_open ? x > low : x >= low) && (high_open ? x < high : x <= high);
  }
  std::string str() const;  // "" when everything is allowed
};

inline constexpr double kMostCounted = 1e15;  // far beyond any run, and exact in a double

inline Range at_least(double low) { return {low, std::numeric_limits<double>::infinity()}; }
inline Range above_only(double low) { return {low, std::numeric_limits<double>::infinity(), true, false}; }
inline Range within(double low, double high) { return {low, high}; }
inline Range below_one() { return {0, 1, false, true}; }
inline Range count_from(double low) { return {low, kMostCounted}; }

// An option with a fixed set of words.
struct Choice {
  std::vector<std::string> words;
  std::function<std::size_t()> get;  // index into words
  std::function<void(std::size_t)> set;
};

// An option with a list out of a fixed set of words (a single word means a list of one).
struct Choices {
  std::vector<std::string> words;
  std::function<std::vector<std::size_t>()> get;
  std::function<void(const std::vector<std::size_t>&)> set;
};

// An option with a list of exactly so many numbers: betas: [0.9, 0.95].
struct Tuple {
  std::vector<double*> fields;
};

using Field = std::variant<bool*, int*, std::int64_t*, std::uint64_t*, double*, std::string*,
                           std::vector<std::string>*, std::vector<std::int64_t>*, Choice, Choices, Tuple>;

class OptionVisitor {
 public:
  virtual ~OptionVisitor() = default;
  virtual void field(std::string_view name, const Field& field, const Range& range,
                     std::string_view meaning) = 0;
  virtual void section(std::string_view name, std::string_view meaning,
                       const std::function<void(OptionVisitor&)>& inside) = 0;
};

// A table of words for the values of an enumeration, and the Choice made of it.
template <class T>
struct Word {
  std::string_view word;
  T value;
};

template <class T, std::size_t N>
std::vector<std::string> words_of(const Word<T> (&table)[N]) {
  std::vector<std::string> words;
  for (const Word<T>& w : table) words.emplace_back(w.word);
  return words;
}

template <class T, std::size_t N>
std::size_t index_of(const Word<T> (&table)[N], T value) {
  for (std::size_t i = 0; i < N; ++i)
    if (table[i].value == value) return i;
  throw std::logic_error("an option holds a value that has no word");
}

template <class T, std::size_t N>
std::string_view word_of(const Word<T> (&table)[N], T value) {
  return table[index_of(table, value)].word;
}

// The table must outlive the Choice.
template <class T, std::size_t N>
Choice choice(T& field, const Word<T> (&table)[N]) {
  return {words_of(table), [&field, &table] { return index_of(table, field); },
          [&field, &table](std::size_t i) { field = table[i].value; }};
}

}  // namespace spectrain

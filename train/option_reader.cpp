#include "train/option_reader.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "fmt/format.h"
#include "kernels/error.h"
#include "train/config_keys.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

using Kind = ConfigNode::Kind;

std::string shown(const ConfigNode& node) {
  switch (node.kind) {
    case Kind::null:
      return "nothing";
    case Kind::list:
      return fmt::format("a list of {}", node.items.size());
    case Kind::map:
      return "a map";
    case Kind::scalar:
      break;
  }
  return fmt::format("\"{}\"", node.text);
}

// One value with its name, being read.
struct Reading {
  const ConfigNode& node;
  std::string path;
  Range range;

  [[noreturn]] void wrong_type(std::string_view wanted) const { spectrain::wrong_type(node, path, wanted); }
  [[noreturn]] void out_of_range(double value) const {
    // The upper end of a count is so far away that Range::str() leaves it out, except to who went beyond.
    const std::string allowed = value > range.high && !range.str().starts_with("in ")
                                    ? fmt::format("at most {}", range.high)
                                    : range.str();
    throw RequestError(fmt::format("{}: {} is {}; it must be {}", node.place, path, node.text, allowed));
  }
  const std::string& plain(std::string_view wanted) const {
    if (node.kind != Kind::scalar || node.quoted) wrong_type(wanted);
    return node.text;
  }
};

std::string_view without_plus(std::string_view text) {
  return text.size() > 1 && text[0] == '+' && text[1] != '-' ? text.substr(1) : text;
}

double read_double(const Reading& r, std::string_view wanted = "a number") {
  const std::string_view text = without_plus(r.plain(wanted));
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc::result_out_of_range || end != text.data() + text.size() || error != std::errc() ||
      !std::isfinite(value))
    r.wrong_type(wanted);
  if (!r.range.contains(value)) r.out_of_range(value);
  return value;
}

template <class T>
T read_integer(const Reading& r) {
  const std::string_view text = without_plus(r.plain("an integer"));
  const char* last = text.data() + text.size();
  T value = 0;
  const auto [end, error] = std::from_chars(text.data(), last, value);
  if (end == last && error == std::errc()) {
    if (!r.range.contains(static_cast<double>(value))) r.out_of_range(static_cast<double>(value));
    return value;
  }
  // 1e6 and 5.0 are integers too; what a double cannot hold exactly is not.
  double real = 0;
  const auto [real_end, real_error] = std::from_chars(text.data(), last, real);
  if (real_end != last || real_error != std::errc() || std::floor(real) != real) r.wrong_type("an integer");
  constexpr double kExact = 9007199254740992.0;
  const double most = std::min(kExact, static_cast<double>(std::numeric_limits<T>::max()));
  const Range held{std::is_signed_v<T> ? -most : 0.0, most};
  if (!r.range.contains(real)) r.out_of_range(real);
  if (!held.contains(real)) Reading{r.node, r.path, held}.out_of_range(real);
  return static_cast<T>(real);
}

bool read_bool(const Reading& r) {
  const std::string& text = r.plain("true or false");
  if (text != "true" && text != "false") r.wrong_type("true or false");
  return text == "true";
}

std::string read_text(const Reading& r) {
  if (r.node.kind != Kind::scalar) r.wrong_type("text");
  return r.node.text;
}

// Each element of a list; a scalar is a list of one.
template <class Read>
void for_each_element(const Reading& r, std::string_view wanted, const Read& read) {
  if (r.node.kind == Kind::scalar) return read(r);
  if (r.node.kind != Kind::list) r.wrong_type(wanted);
  for (std::size_t i = 0; i < r.node.items.size(); ++i)
    read(Reading{r.node.items[i], key_path(r.path, std::to_string(i)), r.range});
}

std::size_t read_word(const Reading& r, const std::vector<std::string>& words) {
  const std::string allowed = fmt::format("one of {}", listed(words, ", "));
  if (r.node.kind != Kind::scalar) r.wrong_type(allowed);
  std::string word = r.node.text;
  std::replace(word.begin(), word.end(), '-', '_');
  for (std::size_t i = 0; i < words.size(); ++i)
    if (words[i] == word || words[i] == r.node.text) return i;
  throw RequestError(fmt::format("{}: {} is \"{}\"; it must be {}{}", r.node.place, r.path, r.node.text,
                                 allowed, did_you_mean(r.node.text, words)));
}

struct FieldReader {
  const Reading& r;

  void operator()(bool* field) const { *field = read_bool(r); }
  void operator()(int* field) const { *field = read_integer<int>(r); }
  void operator()(std::int64_t* field) const { *field = read_integer<std::int64_t>(r); }
  void operator()(std::uint64_t* field) const { *field = read_integer<std::uint64_t>(r); }
  void operator()(double* field) const { *field = read_double(r); }
  void operator()(std::string* field) const { *field = read_text(r); }
  void operator()(std::vector<std::string>* field) const {
    field->clear();
    for_each_element(r, "text or a list of texts",
                     [&](const Reading& element) { field->push_back(read_text(element)); });
  }
  void operator()(std::vector<std::int64_t>* field) const {
    field->clear();
    for_each_element(r, "an integer or a list of integers",
                     [&](const Reading& element) { field->push_back(read_integer<std::int64_t>(element)); });
  }
  void operator()(const Choice& choice) const { choice.set(read_word(r, choice.words)); }
  void operator()(const Choices& choices) const {
    std::vector<std::size_t> indices;
    for_each_element(
        r, fmt::format("a list of {}", listed(choices.words, ", ")), [&](const Reading& element) {
          const std::size_t index = read_word(element, choices.words);
          if (std::find(indices.begin(), indices.end(), index) != indices.end())
            throw RequestError(
                fmt::format("{}: {} names {} twice", element.node.place, r.path, choices.words[index]));
          indices.push_back(index);
        });
    choices.set(indices);
  }
  void operator()(const Tuple& tuple) const {
    const std::string wanted = fmt::format("a list of {} numbers", tuple.fields.size());
    if (r.node.kind != Kind::list || r.node.items.size() != tuple.fields.size()) r.wrong_type(wanted);
    for (std::size_t i = 0; i < tuple.fields.size(); ++i)
      *tuple.fields[i] = read_double({r.node.items[i], key_path(r.path, std::to_string(i)), r.range});
  }
};

}  // namespace

void wrong_type(const ConfigNode& node, const std::string& path, std::string_view wanted) {
  if (node.kind == Kind::null)
    throw RequestError(fmt::format("{}: {} has no value; it must be {} (leave the key out for its default)",
                                   node.place, path, wanted));
  throw RequestError(fmt::format("{}: {} must be {}, not {}", node.place, path, wanted, shown(node)));
}

void read_option(const ConfigNode& node, const std::string& path, const Field& field, const Range& range) {
  const Reading reading{node, path, range};
  std::visit(FieldReader{reading}, field);
}

OptionReader::OptionReader(const ConfigNode& map, std::string path, Places& places, Elsewhere elsewhere)
    : map_(map), path_(std::move(path)), places_(places), elsewhere_(std::move(elsewhere)) {
  if (map.kind != Kind::map) wrong_type(map, path_, "a map of keys");
}

void OptionReader::field(std::string_view name, const Field& field, const Range& range, std::string_view) {
  if (const ConfigNode* node = take(name)) read_option(*node, path_of(name), field, range);
}

void OptionReader::section(std::string_view name, std::string_view,
                           const std::function<void(OptionVisitor&)>& inside) {
  const ConfigNode* node = take(name);
  if (!node) return;
  OptionReader child(*node, path_of(name), places_, elsewhere_);
  inside(child);
  child.finish();
}

const ConfigNode* OptionReader::take(std::string_view name) {
  known_.emplace_back(name);
  for (const ConfigNode::Member& m : map_.members)
    if (m.key == name) {
      places_[path_of(name)] = m.value.place;
      return &m.value;
    }
  return nullptr;
}

std::string OptionReader::path_of(std::string_view name) const { return key_path(path_, name); }

void OptionReader::finish() const {
  for (const ConfigNode::Member& m : map_.members) {
    if (std::find(known_.begin(), known_.end(), m.key) != known_.end()) continue;
    // The very key in another section says more than a similar one here.
    const std::string elsewhere = elsewhere_ ? elsewhere_(m.key) : "";
    const std::string hint =
        elsewhere.empty() ? did_you_mean(m.key, known_) : "; did you mean \"" + elsewhere + "\"?";
    throw RequestError(fmt::format("{}: unknown key \"{}\"{} (keys here: {})", m.place, path_of(m.key), hint,
                                   listed(known_, ", ")));
  }
}

}  // namespace spectrain

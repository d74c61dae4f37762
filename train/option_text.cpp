#include "train/option_text.h"

#include <string_view>

#include "fmt/format.h"
#include "train/suggestion.h"

namespace spectrain {
namespace {

// Text stands without quotes only where no reader of YAML could take it for anything else.
bool is_plain(std::string_view text) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
  const auto digit = [](char c) { return c >= '0' && c <= '9'; };
  if (text.empty() || !(letter(text[0]) || text[0] == '/' || text[0] == '_')) return false;
  for (const char c : text)
    if (!letter(c) && !digit(c) && std::string_view("_-./*+=@").find(c) == std::string_view::npos)
      return false;
  std::string lower(text);
  for (char& c : lower) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  for (const std::string_view word : {"true", "false", "null", "yes", "no", "on", "off", "y", "n"})
    if (lower == word) return false;
  return true;
}

std::string quoted(std::string_view text) {
  if (is_plain(text)) return std::string(text);
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
  }
  return out + '"';
}

struct FieldText {
  std::string operator()(const bool* field) const { return *field ? "true" : "false"; }
  template <class T>
  std::string operator()(const T* field) const {
    return fmt::format("{}", *field);  // of a double: the fewest digits that read back as the same number
  }
  std::string operator()(const std::string* field) const { return quoted(*field); }
  std::string operator()(const std::vector<std::string>* field) const {
    std::vector<std::string> words;
    for (const std::string& text : *field) words.push_back(quoted(text));
    return fmt::format("[{}]", listed(words, ", "));
  }
  std::string operator()(const std::vector<std::int64_t>* field) const {
    std::vector<std::string> numbers;
    for (const std::int64_t number : *field) numbers.push_back(fmt::format("{}", number));
    return fmt::format("[{}]", listed(numbers, ", "));
  }
  std::string operator()(const Choice& choice) const { return choice.words[choice.get()]; }
  std::string operator()(const Choices& choices) const {
    std::vector<std::string> words;
    for (const std::size_t i : choices.get()) words.push_back(choices.words[i]);
    return fmt::format("[{}]", listed(words, ", "));
  }
  std::string operator()(const Tuple& tuple) const {
    std::vector<std::string> numbers;
    for (const double* field : tuple.fields) numbers.push_back(fmt::format("{}", *field));
    return fmt::format("[{}]", listed(numbers, ", "));
  }
};

}  // namespace

std::string text_of(const Field& field) { return std::visit(FieldText{}, field); }

}  // namespace spectrain

#include "data/word_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstdint>

#include "data/utf8.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

// \s is spelt out: PCRE2's own \s also holds U+180E, which left White_Space in Unicode 6.3. Possessive
// repeats change nothing about what matches here and spare the engine its backtracking.
#define SPACES \
  "\\t-\\r\\x20\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}\\x{205F}\\x{3000}"
constexpr char kPattern[] = "'(?:[stmd]|re|ve|ll)| ?+(?:\\p{L}++|\\p{N}++|[^" SPACES
                            "\\p{L}\\p{N}]++)"
                            "|[" SPACES "]+(?![^" SPACES "])|[" SPACES "]++";
#undef SPACES

struct Pattern {
  pcre2_code* code = nullptr;
  bool jit = false;

  Pattern() {
    int error = 0;
    PCRE2_SIZE offset = 0;
    code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(kPattern), PCRE2_ZERO_TERMINATED, PCRE2_UTF | PCRE2_UCP,
                         &error, &offset, nullptr);
    if (!code) throw Error(fmt::format("PCRE2 refuses the word pattern at {} (error {})", offset, error));
    // Where the system forbids executable memory the interpreter does the same, more slowly.
    jit = pcre2_jit_compile(code, PCRE2_JIT_COMPLETE) == 0;
  }
  ~Pattern() { pcre2_code_free(code); }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;
};

const Pattern& pattern() {
  static const Pattern compiled;  // immutable once made, so threads share it
  return compiled;
}

enum Class : std::uint8_t { letter, digit, space, other, beyond };  // beyond ASCII

constexpr std::array<Class, 256> make_classes() {
  std::array<Class, 256> classes{};
  for (int c = 0; c < 256; ++c) {
    const bool is_letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    const bool is_space = c == ' ' || (c >= '\t' && c <= '\r');
    classes[static_cast<std::size_t>(c)] = c >= 0x80              ? beyond
                                           : is_letter            ? letter
                                           : c >= '0' && c <= '9' ? digit
                                           : is_space             ? space
                                                                  : other;
  }
  return classes;
}
constexpr std::array<Class, 256> kClasses = make_classes();
Class class_of(char c) { return kClasses[static_cast<unsigned char>(c)]; }

// Bytes of the contraction that an apostrophe begins, 0 where it begins none.
std::size_t contraction(std::string_view text) {
  if (text.size() < 2) return 0;
  switch (text[1]) {
    case 's':
    case 't':
    case 'm':
    case 'd':
      return 2;
    case 'r':
    case 'v':
      return text.size() > 2 && text[2] == 'e' ? 3 : 0;
    case 'l':
      return text.size() > 2 && text[2] == 'l' ? 3 : 0;
    default:
      return 0;
  }
}

}  // namespace

struct WordSplitter::Match {
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(pattern().code, nullptr);
  ~Match() { pcre2_match_data_free(data); }
};

WordSplitter::WordSplitter(bool pattern_only)
    : match_(std::make_unique<Match>()), pattern_only_(pattern_only) {}
WordSplitter::~WordSplitter() = default;

void WordSplitter::start(std::string_view text) {
  text_ = text;
  at_ = 0;
  valid_end_ = utf8_valid_prefix(text);
}

// The end of the word that begins at `at` where ASCII alone decides it, else `at`.
std::size_t WordSplitter::ascii_end(std::size_t at) const {
  const char* const text = text_.data();
  const std::size_t end = valid_end_;
  if (text[at] == '\'') {
    const std::size_t length = contraction(text_.substr(at, std::min<std::size_t>(3, end - at)));
    if (length > 0) return at + length;
  }
  std::size_t q = text[at] == ' ' && at + 1 < end ? at + 1 : at;
  const Class kind = class_of(text[q]);
  if (kind == beyond) return at;
  if (kind == space) q = at;
  std::size_t stop = q + 1;
  while (stop < end && class_of(text[stop]) == kind) ++stop;
  if (stop == end) return stop;
  if (class_of(text[stop]) == beyond) return at;
  // White space before a word leaves its last character to it, unless that is all there is.
  return kind == space && stop - at > 1 ? stop - 1 : stop;
}

std::size_t WordSplitter::match_end(std::size_t at) {
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  const int found =
      pattern().jit
          ? pcre2_jit_match(pattern().code, subject, valid_end_, at, 0, match_->data, nullptr)
          : pcre2_match(pattern().code, subject, valid_end_, at, PCRE2_NO_UTF_CHECK, match_->data, nullptr);
  const PCRE2_SIZE* place = pcre2_get_ovector_pointer(match_->data);
  if (found < 1 || place[0] != at || place[1] <= at) {
    throw Error(fmt::format("PCRE2 could not split the text at byte {} (error {})", at, found));
  }
  return place[1];
}

bool WordSplitter::next(std::string_view& word) {
  if (at_ == text_.size()) return false;
  const std::size_t begin = at_;
  if (at_ < valid_end_) {
    const std::size_t end = pattern_only_ ? at_ : ascii_end(at_);
    at_ = end > at_ ? end : match_end(at_);
  } else {
    do ++at_;
    while (at_ < text_.size() && utf8_character(text_.substr(at_, 4)) == 0);
    valid_end_ = at_ + utf8_valid_prefix(text_.substr(at_));
  }
  word = text_.substr(begin, at_ - begin);
  return true;
}

}  // namespace spectrain

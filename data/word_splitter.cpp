#include "data/word_splitter.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

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

}  // namespace

struct WordSplitter::Match {
  pcre2_match_data* data = pcre2_match_data_create_from_pattern(pattern().code, nullptr);
  ~Match() { pcre2_match_data_free(data); }
};

WordSplitter::WordSplitter() : match_(std::make_unique<Match>()) {}
WordSplitter::~WordSplitter() = default;

void WordSplitter::start(std::string_view text) {
  text_ = text;
  at_ = 0;
  valid_end_ = utf8_valid_prefix(text);
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
    at_ = match_end(at_);
  } else {
    do ++at_;
    while (at_ < text_.size() && utf8_character(text_.substr(at_, 4)) == 0);
    valid_end_ = at_ + utf8_valid_prefix(text_.substr(at_));
  }
  word = text_.substr(begin, at_ - begin);
  return true;
}

}  // namespace spectrain

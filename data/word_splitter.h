#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

namespace spectrain {

// Cuts text into the pieces ("words") inside which byte pairs may merge, by GPT-2's pattern
//   's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
// (Radford et al. 2019, encoder.py) with \s meaning Unicode's White_Space. The words joined are the text.
// Each run of bytes that is not well-formed UTF-8 is a word of its own, and text ends before it: bytes pass
// through unharmed. Not thread-safe: one per thread. Throws Error where PCRE2 gives up.
class WordSplitter {
 public:
  explicit WordSplitter(bool pattern_only = false);
  ~WordSplitter();

  void start(std::string_view text);  // the text must outlive the words
  bool next(std::string_view& word);  // false at the end

 private:
  struct Match;
  std::size_t ascii_end(std::size_t at) const;
  std::size_t match_end(std::size_t at);

  std::unique_ptr<Match> match_;
  bool pattern_only_;
  std::string_view text_;
  std::size_t at_ = 0;
  std::size_t valid_end_ = 0;  // text_[at_, valid_end_) is well-formed
};

}  // namespace spectrain

#pragma once

#include <cstddef>
#include <string_view>

namespace spectrain {

// Bytes of the well-formed UTF-8 character that `text` begins with (Unicode 15, table 3-7: no overlong forms,
// no surrogates, nothing above U+10FFFF), or 0 where it begins with none.
std::size_t utf8_character(std::string_view text);

// Length of the longest prefix that is well-formed UTF-8.
std::size_t utf8_valid_prefix(std::string_view text);

// The code point of a character of `length` bytes as utf8_character measured it.
char32_t utf8_code_point(std::string_view text, std::size_t length);

// Unicode's White_Space property: what \s of GPT-2's pattern means.
bool is_white_space(char32_t c);

// The largest place p <= limit to cut `text` such that encoding both halves gives the ids of the whole under
// GPT-2's splitting: a white-space byte follows a character that is not white space (no alternative of the
// pattern reaches over such a place, and none looks back). Where the upper half of [0, limit] has no such
// place, the nearest character border, which is deterministic but may cut a word. 0 < p <= limit for 8 <=
// limit < text.size().
std::size_t safe_cut(std::string_view text, std::size_t limit);

}  // namespace spectrain

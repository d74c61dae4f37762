#include "data/utf8.h"

#include <cstdint>
#include <cstring>

namespace spectrain {
namespace {

unsigned byte_at(std::string_view text, std::size_t i) { return static_cast<unsigned char>(text[i]); }
bool continues(std::string_view text, std::size_t i) { return (byte_at(text, i) & 0xC0) == 0x80; }

bool is_ascii_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

// Whether the character that ends just before `end` is something other than white space. Bytes that are no
// character at all count as other: they are words of their own.
bool ends_word(std::string_view text, std::size_t end) {
  const std::size_t last = end - 1;
  if (byte_at(text, last) < 0x80) return !is_ascii_space(text[last]);
  std::size_t start = last;
  while (start > 0 && last - start < 3 && continues(text, start)) --start;
  const std::size_t length = utf8_character(text.substr(start, end - start));
  return length != end - start || !is_white_space(utf8_code_point(text.substr(start), length));
}

}  // namespace

std::size_t utf8_character(std::string_view text) {
  if (text.empty()) return 0;
  const unsigned a = byte_at(text, 0);
  if (a < 0x80) return 1;
  if (a < 0xC2 || a > 0xF4) return 0;
  const std::size_t length = a < 0xE0 ? 2 : a < 0xF0 ? 3 : 4;
  if (text.size() < length) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if (!continues(text, i)) return 0;
  }
  const unsigned b = byte_at(text, 1);
  if ((a == 0xE0 && b < 0xA0) || (a == 0xED && b > 0x9F)) return 0;
  if ((a == 0xF0 && b < 0x90) || (a == 0xF4 && b > 0x8F)) return 0;
  return length;
}

std::size_t utf8_valid_prefix(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    std::uint64_t eight;
    while (at + 8 <= text.size()) {
      std::memcpy(&eight, text.data() + at, 8);
      if (eight & 0x8080808080808080ull) break;
      at += 8;
    }
    if (at == text.size()) break;
    const std::size_t length = utf8_character(text.substr(at, 4));
    if (length == 0) return at;
    at += length;
  }
  return at;
}

char32_t utf8_code_point(std::string_view text, std::size_t length) {
  if (length == 1) return byte_at(text, 0);
  char32_t c = byte_at(text, 0) & (0x7Fu >> length);
  for (std::size_t i = 1; i < length; ++i) c = c << 6 | (byte_at(text, i) & 0x3F);
  return c;
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::size_t safe_cut(std::string_view text, std::size_t limit) {
  for (std::size_t p = limit; p > limit / 2 && p > 0; --p) {
    if (is_ascii_space(text[p]) && ends_word(text, p)) return p;
  }
  std::size_t p = limit;
  while (p > limit - 3 && continues(text, p)) --p;
  return p;
}

}  // namespace spectrain

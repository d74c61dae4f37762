#include "data/tokenizer.h"

#include <fmt/format.h>

#include "kernels/error.h"

namespace spectrain {

std::int64_t Tokenizer::vocab() const { return static_cast<std::int64_t>(tokens_.size()); }

std::string Tokenizer::description() const { return fmt::format("{}, {} ids", kind(), vocab()); }

std::uint64_t Tokenizer::fingerprint() const {
  std::uint64_t hash = 0xcbf29ce484222325ull;
  const auto add = [&](unsigned char byte) { hash = (hash ^ byte) * 0x100000001b3ull; };
  const auto add_number = [&](std::uint64_t number) {
    for (int shift = 0; shift < 64; shift += 8) add(static_cast<unsigned char>(number >> shift));
  };
  add_number(static_cast<std::uint64_t>(end_of_text_));
  for (const std::string& token : tokens_) {
    add_number(token.size());
    for (const char c : token) add(static_cast<unsigned char>(c));
  }
  return hash;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  encode(text, ids);
  return ids;
}

std::string_view Tokenizer::bytes_of(std::int32_t id) const {
  if (id < 0 || id >= vocab()) {
    throw RequestError(
        fmt::format("token id {} is outside the vocabulary of {} ids ({}); use the tokenizer the tokens "
                    "were made with",
                    id, vocab(), kind()));
  }
  return tokens_[static_cast<std::size_t>(id)];
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string text;
  for (const std::int32_t id : ids) text += bytes_of(id);
  return text;
}

}  // namespace spectrain

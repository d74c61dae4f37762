#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace spectrain {

// Turns bytes into token ids and back. Thread-safe. Every tokenizer here covers all 256 bytes, so for any
// bytes at all, valid UTF-8 or not, decode(encode(x)) == x.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  virtual std::string kind() const = 0;  // "bytes", "gpt2", "bpe"
  std::int64_t vocab() const;            // number of ids, the end of text included
  std::int32_t end_of_text() const { return end_of_text_; }
  std::string description() const;  // "gpt2, 50257 ids"
  // 64-bit FNV-1a hash of all tokens' bytes and the end of text: equal when ids mean the same.
  std::uint64_t fingerprint() const;

  // Appends the ids of ordinary text: special tokens are never parsed, "<|endoftext|>" is 13 characters.
  virtual void encode(std::string_view text, std::vector<std::int32_t>& ids) const = 0;
  std::vector<std::int32_t> encode(std::string_view text) const;

  // The bytes of one id; the end of text is "<|endoftext|>". Throws RequestError for an id outside [0,
  // vocab).
  std::string_view bytes_of(std::int32_t id) const;
  std::string decode(std::span<const std::int32_t> ids) const;

  // Writes the tokenizer.json at `path` and, where it names other files, those beside it (GPT-2's vocab.bpe
  // and encoder.json): load_tokenizer(path) gives this tokenizer again, wherever the directory is moved.
  // Error when the disk refuses.
  virtual void save_as(const std::string& path) const = 0;
  void save(const std::string& directory) const { save_as(directory + "/tokenizer.json"); }

 protected:
  Tokenizer(std::vector<std::string> tokens, std::int32_t end_of_text)
      : tokens_(std::move(tokens)), end_of_text_(end_of_text) {}
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  std::vector<std::string> tokens_;  // bytes of each id

 private:
  std::int32_t end_of_text_;
};

inline constexpr std::string_view kEndOfText = "<|endoftext|>";

// "bytes": id = byte, 256 = end of text, 257 ids.
// "gpt2=<dir>": <dir>/vocab.bpe and encoder.json (or merges.txt and vocab.json, their names elsewhere).
// otherwise a tokenizer.json of ours, or a directory that holds one.
// Throws RequestError naming the file and what is wrong with it.
std::unique_ptr<Tokenizer> load_tokenizer(const std::string& spec);

// One merge of a byte-pair tokenizer trained here (data/bpe_train.h).
struct TokenPair {
  std::int32_t left = 0, right = 0;
  bool operator==(const TokenPair&) const = default;
};

// Ids 0..255 are the bytes, 256 + i is merge i (of ids below it), the last id is the end of text.
// Throws RequestError where a merge names an id that does not exist yet.
std::unique_ptr<Tokenizer> make_bpe_tokenizer(std::vector<TokenPair> merges);

}  // namespace spectrain

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "data/mapped_file.h"

namespace spectrain {

// Token shards, the files of llm.c and of the speedruns. Little-endian:
//   256 x int32 header: [0] magic, [1] version, [2] low and [3] high 32 bits of the number of tokens, the
//   rest 0; then the token ids, uint16 (magic 20240520, version 1) or uint32 (magic 20240801, version 7).
// Published files hold fewer than 2^31 tokens and zeros from [3] on, so they load unchanged. The size of the
// file must be exactly 1024 + tokens * width bytes.
enum class TokenWidth : std::uint8_t { u16 = 2, u32 = 4 };  // the value is the bytes of one token

inline constexpr std::int64_t kShardHeaderBytes = 1024;

// The width that holds ids 0 .. vocab - 1.
TokenWidth token_width(std::int64_t vocab);

// One mapped shard. Thread-safe.
class TokenShard {
 public:
  // Throws RequestError, one sentence with file, byte offset and value: missing file, shorter than a header,
  // unknown magic, unknown version, a size that is not what the header says.
  explicit TokenShard(const std::string& path);

  const std::string& path() const { return file_.path(); }
  std::int64_t tokens() const { return tokens_; }
  TokenWidth width() const { return width_; }
  std::int64_t offset_of(std::int64_t token) const {  // its byte offset in the file
    return kShardHeaderBytes + token * static_cast<std::int64_t>(width_);
  }

  // out[i] = token first + i. The caller keeps first + out.size() <= tokens() (std::logic_error). With vocab
  // > 0 an id >= vocab, and always an id above 2^31 - 1, is an Error naming file, byte offset and id. Also an
  // Error where the file was cut since it was opened.
  void read(std::int64_t first, std::span<std::int32_t> out, std::int64_t vocab = 0) const;

 private:
  MappedFile file_;
  std::int64_t tokens_ = 0;
  TokenWidth width_ = TokenWidth::u16;
};

// Writes one shard aside and renames it at finish(); without finish() nothing appears.
class ShardWriter {
 public:
  ShardWriter(std::string path, TokenWidth width);
  ~ShardWriter();
  // Ids must fit the width (std::logic_error). Throws Error when the disk refuses.
  void write(std::span<const std::int32_t> tokens);
  std::int64_t tokens() const { return tokens_; }
  void finish();

 private:
  std::unique_ptr<class StagedFile> file_;
  std::vector<std::uint16_t> narrow_;
  TokenWidth width_;
  std::int64_t tokens_ = 0;
};

}  // namespace spectrain

#include "data/shard.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "data/staged_file.h"
#include "kernels/error.h"

namespace spectrain {
namespace {

static_assert(std::endian::native == std::endian::little,
              "token shards are little-endian files read as they lie");

constexpr std::int32_t kMagic16 = 20240520, kVersion16 = 1;
constexpr std::int32_t kMagic32 = 20240801, kVersion32 = 7;

using Header = std::array<std::uint32_t, 256>;
static_assert(sizeof(Header) == kShardHeaderBytes);

Header make_header(TokenWidth width, std::int64_t tokens) {
  Header header{};
  header[0] = static_cast<std::uint32_t>(width == TokenWidth::u16 ? kMagic16 : kMagic32);
  header[1] = static_cast<std::uint32_t>(width == TokenWidth::u16 ? kVersion16 : kVersion32);
  header[2] = static_cast<std::uint32_t>(tokens);
  header[3] = static_cast<std::uint32_t>(static_cast<std::uint64_t>(tokens) >> 32);
  return header;
}

TokenWidth check_kind(const std::string& path, const Header& header) {
  const auto magic = static_cast<std::int32_t>(header[0]), version = static_cast<std::int32_t>(header[1]);
  if (magic != kMagic16 && magic != kMagic32) {
    throw RequestError(
        fmt::format("{}: byte 0 holds magic {}, a token shard begins with {} (uint16) or {} (uint32); "
                    "make shards of text with 'spectrain data pack'",
                    path, magic, kMagic16, kMagic32));
  }
  const std::int32_t expected = magic == kMagic16 ? kVersion16 : kVersion32;
  if (version != expected) {
    throw RequestError(fmt::format(
        "{}: byte 4 holds version {}, magic {} is known with version {} only; pack the text again", path,
        version, magic, expected));
  }
  return magic == kMagic16 ? TokenWidth::u16 : TokenWidth::u32;
}

}  // namespace

TokenWidth token_width(std::int64_t vocab) { return vocab <= 65536 ? TokenWidth::u16 : TokenWidth::u32; }

TokenShard::TokenShard(const std::string& path) : file_(path) {
  if (file_.size() < kShardHeaderBytes) {
    throw RequestError(
        fmt::format("{}: is {} bytes long, shorter than a token shard's header of {} bytes; "
                    "download or pack it again",
                    path, file_.size(), kShardHeaderBytes));
  }
  Header header;
  std::memcpy(header.data(), file_.bytes().data(), sizeof(header));
  width_ = check_kind(path, header);
  const std::uint64_t count = header[2] | static_cast<std::uint64_t>(header[3]) << 32;
  const std::int64_t payload = file_.size() - kShardHeaderBytes, width = static_cast<std::int64_t>(width_);
  if (count > static_cast<std::uint64_t>(INT64_MAX / width) ||
      static_cast<std::int64_t>(count) * width != payload) {
    throw RequestError(fmt::format(
        "{}: byte 8 promises {} tokens of {} bytes, but {} bytes follow the header (byte {}); the file is "
        "{}, download or pack it again",
        path, count, width, payload, kShardHeaderBytes,
        count > static_cast<std::uint64_t>(payload / width) ? "cut short" : "longer than it says"));
  }
  tokens_ = static_cast<std::int64_t>(count);
}

void TokenShard::read(std::int64_t first, std::span<std::int32_t> out, std::int64_t vocab) const {
  const auto count = static_cast<std::int64_t>(out.size());
  if (first < 0 || count > tokens_ - first) {
    throw std::logic_error(
        fmt::format("{}: tokens {} to {} asked of {}", path(), first, first + count, tokens_));
  }
  file_.check_still_whole();
  const std::byte* source = file_.bytes().data() + offset_of(first);
  std::uint32_t largest = 0;
  if (width_ == TokenWidth::u16) {
    const auto* ids = reinterpret_cast<const std::uint16_t*>(source);
    for (std::int64_t i = 0; i < count; ++i) {
      out[static_cast<std::size_t>(i)] = ids[i];
      largest = std::max<std::uint32_t>(largest, ids[i]);
    }
  } else {
    const auto* ids = reinterpret_cast<const std::uint32_t*>(source);
    for (std::int64_t i = 0; i < count; ++i) {
      out[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(ids[i]);
      largest = std::max(largest, ids[i]);
    }
  }
  const std::int64_t limit = vocab > 0 ? vocab : std::int64_t{INT32_MAX} + 1;
  if (largest < limit) return;
  for (std::int64_t i = 0; i < count; ++i) {
    const auto id = static_cast<std::uint32_t>(out[static_cast<std::size_t>(i)]);
    if (id >= limit) {
      throw Error(
          fmt::format("{}: byte {} (token {}) holds id {}, but the vocabulary has {} ids; the shard was made "
                      "with another tokenizer or is damaged",
                      path(), offset_of(first + i), first + i, id, limit));
    }
  }
}

ShardWriter::ShardWriter(std::string path, TokenWidth width)
    : file_(std::make_unique<StagedFile>(std::move(path))), width_(width) {
  const Header header = make_header(width_, 0);
  file_->write(std::as_bytes(std::span(header)));  // the count is known at the end
}

ShardWriter::~ShardWriter() = default;

void ShardWriter::write(std::span<const std::int32_t> tokens) {
  const std::int32_t limit = width_ == TokenWidth::u16 ? UINT16_MAX : INT32_MAX;
  for (const std::int32_t id : tokens) {
    if (id < 0 || id > limit) throw std::logic_error(fmt::format("token id {} does not fit the shard", id));
  }
  if (width_ == TokenWidth::u16) {
    narrow_.assign(tokens.begin(), tokens.end());
    file_->write(std::as_bytes(std::span(narrow_)));
  } else {
    file_->write(std::as_bytes(tokens));
  }
  tokens_ += static_cast<std::int64_t>(tokens.size());
}

void ShardWriter::finish() {
  const Header header = make_header(width_, tokens_);
  file_->overwrite(0, std::as_bytes(std::span(header)));
  file_->commit();
}

}  // namespace spectrain

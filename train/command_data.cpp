#include "train/command_data.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>

#include "data/bpe_train.h"
#include "data/loader.h"
#include "data/pack.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "kernels/error.h"

namespace spectrain {
namespace fs = std::filesystem;
namespace {

constexpr std::int64_t kBlock = std::int64_t{1} << 20;  // tokens read at a time

class Clock {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count();
  }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

void print_set(const char* what, const PackedSet& set) {
  const std::size_t count = set.shards.size();
  fmt::print("{}: {} documents, {} tokens in {} shard{}{}\n", what, set.documents, set.tokens, count,
             count == 1 ? "" : "s", count == 0 ? "" : ", from " + set.shards.front());
}

std::string beside(const std::string& shard) {
  return (fs::absolute(shard).parent_path() / "tokenizer.json").string();
}

// The tokenizer that was asked for, else the one beside the shard, else none.
std::unique_ptr<Tokenizer> tokenizer_of(const std::string& asked, const std::string& shard) {
  if (!asked.empty()) return load_tokenizer(asked);
  const std::string saved = beside(shard);
  return fs::exists(saved) ? load_tokenizer(saved) : nullptr;
}

struct ShardCount {
  std::int64_t documents = 0;
  std::int32_t largest = -1;
};

ShardCount count_of(const TokenShard& shard, std::int32_t end_of_text) {
  ShardCount result;
  std::vector<std::int32_t> ids;
  for (std::int64_t at = 0; at < shard.tokens(); at += kBlock) {
    ids.resize(static_cast<std::size_t>(std::min(kBlock, shard.tokens() - at)));
    shard.read(at, ids);
    for (const std::int32_t id : ids) {
      result.documents += id == end_of_text;
      result.largest = std::max(result.largest, id);
    }
  }
  return result;
}

}  // namespace

int run_data_pack(const DataPackRequest& request) {
  PackOptions options;
  options.tokenizer = request.tokenizer;
  options.split_on = request.split_on;
  options.out = request.out;
  options.shard_tokens = request.shard_tokens;
  options.prefix = request.prefix;
  options.validation_fraction = request.validation_fraction;
  options.force = request.force;
  options.threads = request.threads;
  options.inputs = request.inputs;
  const Clock clock;
  const PackResult result = pack_documents(options);
  const double seconds = clock.seconds();
  fmt::print("tokenizer: {}\n", result.tokenizer);
  print_set(request.prefix.c_str(), result.main);
  if (request.validation_fraction > 0) print_set("val", result.validation);
  fmt::print(
      "{} bytes of text in {:.1f} s ({:.1f} MB/s), {:.3f} bytes per token\n", result.bytes, seconds,
      static_cast<double>(result.bytes) / seconds / 1e6,
      static_cast<double>(result.bytes) / static_cast<double>(result.main.tokens + result.validation.tokens));
  return 0;
}

int run_data_train_tokenizer(const DataTrainTokenizerRequest& request) {
  if (request.out.empty())
    throw RequestError("training a tokenizer needs a file to write; name one with --out");
  if (fs::is_directory(request.out)) {
    throw RequestError(fmt::format("{}: is a directory; name the file to write", request.out));
  }
  if (fs::exists(request.out) && !request.force) {
    throw RequestError(
        fmt::format("{}: exists already; choose another name, or say --force to replace it", request.out));
  }
  const fs::path parent = fs::absolute(request.out).parent_path();
  if (!fs::is_directory(parent)) {
    throw RequestError(fmt::format("{}: no such directory; make it first", parent.string()));
  }
  BpeTrainOptions options;
  options.vocab_size = request.vocab_size;
  options.split_on = request.split_on;
  options.threads = request.threads;
  options.inputs = request.inputs;
  const Clock clock;
  const BpeTrainResult result = train_bpe(options);
  result.tokenizer->save_as(request.out);
  fmt::print("{}: {}, fingerprint {:016x}\n", request.out, result.tokenizer->description(),
             result.tokenizer->fingerprint());
  fmt::print("learned from {} documents, {} bytes, {} words ({} distinct) in {:.1f} s\n", result.documents,
             result.bytes, result.words, result.distinct_words, clock.seconds());
  return 0;
}

int run_data_info(const DataInfoRequest& request) {
  constexpr std::int32_t kGpt2EndOfText = 50256;
  std::int64_t tokens = 0, documents = 0;
  std::int32_t largest = -1;
  const auto shards = expand_shards(request.shards);
  for (const std::string& path : shards) {
    const TokenShard shard(path);
    const auto tokenizer = tokenizer_of(request.tokenizer, path);
    const ShardCount count = count_of(shard, tokenizer ? tokenizer->end_of_text() : kGpt2EndOfText);
    fmt::print("{}: {} tokens, {}, {} documents begin, largest id {}{}\n", path, shard.tokens(),
               shard.width() == TokenWidth::u16 ? "uint16" : "uint32", count.documents, count.largest,
               tokenizer ? fmt::format(" ({})", tokenizer->description()) : "");
    if (tokenizer && count.largest >= tokenizer->vocab()) {
      fmt::print("{}: warning: ids above the tokenizer's vocabulary of {}\n", path, tokenizer->vocab());
    }
    tokens += shard.tokens();
    documents += count.documents;
    largest = std::max(largest, count.largest);
  }
  if (shards.size() > 1) {
    fmt::print("all {} shards: {} tokens, {} documents begin, largest id {}\n", shards.size(), tokens,
               documents, largest);
  }
  return 0;
}

int run_data_decode(const DataDecodeRequest& request) {
  const TokenShard shard(request.shard);
  if (request.from < 0 || request.count < 0 || request.from > shard.tokens()) {
    throw RequestError(fmt::format("{}: holds tokens 0 to {}; --from {} --count {} asks for others",
                                   request.shard, shard.tokens() - 1, request.from, request.count));
  }
  const auto tokenizer = tokenizer_of(request.tokenizer, request.shard);
  if (!tokenizer) {
    throw RequestError(
        fmt::format("{}: no such file, so how these tokens read is unknown; name a tokenizer with "
                    "--tokenizer",
                    beside(request.shard)));
  }
  const std::int64_t end = request.from + std::min(request.count, shard.tokens() - request.from);
  std::vector<std::int32_t> ids;
  for (std::int64_t at = request.from; at < end; at += kBlock) {
    ids.resize(static_cast<std::size_t>(std::min(kBlock, end - at)));
    shard.read(at, ids, tokenizer->vocab());
    const std::string text = tokenizer->decode(ids);
    std::fwrite(text.data(), 1, text.size(), stdout);
  }
  std::fputc('\n', stdout);
  std::fflush(stdout);
  return 0;
}

}  // namespace spectrain

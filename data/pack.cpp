#include "data/pack.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <utility>

#include "data/documents.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "kernels/error.h"

namespace spectrain {
namespace fs = std::filesystem;
namespace {

constexpr const char* kValidationPrefix = "val";

// The shards of one prefix, each exactly `limit` tokens but the last.
class ShardSequence {
 public:
  ShardSequence(std::string directory, std::string prefix, TokenWidth width, std::int64_t limit)
      : directory_(std::move(directory)), prefix_(std::move(prefix)), width_(width), limit_(limit) {}

  void write(std::span<const std::int32_t> ids) {
    set.tokens += static_cast<std::int64_t>(ids.size());
    while (!ids.empty()) {
      if (!writer_) {
        set.shards.push_back(fmt::format("{}_{:06}.bin", prefix_, set.shards.size()));
        writer_ = std::make_unique<ShardWriter>(directory_ + "/" + set.shards.back(), width_);
      }
      const auto room = static_cast<std::size_t>(limit_ - writer_->tokens());
      const std::size_t count = std::min(room, ids.size());
      writer_->write(ids.first(count));
      ids = ids.subspan(count);
      if (count == room) finish();
    }
  }
  void finish() {
    if (writer_) writer_->finish();
    writer_.reset();
  }

  PackedSet set;  // shards by name

 private:
  std::string directory_, prefix_;
  TokenWidth width_;
  std::int64_t limit_;
  std::unique_ptr<ShardWriter> writer_;
};

// A directory of its own inside `out`, gone with everything in it at the end; so is `out` where this made it
// and nothing was moved there.
class StagingDirectory {
 public:
  explicit StagingDirectory(const std::string& out)
      : out_(out), path_(fmt::format("{}/.packing-{}", out, ::getpid())) {
    std::error_code failed;
    fs::create_directories(path_, failed);
    if (failed) throw Error(fmt::format("{}: cannot be made: {}", path_, failed.message()));
  }
  ~StagingDirectory() {
    std::error_code ignored;
    fs::remove_all(path_, ignored);
    fs::remove(out_, ignored);  // fails, as it should, where it holds anything
  }
  StagingDirectory(const StagingDirectory&) = delete;
  StagingDirectory& operator=(const StagingDirectory&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string out_, path_;
};

bool is_shard_of(const fs::path& file, const std::string& prefix) {
  const std::string name = file.filename().string();
  return name.starts_with(prefix + "_") && name.ends_with(".bin");
}

std::vector<std::string> shards_of(const std::string& directory, const std::vector<std::string>& prefixes) {
  std::vector<std::string> found;
  if (!fs::is_directory(directory)) return found;
  for (const auto& entry : fs::directory_iterator(directory)) {
    for (const std::string& prefix : prefixes) {
      if (is_shard_of(entry.path(), prefix)) found.push_back(entry.path().filename().string());
    }
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<std::string> prefixes_of(const PackOptions& options) {
  std::vector<std::string> prefixes = {options.prefix};
  if (options.validation_fraction > 0) prefixes.emplace_back(kValidationPrefix);
  return prefixes;
}

void check_options(const PackOptions& o) {
  if (o.out.empty()) throw RequestError("packing needs a directory for the shards; name one with --out");
  if (o.prefix.empty() || o.prefix.find('/') != std::string::npos) {
    throw RequestError(
        fmt::format("'{}' cannot begin a shard's name; give a prefix such as train", o.prefix));
  }
  if (o.shard_tokens < 1)
    throw RequestError(fmt::format("shards of {} tokens cannot be; ask for at least 1", o.shard_tokens));
  if (!(o.validation_fraction >= 0 && o.validation_fraction < 1)) {
    throw RequestError(fmt::format("a validation fraction of {} is not in [0, 1)", o.validation_fraction));
  }
  if (o.validation_fraction > 0 && o.prefix == kValidationPrefix) {
    throw RequestError("prefix val is where the validation fraction goes; choose another prefix");
  }
  if (fs::exists(o.out) && !fs::is_directory(o.out)) {
    throw RequestError(fmt::format("{}: is not a directory; name one for the shards", o.out));
  }
}

void check_out(const PackOptions& o, const Tokenizer& tokenizer) {
  if (o.force) return;
  const auto there = shards_of(o.out, prefixes_of(o));
  if (!there.empty()) {
    throw RequestError(
        fmt::format("{}: already holds {} ({} shards); choose another directory or prefix, or say "
                    "--force to replace them",
                    o.out, there.front(), there.size()));
  }
  const std::string saved = o.out + "/tokenizer.json";
  if (fs::exists(saved) && load_tokenizer(saved)->fingerprint() != tokenizer.fingerprint()) {
    throw RequestError(
        fmt::format("{}: belongs to another tokenizer than {}; choose another directory, or say --force "
                    "to replace it",
                    saved, tokenizer.description()));
  }
}

bool is_validation(const std::string& text, double fraction) {
  constexpr std::size_t kHashed = 65536;  // a document's first piece always holds so much of it
  static_assert(2 * kHashed <= DocumentReader::kPieceBytes);
  std::uint64_t hash = 0xcbf29ce484222325ull;
  for (std::size_t i = 0; i < std::min(text.size(), kHashed); ++i) {
    hash = (hash ^ static_cast<unsigned char>(text[i])) * 0x100000001b3ull;
  }
  hash = (hash ^ (hash >> 32)) * 0xD6E8FEB86659FD93ull;  // FNV's high bits alone are not even enough
  hash ^= hash >> 32;
  return static_cast<double>(hash >> 11) * 0x1p-53 < fraction;
}

void move_into_place(const std::string& from, const PackOptions& options) {
  for (const std::string& old : shards_of(options.out, prefixes_of(options)))
    fs::remove(options.out + "/" + old);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(from)) files.push_back(entry.path());
  // The tokenizer first: shards without it would be of unknown meaning.
  std::sort(files.begin(), files.end(), [](const fs::path& a, const fs::path& b) {
    const bool shard_a = a.extension() == ".bin", shard_b = b.extension() == ".bin";
    return shard_a != shard_b ? shard_b : a < b;
  });
  for (const fs::path& file : files) fs::rename(file, fs::path(options.out) / file.filename());
}

}  // namespace

PackResult pack_documents(const PackOptions& options) {
  check_options(options);
  const auto tokenizer = load_tokenizer(options.tokenizer);
  DocumentReader reader(expand_inputs(options.inputs), options.split_on);
  check_out(options, *tokenizer);

  const StagingDirectory staging(options.out);
  const TokenWidth width = token_width(tokenizer->vocab());
  ShardSequence training(staging.path(), options.prefix, width, options.shard_tokens);
  ShardSequence validation(staging.path(), kValidationPrefix, width, options.shard_tokens);
  ShardSequence* target = &training;
  PackResult result;

  const int threads = options.threads > 0 ? options.threads : available_threads();
  std::vector<std::vector<std::int32_t>> ids(kPiecesPerBatch);
  const auto encode = [&](int, std::size_t index, const DocumentPiece& piece) {
    auto& list = ids[index];
    list.clear();
    if (piece.begins) list.push_back(tokenizer->end_of_text());
    tokenizer->encode(piece.text, list);
  };
  const auto write = [&](const std::vector<DocumentPiece>& batch) {
    for (std::size_t i = 0; i < batch.size(); ++i) {
      if (batch[i].begins) {
        target = is_validation(batch[i].text, options.validation_fraction) ? &validation : &training;
        ++target->set.documents;
      }
      target->write(ids[i]);
      // Short documents reuse their lists; long ones give them back, or every place would end up with a long
      // list.
      if (ids[i].capacity() > 16384) std::vector<std::int32_t>().swap(ids[i]);
      result.bytes += static_cast<std::int64_t>(batch[i].text.size());
    }
  };
  for_each_piece(reader, threads, encode, write);
  training.finish();
  validation.finish();
  if (training.set.documents + validation.set.documents == 0) {
    throw RequestError(
        fmt::format("{}: the inputs hold no text; nothing was packed", options.inputs.front()));
  }
  tokenizer->save(staging.path());
  try {
    move_into_place(staging.path(), options);
  } catch (const fs::filesystem_error& error) {
    throw Error(fmt::format("{}: the shards cannot be moved there: {}", options.out, error.code().message()));
  }

  result.main = std::move(training.set);
  result.validation = std::move(validation.set);
  for (PackedSet* set : {&result.main, &result.validation}) {
    for (std::string& shard : set->shards) shard = options.out + "/" + shard;
  }
  result.vocab = tokenizer->vocab();
  result.tokenizer = tokenizer->description();
  return result;
}

}  // namespace spectrain

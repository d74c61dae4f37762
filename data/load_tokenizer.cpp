#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

#include "data/pair_tokenizer.h"
#include "data/staged_file.h"
#include "kernels/error.h"

namespace spectrain {
namespace fs = std::filesystem;
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::string> byte_tokens() {
  std::vector<std::string> tokens;
  for (int byte = 0; byte < 256; ++byte) tokens.emplace_back(1, static_cast<char>(byte));
  return tokens;
}

void write_json(const std::string& path, const Json& json) {
  StagedFile file(path);
  file.write(json.dump() + "\n");
  file.commit();
}

Json json_head(const Tokenizer& tokenizer) {
  return {{"spectrain_tokenizer", 1},
          {"kind", tokenizer.kind()},
          {"vocab", tokenizer.vocab()},
          {"end_of_text", tokenizer.end_of_text()}};
}

class BytesTokenizer final : public Tokenizer {
 public:
  BytesTokenizer() : Tokenizer(tokens(), 256) {}
  std::string kind() const override { return "bytes"; }
  using Tokenizer::encode;
  void encode(std::string_view text, std::vector<std::int32_t>& ids) const override {
    ids.reserve(ids.size() + text.size());
    for (const char c : text) ids.push_back(static_cast<unsigned char>(c));
  }
  void save_as(const std::string& path) const override { write_json(path, json_head(*this)); }

 private:
  static std::vector<std::string> tokens() {
    auto all = byte_tokens();
    all.emplace_back(kEndOfText);
    return all;
  }
};

class BpeTokenizer final : public PairTokenizer {
 public:
  BpeTokenizer(std::vector<std::string> tokens, std::vector<TokenPair> pairs,
               const std::vector<PairMerges::Merge>& merges)
      : PairTokenizer(std::move(tokens), static_cast<std::int32_t>(256 + pairs.size()), merges),
        pairs_(std::move(pairs)) {}
  std::string kind() const override { return "bpe"; }
  void save_as(const std::string& path) const override {
    Json json = json_head(*this);
    Json& list = json["merges"] = Json::array();
    for (const TokenPair& pair : pairs_) list.push_back({pair.left, pair.right});
    write_json(path, json);
  }

 private:
  std::vector<TokenPair> pairs_;
};

std::unique_ptr<Tokenizer> from_json(const std::string& path, const Json& json) {
  const auto refuse = [&](const std::string& why) {
    return RequestError(fmt::format("{}: {}; make one with 'spectrain data train-tokenizer'", path, why));
  };
  if (!json.is_object() || !json.contains("spectrain_tokenizer"))
    throw refuse("is not a tokenizer made here");
  if (json["spectrain_tokenizer"] != 1) throw refuse("has a format version other than 1");
  const std::string kind = json.value("kind", "");
  std::unique_ptr<Tokenizer> made;
  if (kind == "bytes") {
    made = make_bytes_tokenizer();
  } else if (kind == "gpt2") {
    const std::string parent = fs::path(path).parent_path().string();
    made = load_gpt2_tokenizer(parent.empty() ? "." : parent);
  } else if (kind == "bpe") {
    std::vector<TokenPair> merges;
    for (const auto& pair : json.at("merges")) {
      if (pair.size() != 2) throw refuse(fmt::format("merge {} is not a pair", merges.size()));
      merges.push_back({pair[0].get<std::int32_t>(), pair[1].get<std::int32_t>()});
    }
    try {
      made = make_bpe_tokenizer(std::move(merges));
    } catch (const RequestError& error) {
      throw refuse(error.what());
    }
  } else {
    throw refuse(fmt::format("kind '{}' is none of bytes, gpt2, bpe", kind));
  }
  if (json.value("vocab", std::int64_t{-1}) != made->vocab()) {
    throw refuse(fmt::format("says vocab {} but its tokenizer has {}", json.value("vocab", std::int64_t{-1}),
                             made->vocab()));
  }
  return made;
}

}  // namespace

std::unique_ptr<Tokenizer> make_bytes_tokenizer() { return std::make_unique<BytesTokenizer>(); }

std::unique_ptr<Tokenizer> make_bpe_tokenizer(std::vector<TokenPair> merges) {
  std::vector<std::string> tokens = byte_tokens();
  std::vector<PairMerges::Merge> list;
  for (const auto& [left, right] : merges) {
    const auto next = static_cast<std::int32_t>(tokens.size());
    if (left < 0 || right < 0 || left >= next || right >= next) {
      throw RequestError(fmt::format("merge {} joins ids {} and {}, of which only 0 to {} exist by then",
                                     list.size(), left, right, next - 1));
    }
    tokens.push_back(tokens[static_cast<std::size_t>(left)] + tokens[static_cast<std::size_t>(right)]);
    list.push_back({left, right, next});
  }
  tokens.emplace_back(kEndOfText);
  return std::make_unique<BpeTokenizer>(std::move(tokens), std::move(merges), list);
}

std::unique_ptr<Tokenizer> load_tokenizer(const std::string& spec) {
  if (spec == "bytes") return make_bytes_tokenizer();
  if (spec.starts_with("gpt2=")) return load_gpt2_tokenizer(spec.substr(5));
  std::error_code ignored;
  const std::string path = fs::is_directory(spec, ignored) ? spec + "/tokenizer.json" : spec;
  std::ifstream file(path);
  if (!file || fs::is_directory(path, ignored)) {
    throw RequestError(
        fmt::format("tokenizer '{}': no such file; say bytes, gpt2=<directory with vocab.bpe and "
                    "encoder.json>, or the path of a tokenizer.json",
                    spec));
  }
  try {
    return from_json(path, Json::parse(file));
  } catch (const nlohmann::json::exception& error) {
    throw RequestError(fmt::format("{}: is not a tokenizer file ({})", path, error.what()));
  }
}

}  // namespace spectrain

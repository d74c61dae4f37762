#include <fmt/format.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <unordered_map>
#include <utility>

#include "data/pair_tokenizer.h"
#include "data/staged_file.h"
#include "data/utf8.h"
#include "kernels/error.h"

namespace spectrain {
namespace fs = std::filesystem;
namespace {

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw RequestError(fmt::format("{}: cannot be opened; GPT-2's tokenizer needs it", path));
  std::ostringstream text;
  text << file.rdbuf();
  return std::move(text).str();
}

// GPT-2 writes each byte as a printable character: the 188 printable ones of Latin-1 stand for themselves,
// the others, in order, for U+0100, U+0101, ... Index: code point, value: byte or -1.
std::vector<int> printable_bytes() {
  std::vector<int> byte_of(512, -1);
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool printable = (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    byte_of[static_cast<std::size_t>(printable ? byte : next++)] = byte;
  }
  return byte_of;
}

// The bytes that a token string of the files stands for; false where it holds another character.
bool to_bytes(std::string_view printed, std::string& bytes) {
  static const std::vector<int> byte_of = printable_bytes();
  bytes.clear();
  while (!printed.empty()) {
    const std::size_t length = utf8_character(printed);
    const char32_t c = length ? utf8_code_point(printed, length) : 0xFFFF;
    if (c >= byte_of.size() || byte_of[c] < 0) return false;
    bytes.push_back(static_cast<char>(byte_of[c]));
    printed.remove_prefix(length);
  }
  return true;
}

struct Vocabulary {
  std::unordered_map<std::string, std::int32_t> id_of;  // by printed string, as the merges name them
  std::vector<std::string> tokens;
  std::int32_t end_of_text = -1;
};

[[noreturn]] void refuse(const std::string& path, const std::string& why) {
  throw RequestError(fmt::format("{}: {}; take GPT-2's published file", path, why));
}

Vocabulary parse_vocabulary(const std::string& path, const std::string& text) {
  Vocabulary v;
  try {
    const auto json = nlohmann::json::parse(text);
    for (const auto& [token, id] : json.items()) v.id_of.emplace(token, id.get<std::int32_t>());
  } catch (const nlohmann::json::exception&) {
    refuse(path, "is not a JSON object of token strings and ids");
  }
  v.tokens.resize(v.id_of.size());
  std::vector<bool> seen(v.tokens.size());
  for (const auto& [token, id] : v.id_of) {
    const auto i = static_cast<std::size_t>(id);
    if (id < 0 || i >= v.tokens.size() || seen[i]) {
      refuse(path,
             fmt::format("id {} of '{}' is not one of 0 to {}, each once", id, token, v.tokens.size() - 1));
    }
    seen[i] = true;
    if (token == kEndOfText) {
      v.tokens[i] = token;
      v.end_of_text = id;
    } else if (!to_bytes(token, v.tokens[i])) {
      refuse(path,
             fmt::format("token '{}' (id {}) holds a character outside GPT-2's byte alphabet", token, id));
    }
  }
  if (v.end_of_text < 0) refuse(path, fmt::format("has no token '{}'", kEndOfText));
  std::vector<bool> bytes(256);
  for (const std::string& token : v.tokens) {
    if (token.size() == 1) bytes[static_cast<unsigned char>(token[0])] = true;
  }
  for (std::size_t byte = 0; byte < 256; ++byte) {
    if (!bytes[byte]) refuse(path, fmt::format("has no token for byte {}", byte));
  }
  return v;
}

std::vector<PairMerges::Merge> parse_merges(const std::string& path, const std::string& text,
                                            const Vocabulary& v) {
  std::vector<PairMerges::Merge> merges;
  std::istringstream lines(text);
  std::string line;
  for (int number = 1; std::getline(lines, line); ++number) {
    if (!line.empty() && line.back() == '\r') line.pop_back();
    if (line.empty() || (number == 1 && line.starts_with("#version"))) continue;
    const std::size_t space = line.find(' ');
    const auto id = [&](const std::string& token) {
      const auto found = v.id_of.find(token);
      if (found == v.id_of.end())
        refuse(path, fmt::format("line {} names '{}', which is no token", number, token));
      return found->second;
    };
    if (space == std::string::npos) refuse(path, fmt::format("line {} is not two tokens", number));
    const std::string left = line.substr(0, space), right = line.substr(space + 1);
    merges.push_back({id(left), id(right), id(left + right)});
  }
  return merges;
}

class Gpt2Tokenizer final : public PairTokenizer {
 public:
  Gpt2Tokenizer(Vocabulary v, const std::vector<PairMerges::Merge>& merges, std::string vocabulary_text,
                std::string merges_text)
      : PairTokenizer(std::move(v.tokens), v.end_of_text, merges),
        vocabulary_text_(std::move(vocabulary_text)),
        merges_text_(std::move(merges_text)) {}

  std::string kind() const override { return "gpt2"; }

  void save_as(const std::string& path) const override {
    const fs::path directory = fs::path(path).parent_path();
    const auto write = [](const fs::path& name, std::string_view text) {
      StagedFile file(name.string());
      file.write(text);
      file.commit();
    };
    write(directory / "encoder.json", vocabulary_text_);
    write(directory / "vocab.bpe", merges_text_);
    const nlohmann::ordered_json json = {{"spectrain_tokenizer", 1},
                                         {"kind", kind()},
                                         {"vocab", vocab()},
                                         {"end_of_text", end_of_text()},
                                         {"files", {"vocab.bpe", "encoder.json"}}};
    write(path, json.dump(1) + "\n");  // last: it promises the other two
  }

 private:
  std::string vocabulary_text_, merges_text_;  // as read, so that a copy is byte for byte the published file
};

}  // namespace

std::unique_ptr<Tokenizer> load_gpt2_tokenizer(const std::string& directory) {
  const bool other_names = !fs::exists(directory + "/vocab.bpe") && fs::exists(directory + "/merges.txt");
  const std::string merges_path = directory + (other_names ? "/merges.txt" : "/vocab.bpe");
  const std::string vocabulary_path = directory + (other_names ? "/vocab.json" : "/encoder.json");
  std::string vocabulary_text = read_file(vocabulary_path), merges_text = read_file(merges_path);
  Vocabulary v = parse_vocabulary(vocabulary_path, vocabulary_text);
  const auto merges = parse_merges(merges_path, merges_text, v);
  return std::make_unique<Gpt2Tokenizer>(std::move(v), merges, std::move(vocabulary_text),
                                         std::move(merges_text));
}

}  // namespace spectrain

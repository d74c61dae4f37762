#include "data/bpe_train.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "data/word_splitter.h"
#include "kernels/error.h"
#include "tests/data/test_files.h"

namespace spectrain {
namespace {

using namespace testing_files;
using ::testing::HasSubstr;

WordCounts count(const std::string& text) {
  std::map<std::string, std::int64_t> counts;
  WordSplitter splitter;
  splitter.start(text);
  for (std::string_view word; splitter.next(word);) ++counts[std::string(word)];
  return {counts.begin(), counts.end()};
}

// The definition, word for word: count everything anew each round.
std::vector<TokenPair> naive_merges(const WordCounts& words, int merges) {
  std::vector<std::vector<std::int32_t>> ids;
  for (const auto& entry : words) {
    ids.emplace_back();
    for (const char c : entry.first) ids.back().push_back(static_cast<unsigned char>(c));
  }
  std::vector<TokenPair> learned;
  for (int m = 0; m < merges; ++m) {
    std::map<std::pair<std::int32_t, std::int32_t>, std::int64_t> pairs;
    for (std::size_t w = 0; w < ids.size(); ++w) {
      for (std::size_t i = 0; i + 1 < ids[w].size(); ++i)
        pairs[{ids[w][i], ids[w][i + 1]}] += words[w].second;
    }
    if (pairs.empty()) break;
    auto best = pairs.begin();  // the map is sorted by (left, right): the first of equals stays
    for (auto i = pairs.begin(); i != pairs.end(); ++i) {
      if (i->second > best->second) best = i;
    }
    const auto [left, right] = best->first;
    learned.push_back({left, right});
    for (auto& word : ids) {
      std::vector<std::int32_t> merged;
      for (std::size_t i = 0; i < word.size(); ++i) {
        const bool joins = i + 1 < word.size() && word[i] == left && word[i + 1] == right;
        merged.push_back(joins ? 256 + m : word[i]);
        i += joins;
      }
      word = merged;
    }
  }
  return learned;
}

TEST(BpeTrain, EqualsTheNaiveTrainer) {
  const WordCounts repeats = {{"aaaa", 3}, {"aaaaa", 2}, {"abababab", 5}, {"ba", 1}, {"bbabba", 4}};
  EXPECT_EQ(learn_merges(repeats, 100), naive_merges(repeats, 100));
  const std::string file = shared("text/tinyshakespeare.txt");
  SPECTRAIN_NEEDS(file);
  const WordCounts words = count(read_bytes(file).substr(0, 30000));
  const auto learned = learn_merges(words, 400);
  EXPECT_EQ(learned.size(), 400u);
  EXPECT_EQ(learned, naive_merges(words, 400));
}

TEST(BpeTrain, SameOnAnyNumberOfThreadsAndRoundTrips) {
  const std::string file = shared("text/tinyshakespeare.txt");
  SPECTRAIN_NEEDS(file);
  BpeTrainOptions options;
  options.vocab_size = 1000;
  options.split_on = "\n\n";
  options.inputs = {file, shared("text/wikitext2/valid.txt")};
  options.threads = 1;
  const BpeTrainResult one = train_bpe(options);
  EXPECT_EQ(one.tokenizer->vocab(), 1000);
  EXPECT_EQ(one.tokenizer->end_of_text(), 999);
  for (const int threads : {2, 5}) {
    options.threads = threads;
    EXPECT_EQ(train_bpe(options).tokenizer->fingerprint(), one.tokenizer->fingerprint());
  }
  const Scratch dir;
  one.tokenizer->save(dir.path());
  const auto loaded = load_tokenizer(dir / "tokenizer.json");
  EXPECT_EQ(loaded->kind(), "bpe");
  EXPECT_EQ(loaded->fingerprint(), one.tokenizer->fingerprint());
  const std::string text = read_bytes(file);
  const auto ids = loaded->encode(text);
  EXPECT_EQ(ids, one.tokenizer->encode(text));
  EXPECT_LT(ids.size(), text.size() / 2);
  EXPECT_EQ(loaded->decode(ids), text);
  EXPECT_EQ(loaded->decode(loaded->encode("\xFF日本\n")), "\xFF日本\n");
}

TEST(BpeTrain, RefusesVocabulariesThatCannotBe) {
  const Scratch dir;
  write_bytes(dir / "a.txt", "ab");
  BpeTrainOptions options;
  options.inputs = {dir / "a.txt"};
  options.vocab_size = 256;
  EXPECT_THAT(message_of<RequestError>([&] { train_bpe(options); }), HasSubstr("at least 257"));
  options.vocab_size = 259;
  EXPECT_THAT(message_of<RequestError>([&] { train_bpe(options); }), HasSubstr("at most 258"));
  options.vocab_size = 258;
  EXPECT_EQ(train_bpe(options).tokenizer->encode("abab").size(), 2u);
}

}  // namespace
}  // namespace spectrain

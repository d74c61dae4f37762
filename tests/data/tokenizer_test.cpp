#include "data/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "data/shard.h"
#include "data/utf8.h"
#include "data/word_splitter.h"
#include "kernels/error.h"
#include "tests/data/test_files.h"

namespace spectrain {
namespace {

using namespace testing_files;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

#define SPECTRAIN_NEEDS_GPT2() SPECTRAIN_NEEDS(shared("tokenizer/gpt2/encoder.json"))

const Tokenizer& gpt2() {
  static const auto tokenizer = load_tokenizer("gpt2=" + shared("tokenizer/gpt2"));
  return *tokenizer;
}

std::vector<std::string> split_at(const std::string& text, const std::string& separator) {
  std::vector<std::string> parts;
  std::size_t at = 0, next;
  while ((next = text.find(separator, at)) != std::string::npos) {
    parts.push_back(text.substr(at, next - at));
    at = next + separator.size();
  }
  parts.push_back(text.substr(at));
  return parts;
}

std::string random_bytes(std::mt19937& random, std::size_t size) {
  std::string text(size, '\0');
  for (char& c : text) c = static_cast<char>(random());
  return text;
}

// Text that visits every branch of the pattern: ASCII, contractions, runs of white space of many kinds,
// letters and digits of other scripts, and now and then bytes that are no character.
std::string random_text(std::mt19937& random, std::size_t pieces) {
  static const std::vector<std::string> parts = {
      "a",      "Hello", "x9",      "42",   " ",      "  ",     "\n",       "\n\n",    "\t",
      "'s",     "'ll",   "'re",     "'v",   "'l",     "'",      "!?",       "#",       "\r",
      "é",      "日本",  "٣",       "½",    "\u00A0", "\u3000", "\u2028",   "\u0085",  "\u180E",
      "\u200B", "😀",     "e\u0301", "\x1C", "ǅ",      "\xFF",   "\xE2\x82", "\xC0\xAF"};
  std::string text;
  for (std::size_t i = 0; i < pieces; ++i) text += parts[random() % parts.size()];
  return text;
}

std::vector<std::string> words_of(const std::string& text, bool pattern_only) {
  WordSplitter splitter(pattern_only);
  splitter.start(text);
  std::vector<std::string> words;
  for (std::string_view word; splitter.next(word);) words.emplace_back(word);
  return words;
}

bool ends_in_white_space(const std::string& word) {
  std::size_t start = word.size() - 1;
  while (start > 0 && (static_cast<unsigned char>(word[start]) & 0xC0) == 0x80) --start;
  const std::size_t length = utf8_character(std::string_view(word).substr(start));
  return length > 0 && is_white_space(utf8_code_point(std::string_view(word).substr(start), length));
}

TEST(Utf8, KnowsWhatIsWellFormed) {
  EXPECT_EQ(utf8_character("a"), 1u);
  EXPECT_EQ(utf8_character("é"), 2u);
  EXPECT_EQ(utf8_character("日"), 3u);
  EXPECT_EQ(utf8_character("😀"), 4u);
  for (const char* bad : {"\x80", "\xC0\xAF", "\xC1\xBF", "\xE0\x80\x80", "\xED\xA0\x80", "\xF0\x80\x80\x80",
                          "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xE2\x82", "\xF0\x9F\x98"}) {
    EXPECT_EQ(utf8_character(bad), 0u);
  }
  EXPECT_EQ(utf8_valid_prefix("eight ASCII bytes and é\xFFmore"), 24u);
  EXPECT_EQ(utf8_code_point("😀", 4), U'😀');
}

TEST(WordSplitter, CutsAsGpt2Does) {
  EXPECT_THAT(
      words_of("Hello world's  end, we'll\n\n see 42x", false),
      ElementsAre("Hello", " world", "'s", " ", " end", ",", " we", "'ll", "\n\n", " see", " 42", "x"));
  EXPECT_THAT(words_of("a \u3000b\u180Ec", false), ElementsAre("a", " ", "\u3000", "b", "\u180E", "c"));
  EXPECT_THAT(words_of("x  \xFF\xFE y", false), ElementsAre("x", "  ", "\xFF\xFE", " y"));
}

TEST(WordSplitter, ScannerEqualsPattern) {
  std::mt19937 random(1);
  for (int i = 0; i < 20000; ++i) {
    const std::string text =
        i % 4 ? random_text(random, 1 + random() % 20) : random_bytes(random, random() % 40);
    const auto words = words_of(text, false);
    ASSERT_EQ(words, words_of(text, true)) << text;
    std::string joined;
    for (const std::string& word : words) joined += word;
    ASSERT_EQ(joined, text);
  }
}

TEST(WordSplitter, SafeCutsChangeNothing) {
  std::mt19937 random(2);
  int cuts = 0;
  for (int i = 0; i < 5000; ++i) {
    const std::string text = random_text(random, 60);
    const std::size_t limit = text.size() / 2, cut = safe_cut(text, limit);
    ASSERT_GT(cut, 0u);
    ASSERT_LE(cut, limit);
    auto halves = words_of(text.substr(0, cut), false);
    // Forced cuts, where the upper half has no white space behind a word, may change the words.
    const bool behind_word = !ends_in_white_space(halves.back());
    if (std::string(" \t\n\r").find(text[cut]) == std::string::npos || !behind_word) continue;
    for (auto& word : words_of(text.substr(cut), false)) halves.push_back(word);
    ASSERT_EQ(halves, words_of(text, false)) << text;
    ++cuts;
  }
  EXPECT_GT(cuts, 4000);
  EXPECT_EQ(safe_cut(std::string(30, 'x') + "日本日本", 31), 30u);  // no white space: at a character's border
}

TEST(BytesTokenizer, IsTheBytes) {
  const auto tokenizer = load_tokenizer("bytes");
  EXPECT_EQ(tokenizer->vocab(), 257);
  EXPECT_EQ(tokenizer->end_of_text(), 256);
  EXPECT_THAT(tokenizer->encode("A\xFF\n"), ElementsAre(65, 255, 10));
  EXPECT_EQ(tokenizer->decode(std::vector<std::int32_t>{65, 256, 66}), "A<|endoftext|>B");
  EXPECT_THAT(message_of<RequestError>([&] { tokenizer->bytes_of(257); }), HasSubstr("257"));
  const Scratch dir;
  tokenizer->save(dir.path());
  EXPECT_EQ(load_tokenizer(dir.path())->fingerprint(), tokenizer->fingerprint());
}

TEST(Gpt2Tokenizer, MeetsThePublishedVectors) {
  SPECTRAIN_NEEDS_GPT2();
  const auto texts =
      split_at(read_bytes(shared("tokenizer/gpt2/test_vectors.inp")), "\n__ggml_vocab_test__\n");
  const auto lines = split_at(read_bytes(shared("tokenizer/gpt2/test_vectors.out")), "\n");
  ASSERT_EQ(texts.size(), 47u);
  ASSERT_EQ(lines.size(), 47u);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    std::istringstream line(lines[i]);
    std::vector<std::int32_t> expected;
    for (std::int32_t id; line >> id;) expected.push_back(id);
    EXPECT_EQ(gpt2().encode(texts[i]), expected) << "text " << i << ": '" << texts[i] << "'";
    EXPECT_EQ(gpt2().decode(expected), texts[i]);
  }
}

TEST(Gpt2Tokenizer, DecodesEveryIdAsThePublishedTable) {
  SPECTRAIN_NEEDS_GPT2();
  EXPECT_EQ(gpt2().vocab(), 50257);
  EXPECT_EQ(gpt2().end_of_text(), 50256);
  const std::string table = read_bytes(shared("tokenizer/gpt2/gpt2_tokenizer.bin"));
  std::size_t at = 1024;  // after the header: per id one length byte and the bytes
  for (std::int32_t id = 0; id < 50257; ++id) {
    const auto length = static_cast<unsigned char>(table.at(at));
    ASSERT_EQ(gpt2().bytes_of(id), table.substr(at + 1, length)) << id;
    at += 1u + length;
  }
  EXPECT_EQ(at, table.size());
}

TEST(Gpt2Tokenizer, AnyBytesComeBack) {
  SPECTRAIN_NEEDS_GPT2();
  std::mt19937 random(3);
  for (int i = 0; i < 3000; ++i) {
    const std::string text =
        i % 2 ? random_text(random, random() % 100) : random_bytes(random, random() % 300);
    ASSERT_EQ(gpt2().decode(gpt2().encode(text)), text);
  }
  EXPECT_EQ(gpt2().decode(gpt2().encode("<|endoftext|>")), "<|endoftext|>");
  EXPECT_THAT(gpt2().encode("<|endoftext|>"), ::testing::Not(::testing::Contains(50256)));
  EXPECT_TRUE(gpt2().encode("").empty());
}

TEST(Gpt2Tokenizer, LongWordsMergeAsShortOnesDo) {
  SPECTRAIN_NEEDS_GPT2();
  // 63 letters take the short way, 64 the long one; a word of a megabyte must not take quadratic time.
  std::mt19937 random(4);
  for (int i = 0; i < 300; ++i) {
    std::string word;
    while (word.size() < 40) word += gpt2().bytes_of(static_cast<std::int32_t>(random() % 50256));
    std::erase_if(word, [](char c) { return c < 'a' || c > 'z'; });
    word.resize(63, 'q');
    // "q" and a capital never merge with each other across, so the longer word is this one and the rest.
    const auto alone = gpt2().encode(word), tail = gpt2().encode("\xFF");
    auto both = gpt2().encode(word + "\xFF");
    ASSERT_EQ(both.size(), alone.size() + tail.size());
    std::string twice = word + word;
    ASSERT_EQ(gpt2().decode(gpt2().encode(twice)), twice);
  }
  const std::string huge(1 << 20, 'a');
  EXPECT_EQ(gpt2().decode(gpt2().encode(huge)), huge);
}

TEST(Gpt2Tokenizer, SharesOneTokenizerAmongThreads) {
  SPECTRAIN_NEEDS_GPT2();
  const std::string text = read_bytes(shared("text/tinyshakespeare.txt")).substr(0, 200000);
  const auto expected = gpt2().encode(text);
  std::vector<std::jthread> threads;
  for (int t = 0; t < 4; ++t) threads.emplace_back([&] { EXPECT_EQ(gpt2().encode(text), expected); });
}

TEST(Gpt2Tokenizer, CountsOfTinyShakespeare) {
  SPECTRAIN_NEEDS_GPT2();
  const std::string text = read_bytes(shared("text/tinyshakespeare.txt"));
  EXPECT_EQ(gpt2().encode(text).size(), 338025u);
  const std::size_t cut = text.size() * 9 / 10;  // nanoGPT's split
  EXPECT_EQ(gpt2().encode(text.substr(0, cut)).size(), 301966u);
  EXPECT_EQ(gpt2().encode(text.substr(cut)).size(), 36059u);
}

TEST(Gpt2Tokenizer, EqualsLlmcShardsOfTinyShakespeare) {
  SPECTRAIN_NEEDS_GPT2();
  // Its rule: 50256 before the text and after each blank line, which stays with the section it ends.
  std::vector<std::int32_t> ids;
  const auto sections = split_at(read_bytes(shared("text/tinyshakespeare.txt")), "\n\n");
  for (std::size_t i = 0; i < sections.size(); ++i) {
    ids.push_back(50256);
    gpt2().encode(i + 1 < sections.size() ? sections[i] + "\n\n" : sections[i], ids);
  }
  const TokenShard validation(shared("tokens/tiny_shakespeare_val.bin")),
      train(shared("tokens/tiny_shakespeare_train.bin"));
  std::vector<std::int32_t> published(static_cast<std::size_t>(validation.tokens() + train.tokens()));
  validation.read(0, std::span(published).first(32768), 50257);
  train.read(0, std::span(published).subspan(32768), 50257);
  EXPECT_EQ(ids, published);
}

TEST(Gpt2Tokenizer, SavedCopyStandsAlone) {
  SPECTRAIN_NEEDS_GPT2();
  const Scratch dir;
  gpt2().save(dir.path());
  EXPECT_EQ(read_bytes(dir / "vocab.bpe"), read_bytes(shared("tokenizer/gpt2/vocab.bpe")));
  std::filesystem::create_directory(dir / "moved");
  for (const char* name : {"vocab.bpe", "encoder.json", "tokenizer.json"}) {
    std::filesystem::rename(dir / name, dir / (std::string("moved/") + name));
  }
  const auto copy = load_tokenizer(dir / "moved/tokenizer.json");
  EXPECT_EQ(copy->kind(), "gpt2");
  EXPECT_EQ(copy->fingerprint(), gpt2().fingerprint());
  EXPECT_EQ(copy->encode("Hello, world"), gpt2().encode("Hello, world"));
}

TEST(LoadTokenizer, SaysWhatIsWrong) {
  const Scratch dir;
  const auto refusal = [](const std::string& spec) {
    return message_of<RequestError>([&] { load_tokenizer(spec); });
  };
  EXPECT_THAT(refusal("gpt3"), HasSubstr("'gpt3'"));
  EXPECT_THAT(refusal("gpt2=" + dir.path()), HasSubstr("encoder.json"));
  EXPECT_THAT(refusal(dir.path()), HasSubstr("no such file"));
  const auto refusal_of_json = [&](const std::string& text) {
    write_bytes(dir / "t.json", text);
    return refusal(dir / "t.json");
  };
  EXPECT_THAT(refusal_of_json("{"), HasSubstr("is not a tokenizer file"));
  EXPECT_THAT(refusal_of_json("{\"model\": {}}"), HasSubstr("is not a tokenizer made here"));
  EXPECT_THAT(refusal_of_json(R"({"spectrain_tokenizer": 2})"), HasSubstr("version"));
  EXPECT_THAT(refusal_of_json(R"({"spectrain_tokenizer": 1, "kind": "words"})"), HasSubstr("'words'"));
  EXPECT_THAT(refusal_of_json(R"({"spectrain_tokenizer": 1, "kind": "bytes", "vocab": 5})"),
              HasSubstr("vocab 5"));
  EXPECT_THAT(
      refusal_of_json(R"({"spectrain_tokenizer": 1, "kind": "bpe", "vocab": 258, "merges": [[97, 256]]})"),
      HasSubstr("97 and 256"));
  EXPECT_THAT(
      refusal_of_json(R"({"spectrain_tokenizer": 1, "kind": "bpe", "vocab": 258, "merges": [["a", "b"]]})"),
      HasSubstr("is not a tokenizer file"));
  write_bytes(dir / "encoder.json", R"({"a": 0, "<|endoftext|>": 1})");
  write_bytes(dir / "vocab.bpe", "#version: 0.2\n");
  EXPECT_THAT(refusal("gpt2=" + dir.path()), HasSubstr("no token for byte 0"));
}

}  // namespace
}  // namespace spectrain

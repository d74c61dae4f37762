#include "data/pack.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <random>

#include "data/documents.h"
#include "data/shard.h"
#include "data/tokenizer.h"
#include "kernels/error.h"
#include "tests/data/test_files.h"

namespace spectrain {
namespace {

using namespace testing_files;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr const char* kSeparator = "<|endoftext|>";

std::vector<std::string> documents_of(const std::string& file, const std::string& split_on,
                                      std::size_t piece) {
  DocumentReader reader({file}, split_on, piece);
  std::vector<std::string> documents;
  for (DocumentPiece p; reader.next(p);) {
    EXPECT_FALSE(p.text.empty());
    EXPECT_LE(p.text.size(), std::max<std::size_t>(piece, 16));
    if (p.begins) documents.emplace_back();
    documents.back() += p.text;
  }
  return documents;
}

std::vector<std::int32_t> tokens_of(const PackedSet& set) {
  std::vector<std::int32_t> all;
  for (const std::string& path : set.shards) {
    const TokenShard shard(path);
    std::vector<std::int32_t> ids(static_cast<std::size_t>(shard.tokens()));
    shard.read(0, ids);
    all.insert(all.end(), ids.begin(), ids.end());
  }
  return all;
}

PackOptions bytes_into(const std::string& out, std::vector<std::string> inputs) {
  PackOptions options;
  options.tokenizer = "bytes";
  options.out = out;
  options.inputs = std::move(inputs);
  return options;
}

TEST(Documents, SeparatorAloneOnItsLineTakesItsLineEnds) {
  const Scratch dir;
  const auto split = [&](const std::string& text) {
    write_bytes(dir / "a.txt", text);
    return documents_of(dir / "a.txt", kSeparator, 1000);
  };
  EXPECT_THAT(split("one\n<|endoftext|>\ntwo\n<|endoftext|>\n"), ElementsAre("one", "two"));
  EXPECT_THAT(split("one\n\n<|endoftext|>\n\ntwo"), ElementsAre("one\n", "\ntwo"));
  EXPECT_THAT(split("one<|endoftext|>two\n<|endoftext|>three"), ElementsAre("one", "two\n", "three"));
  EXPECT_THAT(split("<|endoftext|>\none\n<|endoftext|>"), ElementsAre("one"));
  EXPECT_THAT(split("<|endoftext|>\n<|endoftext|>\n<|endoftext|><|endoftext|>x\n"), ElementsAre("x\n"));
  EXPECT_THAT(split(""), ElementsAre());
  EXPECT_THAT(documents_of(dir / "a.txt", "", 1000), ElementsAre());
}

TEST(Documents, DoNotDependOnTheSizeOfPieces) {
  const Scratch dir;
  std::mt19937 random(5);
  const std::vector<std::string> parts = {
      "word", " ", "\n", "日", "<|endof", kSeparator, "\n<|endoftext|>\n", "xyz xyz "};
  for (int i = 0; i < 300; ++i) {
    std::string text;
    for (int p = 0; p < 60; ++p) text += parts[random() % parts.size()];
    write_bytes(dir / "a.txt", text);
    const auto whole = documents_of(dir / "a.txt", kSeparator, 100000);
    for (const std::size_t piece : {16, 17, 29, 64}) {
      ASSERT_EQ(documents_of(dir / "a.txt", kSeparator, piece), whole) << text;
    }
    ASSERT_EQ(documents_of(dir / "a.txt", "", 16).at(0), text);
  }
}

TEST(Pack, CutsShardsAndBeginsDocuments) {
  const Scratch dir;
  fs::create_directories(dir / "in/sub");
  write_bytes(dir / "in/b.txt", "b<>bb");
  write_bytes(dir / "in/a.txt", "a");
  write_bytes(dir / "in/sub/c.txt", "c");
  PackOptions options = bytes_into(dir / "out/deep", {dir / "in"});
  options.split_on = "<>";
  options.shard_tokens = 4;
  const PackResult result = pack_documents(options);
  EXPECT_EQ(result.main.documents, 4);
  EXPECT_EQ(result.main.tokens, 9);
  EXPECT_EQ(result.bytes, 5);
  EXPECT_THAT(result.main.shards,
              ElementsAre(dir / "out/deep/train_000000.bin", dir / "out/deep/train_000001.bin",
                          dir / "out/deep/train_000002.bin"));
  EXPECT_THAT(tokens_of(result.main), ElementsAre(256, 'a', 256, 'b', 256, 'b', 'b', 256, 'c'));
  EXPECT_EQ(TokenShard(result.main.shards[1]).tokens(), 4);
  EXPECT_EQ(load_tokenizer(dir / "out/deep")->kind(), "bytes");
  EXPECT_EQ(std::distance(fs::directory_iterator(dir / "out/deep"), {}), 4) << "nothing else is left behind";
}

TEST(Pack, RefusesToOverwriteAndLeavesNothingBehind) {
  const Scratch dir;
  write_bytes(dir / "a.txt", "some text");
  write_bytes(dir / "empty.txt", "");
  PackOptions options = bytes_into(dir / "out", {dir / "a.txt"});
  options.shard_tokens = 2;
  EXPECT_EQ(pack_documents(options).main.shards.size(), 5u);
  EXPECT_THAT(message_of<RequestError>([&] { pack_documents(options); }), HasSubstr("--force"));
  options.prefix = "other";
  EXPECT_EQ(pack_documents(options).main.shards.size(), 5u);
  options.prefix = "train";
  options.force = true;
  options.shard_tokens = 100;
  pack_documents(options);
  EXPECT_FALSE(fs::exists(dir / "out/train_000001.bin")) << "old shards of the prefix are gone";
  EXPECT_TRUE(fs::exists(dir / "out/other_000004.bin"));

  PackOptions wrong = bytes_into(dir / "none", {dir / "empty.txt"});
  EXPECT_THAT(message_of<RequestError>([&] { pack_documents(wrong); }), HasSubstr("no text"));
  wrong.inputs = {dir / "absent.txt"};
  EXPECT_THAT(message_of<RequestError>([&] { pack_documents(wrong); }), HasSubstr("absent.txt"));
  wrong.inputs = {dir / "a.txt"};
  wrong.shard_tokens = 0;
  EXPECT_THROW(pack_documents(wrong), RequestError);
  wrong.shard_tokens = 10;
  wrong.validation_fraction = 1;
  EXPECT_THROW(pack_documents(wrong), RequestError);
  EXPECT_FALSE(fs::exists(dir / "none"));
}

TEST(Pack, AnotherTokenizerInTheDirectoryIsRefused) {
  const Scratch dir;
  write_bytes(dir / "a.txt", "some text");
  pack_documents(bytes_into(dir / "out", {dir / "a.txt"}));
  fs::create_directory(dir / "t");
  make_bpe_tokenizer({{'s', 'o'}})->save(dir / "t");
  PackOptions options = bytes_into(dir / "out", {dir / "a.txt"});
  options.tokenizer = dir / "t";
  options.prefix = "more";
  EXPECT_THAT(message_of<RequestError>([&] { pack_documents(options); }), HasSubstr("another tokenizer"));
}

TEST(Pack, ValidationFractionGoesByDocument) {
  const Scratch dir;
  std::string text;
  for (int i = 0; i < 4000; ++i) text += "document number " + std::to_string(i) + "\n<>\n";
  write_bytes(dir / "a.txt", text);
  PackOptions options = bytes_into(dir / "out", {dir / "a.txt"});
  options.split_on = "<>";
  options.validation_fraction = 0.1;
  const PackResult result = pack_documents(options);
  EXPECT_EQ(result.main.documents + result.validation.documents, 4000);
  // Binomial: mean 400, standard deviation 19; five of them.
  EXPECT_NEAR(static_cast<double>(result.validation.documents), 400, 95);
  EXPECT_THAT(result.validation.shards, ElementsAre(dir / "out/val_000000.bin"));
}

TEST(Pack, ThreadsAndPiecesDoNotChangeTheTokens) {
  const std::string file = shared("text/tinyshakespeare.txt");
  SPECTRAIN_NEEDS(file);
  const Scratch dir;
  // One document of several pieces, so that cuts between pieces matter.
  std::string text;
  for (int i = 0; i < 5; ++i) text += read_bytes(file);
  write_bytes(dir / "a.txt", text);
  PackOptions options = bytes_into(dir / "one", {dir / "a.txt"});
  options.tokenizer = "gpt2=" + shared("tokenizer/gpt2");
  options.threads = 1;
  const auto one = tokens_of(pack_documents(options).main);
  options.threads = 3;
  options.out = dir / "three";
  EXPECT_EQ(tokens_of(pack_documents(options).main), one);
  std::vector<std::int32_t> whole = {50256};
  load_tokenizer(options.tokenizer)->encode(text, whole);
  EXPECT_EQ(one, whole);
}

TEST(Pack, CountsOfTheWikipediaValidationText) {
  const std::string packed = shared("text/wikipedia_en/val.txt.xz");
  SPECTRAIN_NEEDS(packed);
  const Scratch dir;
  const std::string text = dir / "val.txt";
  if (std::system(("xz -dc '" + packed + "' > '" + text + "' 2>/dev/null").c_str()) != 0) {
    GTEST_SKIP() << "the xz program is missing";
  }
  PackOptions options = bytes_into(dir / "out", {text});
  options.tokenizer = "gpt2=" + shared("tokenizer/gpt2");
  options.split_on = kSeparator;
  options.prefix = "val";
  const PackResult result = pack_documents(options);
  EXPECT_EQ(result.main.documents, 219);
  EXPECT_EQ(result.main.tokens, 857941);
  EXPECT_EQ(load_tokenizer(dir / "out")->vocab(), 50257);
}

}  // namespace
}  // namespace spectrain

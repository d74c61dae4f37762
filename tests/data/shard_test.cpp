#include "data/shard.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "data/loader.h"
#include "kernels/error.h"
#include "tests/data/test_files.h"

namespace spectrain {
namespace {

using namespace testing_files;
using ::testing::AllOf;
using ::testing::HasSubstr;

void write_shard(const std::string& path, const std::vector<std::int32_t>& ids,
                 TokenWidth width = TokenWidth::u16) {
  ShardWriter writer(path, width);
  writer.write(ids);
  writer.finish();
}

TEST(Shard, BothWidthsRoundTrip) {
  const Scratch dir;
  const std::vector<std::int32_t> small = {0, 1, 50256, 65535}, large = {0, 70000, INT32_MAX, 5};
  write_shard(dir / "a.bin", small);
  write_shard(dir / "b.bin", large, TokenWidth::u32);
  for (const auto& [name, ids] : {std::pair{"a.bin", small}, {"b.bin", large}}) {
    const TokenShard shard(dir / name);
    ASSERT_EQ(shard.tokens(), 4);
    std::vector<std::int32_t> back(4);
    shard.read(0, back);
    EXPECT_EQ(back, ids);
    shard.read(2, std::span(back).first(2));
    EXPECT_EQ(back[0], ids[2]);
    EXPECT_THROW(shard.read(3, std::span(back).first(2)), std::logic_error);
  }
  std::int32_t header[4];
  std::memcpy(header, read_bytes(dir / "a.bin").data(), 16);
  EXPECT_THAT(header, ::testing::ElementsAre(20240520, 1, 4, 0));
  std::memcpy(header, read_bytes(dir / "b.bin").data(), 16);
  EXPECT_THAT(header, ::testing::ElementsAre(20240801, 7, 4, 0));
  EXPECT_EQ(token_width(65536), TokenWidth::u16);
  EXPECT_EQ(token_width(65537), TokenWidth::u32);
}

TEST(Shard, NothingAppearsWithoutFinish) {
  const Scratch dir;
  { ShardWriter(dir / "a.bin", TokenWidth::u16).write(std::vector<std::int32_t>(100, 7)); }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  ShardWriter writer(dir / "a.bin", TokenWidth::u16);
  EXPECT_THROW(writer.write(std::vector<std::int32_t>{65536}), std::logic_error);
  EXPECT_THROW(ShardWriter(dir / "missing/a.bin", TokenWidth::u16), Error);
}

TEST(Shard, SaysWhatIsWrongWithAFile) {
  const Scratch dir;
  const auto refusal = [&](const std::string& name) {
    return message_of<RequestError>([&] { TokenShard{dir / name}; });
  };
  EXPECT_THAT(refusal("absent.bin"), AllOf(HasSubstr("absent.bin"), HasSubstr("No such file")));
  write_bytes(dir / "short.bin", "hello");
  EXPECT_THAT(refusal("short.bin"), AllOf(HasSubstr("short.bin"), HasSubstr("5 bytes")));
  write_bytes(dir / "empty.bin", "");
  EXPECT_THAT(refusal("empty.bin"), HasSubstr("0 bytes"));
  write_header(dir / "magic.bin", {123, 1, 0}, 1024);
  EXPECT_THAT(refusal("magic.bin"), AllOf(HasSubstr("byte 0"), HasSubstr("123"), HasSubstr("20240520")));
  write_header(dir / "version.bin", {20240520, 7, 0}, 1024);
  EXPECT_THAT(refusal("version.bin"), AllOf(HasSubstr("byte 4"), HasSubstr("version 7")));
  write_header(dir / "cut.bin", {20240520, 1, 1000}, 1024 + 1999);
  EXPECT_THAT(refusal("cut.bin"),
              AllOf(HasSubstr("byte 8"), HasSubstr("1000 tokens"), HasSubstr("cut short")));
  write_header(dir / "long.bin", {20240801, 7, 1000}, 1024 + 4001);
  EXPECT_THAT(refusal("long.bin"), HasSubstr("longer than it says"));
  write_header(dir / "negative.bin", {20240520, 1, 10, -1}, 1024 + 20);
  EXPECT_THAT(refusal("negative.bin"), HasSubstr("cut short"));
  EXPECT_THAT(message_of<RequestError>([&] { TokenShard{dir.path()}; }), HasSubstr("not a regular file"));
}

TEST(Shard, IdOutsideTheVocabularyIsNamed) {
  const Scratch dir;
  write_shard(dir / "a.bin", {1, 2, 300, 4});
  const TokenShard shard(dir / "a.bin");
  std::vector<std::int32_t> out(4);
  EXPECT_NO_THROW(shard.read(0, out, 301));
  EXPECT_THAT(message_of<Error>([&] { shard.read(0, out, 300); }),
              AllOf(HasSubstr("a.bin"), HasSubstr("byte 1028"), HasSubstr("token 2"), HasSubstr("id 300")));
  write_header(dir / "b.bin", {20240801, 7, 1}, 1028);
  poke(dir / "b.bin", 1024, "\xFF\xFF\xFF\xFF");
  EXPECT_THAT(message_of<Error>([&] { TokenShard(dir / "b.bin").read(0, std::span(out).first(1)); }),
              HasSubstr("id 4294967295"));
}

TEST(Shard, FileCutWhileOpenIsAnErrorNotACrash) {
  const Scratch dir;
  write_shard(dir / "a.bin", std::vector<std::int32_t>(100000, 7));
  const TokenShard shard(dir / "a.bin");
  std::filesystem::resize_file(dir / "a.bin", 2000);
  std::vector<std::int32_t> out(10);
  EXPECT_THAT(message_of<Error>([&] { shard.read(99000, out); }), HasSubstr("something cut it"));
}

TEST(Shard, MoreTokensThanThirtyOneBitsInAFileOverFourGigabytes) {
  const Scratch dir;
  constexpr std::int64_t kTokens = 2'200'000'000;  // > 2^31, 4.4 GB, almost all of it a hole
  write_header(dir / "a.bin", {20240520, 1, static_cast<std::int32_t>(kTokens), 0}, 1024 + 2 * kTokens);
  poke(dir / "a.bin", 1024 + 2 * (kTokens - 1), {"\x39\x30", 2});
  const TokenShard shard(dir / "a.bin");
  ASSERT_EQ(shard.tokens(), kTokens);
  std::vector<std::int32_t> out(3);
  shard.read(kTokens - 3, out);
  EXPECT_EQ(out, (std::vector<std::int32_t>{0, 0, 12345}));

  constexpr std::int64_t kMore = (std::int64_t{1} << 32) + 5;  // the high word of the count is not zero
  write_header(dir / "b.bin", {20240520, 1, 5, 1}, 1024 + 2 * kMore);
  EXPECT_EQ(TokenShard(dir / "b.bin").tokens(), kMore);
}

TEST(Shard, LoadsThePublishedFormat) {
  const std::string file = shared("tokens/tiny_shakespeare_train.bin");
  SPECTRAIN_NEEDS(file);
  const TokenShard shard(file);
  EXPECT_EQ(shard.tokens(), 305260);
  EXPECT_EQ(shard.width(), TokenWidth::u16);
  EXPECT_EQ(TokenShard(shared("tokens/tiny_shakespeare_val.bin")).tokens(), 32768);
}

TEST(ExpandShards, PatternsDirectoriesAndFiles) {
  const Scratch dir;
  for (const char* name : {"t_2.bin", "t_1.bin", "v_1.bin", "notes.txt"}) write_bytes(dir / name, "");
  EXPECT_THAT(expand_shards({dir / "t_*.bin"}), ::testing::ElementsAre(dir / "t_1.bin", dir / "t_2.bin"));
  EXPECT_EQ(expand_shards({dir.path()}).size(), 3u);
  EXPECT_THAT(expand_shards({dir / "v_1.bin", dir / "t_1.bin"}),
              ::testing::ElementsAre(dir / "v_1.bin", dir / "t_1.bin"));
  EXPECT_THAT(message_of<RequestError>([&] { expand_shards({dir / "x_*.bin"}); }), HasSubstr("x_*.bin"));
  std::filesystem::create_directory(dir / "none");
  EXPECT_THAT(message_of<RequestError>([&] { expand_shards({dir / "none"}); }), HasSubstr("none"));
  EXPECT_THROW(expand_shards({}), RequestError);
}

}  // namespace
}  // namespace spectrain

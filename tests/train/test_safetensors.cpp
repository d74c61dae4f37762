#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>

#include "tests/train/scratch_directory.h"
#include "train/safetensors.h"

namespace spectrain {
namespace {

using testing::HasSubstr;

template <class T>
StateTensor tensor_of(std::string name, std::vector<T>& values, Shape shape) {
  return {std::move(name), Tensor(values.data(), DTypeOf<T>::value, shape)};
}

std::string with_length(const std::string& header, const std::string& data) {
  std::uint64_t length = header.size();
  std::string text(8, '\0');
  std::memcpy(text.data(), &length, 8);
  return text + header + data;
}

std::string fixture(const std::string& name) {
  const char* set = std::getenv("SPECTRAIN_DATA");
  const std::string data = set != nullptr ? set : SPECTRAIN_SOURCE_DIR "/../shared/data";
  return data + "/weights/" + name;
}

TEST(Checksum, PublishedValuesOfXxh64) {
  EXPECT_EQ(checksum_of("", 0), 0xEF46DB3751D8E999u);
  EXPECT_EQ(checksum_of("a", 1), 0xD24EC4F1A98C6E5Bu);
  EXPECT_EQ(checksum_of("abc", 3), 0x44BC2CF5AD770999u);
  EXPECT_EQ(checksum_text(0xABu), "00000000000000ab");
}

TEST(Checksum, PiecesOfAnySizeGiveTheSameNumber) {
  std::string text;
  for (int i = 0; i < 300; ++i) text.push_back(static_cast<char>(i * 37));
  for (const std::size_t length : {0u, 3u, 31u, 32u, 33u, 64u, 100u, 300u})
    for (const std::size_t piece : {1u, 5u, 31u, 32u, 33u, 97u}) {
      Checksum sum;
      for (std::size_t at = 0; at < length; at += piece)
        sum.update(text.data() + at, std::min(piece, length - at));
      EXPECT_EQ(sum.digest(), checksum_of(text.data(), length)) << length << " by " << piece;
    }
}

TEST(Checksum, EveryBitMatters) {
  std::string text(97, 'x');
  const std::uint64_t before = checksum_of(text.data(), text.size());
  for (std::size_t bit = 0; bit < text.size() * 8; ++bit) {
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
    EXPECT_NE(checksum_of(text.data(), text.size()), before);
    text[bit / 8] = static_cast<char>(text[bit / 8] ^ (1 << (bit % 8)));
  }
}

// Header and data by hand, from the format's description: what any other reader sees.
TEST(Safetensors, GoldenBytes) {
  ScratchDirectory dir;
  std::vector<float> w = {1, -2, 0.5f, 0};
  std::vector<bf16> h = {bf16(1.0f), bf16(-1.0f), bf16(0.0f)};
  const std::vector<StateTensor> tensors = {tensor_of("h", h, {3}), tensor_of("w \"q\"", w, {2, 2})};
  const WrittenFile written = write_safetensors(dir / "x", tensors, {{"a", "b"}});

  std::string header =
      R"({"__metadata__":{"a":"b"},"w \"q\"":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},)"
      R"("h":{"dtype":"BF16","shape":[3],"data_offsets":[16,22]}})";
  header.resize(184, ' ');  // 8 + 184 = 3 * 64
  const std::string data(
      "\x00\x00\x80\x3f\x00\x00\x00\xc0\x00\x00\x00\x3f\x00\x00\x00\x00\x80\x3f\x80\xbf\x00\x00", 22);
  const std::string expected = with_length(header, data);
  EXPECT_EQ(contents_of(dir / "x"), expected);
  EXPECT_EQ(written.bytes, expected.size());
  EXPECT_EQ(written.checksum, checksum_of(expected.data(), expected.size()));
}

TEST(Safetensors, RoundTripOfAllTypesThroughABackend) {
  ScratchDirectory dir;
  const auto backend = make_cpu_backend({});
  std::vector<double> d = {M_PI, -0.0, 1e-310};
  std::vector<float> f(3'000'001);  // several pieces, an odd end
  for (std::size_t i = 0; i < f.size(); ++i) f[i] = static_cast<float>(i) * 0.37f;
  std::vector<bf16> b = {bf16(3.0f)};
  std::vector<std::int32_t> n = {-1, 2, 3, 4, 5, 6};
  const std::vector<StateTensor> tensors = {tensor_of("n", n, {1, 2, 3, 1}),
                                            tensor_of("b", b, Shape()),
                                            tensor_of("f", f, {3'000'001}),
                                            tensor_of("d", d, {3, 1}),
                                            {"empty", Tensor(d.data(), DType::f64, {0, 5})}};
  write_safetensors(dir / "direct", tensors, {});
  write_safetensors(dir / "staged", tensors, {}, backend.get());
  EXPECT_TRUE(contents_of(dir / "direct") == contents_of(dir / "staged"));

  const SafetensorsFile file(dir / "direct");
  ASSERT_EQ(file.tensors().size(), 5u);
  for (const StoredTensor& t : file.tensors()) EXPECT_EQ(t.begin % size_of(t.type), 0u) << t.name;
  std::vector<float> back(f.size());
  file.read(file.at("f"), *backend, Tensor(back.data(), DType::f32, {3'000'001}));
  EXPECT_TRUE(back == f);
  std::vector<double> back_d(3);
  file.read(file.at("d"), *backend, Tensor(back_d.data(), DType::f64, {3, 1}));
  EXPECT_EQ(std::memcmp(back_d.data(), d.data(), 24), 0);
  EXPECT_EQ(file.read_floats("b"), std::vector<float>{3.0f});
  EXPECT_EQ(file.at("b").shape_text(), "[]");
  EXPECT_EQ(file.at("empty").bytes, 0u);
  EXPECT_THAT(message_of<RequestError>([&] { file.at("missing"); }), HasSubstr("no tensor 'missing'"));
  EXPECT_THAT(message_of<RequestError>([&] { file.expect(file.at("f"), Tensor(nullptr, DType::f32, {7})); }),
              HasSubstr("tensor 'f' has shape [3000001] where [7] is expected"));
  EXPECT_THAT(message_of<RequestError>([&] { file.expect(file.at("b"), Tensor(nullptr, DType::f32, {})); }),
              HasSubstr("tensor 'b' is BF16 where F32 is expected"));
}

TEST(Safetensors, HalfPrecisionIsReadExactly) {
  ScratchDirectory dir;
  // 1, -2, the largest 65504, the smallest normal and subnormal, -0, infinity, NaN
  const std::string data("\x00\x3c\x00\xc0\xff\x7b\x00\x04\x01\x00\x00\x80\x00\x7c\x01\x7e", 16);
  put_contents(dir / "x", with_length(R"({"h":{"dtype":"F16","shape":[8],"data_offsets":[0,16]}})", data));
  const std::vector<float> v = SafetensorsFile(dir / "x").read_floats("h");
  EXPECT_EQ(v[0], 1.0f);
  EXPECT_EQ(v[1], -2.0f);
  EXPECT_EQ(v[2], 65504.0f);
  EXPECT_EQ(v[3], 0x1p-14f);
  EXPECT_EQ(v[4], 0x1p-24f);
  EXPECT_TRUE(v[5] == 0 && std::signbit(v[5]));
  EXPECT_TRUE(std::isinf(v[6]) && v[6] > 0);
  EXPECT_TRUE(std::isnan(v[7]));
}

TEST(Safetensors, FilesOfOtherPrograms) {
  if (!std::filesystem::exists(fixture("fake_gpt2"))) GTEST_SKIP() << "no shared data";
  const SafetensorsFile fake(fixture("fake_gpt2/model.safetensors"));
  EXPECT_EQ(fake.tensors().size(), 16u);
  EXPECT_EQ(fake.metadata().at("format"), "pt");
  EXPECT_EQ(fake.at("transformer.wte.weight").shape_text(), "[50257, 2]");
  const std::vector<float> gain = fake.read_floats("transformer.ln_f.weight");
  EXPECT_EQ(gain, (std::vector<float>{1, 1}));
  const SafetensorsFile tiny(fixture("tiny_gpt2/model.safetensors"));
  EXPECT_EQ(tiny.at("wte.weight").shape_text(), "[21, 2]");
}

// ---------------------------------------------------------------------------------------- refusals

struct Refusal {
  std::string header, data, message;
};

TEST(Safetensors, EveryWrongFieldIsOneSentenceNamingIt) {
  const std::string four(4, '\0'), eight(8, '\0');
  const std::string a = R"("a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]})";
  const Refusal cases[] = {
      {"", "", "does not begin with '{'"},
      {"[1]", "", "does not begin with '{'"},
      {"{\"a\":", "", "not valid JSON"},
      {"{" + a + "," + a + "}", four, "key 'a' twice"},
      {R"({"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}})", four, "key 'dtype' twice"},
      {R"({"__metadata__":3})", "", "__metadata__ is not an object"},
      {R"({"__metadata__":{"k":3}})", "", "__metadata__ 'k' is not a text"},
      {R"({"a":5})", "", "tensor 'a' is not described by an object"},
      {R"({"a":{"shape":[1],"data_offsets":[0,4]}})", four, "tensor 'a' has no 'dtype'"},
      {R"({"a":{"dtype":"F32","data_offsets":[0,4]}})", four, "tensor 'a' has no 'shape'"},
      {R"({"a":{"dtype":"F32","shape":[1]}})", four, "tensor 'a' has no 'data_offsets'"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"more":1}})", four, "unknown field 'more'"},
      {R"({"a":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}})", four, "unknown dtype \"F33\""},
      {R"({"a":{"dtype":7,"shape":[1],"data_offsets":[0,4]}})", four, "unknown dtype 7"},
      {R"({"a":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", four, "no list 'shape'"},
      {R"({"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", four, "a shape with -1 in it"},
      {R"({"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", four, "a shape with 1.5 in it"},
      {R"({"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}})", four,
       "impossible shape"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", four, "data_offsets [4,0]"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", four, "data_offsets [0]"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}})", four, "data_offsets [-4,0]"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", four, "of shape [2] F32 needs 8 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", four, "the file is cut short"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})", eight, "leaves a hole of 4 bytes"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
       R"("b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       eight, "tensor 'b' begins at 4, inside tensor 'a'"},
      {"{" + a + "}", eight, "4 bytes after its last tensor belong to nothing"},
  };
  ScratchDirectory dir;
  for (const Refusal& c : cases) {
    put_contents(dir / "bad", with_length(c.header, c.data));
    const std::string message = message_of<RequestError>([&] { SafetensorsFile file(dir / "bad"); });
    EXPECT_THAT(message, HasSubstr(c.message)) << c.header;
    EXPECT_THAT(message, HasSubstr(dir / "bad"));
  }
}

TEST(Safetensors, HeaderLengthIsChecked) {
  ScratchDirectory dir;
  put_contents(dir / "short", "abc");
  EXPECT_THAT(message_of<RequestError>([&] { SafetensorsFile file(dir / "short"); }),
              HasSubstr("only 3 bytes"));
  for (const unsigned char high : {0x01, 0x7f, 0xff}) {
    std::string text = with_length("{}", "");
    text[7] = static_cast<char>(high);
    put_contents(dir / "long", text);
    EXPECT_THAT(message_of<RequestError>([&] { SafetensorsFile file(dir / "long"); }),
                HasSubstr("header length"));
  }
  EXPECT_THAT(message_of<Error>([&] { SafetensorsFile file(dir / "absent"); }), HasSubstr("No such file"));
}

// Whatever single byte of a good file's front is damaged, the file is read as before or refused, never worse.
TEST(Safetensors, AnyDamagedByteIsRefusedOrHarmless) {
  ScratchDirectory dir;
  std::vector<float> w = {1, 2, 3};
  const std::vector<StateTensor> tensors = {tensor_of("w", w, {3})};
  write_safetensors(dir / "good", tensors, {});
  const std::string good = contents_of(dir / "good");
  int refused = 0;
  for (std::size_t at = 0; at < good.size() - 12; ++at)
    for (const int bits : {0x01, 0x10, 0x80, 0xff}) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ bits);
      put_contents(dir / "bad", bad);
      try {
        for (const SafetensorsFile file(dir / "bad"); const StoredTensor& t : file.tensors())
          if (t.type == StoredType::f32) (void)file.read_floats(t.name);
      } catch (const RequestError&) {
        ++refused;
      }
    }
  EXPECT_GT(refused, 200);
}

TEST(Safetensors, WriterRefusesNamesTheFormatCannotHold) {
  ScratchDirectory dir;
  std::vector<float> w = {1};
  for (const auto& tensors : {std::vector<StateTensor>{tensor_of("", w, {1})},
                              std::vector<StateTensor>{tensor_of("__metadata__", w, {1})},
                              std::vector<StateTensor>{tensor_of("w", w, {1}), tensor_of("w", w, {1})}})
    EXPECT_THROW(write_safetensors(dir / "x", tensors, {}), std::logic_error);
  EXPECT_FALSE(std::filesystem::exists(dir / "x"));
}

}  // namespace
}  // namespace spectrain

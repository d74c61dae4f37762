#include "data/images.h"

#include <gmock/gmock.h>
#include <unistd.h>
#include <zlib.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include "kernels/error.h"

namespace spectrain {
namespace {

namespace fs = std::filesystem;
using Bytes = std::vector<std::uint8_t>;

class Images : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("spectrain-images-" + std::to_string(::getpid()));
    fs::create_directories(folder_);
  }
  void TearDown() override { fs::remove_all(folder_); }
  std::string write(const std::string& name, const Bytes& bytes) {
    std::ofstream(folder_ / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    return (folder_ / name).string();
  }
  static std::string refusal(const std::function<void()>& work) {
    try {
      work();
    } catch (const RequestError& e) {
      return e.what();
    }
    return "accepted";
  }
  fs::path folder_;
};

Bytes idx(std::uint32_t magic, const std::vector<std::uint32_t>& sizes, const Bytes& rest) {
  Bytes out;
  const auto put = [&](std::uint32_t x) {
    for (int shift = 24; shift >= 0; shift -= 8) out.push_back(static_cast<std::uint8_t>(x >> shift));
  };
  put(magic);
  for (const std::uint32_t s : sizes) put(s);
  out.insert(out.end(), rest.begin(), rest.end());
  return out;
}

Bytes gzip(const Bytes& bytes) {
  z_stream s{};
  deflateInit2(&s, 9, Z_DEFLATED, 15 + 16, 8, Z_DEFAULT_STRATEGY);
  Bytes out(bytes.size() + 100);
  s.next_in = const_cast<Bytef*>(bytes.data());
  s.avail_in = static_cast<uInt>(bytes.size());
  s.next_out = out.data();
  s.avail_out = static_cast<uInt>(out.size());
  deflate(&s, Z_FINISH);
  out.resize(out.size() - s.avail_out);
  deflateEnd(&s);
  return out;
}

TEST_F(Images, MnistPlainAndPacked) {
  const Bytes pixels = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  const Bytes images = idx(2051, {2, 3, 2}, pixels), labels = idx(2049, {2}, {7, 0});
  const ImageSet plain = read_mnist(write("i", images), write("l", labels));
  EXPECT_EQ(plain.count(), 2);
  EXPECT_EQ(plain.height, 3);
  EXPECT_EQ(plain.width, 2);
  EXPECT_EQ(plain.pixels, pixels);
  EXPECT_EQ(plain.labels, (Bytes{7, 0}));
  EXPECT_EQ(plain.image(1)[0], 7);
  const ImageSet packed = read_mnist(write("i.gz", gzip(images)), write("l.gz", gzip(labels)));
  EXPECT_EQ(packed.pixels, pixels);
}

TEST_F(Images, WhatIsWrongIsSaid) {
  const std::string images = write("i", idx(2051, {2, 1, 1}, {1, 2})),
                    labels = write("l", idx(2049, {2}, {7, 0}));
  EXPECT_THAT(refusal([&] { read_mnist(images, images); }), testing::HasSubstr("begins with 2051"));
  EXPECT_THAT(refusal([&] {
                read_mnist(write("short", {0, 0}), labels);
              }),
              testing::HasSubstr("2 bytes are too few"));
  EXPECT_THAT(refusal([&] {
                read_mnist(write("cut", idx(2051, {2, 1, 1}, {1})), labels);
              }),
              testing::HasSubstr("holds 1 bytes after its header, which says 2"));
  EXPECT_THAT(refusal([&] {
                read_mnist(images, write("three", idx(2049, {3}, {1, 2, 3})));
              }),
              testing::HasSubstr("holds 2 images"));
  EXPECT_THAT(refusal([&] {
                read_mnist(images, write("eleven", idx(2049, {2}, {1, 11})));
              }),
              testing::HasSubstr("label 1 is 11"));
  EXPECT_THAT(refusal([&] { read_mnist((folder_ / "none").string(), labels); }),
              testing::HasSubstr("cannot be read"));
  Bytes damaged = gzip(idx(2051, {2, 1, 1}, {1, 2}));
  damaged.resize(damaged.size() - 6);
  EXPECT_THAT(refusal([&] { read_mnist(write("d.gz", damaged), labels); }),
              testing::HasSubstr("cut off or damaged"));
  EXPECT_THAT(refusal([&] {
                read_unpacked(write("x.xz", {1, 2, 3}));
              }),
              testing::HasSubstr("cut off or damaged"));
  EXPECT_THAT(refusal([&] { read_unpacked(write("big", Bytes(100)), 99); }),
              testing::HasSubstr("more than the 99"));
  EXPECT_THAT(refusal([&] {
                find_data_file(folder_.string(), {"a", "b"}, "MNIST");
              }),
              testing::HasSubstr("no MNIST in " + folder_.string() + ": it needs one of a, b"));
  EXPECT_EQ(find_data_file(folder_.string(), {"a", "i"}, "MNIST"), images);
}

TEST_F(Images, CifarChannelsLast) {
  Bytes record(3073);
  record[0] = 9;
  for (std::size_t c = 0; c < 3; ++c)
    for (std::size_t p = 0; p < 1024; ++p)
      record[1 + c * 1024 + p] = static_cast<std::uint8_t>(c * 80 + p % 64);
  const ImageSet set = read_cifar10({write("a.bin", record), write("b.bin", record)});
  EXPECT_EQ(set.count(), 2);
  EXPECT_EQ(set.labels, (Bytes{9, 9}));
  for (std::size_t p = 0; p < 1024; ++p)
    for (std::size_t c = 0; c < 3; ++c) ASSERT_EQ(set.image(1)[p * 3 + c], c * 80 + p % 64);
  record[0] = 10;
  EXPECT_THAT(refusal([&] { read_cifar10({write("c.bin", record)}); }),
              testing::HasSubstr("record 0 has label 10"));
  record.pop_back();
  EXPECT_THAT(refusal([&] { read_cifar10({write("c.bin", record)}); }),
              testing::HasSubstr("not a whole number"));
}

TEST_F(Images, RealOnes) {
  const char* given = std::getenv("SPECTRAIN_DATA");
  const std::string data = given ? given : std::string(SPECTRAIN_SOURCE_DIR) + "/../shared/data";
  const std::string mnist = data + "/vision/mnist", cifar = data + "/vision/cifar10";
  if (!fs::is_directory(mnist) || !fs::is_directory(cifar)) GTEST_SKIP() << "no images in " << data;
  const ImageSet digits = read_mnist(find_data_file(mnist, {"t10k-images-idx3-ubyte"}, "MNIST"),
                                     find_data_file(mnist, {"t10k-labels-idx1-ubyte"}, "MNIST"));
  EXPECT_EQ(digits.count(), 10000);
  EXPECT_EQ(digits.labels[0], 7);  // the first test digit is a seven
  for (std::int64_t i = 0; i < digits.count(); ++i)
    for (std::size_t x = 0; x < 10; ++x)
      ASSERT_EQ(digits.image(i)[x], 0) << "the spurious pixel's place is black";
  const ImageSet pictures = read_cifar10({find_data_file(cifar, {"subset_test_1000.bin"}, "CIFAR-10")});
  EXPECT_EQ(pictures.count(), 1000);
}

}  // namespace
}  // namespace spectrain

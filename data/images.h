#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace spectrain {

// Labelled images in memory, channels last: pixel (y, x), channel c of image i is
// pixels[((i * height + y) * width + x) * channels + c].
struct ImageSet {
  std::int64_t height = 0, width = 0, channels = 0;
  std::vector<std::uint8_t> pixels;
  std::vector<std::uint8_t> labels;
  std::int64_t count() const { return static_cast<std::int64_t>(labels.size()); }
  std::int64_t size() const { return height * width * channels; }  // of one image
  std::span<const std::uint8_t> image(std::int64_t i) const {
    return std::span(pixels).subspan(static_cast<std::size_t>(i * size()), static_cast<std::size_t>(size()));
  }
};

// A file's bytes, unpacked where its name ends in .gz (zlib) or .xz (liblzma). Throws RequestError naming the
// file and what is wrong with it; more than `most` bytes are refused.
std::vector<std::uint8_t> read_unpacked(const std::string& path, std::size_t most = std::size_t{1} << 30);

// MNIST's two files (LeCun, Cortes, Burges 1998), as they are published or unpacked: idx, big-endian; images
// magic 2051, count, rows, columns and the bytes; labels magic 2049, count and the bytes. Throws RequestError
// when a file is missing, is something else, or the two do not belong together.
ImageSet read_mnist(const std::string& images, const std::string& labels);

// CIFAR-10's binary batches (Krizhevsky 2009): records of a label byte and 3072 bytes, 1024 of red, green and
// blue, rows from the top. Several files follow each other.
ImageSet read_cifar10(const std::vector<std::string>& files);

// The first of these names that `folder` has, with .gz or .xz behind them too. Throws RequestError "no <what>
// in <folder>: it needs one of ...".
std::string find_data_file(const std::string& folder, const std::vector<std::string>& names,
                           const std::string& what);

}  // namespace spectrain

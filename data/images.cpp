#include "data/images.h"

#include <fmt/format.h>

#include <filesystem>

#include "kernels/error.h"

namespace spectrain {
namespace {

std::uint32_t big_endian(const std::vector<std::uint8_t>& bytes, std::size_t at) {
  return std::uint32_t{bytes[at]} << 24 | std::uint32_t{bytes[at + 1]} << 16 |
         std::uint32_t{bytes[at + 2]} << 8 | bytes[at + 3];
}

// The header of an idx file: its magic number and `sizes` counts. The rest must be as many bytes as they say.
std::vector<std::uint32_t> idx_header(const std::string& path, const std::vector<std::uint8_t>& bytes,
                                      std::uint32_t magic, std::size_t sizes) {
  const std::size_t header = 4 * (1 + sizes);
  if (bytes.size() < header)
    throw RequestError(
        fmt::format("{}: {} bytes are too few for the header of an MNIST file", path, bytes.size()));
  if (const std::uint32_t found = big_endian(bytes, 0); found != magic)
    throw RequestError(
        fmt::format("{}: begins with {}, an MNIST file of this kind with {}", path, found, magic));
  std::vector<std::uint32_t> counts;
  std::uint64_t expected = 1;
  for (std::size_t i = 0; i < sizes; ++i) {
    counts.push_back(big_endian(bytes, 4 + 4 * i));
    expected *= counts.back();
  }
  if (expected != bytes.size() - header)
    throw RequestError(fmt::format("{}: holds {} bytes after its header, which says {}", path,
                                   bytes.size() - header, expected));
  return counts;
}

}  // namespace

ImageSet read_mnist(const std::string& images, const std::string& labels) {
  const std::vector<std::uint8_t> pixels = read_unpacked(images), classes = read_unpacked(labels);
  const std::vector<std::uint32_t> size = idx_header(images, pixels, 2051, 3);
  const std::vector<std::uint32_t> count = idx_header(labels, classes, 2049, 1);
  if (size[0] != count[0])
    throw RequestError(fmt::format("{} holds {} images, {} {} labels", images, size[0], labels, count[0]));
  ImageSet set;
  set.height = size[1];
  set.width = size[2];
  set.channels = 1;
  set.pixels.assign(pixels.begin() + 16, pixels.end());
  set.labels.assign(classes.begin() + 8, classes.end());
  for (std::size_t i = 0; i < set.labels.size(); ++i)
    if (set.labels[i] > 9)
      throw RequestError(fmt::format("{}: label {} is {}; digits are 0 to 9", labels, i, set.labels[i]));
  return set;
}

ImageSet read_cifar10(const std::vector<std::string>& files) {
  constexpr std::size_t kPlane = 32 * 32, kRecord = 1 + 3 * kPlane;
  ImageSet set;
  set.height = set.width = 32;
  set.channels = 3;
  for (const std::string& file : files) {
    const std::vector<std::uint8_t> bytes = read_unpacked(file);
    if (bytes.empty() || bytes.size() % kRecord != 0)
      throw RequestError(fmt::format("{}: {} bytes are not a whole number of CIFAR-10's records of {}", file,
                                     bytes.size(), kRecord));
    for (std::size_t at = 0; at < bytes.size(); at += kRecord) {
      if (bytes[at] > 9)
        throw RequestError(
            fmt::format("{}: record {} has label {}; CIFAR-10's are 0 to 9", file, at / kRecord, bytes[at]));
      set.labels.push_back(bytes[at]);
      for (std::size_t p = 0; p < kPlane; ++p)
        for (std::size_t c = 0; c < 3; ++c) set.pixels.push_back(bytes[at + 1 + c * kPlane + p]);
    }
  }
  return set;
}

std::string find_data_file(const std::string& folder, const std::vector<std::string>& names,
                           const std::string& what) {
  std::string wanted;
  for (const std::string& name : names) {
    for (const char* packed : {"", ".gz", ".xz"}) {
      const std::filesystem::path path = std::filesystem::path(folder) / (name + packed);
      if (std::filesystem::is_regular_file(path)) return path.string();
    }
    wanted += (wanted.empty() ? "" : ", ") + name;
  }
  throw RequestError(
      fmt::format("no {} in {}: it needs one of {} (or the same with .gz or .xz)", what, folder, wanted));
}

}  // namespace spectrain

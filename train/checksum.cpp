#include "train/checksum.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cstring>

namespace spectrain {
namespace {

static_assert(std::endian::native == std::endian::little, "stripes are read as little-endian words");

constexpr std::uint64_t kPrime1 = 0x9E3779B185EBCA87u, kPrime2 = 0xC2B2AE3D27D4EB4Fu,
                        kPrime3 = 0x165667B19E3779F9u, kPrime4 = 0x85EBCA77C2B2AE63u,
                        kPrime5 = 0x27D4EB2F165667C5u;

template <class T>
T load(const unsigned char* p) {
  T value;
  std::memcpy(&value, p, sizeof value);
  return value;
}

std::uint64_t mix(std::uint64_t lane, std::uint64_t word) {
  return std::rotl(lane + word * kPrime2, 31) * kPrime1;
}

std::uint64_t fold(std::uint64_t hash, std::uint64_t lane) {
  return (hash ^ mix(0, lane)) * kPrime1 + kPrime4;
}

}  // namespace

Checksum::Checksum() : lanes_{kPrime1 + kPrime2, kPrime2, 0, 0 - kPrime1} {}

void Checksum::update(const void* data, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  const std::size_t held = total_ % 32;
  total_ += bytes;
  if (held > 0) {
    const std::size_t taken = std::min(bytes, 32 - held);
    if (taken > 0) std::memcpy(rest_.data() + held, p, taken);
    if (held + taken < 32) return;
    for (std::size_t i = 0; i < 4; ++i) lanes_[i] = mix(lanes_[i], load<std::uint64_t>(rest_.data() + 8 * i));
    p += taken;
    bytes -= taken;
  }
  auto lanes = lanes_;  // in registers through the loop
  for (; bytes >= 32; p += 32, bytes -= 32)
    for (std::size_t i = 0; i < 4; ++i) lanes[i] = mix(lanes[i], load<std::uint64_t>(p + 8 * i));
  lanes_ = lanes;
  if (bytes > 0) std::memcpy(rest_.data(), p, bytes);
}

std::uint64_t Checksum::digest() const {
  std::uint64_t hash = kPrime5;
  if (total_ >= 32) {
    hash = std::rotl(lanes_[0], 1) + std::rotl(lanes_[1], 7) + std::rotl(lanes_[2], 12) +
           std::rotl(lanes_[3], 18);
    for (const std::uint64_t lane : lanes_) hash = fold(hash, lane);
  }
  hash += total_;
  const unsigned char* p = rest_.data();
  std::size_t left = total_ % 32;
  for (; left >= 8; p += 8, left -= 8)
    hash = std::rotl(hash ^ mix(0, load<std::uint64_t>(p)), 27) * kPrime1 + kPrime4;
  for (; left >= 4; p += 4, left -= 4)
    hash = std::rotl(hash ^ (load<std::uint32_t>(p) * kPrime1), 23) * kPrime2 + kPrime3;
  for (; left > 0; ++p, --left) hash = std::rotl(hash ^ (*p * kPrime5), 11) * kPrime1;
  hash = (hash ^ (hash >> 33)) * kPrime2;
  hash = (hash ^ (hash >> 29)) * kPrime3;
  return hash ^ (hash >> 32);
}

std::uint64_t checksum_of(const void* data, std::size_t bytes) {
  Checksum sum;
  sum.update(data, bytes);
  return sum.digest();
}

std::string checksum_text(std::uint64_t checksum) { return fmt::format("{:016x}", checksum); }

}  // namespace spectrain

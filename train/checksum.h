#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace spectrain {

// XXH64 with seed 0 (Collet 2012, the published 64-bit xxHash), fed in pieces of any size. Four independent
// lanes keep it faster than memory is read; `xxhsum -H64` prints the same number for the same file.
class Checksum {
 public:
  Checksum();
  void update(const void* data, std::size_t bytes);
  std::uint64_t digest() const;  // of everything fed so far; more may follow

 private:
  std::array<std::uint64_t, 4> lanes_;
  std::array<unsigned char, 32> rest_{};  // the incomplete stripe
  std::uint64_t total_ = 0;
};

std::uint64_t checksum_of(const void* data, std::size_t bytes);
std::string checksum_text(std::uint64_t checksum);  // 16 hexadecimal digits

}  // namespace spectrain
